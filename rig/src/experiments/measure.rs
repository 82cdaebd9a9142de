//! Figures that several experiments take.

use crate::check::{Cause, Evidence, Execution, Index};
use crate::figure::{Figure, count};
use crate::fleet::LEASE;
use crate::history::{Call, Fault};
use crate::load::plan::{PAUSED, QUEUES};
use crate::runner::Seen;
use crate::stamp::Stamp;

/// Executions that a killed worker had begun and not ended.
pub(crate) fn cut_short<'a>(index: &'a Index<'_>) -> impl Iterator<Item = &'a Execution> {
    index.executions.iter().filter(|execution| {
        let killed = index.killed_at(&execution.worker);
        execution.end.is_none() && killed.is_some_and(|at| execution.started <= at)
    })
}

/// From the kill of a worker to the next claim of each job that it ran, at most the lease and a second. Jobs of the queue
/// that is paused half of the time wait for that, too, and are left out.
pub(crate) fn reruns(seen: &Seen<'_>) -> Vec<Figure> {
    let index = seen.index;
    let (mut delays, mut missing) = (Vec::new(), 0);
    for execution in cut_short(index).filter(|execution| execution.queue != PAUSED) {
        let Some(killed) = index.killed_at(&execution.worker) else { continue };
        let next = index.of_job(&execution.job).find(|later| later.fence > execution.fence);
        match next {
            Some(next) => {
                let claimed = i64::try_from(next.fence).unwrap_or(i64::MAX);
                delays.push((claimed - killed.wall_us) as f64 / 1e6);
            }
            // It was the last of the leases that it may lose; the checker says whether it was.
            None if is_quarantined(seen, &execution.job) => {}
            None => missing += 1,
        }
    }
    let longest = delays.iter().copied().reduce(f64::max);
    let limit = LEASE.as_secs_f64() + 1.0;
    vec![
        Figure::at_least("jobs cut short", count(cut_short(index).count()), "", 1.0),
        Figure::at_most("longest rerun after", longest, "s", limit),
        Figure::at_most("never run again", count(missing), "", 0.0),
    ]
}

fn is_quarantined(seen: &Seen<'_>, job: &str) -> bool {
    seen.evidence.ledger.jobs.get(job).is_some_and(|job| job.state == "quarantined")
}

/// Seconds from this instant to the first lease of the plain queue that waited longest for one; `None`: one of them got none.
pub(crate) fn first_leases(seen: &Seen<'_>, since: Stamp) -> Option<f64> {
    let first = |queue: &str| {
        let executions = seen.index.executions.iter().filter(|e| e.queue == queue);
        let claims = executions.filter_map(|e| i64::try_from(e.fence).ok());
        let first = claims.filter(|claim| *claim > since.wall_us).min()?;
        Some((first - since.wall_us) as f64 / 1e6)
    };
    let plain = QUEUES.iter().filter(|queue| **queue != PAUSED);
    plain.map(|queue| first(queue)).try_fold(0.0, |longest: f64, first| Some(longest.max(first?)))
}

/// Executions under way at an instant.
pub(crate) fn running_at(seen: &Seen<'_>, at: Stamp) -> usize {
    let running = seen.index.executions.iter().filter(|execution| {
        let ended = execution.end.map(|(end, _)| end);
        execution.started < at && ended.is_none_or(|end| at < end)
    });
    running.count()
}

/// Instants of what the rig did, as `of` chooses.
pub(crate) fn faults(seen: &Seen<'_>, of: impl Fn(&Fault) -> bool) -> Vec<Stamp> {
    let history = seen.evidence.history.iter();
    let found = history.filter(|event| matches!(&event.call, Call::Fault(fault) if of(fault)));
    found.map(|event| event.at).collect()
}

/// Extra executions of this cause.
pub(crate) fn extra(seen: &Seen<'_>, cause: Cause) -> f64 {
    seen.verdict.extra.get(&cause).copied().unwrap_or_default() as f64
}

/// Attempts on record that ended in this way.
pub(crate) fn outcomes(seen: &Seen<'_>, outcome: &str) -> usize {
    let jobs = seen.evidence.ledger.jobs.values();
    let attempts = jobs.flat_map(|job| &job.attempts);
    attempts.filter(|attempt| attempt.outcome.as_deref() == Some(outcome)).count()
}

/// The instant of an experiment's own mark.
pub(crate) fn mark(seen: &Seen<'_>, name: &str) -> Option<Stamp> {
    mark_of(seen.evidence, name)
}

/// The same, of evidence alone.
pub(crate) fn mark_of(evidence: &Evidence, name: &str) -> Option<Stamp> {
    evidence.history.iter().find_map(|event| match &event.call {
        Call::Fault(Fault::Mark { name: found }) if found == name => Some(event.at),
        _ => None,
    })
}
