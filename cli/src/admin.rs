//! Probes and metrics of the roles that have no API of their own: the worker and the scheduler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::Engine;
use windlass_shared::ledger::Ledger;
use windlass_shared::telemetry::metrics::Metrics;

/// Longest wait for a dependency to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the probes ask.
pub struct Admin {
    /// The role, for people.
    pub role: &'static str,
    /// What it counts.
    pub metrics: Metrics,
    /// Not ready without it; `None`: the role does not use it.
    pub ledger: Option<Ledger>,
    /// Reported by `/health`; jobs wait while it is away, so it does not make a process unready.
    pub engine: Engine,
    /// Cancelled when the process drains: not ready from then on.
    pub draining: CancellationToken,
}

/// The routes of an admin listener.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/liveness", get(|| async { "alive\n" }))
        .route("/startup", get(|| async { "started\n" }))
        .route("/readiness", get(readiness))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(admin))
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, admin.metrics.render()).into_response()
}

async fn readiness(State(admin): State<Arc<Admin>>) -> Response {
    if admin.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    if ledger_latency(&admin).await.is_some_and(|(answers, _)| !answers) {
        return (StatusCode::SERVICE_UNAVAILABLE, "the ledger does not answer\n").into_response();
    }
    "ready\n".into_response()
}

/// In the form of the API's `/health`.
async fn health(State(admin): State<Arc<Admin>>) -> Response {
    let started = Instant::now();
    let engine = tokio::time::timeout(PROBE_TIMEOUT, admin.engine.now()).await;
    let engine = (matches!(engine, Ok(Ok(_))), started.elapsed());
    let ledger = ledger_latency(&admin).await;
    let status = match (ledger, engine) {
        (Some((false, _)), _) => "down",
        (_, (false, _)) => "degraded",
        (_, (true, _)) => "ok",
    };
    let ledger = ledger.map(|answer| component("ledger", answer));
    let components: Vec<Value> = ledger.into_iter().chain([component("engine", engine)]).collect();
    let code = if status == "down" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({
        "status": status, "role": admin.role, "components": components,
        "draining": admin.draining.is_cancelled(),
    });
    (code, axum::Json(body)).into_response()
}

/// `None`: the role has no ledger. Else whether it answers, and after how long that was known.
async fn ledger_latency(admin: &Admin) -> Option<(bool, Duration)> {
    let ledger = admin.ledger.as_ref()?;
    let started = Instant::now();
    let answer = tokio::time::timeout(PROBE_TIMEOUT, ledger.now()).await;
    Some((matches!(answer, Ok(Ok(_))), started.elapsed()))
}

fn component(name: &str, (answers, after): (bool, Duration)) -> Value {
    let status = if answers { "ok" } else { "down" };
    json!({ "name": name, "status": status, "latency_ms": after.as_secs_f64() * 1000.0 })
}

/// Serves an admin listener until `stopped`: past the drain, so that its end can be watched.
pub fn spawn(
    listener: tokio::net::TcpListener,
    router: Router,
    stopped: CancellationToken,
    tasks: &tokio_util::task::TaskTracker,
) -> tokio::task::JoinHandle<()> {
    let bounds = windlass_api::serve::Bounds {
        head_timeout: Duration::from_secs(5),
        body_timeout: Duration::from_secs(5),
        connections_max: 256,
        per_address_max: 64,
        drain: Duration::from_secs(2),
    };
    tasks.spawn(windlass_api::serve::serve(listener, router, bounds, stopped))
}
