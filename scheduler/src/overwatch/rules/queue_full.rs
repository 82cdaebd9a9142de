//! The engine takes no more jobs of a queue, or gives out none for the outcomes that wait.

use windlass_shared::engine::ShardSettings;
use windlass_shared::limits::{OUTBOX_BYTES_MAX, OUTBOX_ENTRIES_MAX};
use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_queues(|queue, stats| {
        let most =
            stats.settings.as_ref().map_or(ShardSettings::default().bytes_max, |s| s.bytes_max);
        let name = queue.name();
        let found = |severity, message| {
            Finding::new(queue.subject(), severity, message)
                .with("bytes", stats.bytes)
                .with("outcomes_waiting", stats.outbox)
        };
        // Bytes of jobs and of outcomes are counted as one, so this bound is a lower one.
        if stats.outbox >= OUTBOX_ENTRIES_MAX || stats.outbox > 0 && stats.bytes >= OUTBOX_BYTES_MAX
        {
            let message = format!("queue {name} gives out no leases: too many outcomes wait");
            return Some(found(Severity::Critical, message));
        }
        (stats.bytes >= most).then(|| {
            found(Severity::Warning, format!("the engine takes no more jobs of queue {name}"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_at_the_bounds() {
        let severity = |bytes, outbox| {
            let seen = Seen::with_queue("q", |stats| (stats.bytes, stats.outbox) = (bytes, outbox));
            judge(&seen).unwrap().held.first().map(|f| f.severity)
        };
        let most = ShardSettings::default().bytes_max;
        assert_eq!(severity(most - 1, 0), None);
        assert_eq!(severity(most, 0), Some(Severity::Warning));
        assert_eq!(severity(0, OUTBOX_ENTRIES_MAX - 1), None);
        assert_eq!(severity(0, OUTBOX_ENTRIES_MAX), Some(Severity::Critical));
    }
}
