//! System calls that the standard library does not offer. Everything here may be called between fork and
//! exec: no allocation, no locks, no panics.

#![expect(unsafe_code, reason = "raw system calls for a process between fork and exec")]

use std::io;
use std::os::fd::RawFd;

use libc::{c_int, c_long, c_ulong, pid_t};

/// The C libraries disagree on the type of a resource's number.
#[cfg(target_env = "musl")]
pub(super) type Resource = c_int;
/// The C libraries disagree on the type of a resource's number.
#[cfg(not(target_env = "musl"))]
pub(super) type Resource = libc::__rlimit_resource_t;

/// Which side of a fork we are on.
pub(super) enum Fork {
    Child,
    Parent(pid_t),
}

/// What became of children that were waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaped {
    /// One has ended and is collected.
    Collected,
    /// None of them has ended.
    NotYet,
    /// There are none.
    NoChildren,
}

/// Forks without the handlers of the C library, which may wait for locks of threads that are not here.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: with these arguments clone is a plain fork: the child gets a copy of the address space and
    // goes on here; no pointer is passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone, c_long::from(libc::SIGCHLD), 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as pid_t)),
    }
}

/// Ends this process at once.
pub(super) fn exit(code: c_int) -> ! {
    // SAFETY: `_exit` takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// Starts a session and process group of its own.
pub(super) fn new_session() {
    // SAFETY: takes nothing. It fails only for a group leader, which already is what we want.
    unsafe { libc::setsid() };
}

pub(super) fn process_id() -> pid_t {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getpid() }
}

pub(super) fn parent_id() -> pid_t {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getppid() }
}

/// `prctl` with a plain number.
pub(super) fn process_control(option: c_int, value: c_ulong) -> io::Result<()> {
    // SAFETY: only options that take a number are passed by the callers in this module's parent.
    check(unsafe { libc::prctl(option, value, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) })
}

/// Names this process, for people who look at a list of processes.
pub(super) fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the name is NUL-terminated and lives for the call; the kernel cuts it at 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr() as c_ulong, 0, 0, 0) };
}

/// Lowers a limit, soft and hard. A limit that is lower already is kept.
pub(super) fn limit(resource: Resource, max: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, writable rlimit for the call.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    let max = max.min(limit.rlim_max);
    limit = libc::rlimit { rlim_cur: max, rlim_max: max };
    // SAFETY: `limit` is a valid rlimit for the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

/// Blocks every signal that can be blocked.
pub(super) fn block_signals() {
    // SAFETY: a zeroed set is a valid place to write one; both calls only use it.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// A descriptor that becomes readable when a child ends. SIGCHLD must be blocked.
pub(super) fn child_signals() -> RawFd {
    // SAFETY: a zeroed set is a valid place to write one; the calls only use it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
    }
}

/// Collects a child that has ended: this one, or with [`ANY`] the first that is found.
pub(super) fn reap(pid: pid_t) -> Reaped {
    let mut status = 0;
    // SAFETY: `status` is writable for the call.
    match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::__WALL) } {
        -1 => Reaped::NoChildren,
        0 => Reaped::NotYet,
        _ => Reaped::Collected,
    }
}

/// For [`reap`]: whichever child.
pub(super) const ANY: pid_t = -1;

/// The wait status of a child that has ended, which stays to be collected.
pub(super) fn end_of(pid: pid_t) -> Option<c_int> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a zeroed siginfo is valid, and writable for the call; what is read of it is what the kernel
    // writes for a child that has ended, and zero otherwise.
    let (found, code, status) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let failed = libc::waitid(libc::P_PID, pid.unsigned_abs(), &raw mut info, flags) != 0;
        (!failed && info.si_pid() == pid, info.si_code, info.si_status())
    };
    match code {
        _ if !found => None,
        libc::CLD_EXITED => Some((status & 0xff) << 8),
        _ => Some(status & 0x7f),
    }
}

/// CPU time in microseconds and the largest resident set in KiB of all children that were collected, and
/// theirs.
pub(super) fn children_usage() -> (u64, u64) {
    // SAFETY: a zeroed rusage is valid, and writable for the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let micros = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
    (micros(usage.ru_utime) + micros(usage.ru_stime), usage.ru_maxrss.unsigned_abs())
}

/// Sends a signal; to a process group if `pid` is negative. That nobody is there is no error.
pub(super) fn signal(pid: pid_t, signal: c_int) {
    // SAFETY: takes numbers only. 0 and -1, which mean other things, are never passed.
    unsafe { libc::kill(pid, signal) };
}

/// Waits until one of two descriptors is readable or closed, or the time has passed (-1: for ever). A
/// negative descriptor is left out.
pub(super) fn wait_readable(a: RawFd, b: RawFd, timeout_ms: c_int) {
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut entries = [entry(a), entry(b)];
    // SAFETY: the array has as many entries as is said and is writable for the call.
    unsafe { libc::poll(entries.as_mut_ptr(), 2, timeout_ms) };
}

/// Reads what is there; 0 at the end, negative when there is nothing or it failed.
pub(super) fn read(fd: RawFd, buffer: &mut [u8]) -> isize {
    // SAFETY: the buffer is writable for its length.
    unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) }
}

/// Writes a few bytes at one go. That the reader is gone is no error.
pub(super) fn write(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the bytes are readable for their length.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Opens a file that exists, for reading or with `O_WRONLY`; negative when it cannot be.
pub(super) fn open(path: &std::ffi::CStr, how: c_int) -> RawFd {
    // SAFETY: the path is NUL-terminated and lives for the call.
    unsafe { libc::open(path.as_ptr(), how | libc::O_CLOEXEC) }
}

pub(super) fn close(fd: RawFd) {
    // SAFETY: the callers own the descriptor and do not use it afterwards.
    unsafe { libc::close(fd) };
}

/// Makes `to` another name of `from`.
pub(super) fn duplicate(from: RawFd, to: RawFd) {
    // SAFETY: takes numbers only; what `to` was is given up on purpose.
    unsafe { libc::dup2(from, to) };
}

pub(super) fn set_nonblocking(fd: RawFd) {
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: RawFd) {
    range(first, 0, close);
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(super) fn close_on_exec_from(first: RawFd) {
    range(first, libc::CLOSE_RANGE_CLOEXEC as c_int, |fd| {
        // SAFETY: takes numbers only; of a descriptor that is not open it fails and does nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    });
}

/// Kernels before 5.11 lack the call; then each descriptor that could be open is gone through.
fn range(first: RawFd, flags: c_int, each: impl Fn(RawFd)) {
    const OLD_KERNEL_MAX: RawFd = 65_536;
    let (from, to) = (c_long::from(first), c_long::from(c_int::MAX));
    // SAFETY: takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_close_range, from, to, c_long::from(flags)) };
    if done != 0 {
        (first..OLD_KERNEL_MAX).for_each(each);
    }
}

fn check(status: c_int) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
