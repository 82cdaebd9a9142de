//! An engine that forgets: wiped, or gone back in time, while jobs run and after they were settled. With a ledger,
//! the leader's verification, and a recorder that works only when a test says so.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{LedgerSettings, WorkerSettings};
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::{Engine, LiveState, ShardId};
use windlass_shared::ledger::{Ledger, Submission};
use windlass_shared::lifecycle::verify::{Verified, VerifySettings, verify};
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::{BlobId, Fence, JobId, LedgerId, WorkerId};
use windlass_shared::model::job::{Job, JobSpec, JobState, NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Span;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::reporter::ledger::LedgerReporter;
use windlass_worker::reporter::{
    DirectOutcome, DirectReply, Left, Report, ReportError, ReportReply, Reporter,
};
use windlass_worker::worker::Worker;

use crate::fixture::{PATIENCE, Running, spec};

/// The ledger's reporter, behind an API that can be away, and can become another ledger's.
struct Flaky {
    ledger: Mutex<Arc<LedgerReporter>>,
    away: Mutex<bool>,
    /// Calls of the direct path that found it away, and outcomes that were answered.
    refused: AtomicU32,
    direct: watch::Sender<Vec<(JobId, DirectReply)>>,
}

impl Flaky {
    fn ledger(&self) -> Arc<LedgerReporter> {
        Arc::clone(&self.ledger.lock().unwrap())
    }
}

fn reporter_of(life: &Lifecycle) -> Arc<LedgerReporter> {
    Arc::new(LedgerReporter::new(life.clone(), Namespace::default()))
}

impl Reporter for Flaky {
    fn report(&self, report: Report) -> BoxFuture<'_, Result<ReportReply, ReportError>> {
        let ledger = self.ledger();
        Box::pin(async move { ledger.report(report).await })
    }
    fn record(
        &self,
        ledger: Option<LedgerId>,
        outcomes: Vec<DirectOutcome>,
    ) -> BoxFuture<'_, Result<Vec<DirectReply>, ReportError>> {
        Box::pin(async move {
            if *self.away.lock().unwrap() {
                self.refused.fetch_add(1, Ordering::SeqCst);
                return Err(ReportError::Unavailable("away".into()));
            }
            let ids: Vec<JobId> = outcomes.iter().map(|outcome| outcome.job_id).collect();
            let replies = self.ledger().record(ledger, outcomes).await?;
            let answered = ids.into_iter().zip(replies.iter().copied());
            self.direct.send_modify(|direct| direct.extend(answered));
            Ok(replies)
        })
    }
    fn put_checkpoint(
        &self,
        job_id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> BoxFuture<'_, Result<bool, ReportError>> {
        let ledger = self.ledger();
        Box::pin(async move { ledger.put_checkpoint(job_id, fence, data).await })
    }
    fn left(
        &self,
        job_id: JobId,
        fence: Fence,
        attempt: u32,
    ) -> BoxFuture<'_, Result<Left, ReportError>> {
        let ledger = self.ledger();
        Box::pin(async move { ledger.left(job_id, fence, attempt).await })
    }
    fn put_blob(&self, id: BlobId, bytes: Bytes) -> BoxFuture<'_, Result<(), ReportError>> {
        let ledger = self.ledger();
        Box::pin(async move { ledger.put_blob(id, bytes).await })
    }
    fn blob(&self, id: BlobId) -> BoxFuture<'_, Result<Option<Bytes>, ReportError>> {
        let ledger = self.ledger();
        Box::pin(async move { ledger.blob(id).await })
    }
}

struct World {
    embedded: Arc<Embedded>,
    life: Lifecycle,
    shard: ShardId,
    reporter: Arc<Flaky>,
    /// Attempts started, by job.
    starts: Arc<watch::Sender<HashMap<JobId, u32>>>,
    /// One for each attempt of `held` that may end.
    go: Arc<Semaphore>,
    lease: Duration,
    folder: TempDir,
}

impl World {
    async fn new() -> Self {
        Self::on(Arc::new(Embedded::new(Clock::System))).await
    }

    /// With a ledger of its own.
    async fn on(embedded: Arc<Embedded>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let life = Lifecycle::start(
            ledger,
            Engine::Embedded(Arc::clone(&embedded)),
            Clock::System,
            CancellationToken::new(),
            TaskTracker::new(),
        );
        let reporter = Flaky {
            ledger: Mutex::new(reporter_of(&life)),
            away: Mutex::new(false),
            refused: AtomicU32::new(0),
            direct: watch::Sender::default(),
        };
        Self {
            embedded,
            life,
            shard: ShardId::first(Namespace::default(), QueueName::default()),
            reporter: Arc::new(reporter),
            starts: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
            lease: Duration::from_secs(15),
            folder,
        }
    }

    /// A worker with a kind `count`, which ends at once (with an error the first time, if its payload is `fail`), one
    /// `held`, which waits until it may, and one `leased`, which waits and fails the first time. Returns when the ledger knows that it lives.
    async fn start(&self) -> Running {
        let settings = WorkerSettings {
            name: "w".into(),
            concurrency: 8,
            lease: self.lease,
            drain_timeout: Duration::from_secs(20),
            ..WorkerSettings::default()
        };
        let run = |ctx: Context, starts: &watch::Sender<HashMap<JobId, u32>>| {
            let mut before = 0;
            starts.send_modify(|starts| {
                let count = starts.entry(ctx.job_id()).or_default();
                before = *count;
                *count += 1;
            });
            before
        };
        let [starts, held_starts, leased_starts] = [0; 3].map(|_| Arc::clone(&self.starts));
        let [go, leased_go] = [0; 2].map(|_| Arc::clone(&self.go));
        let worker = Worker::builder(settings)
            .engine(Engine::Embedded(Arc::clone(&self.embedded)))
            .reporter(Arc::clone(&self.reporter) as _)
            .handle("count", move |ctx: Context, what: String| {
                let before = run(ctx, &starts);
                async move {
                    match (what.as_str(), before) {
                        ("fail", 0) => Err(HandlerError::retryable("first", "as it was told")),
                        _ => Ok(before),
                    }
                }
            })
            .handle("held", move |ctx: Context, _: Json| {
                run(ctx, &held_starts);
                let go = Arc::clone(&go);
                async move {
                    go.acquire().await.unwrap().forget();
                    Ok::<_, HandlerError>(())
                }
            })
            .handle("leased", move |ctx: Context, _: Json| {
                let before = run(ctx, &leased_starts);
                let go = Arc::clone(&leased_go);
                async move {
                    if before > 0 {
                        return Ok(());
                    }
                    go.acquire().await.unwrap().forget();
                    Err(HandlerError::retryable("first", "as it was told"))
                }
            })
            .build()
            .unwrap();
        let running = Running::start(worker);
        let ledger = self.life.ledger().clone();
        until(async || {
            let beats = ledger.workers(&Namespace::default(), PATIENCE).await.unwrap();
            !beats.is_empty()
        })
        .await;
        running
    }

    async fn submit(&self, kind: &str, payload: Json, spec: JobSpec, count: usize) -> Vec<JobId> {
        let payload = Value::Inline(payload.to_string().into());
        let kind = kind.parse().unwrap();
        let (namespace, queue) = (self.shard.namespace.clone(), self.shard.queue.clone());
        let job = || NewJob {
            spec: spec.clone(),
            ..NewJob::new(namespace.clone(), queue.clone(), Clone::clone(&kind), payload.clone())
        };
        let jobs: Vec<NewJob> = (0..count).map(|_| job()).collect();
        let ids = jobs.iter().map(|job| job.id).collect();
        let submission = Submission { jobs, atomic: true, idempotency: None };
        self.life.submit(submission).await.unwrap();
        ids
    }

    /// Waits until each of these has begun so often.
    async fn started(&self, ids: &[JobId], times: u32) {
        let mut starts = self.starts.subscribe();
        let all = starts.wait_for(|starts| ids.iter().all(|id| starts.get(id) == Some(&times)));
        tokio::time::timeout(PATIENCE, all).await.expect("they do not start").unwrap();
    }

    fn starts(&self, ids: &[JobId]) -> Vec<u32> {
        let starts = self.starts.borrow();
        ids.iter().map(|id| starts.get(id).copied().unwrap_or(0)).collect()
    }

    /// Waits until so many outcomes wait to be recorded.
    async fn settled(&self, count: usize) {
        let engine = self.life.engine();
        until(async || engine.outcomes(&self.shard, 1_000).await.unwrap().len() == count).await;
    }

    /// Waits until the direct path has been answered for so many outcomes.
    async fn replayed(&self, count: usize) {
        let mut direct = self.reporter.direct.subscribe();
        let enough = direct.wait_for(|direct| direct.len() >= count);
        tokio::time::timeout(PATIENCE, enough).await.expect("they are not replayed").unwrap();
    }

    async fn record_all(&self) {
        while record::record_outcomes(&self.life, &self.shard).await.unwrap() > 0 {}
    }

    async fn job(&self, id: JobId) -> Job {
        self.life.ledger().job(&Namespace::default(), id).await.unwrap().unwrap()
    }

    async fn live(&self, id: JobId) -> Option<LiveState> {
        let live = self.life.engine().peek(&self.shard, id).await.unwrap();
        live.map(|live| live.state)
    }

    /// Verifies as the leader does; every worker must report in time.
    async fn verify(&self) {
        let holder = WorkerId::from_bytes([3; 16]);
        let epoch = self.life.ledger().lead(holder, "leader", PATIENCE).await.unwrap().unwrap();
        let settings = VerifySettings { window: PATIENCE, grace: self.lease, ramp: Duration::ZERO };
        let verified =
            tokio::time::timeout(PATIENCE, verify(&self.life, &self.shard, epoch, &settings));
        match verified.await.expect("it is verified").unwrap() {
            Verified::Opened { missing: 0, .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// Records until all have succeeded, and then checks that each began so often, with as many attempts on record.
    async fn all_end(&self, ids: &[JobId], starts: u32) {
        until(async || {
            self.record_all().await;
            let mut ended = 0;
            for id in ids {
                ended += usize::from(self.job(*id).await.state.is_terminal());
            }
            ended == ids.len()
        })
        .await;
        assert_eq!(self.starts(ids), vec![starts; ids.len()]);
        for id in ids {
            let job = self.job(*id).await;
            let found = (job.state, job.attempt, job.crashes);
            assert_eq!(found, (JobState::Succeeded, starts, 0), "{id}");
        }
    }

    async fn stop(self, worker: Running) {
        worker.stop().await;
        self.life.ledger().clone().close().await;
        drop(self.folder);
    }
}

/// Looks until it is so.
async fn until(mut look: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it does not come to that");
}

#[tokio::test]
async fn jobs_that_run_while_the_engine_is_wiped_run_once() {
    let world = World::new().await;
    let worker = world.start().await;
    let ids = world.submit("held", json!(null), spec(3), 5).await;
    world.started(&ids, 1).await;
    world.embedded.wipe();
    world.verify().await;
    for id in &ids {
        assert!(matches!(world.live(*id).await, Some(LiveState::Leased { .. })), "adopted");
    }
    world.go.add_permits(ids.len());
    world.all_end(&ids, 1).await;
    assert!(world.reporter.direct.borrow().is_empty(), "the engine had their ends");
    world.stop(worker).await;
}

/// Goal: a lease of a job that ended while the engine was empty is not put back, and its end is not lost.
/// Method: the jobs end after the wipe and before anybody verifies.
#[tokio::test]
async fn jobs_that_end_in_an_empty_engine_are_recorded_past_it() {
    let world = World::new().await;
    let worker = world.start().await;
    let ids = world.submit("held", json!(null), spec(3), 5).await;
    world.started(&ids, 1).await;
    world.embedded.wipe();
    world.go.add_permits(ids.len());
    // Some are settled in vain; those that were adopted before are settled behind a shut gate. Both are replayed.
    world.replayed(ids.len()).await;
    world.verify().await;
    world.all_end(&ids, 1).await;
    for id in &ids {
        let live = world.live(*id).await;
        assert!(!matches!(live, Some(LiveState::Leased { .. })), "a lease that nobody extends");
    }
    world.stop(worker).await;
}

/// Goal: the same while leases are being put back: each attempt is either adopted and then settled, or settled and not
/// adopted.
#[tokio::test]
async fn jobs_that_end_while_leases_are_put_back_leave_none_behind() {
    let world = World::new().await;
    let worker = world.start().await;
    let ids = world.submit("held", json!(null), spec(3), 8).await;
    world.started(&ids, 1).await;
    world.embedded.wipe();
    let ends = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for _ in &ids {
            pace.tick().await;
            world.go.add_permits(1);
        }
    };
    tokio::join!(ends, world.verify());
    world.all_end(&ids, 1).await;
    let engine = world.life.engine();
    assert_eq!(engine.stats(&world.shard).await.unwrap().leased, 0);
    world.stop(worker).await;
}

#[tokio::test]
async fn what_was_settled_and_not_recorded_does_not_run_again_after_a_wipe() {
    let world = World::new().await;
    let worker = world.start().await;
    let ids = world.submit("count", json!("plain"), spec(3), 20).await;
    world.settled(ids.len()).await;
    world.embedded.wipe();
    world.verify().await;
    world.all_end(&ids, 1).await;
    assert_eq!(world.reporter.direct.borrow().len(), ids.len());
    world.stop(worker).await;
}

/// Goal: the same for an engine that goes back to a time at which they were ready.
#[tokio::test]
async fn what_ran_after_the_time_that_an_engine_went_back_to_does_not_run_again() {
    let world = World::new().await;
    let settled = world.submit("count", json!("plain"), spec(3), 5).await;
    let running = world.submit("held", json!(null), spec(3), 3).await;
    let engine = world.life.engine().clone();
    until(async || engine.stats(&world.shard).await.unwrap().ready == 8).await;
    let before = world.embedded.snapshot();
    let worker = world.start().await;
    world.settled(settled.len()).await;
    world.started(&running, 1).await;
    world.embedded.restart_from(before);
    world.verify().await;
    world.go.add_permits(running.len());
    world.all_end(&settled, 1).await;
    world.all_end(&running, 1).await;
    world.stop(worker).await;
}

/// Goal: after a failed attempt that the engine forgets, the next one is the second, and comes in time: not when a
/// lease runs out that nobody has.
/// Method: the engine goes back to a time at which the job was ready, or leased; the lease is longer than the test.
#[tokio::test]
async fn a_retry_that_the_engine_forgets_is_counted_and_comes_in_time() {
    let mut slow = spec(3);
    slow.retry.initial = Span(Duration::from_secs(1));
    for leased in [false, true] {
        let world = World { lease: 4 * PATIENCE, ..World::new().await };
        let mut before = None;
        if !leased {
            let ids = world.submit("count", json!("fail"), slow.clone(), 1).await;
            let engine = world.life.engine().clone();
            until(async || engine.stats(&world.shard).await.unwrap().ready == 1).await;
            before = Some((ids, world.embedded.snapshot()));
        }
        let worker = world.start().await;
        let (ids, snapshot) = match before {
            Some(before) => before,
            None => {
                let ids = world.submit("leased", json!(null), slow.clone(), 1).await;
                world.started(&ids, 1).await;
                let snapshot = world.embedded.snapshot();
                world.go.add_permits(1);
                (ids, snapshot)
            }
        };
        until(async || !world.embedded.dump(&world.shard).outbox.is_empty()).await;
        world.embedded.restart_from(snapshot);
        world.verify().await;
        world.all_end(&ids, 2).await;
        world.stop(worker).await;
    }
}

#[tokio::test]
async fn replays_outlast_an_outage_of_the_api() {
    let world = World::new().await;
    let worker = world.start().await;
    let ids = world.submit("count", json!("plain"), spec(3), 5).await;
    world.settled(ids.len()).await;
    *world.reporter.away.lock().unwrap() = true;
    world.embedded.wipe();
    let back = async {
        let refused = &world.reporter.refused;
        until(async || refused.load(Ordering::SeqCst) >= 3).await;
        assert_eq!(world.starts(&ids), [1; 5]);
        *world.reporter.away.lock().unwrap() = false;
    };
    // The verification waits for the worker's report, and that for the replay.
    tokio::join!(back, world.verify());
    world.all_end(&ids, 1).await;
    world.stop(worker).await;
}

#[tokio::test]
async fn a_worker_that_holds_nothing_reports_too() {
    let world = World::new().await;
    let worker = world.start().await;
    let ids = world.submit("count", json!("plain"), spec(3), 1).await;
    world.all_end(&ids, 1).await;
    world.embedded.wipe();
    world.verify().await;
    let ids = world.submit("count", json!("plain"), spec(3), 1).await;
    world.all_end(&ids, 1).await;
    world.stop(worker).await;
}

/// Goal: a worker that ends leaves nothing that only the engine knows, if there is nobody to record it.
#[tokio::test]
async fn a_worker_that_ends_brings_its_last_outcomes_home() {
    let world = World::new().await;
    let worker = world.start().await;
    let ids = world.submit("count", json!("plain"), spec(3), 5).await;
    world.settled(ids.len()).await;
    worker.stop().await;
    for id in &ids {
        assert_eq!(world.job(*id).await.state, JobState::Succeeded);
    }
    let direct = world.reporter.direct.borrow().clone();
    assert!(direct.iter().all(|(_, reply)| *reply == DirectReply::Applied), "{direct:?}");
    assert_eq!(direct.len(), ids.len());
    // What waits in the engine's outbox adds nothing, and the jobs leave it.
    world.record_all().await;
    for id in &ids {
        assert_eq!(world.job(*id).await.state, JobState::Succeeded);
        assert_eq!(world.live(*id).await, None);
    }
}

/// Goal: a worker whose API has become another ledger's stops what it has of the one before, has none of it put back, and
/// takes the other's jobs, without a restart. Method: two ledgers on one engine.
#[tokio::test]
async fn a_worker_follows_its_api_to_another_ledger() {
    let old = World::new().await;
    let worker = old.start().await;
    let held = old.submit("held", json!(null), spec(3), 5).await;
    old.started(&held, 1).await;
    let new = World::on(Arc::clone(&old.embedded)).await;
    *old.reporter.ledger.lock().unwrap() = reporter_of(&new.life);
    // Nobody has reported anything yet: the worker learns it from the shard, which is the new ledger's.
    let ids = new.submit("count", json!("plain"), spec(3), 5).await;
    new.verify().await;
    until(async || {
        new.record_all().await;
        let mut ended = 0;
        for id in &ids {
            ended += usize::from(new.job(*id).await.state.is_terminal());
        }
        ended == ids.len()
    })
    .await;
    assert_eq!(old.starts(&ids), vec![1; ids.len()]);
    let engine = new.life.engine();
    assert_eq!(engine.stats(&new.shard).await.unwrap().leased, 0);
    // Their handlers are gone: nobody waits for a permit any more.
    until(async || Arc::strong_count(&old.go) == 3).await;
    new.life.ledger().clone().close().await;
    old.stop(worker).await;
}

/// Goal: as long as the API stays with its ledger, jobs of another one are not taken, whoever has filled the store, and
/// what runs goes on and is recorded.
#[tokio::test]
async fn a_worker_takes_no_job_of_another_ledger() {
    let own = World::new().await;
    let worker = own.start().await;
    let held = own.submit("held", json!(null), spec(3), 2).await;
    own.started(&held, 1).await;
    let other = World::on(Arc::clone(&own.embedded)).await;
    let ids = other.submit("count", json!("plain"), spec(3), 3).await;
    other.verify().await;
    let engine = other.life.engine();
    until(async || engine.stats(&other.shard).await.unwrap().ready == ids.len() as u64).await;
    own.go.add_permits(held.len());
    own.replayed(held.len()).await;
    for id in &held {
        assert_eq!(own.job(*id).await.state, JobState::Succeeded);
    }
    assert_eq!((own.starts(&held), own.starts(&ids)), (vec![1; 2], vec![0; 3]));
    assert_eq!(engine.stats(&other.shard).await.unwrap().ready, ids.len() as u64);
    other.life.ledger().clone().close().await;
    own.stop(worker).await;
}
