//! What every handler is given.

use std::ops::Deref;
use std::sync::Arc;

use http::Method;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use windlass_shared::config::ApiSettings;
use windlass_shared::expr::bounded::Bounded;
use windlass_shared::lifecycle::Lifecycle;

use crate::auth::{KeyCache, roles};
use crate::cursor::CursorKey;
use crate::gates::Gates;
use crate::health::Health;
use crate::queue_cache::QueueCache;
use crate::streams::Streams;
use crate::system;
use crate::throttle::Throttle;

/// Bytes of request bodies held at once by the calls that only workers make. Beyond it bodies are refused with 503.
const WORKERS_KIB: usize = 64 << 10;
/// The same of all others: however much is submitted, settles find room.
const OTHERS_KIB: usize = 192 << 10;

/// Workflows checked or drawn at once.
const CHECKS_AT_ONCE: usize = 4;

/// Room for request bodies.
pub(crate) struct BodyBudget {
    workers: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl BodyBudget {
    fn new() -> Self {
        let room = |kib| Arc::new(Semaphore::new(kib));
        Self { workers: room(WORKERS_KIB), others: room(OTHERS_KIB) }
    }

    /// Where a call finds it.
    pub(crate) fn of(&self, method: &Method, route: &str) -> &Arc<Semaphore> {
        if roles::is_workers(method, route) { &self.workers } else { &self.others }
    }
}

/// Renders the process' metrics in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What an [`App`] is made of.
pub struct Parts {
    /// Ledger, engine and what carries jobs between them.
    pub life: Lifecycle,
    /// Operator's settings.
    pub settings: ApiSettings,
    /// Signs cursors; the same on every replica of one ledger.
    pub cursor_key: [u8; 32],
    /// Becomes part of new API keys' text: 1 to 16 lower-case letters and digits, such as `live`.
    pub environment: String,
    /// For `GET /metrics`.
    pub metrics: RenderMetrics,
    /// Ends long polls and streams, so that a drain need not wait for them.
    pub shutdown: CancellationToken,
}

/// The API of one process. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// The inside of an [`App`].
pub struct Inner {
    pub(crate) life: Lifecycle,
    pub(crate) settings: ApiSettings,
    pub(crate) cursors: CursorKey,
    pub(crate) environment: String,
    pub(crate) metrics: RenderMetrics,
    pub(crate) shutdown: CancellationToken,
    pub(crate) keys: KeyCache,
    pub(crate) throttle: Throttle,
    pub(crate) queues: QueueCache,
    pub(crate) streams: Streams,
    pub(crate) gates: Gates,
    pub(crate) health: Health,
    pub(crate) system: system::Memory,
    pub(crate) body_budget: BodyBudget,
    /// Checks of workflows: their expressions and YAML are what callers make of them.
    pub(crate) checks: Bounded,
}

impl App {
    /// Puts the parts together. Starts nothing.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            throttle: Throttle::new(parts.settings.rate_per_key),
            cursors: CursorKey::new(parts.cursor_key),
            environment: parts.environment,
            metrics: parts.metrics,
            shutdown: parts.shutdown,
            keys: KeyCache::default(),
            queues: QueueCache::default(),
            streams: Streams::default(),
            gates: Gates::default(),
            health: Health::default(),
            system: system::Memory::default(),
            checks: Bounded::new(CHECKS_AT_ONCE),
            body_budget: BodyBudget::new(),
            settings: parts.settings,
            life: parts.life,
        }))
    }
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: submissions that fill their room leave that of workers alone.
    #[test]
    fn what_workers_send_has_room_of_its_own() {
        let budget = BodyBudget::new();
        let post = |route: &str| budget.of(&Method::POST, route).clone();
        let all = post("/v1/jobs/batch").try_acquire_many_owned(OTHERS_KIB as u32);
        assert!(all.is_ok() && post("/v1/jobs").try_acquire_owned().is_err());
        for route in
            ["/v1/leases", "/v1/leases/heartbeat", "/v1/leases/settle", "/v1/worker/reports"]
        {
            assert!(post(route).try_acquire_owned().is_ok(), "{route}");
        }
    }
}
