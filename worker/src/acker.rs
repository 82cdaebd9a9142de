//! Settles attempts in batches, each shard by itself and in order. A settle is never skipped: while the
//! engine is away it is tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
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

/// Where attempts hand in their settles: a bounded inbox for each shard of the worker, so that one whose
/// settles fail holds up nothing but itself. A full inbox keeps the slots of its own attempts taken.
#[derive(Clone)]
pub(crate) struct Acks {
    inboxes: Arc<HashMap<ShardId, Inbox>>,
}

struct Inbox {
    settles: mpsc::Sender<Settle>,
    /// The latest settles did not get through.
    fails: Arc<AtomicBool>,
}

impl Acks {
    /// Hands in a settle; waits while its shard is behind.
    ///
    /// # Errors
    /// The acker is gone, which it is only when the process is being torn down.
    pub(crate) async fn send(&self, ack: Ack) -> Result<(), Ack> {
        let Ack { shard, settle } = ack;
        match self.inboxes.get(&*shard) {
            Some(inbox) => {
                inbox.settles.send(settle).await.map_err(|unsent| Ack { shard, settle: unsent.0 })
            }
            None => Err(Ack { shard, settle }),
        }
    }

    /// Whether the shard's settles do not get through and pile up: what is claimed there would only be held up
    /// too. An inbox that is full of settles which do get through is a busy one, and no reason to claim less.
    pub(crate) fn is_behind(&self, shard: &ShardId) -> bool {
        self.inboxes.get(shard).is_some_and(|inbox| {
            inbox.fails.load(Ordering::Relaxed)
                && inbox.settles.capacity() < inbox.settles.max_capacity() / 2
        })
    }
}

/// The task that settles.
pub(crate) struct Acker {
    lanes: Vec<Lane>,
}

impl Acker {
    /// For these shards, and at most `waiting_max` settles that wait in each. `last_try` is set when the worker
    /// has stopped and has no more time: then what is left is tried once more and given up.
    pub(crate) fn new(
        engine: &Engine,
        leases: &Arc<Leases>,
        shards: impl Iterator<Item = ShardId>,
        waiting_max: usize,
        last_try: &Arc<AtomicBool>,
    ) -> (Acks, Self) {
        let mut inboxes = HashMap::new();
        let mut lanes = Vec::new();
        for shard in shards {
            let (settles, inbox) = mpsc::channel(waiting_max);
            let fails = Arc::new(AtomicBool::new(false));
            let entry = Inbox { settles, fails: Arc::clone(&fails) };
            if inboxes.insert(shard.clone(), entry).is_none() {
                lanes.push(Lane {
                    engine: engine.clone(),
                    leases: Arc::clone(leases),
                    shard,
                    inbox,
                    fails,
                    last_try: Arc::clone(last_try),
                    open: Vec::new(),
                    given_up: 0,
                });
            }
        }
        (Acks { inboxes: Arc::new(inboxes) }, Self { lanes })
    }

    /// Settles until every [`Acks`] is dropped and nothing is open; how many settles were given up because
    /// the engine stayed away until `last_try`. Dropped before, it settles nothing more.
    pub(crate) async fn run(self) -> usize {
        let mut lanes: JoinSet<usize> = self.lanes.into_iter().map(Lane::run).collect();
        let mut given_up = 0;
        while let Some(ended) = lanes.join_next().await {
            match ended {
                Ok(count) => given_up += count,
                // Whoever watches the acker is to know.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        given_up
    }
}

/// The settles of one shard.
struct Lane {
    engine: Engine,
    leases: Arc<Leases>,
    shard: ShardId,
    inbox: mpsc::Receiver<Settle>,
    fails: Arc<AtomicBool>,
    last_try: Arc<AtomicBool>,
    /// Taken, and not settled yet.
    open: Vec<Settle>,
    given_up: usize,
}

impl Lane {
    async fn run(mut self) -> usize {
        let mut pause = Pause::default();
        while self.gather().await {
            let batch = std::mem::take(&mut self.open);
            self.open = self.settle_batch(batch).await;
            self.fails.store(!self.open.is_empty(), Ordering::Relaxed);
            if self.open.is_empty() {
                pause.reset();
            } else if self.last_try.load(Ordering::Acquire) {
                // What waits behind them has its own try.
                self.given_up += self.open.len();
                self.open.clear();
            } else {
                tokio::time::sleep(pause.next()).await;
            }
        }
        self.given_up
    }

    /// Takes what waits, up to a batch; waits for something only if nothing is open. `false`: all done.
    async fn gather(&mut self) -> bool {
        if self.open.is_empty() {
            return self.inbox.recv_many(&mut self.open, ENGINE_BATCH_MAX).await > 0;
        }
        while self.open.len() < ENGINE_BATCH_MAX
            && let Ok(settle) = self.inbox.try_recv()
        {
            self.open.push(settle);
        }
        true
    }

    /// What could not be settled.
    async fn settle_batch(&self, settles: Vec<Settle>) -> Vec<Settle> {
        match self.engine.settle(&self.shard, &settles).await {
            Ok(replies) => {
                self.note(&settles, &replies);
                Vec::new()
            }
            Err(error) if error.is_transient() || settles.len() == 1 => {
                self.warn(settles.len(), &error);
                settles
            }
            // One of them may be what the engine cannot take: it must not hold up the others.
            Err(error) => {
                self.warn(settles.len(), &error);
                self.settle_singly(settles).await
            }
        }
    }

    async fn settle_singly(&self, settles: Vec<Settle>) -> Vec<Settle> {
        let mut left = Vec::new();
        for settle in settles {
            match self.engine.settle(&self.shard, std::slice::from_ref(&settle)).await {
                Ok(replies) => self.note(std::slice::from_ref(&settle), &replies),
                Err(error) => {
                    self.warn(1, &error);
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

    fn warn(&self, settles: usize, error: &EngineError) {
        tracing::warn!(queue = %self.shard.queue, settles, %error, "cannot settle; trying again");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use windlass_shared::config::EngineSettings;
    use windlass_shared::engine::{ClaimRequest, Held, Push, ShardSettings, Verdict};
    use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};

    use windlass_shared::model::name::Namespace;
    use windlass_shared::testkit::gates::open_shard;
    use windlass_shared::testkit::redis_server::{RedisServer, unique_prefix};

    use super::*;

    /// Nothing here takes longer unless it hangs.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn shard(queue: &str) -> Arc<ShardId> {
        Arc::new(ShardId::first(Namespace::default(), queue.parse().unwrap()))
    }

    fn success(id: JobId, fence: Fence, lease_id: LeaseId) -> Settle {
        let held = Held { id, fence, lease_id };
        Settle { held, verdict: Verdict::Succeeded, detail: Bytes::new() }
    }

    /// Pushes and claims one job; its settle.
    async fn running(engine: &Engine, shard: &ShardId) -> Settle {
        let now = engine.now().await.unwrap();
        let push = Push::new(Fence(1), "plain".parse().unwrap(), now, Bytes::new());
        engine.push(shard, &[push], now.plus(PATIENCE)).await.unwrap();
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max: 1,
            lease: PATIENCE,
            kinds: Vec::new(),
            offset: 0,
        };
        let claimed = engine.claim(shard, &request).await.unwrap().jobs.remove(0);
        success(claimed.id, claimed.fence, request.lease_id)
    }

    /// Goal: settles of one shard that fail keep neither the settles of others waiting, nor, at the end of a
    /// drain, from being tried.
    /// Method: the keys of one shard are damaged; its inbox is filled to the brim first.
    #[tokio::test]
    async fn a_shard_that_fails_holds_up_nothing_but_itself() {
        let server = RedisServer::shared();
        let prefix = unique_prefix();
        let settings =
            EngineSettings { prefix: prefix.clone(), ..EngineSettings::new(server.url()) };
        let engine = Engine::open(&settings).await.unwrap();
        let (bad, good) = (shard("bad"), shard("good"));
        server.command(&["SET", &format!("{prefix}:{{{bad}}}:held"), "?"]).expect_ok();
        let open = ShardSettings { version: 1, ..ShardSettings::default() };
        assert!(open_shard(&engine, &good, open).await.unwrap());

        let last_try = Arc::new(AtomicBool::new(false));
        let leases = Arc::new(Leases::default());
        let shards = [&bad, &good].into_iter().map(|shard| (**shard).clone());
        let (acks, acker) = Acker::new(&engine, &leases, shards, ENGINE_BATCH_MAX, &last_try);
        let acker = tokio::spawn(acker.run());
        let lost = || success(JobId::generate(), Fence(1), LeaseId::random());
        // More than a batch, so that at least half of the inbox waits behind what fails.
        let sent = ENGINE_BATCH_MAX + ENGINE_BATCH_MAX / 2 + 1;
        for _ in 0..sent {
            let ack = Ack { shard: Arc::clone(&bad), settle: lost() };
            tokio::time::timeout(PATIENCE, acks.send(ack)).await.expect("there is room").unwrap();
        }
        let behind = async {
            while !acks.is_behind(&bad) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, behind).await.expect("what fails and piles up is behind");
        // A full inbox alone is a busy one.
        assert!(!acks.is_behind(&good));
        for _ in 0..ENGINE_BATCH_MAX {
            if acks.inboxes[&*good].settles.try_send(lost()).is_err() {
                break;
            }
        }
        assert!(!acks.is_behind(&good));

        let settle = running(&engine, &good).await;
        let ack = Ack { shard: Arc::clone(&good), settle };
        tokio::time::timeout(PATIENCE, acks.send(ack)).await.expect("it is not held up").unwrap();
        let recorded = async {
            while engine.outcomes(&good, 9).await.unwrap().len() != 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, recorded).await.expect("it is settled");

        last_try.store(true, Ordering::Release);
        let ack = Ack { shard: Arc::clone(&good), settle: running(&engine, &good).await };
        acks.send(ack).await.unwrap();
        drop(acks);
        let given_up = tokio::time::timeout(PATIENCE, acker).await.expect("it gives up").unwrap();
        assert_eq!(given_up, sent, "every one that was not settled is counted");
        assert_eq!(engine.outcomes(&good, 9).await.unwrap().len(), 2);
    }
}
