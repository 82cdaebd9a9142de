//! Carries committed jobs to the engine. Nobody waits for it and it may fail freely: what it drops, the
//! sweep finds.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::circuits::Names;
use super::delivery::{Delivery, Ticket};
use crate::engine::envelope::{Envelope, EnvelopeHead};
use crate::engine::{Push, ShardId};
use crate::ledger::shard_of;
use crate::limits;
use crate::model::job::{Job, JobState, Value};
use crate::model::time::Timestamp;

/// Committed submissions waiting to be pushed. Beyond it they are left to the sweep.
const PENDING_MAX: usize = 2_000;
/// What they may hold in memory, in KiB; a job counts as one and its payload.
const PENDING_KIB_MAX: usize = 64 << 10;
/// Submissions taken into one round of push calls.
const ROUND_MAX: usize = 256;
/// Push calls under way at once.
const CALLS_MAX: usize = 4;

struct Batch {
    jobs: Vec<Job>,
    ticket: Ticket,
    /// When it was offered: after the beginning of its push window.
    at: Instant,
    /// Its part of [`PENDING_KIB_MAX`], for as long as it is held.
    _room: OwnedSemaphorePermit,
}

/// The task that pushes what submissions have committed.
pub(super) struct Pusher {
    tx: mpsc::Sender<Batch>,
    room: Arc<Semaphore>,
    names: Option<Arc<Names>>,
}

impl Pusher {
    /// Starts it; it ends after `shutdown`, with what it was given pushed.
    pub(super) fn start(
        delivery: Delivery,
        names: Arc<Names>,
        shutdown: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (pusher, rx) = Self::new(PENDING_KIB_MAX);
        tasks.spawn(run(delivery, rx, shutdown));
        Self { names: Some(names), ..pusher }
    }

    fn new(pending_kib_max: usize) -> (Self, mpsc::Receiver<Batch>) {
        let (tx, rx) = mpsc::channel(PENDING_MAX);
        let room = Arc::new(Semaphore::new(pending_kib_max));
        (Self { tx, room, names: None }, rx)
    }

    /// Hands over committed jobs, as many as there is room for. Returns at once.
    pub(super) fn offer(&self, mut jobs: Vec<Job>, ticket: Ticket) {
        if let Some(names) = &self.names {
            names.meet(&jobs);
        }
        let offered = jobs.len();
        let room = self.take_room(&mut jobs);
        let mut taken = jobs.len();
        if let Some(room) = room
            && taken > 0
        {
            let batch = Batch { jobs, ticket, at: Instant::now(), _room: room };
            if self.tx.try_send(batch).is_err() {
                taken = 0;
            }
        }
        if taken < offered {
            // Safe to drop: the jobs are committed, and the sweep pushes what the engine does not have.
            let dropped = (offered - taken) as u64;
            metrics::counter!("windlass_push_dropped_total").increment(dropped);
        }
    }

    /// Keeps the first jobs that there is room for.
    fn take_room(&self, jobs: &mut Vec<Job>) -> Option<OwnedSemaphorePermit> {
        let free = self.room.available_permits();
        let mut sum = 0;
        let fits = jobs.iter().take_while(|job| {
            sum += kib(job);
            sum <= free
        });
        let fits = fits.count();
        jobs.truncate(fits);
        let sum = jobs.iter().map(kib).sum::<usize>();
        let room = Arc::clone(&self.room).try_acquire_many_owned(u32::try_from(sum).ok()?).ok();
        if room.is_none() {
            // Somebody else was faster.
            jobs.clear();
        }
        room
    }
}

/// What a job counts for, in KiB.
fn kib(job: &Job) -> usize {
    let payload = match &job.payload {
        Value::Inline(bytes) => bytes.len(),
        Value::Blob(_) => 0,
    };
    1 + (payload >> 10)
}

async fn run(delivery: Delivery, mut rx: mpsc::Receiver<Batch>, shutdown: CancellationToken) {
    let mut batches = Vec::new();
    loop {
        let got = tokio::select! {
            biased;
            got = rx.recv_many(&mut batches, ROUND_MAX) => got,
            () = shutdown.cancelled() => {
                rx.close();
                rx.recv_many(&mut batches, PENDING_MAX).await
            }
        };
        if got == 0 {
            return;
        }
        let calls = calls(&batches);
        futures::stream::iter(calls)
            .for_each_concurrent(CALLS_MAX, |Call { shard, pushes, ticket, late_at }| {
                let delivery = delivery.clone();
                async move {
                    let count = pushes.len() as u64;
                    if Instant::now() >= late_at {
                        // The engine would refuse it: the sweep looks at the ledger again first.
                        metrics::counter!("windlass_push_dropped_total").increment(count);
                        return;
                    }
                    let result = delivery.push_fresh(&shard, &pushes, ticket).await;
                    if let Err(error) = result {
                        metrics::counter!("windlass_push_failed_total").increment(count);
                        tracing::debug!(shard = %shard, %error, "push failed; the sweep will repeat it");
                    }
                }
            })
            .await;
        batches.clear();
    }
}

/// One push call.
struct Call {
    shard: ShardId,
    pushes: Vec<Push>,
    /// The oldest of its jobs.
    ticket: Ticket,
    /// By this process's clock it is past the ticket's end for certain.
    late_at: Instant,
}

/// The calls for these batches, in order within each shard. What is late already is left to the sweep.
fn calls(batches: &[Batch]) -> Vec<Call> {
    let now = Instant::now();
    let mut open: HashMap<ShardId, Call> = HashMap::new();
    let mut calls = Vec::new();
    for batch in batches {
        let late_at = batch.at + limits::PUSH_WINDOW;
        if now >= late_at {
            let late = batch.jobs.len() as u64;
            metrics::counter!("windlass_push_dropped_total").increment(late);
            continue;
        }
        for job in &batch.jobs {
            let shard = shard_of(job);
            let call = open.entry(shard).or_insert_with_key(|shard| Call {
                shard: shard.clone(),
                pushes: Vec::new(),
                ticket: batch.ticket,
                late_at,
            });
            call.pushes.push(push_of(job));
            call.ticket = call.ticket.min(batch.ticket);
            call.late_at = call.late_at.min(late_at);
            if call.pushes.len() == limits::ENGINE_BATCH_MAX {
                calls.extend(open.remove(&shard_of(job)));
            }
        }
    }
    calls.extend(open.into_values());
    calls
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

/// Attempts that counted. The one on record of a running job is under way, and has not yet.
pub(super) fn counted(job: &Job) -> u32 {
    job.attempt.saturating_sub(u32::from(job.state == JobState::Running))
}

/// The engine's view of a recorded job.
pub(super) fn push_of(job: &Job) -> Push {
    let envelope = Envelope {
        head: EnvelopeHead {
            kind: job.kind.clone(),
            spec: job.spec.clone(),
            created_at: job.created_at,
            priority: job.priority,
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
        under_way: job.state == JobState::Running,
        attempt: counted(job),
        crashes: job.crashes,
        max_crashes: job.spec.max_crashes,
        priority: job.priority,
        run_at: job.run_at,
        expires_at: job.expires_at,
        kind: job.kind.clone(),
        flow: job.spec.flow(&job.kind),
        envelope: envelope.encode(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineSettings;
    use crate::engine::Engine;
    use crate::ledger::{Accepted, Ledger, Submission, SubmitOutcome};

    use crate::model::job::NewJob;
    use crate::model::name::{Namespace, QueueName};

    async fn stores(folder: &tempfile::TempDir) -> (Ledger, Engine) {
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        let settings = crate::config::LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        (ledger, Engine::open(&EngineSettings::new("embedded")).await.unwrap())
    }

    async fn committed(ledger: &Ledger, count: usize, payload: usize) -> Vec<Job> {
        let payload = Value::Inline(format!("\"{}\"", "x".repeat(payload)).into());
        let job = || {
            NewJob::new(
                Namespace::default(),
                QueueName::default(),
                "echo".parse().unwrap(),
                payload.clone(),
            )
        };
        let jobs = (0..count).map(|_| job()).collect();
        let submission = Submission { jobs, atomic: false, idempotency: None };
        let SubmitOutcome::Done(results) = ledger.submit(submission).await.unwrap() else {
            panic!("a submission without a key is never replayed");
        };
        let accepted = results.into_iter().map(|result| match result {
            Ok(Accepted::New(job)) => job,
            other => panic!("not accepted: {other:?}"),
        });
        accepted.collect()
    }

    #[tokio::test]
    async fn what_waits_to_be_pushed_is_bounded_by_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, engine) = stores(&folder).await;
        let now = Delivery::new(ledger.clone(), engine).ticket().await.unwrap();
        let (pusher, mut rx) = Pusher::new(10);
        pusher.offer(committed(&ledger, 3, 3_000).await, now);
        pusher.offer(committed(&ledger, 2, 0).await, now);
        let first = rx.recv().await.unwrap();
        assert_eq!(first.jobs.len(), 3, "three KiB each");
        pusher.offer(committed(&ledger, 2, 0).await, now);
        drop(first);
        pusher.offer(committed(&ledger, 20, 0).await, now);
        let mut waiting = Vec::new();
        while let Ok(batch) = rx.try_recv() {
            waiting.push(batch.jobs.len());
        }
        assert_eq!(waiting, [1, 9], "one KiB was left, then nine");
    }

    /// Goal: what cannot get in any more costs the engine nothing, and does not make others late.
    /// Method: the engine's clock says that both are in time; the window of one has passed here.
    #[tokio::test]
    async fn what_is_late_is_left_to_the_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, engine) = stores(&folder).await;
        let delivery = Delivery::new(ledger.clone(), engine.clone());
        let ticket = delivery.ticket().await.unwrap();
        let (pusher, mut rx) = Pusher::new(10);
        let (old, fresh) =
            (committed(&ledger, 1, 0).await.remove(0), committed(&ledger, 1, 0).await.remove(0));
        let shard = shard_of(&old);
        pusher.offer(vec![old.clone()], ticket);
        pusher.offer(vec![fresh.clone()], ticket);
        let (mut late, in_time) = (rx.recv().await.unwrap(), rx.recv().await.unwrap());
        late.at -= limits::PUSH_WINDOW;
        let (tx, rx) = mpsc::channel(2);
        tx.try_send(late).unwrap_or_else(|_| panic!("there is room"));
        tx.try_send(in_time).unwrap_or_else(|_| panic!("there is room"));
        drop(tx);
        run(delivery, rx, CancellationToken::new()).await;
        let there = engine.exists(&shard, &[old.id, fresh.id]).await.unwrap();
        assert_eq!(there, [false, true]);
    }
}
