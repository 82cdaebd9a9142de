//! A queue has due work, and nobody takes it.
//!
//! Workers of other make need not send beats, so a queue of which something runs has a worker, whoever that is.

use std::time::Duration;

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

/// A worker that is there takes a job sooner.
const UNTAKEN: Duration = Duration::from_secs(30);

pub(super) fn judge(seen: &Seen) -> Judged {
    let workers = seen.workers.as_ref().map_err(Clone::clone)?;
    if seen.lacks_workers() && workers.iter().all(|worker| seen.is_alive(worker)) {
        return Err("there are more workers than a look reads".to_owned());
    }
    seen.judge_queues(|queue, stats| {
        let (namespace, name) = (&queue.queue.namespace, queue.name());
        let served = workers.iter().any(|worker| {
            !worker.draining
                && seen.is_alive(worker)
                && worker.namespace == *namespace
                && worker.queues.iter().any(|served| served == name)
        });
        let waits = stats.oldest_ready.map_or(Duration::ZERO, |at| stats.now.since(at));
        let holds = stats.ready > 0
            && stats.leased == 0
            && waits >= UNTAKEN
            && !served
            && queue.queue.paused.is_none();
        holds.then(|| {
            let message =
                format!("{} jobs of queue {name} are due, and no worker takes them", stats.ready);
            Finding::new(queue.subject(), Severity::Critical, message)
                .with("ready", stats.ready)
                .with("oldest_s", waits.as_secs())
        })
    })
}

#[cfg(test)]
mod tests {
    use windlass_shared::ledger::WorkerBeat;
    use windlass_shared::ledger::alerts::WORKERS_MAX;

    use super::*;

    fn seen(waits: Duration) -> Seen {
        Seen::with_queue("q", |stats| {
            stats.ready = 1;
            stats.oldest_ready = Some(stats.now.minus(waits));
        })
    }

    fn holds(seen: &Seen) -> bool {
        !judge(seen).unwrap().held.is_empty()
    }

    #[test]
    fn holds_where_due_work_has_no_taker() {
        assert!(holds(&seen(UNTAKEN)));
        assert!(!holds(&seen(UNTAKEN - Duration::from_millis(1))));
        let mut running = seen(UNTAKEN);
        running.queues[0].stats.as_mut().unwrap().leased = 1;
        assert!(!holds(&running));
    }

    /// Goal: no queue is said to have no worker because its worker did not fit into the list.
    #[test]
    fn nothing_is_said_where_workers_that_live_were_left_out() {
        let mut seen = seen(UNTAKEN);
        let worker = Seen::worker("w", seen.now);
        seen.workers = Ok(vec![worker.clone(); WORKERS_MAX]);
        assert!(judge(&seen).is_err());
        let silent = WorkerBeat { seen_at: seen.now.minus(Duration::from_secs(61)), ..worker };
        *seen.workers.as_mut().unwrap().last_mut().unwrap() = silent;
        assert!(holds(&seen), "those that live are listed first");
    }

    #[test]
    fn a_worker_counts_that_lives_serves_the_queue_and_does_not_drain() {
        let with = |change: &dyn Fn(&mut WorkerBeat)| {
            let mut seen = seen(UNTAKEN);
            let mut worker = Seen::worker("w", seen.now);
            worker.queues = vec!["q".into()];
            change(&mut worker);
            seen.workers = Ok(vec![worker]);
            holds(&seen)
        };
        assert!(!with(&|_| {}));
        assert!(with(&|worker| worker.draining = true));
        assert!(with(&|worker| worker.queues = vec!["other".into()]));
        assert!(with(&|worker| worker.namespace = "other".parse().unwrap()));
        assert!(with(&|worker| worker.seen_at = worker.seen_at.minus(Duration::from_secs(61))));
    }
}
