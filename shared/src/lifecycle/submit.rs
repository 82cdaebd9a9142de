//! Submission: the ledger first, then the engine.

use super::Lifecycle;
use super::push::belongs_in_engine;
use crate::ledger::{Accepted, LedgerError, Submission, SubmitOutcome};

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
        let replaced = results.iter().filter_map(|result| match result {
            Ok(Accepted::Replaced(_, old)) => Some(*old),
            _ => None,
        });
        super::ended::align(life, replaced.collect()).await;
        // Where the replaced one was the first of its order, another may run: a job of the same key, mostly.
        for result in results {
            if let Ok(Accepted::Replaced(job, _)) = result {
                super::order::follow(life, job).await;
            }
        }
    }
    if let (SubmitOutcome::Done(results), Some(ticket)) = (&outcome, ticket) {
        let jobs = results
            .iter()
            .filter_map(|result| match result {
                Ok(Accepted::New(job) | Accepted::Replaced(job, _)) => Some(job),
                Ok(Accepted::Existing(_)) | Err(_) => None,
            })
            .filter(|job| belongs_in_engine(job, job.created_at))
            .cloned()
            .collect();
        life.inner.pusher.offer(jobs, ticket);
    }
    Ok(outcome)
}
