//! A queue has as many waiting jobs as it may: submissions to it are refused.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_depths(|queue, waiting, most| {
        (waiting >= most).then(|| {
            let message = format!(
                "queue {} has its {most} waiting jobs: submissions are refused",
                queue.name()
            );
            Finding::new(queue.subject(), Severity::Warning, message).with("max_depth", most)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_at_the_depth_where_there_is_one() {
        let held = |waiting, most| {
            let mut seen = Seen::with_queue("q", |_| {});
            seen.queues[0].queue.settings.max_depth = most;
            seen.queues[0].waiting = Some(waiting);
            judge(&seen).unwrap().held.len()
        };
        assert_eq!((held(9, Some(10)), held(10, Some(10)), held(10, None)), (0, 1, 0));
    }
}
