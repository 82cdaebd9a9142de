// Moves the clocks that a process reads. Loaded with LD_PRELOAD by windlass-rig; steered through a page of
// memory that it shares with the tool (the file named by WINDLASS_CLOCK_FILE; its layout is `Page` in
// page.rs).
//
// Nothing here allocates, takes a lock, or looks up a symbol: it may be called before an allocator is ready,
// and from signal handlers. Every call goes to the kernel directly.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x314b434f4c43574cULL
#define SECOND 1000000000LL
#define MILLION 1000000LL
// Added to the number of a clock: the true one, for evidence. The kernel knows no such numbers.
#define TRUE_CLOCK 0x10000

// shown = shown_at_base + (true - true_at_base) * rate / 1e6
struct line { volatile int64_t true_at_base, shown_at_base, rate_ppm; };
struct page { volatile uint64_t magic, version; struct line real, mono, boot; };

static const struct page *shared;

// Raw system calls: glibc's `syscall` is one of the functions that are replaced below.
static long raw(long n, long a, long b, long c, long d, long e, long f) {
    long result;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    result = x0;
#else
#error "the clock shim knows x86-64 and arm64"
#endif
    return result;
}

static long checked(long result) {
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

__attribute__((constructor)) static void open_page(void) {
    const char *path = getenv("WINDLASS_CLOCK_FILE");
    if (path == 0) return;
    long fd = raw(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (fd < 0) return;
    long at = raw(SYS_mmap, 0, sizeof(struct page), PROT_READ, MAP_SHARED, fd, 0);
    raw(SYS_close, fd, 0, 0, 0, 0, 0);
    if (at < 0 && at > -4096) return;
    const struct page *found = (const struct page *)at;
    if (found->magic == MAGIC) shared = found;
}

// A consistent copy of the line for a clock; 0 when that clock is true.
static int line_of(clockid_t id, struct line *to) {
    const struct page *page = shared;
    if (page == 0) return 0;
    const struct line *from;
    switch (id) {
    case CLOCK_REALTIME: case CLOCK_REALTIME_COARSE: from = &page->real; break;
    case CLOCK_MONOTONIC: case CLOCK_MONOTONIC_COARSE: case CLOCK_MONOTONIC_RAW: from = &page->mono; break;
    case CLOCK_BOOTTIME: from = &page->boot; break;
    default: return 0;
    }
    // The tool makes the version odd while it writes. A tool that died there must not hang anybody.
    for (int tries = 0; tries < 100000; tries++) {
        uint64_t before = __atomic_load_n(&page->version, __ATOMIC_ACQUIRE);
        to->true_at_base = from->true_at_base;
        to->shown_at_base = from->shown_at_base;
        to->rate_ppm = from->rate_ppm;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (before % 2 == 0 && before == page->version) break;
    }
    return 1;
}

static int64_t scaled(int64_t ns, int64_t times, int64_t by) {
    if (times == by || by == 0) return ns;
    return (int64_t)((__int128)ns * times / by);
}

static struct timespec split(int64_t ns) {
    struct timespec ts = { ns / SECOND, ns % SECOND };
    if (ts.tv_nsec < 0) { ts.tv_sec -= 1; ts.tv_nsec += SECOND; }
    return ts;
}

static int64_t joined(const struct timespec *ts) { return ts->tv_sec * SECOND + ts->tv_nsec; }

// The true time at which a clock shows `ts`.
static struct timespec truth(clockid_t id, const struct timespec *ts) {
    struct line line;
    if (!line_of(id, &line)) return *ts;
    return split(line.true_at_base + scaled(joined(ts) - line.shown_at_base, MILLION, line.rate_ppm));
}

// How long a span of the monotonic clock really is.
static struct timespec true_span(const struct timespec *ts) {
    struct line line;
    if (!line_of(CLOCK_MONOTONIC, &line)) return *ts;
    return split(scaled(joined(ts), MILLION, line.rate_ppm));
}

int clock_gettime(clockid_t id, struct timespec *ts) {
    struct line line;
    if (id >= TRUE_CLOCK) return (int)checked(raw(SYS_clock_gettime, id - TRUE_CLOCK, (long)ts, 0, 0, 0, 0));
    long result = raw(SYS_clock_gettime, id, (long)ts, 0, 0, 0, 0);
    if (result == 0 && line_of(id, &line))
        *ts = split(line.shown_at_base + scaled(joined(ts) - line.true_at_base, line.rate_ppm, MILLION));
    return (int)checked(result);
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
    struct timespec ts;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &ts);
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (to) *to = ts.tv_sec;
    return ts.tv_sec;
}

// What waits by a clock that was moved has to wait by the true one.

int clock_nanosleep(clockid_t id, int flags, const struct timespec *until, struct timespec *left) {
    struct timespec ts = (flags & TIMER_ABSTIME) ? truth(id, until) : true_span(until);
    return (int)-raw(SYS_clock_nanosleep, id, flags, (long)&ts, (long)left, 0, 0);
}

int nanosleep(const struct timespec *span, struct timespec *left) {
    int error = clock_nanosleep(CLOCK_MONOTONIC, 0, span, left);
    if (error == 0) return 0;
    errno = error;
    return -1;
}

static int true_ms(int ms) {
    struct line line;
    if (ms <= 0 || !line_of(CLOCK_MONOTONIC, &line)) return ms;
    int64_t scaled_ms = scaled(ms, MILLION, line.rate_ppm);
    if (scaled_ms > 0x7fffffff) return 0x7fffffff;
    return scaled_ms < 1 ? 1 : (int)scaled_ms;
}

int epoll_wait(int fd, struct epoll_event *events, int max, int ms) {
    return (int)checked(raw(SYS_epoll_pwait, fd, (long)events, max, true_ms(ms), 0, 8));
}

// The waits of Rust's standard library are futexes with the monotonic time at which they end.
long syscall(long n, ...) {
    va_list list;
    long a[6];
    va_start(list, n);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    struct timespec ts;
    if (n == SYS_futex && a[3] != 0) {
        int operation = (int)(a[1] & FUTEX_CMD_MASK);
        const struct timespec *given = (const struct timespec *)a[3];
        if (operation == FUTEX_WAIT_BITSET) {
            ts = truth((a[1] & FUTEX_CLOCK_REALTIME) ? CLOCK_REALTIME : CLOCK_MONOTONIC, given);
            a[3] = (long)&ts;
        } else if (operation == FUTEX_WAIT) {
            ts = true_span(given);
            a[3] = (long)&ts;
        }
    } else if (n == SYS_clock_gettime) {
        return clock_gettime((clockid_t)a[0], (struct timespec *)a[1]);
    }
    return checked(raw(n, a[0], a[1], a[2], a[3], a[4], a[5]));
}
