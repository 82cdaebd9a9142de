//! Outcomes from the engine into the ledger.
//!
//! Commit before confirm, always: the other order turns a recorder's crash into a second run of a
//! finished job. An outcome that is read twice is harmless, because the ledger's guarded update refuses it.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::delivery::{PushError, Ticket};
use super::{Lifecycle, workflow};
use crate::engine::envelope::Detail;
use crate::engine::feed::Event;
use crate::engine::{Ended, Mark, Outcome, ShardId};
use crate::ledger::runs::RecordReply;
use crate::ledger::{LedgerError, Record, RecordRunning, Recorded};
use crate::limits;
use crate::model::id::{JobId, LeaseId};
use crate::model::job::{JobError, JobState};
use crate::model::time::Timestamp;

/// Most outcomes of one pass; fewer mean that there were no more.
pub const PASS_MAX: u32 = 1_000;
/// So many outcomes of a pass make it likely that others have come meanwhile.
const MANY: usize = 100;
/// So long one call goes on, so that it ends under a load that does not, and others have their turn.
const STREAM_MAX: Duration = Duration::from_millis(100);
/// Leases noted in one pass.
const RUNNING_MAX: u32 = 1_000;
/// Leases younger than this are not worth a write.
const RUNNING_AFTER: Duration = Duration::from_secs(2);

/// Records the oldest outcomes of a shard; how many. Repeat while it returns a full pass.
///
/// Safe to drop, to repeat, and to run twice at once.
///
/// # Errors
/// The engine or the ledger did not answer. Nothing is lost: the outcomes stay where they are.
pub async fn record_outcomes(life: &Lifecycle, shard: &ShardId) -> Result<usize, PushError> {
    let outcomes = life.inner.engine.outcomes(shard, PASS_MAX).await?;
    let Some(pass) = commit(life, shard, outcomes).await? else { return Ok(0) };
    forget(life, shard, &pass).await?;
    Ok(pass.count)
}

/// As [`record_outcomes`], pass after pass while many come: while the engine forgets those of one, the next is
/// committed. How many there were, and whether it ended only since it had lasted long enough.
///
/// Safe to drop, to repeat, and to run twice at once.
///
/// # Errors
/// As of [`record_outcomes`].
pub async fn record_stream(life: &Lifecycle, shard: &ShardId) -> Result<(usize, bool), PushError> {
    let began = Instant::now();
    let engine = &life.inner.engine;
    let outcomes = engine.outcomes(shard, PASS_MAX).await?;
    let Some(mut pass) = commit(life, shard, outcomes).await? else { return Ok((0, false)) };
    let mut total = pass.count;
    loop {
        let is_many = pass.count >= MANY;
        if !is_many || began.elapsed() >= STREAM_MAX {
            forget(life, shard, &pass).await?;
            return Ok((total, is_many));
        }
        let next = match behind(life, shard, &pass).await {
            Ok(Some(next)) => {
                let (forgotten, next) =
                    tokio::join!(forget(life, shard, &pass), commit(life, shard, next));
                if forgotten.is_err()
                    && let Ok(Some(next)) = &next
                {
                    // Its events would be lost: read again, its outcomes are stale.
                    forget(life, shard, next).await?;
                }
                forgotten.and(next)
            }
            Ok(None) => {
                forget(life, shard, &pass).await?;
                commit(life, shard, engine.outcomes(shard, PASS_MAX).await?).await
            }
            Err(error) => forget(life, shard, &pass).await.and(Err(error)),
        };
        let Some(next) = next? else { return Ok((total, false)) };
        pass = next;
        total += pass.count;
    }
}

/// The outcomes behind those of a pass, before the engine forgets those, which would move them. `None` as of [`after`].
async fn behind(
    life: &Lifecycle,
    shard: &ShardId,
    pass: &Pass,
) -> Result<Option<Vec<Outcome>>, PushError> {
    let skip = u32::try_from(pass.count - 1).unwrap_or(u32::MAX);
    let outcomes = life.inner.engine.outcomes_behind(shard, skip, PASS_MAX + 1).await?;
    Ok(after(&pass.last, outcomes))
}

/// What follows an outcome that should be the first of these. `None`: nothing does, or it is not: another recorder may have
/// taken some away, or the store has lost some, and to forget up to the end of what is behind would then forget others
/// unrecorded. By its mark, as numbers may be given out again after a loss.
fn after(last: &Mark, mut outcomes: Vec<Outcome>) -> Option<Vec<Outcome>> {
    if outcomes.first()?.mark() != *last {
        return None;
    }
    outcomes.remove(0);
    Some(outcomes).filter(|outcomes| !outcomes.is_empty())
}

/// Outcomes that the ledger has, and the engine still has too.
struct Pass {
    count: usize,
    stale: usize,
    /// When the oldest came to be.
    oldest: Timestamp,
    last: Mark,
    /// Of those that applied.
    events: Vec<Event>,
    /// The jobs that are over.
    ended: Vec<JobId>,
}

/// Writes outcomes into the ledger; `None` where there are none.
async fn commit(
    life: &Lifecycle,
    shard: &ShardId,
    outcomes: Vec<Outcome>,
) -> Result<Option<Pass>, PushError> {
    let Some(last) = outcomes.last().map(Outcome::mark) else { return Ok(None) };
    let oldest = outcomes[0].at;
    let ended: Vec<_> =
        outcomes.iter().filter(|o| o.ended.is_terminal()).map(|outcome| outcome.id).collect();
    let events: Vec<Event> = outcomes
        .iter()
        .map(|outcome| Event { id: outcome.id, state: state_after(outcome.ended), at: outcome.at })
        .collect();
    let records: Vec<_> = outcomes.into_iter().map(|outcome| to_record(shard, outcome)).collect();
    let count = records.len();
    // Fixed before the outcomes are recorded, as for a submission.
    let ticket = life.inner.delivery.ticket().await;
    let reply = life.inner.ledger.record(records).await?;
    let replies = follow(life, reply, ticket);
    let events: Vec<Event> = events
        .into_iter()
        .zip(&replies)
        .filter(|(_, reply)| **reply == Recorded::Applied)
        .map(|(event, _)| event)
        .collect();
    let stale = count - events.len();
    Ok(Some(Pass { count, stale, oldest, last, events, ended }))
}

/// Lets the engine forget what the ledger has, and tells who waits for it.
async fn forget(life: &Lifecycle, shard: &ShardId, pass: &Pass) -> Result<(), PushError> {
    let engine = &life.inner.engine;
    crate::failpoint!("record.before_confirm");
    // Nobody watches a shadow, and nothing would take its feed away again.
    let publish = async {
        if !shard.namespace.is_shadow() {
            // Safe to drop what becomes of the feed: it is a convenience; the ledger has what happened.
            let _ = engine.publish(&shard.namespace, &pass.events).await;
        }
    };
    // Together, so that the store is woken once.
    let (confirmed, ()) = tokio::join!(engine.confirm(shard, &pass.last), publish);
    life.inner.waiters.notify(&pass.ended);
    confirmed?;
    let (count, stale) = (pass.count as u64, pass.stale as u64);
    metrics::counter!("windlass_outcomes_recorded_total").increment(count - stale);
    metrics::counter!("windlass_outcomes_stale_total").increment(stale);
    metrics::histogram!("windlass_recorder_lag_seconds")
        .record(life.inner.clock.now().since(pass.oldest));
    Ok(())
}

/// What follows from recorded outcomes for workflows: released jobs are pushed, and runs with something due carried on.
/// Both are also found without this: by the sweep, and by the scheduler's duty.
pub(super) fn follow(
    life: &Lifecycle,
    reply: RecordReply,
    ticket: Option<Ticket>,
) -> Vec<Recorded> {
    workflow::drive::push(life, reply.released, ticket);
    for run in reply.due {
        workflow::drive::soon(life, run);
    }
    reply.replies
}

/// The job's state once this outcome is recorded.
fn state_after(ended: Ended) -> JobState {
    match ended {
        Ended::Succeeded => JobState::Succeeded,
        Ended::Retry(_) => JobState::Retrying,
        Ended::Snoozed(_) => JobState::Scheduled,
        Ended::Released | Ended::Lost => JobState::Ready,
        Ended::Dead => JobState::Dead,
        Ended::Cancelled => JobState::Cancelled,
        Ended::Expired => JobState::Expired,
        Ended::Quarantined => JobState::Quarantined,
    }
}

pub(super) fn to_record(shard: &ShardId, outcome: Outcome) -> Record {
    let (detail, unreadable) = match Detail::decode(&outcome.detail) {
        Ok(detail) => (detail, None),
        // The end itself is known; only its story is lost.
        Err(error) => {
            tracing::error!(job.id = %outcome.id, %error, "an outcome's detail cannot be read");
            let error = JobError {
                code: "unreadable_outcome".into(),
                message: error.to_string(),
                retryable: false,
            };
            (Detail::default(), Some(error))
        }
    };
    let worker = match (detail.head.worker, outcome.worker) {
        (Some(name), Some(id)) => Some(format!("{name} ({id})")),
        (Some(name), None) => Some(name),
        (None, id) => id.map(|id| id.to_string()),
    };
    Record {
        namespace: shard.namespace.clone(),
        id: outcome.id,
        fence: outcome.fence,
        ended: outcome.ended,
        at: outcome.at,
        claimed_at: outcome.claimed_at,
        attempt: outcome.attempt,
        crashes: outcome.crashes,
        worker,
        output: detail.output,
        error: detail.head.error.or(unreadable),
        timed_out: detail.head.timed_out,
        usage: detail.head.usage.map(|usage| Bytes::from(usage.to_string())),
    }
}

/// Notes the leases of a shard that have lasted a while, so that lists show them as running, and returns how
/// far it came. `noted` is what the last call returned: only leases claimed since then are looked at.
///
/// # Errors
/// The engine or the ledger did not answer. Repeat it with the same `noted`.
pub async fn record_running(
    life: &Lifecycle,
    shard: &ShardId,
    noted: Option<(Timestamp, JobId)>,
) -> Result<Option<(Timestamp, JobId)>, PushError> {
    let claimed_by = life.inner.engine.now().await?.minus(RUNNING_AFTER);
    let leased = life.inner.engine.leased(shard, noted, claimed_by, RUNNING_MAX).await?;
    let Some(last) = leased.last().map(|lease| (lease.claimed_at, lease.id)) else {
        return Ok(noted);
    };
    let running = leased
        .into_iter()
        .map(|lease| RecordRunning {
            id: lease.id,
            fence: lease.fence,
            attempt: lease.attempt.saturating_add(1),
            claimed_at: lease.claimed_at,
            worker: lease.worker.to_string(),
        })
        .collect();
    life.inner.ledger.record_running(running).await?;
    Ok(Some(last))
}

/// An outcome that came past the engine.
#[derive(Debug, Clone)]
pub struct Direct {
    /// The outcome.
    pub record: Record,
    /// The lease's token, where the reporter knows it: after a clock that went back, another holder may have the same
    /// fence.
    pub lease_id: Option<LeaseId>,
}

/// Without a token.
impl From<Record> for Direct {
    fn from(record: Record) -> Self {
        Self { record, lease_id: None }
    }
}

/// So often a verification may begin between an engine's letting go of jobs and their commit.
const DIRECT_TRIES_MAX: usize = 3;

/// Records outcomes that came past the engine, after the engine has let go of their jobs: committed first, a job that
/// has ended could be started, and a lease that was taken back could count.
pub(super) async fn record_direct(
    life: &Lifecycle,
    outcomes: Vec<Direct>,
) -> Result<Vec<Recorded>, LedgerError> {
    for _ in 0..DIRECT_TRIES_MAX {
        if let Some(replies) = record_freed(life, &outcomes).await? {
            return Ok(replies);
        }
    }
    let why = "the engine changed while it let go of the jobs; send the outcomes again";
    Err(LedgerError::Unavailable(why.into()))
}

/// `None`: nothing was written, since the engine may not have kept out what it let go of.
async fn record_freed(
    life: &Lifecycle,
    outcomes: &[Direct],
) -> Result<Option<Vec<Recorded>>, LedgerError> {
    let freed = super::withdraw::withdraw(life, outcomes).await?;
    let mut replies = vec![Recorded::Stale; outcomes.len()];
    let (mut places, mut kept, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (place, (Direct { record, .. }, free)) in outcomes.iter().zip(&freed.free).enumerate() {
        if *free {
            places.push(place);
            ends.push((record.id, record.ended.is_terminal()));
            kept.push(record.clone());
        }
    }
    if kept.is_empty() {
        return Ok(Some(replies));
    }
    let ticket = life.inner.delivery.ticket().await;
    // The tombstones would not outlast a slow commit for ever.
    if freed.since.elapsed() >= limits::PUSH_WINDOW {
        return Ok(None);
    }
    let Some(reply) = life.inner.ledger.record_within(kept, freed.generations).await? else {
        return Ok(None);
    };
    let (mut applied, mut ended) = (Vec::new(), Vec::new());
    for ((place, (id, ends)), reply) in places.iter().zip(ends).zip(follow(life, reply, ticket)) {
        replies[*place] = reply;
        if reply == Recorded::Applied {
            applied.push(id);
            ended.extend(ends.then_some(id));
        }
    }
    life.inner.waiters.notify(&ended);
    super::ended::align(life, applied).await;
    Ok(Some(replies))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::Fence;

    fn outcome(seq: u64) -> Outcome {
        Outcome {
            seq,
            id: JobId::generate(),
            fence: Fence(1),
            ended: Ended::Succeeded,
            at: Timestamp::from_micros(1),
            claimed_at: None,
            worker: None,
            attempt: 1,
            crashes: 0,
            detail: Bytes::new(),
        }
    }

    #[test]
    fn only_what_is_behind_the_very_outcome_is_taken() {
        let all: Vec<_> = (7..10).map(outcome).collect();
        let last = all[0].mark();
        assert_eq!(after(&last, all.clone()), Some(all[1..].to_vec()));
        assert_eq!(after(&last, all[..1].to_vec()), None, "nothing is behind it");
        assert_eq!(after(&last, all[1..].to_vec()), None, "it is no longer there");
        assert_eq!(after(&last, Vec::new()), None);
        // A store that went back in time has given its number to another job's.
        let mut others = all;
        others[0] = outcome(7);
        assert_eq!(after(&last, others), None);
    }
}
