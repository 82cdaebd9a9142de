//! Too few jobs of a queue succeed.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

/// Fewer that ended say nothing.
const JUDGED_MIN: u64 = 20;
const WARNING: f64 = 0.95;
const CRITICAL: f64 = 0.5;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_recent(|subject, sums| {
        let rate = sums.success_rate().filter(|_| sums.succeeded + sums.dead >= JUDGED_MIN)?;
        let severity = if rate < CRITICAL { Severity::Critical } else { Severity::Warning };
        (rate < WARNING).then(|| {
            let percent = format!("{:.1}", rate * 100.0);
            let message =
                format!("{percent} % of the jobs of queue {} succeeded in 10 minutes", subject.1);
            Finding::new(subject, severity, message)
                .with("succeeded", sums.succeeded)
                .with("dead", sums.dead)
        })
    })
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::health::Sums;

    use super::*;

    #[test]
    fn holds_below_the_share_where_enough_have_ended() {
        let severity = |succeeded, dead| {
            let seen = Seen::with_recent("q", Sums { succeeded, dead, ..Sums::default() });
            judge(&seen).unwrap().held.first().map(|f| f.severity)
        };
        assert_eq!(severity(19, 1), None);
        assert_eq!(severity(18, 2), Some(Severity::Warning));
        assert_eq!(severity(10, 10), Some(Severity::Warning));
        assert_eq!(severity(9, 11), Some(Severity::Critical));
        assert_eq!(severity(0, 19), None, "too few");
    }
}
