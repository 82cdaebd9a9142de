//! The embedded engine: the model behind mutexes, one per shard, in this process's memory.
//!
//! Every start is "the engine was wiped": the same repair fills it from the ledger. No call waits, so
//! none can be dropped half-way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use tokio::sync::broadcast;

use super::model::{Bounds, Shard, ShardDump, Wake};
use super::*;
use crate::clock::Clock;

/// Signals kept for a listener that is slow; one that falls further behind is told to look at everything.
const SIGNALS_MAX: usize = 1024;

/// The embedded engine: the model behind mutexes.
pub struct Embedded {
    clock: Clock,
    bounds: Bounds,
    /// This run of it; another one after each "restart" that a test makes.
    process: RwLock<ProcessId>,
    /// The latest time ever told, in µs: engine time does not go back when the clock does.
    latest_us: AtomicI64,
    shards: RwLock<HashMap<ShardId, Arc<Mutex<Shard>>>>,
    signals: broadcast::Sender<Signal>,
    feeds: Mutex<HashMap<Namespace, feed::Ring>>,
}

impl Embedded {
    /// An empty engine on this clock.
    pub fn new(clock: Clock) -> Self {
        Self::with_bounds(clock, Bounds::default())
    }

    /// An empty engine with other bounds than the usual, for tests that must reach them.
    pub fn with_bounds(clock: Clock, bounds: Bounds) -> Self {
        let (signals, _) = broadcast::channel(SIGNALS_MAX);
        Self {
            clock,
            bounds,
            process: RwLock::new(ProcessId::generate()),
            latest_us: AtomicI64::new(0),
            shards: RwLock::default(),
            signals,
            feeds: Mutex::default(),
        }
    }

    /// A shard's whole state, for tests and diagnosis; empty for an unknown one.
    pub fn dump(&self, shard: &ShardId) -> ShardDump {
        self.look(shard, |state, now| state.dump(now))
    }

    /// Everything in it is gone, as by `FLUSHALL`; the process stays.
    #[cfg(feature = "testkit")]
    pub fn wipe(&self) {
        self.shards.write().expect("nothing panics while it holds the map of shards").clear();
        self.feeds().clear();
    }

    /// All shards as they are now.
    #[cfg(feature = "testkit")]
    pub fn snapshot(&self) -> Snapshot {
        let shards = self.shards.read().expect("nothing panics while it holds the map of shards");
        let copy = |state: &Arc<Mutex<Shard>>| {
            state.lock().expect("the model keeps its invariants and does not panic").clone()
        };
        Snapshot(shards.iter().map(|(id, state)| (id.clone(), copy(state))).collect())
    }

    /// Starts anew from what was kept: another process, and everything as it was then.
    #[cfg(feature = "testkit")]
    pub fn restart_from(&self, Snapshot(kept): Snapshot) {
        let process = ProcessId::generate();
        let mut shards =
            self.shards.write().expect("nothing panics while it holds the map of shards");
        *self.process.write().expect("nothing panics while it holds the process") = process;
        *shards = kept
            .into_iter()
            .map(|(id, shard)| (id, Arc::new(Mutex::new(shard.served_by(process)))))
            .collect();
    }

    fn process(&self) -> ProcessId {
        *self.process.read().expect("nothing panics while it holds the process")
    }

    fn time(&self) -> Timestamp {
        let us = self.clock.now().micros();
        Timestamp::from_micros(us.max(self.latest_us.fetch_max(us, Ordering::AcqRel)))
    }

    fn feeds(&self) -> std::sync::MutexGuard<'_, HashMap<Namespace, feed::Ring>> {
        self.feeds.lock().expect("nothing panics while it holds the feeds")
    }

    fn find(&self, shard: &ShardId) -> Option<Arc<Mutex<Shard>>> {
        let shards = self.shards.read().expect("nothing panics while it holds the map of shards");
        shards.get(shard).cloned()
    }

    /// Runs a verb that may bring a shard into being.
    fn change<T>(&self, shard: &ShardId, verb: impl FnOnce(&mut Shard, Timestamp) -> T) -> T {
        let state = self.find(shard).unwrap_or_else(|| {
            let mut shards =
                self.shards.write().expect("nothing panics while it holds the map of shards");
            let fresh = || Arc::new(Mutex::new(Shard::new(self.bounds, self.process())));
            shards.entry(shard.clone()).or_insert_with(fresh).clone()
        });
        self.run(shard, &state, verb)
    }

    /// Runs a verb that has nothing to do in a shard that does not exist, so that asking about queues
    /// that nobody uses takes no memory.
    fn look<T>(&self, shard: &ShardId, verb: impl FnOnce(&mut Shard, Timestamp) -> T) -> T {
        match self.find(shard) {
            Some(state) => self.run(shard, &state, verb),
            None => {
                let mut nothing = Shard::new(self.bounds, self.process());
                let reply = verb(&mut nothing, self.time());
                // A claim finds the gate shut: whoever verifies shards is to hear of it.
                self.signal(shard, nothing.take_wake());
                reply
            }
        }
    }

    fn run<T>(
        &self,
        shard: &ShardId,
        state: &Mutex<Shard>,
        verb: impl FnOnce(&mut Shard, Timestamp) -> T,
    ) -> T {
        let mut state = state.lock().expect("the model keeps its invariants and does not panic");
        // Read under the lock, so that the steps of one shard are in order of time.
        let now = self.time();
        let reply = verb(&mut state, now);
        let wake = state.take_wake();
        drop(state);
        self.signal(shard, wake);
        reply
    }

    fn signal(&self, shard: &ShardId, wake: Wake) {
        let send = |signal| {
            // Fails when nobody listens, which is no loss: listeners also poll.
            let _ = self.signals.send(signal);
        };
        if wake.ready {
            send(Signal::Ready(shard.clone()));
        }
        if wake.outcomes {
            send(Signal::Outcomes(shard.clone()));
        }
        if wake.shut {
            send(Signal::Shut(shard.clone()));
        }
        if wake.unverified {
            send(Signal::Unverified(shard.clone()));
        }
        for id in wake.cancels {
            send(Signal::Cancel(shard.clone(), id));
        }
    }
}

/// An embedded engine's shards at one moment.
#[cfg(feature = "testkit")]
#[derive(Clone)]
pub struct Snapshot(HashMap<ShardId, Shard>);

/// The contract: see [`Engine`], whose words hold here. These never fail and never wait.
#[allow(missing_docs, reason = "documented once, at `Engine`")]
impl Embedded {
    pub async fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }

    pub async fn push(
        &self,
        shard: &ShardId,
        jobs: &[Push],
        valid: &Validity,
    ) -> Result<PushReply, EngineError> {
        Ok(self.change(shard, |state, now| state.push(now, jobs, valid)))
    }

    pub async fn claim(
        &self,
        shard: &ShardId,
        request: &ClaimRequest,
    ) -> Result<ClaimReply, EngineError> {
        Ok(self.look(shard, |state, now| state.claim(now, request)))
    }

    pub async fn extend(
        &self,
        shard: &ShardId,
        held: &[Held],
        lease: Duration,
    ) -> Result<ExtendReply, EngineError> {
        Ok(self.look(shard, |state, now| state.extend(now, held, lease)))
    }

    pub async fn settle(
        &self,
        shard: &ShardId,
        settles: &[Settle],
    ) -> Result<SettleReply, EngineError> {
        Ok(self.look(shard, |state, now| state.settle(now, settles)))
    }

    pub async fn promote(&self, shard: &ShardId, max: u32) -> Result<u32, EngineError> {
        Ok(self.look(shard, |state, now| state.promote(now, max)))
    }

    pub async fn reap(&self, shard: &ShardId, max: u32) -> Result<u32, EngineError> {
        Ok(self.look(shard, |state, now| state.reap(now, max)))
    }

    pub async fn configure(
        &self,
        shard: &ShardId,
        settings: &ShardSettings,
    ) -> Result<bool, EngineError> {
        Ok(self.change(shard, |state, now| state.configure(now, settings)))
    }

    pub async fn cancel(
        &self,
        shard: &ShardId,
        jobs: &[(JobId, Fence)],
        how: Withdraw,
    ) -> Result<Vec<CancelReply>, EngineError> {
        Ok(self.change(shard, |state, now| state.cancel(now, jobs, how)))
    }

    pub async fn outcomes(
        &self,
        shard: &ShardId,
        skip: u32,
        max: u32,
    ) -> Result<Vec<Outcome>, EngineError> {
        Ok(self.look(shard, |state, _| state.outcomes(skip, max)))
    }

    pub async fn confirm(&self, shard: &ShardId, last: &Mark) -> Result<(), EngineError> {
        self.look(shard, |state, now| state.confirm(now, last));
        Ok(())
    }

    pub async fn gate(&self, shard: &ShardId) -> Result<GateView, EngineError> {
        Ok(self.look(shard, |state, _| state.gate()))
    }

    pub async fn shut(
        &self,
        shard: &ShardId,
        ledger: LedgerId,
        generation: u64,
        not_after: Timestamp,
    ) -> Result<Shut, EngineError> {
        Ok(self.change(shard, |state, now| state.shut(now, ledger, generation, not_after)))
    }

    pub async fn seal(
        &self,
        shard: &ShardId,
        ledger: LedgerId,
        generation: u64,
    ) -> Result<bool, EngineError> {
        Ok(self.look(shard, |state, _| state.seal(ledger, generation)))
    }

    pub async fn withdraw(
        &self,
        shard: &ShardId,
        leases: &[Withdrawal],
        looked: Option<Looked>,
    ) -> Result<WithdrawReply, EngineError> {
        Ok(self.change(shard, |state, now| state.withdraw(now, leases, looked)))
    }

    pub async fn open_gate(
        &self,
        shard: &ShardId,
        opening: &Opening,
    ) -> Result<Opened, EngineError> {
        Ok(self.look(shard, |state, now| state.open_gate(now, opening)))
    }

    pub async fn adopt(
        &self,
        shard: &ShardId,
        worker: WorkerId,
        lease: Duration,
        leases: &[Adoption],
    ) -> Result<Vec<Adopted>, EngineError> {
        Ok(self.change(shard, |state, now| state.adopt(now, worker, lease, leases)))
    }

    pub async fn report(
        &self,
        shard: &ShardId,
        ledger: LedgerId,
        generation: u64,
        worker: WorkerId,
        report: Report,
    ) -> Result<(), EngineError> {
        self.look(shard, |state, _| state.report_worker(ledger, generation, worker, report));
        Ok(())
    }

    pub async fn scan(&self, shard: &ShardId, _cursor: u64) -> Result<ScanPage, EngineError> {
        Ok(self.look(shard, |state, _| state.scan()))
    }

    pub async fn drop_jobs(
        &self,
        shard: &ShardId,
        jobs: &[(JobId, Fence)],
        bury: bool,
    ) -> Result<Vec<bool>, EngineError> {
        Ok(self.look(shard, |state, now| state.drop_jobs(now, jobs, bury)))
    }

    pub async fn exists(&self, shard: &ShardId, ids: &[JobId]) -> Result<Vec<bool>, EngineError> {
        Ok(self.look(shard, |state, now| state.exists(now, ids)))
    }

    pub async fn holds(
        &self,
        shard: &ShardId,
        id: JobId,
    ) -> Result<Option<Vec<Hold>>, EngineError> {
        Ok(self.look(shard, |state, now| state.holds(now, id)))
    }

    pub async fn refused(&self, shard: &ShardId, max: u32) -> Result<Vec<Refused>, EngineError> {
        Ok(self.look(shard, |state, _| state.refused(max)))
    }

    pub async fn refilled(
        &self,
        shard: &ShardId,
        groups: &[flow::Group],
    ) -> Result<(), EngineError> {
        self.change(shard, |state, _| state.refilled(groups));
        Ok(())
    }

    pub async fn circuits(
        &self,
        shard: &ShardId,
    ) -> Result<Vec<(flow::FlowKey, model::Circuit)>, EngineError> {
        Ok(self.look(shard, |state, _| state.circuits()))
    }

    pub async fn reset_circuit(
        &self,
        shard: &ShardId,
        circuit: flow::FlowKey,
    ) -> Result<bool, EngineError> {
        Ok(self.change(shard, |state, now| state.reset_circuit(now, circuit)))
    }

    pub async fn peek(&self, shard: &ShardId, id: JobId) -> Result<Option<Live>, EngineError> {
        Ok(self.look(shard, |state, _| state.peek(id)))
    }

    pub async fn leased(
        &self,
        shard: &ShardId,
        after: Option<(Timestamp, JobId)>,
        claimed_by: Timestamp,
        max: u32,
    ) -> Result<Vec<Running>, EngineError> {
        Ok(self.look(shard, |state, _| state.leased(after, claimed_by, max)))
    }

    pub async fn stats(&self, shard: &ShardId) -> Result<ShardStats, EngineError> {
        Ok(self.look(shard, |state, now| state.stats(now)))
    }

    pub async fn now(&self) -> Result<Timestamp, EngineError> {
        Ok(self.time())
    }

    pub async fn publish(
        &self,
        namespace: &Namespace,
        events: &[feed::Event],
    ) -> Result<(), EngineError> {
        let now = self.time();
        let mut feeds = self.feeds();
        feeds.entry(namespace.clone()).or_insert_with(|| feed::Ring::new(now)).publish(events);
        Ok(())
    }

    pub async fn feed(
        &self,
        namespace: &Namespace,
        after: Option<u64>,
        max: u32,
    ) -> Result<feed::FeedPage, EngineError> {
        let now = self.time();
        let mut feeds = self.feeds();
        // Made at the first look, so that a reader's position stays good when the first event comes.
        let ring = feeds.entry(namespace.clone()).or_insert_with(|| feed::Ring::new(now));
        Ok(ring.read(after, max))
    }

    pub async fn subscribe_to(
        &self,
        shards: &[ShardId],
        topics: &[Topic],
    ) -> Result<Signals, EngineError> {
        Ok(Signals::new(self.signals.subscribe(), shards, topics))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_time_does_not_go_back_with_the_clock() {
        let clock = Clock::manual(Timestamp::from_micros(1_000));
        let engine = Embedded::new(clock.clone());
        assert_eq!(engine.time().micros(), 1_000);
        let Clock::Manual(us) = &clock else { unreachable!("made manual above") };
        us.store(400, Ordering::SeqCst);
        assert_eq!(engine.time().micros(), 1_000);
        us.store(1_001, Ordering::SeqCst);
        assert_eq!(engine.time().micros(), 1_001);
    }

    #[tokio::test]
    async fn asking_about_unknown_shards_takes_no_memory() {
        let engine = Embedded::new(Clock::System);
        let shard = ShardId::first(Namespace::default(), QueueName::default());
        engine.stats(&shard).await.unwrap();
        engine.drop_jobs(&shard, &[(JobId::generate(), Fence(1))], true).await.unwrap();
        engine.promote(&shard, 1).await.unwrap();
        assert!(engine.shards.read().unwrap().is_empty());
        engine.configure(&shard, &ShardSettings::default()).await.unwrap();
        assert_eq!(engine.shards.read().unwrap().len(), 1);
    }
}
