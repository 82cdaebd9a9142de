//! Verification of a shard on a real ledger (SQLite) and the embedded engine, which is wiped and set back on the way.
//! The worker is played by hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::LedgerSettings;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::envelope::Detail;
use windlass_shared::engine::{
    Adopted, Adoption, ClaimRequest, ClaimState, Claimed, Ended, Engine, Gate, Held, LiveState,
    Push, Report, Settle, Settled, ShardId, Validity, Verdict,
};
use windlass_shared::ledger::{
    Accepted, Epoch, Ledger, Record, RecordRunning, Recorded, Submission, SubmitOutcome, WorkerBeat,
};
use windlass_shared::lifecycle::compare::Auditor;
use windlass_shared::lifecycle::lease::{End, Landed, Shown, Take};
use windlass_shared::lifecycle::record::Direct;
use windlass_shared::lifecycle::sweep::Sweeper;
use windlass_shared::lifecycle::verify::{Verified, VerifySettings, verify};
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
use windlass_shared::model::job::{Job, JobState, NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::gates::until;

/// How long a test waits for what another task must do soon.
const SOON: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(15);

struct Rig {
    life: Lifecycle,
    engine: Arc<Embedded>,
    shard: ShardId,
    worker: WorkerId,
    epoch: Epoch,
    _folder: Arc<tempfile::TempDir>,
}

/// A lease in the hands of the worker.
#[derive(Clone)]
struct Mine {
    job: Claimed,
    lease_id: LeaseId,
    at: Timestamp,
}

impl Mine {
    fn held(&self) -> Held {
        Held { id: self.job.id, fence: self.job.fence, lease_id: self.lease_id }
    }

    fn adoption(&self) -> Adoption {
        let job = Push {
            id: self.job.id,
            attempt: self.job.attempt,
            crashes: self.job.crashes,
            ..Push::new(self.job.fence, "echo".parse().unwrap(), self.at, self.job.envelope.clone())
        };
        Adoption { job, lease_id: self.lease_id, claimed_at: self.at }
    }

    fn record(&self, namespace: &Namespace, ended: Ended) -> Record {
        Record {
            namespace: namespace.clone(),
            id: self.job.id,
            fence: self.job.fence,
            ended,
            at: self.at,
            claimed_at: Some(self.at),
            attempt: self.job.attempt + 1,
            crashes: self.job.crashes,
            worker: None,
            output: None,
            error: None,
            timed_out: false,
            usage: None,
        }
    }
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = Arc::new(Embedded::new(Clock::System));
        Self::with(folder, engine).await
    }

    async fn with(folder: tempfile::TempDir, engine: Arc<Embedded>) -> Self {
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let worker = WorkerId::generate();
        let lead = ledger.lead(worker, "test", Duration::from_secs(3_600)).await.unwrap();
        let rig = Self {
            life: process(&ledger, &engine),
            engine,
            shard: ShardId::first(Namespace::default(), QueueName::default()),
            worker,
            epoch: lead.expect("nobody else stands for it"),
            _folder: Arc::new(folder),
        };
        rig.beat().await;
        rig
    }

    /// The worker tells the ledger of itself: whoever verifies waits for its report.
    async fn beat(&self) {
        let beat = WorkerBeat {
            id: self.worker,
            name: "hand".into(),
            namespace: self.shard.namespace.clone(),
            host: "here".into(),
            version: "0".into(),
            queues: vec![self.shard.queue.to_string()],
            kinds: Vec::new(),
            concurrency: 10,
            running: 0,
            draining: false,
            started_at: Timestamp::default(),
            seen_at: Timestamp::default(),
        };
        self.life.ledger().beat(&beat).await.unwrap();
    }

    async fn submit(&self, count: usize) -> Vec<Job> {
        let job = || {
            let (namespace, queue) = (self.shard.namespace.clone(), self.shard.queue.clone());
            let payload = Value::Inline(Bytes::from_static(b"1"));
            NewJob::new(namespace, queue, "echo".parse().unwrap(), payload)
        };
        let jobs = (0..count).map(|_| job()).collect();
        let submission = Submission { jobs, atomic: true, idempotency: None };
        let SubmitOutcome::Done(results) = self.life.submit(submission).await.unwrap() else {
            panic!("a submission without a key is never replayed");
        };
        let accepted = results.into_iter().map(|result| match result {
            Ok(Accepted::New(job)) => job,
            other => panic!("not accepted: {other:?}"),
        });
        accepted.collect()
    }

    async fn try_claim(&self, max: u32) -> (ClaimState, Vec<Mine>) {
        let lease_id = LeaseId::random();
        let request = ClaimRequest {
            worker: self.worker,
            lease_id,
            max,
            lease: LEASE,
            kinds: Vec::new(),
            offset: 0,
        };
        let reply = self.life.engine().claim(&self.shard, &request).await.unwrap();
        let at = reply.now;
        (reply.state, reply.jobs.into_iter().map(|job| Mine { job, lease_id, at }).collect())
    }

    /// Claims exactly so many: pushes are carried by another task.
    async fn claim(&self, count: usize) -> Vec<Mine> {
        let mut claimed = Vec::new();
        soon("claimable jobs", async || {
            let left = u32::try_from(count - claimed.len()).unwrap();
            claimed.extend(self.try_claim(left).await.1);
            (claimed.len() == count).then_some(())
        })
        .await;
        claimed
    }

    async fn settle(&self, mine: &Mine, verdict: Verdict) -> Settled {
        let settle = Settle { held: mine.held(), verdict, detail: Detail::default().encode() };
        self.life.engine().settle(&self.shard, &[settle]).await.unwrap().settles[0]
    }

    async fn record_all(&self) {
        while record::record_outcomes(&self.life, &self.shard).await.unwrap() > 0 {}
    }

    async fn adopt(&self, mine: &[Mine]) -> Vec<Adopted> {
        let leases: Vec<Adoption> = mine.iter().map(Mine::adoption).collect();
        self.life.engine().adopt(&self.shard, self.worker, LEASE, &leases).await.unwrap()
    }

    /// What a worker does when it hears that the gate is shut: adopts, then reports.
    async fn adopt_and_report(&self, mine: &[Mine]) {
        let gate = soon("a shut gate", async || {
            let view = self.life.engine().gate(&self.shard).await.unwrap();
            view.gate.filter(|gate| gate.process.is_none())
        })
        .await;
        self.adopt(mine).await;
        let reported = self.life.engine().report(
            &self.shard,
            gate.ledger,
            gate.generation,
            self.worker,
            Report::Done,
        );
        reported.await.unwrap();
    }

    async fn verify(&self) -> Verified {
        verify(&self.life, &self.shard, self.epoch, &patient()).await.unwrap()
    }

    /// Verifies while the worker adopts.
    async fn verify_with(&self, mine: &[Mine]) {
        let (verified, ()) = tokio::join!(self.verify(), self.adopt_and_report(mine));
        assert!(matches!(verified, Verified::Opened { missing: 0, .. }), "{verified:?}");
    }

    async fn state(&self, id: JobId) -> JobState {
        let job = self.life.ledger().job(&self.shard.namespace, id).await.unwrap();
        job.expect("it was accepted").state
    }

    async fn live(&self, id: JobId) -> Option<LiveState> {
        let live = self.life.engine().peek(&self.shard, id).await.unwrap();
        live.map(|live| live.state)
    }
}

/// The window is longer than any test: only reports end it.
fn patient() -> VerifySettings {
    VerifySettings { window: Duration::from_secs(600), grace: LEASE, ramp: Duration::ZERO }
}

fn process(ledger: &Ledger, engine: &Arc<Embedded>) -> Lifecycle {
    let engine = Engine::Embedded(Arc::clone(engine));
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    Lifecycle::start(ledger.clone(), engine, Clock::System, shutdown, tasks)
}

async fn soon<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        loop {
            if let Some(found) = look().await {
                return found;
            }
            pace.tick().await;
        }
    };
    tokio::time::timeout(SOON, found).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

#[tokio::test]
async fn a_wiped_engine_gives_out_nothing_until_it_is_verified() {
    let rig = Rig::new().await;
    let jobs = rig.submit(3).await;
    let running = rig.claim(1).await;
    rig.engine.wipe();
    let late = rig.submit(1).await;
    soon("the late push", async || rig.live(late[0].id).await).await;
    let queue = rig.life.ledger().queues(None).await.unwrap().remove(0);
    Sweeper::default().pass(&rig.life, &queue).await.unwrap();
    let (state, claimed) = rig.try_claim(9).await;
    assert_eq!((state, claimed.len()), (ClaimState::Unverified, 0), "no push opens it again");

    rig.verify_with(&running).await;
    let (state, rest) = rig.try_claim(9).await;
    assert_eq!(state, ClaimState::Open);
    let mut ids: Vec<JobId> = rest.iter().chain(&running).map(|mine| mine.job.id).collect();
    ids.sort_unstable();
    let mut expected: Vec<JobId> = jobs.iter().chain(&late).map(|job| job.id).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected, "each once, and the running one by its holder alone");
    for mine in rest.iter().chain(&running) {
        assert_eq!(rig.settle(mine, Verdict::Succeeded).await, Settled::Settled);
    }
    rig.record_all().await;
    for id in expected {
        assert_eq!(rig.state(id).await, JobState::Succeeded);
    }
}

#[tokio::test]
async fn what_was_settled_and_lost_is_recorded_by_the_direct_path_and_does_not_run_again() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let mine = rig.claim(1).await.remove(0);
    let before = rig.engine.snapshot();
    assert_eq!(rig.settle(&mine, Verdict::Succeeded).await, Settled::Settled);
    rig.engine.restart_from(before);
    let replay = async {
        rig.adopt_and_report(&[]).await;
    };
    let record = mine.record(&rig.shard.namespace, Ended::Succeeded);
    let replies = rig.life.record_direct(vec![record.into()]).await.unwrap();
    assert_eq!(replies, [Recorded::Applied]);
    let (verified, ()) = tokio::join!(rig.verify(), replay);
    assert!(matches!(verified, Verified::Opened { .. }), "{verified:?}");
    assert_eq!(rig.state(id).await, JobState::Succeeded);
    assert!(rig.try_claim(1).await.1.is_empty());
    assert_eq!(rig.adopt(&[mine]).await, [Adopted::Over], "its tombstone stands");
}

/// Goal: a lease that has the number of another one does not end it. Method: the store has gone back to before the
/// first claim, and its clock with it, so that the second one gets the same number.
#[tokio::test]
async fn an_outcome_does_not_end_the_lease_of_another_holder_with_its_number() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let mine = rig.claim(1).await.remove(0);
    let others = Adoption { lease_id: LeaseId::random(), ..mine.adoption() };
    rig.engine.wipe();
    let adopted = async {
        soon("a shut gate", async || rig.life.engine().gate(&rig.shard).await.unwrap().gate).await;
        let leases = std::slice::from_ref(&others);
        let engine = rig.life.engine();
        let held = engine.adopt(&rig.shard, WorkerId::generate(), LEASE, leases).await.unwrap();
        assert!(matches!(held[0], Adopted::Held { .. }), "{held:?}");
        rig.adopt_and_report(&[]).await;
    };
    let (verified, ()) = tokio::join!(rig.verify(), adopted);
    assert!(matches!(verified, Verified::Opened { .. }), "{verified:?}");
    let record = mine.record(&rig.shard.namespace, Ended::Succeeded);
    let direct = Direct { record, lease_id: Some(mine.lease_id) };
    assert_eq!(rig.life.record_direct(vec![direct]).await.unwrap(), [Recorded::Stale]);
    assert!(!rig.state(id).await.is_terminal());
    let live = rig.live(id).await;
    assert!(matches!(live, Some(LiveState::Leased { .. })), "{live:?}");
}

/// Goal: an attempt that failed while its engine was lost counts, and its delay holds, although the comparison has
/// pushed the job again meanwhile with the same fence, that of its running attempt on record.
#[tokio::test]
async fn a_failed_attempt_counts_although_the_comparison_was_faster() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let mine = rig.claim(1).await.remove(0);
    let running = RecordRunning {
        id,
        fence: mine.job.fence,
        attempt: 1,
        claimed_at: mine.at,
        worker: rig.worker.to_string(),
    };
    rig.life.ledger().record_running(vec![running]).await.unwrap();
    rig.engine.wipe();
    rig.verify_with(&[]).await;
    assert!(matches!(rig.live(id).await, Some(LiveState::Ready { .. })), "pushed again");
    let again = mine.at.plus(Duration::from_secs(600));
    let record = mine.record(&rig.shard.namespace, Ended::Retry(again));
    let replies = rig.life.record_direct(vec![record.into()]).await.unwrap();
    assert_eq!(replies, [Recorded::Applied]);
    let live = rig.life.engine().peek(&rig.shard, id).await.unwrap();
    let live = live.expect("it waits for its next attempt");
    assert_eq!((live.state, live.attempt, live.run_at), (LiveState::Delayed, 1, again));
}

#[tokio::test]
async fn an_engine_that_went_back_in_time_loses_what_has_ended_since() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    soon("the push", async || rig.live(id).await).await;
    let before = rig.engine.snapshot();
    let mine = rig.claim(1).await.remove(0);
    rig.settle(&mine, Verdict::Succeeded).await;
    rig.record_all().await;
    rig.engine.restart_from(before);
    assert!(matches!(rig.live(id).await, Some(LiveState::Ready { .. })), "it is back");
    rig.verify_with(&[]).await;
    assert_eq!(rig.live(id).await, None);
    assert!(rig.try_claim(1).await.1.is_empty());
}

#[tokio::test]
async fn an_older_form_of_a_job_is_replaced_by_the_one_on_record() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    soon("the push", async || rig.live(id).await).await;
    let before = rig.engine.snapshot();
    let mine = rig.claim(1).await.remove(0);
    let delay = Duration::from_secs(30);
    rig.settle(&mine, Verdict::Retry { delay }).await;
    rig.record_all().await;
    rig.engine.restart_from(before);
    rig.verify_with(&[]).await;
    let live = rig.life.engine().peek(&rig.shard, id).await.unwrap().expect("it waits");
    assert_eq!((live.state, live.attempt), (LiveState::Delayed, 1), "its delay is not forgotten");
}

#[tokio::test]
async fn a_lease_of_before_does_not_count_against_the_one_that_came_after_it() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let first = rig.claim(1).await.remove(0);
    let before = rig.engine.snapshot();
    rig.settle(&first, Verdict::Release).await;
    rig.record_all().await;
    let second = rig.claim(1).await.remove(0);
    rig.engine.restart_from(before);
    rig.verify_with(std::slice::from_ref(&second)).await;
    assert_eq!(rig.settle(&first, Verdict::Succeeded).await, Settled::Stolen);
    assert_eq!(rig.settle(&second, Verdict::Succeeded).await, Settled::Settled);
    rig.record_all().await;
    let job = rig.life.ledger().job(&rig.shard.namespace, id).await.unwrap().unwrap();
    assert_eq!((job.state, job.fence), (JobState::Succeeded, second.job.fence));
}

#[tokio::test]
async fn a_deposed_leader_opens_nothing() {
    let rig = Rig::new().await;
    rig.submit(1).await;
    rig.claim(1).await;
    rig.life.ledger().resign(rig.epoch).await.unwrap();
    let other = rig.life.ledger().lead(WorkerId::generate(), "other", SOON).await.unwrap();
    assert!(other.is_some_and(|epoch| epoch > rig.epoch));
    rig.engine.wipe();
    assert_eq!(rig.verify().await, Verified::NotLeader);
    assert_eq!(rig.try_claim(1).await.0, ClaimState::Unverified);
}

#[tokio::test]
async fn a_store_that_is_wiped_while_it_is_verified_is_compared_again() {
    let rig = Rig::new().await;
    let jobs = rig.submit(2).await;
    let running = rig.claim(1).await;
    rig.engine.wipe();
    let worker = async {
        rig.adopt_and_report(&[]).await;
    };
    let again = async {
        // After the first half, which has pushed: the worker has not reported yet.
        soon("a push", async || rig.live(jobs[1].id).await).await;
        rig.engine.wipe();
        // The report of before is gone too.
        worker.await;
        rig.adopt(&running).await;
    };
    let (verified, ()) = tokio::join!(rig.verify(), again);
    assert!(matches!(verified, Verified::Opened { .. }), "{verified:?}");
    let generation = rig.life.ledger().shard(&rig.shard).await.unwrap().generation;
    assert!(generation >= 3, "opened first, wiped twice: {generation}");
    let left: Vec<JobId> = rig.try_claim(9).await.1.iter().map(|mine| mine.job.id).collect();
    assert_eq!(left, [jobs[1].id]);
}

#[tokio::test]
async fn of_two_verifications_at_once_one_opens_the_gate() {
    let rig = Rig::new().await;
    rig.submit(5).await;
    let running = rig.claim(2).await;
    rig.engine.wipe();
    let worker = async {
        loop {
            rig.adopt_and_report(&running).await;
            tokio::task::yield_now().await;
        }
    };
    let both = async { tokio::join!(rig.verify(), rig.verify()) };
    let (one, two) = tokio::select! {
        both = both => both,
        () = worker => unreachable!("it goes on for ever"),
    };
    assert!([one, two].iter().any(|v| matches!(v, Verified::Opened { .. })), "{one:?} {two:?}");
    assert_eq!(rig.try_claim(9).await.1.len(), 3);
}

#[tokio::test]
async fn a_worker_that_does_not_report_is_waited_for_no_longer_than_the_window() {
    let rig = Rig::new().await;
    rig.submit(1).await;
    rig.claim(1).await;
    rig.engine.wipe();
    let hasty = VerifySettings { window: Duration::from_millis(50), ..patient() };
    let verified = verify(&rig.life, &rig.shard, rig.epoch, &hasty).await.unwrap();
    assert!(matches!(verified, Verified::Opened { missing: 1, .. }), "{verified:?}");
}

#[tokio::test]
async fn what_another_ledger_left_is_wiped() {
    let theirs = Rig::new().await;
    theirs.submit(3).await;
    theirs.claim(1).await;
    let ours = Rig::with(tempfile::tempdir().unwrap(), Arc::clone(&theirs.engine)).await;
    // Its queue has been open elsewhere: this is a ledger that was restored, say.
    assert!(ours.life.ledger().first_generation(&ours.shard).await.unwrap());
    let job = ours.submit(1).await.remove(0);
    ours.verify_with(&[]).await;
    let claimed: Vec<JobId> = ours.try_claim(9).await.1.iter().map(|mine| mine.job.id).collect();
    assert_eq!(claimed, [job.id]);
}

/// Goal: a fresh queue is opened by the push of its first job, once, however many processes push at once.
#[tokio::test]
async fn a_new_queue_is_opened_by_its_first_push() {
    let rig = Rig::new().await;
    let others: Vec<Lifecycle> = (0..4).map(|_| process(rig.life.ledger(), &rig.engine)).collect();
    let job = || {
        let (namespace, queue) = (rig.shard.namespace.clone(), rig.shard.queue.clone());
        NewJob::new(namespace, queue, "echo".parse().unwrap(), Value::Inline("1".into()))
    };
    let submits = others
        .iter()
        .map(|life| life.submit(Submission { jobs: vec![job()], atomic: true, idempotency: None }));
    futures::future::try_join_all(submits).await.unwrap();
    rig.claim(4).await;
    let on_record = soon("the note", async || {
        let record = rig.life.ledger().shard(&rig.shard).await.unwrap();
        record.process.is_some().then_some(record)
    })
    .await;
    assert_eq!(on_record.generation, 1);
}

#[tokio::test]
async fn the_audit_takes_out_what_the_ledger_does_not_know_or_has_ended() {
    let rig = Rig::new().await;
    let jobs = rig.submit(2).await;
    let ended = rig.claim(1).await.remove(0);
    // Ended past the engine, which still has it leased and cannot be told: its entry is as before.
    let before = rig.engine.snapshot();
    let record = ended.record(&rig.shard.namespace, Ended::Succeeded);
    rig.life.record_direct(vec![record.into()]).await.unwrap();
    rig.engine.restart_from(before);
    let stranger = Push::new(Fence(1), "echo".parse().unwrap(), ended.at, Bytes::new());
    let ledger = rig.life.ledger().id();
    let not_after = rig.life.engine().now().await.unwrap().plus(SOON);
    rig.life
        .engine()
        .push(&rig.shard, std::slice::from_ref(&stranger), &Validity { ledger, ..until(not_after) })
        .await
        .unwrap();

    let queue = rig.life.ledger().queues(None).await.unwrap().remove(0);
    let found = Auditor::default().pass(&rig.life, &queue).await.unwrap();
    assert_eq!((found.checked, found.dropped), (3, 2));
    assert_eq!(rig.live(stranger.id).await, None);
    assert_eq!(rig.live(ended.job.id).await, None);
    let other = jobs.iter().find(|job| job.id != ended.job.id).unwrap();
    assert!(rig.live(other.id).await.is_some(), "what waits is left alone");
}

/// A remote worker, that speaks to the API only.
async fn taken(rig: &Rig) -> Shown {
    let take = Take {
        namespace: rig.shard.namespace.clone(),
        worker: rig.worker,
        queues: vec![rig.shard.queue.clone()],
        kinds: Vec::new(),
        max: 1,
        lease: LEASE,
        wait: SOON,
    };
    let taken = rig.life.take(take).await.unwrap().remove(0);
    Shown { queue: taken.job.queue, held: taken.held }
}

#[tokio::test]
async fn a_remote_workers_lease_survives_a_wipe() {
    let rig = Rig::new().await;
    rig.submit(1).await;
    let shown = taken(&rig).await;
    rig.engine.wipe();
    let namespace = rig.shard.namespace.clone();
    let extended =
        rig.life.extend_taken(&namespace, std::slice::from_ref(&shown), LEASE).await.unwrap();
    assert!(extended[0].is_some(), "adopted on its behalf");
    rig.verify_with(&[]).await;
    assert!(rig.try_claim(1).await.1.is_empty(), "it is held");
    let ends = [(shown.clone(), End::Succeed(None))];
    let landed = rig.life.settle_taken(&namespace, "remote", &ends).await.unwrap();
    assert_eq!(landed, [Landed::Yes]);
    rig.record_all().await;
    assert_eq!(rig.state(shown.held.id).await, JobState::Succeeded);
}

#[tokio::test]
async fn a_remote_workers_result_survives_a_wipe() {
    let rig = Rig::new().await;
    rig.submit(1).await;
    let shown = taken(&rig).await;
    rig.engine.wipe();
    let ends = [(shown.clone(), End::Succeed(None))];
    for _ in 0..2 {
        let landed = rig.life.settle_taken(&rig.shard.namespace, "remote", &ends).await.unwrap();
        assert_eq!(landed, [Landed::Yes], "also when it is repeated");
    }
    assert_eq!(rig.state(shown.held.id).await, JobState::Succeeded);
    rig.verify_with(&[]).await;
    assert!(rig.try_claim(1).await.1.is_empty());
}

/// Nothing of the old one is leased from the first job of the new one on.
#[tokio::test]
async fn a_new_ledger_finds_the_store_of_another_and_empties_it() {
    let engine = Arc::new(Embedded::new(Clock::System));
    let old = Rig::with(tempfile::tempdir().unwrap(), engine.clone()).await;
    old.submit(2).await;
    let running = old.claim(1).await.remove(0);
    let new = Rig::with(tempfile::tempdir().unwrap(), engine).await;
    let ours = new.submit(1).await;
    soon("a gate of the new ledger", async || {
        let gate = new.life.engine().gate(&new.shard).await.unwrap().gate;
        gate.filter(|gate| gate.ledger == new.life.ledger().id() && gate.process.is_some())
    })
    .await;
    let claimed = new.claim(1).await;
    assert_eq!(claimed[0].job.id, ours[0].id);
    assert_eq!(new.try_claim(9).await.1.len(), 0, "what another ledger had left is gone");
    assert_eq!(old.settle(&running, Verdict::Succeeded).await, Settled::Gone);
    // The old one does not push into it any more.
    old.submit(1).await;
    let queue = old.life.ledger().queue(&old.shard.namespace, &old.shard.queue).await.unwrap();
    let swept = Sweeper::default().pass(&old.life, &queue.unwrap()).await.unwrap();
    assert_eq!((swept.pushed, new.try_claim(9).await.1.len()), (0, 0));
}

/// Goal: a worker that is there but slow, as when the API is behind with its replays, is waited for longer than one that
/// says nothing.
#[tokio::test]
async fn a_worker_that_is_at_it_is_waited_for_beyond_the_window() {
    let window = Duration::from_secs(1);
    for (is_at_it, not_in_time) in [(true, 0), (false, 1)] {
        let rig = Rig::new().await;
        rig.submit(1).await;
        rig.claim(1).await;
        rig.engine.wipe();
        let settings = VerifySettings { window, ..patient() };
        let verified = verify(&rig.life, &rig.shard, rig.epoch, &settings);
        let slowly = async {
            let engine = rig.life.engine();
            let gate = soon("a shut gate", async || engine.gate(&rig.shard).await.unwrap().gate);
            let Gate { ledger, generation, .. } = gate.await;
            let report = async |report| {
                let said = engine.report(&rig.shard, ledger, generation, rig.worker, report);
                said.await.unwrap();
            };
            if is_at_it {
                report(Report::Present).await;
            }
            tokio::time::sleep(window + window / 2).await;
            report(Report::Done).await;
        };
        let (verified, ()) = tokio::join!(verified, slowly);
        let Verified::Opened { missing, .. } = verified.unwrap() else { panic!("not opened") };
        assert_eq!(missing, not_in_time);
    }
}

/// Goal: a lease whose end is on record, and that came back with an older store, is not waited for: the attempt would be
/// made a second time, with the number that it had. Method: the settle and its outcome are lost after they were recorded.
#[tokio::test]
async fn a_lease_that_ended_on_record_and_came_back_gives_way_to_the_next_attempt() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let mine = rig.claim(1).await.remove(0);
    let before = rig.engine.snapshot();
    let delay = Duration::from_secs(20);
    assert_eq!(rig.settle(&mine, Verdict::Retry { delay }).await, Settled::Settled);
    rig.record_all().await;
    assert_eq!(rig.state(id).await, JobState::Retrying);
    rig.engine.restart_from(before);
    assert!(matches!(rig.live(id).await, Some(LiveState::Leased { .. })), "it has gone back");
    rig.verify_with(&[]).await;
    let live = rig.life.engine().peek(&rig.shard, id).await.unwrap().expect("it waits");
    assert_eq!((live.state, live.attempt), (LiveState::Delayed, 1));
}
