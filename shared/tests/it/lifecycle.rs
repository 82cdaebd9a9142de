//! The verbs of a job's life on a real ledger (SQLite) and a real engine (embedded), with a worker that is
//! played by hand.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, LedgerSettings};
use windlass_shared::engine::envelope::{Detail, DetailHead, Envelope};
use windlass_shared::engine::{
    ClaimReply, ClaimRequest, ClaimState, Claimed, Ended, Engine, Held, LiveState, Settle, Settled,
    ShardId, ShardSettings, Verdict,
};
use windlass_shared::ledger::{
    Accepted, Changed, JobFilter, JobPatch, Ledger, Paused, Record, Recorded, Submission,
    SubmitOutcome, Unfinished,
};
use windlass_shared::lifecycle::compare::Compared;
use windlass_shared::lifecycle::lease::Take;
use windlass_shared::lifecycle::pump::Pump;
use windlass_shared::lifecycle::sweep::Sweeper;
use windlass_shared::lifecycle::verify::{Verified, VerifySettings, verify};
use windlass_shared::lifecycle::{Action, Cancelled, Lifecycle, record};
use windlass_shared::model::id::{JobId, LeaseId, WorkerId};
use windlass_shared::model::job::{
    Job, JobError, JobSpec, JobState, NewJob, OnConflict, Priority, Unique, Value,
};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;

/// How long a test waits for what another task must do soon.
const SOON: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_secs(15);

/// One process: its ledger, its engine, and the tasks between them.
pub(crate) struct World {
    pub(crate) life: Lifecycle,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    pub(crate) namespace: Namespace,
    shard: ShardId,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            LedgerSettings::new(format!("sqlite://{}/ledger.db", folder.path().display()));
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        Self::on(ledger, folder).await
    }

    async fn on(ledger: Ledger, folder: tempfile::TempDir) -> Self {
        let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let life = Lifecycle::start(ledger, engine, Clock::System, shutdown.clone(), tasks.clone());
        let namespace = Namespace::default();
        let shard = ShardId::first(namespace.clone(), QueueName::default());
        Self { life, shutdown, tasks, namespace, shard, _folder: folder }
    }

    /// The same ledger with an empty engine: what a restart of `dev`, or a wiped Redis, leaves.
    pub(crate) async fn wiped(self) -> Self {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        Self::on(self.life.ledger().clone(), self._folder).await
    }

    /// What the leader does with an engine that was wiped: nobody holds anything of it.
    pub(crate) async fn fill(&self) -> Compared {
        let holder = WorkerId::from_bytes(*self.life.ledger().id().as_bytes());
        let epoch = self.life.ledger().lead(holder, "test", SOON).await.unwrap();
        let settings = VerifySettings { window: Duration::ZERO, ..VerifySettings::default() };
        let epoch = epoch.expect("nobody else stands for it");
        match verify(&self.life, &self.shard, epoch, &settings).await.unwrap() {
            Verified::Opened { compared, .. } => compared,
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(crate) async fn submit(&self, job: NewJob) -> Job {
        let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
        let SubmitOutcome::Done(mut results) = self.life.submit(submission).await.unwrap() else {
            panic!("a submission without a key is never replayed");
        };
        match results.remove(0) {
            Ok(Accepted::New(job)) => job,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub(crate) async fn claim_now(&self) -> ClaimReply {
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max: 10,
            lease: LEASE,
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        };
        let mut reply = self.life.engine().claim(&self.shard, &request).await.unwrap();
        for job in &mut reply.jobs {
            // The token travels beside the reply; tests keep it in the envelope's place.
            job.envelope = Bytes::copy_from_slice(request.lease_id.as_bytes());
        }
        reply
    }

    /// Claims until something comes: the push is carried by another task.
    pub(crate) async fn claim(&self) -> Claimed {
        soon("a claimable job", || async { self.claim_now().await.jobs.pop() }).await
    }

    pub(crate) async fn settle(
        &self,
        claimed: &Claimed,
        verdict: Verdict,
        detail: Detail,
    ) -> Settled {
        let lease_id = LeaseId::from_bytes(claimed.envelope[..].try_into().unwrap());
        let held = Held { id: claimed.id, fence: claimed.fence, lease_id };
        let settle = Settle { dependency: None, held, verdict, detail: detail.encode() };
        self.life.engine().settle(&self.shard, &[settle]).await.unwrap().settles[0]
    }

    pub(crate) async fn record(&self) -> usize {
        record::record_outcomes(&self.life, &self.shard).await.unwrap()
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        self.life.ledger().job(&self.namespace, id).await.unwrap().expect("an accepted job")
    }

    async fn live(&self, id: JobId) -> Option<LiveState> {
        self.life.get(&self.namespace, id).await.unwrap().unwrap().live.map(|live| live.state)
    }

    async fn reasons(&self, id: JobId) -> (bool, Vec<&'static str>) {
        let explanation = self.life.explain(&self.namespace, id).await.unwrap().unwrap();
        (explanation.runnable, explanation.reasons.iter().map(|reason| reason.code).collect())
    }
}

pub(crate) async fn soon<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, looking).await.unwrap_or_else(|_| panic!("no {what} in time"))
}

pub(crate) fn new_job() -> NewJob {
    NewJob {
        tags: vec!["t".into()],
        request_id: Some("req-1".into()),
        ..NewJob::new(
            Namespace::default(),
            QueueName::default(),
            "echo".parse().unwrap(),
            Value::Inline(Bytes::from_static(br#"{"n": 1}"#)),
        )
    }
}

fn error(code: &str) -> Detail {
    let error = JobError { code: code.into(), message: "no".into(), retryable: true };
    Detail { head: DetailHead { error: Some(error), ..DetailHead::default() }, output: None }
}

fn output(json: &'static str) -> Detail {
    let output = Some(Value::Inline(Bytes::from_static(json.as_bytes())));
    Detail { head: DetailHead { worker: Some("w".into()), ..DetailHead::default() }, output }
}

#[tokio::test]
async fn a_job_goes_in_runs_and_is_on_record() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    let request = ClaimRequest {
        worker: WorkerId::generate(),
        lease_id: LeaseId::random(),
        max: 1,
        lease: LEASE,
        kinds: vec!["echo".parse().unwrap()],
        offset: 0,
        ledger: None,
    };
    let claimed = soon("a claimable job", || async {
        world.life.engine().claim(&world.shard, &request).await.unwrap().jobs.pop()
    })
    .await;
    let envelope = Envelope::decode(&claimed.envelope).unwrap();
    assert_eq!(envelope.payload, job.payload);
    assert_eq!(envelope.head.request_id.as_deref(), Some("req-1"));
    assert!(matches!(world.live(job.id).await, Some(LiveState::Leased { .. })));

    let held = Held { id: claimed.id, fence: claimed.fence, lease_id: request.lease_id };
    let settle = Settle {
        dependency: None,
        held,
        verdict: Verdict::Succeeded,
        detail: output(r#"{"ok":true}"#).encode(),
    };
    assert_eq!(
        world.life.engine().settle(&world.shard, &[settle]).await.unwrap().settles,
        [Settled::Settled]
    );
    assert!(!world.job(job.id).await.state.is_terminal(), "terminal only once recorded");
    assert_eq!(world.record().await, 1);

    let done = world.job(job.id).await;
    assert_eq!(done.state, JobState::Succeeded);
    assert_eq!(done.output, Some(Value::Inline(Bytes::from_static(br#"{"ok":true}"#))));
    assert_eq!((done.attempt, done.fence), (1, claimed.fence));
    assert!(done.worker.unwrap().starts_with("w ("));
    assert_eq!(world.record().await, 0, "confirmed outcomes are gone");
    assert_eq!(world.life.engine().stats(&world.shard).await.unwrap().bytes, 0);
}

#[tokio::test]
async fn a_waiter_hears_of_the_end_and_not_before() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    let short = Duration::from_millis(1);
    assert_eq!(world.life.wait(&world.namespace, job.id, short).await.unwrap(), Some(None));
    assert_eq!(world.life.wait(&world.namespace, JobId::generate(), short).await.unwrap(), None);

    let claimed = world.claim().await;
    let waiting = {
        let (life, namespace) = (world.life.clone(), world.namespace.clone());
        tokio::spawn(async move { life.wait(&namespace, job.id, SOON).await.unwrap() })
    };
    world.settle(&claimed, Verdict::Succeeded, output("1")).await;
    world.record().await;
    let ended = waiting.await.unwrap().flatten().expect("it ended in time");
    assert_eq!(ended.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_failed_attempt_is_on_record_and_the_dead_can_be_redriven() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    let first = world.claim().await;
    let retry = Verdict::Retry { delay: Duration::ZERO };
    assert_eq!(world.settle(&first, retry, error("busy")).await, Settled::Settled);
    let second = world.claim().await;
    assert_eq!((second.id, second.attempt), (job.id, 1));
    assert!(second.fence > first.fence);
    assert_eq!(world.settle(&first, Verdict::Succeeded, output("1")).await, Settled::Stolen);
    assert_eq!(world.settle(&second, Verdict::Dead, error("gone")).await, Settled::Settled);
    assert_eq!(world.record().await, 2);

    let dead = world.job(job.id).await;
    assert_eq!((dead.state, dead.attempt), (JobState::Dead, 2));
    assert_eq!(dead.error.unwrap().code, "gone");
    let attempts = world.life.ledger().attempts(&world.namespace, job.id).await.unwrap().unwrap();
    let codes: Vec<String> = attempts.into_iter().map(|a| a.error.unwrap().code).collect();
    assert_eq!(codes, ["busy", "gone"]);

    let Changed::Done(again) = world.life.redrive(&world.namespace, job.id).await.unwrap() else {
        panic!("a dead job can be redriven");
    };
    assert_eq!((again.state, again.attempt), (JobState::Ready, 0));
    let third = world.claim().await;
    assert_eq!((third.id, third.attempt), (job.id, 0), "its tombstone does not keep a redrive out");
    world.settle(&third, Verdict::Succeeded, output("1")).await;
    world.record().await;
    assert_eq!(world.job(job.id).await.state, JobState::Succeeded);
    assert_eq!(
        world.life.redrive(&world.namespace, job.id).await.unwrap(),
        Changed::Refused(JobState::Succeeded)
    );
}

/// Goal: a recorder passes over nothing when another takes away some of what it has just recorded: what it skips as its
/// own would be others that nobody has recorded.
#[tokio::test]
async fn two_recorders_of_one_shard_lose_nothing() {
    const JOBS: usize = 900;
    let world = World::new().await;
    let jobs: Vec<NewJob> = (0..JOBS).map(|_| new_job()).collect();
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let submission = Submission { jobs, atomic: false, idempotency: None };
    world.life.submit(submission).await.unwrap();
    let mut held = Vec::with_capacity(JOBS);
    while held.len() < JOBS {
        let more = soon("claimable jobs", || async {
            Some(world.claim_now().await.jobs).filter(|jobs| !jobs.is_empty())
        });
        held.extend(more.await);
    }
    let end = async |held: &[Claimed]| {
        for claimed in held {
            let settled = world.settle(claimed, Verdict::Succeeded, Detail::default()).await;
            assert_eq!(settled, Settled::Settled);
        }
    };
    end(&held[..300]).await;
    let mut stream = std::pin::pin!(record::record_stream(&world.life, &world.shard));
    assert!(futures::poll!(&mut stream).is_pending(), "the ledger has not answered yet");
    // Another one has recorded the first half, and has them forgotten.
    let engine = world.life.engine();
    let oldest = engine.outcomes(&world.shard, 150).await.unwrap();
    engine.confirm(&world.shard, &oldest.last().unwrap().mark()).await.unwrap();
    end(&held[300..]).await;
    assert_eq!(stream.await.unwrap(), (JOBS, false));
    for ids in ids.chunks(500) {
        let over = world.life.ledger().terminal_among(ids).await.unwrap();
        assert_eq!(over.len(), ids.len(), "an outcome was forgotten before it was recorded");
    }
}

#[tokio::test]
async fn a_cancelled_job_never_starts_whatever_is_under_way() {
    let world = World::new().await;
    // Cancelled right after the submission, so that its push may still be on its way.
    for _ in 0..200 {
        let job = world.submit(new_job()).await;
        let reply = world.life.cancel(&world.namespace, job.id, "test").await.unwrap();
        assert!(matches!(reply, Changed::Done(Cancelled::Now(_))), "{reply:?}");
    }
    // A job behind them shows that every push has arrived.
    let last = world.submit(new_job()).await;
    assert_eq!(world.claim().await.id, last.id);
    assert!(world.claim_now().await.jobs.is_empty());
    let again = world.life.cancel(&world.namespace, last.id, "test").await.unwrap();
    assert!(
        matches!(again, Changed::Done(Cancelled::Requested(_))),
        "a running job is asked to stop"
    );
}

#[tokio::test]
async fn a_running_job_that_was_cancelled_ends_as_its_worker_says() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    let claimed = world.claim().await;
    world.life.cancel(&world.namespace, job.id, "test").await.unwrap();
    assert!(world.job(job.id).await.cancel_requested);
    let retry = Verdict::Retry { delay: Duration::ZERO };
    world.settle(&claimed, retry, error("interrupted")).await;
    world.record().await;
    assert_eq!(world.job(job.id).await.state, JobState::Cancelled, "no other attempt starts");
}

#[tokio::test]
async fn a_patch_moves_a_waiting_job_and_spares_a_running_one() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    soon("the job in the engine", || async { world.live(job.id).await }).await;
    let other: QueueName = "other".parse().unwrap();
    let patch = JobPatch { queue: Some(other.clone()), ..JobPatch::default() };
    let changed = world.life.patch(&world.namespace, job.id, &patch).await.unwrap();
    assert!(matches!(changed, Changed::Done(_)), "{changed:?}");
    assert!(world.claim_now().await.jobs.is_empty(), "it left its old queue");
    let moved = World { shard: ShardId::first(world.namespace.clone(), other), ..world };
    let claimed = moved.claim().await;
    assert_eq!(claimed.id, job.id);

    let patch = JobPatch { priority: Some(Priority::MAX), ..JobPatch::default() };
    let refused = moved.life.patch(&moved.namespace, job.id, &patch).await.unwrap();
    assert_eq!(refused, Changed::Refused(JobState::Running));
    assert!(matches!(moved.live(job.id).await, Some(LiveState::Leased { cancel: false, .. })));
}

#[tokio::test]
async fn a_paused_queue_starts_nothing_even_after_a_wipe() {
    let world = World::new().await;
    world.submit(new_job()).await;
    let paused = Paused { since: Timestamp::from_millis(1), by: "ops".into(), reason: None };
    let (_, told) =
        world.life.set_paused(&world.namespace, &world.shard.queue, Some(paused)).await.unwrap();
    assert!(told);
    soon("its first opening", || async {
        (world.claim_now().await.state == ClaimState::Paused).then_some(())
    })
    .await;

    let world = world.wiped().await;
    assert_eq!(world.claim_now().await.state, ClaimState::Unverified, "nobody has opened it");
    world.fill().await;
    assert_eq!(world.claim_now().await.state, ClaimState::Paused);
    world.life.set_paused(&world.namespace, &world.shard.queue, None).await.unwrap();
    assert_eq!(world.claim_now().await.jobs.len(), 1);
}

#[tokio::test]
async fn an_empty_engine_is_filled_with_what_has_not_ended() {
    let world = World::new().await;
    let done = world.submit(new_job()).await;
    let claimed = world.claim().await;
    world.settle(&claimed, Verdict::Succeeded, output("1")).await;
    world.record().await;
    let retrying = world.submit(new_job()).await;
    let claimed = world.claim().await;
    world.settle(&claimed, Verdict::Retry { delay: Duration::from_secs(30) }, error("busy")).await;
    world.record().await;
    let waiting = world.submit(new_job()).await;

    let world = world.wiped().await;
    assert!(world.live(waiting.id).await.is_none());
    assert_eq!(world.fill().await.pushed, 2);
    assert!(matches!(world.live(waiting.id).await, Some(LiveState::Ready { ahead: 0 })));
    let live = world.life.get(&world.namespace, retrying.id).await.unwrap().unwrap().live.unwrap();
    assert_eq!((live.state, live.attempt), (LiveState::Delayed, 1), "its back-off survives");
    assert!(world.live(done.id).await.is_none());
    assert_eq!(world.fill().await.pushed, 0, "repeating changes nothing");
}

/// Goal: of a queue longer than the engine has room for, every job runs without waiting for the sweep.
/// Method: room for 10, 60 jobs, a worker by hand, and the pump in between.
#[tokio::test]
async fn the_pump_fills_a_long_queue_again_as_it_drains() {
    let world = World::new().await;
    let first = world.submit(new_job()).await;
    soon("the first is there", || async { world.live(first.id).await }).await;
    let queue =
        world.life.ledger().queue(&world.namespace, &world.shard.queue).await.unwrap().unwrap();
    let room = ShardSettings { version: queue.version + 1, jobs_max: 10, ..queue.shard_settings() };
    assert!(world.life.engine().configure(&world.shard, &room).await.unwrap());
    let mut waiting = std::collections::BTreeSet::from([first.id]);
    for _ in 0..59 {
        waiting.insert(world.submit(new_job()).await.id);
    }
    soon("jobs without keys have their part", || async {
        (world.life.engine().stats(&world.shard).await.unwrap().ready == 8).then_some(())
    })
    .await;

    let mut pump = Pump::default();
    for _ in 0..1_000 {
        pump.pass(&world.life, &queue).await.unwrap();
        for claimed in world.claim_now().await.jobs {
            assert_eq!(
                world.settle(&claimed, Verdict::Succeeded, output("1")).await,
                Settled::Settled
            );
            assert!(waiting.remove(&claimed.id), "{} ran twice", claimed.id);
        }
        world.record().await;
        if waiting.is_empty() {
            break;
        }
    }
    assert!(waiting.is_empty(), "{} never ran", waiting.len());
    let stats = world.life.engine().stats(&world.shard).await.unwrap();
    assert_eq!((stats.ready, stats.leased, stats.outbox), (0, 0, 0));
}

/// Goal: a tenant with more jobs than there is room for keeps out nobody, and all of its jobs run; also after the engine
/// has lost everything.
/// Method: room for 20, 150 jobs of a tenant, and behind them 3 of each of 6 others, of which each wave that is claimed
/// has some.
#[tokio::test]
async fn a_long_queue_of_one_tenant_keeps_out_nobody() {
    let of = |tenant: &str| {
        let spec = JobSpec { fairness_key: Some(tenant.into()), ..JobSpec::default() };
        NewJob { spec, ..new_job() }
    };
    for is_wiped in [false, true] {
        let mut world = World::new().await;
        let first = world.submit(of("large")).await;
        soon("the first is there", || async { world.live(first.id).await }).await;
        let queue =
            world.life.ledger().queue(&world.namespace, &world.shard.queue).await.unwrap().unwrap();
        let room =
            ShardSettings { version: queue.version + 1, jobs_max: 20, ..queue.shard_settings() };
        assert!(world.life.engine().configure(&world.shard, &room).await.unwrap());
        let mut waiting = std::collections::BTreeSet::from([first.id]);
        for _ in 0..149 {
            waiting.insert(world.submit(of("large")).await.id);
        }
        let mut small = std::collections::BTreeSet::new();
        for n in 0..18 {
            small.insert(world.submit(of(&format!("small{}", n % 6))).await.id);
        }
        waiting.extend(&small);
        let stats = async |world: &World| world.life.engine().stats(&world.shard).await.unwrap();
        soon("there is no room left", || async {
            (stats(&world).await.ready == 20 && stats(&world).await.refused >= 2).then_some(())
        })
        .await;
        if is_wiped {
            world = world.wiped().await;
            assert!(world.life.engine().configure(&world.shard, &room).await.unwrap());
            assert_eq!(world.fill().await.pushed, 20);
        }
        let (mut pump, mut claims, mut small_done_at) = (Pump::default(), 0, None);
        for _ in 0..1_000 {
            pump.pass(&world.life, &queue).await.unwrap();
            for claimed in world.claim_now().await.jobs {
                claims += 1;
                let settled = world.settle(&claimed, Verdict::Succeeded, output("1")).await;
                assert_eq!(settled, Settled::Settled);
                assert!(waiting.remove(&claimed.id), "{} ran twice", claimed.id);
                small.remove(&claimed.id);
            }
            world.record().await;
            if small.is_empty() && small_done_at.is_none() {
                small_done_at = Some(claims);
            }
            if waiting.is_empty() {
                break;
            }
        }
        assert!(waiting.is_empty(), "{} never ran", waiting.len());
        let most = small_done_at.unwrap();
        assert!(most <= 100, "the others waited for {most} jobs");
        for _ in 0..3 {
            pump.pass(&world.life, &queue).await.unwrap();
        }
        assert_eq!(stats(&world).await.refused, 0, "all is there");
    }
}

/// Goal: jobs that the engine refuses ahead of their time hold up nobody, and come in as room comes back.
/// Method: room for 10, more jobs for later than one push call takes, and one for now behind them.
#[tokio::test]
async fn jobs_refused_ahead_of_their_time_hold_up_nobody() {
    let world = World::new().await;
    let run_at = Some(Clock::System.now().plus(Duration::from_secs(50)));
    let jobs = (0..250).map(|_| NewJob { run_at, ..new_job() }).collect();
    let submission = Submission { jobs, atomic: false, idempotency: None };
    world.life.submit(submission).await.unwrap();
    let for_now = world.submit(new_job()).await;
    let queue = world.life.ledger().queues(None).await.unwrap().remove(0);
    let world = world.wiped().await;
    let room = ShardSettings { version: queue.version + 1, jobs_max: 10, ..queue.shard_settings() };
    assert!(world.life.engine().configure(&world.shard, &room).await.unwrap());

    assert_eq!(world.fill().await.pushed, 11);
    assert_eq!(world.claim_now().await.jobs[0].id, for_now.id);
    let mut pump = Pump::default();
    assert_eq!(pump.pass(&world.life, &queue).await.unwrap().pushed, 0, "there is no room yet");
    let (now, namespace) = (Clock::System.now().plus(LEASE), &world.namespace);
    let (ahead, ledger) = (now.plus(Duration::from_secs(60)), world.life.ledger());
    let page = Unfinished::new(namespace, &queue.name, (ahead, now), 5);
    let page = ledger.unfinished(page).await.unwrap();
    for job in page.jobs {
        world.life.cancel(namespace, job.id, "test").await.unwrap();
    }
    assert_eq!(pump.pass(&world.life, &queue).await.unwrap().pushed, 5);
    let stats = world.life.engine().stats(&world.shard).await.unwrap();
    assert_eq!((stats.delayed, stats.leased), (10, 1));
}

#[tokio::test]
async fn the_sweep_ends_what_must_not_start() {
    let world = World::new().await;
    let soon_over = NewJob {
        expires_at: Some(Clock::System.now().plus(Duration::from_millis(1))),
        ..new_job()
    };
    let expired = world.submit(soon_over).await;
    world.shutdown.cancel();
    let world = world.wiped().await;
    soon("its expiry", || async {
        (Clock::System.now() > expired.expires_at.unwrap()).then_some(())
    })
    .await;
    let filled = world.fill().await;
    assert_eq!((filled.ended, filled.pushed), (1, 0));
    assert_eq!(world.job(expired.id).await.state, JobState::Expired);
}

#[tokio::test]
async fn the_sweep_leaves_alone_what_changed_just_now() {
    let world = World::new().await;
    world.submit(new_job()).await;
    let queue = world.life.ledger().queues(None).await.unwrap().remove(0);
    let swept = Sweeper::default().pass(&world.life, &queue).await.unwrap();
    assert_eq!(swept.checked, 0, "the common path may still be carrying it");
}

#[tokio::test]
async fn explain_names_what_holds_a_job_back() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    soon("an open shard with the job", || async {
        let stats = world.life.engine().stats(&world.shard).await.unwrap();
        (stats.open && stats.ready == 1).then_some(())
    })
    .await;
    assert_eq!(world.reasons(job.id).await, (false, vec!["no_worker", "waiting_turn"]));

    let paused = Paused { since: Timestamp::from_millis(1), by: "ops".into(), reason: None };
    world.life.set_paused(&world.namespace, &world.shard.queue, Some(paused)).await.unwrap();
    assert_eq!(world.reasons(job.id).await.1, ["queue_paused", "no_worker", "waiting_turn"]);
    world.life.set_paused(&world.namespace, &world.shard.queue, None).await.unwrap();

    let later =
        NewJob { run_at: Some(Clock::System.now().plus(Duration::from_secs(3600))), ..new_job() };
    let later = world.submit(later).await;
    assert_eq!(world.reasons(later.id).await.1, ["not_due", "no_worker"]);

    let claimed = world.claim().await;
    assert_eq!(world.reasons(job.id).await, (false, vec!["running"]));
    world.settle(&claimed, Verdict::Succeeded, output("1")).await;
    assert_eq!(world.reasons(job.id).await.1, ["recording"]);
    world.record().await;
    assert_eq!(world.reasons(job.id).await.1, ["finished"]);
    assert!(world.life.explain(&world.namespace, JobId::generate()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_bulk_action_changes_what_matches_and_nothing_else() {
    let world = World::new().await;
    let tagged = NewJob { tags: vec!["old".into()], ..new_job() };
    for _ in 0..3 {
        world.submit(NewJob { id: JobId::generate(), ..tagged.clone() }).await;
    }
    let spared = world.submit(new_job()).await;
    let filter = JobFilter { tags: vec!["old".into()], ..JobFilter::default() };
    let (life, namespace) = (&world.life, &world.namespace);
    assert_eq!(life.count(namespace, Action::Cancel, &filter).await.unwrap(), 3);
    assert_eq!(life.count(namespace, Action::Retry { rate: None }, &filter).await.unwrap(), 0);
    let operation =
        life.start_action(namespace, Action::Cancel, filter.clone(), "test").await.unwrap();
    let ended = soon("the operation's end", || async {
        let operation = life.ledger().operation(namespace, operation.id).await.unwrap().unwrap();
        (operation.state != "running").then_some(operation)
    })
    .await;
    assert_eq!((ended.state.as_str(), ended.matched, ended.changed), ("succeeded", 3, 3));
    assert_eq!(world.job(spared.id).await.state, JobState::Ready);
    assert_eq!(life.count(namespace, Action::Retry { rate: None }, &filter).await.unwrap(), 3);
}

#[tokio::test]
async fn the_feed_tells_what_was_recorded() {
    let world = World::new().await;
    let start = world.life.feed(&world.namespace, None, 10).await.unwrap().position;
    let job = world.submit(new_job()).await;
    let claimed = world.claim().await;
    world.settle(&claimed, Verdict::Succeeded, output("1")).await;
    world.record().await;
    let page = world.life.feed(&world.namespace, Some(start), 10).await.unwrap();
    let told: Vec<_> = page.events.iter().map(|(_, event)| (event.id, event.state)).collect();
    assert_eq!(told, [(job.id, JobState::Succeeded)]);
    assert!(!page.reset);
}

/// Goal: whatever else changes a job while it is cancelled, "cancelled" means that it never starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_moved_while_it_is_cancelled_never_starts_once_cancelled() {
    let world = World::new().await;
    let other: QueueName = "other".parse().unwrap();
    let mut cancelled = Vec::new();
    for _ in 0..150 {
        let job = world.submit(new_job()).await;
        let patch = JobPatch { queue: Some(other.clone()), ..JobPatch::default() };
        let (life, namespace) = (&world.life, &world.namespace);
        let (ended, _moved) = tokio::join!(
            life.cancel(namespace, job.id, "test"),
            life.patch(namespace, job.id, &patch)
        );
        match ended.unwrap() {
            Changed::Done(Cancelled::Now(_)) => cancelled.push(job.id),
            Changed::Done(Cancelled::Requested(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!cancelled.is_empty());
    // A job behind them in each queue shows that every push has arrived.
    let here = world.submit(new_job()).await;
    let there = world.submit(NewJob { queue: other, ..new_job() }).await;
    let life = &world.life;
    for (name, last) in [("default", here.id), ("other", there.id)] {
        let shard = ShardId::first(Namespace::default(), name.parse().unwrap());
        soon("the last push", || async { life.engine().peek(&shard, last).await.unwrap() }).await;
        for id in &cancelled {
            let live = life.engine().peek(&shard, *id).await.unwrap();
            assert!(live.is_none(), "{id} is cancelled and in the queue {name}: {live:?}");
        }
    }
}

/// Goal: two changes at once leave one form of the job in the engine, in one queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_two_callers_change_at_once_is_in_one_queue_only() {
    let world = World::new().await;
    let here = world.shard.clone();
    let there = ShardId::first(world.namespace.clone(), "other".parse().unwrap());
    let mut jobs = Vec::new();
    for _ in 0..150 {
        let job = world.submit(new_job()).await;
        let moves = JobPatch { queue: Some(there.queue.clone()), ..JobPatch::default() };
        let rises = JobPatch { priority: Some(Priority::MAX), ..JobPatch::default() };
        let (life, namespace) = (&world.life, &world.namespace);
        let changes = tokio::join!(
            life.patch(namespace, job.id, &moves),
            life.patch(namespace, job.id, &rises)
        );
        for change in [changes.0.unwrap(), changes.1.unwrap()] {
            assert!(matches!(change, Changed::Done(_)), "{change:?}");
        }
        jobs.push(job.id);
    }
    // A job behind them in each queue shows that every push has arrived.
    for shard in [&here, &there] {
        let last = world.submit(NewJob { queue: shard.queue.clone(), ..new_job() }).await;
        soon("the last push", || async { world.life.engine().peek(shard, last.id).await.unwrap() })
            .await;
    }
    for id in jobs {
        let old = world.life.engine().peek(&here, id).await.unwrap();
        assert!(old.is_none(), "{id} was moved and is in its old queue: {old:?}");
        let job = world.job(id).await;
        assert_eq!((&job.queue, job.priority), (&there.queue, Priority::MAX));
    }
}

/// Goal: the holder that a submission replaced does not start after it was shown as cancelled.
#[tokio::test]
async fn a_replaced_job_leaves_the_engine_before_the_answer() {
    let world = World::new().await;
    let unique = Unique { key: "k".into(), window: None, on_conflict: OnConflict::Replace };
    let job = || NewJob { unique: Some(unique.clone()), ..new_job() };
    let old = world.submit(job()).await;
    soon("the holder in the engine", || async { world.live(old.id).await }).await;
    let submission = Submission { jobs: vec![job()], atomic: false, idempotency: None };
    let outcome = world.life.submit(submission).await.unwrap();
    let SubmitOutcome::Done(results) = outcome else { panic!("{outcome:?}") };
    let Ok(Accepted::Replaced(new, replaced)) = &results[0] else { panic!("{results:?}") };
    assert_eq!(*replaced, old.id);
    let live = world.life.engine().peek(&world.shard, old.id).await.unwrap();
    assert_eq!(live, None);
    assert_eq!(world.claim().await.id, new.id);
    assert!(world.claim_now().await.jobs.is_empty());
}

/// Goal: a job whose success came by the direct path is not started again when its lease runs out.
#[tokio::test]
async fn an_outcome_of_the_direct_path_ends_the_job_in_the_engine_too() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    let claimed = world.claim().await;
    let record = Record {
        namespace: world.namespace.clone(),
        id: job.id,
        fence: claimed.fence,
        ended: Ended::Succeeded,
        at: Timestamp::from_millis(2),
        claimed_at: Some(Timestamp::from_millis(1)),
        attempt: 1,
        crashes: 0,
        worker: None,
        output: None,
        error: None,
        timed_out: false,
        usage: None,
    };
    let replies = world.life.record_direct(vec![record.clone().into()]).await.unwrap();
    assert_eq!(replies, [Recorded::Applied]);
    assert_eq!(world.job(job.id).await.state, JobState::Succeeded);
    // The lease is asked to stop; when it runs out, the job does not come back.
    let live = world.life.engine().peek(&world.shard, job.id).await.unwrap().map(|l| l.state);
    assert!(matches!(live, None | Some(LiveState::Leased { cancel: true, .. })), "{live:?}");
    assert_eq!(world.life.record_direct(vec![record.into()]).await.unwrap(), [Recorded::Stale]);
}

/// Goal: a record of a newer build is left to a newer build, not ended as somebody else's.
#[tokio::test]
async fn a_job_that_this_build_cannot_read_is_put_off_and_not_ended() {
    let world = World::new().await;
    let sound = world.submit(new_job()).await;
    let strange = world.submit(new_job()).await;
    soon("both in the engine", || async {
        (world.live(sound.id).await.is_some() && world.live(strange.id).await.is_some())
            .then_some(())
    })
    .await;
    let set = "spec = '{\"max_attempts\":\"many\"}'";
    world.life.ledger().tamper_job(strange.id, set).await.unwrap();
    let take = |wait| Take {
        namespace: world.namespace.clone(),
        worker: WorkerId::generate(),
        queues: vec![QueueName::default()],
        kinds: Vec::new(),
        max: 10,
        lease: LEASE,
        wait,
    };
    let taken = world.life.take(take(SOON)).await.unwrap();
    assert_eq!(taken.iter().map(|t| t.job.id).collect::<Vec<_>>(), [sound.id]);
    world.record().await;
    // It is not lost: it waits in the engine for a build that can read it, and its attempts have not counted.
    let live = world.life.engine().peek(&world.shard, strange.id).await.unwrap().unwrap();
    assert!(matches!(live.state, LiveState::Delayed), "{live:?}");
    assert_eq!((live.attempt, live.crashes), (0, 0));
    let spec = serde_json::to_string(&strange.spec).unwrap();
    world.life.ledger().tamper_job(strange.id, &format!("spec = '{spec}'")).await.unwrap();
    let job = world.job(strange.id).await;
    assert_eq!((job.state, job.attempt), (JobState::Scheduled, 0));
}

/// Goal: the end of a bulk action is noted although the ledger refuses it at first.
#[tokio::test]
async fn the_end_of_a_bulk_action_is_noted_again_until_it_is_taken() {
    let world = World::new().await;
    for _ in 0..3 {
        world.submit(new_job()).await;
    }
    let (life, namespace) = (&world.life, &world.namespace);
    let refuse = "CREATE TRIGGER no_end BEFORE UPDATE ON operations WHEN NEW.state <> 'running' \
                  BEGIN SELECT RAISE(ABORT, 'not now'); END";
    life.ledger().tamper(refuse.into()).await.unwrap();
    let filter = JobFilter::default();
    let operation = life.start_action(namespace, Action::Cancel, filter, "test").await.unwrap();
    let read =
        || async { life.ledger().operation(namespace, operation.id).await.unwrap().unwrap() };
    soon("the last page", || async { (read().await.changed == 3).then_some(()) }).await;
    // The end is refused by now.
    for _ in 0..50 {
        life.ledger().now().await.unwrap();
    }
    assert_eq!(read().await.state, "running");
    life.ledger().tamper("DROP TRIGGER no_end".into()).await.unwrap();
    let ended = soon("the operation's end", || async {
        Some(read().await).filter(|operation| operation.state != "running")
    })
    .await;
    assert_eq!((ended.state.as_str(), ended.changed), ("succeeded", 3));
}
