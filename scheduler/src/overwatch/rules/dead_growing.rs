//! Jobs of a queue end dead, or quarantined.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

/// So many in 10 minutes.
const DEAD_MIN: u64 = 10;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_recent(|subject, sums| {
        (sums.dead >= DEAD_MIN).then(|| {
            let message = format!("{} jobs of queue {} died in 10 minutes", sums.dead, subject.1);
            Finding::new(subject, Severity::Warning, message).with("dead", sums.dead)
        })
    })
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::health::Sums;

    use super::*;

    #[test]
    fn holds_from_the_bound_on() {
        let held = |dead| {
            let seen = Seen::with_recent("q", Sums { dead, ..Sums::default() });
            judge(&seen).unwrap().held.len()
        };
        assert_eq!((held(DEAD_MIN - 1), held(DEAD_MIN)), (0, 1));
    }
}
