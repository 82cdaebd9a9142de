//! What the API itself costs per job of a batch: processor time of `POST /v1/jobs/batch`, less that of the
//! same submission handed to the ledger directly.
//!
//! `cargo bench -p windlass-api --bench batch`. SQLite in a temporary folder; all threads of the process are
//! counted (Linux only).

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use windlass_api::{App, Parts, router};
use windlass_shared::clock::Clock;
use windlass_shared::config::{ApiSettings, EngineSettings, LedgerSettings};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::{Ledger, Submission};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::Namespace;

const JOBS: usize = 1_000;
const ROUNDS: usize = 60;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        LedgerSettings::new(format!("sqlite://{}", folder.path().join("ledger.db").display()));
    Ledger::migrate(&settings).await.unwrap();
    let ledger = Ledger::open(&settings).await.unwrap();
    let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
    let shutdown = CancellationToken::new();
    let life =
        Lifecycle::start(ledger, engine, Clock::System, shutdown.clone(), TaskTracker::new());
    let app = App::new(Parts {
        life: life.clone(),
        settings: ApiSettings { auth_required: false, ..ApiSettings::default() },
        cursor_key: [0; 32],
        environment: "bench".into(),
        metrics: Arc::new(String::new),
        shutdown,
    });
    let router = router(app);
    let jobs: Vec<String> = (0..JOBS)
        .map(|i| {
            format!(
                r#"{{"kind":"email.send","queue":"mail","payload":{{"to":"user{i}@example.org","template":"welcome","n":{i}}},"tags":["signup"]}}"#
            )
        })
        .collect();
    let body = bytes::Bytes::from(format!("{{\"jobs\":[{}]}}", jobs.join(",")));

    // In turns, so that a growing ledger and a warming machine weigh on both alike.
    let (mut api, mut direct) = (Cost::default(), Cost::default());
    for _ in 0..ROUNDS {
        api.add(async {
            let request = Request::post("/v1/jobs/batch")
                .header("content-type", "application/json")
                .body(Body::from(body.clone()))
                .unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
        })
        .await;
        let submission = submission();
        direct
            .add(async {
                life.submit(submission).await.unwrap();
            })
            .await;
    }
    let per_job = |cost: &Cost| cost.cpu_ns as f64 / (ROUNDS * JOBS) as f64 / 1_000.0;
    println!("through the API: {:.2} µs of CPU a job, {:.1} ms a batch", per_job(&api), api.ms());
    println!(
        "ledger alone:    {:.2} µs of CPU a job, {:.1} ms a batch",
        per_job(&direct),
        direct.ms()
    );
    println!("the API itself:  {:.2} µs of CPU a job", per_job(&api) - per_job(&direct));
}

/// The same jobs, made before the clock starts.
fn submission() -> Submission {
    let jobs = (0..JOBS)
        .map(|i| NewJob {
            tags: vec!["signup".into()],
            ..NewJob::new(
                Namespace::default(),
                "mail".parse().unwrap(),
                "email.send".parse().unwrap(),
                Value::Inline(
                    format!(r#"{{"to":"user{i}@example.org","template":"welcome","n":{i}}}"#)
                        .into(),
                ),
            )
        })
        .collect();
    Submission { jobs, atomic: false, idempotency: None }
}

#[derive(Default)]
struct Cost {
    cpu_ns: u64,
    wall_ns: u128,
}

impl Cost {
    async fn add(&mut self, work: impl Future<Output = ()>) {
        let (cpu, started) = (cpu_ns(), Instant::now());
        work.await;
        self.wall_ns += started.elapsed().as_nanos();
        self.cpu_ns += cpu_ns() - cpu;
    }
    fn ms(&self) -> f64 {
        self.wall_ns as f64 / 1e6 / ROUNDS as f64
    }
}

/// Processor time of every thread of this process.
fn cpu_ns() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}
