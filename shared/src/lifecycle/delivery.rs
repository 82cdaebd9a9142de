//! Push calls, and the first opening of a shard that they may make necessary.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::engine_time::EngineTime;
use crate::engine::{Engine, EngineError, Opened, Opening, Push, Pushed, ShardId, Shut};
use crate::ledger::{Ledger, LedgerError};
use crate::limits;
use crate::model::time::Timestamp;

/// Shards remembered that were opened before; beyond it all are forgotten and looked up again.
const OPENED_MAX: usize = 100_000;

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
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PushCount {
    /// Now claimable or delayed.
    pub added: u64,
    /// Left in the ledger for want of room although they could run now. Those refused ahead of their time,
    /// for which there is a bound of its own, do not count.
    pub full: u64,
}

/// The way of committed jobs into the engine.
#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) ledger: Ledger,
    pub(super) engine: Engine,
    pub(super) time: EngineTime,
    /// Shards whose first opening is over, whoever made it.
    opened: Arc<Mutex<HashSet<ShardId>>>,
}

impl Delivery {
    pub(super) fn new(ledger: Ledger, engine: Engine) -> Self {
        Self { ledger, engine, time: EngineTime::default(), opened: Arc::default() }
    }

    /// The `not_after` of calls that a statement sent after this one will justify; `None`: the engine does not
    /// answer.
    pub(super) async fn deadline(&self) -> Option<Timestamp> {
        self.time.deadline(&self.engine).await
    }

    /// Pushes up to [`limits::ENGINE_BATCH_MAX`] jobs, and opens the shard if it never was.
    pub(super) async fn push(
        &self,
        shard: &ShardId,
        pushes: &[Push],
        not_after: Timestamp,
    ) -> Result<PushCount, PushError> {
        let reply = self.engine.push(shard, pushes, not_after).await?;
        self.time.note(reply.now);
        let count = |what: Pushed| reply.pushed.iter().filter(|p| **p == what).count() as u64;
        let could_run =
            pushes.iter().zip(&reply.pushed).filter(|(push, _)| push.run_at <= reply.now);
        let full = could_run.filter(|(_, what)| **what == Pushed::Full).count() as u64;
        let counted = PushCount { added: count(Pushed::Added), full };
        let refused = count(Pushed::Full);
        if refused > 0 {
            metrics::counter!("windlass_push_full_total").increment(refused);
        }
        if !reply.open {
            self.open_first(shard).await?;
        }
        Ok(counted)
    }

    /// Opens a shard of which nothing was ever leased. One that has been open before is left to its verification:
    /// what ran there may run still. Safe to repeat and to drop: what is left undone, the leader finishes.
    pub(super) async fn open_first(&self, shard: &ShardId) -> Result<(), PushError> {
        if self.lock().contains(shard) {
            return Ok(());
        }
        if self.ledger.shard(shard).await?.generation > 0 {
            self.remember(shard);
            return Ok(());
        }
        let Some(queue) = self.ledger.queue(&shard.namespace, &shard.queue).await? else {
            return Ok(());
        };
        let Some(not_after) = self.deadline().await else { return Ok(()) };
        let is_first = self.ledger.first_generation(shard).await?;
        self.remember(shard);
        if !is_first {
            return Ok(());
        }
        let ledger = self.ledger.id();
        let Shut::Shut { process, .. } = self.engine.shut(shard, ledger, 1, not_after).await?
        else {
            return Ok(());
        };
        let opening = Opening {
            settings: queue.shard_settings(),
            ledger,
            generation: 1,
            process,
            grace: limits::LEASE_DEFAULT,
            slots: 0,
            ramp: Duration::ZERO,
        };
        if self.engine.open_gate(shard, &opening).await? == Opened::Open {
            self.ledger.note_opened(shard, 1, process).await?;
        }
        Ok(())
    }

    fn remember(&self, shard: &ShardId) {
        let mut opened = self.lock();
        if opened.len() >= OPENED_MAX {
            opened.clear();
        }
        opened.insert(shard.clone());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<ShardId>> {
        self.opened.lock().expect("nothing panics while holding it")
    }
}
