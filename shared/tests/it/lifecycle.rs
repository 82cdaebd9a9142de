//! The verbs of a job's life on a real ledger (SQLite) and a real engine (embedded), with a worker that is
//! played by hand.

mod changes;
mod filling;

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
