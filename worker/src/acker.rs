//! Settles attempts in batches, each shard by itself and in order. A settle is never skipped: while the
//! engine is away it is tried again. What the engine has settled goes into the ring; what it does not answer for a
//! while, or does not know, goes to the ledger by the direct path.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use windlass_shared::engine::{
    Engine, EngineError, Position, Settle, SettleReply, Settled, ShardId,
};
use windlass_shared::limits::ENGINE_BATCH_MAX;

use crate::leases::Leases;
use crate::pause::Pause;
use crate::ring::{Done, Rings, ShardRing, Then};

/// A settle that the engine has not answered for so long is sent to the ledger by the direct path as well.
const UNANSWERED_MAX: Duration = Duration::from_secs(2);

/// One settle on its way.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub(crate) shard: Arc<ShardId>,
    pub(crate) done: Done,
}

/// Where attempts hand in their settles: a bounded inbox for each shard of the worker, so that one whose
/// settles fail holds up nothing but itself. A full inbox keeps the slots of its own attempts taken.
#[derive(Clone)]
pub(crate) struct Acks {
    inboxes: Arc<HashMap<ShardId, Inbox>>,
}

struct Inbox {
    settles: mpsc::Sender<Done>,
    /// The latest settles did not get through.
    fails: Arc<AtomicBool>,
    ring: Arc<ShardRing>,
}

impl Acks {
    /// Hands in a settle; waits while its shard is behind.
    ///
    /// # Errors
    /// The acker is gone, which it is only when the process is being torn down.
    pub(crate) async fn send(&self, ack: Ack) -> Result<(), Ack> {
        let Ack { shard, done } = ack;
        match self.inboxes.get(&*shard) {
            Some(inbox) => {
                inbox.settles.send(done).await.map_err(|unsent| Ack { shard, done: unsent.0 })
            }
            None => Err(Ack { shard, done }),
        }
    }

    /// Whether the shard's settles do not get through and pile up, or are not recorded: what is claimed there would
    /// only be held up too. An inbox that is full of settles which do get through is a busy one, and no reason to
    /// claim less.
    pub(crate) fn is_behind(&self, shard: &ShardId) -> bool {
        self.inboxes.get(shard).is_some_and(|inbox| {
            let piles_up = inbox.fails.load(Ordering::Relaxed)
                && inbox.settles.capacity() < inbox.settles.max_capacity() / 2;
            piles_up || inbox.ring.is_full()
        })
    }

    /// Settles that all rings of the worker keep.
    pub(crate) fn kept(&self) -> usize {
        self.inboxes.values().next().map_or(0, |inbox| inbox.ring.kept_by_all())
    }

    /// Takes over what the reply to a claim says of its shard.
    pub(crate) fn note(&self, shard: &ShardId, position: &Position) {
        if let Some(inbox) = self.inboxes.get(shard) {
            inbox.ring.note(position);
        }
    }
}

/// The task that settles.
pub(crate) struct Acker {
    lanes: Vec<Lane>,
}

impl Acker {
    /// For the shards of these rings, and at most `waiting_max` settles that wait in each. `last_try` is set when the
    /// worker has stopped and has no more time: then what is left is tried once more and given up.
    pub(crate) fn new(
        engine: &Engine,
        leases: &Arc<Leases>,
        rings: &Rings,
        waiting_max: usize,
        last_try: &Arc<AtomicBool>,
    ) -> (Acks, Self) {
        let mut inboxes = HashMap::new();
        let mut lanes = Vec::new();
        for ring in rings.iter() {
            let (settles, inbox) = mpsc::channel(waiting_max);
            let fails = Arc::new(AtomicBool::new(false));
            let entry = Inbox { settles, fails: Arc::clone(&fails), ring: Arc::clone(ring) };
            inboxes.insert(ShardId::clone(&ring.shard), entry);
            lanes.push(Lane {
                engine: engine.clone(),
                leases: Arc::clone(leases),
                ring: Arc::clone(ring),
                inbox,
                waiting_max,
                fails,
                last_try: Arc::clone(last_try),
                open: Vec::new(),
                failing_since: None,
                given_up: 0,
            });
        }
        (Acks { inboxes: Arc::new(inboxes) }, Self { lanes })
    }

    /// Settles until every [`Acks`] is dropped and nothing is open; how many settles were given up because
    /// the engine stayed away until `last_try`: they are left to the direct path. Dropped before, it settles nothing
    /// more.
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
    ring: Arc<ShardRing>,
    inbox: mpsc::Receiver<Done>,
    waiting_max: usize,
    fails: Arc<AtomicBool>,
    last_try: Arc<AtomicBool>,
    /// Taken, and not settled yet; in order.
    open: Vec<Done>,
    failing_since: Option<Instant>,
    given_up: usize,
}

impl Lane {
    async fn run(mut self) -> usize {
        let mut pause = Pause::default();
        while self.gather().await {
            let left = self.settle_open().await;
            self.fails.store(left > 0, Ordering::Relaxed);
            if left == 0 {
                pause.reset();
                self.failing_since = None;
            } else if self.last_try.load(Ordering::Acquire) {
                // What waits behind them has its own try.
                self.given_up += left;
                self.ring.send(self.open.drain(..left).collect(), Then::Abandoned);
            } else {
                let since = *self.failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= UNANSWERED_MAX {
                    tell(&self.ring, &mut self.open);
                }
                tokio::time::sleep(pause.next()).await;
            }
        }
        self.given_up
    }

    /// Takes what waits, up to a batch, or all while the engine is away: the direct path can have it. Waits for
    /// something only if nothing is open. `false`: all done.
    async fn gather(&mut self) -> bool {
        if self.open.is_empty() {
            return self.inbox.recv_many(&mut self.open, ENGINE_BATCH_MAX).await > 0;
        }
        let away = self.failing_since.is_some_and(|since| since.elapsed() >= UNANSWERED_MAX);
        let max = if away { self.waiting_max } else { ENGINE_BATCH_MAX };
        while self.open.len() < max
            && let Ok(done) = self.inbox.try_recv()
        {
            self.open.push(done);
        }
        true
    }

    /// Settles the first of the open ones; how many of those could not be settled and are the first still.
    async fn settle_open(&mut self) -> usize {
        let ring = Arc::clone(&self.ring);
        let count = self.open.len().min(ENGINE_BATCH_MAX);
        // No lease is put back while it is being settled: see `adoption`.
        let _turn = ring.turn.lock().await;
        match self.call(count).await {
            Ok(reply) => {
                let rest = self.open.split_off(count);
                let settled = std::mem::replace(&mut self.open, rest);
                self.note(settled, &reply);
                0
            }
            Err(error) if error.is_transient() || count == 1 => {
                self.warn(count, &error);
                count
            }
            // One of them may be what the engine cannot take: it must not hold up the others.
            Err(error) => {
                self.warn(count, &error);
                self.settle_singly(count).await
            }
        }
    }

    async fn settle_singly(&mut self, count: usize) -> usize {
        let mut left = 0;
        for _ in 0..count {
            let settle = self.open[left].settle.clone();
            match self.engine.settle(&self.ring.shard, std::slice::from_ref(&settle)).await {
                Ok(reply) => {
                    let done = self.open.remove(left);
                    self.note(vec![done], &reply);
                }
                Err(error) => {
                    self.warn(1, &error);
                    left += 1;
                }
            }
        }
        left
    }

    /// One call for the first `count`. Goes on when the engine takes long, but tells the ledger meanwhile.
    async fn call(&mut self, count: usize) -> Result<SettleReply, EngineError> {
        let settles: Vec<Settle> =
            self.open[..count].iter().map(|done| done.settle.clone()).collect();
        let mut call = self.engine.settle(&self.ring.shard, &settles);
        match tokio::time::timeout(UNANSWERED_MAX, &mut call).await {
            Ok(reply) => reply,
            Err(_) => {
                tell(&self.ring, &mut self.open[..count]);
                call.await
            }
        }
    }

    /// Settled is not yet recorded: an engine that is wiped now forgets the outcome. So the ring keeps it.
    fn note(&self, mut settled: Vec<Done>, reply: &SettleReply) {
        self.leases.remove(settled.iter().map(|done| &done.settle.held));
        let mut counts = [0u64; 4];
        for (done, reply) in settled.iter().zip(&reply.settles) {
            let (id, fence) = (done.settle.held.id, done.settle.held.fence);
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
            settled = self.keep_settled(settled, &reply.settles);
        }
        self.ring.keep(settled, &reply.position);
    }

    /// Sends those that the engine does not know to the ledger, which knows better; those that were settled. What
    /// belongs to somebody else by now is nobody's business any more.
    fn keep_settled(&self, settled: Vec<Done>, replies: &[Settled]) -> Vec<Done> {
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for (done, reply) in settled.into_iter().zip(replies) {
            match reply {
                Settled::Settled | Settled::Repeated => kept.push(done),
                Settled::Gone => gone.push(done),
                Settled::Stolen => self.ring.untell(&done),
            }
        }
        self.ring.send(gone, Then::Forget);
        kept
    }

    fn warn(&self, settles: usize, error: &EngineError) {
        tracing::warn!(queue = %self.ring.shard.queue, settles, %error, "cannot settle; trying again");
    }
}

/// Sends settles by the direct path, once, although they are still to be settled.
fn tell(ring: &ShardRing, open: &mut [Done]) {
    for done in open.iter_mut().filter(|done| !done.told) {
        done.told = true;
        ring.tell(done.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use windlass_shared::clock::Clock;
    use windlass_shared::config::EngineSettings;
    use windlass_shared::engine::embedded::Embedded;
    use windlass_shared::engine::{ClaimRequest, Held, Push, ShardSettings, Verdict};
    use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
    use windlass_shared::model::name::Namespace;
    use windlass_shared::model::time::Timestamp;
    use windlass_shared::testkit::gates::{open_shard, until};
    use windlass_shared::testkit::redis_server::{RedisServer, unique_prefix};

    use super::*;

    /// Nothing here takes longer unless it hangs.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn shard(queue: &str) -> Arc<ShardId> {
        Arc::new(ShardId::first(Namespace::default(), queue.parse().unwrap()))
    }

    fn success(id: JobId, fence: Fence, lease_id: LeaseId) -> Done {
        let held = Held { id, fence, lease_id };
        Done {
            settle: Settle {
                dependency: None,
                held,
                verdict: Verdict::Succeeded,
                detail: Bytes::new(),
            },
            attempt: 1,
            crashes: 0,
            claimed_at: Timestamp::default(),
            at: Timestamp::default(),
            ledger: None,
            told: false,
        }
    }

    /// Pushes and claims one job; its settle.
    async fn running(engine: &Engine, shard: &ShardId) -> Done {
        let now = engine.now().await.unwrap();
        let push = Push::new(Fence(1), "plain".parse().unwrap(), now, Bytes::new());
        engine.push(shard, &[push], &until(now.plus(PATIENCE))).await.unwrap();
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max: 1,
            lease: PATIENCE,
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
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
        let rings = Rings::new([&bad, &good].into_iter().map(|shard| (**shard).clone()));
        let (acks, acker) = Acker::new(&engine, &leases, &rings, ENGINE_BATCH_MAX, &last_try);
        let acker = tokio::spawn(acker.run());
        let lost = || success(JobId::generate(), Fence(1), LeaseId::random());
        // More than a batch, so that at least half of the inbox waits behind what fails.
        let sent = ENGINE_BATCH_MAX + ENGINE_BATCH_MAX / 2 + 1;
        for _ in 0..sent {
            let ack = Ack { shard: Arc::clone(&bad), done: lost() };
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

        let done = running(&engine, &good).await;
        let ack = Ack { shard: Arc::clone(&good), done };
        tokio::time::timeout(PATIENCE, acks.send(ack)).await.expect("it is not held up").unwrap();
        let recorded = async {
            while engine.outcomes(&good, 9).await.unwrap().len() != 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, recorded).await.expect("it is settled");

        last_try.store(true, Ordering::Release);
        let ack = Ack { shard: Arc::clone(&good), done: running(&engine, &good).await };
        acks.send(ack).await.unwrap();
        drop(acks);
        let given_up = tokio::time::timeout(PATIENCE, acker).await.expect("it gives up").unwrap();
        assert_eq!(given_up, sent, "every one that was not settled is counted");
        let ring = rings.get(&bad).unwrap();
        assert_eq!((ring.abandoned(), ring.counts().0), (sent, 0), "and left to the direct path");
        assert_eq!(engine.outcomes(&good, 9).await.unwrap().len(), 2);
    }

    /// Goal: what the engine does not answer goes to the ledger once, is still tried, and is not counted as lost when
    /// the ledger has it.
    /// Method: the shard's keys are damaged, so that every settle fails.
    #[tokio::test]
    async fn settles_that_the_engine_does_not_answer_go_to_the_ledger_once() {
        let server = RedisServer::shared();
        let prefix = unique_prefix();
        let settings =
            EngineSettings { prefix: prefix.clone(), ..EngineSettings::new(server.url()) };
        let engine = Engine::open(&settings).await.unwrap();
        let bad = shard("bad");
        server.command(&["SET", &format!("{prefix}:{{{bad}}}:held"), "?"]).expect_ok();
        let last_try = Arc::new(AtomicBool::new(false));
        let rings = Rings::new(std::iter::once(ShardId::clone(&bad)));
        let ring = rings.get(&bad).unwrap();
        let (acks, acker) = Acker::new(&engine, &Arc::default(), &rings, 10, &last_try);
        let acker = tokio::spawn(acker.run());
        for _ in 0..3 {
            let done = success(JobId::generate(), Fence(1), LeaseId::random());
            acks.send(Ack { shard: Arc::clone(&bad), done }).await.unwrap();
        }
        let mut sent = Vec::new();
        let began = Instant::now();
        while sent.len() < 3 {
            tokio::time::timeout(PATIENCE, rings.replays()).await.expect("it is told");
            sent.extend(ring.take(10, usize::MAX));
        }
        assert!(began.elapsed() >= UNANSWERED_MAX);
        assert!(sent.iter().all(|replay| replay.then == Then::Note));
        // The ledger has answered for two of them.
        ring.replayed(&sent[..2], true);
        last_try.store(true, Ordering::Release);
        drop(acks);
        assert_eq!(tokio::time::timeout(PATIENCE, acker).await.expect("it ends").unwrap(), 3);
        assert_eq!(ring.abandoned(), 1, "the third is sent again, and counted if that fails");
        assert_eq!(ring.take(10, usize::MAX).len(), 1, "each was told once");
    }

    #[tokio::test]
    async fn a_full_ring_keeps_the_worker_from_claiming() {
        let engine = Engine::Embedded(Arc::new(Embedded::new(Clock::System)));
        let shard = shard("q");
        let rings = Rings::bounded(std::iter::once(ShardId::clone(&shard)), 2, usize::MAX);
        let (acks, _acker) = Acker::new(&engine, &Arc::default(), &rings, 10, &Arc::default());
        let ring = rings.get(&shard).unwrap();
        let position = Position { generation: Some(1), last_seq: 2, recorded_seq: 0 };
        let done = || success(JobId::generate(), Fence(1), LeaseId::random());
        ring.keep(vec![done()], &position);
        assert!(!acks.is_behind(&shard));
        ring.keep(vec![done()], &position);
        assert!(acks.is_behind(&shard));
        acks.note(&shard, &Position { recorded_seq: 2, ..position });
        assert!(!acks.is_behind(&shard));
    }
}
