//! Push calls, and the first opening of a shard that they may make necessary.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::engine_time::EngineTime;
use super::push::{belongs_in_engine, push_of};
use super::sweep::is_over;
use crate::engine::PushOrigin;
use crate::engine::flow::Group;
use crate::engine::{
    Engine, EngineError, Opened, Opening, Push, PushReply, Pushed, ShardId, Shut, Validity,
};
use crate::ledger::{Ledger, LedgerError, shard_of};
use crate::limits;
use crate::model::id::JobId;
use crate::model::job::Job;
use crate::model::time::Timestamp;

/// Shards remembered; beyond it all are forgotten and looked up again.
const SHARDS_MAX: usize = 100_000;

/// Why a push could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The ledger, when it was asked for a queue's settings.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What became of some pushes of one shard.
#[derive(Debug, Clone, Default)]
pub(super) struct PushCount {
    /// Now claimable or delayed.
    pub added: u64,
    /// Left in the ledger for want of bytes although they could run now. Those refused ahead of their time,
    /// for which there is a bound of its own, do not count.
    pub full: u64,
    /// What justified them is too old by now: the caller must look at the ledger again.
    pub late: u64,
    /// Groups of which some are left in the ledger because they have their part of the room.
    pub crowded: BTreeSet<Group>,
}

/// What was known of the engine at one moment. Pushes that are justified by a statement are justified for as long as
/// its ticket, drawn before the statement was sent, says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// See [`Validity::not_after`].
    pub not_after: Timestamp,
    /// Generations learned later were not known then.
    version: u64,
}

impl Ticket {
    /// Engine time when it was drawn.
    pub fn now(self) -> Timestamp {
        self.not_after.minus(limits::PUSH_WINDOW)
    }

    /// The older one in every respect.
    pub fn min(self, other: Self) -> Self {
        Self {
            not_after: self.not_after.min(other.not_after),
            version: self.version.min(other.version),
        }
    }
}

/// Generations of gates, as replies told them.
#[derive(Default)]
struct Known {
    /// Counts what was learned.
    version: u64,
    /// The generation, and the version since which it is known.
    shards: HashMap<ShardId, (u64, u64)>,
}

/// The way of committed jobs into the engine.
#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) ledger: Ledger,
    pub(super) engine: Engine,
    pub(super) time: EngineTime,
    /// Shards whose first opening is over, whoever made it.
    opened: Arc<Mutex<HashSet<ShardId>>>,
    known: Arc<Mutex<Known>>,
}

impl Delivery {
    pub(super) fn new(ledger: Ledger, engine: Engine) -> Self {
        Self {
            ledger,
            engine,
            time: EngineTime::default(),
            opened: Arc::default(),
            known: Arc::default(),
        }
    }

    /// For pushes that a statement sent after this call will justify; `None`: the engine does not answer.
    pub(super) async fn ticket(&self) -> Option<Ticket> {
        let version = self.known().version;
        let not_after = self.time.deadline(&self.engine).await?;
        Some(Ticket { not_after, version })
    }

    /// Pushes up to [`limits::ENGINE_BATCH_MAX`] jobs that a walk over the ledger has found, and opens the shard if it never
    /// was.
    pub(super) async fn push(
        &self,
        shard: &ShardId,
        pushes: &[Push],
        ticket: Ticket,
    ) -> Result<PushCount, PushError> {
        self.push_from(shard, pushes, ticket, PushOrigin::Ledger).await
    }

    /// The same, of jobs that were committed a moment ago.
    pub(super) async fn push_fresh(
        &self,
        shard: &ShardId,
        pushes: &[Push],
        ticket: Ticket,
    ) -> Result<PushCount, PushError> {
        self.push_from(shard, pushes, ticket, PushOrigin::Fresh).await
    }

    async fn push_from(
        &self,
        shard: &ShardId,
        pushes: &[Push],
        ticket: Ticket,
        origin: PushOrigin,
    ) -> Result<PushCount, PushError> {
        let mut reply = self.push_once(shard, pushes, ticket, origin).await?;
        let again;
        let mut pushes = pushes;
        let is_late = reply.pushed.first() == Some(&Pushed::Late);
        if is_late && reply.generation > 0 && reply.now <= ticket.not_after {
            // The shard was compared with the ledger since: it is looked at once more.
            let Some(ticket) = self.ticket().await else {
                return Ok(PushCount { late: pushes.len() as u64, ..PushCount::default() });
            };
            let ids: Vec<JobId> = pushes.iter().map(|push| push.id).collect();
            again = self.still_due(shard, &ids, ticket).await?;
            pushes = &again;
            reply = self.push_once(shard, pushes, ticket, origin).await?;
        }
        // Nothing of this ledger was ever there, or all of it is gone: the push is as good after the first opening.
        if !reply.open && self.open_first(shard).await? && is_late && reply.now <= ticket.not_after
        {
            reply = self.push_once(shard, pushes, ticket, origin).await?;
        }
        let count = |what: Pushed| reply.pushed.iter().filter(|p| **p == what).count() as u64;
        let could_run =
            pushes.iter().zip(&reply.pushed).filter(|(push, _)| push.run_at <= reply.now);
        let full = could_run.filter(|(_, what)| **what == Pushed::Full).count() as u64;
        let crowded = pushes.iter().zip(&reply.pushed);
        let crowded = crowded.filter(|(_, what)| **what == Pushed::Crowded);
        let crowded = crowded.map(|(push, _)| Group::of(push.flow.as_ref())).collect();
        let counted =
            PushCount { added: count(Pushed::Added), late: count(Pushed::Late), full, crowded };
        let refused = count(Pushed::Full) + count(Pushed::Crowded);
        if refused > 0 {
            metrics::counter!("windlass_push_full_total").increment(refused);
        }
        Ok(counted)
    }

    async fn push_once(
        &self,
        shard: &ShardId,
        pushes: &[Push],
        ticket: Ticket,
        origin: PushOrigin,
    ) -> Result<PushReply, EngineError> {
        let valid = Validity {
            ledger: self.ledger.id(),
            generation: self.generation(shard, ticket),
            not_after: ticket.not_after,
            origin,
        };
        let reply = self.engine.push(shard, pushes, &valid).await?;
        self.time.note(reply.now);
        self.learn(shard, reply.generation);
        Ok(reply)
    }

    /// Those of some jobs that are to be in this shard, as they are on record now. The ticket is drawn before.
    pub(super) async fn still_due(
        &self,
        shard: &ShardId,
        ids: &[JobId],
        ticket: Ticket,
    ) -> Result<Vec<Push>, LedgerError> {
        let jobs = self.ledger.jobs(ids).await?;
        let now = ticket.now();
        let is_due = |job: &&Job| {
            shard_of(job) == *shard && belongs_in_engine(job, now) && !is_over(job, now)
        };
        Ok(jobs.iter().filter(is_due).map(push_of).collect())
    }

    /// The generation of a shard's gate as it was known when the ticket was drawn; 0: it was not.
    fn generation(&self, shard: &ShardId, ticket: Ticket) -> u64 {
        let known = self.known();
        let in_time = known.shards.get(shard).filter(|(_, since)| *since <= ticket.version);
        in_time.map_or(0, |(generation, _)| *generation)
    }

    /// Notes the generation of a shard's gate.
    pub(super) fn learn(&self, shard: &ShardId, generation: u64) {
        let mut known = self.known();
        if generation == 0 || known.shards.get(shard).is_some_and(|(old, _)| *old >= generation) {
            return;
        }
        if known.shards.len() >= SHARDS_MAX {
            known.shards.clear();
        }
        known.version += 1;
        let version = known.version;
        known.shards.insert(shard.clone(), (generation, version));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while holding it")
    }

    /// Opens a shard of which nothing was ever leased. One that has been open before is left to its verification:
    /// what ran there may run still. Whether it was opened now. Safe to repeat and to drop: what is left undone, the
    /// leader finishes.
    pub(super) async fn open_first(&self, shard: &ShardId) -> Result<bool, PushError> {
        if self.lock().contains(shard) {
            return Ok(false);
        }
        if self.ledger.shard(shard).await?.generation > 0 {
            self.remember(shard);
            return Ok(false);
        }
        let Some(queue) = self.ledger.queue(&shard.namespace, &shard.queue).await? else {
            return Ok(false);
        };
        let Some(ticket) = self.ticket().await else { return Ok(false) };
        let ledger = self.ledger.id();
        // Shut before it is won: a gate that is wiped after this cannot be opened by a late winner.
        let shut = self.engine.shut(shard, ledger, 1, ticket.not_after).await?;
        let Shut::Shut { process, wiped } = shut else { return Ok(false) };
        if wiped {
            tracing::warn!(%shard, "the queue store held jobs of another ledger here (wrong_ledger); emptied");
        }
        let is_first = self.ledger.first_generation(shard).await?;
        self.remember(shard);
        if !is_first {
            return Ok(false);
        }
        let opening = Opening {
            settings: queue.shard_settings(),
            ledger,
            generation: 1,
            process,
            grace: limits::LEASE_DEFAULT,
            slots: 0,
            ramp: Duration::ZERO,
        };
        let is_open = self.engine.open_gate(shard, &opening).await? == Opened::Open;
        if is_open {
            self.ledger.note_opened(shard, 1, process).await?;
        }
        Ok(is_open)
    }

    fn remember(&self, shard: &ShardId) {
        let mut opened = self.lock();
        if opened.len() >= SHARDS_MAX {
            opened.clear();
        }
        opened.insert(shard.clone());
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ShardId>> {
        self.opened.lock().expect("nothing panics while holding it")
    }
}
