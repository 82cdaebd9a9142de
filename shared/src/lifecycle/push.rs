//! Carries committed jobs to the engine. Nobody waits for it and it may fail freely: it comes back to what it could not
//! bring in time ([`super::missed`]), and what a process leaves behind, the sweep finds.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::circuits::Names;
use super::delivery::{Delivery, Ticket};
use super::missed::Missed;
use crate::engine::envelope::{Envelope, EnvelopeHead};
use crate::engine::{Push, ShardId};
use crate::ledger::shard_of;
use crate::limits;
use crate::model::job::{Job, JobState, Value};
use crate::model::time::Timestamp;

/// Committed submissions waiting to be pushed. Beyond it the ids of their jobs are kept.
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
    missed: Arc<Missed>,
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
        tasks.spawn(run(delivery, rx, Arc::clone(&pusher.missed), shutdown));
        Self { names: Some(names), ..pusher }
    }

    fn new(pending_kib_max: usize) -> (Self, mpsc::Receiver<Batch>) {
        let (tx, rx) = mpsc::channel(PENDING_MAX);
        let room = Arc::new(Semaphore::new(pending_kib_max));
        (Self { tx, room, missed: Arc::default(), names: None }, rx)
    }

    /// Hands over committed jobs, as many as there is room for. Returns at once.
    pub(super) fn offer(&self, mut jobs: Vec<Job>, ticket: Ticket) {
        if let Some(names) = &self.names {
            names.meet(&jobs);
        }
        let (room, mut left) = self.take_room(&mut jobs);
        if let Some(room) = room
            && !jobs.is_empty()
        {
            let batch = Batch { jobs, ticket, at: Instant::now(), _room: room };
            if let Err(full) = self.tx.try_send(batch) {
                left.splice(..0, full.into_inner().jobs);
            }
        }
        miss(&self.missed, &left);
    }

    /// Keeps the first jobs that there is room for; the room, and the others.
    fn take_room(&self, jobs: &mut Vec<Job>) -> (Option<OwnedSemaphorePermit>, Vec<Job>) {
        let free = self.room.available_permits();
        let mut sum = 0;
        let fits = jobs.iter().take_while(|job| {
            sum += kib(job);
            sum <= free
        });
        let mut left = jobs.split_off(fits.count());
        let sum = u32::try_from(jobs.iter().map(kib).sum::<usize>()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(sum).ok();
        if room.is_none() {
            // Somebody else was faster.
            left.splice(..0, jobs.drain(..));
        }
        (room, left)
    }
}

/// Notes jobs that were not pushed: they are committed, so that nothing is lost.
fn miss(missed: &Missed, jobs: &[Job]) {
    for jobs in jobs.chunk_by(|a, b| (&a.namespace, &a.queue) == (&b.namespace, &b.queue)) {
        missed.note(&shard_of(&jobs[0]), jobs.iter().map(|job| job.id));
    }
    if !jobs.is_empty() {
        metrics::counter!("windlass_push_dropped_total").increment(jobs.len() as u64);
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

async fn run(
    delivery: Delivery,
    mut rx: mpsc::Receiver<Batch>,
    missed: Arc<Missed>,
    shutdown: CancellationToken,
) {
    let mut batches = Vec::new();
    loop {
        let got = tokio::select! {
            biased;
            got = rx.recv_many(&mut batches, ROUND_MAX) => got,
            () = shutdown.cancelled() => {
                rx.close();
                rx.recv_many(&mut batches, PENDING_MAX).await
            }
            () = missed.due() => {
                missed.push_some(&delivery).await;
                continue;
            }
        };
        if got == 0 {
            return;
        }
        let calls = calls(&batches, &missed);
        futures::stream::iter(calls)
            .for_each_concurrent(CALLS_MAX, |call| push(&delivery, call, &missed))
            .await;
        batches.clear();
        // Fresh ones that never end do not keep out those that were missed.
        missed.push_some(&delivery).await;
    }
}

async fn push(delivery: &Delivery, call: Call, missed: &Missed) {
    let Call { shard, pushes, ticket, late_at } = call;
    let miss = || missed.note(&shard, pushes.iter().map(|push| push.id));
    let count = pushes.len() as u64;
    if Instant::now() >= late_at {
        // The engine would refuse it: the ledger is to be looked at again first.
        metrics::counter!("windlass_push_dropped_total").increment(count);
        return miss();
    }
    match delivery.push_fresh(&shard, &pushes, ticket).await {
        Ok(count) if count.late == 0 => {}
        Ok(count) => {
            metrics::counter!("windlass_push_dropped_total").increment(count.late);
            miss();
        }
        Err(error) => {
            metrics::counter!("windlass_push_failed_total").increment(count);
            tracing::debug!(%shard, %error, "push failed; it will be repeated");
            miss();
        }
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

/// The calls for these batches, in order within each shard. What is late already is missed.
fn calls(batches: &[Batch], missed: &Missed) -> Vec<Call> {
    let now = Instant::now();
    let mut open: HashMap<ShardId, Call> = HashMap::new();
    let mut calls = Vec::new();
    for batch in batches {
        let late_at = batch.at + limits::PUSH_WINDOW;
        if now >= late_at {
            miss(missed, &batch.jobs);
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

    use crate::model::id::JobId;
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

    /// Goal: what cannot get in any more costs the engine nothing, does not make others late, and is not forgotten.
    /// Method: the engine's clock says that both are in time; the window of one has passed here.
    #[tokio::test]
    async fn what_is_late_is_looked_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, engine) = stores(&folder).await;
        let delivery = Delivery::new(ledger.clone(), engine.clone());
        let ticket = delivery.ticket().await.unwrap();
        let (pusher, mut rx) = Pusher::new(10);
        let jobs = committed(&ledger, 2, 0).await;
        let ids = [jobs[0].id, jobs[1].id];
        let shard = shard_of(&jobs[0]);
        for job in jobs {
            pusher.offer(vec![job], ticket);
        }
        let (mut late, in_time) = (rx.recv().await.unwrap(), rx.recv().await.unwrap());
        late.at -= limits::PUSH_WINDOW;
        let missed = &pusher.missed;
        for call in calls(&[late, in_time], missed) {
            push(&delivery, call, missed).await;
        }
        assert_eq!(engine.exists(&shard, &ids).await.unwrap(), [false, true]);
        missed.due().await;
        missed.push_some(&delivery).await;
        assert_eq!(engine.exists(&shard, &ids).await.unwrap(), [true, true]);
    }

    /// Goal: what there was no room for is brought as soon as there is, as it is on record by then: what was cancelled
    /// is not.
    /// Method: there is no room for any of 450 jobs; one is cancelled. The task is waited for by what the engine has.
    #[tokio::test]
    async fn what_there_was_no_room_for_is_brought_later() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, engine) = stores(&folder).await;
        let delivery = Delivery::new(ledger.clone(), engine.clone());
        let ticket = delivery.ticket().await.unwrap();
        let (pusher, rx) = Pusher::new(0);
        let jobs = committed(&ledger, 450, 0).await;
        let (shard, cancelled) = (shard_of(&jobs[0]), jobs[7].id);
        let changed =
            ledger.cancel(&jobs[7].namespace, cancelled, None, false, "test").await.unwrap();
        assert!(matches!(changed, crate::ledger::Changed::Done(_)));
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        pusher.offer(jobs, ticket);
        let (missed, shutdown) = (Arc::clone(&pusher.missed), CancellationToken::new());
        let task = tokio::spawn(run(delivery, rx, missed, shutdown.clone()));
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        let mut there = Vec::new();
        while there.len() < 449 && Instant::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            there.clear();
            for ids in ids.chunks(limits::ENGINE_BATCH_MAX) {
                let found = engine.exists(&shard, ids).await.unwrap();
                there.extend(ids.iter().zip(found).filter(|(_, found)| *found).map(|(id, _)| *id));
            }
        }
        assert_eq!(there.len(), 449, "all but one");
        assert!(!there.contains(&cancelled));
        shutdown.cancel();
        task.await.unwrap();
    }
}
