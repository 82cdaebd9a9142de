//! Changes that people ask for: cancel, redrive, patch, pause, settings.

use std::time::Duration;

use super::delivery::Ticket;
use super::push::belongs_in_engine;
use super::{Cancelled, Lifecycle, Seen, order};
use crate::engine::{CancelReply, Engine, EngineError, ShardId, Withdraw};
use crate::ledger::{
    Changed, Guard, JobPatch, LedgerError, Paused, Queue, QueueSettings, shard_of,
};
use crate::model::id::JobId;
use crate::model::job::{Job, JobState};
use crate::model::name::{Namespace, QueueName};

/// Looks at a job that keeps changing while it is to be cancelled or changed.
const TRIES_MAX: u32 = 5;
/// Looks at a shard that is being opened for the first time, and the time between them: half a second in all.
const OPENING_LOOKS: u32 = 20;
const OPENING_PAUSE: Duration = Duration::from_millis(25);

pub(super) async fn get(
    life: &Lifecycle,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<Seen>, LedgerError> {
    let Some(job) = life.inner.ledger.job(namespace, id).await? else {
        return Ok(None);
    };
    // A hint: an engine that is away takes only the hint away.
    let live = if job.state.is_terminal() {
        None
    } else {
        life.inner.engine.peek(&shard_of(&job), id).await.ok().flatten()
    };
    Ok(Some(Seen { job, live }))
}

pub(super) async fn cancel(
    life: &Lifecycle,
    namespace: &Namespace,
    id: JobId,
    reason: &str,
) -> Result<Changed<Cancelled>, LedgerError> {
    let (ledger, engine) = (&life.inner.ledger, &life.inner.engine);
    for _ in 0..TRIES_MAX {
        let Some(job) = ledger.job(namespace, id).await? else {
            return Ok(Changed::Unknown);
        };
        if job.state == JobState::Cancelled {
            return Ok(Changed::Done(Cancelled::Now(job)));
        }
        if job.state.is_terminal() {
            return Ok(Changed::Refused(job.state));
        }
        let waits_for_others = job.workflow.is_some() || job.spec.order_key.is_some();
        if job.state == JobState::Blocked && !waits_for_others {
            // It stands for a series. That ends here, so that nothing is added to a cancelled job, and what was collected
            // is there if it is retried. Then it is a job like any other.
            ledger.shut(id).await?;
            continue;
        }
        // The engine first: its tombstone keeps a push that is on its way from starting the job after the
        // ledger has said "cancelled". Without an answer the job may be running, so it is only asked to stop. Of a
        // blocked one the ledger knows alone.
        let stops = job.state != JobState::Blocked && {
            let withdrawn = withdraw(engine, &job, Withdraw::StopRunning).await;
            matches!(withdrawn, Ok(CancelReply::Removed | CancelReply::Absent))
                && knows_what_runs(life, &shard_of(&job)).await?
        };
        // The engine spoke of this fence in this queue. A job that was changed meanwhile has another form,
        // which may be in the engine already: then all of it again.
        match ledger.cancel(namespace, id, Some(Guard::of(&job)), !stops, reason).await? {
            Changed::Done(job) if job.state == JobState::Cancelled => {
                life.inner.waiters.notify(&[id]);
                order::follow(life, &job).await;
                return Ok(Changed::Done(Cancelled::Now(job)));
            }
            Changed::Done(job) => return Ok(Changed::Done(Cancelled::Requested(job))),
            Changed::Refused(JobState::Blocked) if job.state == JobState::Blocked => {
                return Ok(Changed::Refused(JobState::Blocked));
            }
            Changed::Refused(_) => {}
            Changed::Unknown => return Ok(Changed::Unknown),
        }
    }
    // It changes faster than it can be looked at. Asked to stop, it is stopped by the sweep or its worker.
    Ok(match ledger.cancel(namespace, id, None, true, reason).await? {
        Changed::Done(job) => Changed::Done(Cancelled::Requested(job)),
        Changed::Refused(state) => Changed::Refused(state),
        Changed::Unknown => Changed::Unknown,
    })
}

/// Whether a job that a shard does not have leased does not run: not while its gate is shut, since its store may have lost
/// the lease. Of one that was never opened nothing was ever leased; its first opening, which takes milliseconds, is
/// waited for.
async fn knows_what_runs(life: &Lifecycle, shard: &ShardId) -> Result<bool, LedgerError> {
    for _ in 0..OPENING_LOOKS {
        // The ledger first: it is told of an opening after the store.
        let on_record = life.inner.ledger.shard(shard).await?;
        if life.inner.engine.stats(shard).await.is_ok_and(|stats| stats.open) {
            return Ok(true);
        }
        match (on_record.generation, on_record.process) {
            (0, _) => return Ok(true),
            (1, None) => tokio::time::sleep(OPENING_PAUSE).await,
            _ => return Ok(false),
        }
    }
    Ok(false)
}

async fn withdraw(engine: &Engine, job: &Job, how: Withdraw) -> Result<CancelReply, EngineError> {
    let replies = engine.cancel(&shard_of(job), &[(job.id, job.fence)], how).await?;
    replies.first().copied().ok_or_else(|| EngineError::UnknownReply {
        script: "cancel",
        reply: "no reply for the job".into(),
    })
}

pub(super) async fn redrive(
    life: &Lifecycle,
    namespace: &Namespace,
    id: JobId,
) -> Result<Changed<Job>, LedgerError> {
    let ticket = life.inner.delivery.ticket().await;
    let changed = life.inner.ledger.redrive(namespace, id).await?;
    if let Changed::Done(job) = &changed {
        offer(life, job, ticket);
    }
    Ok(changed)
}

pub(super) async fn patch(
    life: &Lifecycle,
    namespace: &Namespace,
    id: JobId,
    patch: &JobPatch,
) -> Result<Changed<Job>, LedgerError> {
    let (ledger, engine) = (&life.inner.ledger, &life.inner.engine);
    let mut seen: Option<Job> = None;
    for _ in 0..TRIES_MAX {
        let Some(job) = ledger.job(namespace, id).await? else {
            return Ok(Changed::Unknown);
        };
        let is_fixed = matches!(job.state, JobState::Running | JobState::Blocked);
        // Before the engine is told: it would not let in the form that stays.
        if job.state.is_terminal() || is_fixed || order::stays_in_order(&job, patch) {
            return Ok(Changed::Refused(job.state));
        }
        // Refused in the very form that was seen: not for its form, then.
        if seen.is_some_and(|seen| (seen.fence, &seen.queue) == (job.fence, &job.queue)) {
            return Ok(Changed::Refused(job.state));
        }
        // Taken out of the engine before the ledger changes, so that the old form cannot start beside the new
        // one, in another queue perhaps. A crash after this leaves it to the sweep. The ledger's record of
        // `running` lags; the engine's does not. Without an answer the old form may still be there: refused.
        match withdraw(engine, &job, Withdraw::WaitingOnly).await {
            Ok(CancelReply::Removed | CancelReply::Absent) => {}
            Ok(CancelReply::Running | CancelReply::Finishing) => {
                return Ok(Changed::Refused(JobState::Running));
            }
            Err(error) => return Err(LedgerError::Unavailable(Box::new(error))),
        }
        let ticket = life.inner.delivery.ticket().await;
        // The engine spoke of this form. Another change may have put another one there since.
        match ledger.patch(namespace, id, Some(Guard::of(&job)), patch).await? {
            Changed::Done(job) => {
                offer(life, &job, ticket);
                return Ok(Changed::Done(job));
            }
            Changed::Refused(state) if state.is_terminal() || state == JobState::Running => {
                return Ok(Changed::Refused(state));
            }
            Changed::Refused(_) => seen = Some(job),
            Changed::Unknown => return Ok(Changed::Unknown),
        }
    }
    Err(LedgerError::Unavailable("the job keeps changing".into()))
}

fn offer(life: &Lifecycle, job: &Job, ticket: Option<Ticket>) {
    if let Some(ticket) = ticket
        && belongs_in_engine(job, life.inner.clock.now())
    {
        life.inner.pusher.offer(vec![job.clone()], ticket);
    }
}

pub(super) async fn set_paused(
    life: &Lifecycle,
    namespace: &Namespace,
    queue: &QueueName,
    paused: Option<Paused>,
) -> Result<(Queue, bool), LedgerError> {
    let queue = life.inner.ledger.set_paused(namespace, queue, paused.as_ref()).await?;
    let told = tell(life, &queue).await;
    Ok((queue, told))
}

pub(super) async fn set_queue(
    life: &Lifecycle,
    namespace: &Namespace,
    queue: &QueueName,
    seen: u64,
    settings: &QueueSettings,
) -> Result<Option<(Queue, bool)>, LedgerError> {
    let set = life.inner.ledger.set_queue(namespace, queue, Some(seen), settings).await?;
    let Some(queue) = set else { return Ok(None) };
    let told = tell(life, &queue).await;
    Ok(Some((queue, told)))
}

async fn tell(life: &Lifecycle, queue: &Queue) -> bool {
    let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
    life.inner.engine.configure(&shard, &queue.shard_settings()).await.is_ok()
}
