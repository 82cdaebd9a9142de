//! A queue gives out nothing, because nobody has compared its shard with the ledger.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_gates(|queue, is_shut| {
        // One that was never opened is opened by its first push.
        is_shut.then(|| {
            let message = format!("queue {} gives out nothing until it was verified", queue.name());
            Finding::new(queue.subject(), Severity::Critical, message)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_for_a_shard_that_was_open_once() {
        let judged = |open, was_opened| {
            let mut seen = Seen::with_queue("q", |stats| stats.open = open);
            seen.queues[0].was_opened = was_opened;
            judge(&seen)
        };
        let held = |open, was_opened| judged(open, was_opened).unwrap().held.len();
        assert_eq!(
            (held(false, Some(true)), held(false, Some(false)), held(true, Some(true))),
            (1, 0, 0)
        );
        assert!(judged(false, None).is_err(), "nobody knows of any");
    }
}
