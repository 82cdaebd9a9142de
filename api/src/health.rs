//! Whether this process can do its work.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;

/// A store that takes longer counts as away.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Answers are kept this long: probes may come from anyone, and must not load the stores.
const KEPT: Duration = Duration::from_millis(500);

/// What is known of the stores.
#[derive(Default)]
pub struct Health {
    latest: Mutex<Option<(Instant, HealthView)>>,
    started: AtomicBool,
}

/// State of the process and of what it depends on.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Health)]
pub struct HealthView {
    /// `ok`; `degraded` while the queue store alone is away (jobs are taken and not started); `down` while
    /// the ledger is away.
    pub status: &'static str,
    /// Each dependency.
    pub components: Vec<Component>,
}

/// One dependency.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Component {
    /// `ledger` or `engine`.
    pub name: &'static str,
    /// `ok` or `down`.
    pub status: &'static str,
    /// Time to its answer, or to giving up.
    pub latency_ms: f64,
}

impl HealthView {
    /// Whether requests can be served.
    pub fn is_ready(&self) -> bool {
        self.status != "down"
    }
}

/// Asks both stores, or remembers what they said a moment ago.
pub async fn check(app: &App) -> HealthView {
    let kept = app.health.latest.lock().expect("nothing panics while holding it").clone();
    if let Some((at, view)) = kept
        && at.elapsed() < KEPT
    {
        return view;
    }
    let (ledger, engine) = tokio::join!(
        probe("ledger", async { app.life.ledger().now().await.is_ok() }),
        probe("engine", async { app.life.engine().now().await.is_ok() }),
    );
    let status = match (ledger.status, engine.status) {
        ("ok", "ok") => "ok",
        ("ok", _) => "degraded",
        _ => "down",
    };
    let view = HealthView { status, components: vec![ledger, engine] };
    if view.is_ready() {
        app.health.started.store(true, Ordering::Relaxed);
    }
    *app.health.latest.lock().expect("nothing panics while holding it") =
        Some((Instant::now(), view.clone()));
    view
}

/// Whether the process has ever been ready.
pub async fn has_started(app: &App) -> bool {
    app.health.started.load(Ordering::Relaxed) || check(app).await.is_ready()
}

async fn probe(name: &'static str, answer: impl Future<Output = bool>) -> Component {
    let started = Instant::now();
    let ok = tokio::time::timeout(ANSWER_MAX, answer).await.unwrap_or(false);
    let latency_ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    Component { name, status: if ok { "ok" } else { "down" }, latency_ms }
}
