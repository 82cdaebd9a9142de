//! A ledger (SQLite), the embedded engine, which is wiped and set back on the way, and a worker that is played by hand.

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
    Adopted, Adoption, ClaimRequest, ClaimState, Claimed, Ended, Engine, Held, LiveState, Push,
    Report, Settle, Settled, ShardId, Verdict,
};
use windlass_shared::ledger::{
    Accepted, Epoch, Ledger, Record, Submission, SubmitOutcome, WorkerBeat,
};
use windlass_shared::lifecycle::verify::{Verified, VerifySettings, verify};
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::{JobId, LeaseId, WorkerId};
use windlass_shared::model::job::{Job, JobState, NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;

/// How long a test waits for what another task must do soon.
pub const SOON: Duration = Duration::from_secs(20);
pub const LEASE: Duration = Duration::from_secs(15);

pub struct Rig {
    pub life: Lifecycle,
    pub engine: Arc<Embedded>,
    pub shard: ShardId,
    pub worker: WorkerId,
    pub epoch: Epoch,
    _folder: Arc<tempfile::TempDir>,
}

/// A lease in the hands of the worker.
#[derive(Clone)]
pub struct Mine {
    pub job: Claimed,
    pub lease_id: LeaseId,
    pub at: Timestamp,
}

impl Mine {
    pub fn held(&self) -> Held {
        Held { id: self.job.id, fence: self.job.fence, lease_id: self.lease_id }
    }

    pub fn adoption(&self) -> Adoption {
        let job = Push {
            id: self.job.id,
            attempt: self.job.attempt,
            crashes: self.job.crashes,
            ..Push::new(self.job.fence, "echo".parse().unwrap(), self.at, self.job.envelope.clone())
        };
        Adoption { job, lease_id: self.lease_id, claimed_at: self.at }
    }

    pub fn record(&self, namespace: &Namespace, ended: Ended) -> Record {
        let counts = !matches!(ended, Ended::Snoozed(_) | Ended::Released);
        Record {
            namespace: namespace.clone(),
            id: self.job.id,
            fence: self.job.fence,
            ended,
            at: self.at,
            claimed_at: Some(self.at),
            attempt: self.job.attempt + u32::from(counts),
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
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = Arc::new(Embedded::new(Clock::System));
        Self::with(folder, engine).await
    }

    pub async fn with(folder: tempfile::TempDir, engine: Arc<Embedded>) -> Self {
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
    pub async fn beat(&self) {
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

    pub async fn submit(&self, count: usize) -> Vec<Job> {
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

    pub async fn try_claim(&self, max: u32) -> (ClaimState, Vec<Mine>) {
        self.try_claim_for(max, LEASE).await
    }

    async fn try_claim_for(&self, max: u32, lease: Duration) -> (ClaimState, Vec<Mine>) {
        let lease_id = LeaseId::random();
        let request = ClaimRequest {
            worker: self.worker,
            lease_id,
            max,
            lease,
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        };
        let reply = self.life.engine().claim(&self.shard, &request).await.unwrap();
        let at = reply.now;
        (reply.state, reply.jobs.into_iter().map(|job| Mine { job, lease_id, at }).collect())
    }

    /// Claims exactly so many: pushes are carried by another task.
    pub async fn claim(&self, count: usize) -> Vec<Mine> {
        let mut claimed = Vec::new();
        soon("claimable jobs", async || {
            let left = u32::try_from(count - claimed.len()).unwrap();
            claimed.extend(self.try_claim(left).await.1);
            (claimed.len() == count).then_some(())
        })
        .await;
        claimed
    }

    /// Claims one for so long.
    pub async fn claim_for(&self, lease: Duration) -> Mine {
        soon("a claimable job", async || self.try_claim_for(1, lease).await.1.pop()).await
    }

    pub async fn settle(&self, mine: &Mine, verdict: Verdict) -> Settled {
        let settle = Settle {
            dependency: None,
            held: mine.held(),
            verdict,
            detail: Detail::default().encode(),
        };
        self.life.engine().settle(&self.shard, &[settle]).await.unwrap().settles[0]
    }

    pub async fn record_all(&self) {
        while record::record_outcomes(&self.life, &self.shard).await.unwrap() > 0 {}
    }

    pub async fn adopt(&self, mine: &[Mine]) -> Vec<Adopted> {
        let leases: Vec<Adoption> = mine.iter().map(Mine::adoption).collect();
        self.life.engine().adopt(&self.shard, self.worker, LEASE, &leases).await.unwrap()
    }

    /// What a worker does when it hears that the gate is shut: adopts, then reports.
    pub async fn adopt_and_report(&self, mine: &[Mine]) {
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

    pub async fn verify(&self) -> Verified {
        verify(&self.life, &self.shard, self.epoch, &patient()).await.unwrap()
    }

    /// Verifies while the worker adopts.
    pub async fn verify_with(&self, mine: &[Mine]) {
        // A verification that begins anew, since somebody else has begun one, is reported to anew.
        let reporting = async {
            let mut pace = tokio::time::interval(Duration::from_millis(1));
            let mut reported = None;
            loop {
                pace.tick().await;
                let view = self.life.engine().gate(&self.shard).await.unwrap();
                let shut = view.gate.filter(|gate| gate.process.is_none());
                let generation = shut.map(|gate| gate.generation);
                if generation.is_some() && generation != reported {
                    self.adopt_and_report(mine).await;
                    reported = generation;
                }
            }
        };
        let verified = tokio::select! {
            verified = self.verify() => verified,
            () = reporting => unreachable!("it does not end"),
        };
        assert!(matches!(verified, Verified::Opened { missing: 0, .. }), "{verified:?}");
    }

    pub async fn state(&self, id: JobId) -> JobState {
        let job = self.life.ledger().job(&self.shard.namespace, id).await.unwrap();
        job.expect("it was accepted").state
    }

    pub async fn live(&self, id: JobId) -> Option<LiveState> {
        let live = self.life.engine().peek(&self.shard, id).await.unwrap();
        live.map(|live| live.state)
    }
}

/// The window is longer than any test: only reports end it.
pub fn patient() -> VerifySettings {
    VerifySettings { window: Duration::from_secs(600), grace: LEASE, ramp: Duration::ZERO }
}

pub fn process(ledger: &Ledger, engine: &Arc<Embedded>) -> Lifecycle {
    process_on(ledger, Engine::Embedded(Arc::clone(engine)))
}

pub fn process_on(ledger: &Ledger, engine: Engine) -> Lifecycle {
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    Lifecycle::start(ledger.clone(), engine, Clock::System, shutdown, tasks)
}

pub async fn soon<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
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
