//! What lies below the standard library: clocks, randomness and the wait for events, taken over for the whole
//! process while a world is simulated.
//!
//! The functions below have the names of the C library's, and the linker prefers them. So everything in the process
//! follows the simulation without knowing it: `Instant`, `SystemTime`, CLOCK_BOOTTIME, tokio's timers, the order of
//! `HashMap`s, UUIDs, `select!`. Outside of a simulation they hand on to the kernel. Linux only.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

/// Wall time at the beginning of a world: 2027-01-15.
const WALL_NS: u64 = 1_800_000_000_000_000_000;
/// Time since boot at the beginning of a world. Above that of any machine: deadlines that were set in a world and
/// are waited for outside do not come.
const BOOT_NS: u64 = 315_360_000_000_000_000;
/// A look at the clock takes this long, so that code which waits by looking comes to an end.
const LOOK_NS: u64 = 100;
/// A process that looks at the clock so often without ever having nothing to do spins.
const LOOKS_MAX: u32 = 300_000;

static ON: AtomicBool = AtomicBool::new(false);
static SEED: AtomicU64 = AtomicU64::new(0);
/// Time since the beginning of the world.
static NOW_NS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The thread of the world, and not inside the ledger.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// What the host of the process that runs now adds to wall time.
    static SKEW_NS: Cell<i64> = const { Cell::new(0) };
    static LOOKS: Cell<u32> = const { Cell::new(0) };
    static DRAWN: Cell<u64> = const { Cell::new(0) };
    static PARKED: Cell<Option<Parked>> = const { Cell::new(None) };
    static ROOT: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// A runtime that has nothing to do.
#[derive(Clone, Copy)]
pub struct Parked {
    /// What it waits on.
    pub epoll: c_int,
    /// Its next timer.
    pub until_ns: Option<u64>,
}

/// Begins a world on this thread, which is the only one of its process that matters.
pub fn begin(seed: u64) {
    SEED.store(seed, Ordering::SeqCst);
    INSIDE.set(true);
    ON.store(true, Ordering::SeqCst);
}

/// Time since the beginning of the world, in ns.
pub fn now_ns() -> u64 {
    NOW_NS.load(Ordering::SeqCst)
}

/// Moves the world's time; never back.
pub fn move_to(ns: u64) {
    NOW_NS.fetch_max(ns, Ordering::SeqCst);
}

/// Wall time of a host with a right clock, in µs.
pub fn wall_us() -> i64 {
    i64::try_from((WALL_NS + now_ns()) / 1_000).expect("worlds end long before 2262")
}

/// What the clock of the host that runs now is ahead.
pub fn set_skew(ns: i64) {
    SKEW_NS.set(ns);
}

/// Does something outside of the world: it takes no time there.
///
/// On a thread of its own: how often real input and output is polled is chance, and would show in what the world's
/// thread counts and draws.
pub fn outside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("outside".into());
        let done = thread.spawn_scoped(scope, work).expect("a world has few threads").join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Who is to be woken when the runtime that runs now has nothing left to do.
pub fn wake_when_idle(waker: Option<Waker>) {
    PARKED.set(None);
    LOOKS.set(0);
    ROOT.set(waker);
}

/// What the runtime that just ran waits for; `None` while it has something to do.
pub fn parked() -> Option<Parked> {
    PARKED.get()
}

fn reads(clock: libc::clockid_t) -> Option<u64> {
    if INSIDE.get() {
        NOW_NS.fetch_add(LOOK_NS, Ordering::SeqCst);
        LOOKS.set(LOOKS.get() + 1);
        if LOOKS.get() == LOOKS_MAX {
            // There is no way out of it but this one, which leaves a picture.
            eprintln!("broken: a process spins\n{}", std::backtrace::Backtrace::force_capture());
            std::process::exit(1);
        }
    }
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            Some((WALL_NS + now_ns()).saturating_add_signed(SKEW_NS.get()))
        }
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME => Some(BOOT_NS + now_ns()),
        _ => None,
    }
}

/// The C library's `clock_gettime`.
///
/// # Safety
/// As there: `out` can be written to.
#[expect(unsafe_code, reason = "stands in for the C library's function")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> c_int {
    if ON.load(Ordering::Relaxed)
        && let Some(ns) = reads(clock)
    {
        let time = libc::timespec {
            tv_sec: (ns / 1_000_000_000).cast_signed(),
            tv_nsec: (ns % 1_000_000_000).cast_signed(),
        };
        // SAFETY: the caller says that it can be written to.
        unsafe { out.write(time) };
        return 0;
    }
    // SAFETY: the arguments are those of the system call.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) as c_int }
}

/// The C library's `gettimeofday`, which SQLite asks.
///
/// # Safety
/// As there: `out` can be written to.
#[expect(unsafe_code, reason = "stands in for the C library's function")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(out: *mut libc::timeval, zone: *mut c_void) -> c_int {
    if ON.load(Ordering::Relaxed)
        && let Some(ns) = reads(libc::CLOCK_REALTIME)
    {
        let time = libc::timeval {
            tv_sec: (ns / 1_000_000_000).cast_signed(),
            tv_usec: (ns % 1_000_000_000 / 1_000).cast_signed(),
        };
        // SAFETY: the caller says that it can be written to.
        unsafe { out.write(time) };
        return 0;
    }
    // SAFETY: the arguments are those of the system call.
    unsafe { libc::syscall(libc::SYS_gettimeofday, out, zone) as c_int }
}

/// The C library's `getrandom`. Each thread has a stream of its own, by the seed and its name.
///
/// # Safety
/// As there: `len` bytes at `buffer` can be written to.
#[expect(unsafe_code, reason = "stands in for the C library's function")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, flags: u32) -> isize {
    if !ON.load(Ordering::Relaxed) {
        // SAFETY: the arguments are those of the system call.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) as isize };
    }
    let name = thread_name();
    for (place, byte) in (0..len).zip(std::iter::from_fn(|| Some(draw(name)))) {
        // SAFETY: the caller says that `len` bytes can be written to.
        unsafe { buffer.cast::<u8>().add(place).write(byte) };
    }
    len.cast_signed()
}

fn draw(name: u64) -> u8 {
    let drawn = DRAWN.get() + 1;
    DRAWN.set(drawn);
    // splitmix64
    let mut z = (SEED.load(Ordering::Relaxed) ^ name)
        .wrapping_add(drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as u8
}

/// The thread's name as a number; 0 for the world's own.
#[expect(unsafe_code, reason = "the standard library's way to the name allocates")]
fn thread_name() -> u64 {
    if INSIDE.get() {
        return 0;
    }
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let [low, high] = [0, 8]
        .map(|at| u64::from_le_bytes(name[at..at + 8].try_into().expect("eight of sixteen bytes")));
    low ^ high.rotate_left(32)
}

/// The C library's `epoll_wait`. In a world it never sleeps: a runtime that would is idle, and says until when.
///
/// # Safety
/// As there: `max` events can be written to.
#[expect(unsafe_code, reason = "stands in for the C library's function")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut libc::epoll_event,
    max: c_int,
    timeout_ms: c_int,
) -> c_int {
    let wait = |timeout_ms: c_int| {
        let no_mask = std::ptr::null::<c_void>();
        // SAFETY: the arguments are those of the system call.
        let found = unsafe {
            libc::syscall(libc::SYS_epoll_pwait, epoll, events, max, timeout_ms, no_mask, 0)
        };
        found as c_int
    };
    if !INSIDE.get() || !ON.load(Ordering::Relaxed) {
        return wait(timeout_ms);
    }
    let found = wait(0);
    if found != 0 || timeout_ms == 0 {
        return found;
    }
    let Some(root) = ROOT.take() else {
        return 0;
    };
    let until_ns = u64::try_from(timeout_ms).ok().map(|ms| now_ns() + ms * 1_000_000);
    PARKED.set(Some(Parked { epoll, until_ns }));
    root.wake();
    // The wake-up itself is an event, and not one to be seen from outside.
    wait(0);
    0
}

/// Which of these have something to do.
#[expect(unsafe_code, reason = "the standard library does not offer poll")]
pub fn woken(epolls: &[c_int]) -> Vec<bool> {
    let mut polled: Vec<libc::pollfd> = epolls
        .iter()
        .map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 })
        .collect();
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `polled` has `count` entries, which the kernel may write to.
    let status = unsafe { libc::poll(polled.as_mut_ptr(), count, 0) };
    assert!(status >= 0, "poll works on descriptors that are open");
    polled.iter().map(|one| one.revents != 0).collect()
}
