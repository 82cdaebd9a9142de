//! The worker of the installation's own jobs, beside a real scheduler.

use std::time::Instant;

use tokio_util::task::TaskTracker;
use windlass_scheduler::SchedulerSettings;
use windlass_shared::clock::Clock;
use windlass_shared::config::{self, EngineSettings, Inputs, LedgerSettings};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::{Accepted, Ledger, Submission, SubmitOutcome};
use windlass_shared::lifecycle::verify::VerifySettings;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{Job, JobState, NewJob, Value};
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::handler::typed;

use super::*;

const SOON: Duration = Duration::from_secs(60);

struct Rig {
    installation: Installation,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let ledger_settings = LedgerSettings::new(url);
        Ledger::migrate(&ledger_settings).await.unwrap();
        let ledger = Ledger::open(&ledger_settings).await.unwrap();
        let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
        let stop = CancellationToken::new();
        let source = EngineSource::from(engine.clone());
        let life =
            Lifecycle::start(ledger, engine, Clock::System, stop.clone(), TaskTracker::new());
        let verify = VerifySettings {
            window: Duration::ZERO,
            ramp: Duration::ZERO,
            ..VerifySettings::default()
        };
        let duties = SchedulerSettings { verify, ..SchedulerSettings::default() };
        tokio::spawn(windlass_scheduler::run(life.clone(), duties, stop.clone()));
        let settings = Arc::new(config::load(&Inputs::default()).unwrap());
        let installation =
            Installation { life, settings, source, api: None, stopping: CancellationToken::new() };
        Self { installation, stop, _folder: folder }
    }

    async fn submit(&self, namespace: Namespace, kind: &str) -> JobId {
        let payload = Value::Inline(b"null".as_slice().into());
        let job = NewJob::new(namespace, QueueName::system(), kind.parse().unwrap(), payload);
        let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
        let submitted = self.installation.life.submit(submission).await.unwrap();
        match submitted {
            SubmitOutcome::Done(mut results) => match results.pop() {
                Some(Ok(Accepted::New(job))) => job.id,
                other => panic!("not accepted: {other:?}"),
            },
            other => panic!("not accepted: {other:?}"),
        }
    }

    async fn until(&self, namespace: &Namespace, id: JobId, state: JobState) -> Job {
        let until = Instant::now() + SOON;
        loop {
            let seen =
                self.installation.life.get(namespace, id).await.unwrap().expect("it is kept");
            let now = windlass_shared::lifecycle::explain::visible_state(&seen);
            if now == state {
                return seen.job;
            }
            assert!(Instant::now() < until, "it is {now}, not {state}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_jobs_run_and_those_of_other_namespaces_wait() {
    let rig = Rig::start().await;
    let own = Namespace::system();
    let foreign = rig.submit(Namespace::default(), "system.ping").await;
    let running = tokio::spawn(run(rig.installation.clone()));
    // It came first; had it been taken, it would have ended first.
    for _ in 0..3 {
        let id = rig.submit(own.clone(), "system.ping").await;
        rig.until(&own, id, JobState::Succeeded).await;
    }
    rig.until(&Namespace::default(), foreign, JobState::Ready).await;
    rig.installation.stopping.cancel();
    running.await.unwrap().unwrap();
    rig.stop.cancel();
}

/// Goal: a scheduler that is stopped does not wait for its jobs, and costs them no attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_gives_jobs_back() {
    let rig = Rig::start().await;
    let own = Namespace::system();
    let long = || {
        typed(|_ctx: Context, (): ()| async move {
            tokio::time::sleep(10 * SOON).await;
            Ok::<_, HandlerError>(())
        })
    };
    let id = rig.submit(own.clone(), "long").await;
    let shutdown = CancellationToken::new();
    let worker = worker(&rig.installation, vec![("long", long())]).unwrap();
    let working = tokio::spawn(worker.run(shutdown.clone()));
    rig.until(&own, id, JobState::Running).await;
    shutdown.cancel();
    working.await.unwrap().unwrap();
    let job = rig.until(&own, id, JobState::Ready).await;
    assert_eq!((job.attempt, job.crashes), (0, 0), "it did not fail");
    rig.stop.cancel();
}
