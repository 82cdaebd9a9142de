//! Short checks of sound installations, and of installations with a fault that the check must find.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;
use windlass_scheduler::SchedulerSettings;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, LedgerSettings};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::Ledger;
use windlass_shared::ledger::load_checks::{CheckBegun, CheckEnd, NewCheck};
use windlass_shared::lifecycle::verify::VerifySettings;
use windlass_shared::model::id::Fence;
use windlass_shared::model::job::NewJob;
use windlass_shared::model::load_check::CheckState;
use windlass_shared::model::time::Span;
use windlass_shared::testkit::postgres_server::PostgresServer;
use windlass_shared::testkit::redis_server::{RedisServer, unique_prefix};
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::handler::{Handler, typed};

use super::*;

const LEASE: Duration = Duration::from_secs(3);
const JOBS: u64 = 60;

struct Rig {
    check: Check,
    stop: CancellationToken,
    _kept: (Option<TempDir>, Option<PostgresServer>),
}

impl Rig {
    async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
        Self::of(ledger, engine.clone(), engine.into(), (Some(folder), None))
    }

    fn of(
        ledger: Ledger,
        engine: Engine,
        source: EngineSource,
        kept: (Option<TempDir>, Option<PostgresServer>),
    ) -> Self {
        let stop = CancellationToken::new();
        let life =
            Lifecycle::start(ledger, engine, Clock::System, stop.clone(), TaskTracker::new());
        let verify = VerifySettings {
            window: Duration::ZERO,
            ramp: Duration::ZERO,
            ..VerifySettings::default()
        };
        let duties = SchedulerSettings { verify, ..SchedulerSettings::default() };
        tokio::spawn(windlass_scheduler::run(life.clone(), duties, stop.clone()));
        let plan = Plan {
            rate_per_minute: 1_200,
            duration: Span(Duration::from_secs(3)),
            delay: Span(Duration::from_secs(1)),
            // What is promised is tested here, not how fast the machine is that many tests share.
            start_p99_max: Span(SETTLE_MAX),
            end_p99_max: Span(SETTLE_MAX),
            ..Plan::default()
        };
        let shadow = Namespace::shadow(uuid::Uuid::now_v7());
        let check = Check { life, source, plan, shadow, lease: LEASE };
        Self { check, stop, _kept: kept }
    }

    async fn run(&self, faults: Faults) -> Report {
        let report = with(&self.check, faults, &|_, _| {}, &CancellationToken::new()).await;
        self.stop.cancel();
        report.unwrap()
    }
}

/// The verdicts that do not hold. Those about speed are not looked at: this machine does other things.
fn broken(report: &Report) -> Vec<(&str, f64)> {
    let speed = ["rate_percent", "memory_growth_percent"];
    let broken = report.verdicts.iter().filter(|v| !v.holds && !speed.contains(&v.name.as_str()));
    broken.map(|v| (v.name.as_str(), v.measured)).collect()
}

fn sound(report: &Report) {
    assert_eq!(broken(report), [], "{:?}", report.examples);
    assert_eq!((report.accepted, report.refused), (JOBS, 0));
    assert!(report.load_seconds > 2.8, "{}", report.load_seconds);
    // Latencies count from the intended time, delayed jobs from the end of their delay.
    assert!(report.measured("start_p50_ms").is_some_and(|ms| ms > 0.0));
    assert!(report.measured("end_p99_ms") >= report.measured("start_p50_ms"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_installation_passes_and_is_clean_afterwards() {
    let rig = Rig::embedded().await;
    let (ledger, shadow) = (rig.check.life.ledger().clone(), rig.check.shadow.clone());
    // Without its job the scheduler would judge it.
    let kind = windlass_shared::model::load_check::KIND.parse().unwrap();
    let null = windlass_shared::model::job::Value::null();
    let job = NewJob::new(Namespace::system(), QueueName::system(), kind, null);
    let id = job.id;
    let submission =
        windlass_shared::ledger::Submission { jobs: vec![job], atomic: false, idempotency: None };
    ledger.submit(submission).await.unwrap();
    let new = NewCheck {
        id,
        run: Fence(1),
        plan: rig.check.plan.clone(),
        shadow: shadow.clone(),
        ids: (0, 1 << 47),
    };
    assert!(matches!(ledger.begin_check(&new).await.unwrap(), CheckBegun::Started(_)));
    sound(&rig.run(Faults::default()).await);
    assert_eq!(rig.check.life.clean_shadow(&shadow, 50).await.unwrap(), None, "it runs");
    let end =
        CheckEnd { id, run: new.run, state: CheckState::Passed, reasons: vec![], report: None };
    assert!(ledger.end_check(&end).await.unwrap());
    let mut forgotten = 0;
    loop {
        let step = rig.check.life.clean_shadow(&shadow, 50).await.unwrap().expect("it is left");
        assert!(step.jobs <= 50);
        forgotten += step.jobs;
        if step.is_done {
            break;
        }
    }
    assert_eq!(forgotten, JOBS + 1, "the load, and the job that warmed up");
    assert_eq!(ledger.queues(Some(&shadow)).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_installation_on_servers_passes() {
    let server = PostgresServer::start();
    let ledger = server.ledger().await;
    let url = RedisServer::shared().url();
    let settings = EngineSettings { prefix: unique_prefix(), ..EngineSettings::new(url) };
    let engine = Engine::open(&settings).await.unwrap();
    let rig = Rig::of(ledger, engine, settings.into(), (None, Some(server)));
    sound(&rig.run(Faults::default()).await);
}

/// The check's handler, but for what `odd` does to one job: not the one that warms up.
fn but_for_one(
    effects: Arc<Effects>,
    odd: fn(&Effects, &Context) -> futures::future::BoxFuture<'static, Result<(), HandlerError>>,
) -> Box<dyn Handler> {
    let runs = AtomicU32::new(0);
    typed(move |ctx: Context, _: Value| {
        effects.ran(ctx.job_id());
        let is_second = runs.fetch_add(1, Ordering::SeqCst) == 1;
        let done = is_second.then(|| odd(&effects, &ctx));
        async move {
            match done {
                Some(done) => done.await,
                None => Ok(()),
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_twice_is_found() {
    let wrap = |effects| {
        but_for_one(effects, |effects, ctx| {
            effects.ran(ctx.job_id());
            Box::pin(async { Ok(()) })
        })
    };
    let report = Rig::embedded().await.run(Faults { wrap, ..Faults::default() }).await;
    assert_eq!(broken(&report), [("doubled", 1.0)]);
    assert!(report.examples[0].contains("more than once"), "{:?}", report.examples);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_never_ends_is_found() {
    let wrap = |effects| but_for_one(effects, |_, _| Box::pin(std::future::pending()));
    let settle = Duration::from_secs(2);
    let report = Rig::embedded().await.run(Faults { wrap, settle, ..Faults::default() }).await;
    assert_eq!(broken(&report), [("lost", 1.0)]);
    assert!(report.examples[0].contains("did not end"), "{:?}", report.examples);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_is_an_error() {
    let wrap = |effects| {
        but_for_one(effects, |_, _| {
            Box::pin(async { Err(HandlerError::permanent("odd", "it is the odd one")) })
        })
    };
    let report = Rig::embedded().await.run(Faults { wrap, ..Faults::default() }).await;
    assert_eq!(broken(&report), [("errors_percent", 100.0 / JOBS as f64)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_that_is_refused_is_an_error() {
    let job = |n, job: &mut NewJob| {
        if n == 5 {
            job.tags.push("no\0text".into());
        }
    };
    let report = Rig::embedded().await.run(Faults { job, ..Faults::default() }).await;
    assert_eq!(broken(&report), [("errors_percent", 100.0 / JOBS as f64)]);
    assert_eq!((report.accepted, report.refused), (JOBS - 1, 1));
}

/// Job 9 is the first that is delayed; here it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_starts_before_its_time_is_found() {
    let job = |n, job: &mut NewJob| {
        if n == 9 {
            assert!(job.delay.take().is_some(), "it is a delayed one");
        }
    };
    let report = Rig::embedded().await.run(Faults { job, ..Faults::default() }).await;
    assert_eq!(broken(&report), [("early", 1.0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_grows_is_found() {
    static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let wrap = |effects: Arc<Effects>| {
        typed(move |ctx: Context, _: Value| {
            effects.ran(ctx.job_id());
            KEPT.lock().unwrap().push(vec![1; 16 << 20]);
            async { Ok::<_, HandlerError>(()) }
        })
    };
    let report = Rig::embedded().await.run(Faults { wrap, ..Faults::default() }).await;
    let grown = report.measured("memory_growth_percent").unwrap();
    assert!(grown > 50.0, "{grown}");
    assert!(report.reasons().iter().any(|why| why.starts_with("memory_growth_percent")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_stopped_says_so_at_once() {
    let rig = Rig::embedded().await;
    let stop = CancellationToken::new();
    let told = stop.clone();
    // As soon as it is under load.
    let tell = move |_: f64, what: &str| {
        if what == "under load" {
            told.cancel();
        }
    };
    let began = Instant::now();
    let ended = run(&rig.check, tell, &stop).await;
    assert!(matches!(ended, Err(CheckError::Stopped)), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// Goal: nothing of a check that is dropped works on. What its worker holds is gone, so that the worker is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_dropped_takes_its_worker_along() {
    static HELD: Mutex<std::sync::Weak<Effects>> = Mutex::new(std::sync::Weak::new());
    let wrap = |effects: Arc<Effects>| {
        *HELD.lock().unwrap() = Arc::downgrade(&effects);
        effects::handler(effects)
    };
    let rig = Rig::embedded().await;
    let check = rig.check.clone();
    let (tell, mut told) = tokio::sync::watch::channel(());
    let checking = tokio::spawn(async move {
        let under_load = |_: f64, what: &str| {
            if what == "under load" {
                tell.send_replace(());
            }
        };
        let faults = Faults { wrap, ..Faults::default() };
        let _ = with(&check, faults, &under_load, &CancellationToken::new()).await;
    });
    told.changed().await.expect("it comes under load");
    checking.abort();
    assert!(checking.await.is_err_and(|error| error.is_cancelled()));
    let gone = async {
        while HELD.lock().unwrap().strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("its worker ends");
}

/// Goal: what the ledger says of a job counts, also where the handler saw nothing odd.
#[tokio::test]
async fn lost_leases_ghosts_and_early_starts_on_record_count() {
    use generator::{Answer, Sent};
    let rig = Rig::embedded().await;
    let queue: QueueName = SHADOW_QUEUE.parse().unwrap();
    let payload = windlass_shared::model::job::Value::null();
    let new = NewJob::new(rig.check.shadow.clone(), queue, KIND.parse().unwrap(), payload);
    let id = new.id;
    let submission =
        windlass_shared::ledger::Submission { jobs: vec![new], atomic: false, idempotency: None };
    rig.check.life.ledger().submit(submission).await.unwrap();
    let (effects, now) = (Effects::default(), Instant::now());
    effects.ran(id);
    let second = Duration::from_secs(1);
    let sent =
        Sent { id, intended: now, at: now - 5 * second, delay: second, answer: Answer::Accepted };
    let of = async |sent: Sent| {
        let found = audit::Found {
            sent: vec![sent],
            load: second,
            effects: &effects,
            ended: [(id, now)].into(),
            grown: memory::Watch::start(second).unwrap().end().unwrap(),
        };
        let report = audit::audit(&rig.check, &found).await.unwrap();
        let names = ["lost", "early", "ran_though_refused", "leases_lost"];
        names.map(|name| report.measured(name).unwrap())
    };
    let tamper = async |set: &str| {
        let sql = format!("UPDATE jobs SET state = 10, {set}");
        rig.check.life.ledger().tamper(sql).await.unwrap();
    };
    assert_eq!(of(sent.clone()).await, [1.0, 0.0, 0.0, 0.0], "the ledger has not got its end");
    tamper("started_at = run_at").await;
    assert_eq!(of(sent.clone()).await, [0.0; 4]);
    tamper("started_at = run_at - 1").await;
    assert_eq!(of(sent.clone()).await, [0.0, 1.0, 0.0, 0.0]);
    tamper("started_at = run_at, crashes = 2").await;
    assert_eq!(of(sent.clone()).await, [0.0, 0.0, 0.0, 2.0]);
    let refused = Sent { answer: Answer::Refused, ..sent };
    assert_eq!(of(refused).await[2], 1.0);
}
