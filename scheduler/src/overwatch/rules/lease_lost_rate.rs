//! Too many attempts of a queue lose their lease: workers die, or are cut off.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

/// Fewer say nothing.
const LOST_MIN: u64 = 5;
const PERCENT: u64 = 5;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_recent(|subject, sums| {
        let holds = sums.lost >= LOST_MIN && sums.lost * 100 >= sums.attempts * PERCENT;
        holds.then(|| {
            let message = format!(
                "{} of {} attempts of queue {} lost their lease in 10 minutes",
                sums.lost, sums.attempts, subject.1
            );
            Finding::new(subject, Severity::Warning, message)
                .with("lost", sums.lost)
                .with("attempts", sums.attempts)
        })
    })
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::health::Sums;

    use super::*;

    #[test]
    fn holds_at_the_share_and_the_least_number() {
        let holds = |lost, attempts| {
            let seen = Seen::with_recent("q", Sums { lost, attempts, ..Sums::default() });
            !judge(&seen).unwrap().held.is_empty()
        };
        assert!(holds(5, 100));
        assert!(!holds(5, 101));
        assert!(!holds(4, 4));
    }
}
