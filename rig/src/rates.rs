//! How many jobs were done a second, before and after.

use std::time::Duration;

use crate::check::Execution;
use crate::effects::End;
use crate::stamp::Stamp;

/// Rates are means over this time: a whole turn of the queue that is paused half of the time.
const WINDOW_US: u64 = 4_000_000;
const STEP_US: u64 = 100_000;
/// Share of the rate before that counts as recovered.
const SHARE: f64 = 0.9;

/// Rates around a fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Mean of the window before the fault.
    pub before: f64,
    /// End of the first window that ends after heal with [`SHARE`] of that, from heal; `None`: none did while the load
    /// went on. A window may begin before heal: a fault that did not slow anything down is recovered from after 0 s.
    pub recovered_after_s: Option<f64>,
}

/// From the executions that succeeded.
pub fn around(executions: &[Execution], fault: Stamp, heal: Stamp, after: Duration) -> Rates {
    let mut ends: Vec<u64> = executions
        .iter()
        .filter_map(|execution| execution.end)
        .filter(|(_, how)| *how == End::Ok)
        .map(|(at, _)| at.boot_us)
        .collect();
    ends.sort_unstable();
    let rate = |to: u64| {
        let from = to.saturating_sub(WINDOW_US);
        let done =
            ends.partition_point(|end| *end <= to) - ends.partition_point(|end| *end <= from);
        done as f64 / (WINDOW_US as f64 / 1e6)
    };
    let before = rate(fault.boot_us);
    let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
    let recovered = (0..=after_us / STEP_US)
        .map(|step| step * STEP_US)
        .find(|us| rate(heal.boot_us + us) >= SHARE * before);
    Rates { before, recovered_after_s: recovered.map(|us| us as f64 / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(at: u64) -> Execution {
        let stamp = Stamp { boot_us: at, wall_us: 0 };
        Execution {
            job: String::new(),
            fence: 0,
            worker: String::new(),
            kind: String::new(),
            queue: String::new(),
            step: None,
            started: stamp,
            end: Some((stamp, End::Ok)),
        }
    }

    #[test]
    fn recovery_is_the_end_of_the_first_good_window() {
        // 10 a second up to 10 s, nothing up to 15 s, then 10 a second again.
        let busy = (0..100).chain(150..300).map(|n| done(n * 100_000));
        let executions: Vec<Execution> = busy.collect();
        let at = |s: u64| Stamp { boot_us: s * 1_000_000, wall_us: 0 };
        let rates = around(&executions, at(10), at(15), Duration::from_secs(10));
        assert!((rates.before - 10.0).abs() < 0.5, "{rates:?}");
        let after = rates.recovered_after_s.unwrap();
        assert!((3.0..4.2).contains(&after), "{rates:?}");
        let rates = around(&executions[..100], at(10), at(15), Duration::from_secs(10));
        assert_eq!(rates.recovered_after_s, None);
    }
}
