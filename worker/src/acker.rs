//! Settles attempts in batches. A settle is never skipped: while the engine is away it is tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use windlass_shared::engine::{Engine, EngineError, Settle, Settled, ShardId};
use windlass_shared::limits::ENGINE_BATCH_MAX;

use crate::leases::Leases;
use crate::pause::Pause;

/// One settle on its way.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub(crate) shard: Arc<ShardId>,
    pub(crate) settle: Settle,
}

/// Where attempts hand in their settles. Waits while the acker is behind, which in turn keeps slots taken
/// and the claimer from claiming.
pub(crate) type Acks = mpsc::Sender<Ack>;

/// The task that settles.
pub(crate) struct Acker {
    engine: Engine,
    leases: Arc<Leases>,
    inbox: mpsc::Receiver<Ack>,
    /// Fired when the worker has stopped and has no more time: then it tries once more and gives up.
    last_try: Arc<AtomicBool>,
    /// Taken, and not settled yet.
    open: Vec<Ack>,
}

impl Acker {
    /// For at most `waiting_max` settles that wait.
    pub(crate) fn new(
        engine: Engine,
        leases: Arc<Leases>,
        waiting_max: usize,
        last_try: Arc<AtomicBool>,
    ) -> (Acks, Self) {
        let (tx, inbox) = mpsc::channel(waiting_max);
        (tx, Self { engine, leases, inbox, last_try, open: Vec::new() })
    }

    /// Settles until every [`Acks`] is dropped and nothing is open; how many settles were given up because
    /// the engine stayed away until `last_try`.
    pub(crate) async fn run(mut self) -> usize {
        let mut pause = Pause::default();
        loop {
            if !self.gather().await {
                return 0;
            }
            if self.settle_open().await {
                pause.reset();
            } else if self.last_try.load(Ordering::Acquire) {
                return self.open.len();
            } else {
                tokio::time::sleep(pause.next()).await;
            }
        }
    }

    /// Takes what waits, up to a batch; waits for something only if nothing is open. `false`: all done.
    async fn gather(&mut self) -> bool {
        if self.open.is_empty() {
            return self.inbox.recv_many(&mut self.open, ENGINE_BATCH_MAX).await > 0;
        }
        while self.open.len() < ENGINE_BATCH_MAX
            && let Ok(ack) = self.inbox.try_recv()
        {
            self.open.push(ack);
        }
        true
    }

    /// Settles what is open, shard by shard; whether nothing is left. What could not be settled stays open.
    async fn settle_open(&mut self) -> bool {
        for (shard, acks) in by_shard(std::mem::take(&mut self.open)) {
            let left = self.settle_batch(&shard, acks).await;
            self.open
                .extend(left.into_iter().map(|settle| Ack { shard: Arc::clone(&shard), settle }));
        }
        self.open.is_empty()
    }

    /// What could not be settled.
    async fn settle_batch(&self, shard: &ShardId, settles: Vec<Settle>) -> Vec<Settle> {
        match self.engine.settle(shard, &settles).await {
            Ok(replies) => {
                self.note(&settles, &replies);
                Vec::new()
            }
            Err(error) if error.is_transient() || settles.len() == 1 => {
                warn(shard, settles.len(), &error);
                settles
            }
            // One of them may be what the engine cannot take: it must not hold up the others.
            Err(error) => {
                warn(shard, settles.len(), &error);
                self.settle_singly(shard, settles).await
            }
        }
    }

    async fn settle_singly(&self, shard: &ShardId, settles: Vec<Settle>) -> Vec<Settle> {
        let mut left = Vec::new();
        for settle in settles {
            match self.engine.settle(shard, std::slice::from_ref(&settle)).await {
                Ok(replies) => self.note(std::slice::from_ref(&settle), &replies),
                Err(error) => {
                    warn(shard, 1, &error);
                    left.push(settle);
                }
            }
        }
        left
    }

    /// Settled is not yet recorded: an engine that is wiped now forgets the outcome. This is the place where
    /// outcomes would be kept until the ledger has them, to be sent there directly.
    fn note(&self, settles: &[Settle], replies: &[Settled]) {
        self.leases.remove(settles.iter().map(|settle| &settle.held));
        let mut counts = [0u64; 4];
        for (settle, reply) in settles.iter().zip(replies) {
            let (id, fence) = (settle.held.id, settle.held.fence);
            match reply {
                Settled::Settled => counts[0] += 1,
                Settled::Repeated => counts[1] += 1,
                Settled::Gone => {
                    counts[2] += 1;
                    tracing::warn!(job.id = %id, %fence, "the engine does not know the lease of an ended attempt");
                }
                Settled::Stolen => {
                    counts[3] += 1;
                    tracing::warn!(job.id = %id, %fence, "the lease of an ended attempt had passed to another worker");
                }
            }
        }
        for (reply, count) in ["settled", "repeated", "gone", "stolen"].into_iter().zip(counts) {
            if count > 0 {
                metrics::counter!("windlass_settles_total", "reply" => reply).increment(count);
            }
        }
        let lost = counts[2] + counts[3];
        if lost > 0 {
            metrics::counter!("windlass_lease_lost_total").increment(lost);
        }
    }
}

fn by_shard(acks: Vec<Ack>) -> HashMap<Arc<ShardId>, Vec<Settle>> {
    let mut shards: HashMap<Arc<ShardId>, Vec<Settle>> = HashMap::new();
    for Ack { shard, settle } in acks {
        shards.entry(shard).or_default().push(settle);
    }
    shards
}

fn warn(shard: &ShardId, settles: usize, error: &EngineError) {
    tracing::warn!(queue = %shard.queue, settles, %error, "cannot settle; trying again");
}
