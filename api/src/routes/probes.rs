//! What is served without a key: probes of orchestrators, metrics, and the API's description.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::health::{self, HealthView};

/// Answer of a probe.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Probe)]
pub struct ProbeView {
    /// `ok` or `unavailable`.
    status: &'static str,
}

fn probe(ok: bool) -> Response {
    if ok {
        Json(ProbeView { status: "ok" }).into_response()
    } else {
        let body = Json(ProbeView { status: "unavailable" });
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}

/// Is the process alive?
#[utoipa::path(
    get, path = "/liveness", tag = "operations", security(()),
    responses((status = 200, description = "Yes.", body = ProbeView)),
)]
pub async fn liveness() -> Response {
    probe(true)
}

/// Can requests be served?
///
/// 503 while the ledger is away. The queue store alone being away does not fail it: jobs are still taken.
#[utoipa::path(
    get, path = "/readiness", tag = "operations", security(()),
    responses(
        (status = 200, description = "Yes.", body = ProbeView),
        (status = 503, description = "Not now.", body = ProbeView),
    ),
)]
pub async fn readiness(State(app): State<App>) -> Response {
    probe(!app.shutdown.is_cancelled() && health::check(&app).await.is_ready())
}

/// Has the process been ready once?
#[utoipa::path(
    get, path = "/startup", tag = "operations", security(()),
    responses(
        (status = 200, description = "Yes.", body = ProbeView),
        (status = 503, description = "Not yet.", body = ProbeView),
    ),
)]
pub async fn startup(State(app): State<App>) -> Response {
    probe(health::has_started(&app).await)
}

/// How are the dependencies?
#[utoipa::path(
    get, path = "/health", tag = "operations", security(()),
    responses(
        (status = 200, description = "Requests are served; `degraded` while the queue store is away.", body = HealthView),
        (status = 503, description = "The ledger is away.", body = HealthView),
    ),
)]
pub async fn health(State(app): State<App>) -> Response {
    let view = health::check(&app).await;
    let status = if view.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(view)).into_response()
}

/// `GET /metrics`, in Prometheus' text format.
pub async fn metrics(State(app): State<App>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], (app.metrics)()).into_response()
}

/// `GET /openapi.json`.
pub async fn openapi() -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], crate::openapi::json()).into_response()
}
