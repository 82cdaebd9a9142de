//! Leases of remote workers that the engine has lost, because it was wiped or went back in time: the ledger still
//! knows the job, and whether the lease may count.

use std::collections::HashMap;
use std::time::Duration;

use super::Lifecycle;
use super::lease::{End, LeaseError};
use super::push::push_of;
use super::record::{Direct, to_record};
use crate::backoff;
use crate::engine::{Adopted, Adoption, Ended, Held, Outcome, Push, Settle, ShardId, Verdict};
use crate::ledger::Recorded;
use crate::model::id::{JobId, WorkerId};
use crate::model::job::{Job, JobState};
use crate::model::time::Timestamp;

/// Puts leases back that the engine does not know; the ends of those that it holds again.
///
/// # Errors
/// A store did not answer. Safe to repeat.
pub(super) async fn adopt(
    life: &Lifecycle,
    shard: &ShardId,
    lease: Duration,
    held: &[Held],
) -> Result<HashMap<JobId, Timestamp>, LeaseError> {
    let mut again = HashMap::new();
    if held.is_empty() {
        return Ok(again);
    }
    let jobs = jobs(life, shard, held).await?;
    for held in held {
        let Some(job) = jobs.get(&held.id).filter(|job| may_count(job, *held)) else { continue };
        let adoption = Adoption {
            job: Push { fence: held.fence, expires_at: None, ..push_of(job) },
            lease_id: held.lease_id,
            claimed_at: claimed_at(*held),
        };
        let adopted = life.inner.engine.adopt(shard, holder(*held), lease, &[adoption]).await?;
        if let Some(Adopted::Held { expires_at }) = adopted.first() {
            again.insert(held.id, *expires_at);
        }
    }
    Ok(again)
}

/// Records an end whose lease the engine does not know past the engine; whether it counts.
///
/// # Errors
/// A store did not answer. Safe to repeat.
pub(super) async fn record(
    life: &Lifecycle,
    shard: &ShardId,
    settle: &Settle,
    end: &End,
) -> Result<bool, LeaseError> {
    let held = settle.held;
    let jobs = jobs(life, shard, &[held]).await?;
    let Some(job) = jobs.get(&held.id).filter(|job| may_count(job, held)) else {
        return Ok(false);
    };
    let at = life.inner.engine.now().await?;
    let outcome = outcome(job, settle, end, at);
    let direct = Direct { record: to_record(shard, outcome), lease_id: Some(held.lease_id) };
    let replies = life.record_direct(vec![direct]).await?;
    Ok(replies.first() == Some(&Recorded::Applied))
}

fn outcome(job: &Job, settle: &Settle, end: &End, at: Timestamp) -> Outcome {
    let before = push_of(job).attempt;
    let verdict = match (end.failure(), settle.verdict) {
        // Without the engine's word on the attempt nothing was decided yet.
        (Some((error, retry_after)), _) => {
            let attempt = before.saturating_add(1);
            backoff::decide(&job.spec, error, attempt, retry_after, rand::random())
        }
        (None, verdict) => verdict,
    };
    let ended = match verdict {
        Verdict::Succeeded => Ended::Succeeded,
        Verdict::Dead => Ended::Dead,
        Verdict::Cancelled => Ended::Cancelled,
        _ if job.cancel_requested => Ended::Cancelled,
        Verdict::Retry { delay } => Ended::Retry(at.plus(delay)),
        Verdict::Snooze { delay } => Ended::Snoozed(at.plus(delay)),
        Verdict::Release => Ended::Released,
    };
    let counts = matches!(ended, Ended::Succeeded | Ended::Dead | Ended::Retry(_));
    let held = settle.held;
    Outcome {
        seq: 0,
        id: held.id,
        fence: held.fence,
        ended,
        at,
        claimed_at: Some(claimed_at(held)),
        worker: Some(holder(held)),
        attempt: before.saturating_add(u32::from(counts)),
        crashes: job.crashes,
        detail: settle.detail.clone(),
    }
}

/// Whether an outcome under this lease could still be recorded.
fn may_count(job: &Job, held: Held) -> bool {
    let is_open =
        job.fence < held.fence || (job.fence == held.fence && job.state == JobState::Running);
    is_open && !job.state.is_terminal()
}

/// A fence is the claim's instant, or a little later.
fn claimed_at(held: Held) -> Timestamp {
    Timestamp::from_micros(i64::try_from(held.fence.0).unwrap_or(i64::MAX))
}

/// Who took the lease is lost with it: an id that stays the same as long as the lease is held.
fn holder(held: Held) -> WorkerId {
    WorkerId::from_bytes(*held.lease_id.as_bytes())
}

async fn jobs(
    life: &Lifecycle,
    shard: &ShardId,
    held: &[Held],
) -> Result<HashMap<JobId, Job>, LeaseError> {
    let ids: Vec<JobId> = held.iter().map(|held| held.id).collect();
    let jobs = life.inner.ledger.jobs(&ids).await?;
    let is_here = |job: &Job| job.namespace == shard.namespace && job.queue == shard.queue;
    Ok(jobs.into_iter().filter(is_here).map(|job| (job.id, job)).collect())
}
