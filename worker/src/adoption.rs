//! Adoption: puts the leases back that a wiped or rolled-back engine has lost, so that the jobs under way are not
//! given to anybody else.
//!
//! Each shard of the worker has a watch in the keeper's thread. It sleeps until something is wrong (a lease that the
//! engine does not know, a gate that is shut or was opened anew) and then looks at the gate. For each process and
//! generation that it finds there, it adopts all that the worker runs and sees to it that the ring is replayed; if
//! the gate is shut for a verification, it reports that it is done. That goes on until the gate is open.
//!
//! **Why no settled attempt is adopted.** A lease that is put back after its settle would be extended by nobody, and
//! would look like a crash when it runs out. So settling and adopting take turns ([`ShardRing::turn`]): within a turn
//! of adoption, an attempt is in [`Leases`] if and only if its settle has not been answered. All of these are
//! adopted, those included whose settle waits or failed: it will find the lease. Those that were answered before are
//! not in [`Leases`]; they are in the ring, and the report waits for their replay. Those that are answered after it
//! found the lease, and are in the shard's outbox, which the verification records.
//!
//! The keeper waits for its turn a moment only: a settle holds the turn while all threads of the main runtime are
//! blocked by handlers. Its call has been carried out by then or never will be, so that adopting all the same is right
//! for every attempt but those of that one call; theirs are put back in vain, if the engine had lost them, and run out,
//! which the ledger takes for old.
//!
//! A claim that was answered before the loss but is not in [`Leases`] yet is found by its next extension.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use windlass_shared::engine::{
    Adopted, Adoption, Engine, EngineError, Gate, Position, ProcessId, Report,
};
use windlass_shared::limits::ENGINE_BATCH_MAX;
use windlass_shared::model::id::{LedgerId, WorkerId};

use crate::attempt::{Attempt, StopReason};
use crate::boot_time::boot_ms;
use crate::leases::Leases;
use crate::ring::ShardRing;

/// Longest wait for the turn.
const TURN_MAX: Duration = Duration::from_secs(1);
/// One look at the gate waits this long for replays.
const REPLAY_WAIT: Duration = Duration::from_millis(200);
/// Looks are this far apart while something is not adopted or replayed.
const AGAIN: Duration = Duration::from_millis(300);
/// And while nothing is left to do but to see the gate open.
const IDLE: Duration = Duration::from_secs(1);
/// Alarms don't bring a look on earlier than this.
const LOOK_MIN: Duration = Duration::from_millis(200);

/// How one look at the gate ended.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// The gate is open; nothing is left to do.
    Open,
    /// Shut; all is adopted and replayed, and, where somebody verifies, reported.
    Ready,
    /// Something is not adopted or replayed yet.
    Missing,
}

/// The watch over one shard.
pub(crate) struct Watch<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) leases: &'a Leases,
    pub(crate) ring: Arc<ShardRing>,
    pub(crate) worker: WorkerId,
    pub(crate) lease: Duration,
    /// The process and generation for which all leases were adopted.
    pub(crate) adopted: Option<(ProcessId, Option<u64>)>,
}

impl Watch<'_> {
    /// Watches for ever. May be dropped at any time.
    pub(crate) async fn run(mut self) {
        loop {
            let look = match self.look().await {
                Ok(look) => look,
                Err(error) => {
                    tracing::debug!(queue = %self.ring.shard.queue, %error, "cannot adopt");
                    Look::Missing
                }
            };
            let earliest = Instant::now() + LOOK_MIN;
            match look {
                Look::Open => self.ring.alarmed().await,
                Look::Ready => {
                    let _ = tokio::time::timeout(IDLE, self.ring.alarmed()).await;
                }
                Look::Missing => tokio::time::sleep(AGAIN).await,
            }
            tokio::time::sleep_until(earliest).await;
        }
    }

    async fn look(&mut self) -> Result<Look, EngineError> {
        let shard = Arc::clone(&self.ring.shard);
        let view = self.engine.gate(&shard).await?;
        let generation = view.gate.map(|gate| gate.generation);
        let open = generation.filter(|_| view.is_open());
        self.ring.note(&Position { generation: open, ..Position::default() });
        let found = (view.process, generation);
        // A gate without a process is one that is being verified.
        let verified = view.gate.filter(|gate| gate.process.is_none());
        if let Some(gate) = verified.filter(|_| !view.present.contains(&self.worker)) {
            self.report(&gate, Report::Present).await?;
        }
        let ledger = view.gate.map(|gate| gate.ledger);
        self.ring.note_holds(ledger);
        self.adopt(ledger, self.adopted != Some(found)).await?;
        self.adopted = Some(found);
        if open.is_some() {
            // What is to be replayed is, whether anybody waits for it or not.
            return Ok(Look::Open);
        }
        if !self.ring.until_replayed(REPLAY_WAIT).await {
            return Ok(Look::Missing);
        }
        if let Some(gate) = verified.filter(|_| !view.reported.contains(&self.worker)) {
            self.report(&gate, Report::Done).await?;
        }
        Ok(Look::Ready)
    }

    async fn report(&self, gate: &Gate, report: Report) -> Result<(), EngineError> {
        let (shard, worker) = (&self.ring.shard, self.worker);
        self.engine.report(shard, gate.ledger, gate.generation, worker, report).await
    }

    /// Adopts all leases of the shard, or only those that the engine has said not to know; of its ledger.
    async fn adopt(&self, ledger: Option<LedgerId>, all: bool) -> Result<(), EngineError> {
        if !all && !self.leases.any_unknown(&self.ring.shard) {
            return Ok(());
        }
        let turn = tokio::time::timeout(TURN_MAX, self.ring.turn.lock()).await;
        if turn.is_err() {
            tracing::warn!(queue = %self.ring.shard.queue, "adopting while a settle hangs");
        }
        let attempts = self.leases.to_adopt(&self.ring.shard, ledger, all);
        for batch in attempts.chunks(ENGINE_BATCH_MAX) {
            let adoptions: Vec<Adoption> = batch.iter().map(|attempt| attempt.adoption()).collect();
            let sent_ms = boot_ms();
            let shard = &self.ring.shard;
            let replies = self.engine.adopt(shard, self.worker, self.lease, &adoptions).await?;
            for (attempt, reply) in batch.iter().zip(replies) {
                note(attempt, sent_ms, reply);
            }
        }
        Ok(())
    }
}

fn note(attempt: &Attempt, sent_ms: u64, reply: Adopted) {
    let (id, fence) = (attempt.held.id, attempt.held.fence);
    let label = match reply {
        Adopted::Held { expires_at } => {
            attempt.extended(sent_ms, expires_at);
            "held"
        }
        Adopted::Over | Adopted::Stolen => {
            if attempt.lose() {
                metrics::counter!("windlass_lease_lost_total").increment(1);
                tracing::warn!(job.id = %id, %fence, ?reply, "a lease cannot be put back");
            }
            attempt.stop.stop(StopReason::LeaseLost);
            if reply == Adopted::Over { "over" } else { "stolen" }
        }
    };
    metrics::counter!("windlass_adoptions_total", "reply" => label).increment(1);
}
