//! Submission: the ledger first, then the engine.

use super::Lifecycle;
use super::delivery::Ticket;
use super::push::belongs_in_engine;
use crate::ledger::{Accepted, LedgerError, Submission, SubmitOutcome};
use crate::model::id::JobId;
use crate::model::job::{Job, JobState};

pub(super) async fn submit(
    life: &Lifecycle,
    submission: Submission,
) -> Result<SubmitOutcome, LedgerError> {
    // Fixed before the insert is sent: a push that is delayed past it could restart a finished job.
    let ticket = life.inner.delivery.ticket().await;
    let outcome = life.inner.ledger.submit(submission).await?;
    crate::failpoint!("submit.committed");
    super::quota::after(life);
    if let SubmitOutcome::OverQuota(exceeded) = &outcome {
        super::quota::refused(exceeded);
    }
    if let SubmitOutcome::Done(results) = &outcome {
        let accepted = || results.iter().flatten();
        let ended: Vec<JobId> = accepted().filter_map(Accepted::replaced).collect();
        if !ended.is_empty() {
            life.inner.waiters.notify(&ended);
        }
        // A debounced job that is superseded was never in the engine.
        let replaced = accepted().filter_map(|accepted| match accepted {
            Accepted::Replaced(_, old) => Some(*old),
            _ => None,
        });
        super::ended::align(life, replaced.collect()).await;
        // Where the replaced one was the first of its order, another may run: a job of the same key, mostly.
        for accepted in accepted() {
            if let Accepted::Replaced(job, _) = accepted {
                super::order::follow(life, job).await;
            }
        }
        offer(life, accepted().flat_map(Accepted::ready), ticket);
    }
    Ok(outcome)
}

/// Hands jobs that were made ready to the pusher.
fn offer<'a>(life: &Lifecycle, jobs: impl Iterator<Item = &'a Job>, ticket: Option<Ticket>) {
    let Some(ticket) = ticket else { return };
    let is_due = |job: &&Job| {
        // One whose series was shut may be much older than its time.
        job.state == JobState::Ready || belongs_in_engine(job, job.created_at)
    };
    life.inner.pusher.offer(jobs.filter(is_due).cloned().collect(), ticket);
}

/// As [`Lifecycle::shut_series`].
pub(super) async fn shut_series(life: &Lifecycle, limit: u32) -> Result<u64, LedgerError> {
    // As of a submission: fixed before the write that makes the jobs ready.
    let ticket = life.inner.delivery.ticket().await;
    let jobs = life.inner.ledger.shut_due(limit).await?;
    if !jobs.is_empty() {
        crate::failpoint!("series.shut");
    }
    offer(life, jobs.iter(), ticket);
    Ok(jobs.len() as u64)
}
