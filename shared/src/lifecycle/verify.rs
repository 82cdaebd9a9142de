//! Verification of a shard: an engine that may have lost something is compared with the ledger before it gives out a
//! lease (reliability 2.8, "fast path"). Done by the leader of the schedulers, whose epoch the ledger compares.
//!
//! | step | what | why it is safe |
//! |---|---|---|
//! | 1 | the ledger counts the generation up | only a leader can; an older generation cannot open the gate any more |
//! | 2 | the shard is shut with it, its holders hear of it | nothing is leased from here on |
//! | 3 | workers replay what they have settled, adopt what they run, report | so that neither runs again |
//! | 4 | meanwhile the engine gets what it misses | pushes are no leases |
//! | 5 | the gate is sealed: late holders put nothing back any more | it would not be compared |
//! | 6 | the outbox is recorded; what has ended leaves the engine | a store that went back has finished jobs |
//! | 7 | the gate is opened for the process that was compared | refused if there is another by now |
//!
//! Step 3 ends when every worker with a fresh beat has reported, or after [`VerifySettings::window`]; those that have said
//! by then that they are at it (the API may be behind with what they replay) are waited for five times as long. A worker
//! that is late, or dead, may cost its jobs a second run (I9), never a wrong record. After the opening nothing is reaped for
//! [`VerifySettings::grace`], and leases are bounded while [`VerifySettings::ramp`] lasts.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::Lifecycle;
use super::compare::{Compared, Comparison};
use super::delivery::PushError;
use crate::engine::{Gate, Opened, Opening, ShardId, Shut};
use crate::ledger::{Epoch, LedgerError, WorkerBeat};
use crate::limits;
use crate::model::id::WorkerId;

/// A worker whose beat is older is not waited for: beats come every 10 s.
const BEAT_FRESH: Duration = Duration::from_secs(30);
/// How often the reports are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Workers that are there are waited for this many windows.
const PATIENCE: u32 = 5;
/// Times that a verification begins anew because the store has started again meanwhile.
const TRIES_MAX: usize = 5;

/// Times of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifySettings {
    /// Longest wait for the reports of workers that say nothing. Zero where nobody can hold a lease: an embedded engine is verified
    /// when it has just been made.
    pub window: Duration,
    /// The fleet's lease: after the opening nothing is reaped for so long.
    pub grace: Duration,
    /// How long leases are bounded after the opening; zero: not at all.
    pub ramp: Duration,
}

impl Default for VerifySettings {
    /// 6 s, one lease of the default length, 10 s.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(6),
            grace: limits::LEASE_DEFAULT,
            ramp: Duration::from_secs(10),
        }
    }
}

/// What became of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The gate is open.
    Opened {
        /// What was found and mended.
        compared: Compared,
        /// From the first step to the last.
        took: Duration,
        /// Workers that did not report in time.
        missing: usize,
    },
    /// The ledger does not take the epoch: somebody else leads.
    NotLeader,
    /// Somebody else has begun, or ended, a later verification.
    Superseded,
    /// There is no such queue.
    NoQueue,
}

/// Verifies a shard and opens its gate. Safe to drop, to repeat, and to run twice at once: the later generation wins.
///
/// # Errors
/// The engine or the ledger did not answer; the gate stays shut. Repeat it.
pub async fn verify(
    life: &Lifecycle,
    shard: &ShardId,
    epoch: Epoch,
    settings: &VerifySettings,
) -> Result<Verified, PushError> {
    let started = Instant::now();
    for _ in 0..TRIES_MAX {
        match try_once(life, shard, epoch, settings).await? {
            Try::Done(compared, missing) => {
                let took = started.elapsed();
                metrics::histogram!("windlass_verification_seconds").record(took);
                return Ok(Verified::Opened { compared, took, missing });
            }
            Try::NotLeader => return Ok(Verified::NotLeader),
            Try::Superseded => return Ok(Verified::Superseded),
            Try::NoQueue => return Ok(Verified::NoQueue),
            Try::Again => {}
        }
    }
    Err(LedgerError::Unavailable("the engine keeps starting anew".into()).into())
}

enum Try {
    Done(Compared, usize),
    NotLeader,
    Superseded,
    NoQueue,
    /// The store has started anew, or was wiped, or this took too long.
    Again,
}

async fn try_once(
    life: &Lifecycle,
    shard: &ShardId,
    epoch: Epoch,
    settings: &VerifySettings,
) -> Result<Try, PushError> {
    let (ledger, engine) = (&life.inner.ledger, &life.inner.engine);
    engine.check().await?;
    // Fixed before the ledger counts: see `Engine::shut`.
    let now = engine.now().await?;
    let Some(generation) = ledger.next_generation(shard, epoch).await? else {
        return Ok(Try::NotLeader);
    };
    let not_after = now.plus(limits::PUSH_WINDOW);
    let process = match engine.shut(shard, ledger.id(), generation, not_after).await? {
        Shut::Shut { process, wiped } => {
            if wiped {
                tracing::warn!(%shard, "the queue store held jobs of another ledger here (wrong_ledger); emptied");
            }
            process
        }
        Shut::Newer => return Ok(Try::Superseded),
        Shut::Late => return Ok(Try::Again),
    };
    tracing::info!(%shard, generation, %process, "verifying a shard");
    // Read once the shard is shut: a change of before may have been made in a store that was emptied since.
    let Some(queue) = ledger.queue(&shard.namespace, &shard.queue).await? else {
        return Ok(Try::NoQueue);
    };
    let mut comparison = Comparison::new(life, shard, &queue);
    life.inner.delivery.learn(shard, generation);
    let shut = Gate { ledger: ledger.id(), generation, process: None, sealed: false };
    let (filled, reports) =
        tokio::join!(comparison.fill(), reports(life, shard, shut, settings.window));
    filled?;
    let Some(Reports { slots, missing }) = reports? else { return Ok(Try::Again) };
    if !engine.seal(shard, ledger.id(), generation).await? {
        return Ok(Try::Again);
    }
    let compared = comparison.finish().await?;
    let opening = Opening {
        settings: queue.shard_settings(),
        ledger: ledger.id(),
        generation,
        process,
        grace: settings.grace,
        slots,
        ramp: if slots == 0 { Duration::ZERO } else { settings.ramp },
    };
    match engine.open_gate(shard, &opening).await? {
        Opened::Open => {
            // What reads it are people; a lost note is made good by the next verification.
            ledger.note_opened(shard, generation, process).await?;
            tracing::info!(
                %shard, generation, pushed = compared.pushed, dropped = compared.dropped, missing,
                "opened a verified shard"
            );
            Ok(Try::Done(compared, missing))
        }
        Opened::Moved => Ok(Try::Again),
        Opened::Newer => Ok(Try::Superseded),
    }
}

struct Reports {
    /// Of all workers of the queue.
    slots: u32,
    /// Workers that did not report in time.
    missing: usize,
}

/// Waits until every worker of the queue with a fresh beat has reported, or `window` has passed and none of the others is
/// at it, or [`PATIENCE`] of them have. `None`: the gate is not
/// as it was shut any more, so reports of before are lost.
async fn reports(
    life: &Lifecycle,
    shard: &ShardId,
    shut: Gate,
    window: Duration,
) -> Result<Option<Reports>, PushError> {
    let (quiet, deadline) = (Instant::now() + window, Instant::now() + window * PATIENCE);
    let workers = fresh_workers(life, shard).await?;
    let slots = workers.iter().map(|beat| beat.concurrency).fold(0, u32::saturating_add);
    let mut awaited: HashSet<WorkerId> = workers.iter().map(|beat| beat.id).collect();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let view = life.inner.engine.gate(shard).await?;
        view.reported.iter().for_each(|worker| {
            awaited.remove(worker);
        });
        if view.gate != Some(shut) {
            return Ok(None);
        }
        let now = Instant::now();
        let is_slow = |worker: &WorkerId| now < deadline && view.present.contains(worker);
        if awaited.is_empty() || (now >= quiet && !awaited.iter().any(is_slow)) {
            return Ok(Some(Reports { slots, missing: awaited.len() }));
        }
    }
}

/// Those that claim from the queue and have told the ledger of themselves lately.
async fn fresh_workers(life: &Lifecycle, shard: &ShardId) -> Result<Vec<WorkerBeat>, LedgerError> {
    let mut workers = life.inner.ledger.workers(&shard.namespace, BEAT_FRESH).await?;
    workers.retain(|beat| beat.queues.iter().any(|queue| queue == shard.queue.as_str()));
    Ok(workers)
}
