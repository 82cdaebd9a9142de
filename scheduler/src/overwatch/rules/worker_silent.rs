//! A worker went silent while it held jobs.

use windlass_shared::ledger::WorkerBeat;
use windlass_shared::model::alert::Severity;

use super::{Coverage, Finding, Judged, Judgement, Subject};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    let workers = seen.workers.as_ref().map_err(Clone::clone)?;
    // The look reads those of the last minutes: one that is silent for longer is no news.
    let silent = workers.iter().filter(|worker| !seen.is_alive(worker) && worker.running > 0);
    let held = silent.map(|worker| {
        let message = format!(
            "worker {} on {} went silent with {} jobs",
            worker.name, worker.host, worker.running
        );
        Finding::new(subject(worker), Severity::Warning, message)
            .with("running", worker.running)
            .with("seen_at", worker.seen_at)
    });
    // Of more than the list holds, those that were heard of last are in it.
    let judged = match seen.lacks_workers() {
        true => Coverage::Only(workers.iter().map(subject).collect()),
        false => Coverage::All,
    };
    Ok(Judgement { held: held.collect(), judged })
}

fn subject(worker: &WorkerBeat) -> Subject {
    (Some(worker.namespace.clone()), format!("{} ({})", worker.name, worker.id))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use windlass_shared::ledger::alerts::WORKERS_MAX;

    use super::*;

    #[test]
    fn holds_for_one_that_held_jobs_when_it_went() {
        let held = |silent_s, running| {
            let mut seen = Seen::nothing();
            let mut worker = Seen::worker("w", seen.now.minus(Duration::from_secs(silent_s)));
            worker.running = running;
            seen.workers = Ok(vec![worker]);
            judge(&seen).unwrap().held.len()
        };
        assert_eq!((held(61, 1), held(60, 1), held(61, 0)), (1, 0, 0));
    }
    #[test]
    fn a_full_list_says_nothing_of_those_it_has_left_out() {
        let judged = |n| {
            let mut seen = Seen::nothing();
            seen.workers = Ok(vec![Seen::worker("w", seen.now); n]);
            judge(&seen).unwrap().judged
        };
        assert_eq!(judged(WORKERS_MAX - 1), Coverage::All);
        assert_ne!(judged(WORKERS_MAX), Coverage::All);
    }
}
