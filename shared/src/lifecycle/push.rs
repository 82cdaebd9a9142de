//! Carries committed jobs to the engine. Nobody waits for it and it may fail freely: what it drops, the
//! sweep finds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::envelope::{Envelope, EnvelopeHead};
use crate::engine::{Engine, EngineError, Push, Pushed, ShardId};
use crate::ledger::{Ledger, LedgerError, shard_of};
use crate::limits;
use crate::model::job::{Job, JobState};
use crate::model::time::Timestamp;

/// Committed submissions waiting to be pushed. Beyond it they are left to the sweep.
const PENDING_MAX: usize = 2_000;
/// Push calls under way at once.
const CALLS_MAX: usize = 4;
/// An estimate of engine time older than this is not trusted (decisions: ask `TIME` first).
const ESTIMATE_AGE_MAX: Duration = Duration::from_secs(10);

/// Engine time, as far as this process knows it: the latest reply plus local time since then.
#[derive(Clone, Default)]
pub(super) struct EngineTime {
    last: Arc<Mutex<Option<(Timestamp, Instant)>>>,
}

impl EngineTime {
    fn note(&self, now: Timestamp) {
        *self.last.lock().expect("nothing panics while holding it") = Some((now, Instant::now()));
    }

    fn estimate(&self) -> Option<Timestamp> {
        let last = *self.last.lock().expect("nothing panics while holding it");
        let (time, received) = last?;
        let age = received.elapsed();
        (age <= ESTIMATE_AGE_MAX).then(|| time.plus(age))
    }

    /// The `not_after` of a push that a statement sent after this call will justify. `None`: the engine
    /// does not answer, so there is nothing to push to.
    pub(super) async fn deadline(&self, engine: &Engine) -> Option<Timestamp> {
        let now = match self.estimate() {
            Some(now) => now,
            None => {
                let now = engine.now().await.ok()?;
                self.note(now);
                now
            }
        };
        Some(now.plus(limits::PUSH_WINDOW))
    }
}

struct Batch {
    jobs: Vec<Job>,
    not_after: Timestamp,
}

/// The task that pushes what submissions have committed.
pub(super) struct Pusher {
    tx: mpsc::Sender<Batch>,
    pub(super) time: EngineTime,
}

impl Pusher {
    /// Starts it; it ends after `shutdown`, with what it was given pushed.
    pub(super) fn start(
        ledger: Ledger,
        engine: Engine,
        shutdown: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (tx, rx) = mpsc::channel(PENDING_MAX);
        let time = EngineTime::default();
        tasks.spawn(run(ledger, engine, time.clone(), rx, shutdown));
        Self { tx, time }
    }

    /// Hands over committed jobs. Returns at once.
    pub(super) fn offer(&self, jobs: Vec<Job>, not_after: Timestamp) {
        let count = jobs.len();
        if count > 0 && self.tx.try_send(Batch { jobs, not_after }).is_err() {
            // Safe to drop: the jobs are committed, and the sweep pushes what the engine does not have.
            metrics::counter!("windlass_push_dropped_total").increment(count as u64);
        }
    }
}

async fn run(
    ledger: Ledger,
    engine: Engine,
    time: EngineTime,
    mut rx: mpsc::Receiver<Batch>,
    shutdown: CancellationToken,
) {
    let mut batches = Vec::new();
    loop {
        let got = tokio::select! {
            biased;
            got = rx.recv_many(&mut batches, 256) => got,
            () = shutdown.cancelled() => {
                rx.close();
                rx.recv_many(&mut batches, PENDING_MAX).await
            }
        };
        if got == 0 {
            return;
        }
        let mut shards: HashMap<ShardId, (Vec<Push>, Timestamp)> = HashMap::new();
        for batch in batches.drain(..) {
            for job in &batch.jobs {
                let (pushes, not_after) =
                    shards.entry(shard_of(job)).or_insert((Vec::new(), batch.not_after));
                pushes.push(push_of(job));
                *not_after = (*not_after).min(batch.not_after);
            }
        }
        // Owned chunks: borrowed ones tie this task's future to their lifetimes.
        let calls: Vec<(ShardId, Vec<Push>, Timestamp)> = shards
            .into_iter()
            .flat_map(|(shard, (pushes, not_after))| chunked(shard, pushes, not_after))
            .collect();
        futures::stream::iter(calls)
            .for_each_concurrent(CALLS_MAX, |(shard, chunk, not_after)| {
                let (ledger, engine, time) = (ledger.clone(), engine.clone(), time.clone());
                async move {
                    let result = push(&ledger, &engine, &time, &shard, &chunk, not_after).await;
                    if let Err(error) = result {
                        metrics::counter!("windlass_push_failed_total").increment(chunk.len() as u64);
                        tracing::debug!(shard = %shard, %error, "push failed; the sweep will repeat it");
                    }
                }
            })
            .await;
    }
}

fn chunked(
    shard: ShardId,
    mut pushes: Vec<Push>,
    not_after: Timestamp,
) -> Vec<(ShardId, Vec<Push>, Timestamp)> {
    let mut chunks = Vec::with_capacity(pushes.len().div_ceil(limits::ENGINE_BATCH_MAX));
    while pushes.len() > limits::ENGINE_BATCH_MAX {
        let rest = pushes.split_off(limits::ENGINE_BATCH_MAX);
        chunks.push((shard.clone(), std::mem::replace(&mut pushes, rest), not_after));
    }
    chunks.push((shard, pushes, not_after));
    chunks
}

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
    /// Left in the ledger for want of room.
    pub full: u64,
}

/// Pushes up to [`limits::ENGINE_BATCH_MAX`] jobs, and opens the shard with the ledger's settings if
/// nobody has.
pub(super) async fn push(
    ledger: &Ledger,
    engine: &Engine,
    time: &EngineTime,
    shard: &ShardId,
    pushes: &[Push],
    not_after: Timestamp,
) -> Result<PushCount, PushError> {
    let reply = engine.push(shard, pushes, not_after).await?;
    time.note(reply.now);
    let count = |what: Pushed| reply.pushed.iter().filter(|p| **p == what).count() as u64;
    let counted = PushCount { added: count(Pushed::Added), full: count(Pushed::Full) };
    if counted.full > 0 {
        metrics::counter!("windlass_push_full_total").increment(counted.full);
    }
    if !reply.configured {
        open_shard(ledger, engine, shard).await?;
    }
    Ok(counted)
}

/// Gives a shard the ledger's settings of its queue; only then does it give out leases.
pub(super) async fn open_shard(
    ledger: &Ledger,
    engine: &Engine,
    shard: &ShardId,
) -> Result<(), PushError> {
    if let Some(queue) = ledger.queue(&shard.namespace, &shard.queue).await? {
        engine.configure(shard, &queue.shard_settings()).await?;
    }
    Ok(())
}

/// Whether a job belongs in the engine at `now`: not finished, not blocked, and due soon enough.
pub(super) fn belongs_in_engine(job: &Job, now: Timestamp) -> bool {
    match job.state {
        JobState::Ready | JobState::Scheduled | JobState::Running | JobState::Retrying => {
            job.run_at <= now.plus(limits::SCHEDULE_AHEAD)
        }
        JobState::Blocked
        | JobState::Succeeded
        | JobState::Dead
        | JobState::Cancelled
        | JobState::Expired
        | JobState::Quarantined => false,
    }
}

/// The engine's view of a recorded job.
pub(super) fn push_of(job: &Job) -> Push {
    // The attempt on record of a running job is the one under way; it has not counted yet.
    let under_way = u32::from(job.state == JobState::Running);
    let envelope = Envelope {
        head: EnvelopeHead {
            kind: job.kind.clone(),
            spec: job.spec.clone(),
            created_at: job.created_at,
            traceparent: job.traceparent.clone(),
            request_id: job.request_id.clone(),
            workflow: job.workflow.clone(),
            payload_blob: None,
        },
        payload: job.payload.clone(),
    };
    Push {
        id: job.id,
        fence: job.fence,
        attempt: job.attempt.saturating_sub(under_way),
        crashes: job.crashes,
        max_crashes: job.spec.max_crashes,
        priority: job.priority,
        run_at: job.run_at,
        expires_at: job.expires_at,
        kind: job.kind.clone(),
        envelope: envelope.encode(),
    }
}
