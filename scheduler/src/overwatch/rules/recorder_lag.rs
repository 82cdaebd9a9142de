//! Outcomes of a queue wait to be recorded.

use windlass_shared::limits::OUTBOX_ENTRIES_MAX;
use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

/// What a recorder that is well takes in a few passes.
const WAITING_MAX: u64 = 5_000;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_queues(|queue, stats| {
        let waiting = stats.outbox;
        let critical = waiting >= OUTBOX_ENTRIES_MAX / 2;
        let severity = if critical { Severity::Critical } else { Severity::Warning };
        (waiting >= WAITING_MAX).then(|| {
            let message =
                format!("{waiting} outcomes of queue {} wait to be recorded", queue.name());
            Finding::new(queue.subject(), severity, message).with("waiting", waiting)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_from_the_bound_on_and_gets_worse() {
        let severity = |outbox| {
            let seen = Seen::with_queue("q", |stats| stats.outbox = outbox);
            judge(&seen).unwrap().held.first().map(|f| f.severity)
        };
        assert_eq!(severity(WAITING_MAX - 1), None);
        assert_eq!(severity(WAITING_MAX), Some(Severity::Warning));
        assert_eq!(severity(OUTBOX_ENTRIES_MAX / 2), Some(Severity::Critical));
    }
}
