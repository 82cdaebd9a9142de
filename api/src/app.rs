//! What every handler is given.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use windlass_shared::config::ApiSettings;
use windlass_shared::expr::bounded::Bounded;
use windlass_shared::lifecycle::Lifecycle;

use crate::auth::KeyCache;
use crate::cursor::CursorKey;
use crate::gates::Gates;
use crate::health::Health;
use crate::queue_cache::QueueCache;
use crate::streams::Streams;
use crate::system;
use crate::throttle::Throttle;

/// Bytes of request bodies held at once by all requests. Beyond it bodies are refused with 503.
const BODY_BUDGET_KIB: usize = 256 << 10;

/// Workflows checked or drawn at once.
const CHECKS_AT_ONCE: usize = 4;

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
    pub(crate) body_budget: Arc<Semaphore>,
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
            body_budget: Arc::new(Semaphore::new(BODY_BUDGET_KIB)),
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
