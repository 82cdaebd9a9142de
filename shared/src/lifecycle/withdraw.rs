//! Before an outcome is recorded past the engine, the engine lets go of its job.

use std::collections::HashMap;

use tokio::time::Instant;

use super::record::Direct;
use super::{Lifecycle, PushError, record};
use crate::engine::{Ended, ShardId, Then, Withdrawal, Withdrawn};
use crate::ledger::{LedgerError, shard_of};
use crate::limits::ENGINE_BATCH_MAX;
use crate::model::id::JobId;
use crate::model::job::Job;

/// Jobs of one request to the ledger.
const LOOKUP_MAX: usize = 1_000;
/// Calls that look through one outbox, some hundred outcomes each, before the caller is told to come again.
const ASKS_MAX: usize = 500;
/// Times that outcomes of the same jobs, which wait in the engine, are recorded.
const TIMES_MAX: usize = 5;
/// Passes of one such time; a longer outbox is the recorder's, and the caller comes again.
const PASSES_MAX: usize = 20;

/// What may be committed, and for how long.
pub(super) struct Freed {
    /// For each record whether it may. Those of jobs that the ledger does not know, or has ended, may: it refuses them
    /// itself.
    pub(super) free: Vec<bool>,
    /// Verifications on record of each shard before its jobs were taken out. Only while they are the last may the
    /// outcomes be committed: a store that was wiped has lost the tombstones, and its comparison may have pushed the
    /// jobs again.
    pub(super) generations: Vec<(ShardId, u64)>,
    /// The first job was not taken out before.
    pub(super) since: Instant,
}

/// Takes the jobs of these records out of the engine.
///
/// # Errors
/// A store did not answer: nothing may be committed. Safe to repeat.
pub(super) async fn withdraw(life: &Lifecycle, outcomes: &[Direct]) -> Result<Freed, LedgerError> {
    let jobs = open_jobs(life, outcomes).await?;
    let mut free = vec![true; outcomes.len()];
    let mut shards: HashMap<ShardId, Vec<usize>> = HashMap::new();
    for (place, Direct { record, .. }) in outcomes.iter().enumerate() {
        if let Some(job) = jobs.get(&record.id).filter(|job| job.namespace == record.namespace) {
            shards.entry(shard_of(job)).or_default().push(place);
        }
    }
    let mut generations = Vec::with_capacity(shards.len());
    let mut since: Option<Instant> = None;
    for (shard, places) in shards {
        let generation = life.inner.ledger.shard(&shard).await?.generation;
        for places in places.chunks(ENGINE_BATCH_MAX) {
            let asked = from_shard(life, &shard, outcomes, places, &mut free).await;
            let asked = asked.map_err(|error| match error {
                PushError::Ledger(error) => error,
                PushError::Engine(error) => LedgerError::Unavailable(Box::new(error)),
            })?;
            since.get_or_insert(asked);
        }
        generations.push((shard, generation));
    }
    Ok(Freed { free, generations, since: since.unwrap_or_else(Instant::now) })
}

async fn open_jobs(
    life: &Lifecycle,
    outcomes: &[Direct],
) -> Result<HashMap<JobId, Job>, LedgerError> {
    let ids: Vec<JobId> = outcomes.iter().map(|outcome| outcome.record.id).collect();
    let mut jobs = HashMap::new();
    for ids in ids.chunks(LOOKUP_MAX) {
        let found = life.inner.ledger.jobs(ids).await?;
        let open = found.into_iter().filter(|job| !job.state.is_terminal());
        jobs.extend(open.map(|job| (job.id, job)));
    }
    Ok(jobs)
}

/// Returns when the engine was asked for the last time: what was taken out is kept out from then on.
async fn from_shard(
    life: &Lifecycle,
    shard: &ShardId,
    outcomes: &[Direct],
    places: &[usize],
    free: &mut [bool],
) -> Result<Instant, PushError> {
    let leases: Vec<Withdrawal> =
        places.iter().map(|place| withdrawal(&outcomes[*place])).collect();
    let (mut looked, mut recorded) = (None, 0);
    for _ in 0..ASKS_MAX {
        let asked = Instant::now();
        let reply = life.inner.engine.withdraw(shard, &leases, looked).await?;
        if reply.leases.contains(&Withdrawn::Waits) {
            if recorded == TIMES_MAX {
                break;
            }
            recorded += 1;
            record_waiting(life, shard).await?;
            looked = None;
        } else if reply.leases.contains(&Withdrawn::Behind) {
            looked = Some(reply.looked);
        } else {
            for (place, reply) in places.iter().zip(reply.leases) {
                free[*place] = matches!(reply, Withdrawn::Out | Withdrawn::Known);
            }
            return Ok(asked);
        }
    }
    Err(LedgerError::Unavailable("outcomes of the same jobs are being recorded".into()).into())
}

/// Records what waits in the outbox now. Others add to it meanwhile: their outcomes are not waited for.
async fn record_waiting(life: &Lifecycle, shard: &ShardId) -> Result<(), PushError> {
    for _ in 0..PASSES_MAX {
        if record::record_outcomes(life, shard).await? < record::PASS_MAX as usize {
            break;
        }
    }
    Ok(())
}

fn withdrawal(Direct { record, lease_id }: &Direct) -> Withdrawal {
    let counts = matches!(record.ended, Ended::Succeeded | Ended::Retry(_) | Ended::Dead);
    Withdrawal {
        id: record.id,
        fence: record.fence,
        lease_id: *lease_id,
        attempt: record.attempt.saturating_sub(u32::from(counts)),
        crashes: record.crashes,
        then: match record.ended {
            Ended::Retry(_) => Then::Retry,
            Ended::Snoozed(_) | Ended::Released | Ended::Lost => Then::Again,
            Ended::Succeeded
            | Ended::Dead
            | Ended::Cancelled
            | Ended::Expired
            | Ended::Quarantined => Then::Over,
        },
    }
}
