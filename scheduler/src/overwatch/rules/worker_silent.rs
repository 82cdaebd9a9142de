//! A worker went silent while it held jobs.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    let workers = seen.workers.as_ref().map_err(Clone::clone)?;
    // The look reads those of the last minutes: one that is silent for longer is no news.
    let silent = workers.iter().filter(|worker| !seen.is_alive(worker) && worker.running > 0);
    Ok(Judgement::of_all(silent.map(|worker| {
        let subject = (Some(worker.namespace.clone()), format!("{} ({})", worker.name, worker.id));
        let message = format!(
            "worker {} on {} went silent with {} jobs",
            worker.name, worker.host, worker.running
        );
        Finding::new(subject, Severity::Warning, message)
            .with("running", worker.running)
            .with("seen_at", worker.seen_at)
    })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
}
