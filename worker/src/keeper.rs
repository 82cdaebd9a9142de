//! Keeps the leases: extends them in batches, puts back those that the engine has lost, learns of cancellations,
//! and stops exclusive jobs before their lease can pass to somebody else.
//!
//! It has an operating-system thread, a runtime and (with Redis) a connection of its own, so that handlers
//! that block every thread of the main runtime do not cost their leases.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use windlass_shared::engine::{
    Engine, EngineError, Extended, Held, ShardId, Signal, Signals, Topic,
};
use windlass_shared::limits::ENGINE_BATCH_MAX;
use windlass_shared::model::id::WorkerId;

use crate::adoption::Watch;
use crate::attempt::{Attempt, StopReason};
use crate::boot_time::boot_ms;
use crate::builder::EngineSource;
use crate::leases::Leases;
use crate::pause::Pause;
use crate::ring::Rings;

/// Exclusive jobs are looked at this often.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// An exclusive job is stopped this long before its lease could pass, or a tenth of the lease if that is
/// longer; with short leases a third.
const EXCLUSIVE_MARGIN: Duration = Duration::from_secs(2);

/// What the keeper works on.
pub(crate) struct Keeper {
    pub(crate) leases: Arc<Leases>,
    pub(crate) rings: Arc<Rings>,
    pub(crate) worker: WorkerId,
    pub(crate) lease: Duration,
}

/// The running thread.
pub(crate) struct KeeperThread {
    stop: CancellationToken,
    /// Cancelled when the work ends, however it ends.
    ended: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl KeeperThread {
    /// Returns when the work has ended: by [`Self::stop`], or by a panic.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends the thread and waits for it. May be dropped: the thread ends all the same.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.ended.cancelled().await;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the lease keeper panicked");
        }
    }
}

impl Drop for KeeperThread {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Keeper {
    /// Starts the thread, and waits until it has its engine.
    ///
    /// # Errors
    /// Those of [`Engine::open`].
    pub(crate) async fn start(self, source: EngineSource) -> Result<KeeperThread, EngineError> {
        let stop = CancellationToken::new();
        let (ready_tx, ready_rx) = oneshot::channel();
        let ended = CancellationToken::new();
        let at_end = ended.clone().drop_guard();
        let work = self.serve(source, ready_tx, stop.clone());
        let thread = if windlass_shared::tap::simulated() {
            tokio::spawn(async move {
                let _ended = at_end;
                work.await;
            });
            None
        } else {
            Some(on_thread(work, at_end).map_err(|e| EngineError::Unavailable(Box::new(e)))?)
        };
        let keeper = KeeperThread { stop, ended, thread };
        match ready_rx.await {
            Ok(Ok(())) => Ok(keeper),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EngineError::Unavailable("the lease keeper ended at once".into())),
        }
    }

    async fn serve(
        self,
        source: EngineSource,
        ready: oneshot::Sender<Result<(), EngineError>>,
        stop: CancellationToken,
    ) {
        match source.open().await {
            Ok(engine) => {
                // Nobody waits any more: then `stop` has fired too.
                let _ = ready.send(Ok(()));
                self.run(engine, stop).await;
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    }

    async fn run(self, engine: Engine, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            _ = futures::future::join4(
                self.extend_for_ever(&engine),
                self.watch_exclusive(),
                self.listen(&engine),
                self.watch_gates(&engine),
            ) => {}
        }
    }

    /// Extends every lease before a third of it has passed.
    async fn extend_for_ever(&self, engine: &Engine) {
        // Looked at twice as often: a lease that is just too young now is still in time at the next look.
        let tick = self.lease / 6;
        let mut pause = Pause::default();
        loop {
            let good = self.extend_due(engine, tick).await;
            let wait = if good {
                pause.reset();
                tick
            } else {
                pause.next().min(tick)
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Extends the leases that are older than `age`, shard by shard; whether every call was answered.
    async fn extend_due(&self, engine: &Engine, age: Duration) -> bool {
        let due = self.leases.older_than(age);
        let mut calls = FuturesUnordered::new();
        for (shard, attempts) in &due {
            for batch in attempts.chunks(ENGINE_BATCH_MAX) {
                calls.push(self.extend_batch(engine, shard, batch));
            }
        }
        let mut good = true;
        while let Some(answered) = calls.next().await {
            good &= answered;
        }
        good
    }

    async fn extend_batch(&self, engine: &Engine, shard: &ShardId, batch: &[Arc<Attempt>]) -> bool {
        let held: Vec<Held> = batch.iter().map(|attempt| attempt.held).collect();
        let sent_ms = boot_ms();
        match engine.extend(shard, &held, self.lease).await {
            Ok(reply) => {
                let mut missing = false;
                for (attempt, reply) in batch.iter().zip(reply.leases) {
                    missing |= reply == Extended::Gone;
                    note(attempt, sent_ms, reply);
                }
                if let Some(ring) = self.rings.get(shard) {
                    ring.note(&reply.position);
                    if missing {
                        ring.alarm();
                    }
                }
                true
            }
            Err(error) => {
                tracing::warn!(queue = %shard.queue, leases = held.len(), %error, "cannot extend leases");
                false
            }
        }
    }

    async fn watch_exclusive(&self) {
        let age = self_stop_age(self.lease);
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let stopped = self.leases.stop_exclusive(age);
            if stopped > 0 {
                tracing::warn!(stopped, "stopped exclusive jobs whose lease cannot be extended");
            }
        }
    }

    /// Puts leases back that the engine has lost, shard by shard.
    async fn watch_gates(&self, engine: &Engine) {
        let watches = self.rings.iter().map(|ring| {
            let (ring, adopted) = (Arc::clone(ring), None);
            let (leases, worker, lease) = (&*self.leases, self.worker, self.lease);
            Watch { engine, leases, ring, worker, lease, adopted }.run()
        });
        futures::future::join_all(watches).await;
    }

    /// Stops jobs at once when their cancellation is signalled, and looks at gates when one is said to be shut; the
    /// next extension would tell as well.
    async fn listen(&self, engine: &Engine) {
        let shards: Vec<ShardId> =
            self.rings.iter().map(|ring| ShardId::clone(&ring.shard)).collect();
        let mut pause = Pause::default();
        loop {
            let topics = [Topic::Cancels, Topic::Gates];
            if let Ok(signals) = engine.subscribe_to(&shards, &topics).await {
                pause.reset();
                // What was said meanwhile was missed.
                self.rings.iter().for_each(|ring| ring.alarm());
                self.hear(signals).await;
            }
            tokio::time::sleep(pause.next()).await;
        }
    }

    async fn hear(&self, mut signals: Signals) {
        while let Some(signal) = signals.next().await {
            match signal {
                Signal::Cancel(shard, id) => {
                    self.leases.stop_job(&shard, id, StopReason::Cancelled);
                }
                Signal::Shut(shard) => {
                    if let Some(ring) = self.rings.get(&shard) {
                        ring.alarm();
                    }
                }
                Signal::Ready(_) | Signal::Outcomes(_) | Signal::Unverified(_) => {}
            }
        }
    }
}

/// Runs `work` on a thread and a runtime of its own; `at_end` is dropped with the thread. Work that is dropped
/// undone says why by what it drops.
fn on_thread(
    work: impl Future<Output = ()> + Send + 'static,
    at_end: DropGuard,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("windlass-keeper".into()).spawn(move || {
        let _ended = at_end;
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(work),
            Err(error) => tracing::error!(%error, "no runtime for the lease keeper"),
        }
    })
}

fn note(attempt: &Attempt, sent_ms: u64, reply: Extended) {
    let (id, fence) = (attempt.held.id, attempt.held.fence);
    match reply {
        Extended::Held { expires_at, cancel } => {
            attempt.extended(sent_ms, expires_at);
            if cancel {
                attempt.stop.stop(StopReason::Cancelled);
            }
        }
        // The handler goes on: the store may have lost the lease, and then it is put back; or its settle is under way.
        Extended::Gone => {
            tracing::debug!(job.id = %id, %fence, "a lease is not known to the engine");
            attempt.miss();
        }
        Extended::Stolen => {
            if attempt.lose() {
                metrics::counter!("windlass_lease_lost_total").increment(1);
                tracing::warn!(job.id = %id, %fence, "a lease has passed to another worker");
            }
            attempt.stop.stop(StopReason::LeaseLost);
        }
    }
}

/// How long after the sending of the last good extension an exclusive job must stop.
fn self_stop_age(lease: Duration) -> Duration {
    lease - EXCLUSIVE_MARGIN.min(lease / 3).max(lease / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_jobs_leave_a_margin_before_their_lease_ends() {
        for (lease, age) in [(3, 2_000), (6, 4_000), (15, 13_000), (60, 54_000)] {
            assert_eq!(self_stop_age(Duration::from_secs(lease)), Duration::from_millis(age));
        }
    }

    /// The worker watches for it: without its keeper it would claim on, and lose every longer lease.
    #[tokio::test]
    async fn a_panic_is_an_end() {
        let ended = CancellationToken::new();
        let work = async { panic!("on purpose") };
        let thread = on_thread(work, ended.clone().drop_guard()).unwrap();
        let keeper = KeeperThread { stop: CancellationToken::new(), ended, thread: Some(thread) };
        keeper.ended().await;
        keeper.stop().await;
    }
}
