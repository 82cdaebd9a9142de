//! What became of leases that their workers lost.

use crate::check::Execution;
use crate::dump::AttemptRow;
use crate::effects::End;
use crate::figure::{Figure, count};
use crate::load::plan::PAUSED;
use crate::runner::Seen;
use crate::worker::FENCED;

/// Executions that went on after another worker had begun the same job, and what became of them.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// How many.
    pub(super) executions: usize,
    /// Of those, results that the ledger took.
    pub(super) recorded: usize,
    /// Of those, with a write that the store with fences took at their end.
    pub(super) written: usize,
}

impl Stale {
    /// Of these workers.
    pub(super) fn of(seen: &Seen<'_>, workers: &[&str]) -> Self {
        let mut stale = Self::default();
        for execution in &seen.index.executions {
            let Some((ended, end)) = execution.end else { continue };
            if !workers.contains(&execution.worker.as_str()) {
                continue;
            }
            let mut later = seen.index.of_job(&execution.job);
            if !later.any(|other| other.fence > execution.fence && other.started < ended) {
                continue;
            }
            stale.executions += 1;
            stale.written += usize::from(end == End::Ok && execution.kind == FENCED);
            let outcome = attempt(seen, execution).and_then(|attempt| attempt.outcome.as_deref());
            let is_result = matches!(outcome, Some("succeeded" | "failed" | "timed_out"));
            stale.recorded += usize::from(is_result);
        }
        stale
    }

    /// There are such executions, and nothing of theirs counts.
    pub(super) fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::at_least("stale executions", count(self.executions), "", 1.0),
            Figure::at_most("stale results recorded", count(self.recorded), "", 0.0),
            Figure::at_most("stale writes taken by the store", count(self.written), "", 0.0),
        ]
    }
}

/// The attempt on record of an execution.
pub(super) fn attempt<'a>(seen: &'a Seen<'_>, execution: &Execution) -> Option<&'a AttemptRow> {
    let row = seen.evidence.ledger.jobs.get(&execution.job)?;
    row.attempts.iter().find(|attempt| attempt.fence == execution.fence)
}

/// A lease that ran out before its job was settled.
#[derive(Debug)]
pub(super) struct LostLease {
    /// When it was given, in µs since 1970.
    pub(super) claimed_us: i64,
    /// Its handler was called.
    pub(super) was_run: bool,
    /// How long after that the next lease of the job was given, in seconds; `None`: never, or in a queue that is
    /// paused half of the time, which says nothing.
    pub(super) next_after_s: Option<f64>,
    /// The next lease was never given.
    pub(super) is_last: bool,
}

/// All leases that ran out.
pub(super) fn lost_leases(seen: &Seen<'_>) -> Vec<LostLease> {
    let instant = |fence: u64| i64::try_from(fence).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    for (id, job) in &seen.evidence.ledger.jobs {
        for (place, attempt) in job.attempts.iter().enumerate() {
            if attempt.outcome.as_deref() != Some("lease_lost") {
                continue;
            }
            let next = job.attempts.get(place + 1).map(|next| instant(next.fence));
            let claimed_us = instant(attempt.fence);
            let is_timed = job.queue != PAUSED;
            found.push(LostLease {
                claimed_us,
                was_run: seen.index.of_job(id).any(|e| e.fence == attempt.fence),
                next_after_s: next.filter(|_| is_timed).map(|at| (at - claimed_us) as f64 / 1e6),
                is_last: next.is_none(),
            });
        }
    }
    found
}
