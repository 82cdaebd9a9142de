//! By how much the fleet's clock is ahead of this host's.
//!
//! Each accepted job was created after its submission was sent and before it was answered. So the fleet's clock is ahead by no
//! less than its creation less the answer, and by no more than its creation less the sending; what all jobs allow is mostly
//! much less than a millisecond wide (the intersection of intervals of Marzullo, "Maintaining the Time in a Distributed System",
//! 1984).

use serde::{Deserialize, Serialize};
use windlass_shared::model::time::Timestamp;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset {
    /// The fleet's clock less this host's, in µs.
    pub micros: i64,
    /// It may be off by so many µs either way; `None`: the clocks did not run alike, or there were no jobs.
    pub within_micros: Option<i64>,
}

impl Offset {
    /// From jobs: created at (fleet's clock, whole milliseconds), sent and answered (µs from `began` on, this host's clock).
    pub(super) fn between(
        began: Timestamp,
        jobs: impl Iterator<Item = (Timestamp, u64, u64)>,
    ) -> Self {
        let (mut least, mut most) = (i64::MIN, i64::MAX);
        let mut any = false;
        for (created, sent, answered) in jobs {
            let here = |at: u64| began.micros() + i64::try_from(at).unwrap_or(i64::MAX);
            least = least.max(created.micros() - here(answered));
            most = most.min(created.micros() + 1_000 - here(sent));
            any = true;
        }
        if !any {
            return Self::default();
        }
        // One clock is the likeliest, where it is possible.
        if least <= 0 && most >= 0 {
            return Self { micros: 0, within_micros: Some(most.max(-least)) };
        }
        // Where the bounds contradict each other, a clock was set: the middle is the best guess.
        let within = (most >= least).then_some((most - least) / 2);
        Self { micros: i64::midpoint(least, most), within_micros: within }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: Timestamp = Timestamp::from_millis(1_000_000);

    fn job(created_us: i64, sent: u64, answered: u64) -> (Timestamp, u64, u64) {
        let created = BEGAN.micros() + created_us;
        (Timestamp::from_millis(created.div_euclid(1_000)), sent, answered)
    }

    #[test]
    fn one_clock_is_found_to_be_one() {
        let jobs = [job(1_500, 1_000, 2_000), job(9_200, 9_000, 9_500)];
        let offset = Offset::between(BEGAN, jobs.into_iter());
        assert_eq!(offset.micros, 0);
        assert!(offset.within_micros.unwrap() <= 1_000);
    }

    #[test]
    fn a_clock_ahead_is_found_within_what_jobs_allow() {
        let ahead = 7_000_000;
        let jobs: Vec<_> = (0..1_000u64)
            .map(|n| {
                let (sent, took) = (n * 3_331, 700 + n % 400);
                let created = i64::try_from(sent + took / 2).unwrap() + ahead;
                job(created, sent, sent + took)
            })
            .collect();
        let offset = Offset::between(BEGAN, jobs.into_iter());
        assert!((offset.micros - ahead).abs() <= offset.within_micros.unwrap(), "{offset:?}");
        assert!(offset.within_micros.unwrap() < 1_000, "{offset:?}");
    }

    #[test]
    fn a_clock_that_was_set_is_told() {
        let jobs = [job(5_000_000, 0, 1_000), job(-5_000_000, 2_000, 3_000)];
        assert_eq!(Offset::between(BEGAN, jobs.into_iter()).within_micros, None);
        assert_eq!(Offset::between(BEGAN, std::iter::empty()), Offset::default());
    }
}
