//! Figures that several experiments take.

use crate::check::{Cause, Execution, Index};
use crate::figure::{Figure, count};
use crate::fleet::LEASE;
use crate::history::{Call, Fault};
use crate::load::plan::{PAUSED, QUEUES};
use crate::runner::Seen;
use crate::stamp::Stamp;

/// Executions that a killed worker had begun and not ended.
pub(super) fn cut_short<'a>(index: &'a Index<'_>) -> impl Iterator<Item = &'a Execution> {
    index.executions.iter().filter(|execution| {
        let killed = index.killed_at(&execution.worker);
        execution.end.is_none() && killed.is_some_and(|at| execution.started <= at)
    })
}

/// From the kill of a worker to the next claim of each job that it ran, at most the lease and a second. Jobs of the queue
/// that is paused half of the time wait for that, too, and are left out.
pub(super) fn reruns(seen: &Seen<'_>) -> Vec<Figure> {
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

/// Seconds from this instant to the first lease of the plain queue that waited longest for one; `None`: one of them got none.
pub(super) fn first_leases(seen: &Seen<'_>, since: Stamp) -> Option<f64> {
    let first = |queue: &str| {
        let executions = seen.index.executions.iter().filter(|e| e.queue == queue);
        let claims = executions.filter_map(|e| i64::try_from(e.fence).ok());
        let first = claims.filter(|claim| *claim > since.wall_us).min()?;
        Some((first - since.wall_us) as f64 / 1e6)
    };
    let plain = QUEUES.iter().filter(|queue| **queue != PAUSED);
    plain.map(|queue| first(queue)).try_fold(0.0, |longest: f64, first| Some(longest.max(first?)))
}

/// Extra executions of this cause.
pub(super) fn extra(seen: &Seen<'_>, cause: Cause) -> f64 {
    seen.verdict.extra.get(&cause).copied().unwrap_or_default() as f64
}

/// Attempts on record that ended in this way.
pub(super) fn outcomes(seen: &Seen<'_>, outcome: &str) -> usize {
    let jobs = seen.evidence.ledger.jobs.values();
    let attempts = jobs.flat_map(|job| &job.attempts);
    attempts.filter(|attempt| attempt.outcome.as_deref() == Some(outcome)).count()
}

/// The instant of an experiment's own mark.
pub(super) fn mark(seen: &Seen<'_>, name: &str) -> Option<Stamp> {
    seen.evidence.history.iter().find_map(|event| match &event.call {
        Call::Fault(Fault::Mark { name: found }) if found == name => Some(event.at),
        _ => None,
    })
}
