//! What the check of a large workflow takes: `POST /v1/workflows/validate` of 10,000 steps, all of it (reading, graph,
//! queues, levels, critical path, the answer).
//!
//! `cargo bench -p windlass-api --bench workflow_check`. SQLite in a temporary folder, without history.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use windlass_api::{App, Parts, router};
use windlass_shared::clock::Clock;
use windlass_shared::config::{ApiSettings, EngineSettings, LedgerSettings};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::Ledger;
use windlass_shared::lifecycle::Lifecycle;

const STEPS: usize = 10_000;
const ROUNDS: usize = 11;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

fn step(n: usize, needs: &[usize]) -> Value {
    let needs: Vec<String> = needs.iter().map(|n| format!("step-{n}")).collect();
    json!({"id": format!("step-{n}"), "kind": "echo", "needs": needs, "payload": {"n": n}})
}

fn chain() -> Vec<Value> {
    (0..STEPS).map(|n| step(n, &n.checked_sub(1).map_or(vec![], |above| vec![above]))).collect()
}

/// A hundred levels of a hundred steps, each with ten needs.
fn layers() -> Vec<Value> {
    let needs = |n: usize| match n.checked_sub(100) {
        Some(above) => (0..10).map(|k| above - above % 100 + (n + k * 7) % 100).collect(),
        None => Vec::new(),
    };
    (0..STEPS).map(|n| step(n, &needs(n))).collect()
}

/// A chain in which every step reads one that is far above it.
fn reading() -> Vec<Value> {
    let mut steps = chain();
    for (n, step) in steps.iter_mut().enumerate().skip(1) {
        step["payload"] = json!({ "seen": format!("${{{{ steps['step-{}'].output }}}}", n / 2) });
    }
    steps
}

/// Half a megabyte of long expressions.
fn long() -> Vec<Value> {
    let condition = vec!["input.n"; 400].join(" + ") + " > 0";
    let mut steps = chain();
    for step in steps.iter_mut().take(128) {
        step["if"] = json!(condition);
    }
    steps
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
        life,
        settings: ApiSettings { auth_required: false, ..ApiSettings::default() },
        cursor_key: [7; 32],
        environment: "bench".into(),
        metrics: Arc::new(String::new),
        shutdown,
    });
    let router = router(app);
    for (name, steps) in
        [("chain", chain()), ("layers", layers()), ("reading", reading()), ("long", long())]
    {
        let body = json!({"name": name, "steps": steps}).to_string();
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let request = Request::post("/v1/workflows/validate")
                .header("content-type", "application/json")
                .body(Body::from(body.clone()))
                .unwrap();
            let started = Instant::now();
            let response = router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            let answer = response.into_body().collect().await.unwrap().to_bytes();
            took.push(started.elapsed());
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        }
        took.sort();
        let edges: usize = steps.iter().map(|s| s["needs"].as_array().unwrap().len()).sum();
        println!(
            "{name}: {STEPS} steps, {edges} needs, {} KiB: median {:.1} ms, worst {:.1} ms",
            body.len() >> 10,
            took[ROUNDS / 2].as_secs_f64() * 1e3,
            took[ROUNDS - 1].as_secs_f64() * 1e3,
        );
    }
}
