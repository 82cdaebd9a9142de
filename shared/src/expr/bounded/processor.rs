//! The processor time of a thread, looked at from another one.

use std::time::Duration;

/// Names a thread of this process; `None` where the system has no such names.
#[cfg(target_os = "linux")]
pub(super) fn this_thread() -> Option<i32> {
    Some(rustix::thread::gettid().as_raw_nonzero().get())
}

/// See the one for Linux.
#[cfg(not(target_os = "linux"))]
pub(super) fn this_thread() -> Option<i32> {
    None
}

/// What the thread has used so far, in user and kernel mode together; `None` if it ended or nobody tells.
pub(super) fn used_by(thread: Option<i32>) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{}/stat", thread?)).ok()?;
    let ticks = Duration::from_secs(ticks(&text)?);
    Some(ticks / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?)
}

/// Fields 14 and 15 of `proc_pid_stat(5)`. The second is a name in brackets that may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_times_are_read_behind_any_name() {
        let stat = "7 (a) 1 (b) S 1 7 7 0 -1 4194624 88 0 0 0 31 11 0 0 20 0 1 0";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }
}
