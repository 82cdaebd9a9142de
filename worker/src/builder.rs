//! Putting a worker together.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use windlass_shared::config::{EngineSettings, WorkerSettings};
use windlass_shared::engine::{Engine, EngineError};
use windlass_shared::ledger::RateLimit;
use windlass_shared::limits::{LEASE_MAX, LEASE_MIN};
use windlass_shared::model::name::Kind;

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Typed};
use crate::handlers;
use crate::registry::Registry;
use crate::reporter::http::HttpReporter;
use crate::reporter::{Nowhere, SharedReporter};
use crate::worker::Worker;

/// Where a worker gets its engine from.
#[derive(Clone)]
pub enum EngineSource {
    /// One that is shared with the caller: the embedded engine, or, in tests, any.
    Shared(Engine),
    /// Opened by the worker: once for its jobs, and once more for the thread that keeps its leases.
    Settings(EngineSettings),
}

impl EngineSource {
    pub(crate) async fn open(&self) -> Result<Engine, EngineError> {
        match self {
            Self::Shared(engine) => Ok(engine.clone()),
            Self::Settings(settings) => Engine::open(settings).await,
        }
    }

    /// An embedded engine exists once: whoever opens it must share it.
    pub(crate) fn shares(&self, engine: &Engine) -> Self {
        match (self, engine) {
            (Self::Settings(_), Engine::Redis(_)) => self.clone(),
            _ => Self::Shared(engine.clone()),
        }
    }
}

impl From<Engine> for EngineSource {
    fn from(engine: Engine) -> Self {
        Self::Shared(engine)
    }
}

impl From<EngineSettings> for EngineSource {
    fn from(settings: EngineSettings) -> Self {
        Self::Settings(settings)
    }
}

/// Why a worker cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No engine was given.
    #[error("a worker needs an engine")]
    NoEngine,
    /// No handler was registered.
    #[error("a worker needs at least one handler")]
    NoHandlers,
    /// A handler was registered under a name that no kind can have.
    #[error("`{kind}` is not a kind: {reason}")]
    Kind {
        /// The name.
        kind: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is out of its range.
    #[error("{setting} {fault}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong with it.
        fault: String,
    },
    /// The file of command templates cannot be used.
    #[error("the command templates cannot be used: {0}")]
    Commands(#[source] anyhow::Error),
}

/// Collects the parts of a [`Worker`]; [`WorkerBuilder::build`] checks them.
pub struct WorkerBuilder {
    settings: WorkerSettings,
    source: Option<EngineSource>,
    reporter: Option<SharedReporter>,
    registry: Registry,
    builtin: bool,
    is_aside: bool,
    fault: Option<BuildError>,
}

impl WorkerBuilder {
    pub(crate) fn new(settings: WorkerSettings) -> Self {
        let registry = Registry::default();
        Self {
            settings,
            source: None,
            reporter: None,
            registry,
            builtin: false,
            is_aside: false,
            fault: None,
        }
    }

    /// The engine to work on, or the settings to open it with.
    #[must_use]
    pub fn engine(mut self, source: impl Into<EngineSource>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Where reports go instead of to the API of the settings.
    #[must_use]
    pub fn reporter(mut self, reporter: SharedReporter) -> Self {
        self.reporter = Some(reporter);
        self
    }

    /// Registers an async function for a kind; its second argument is read from the payload. A payload
    /// that does not fit fails the job for good with `invalid_payload`.
    #[must_use]
    pub fn handle<A, O, E, F, Fut>(self, kind: &str, function: F) -> Self
    where
        F: Fn(Context, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
        A: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        E: Into<HandlerError> + Send + 'static,
    {
        self.handler(kind, Typed::new(function))
    }

    /// Registers a handler for a kind. The last one registered for a kind counts.
    #[must_use]
    pub fn handler(mut self, kind: &str, handler: impl Handler) -> Self {
        match kind.parse::<Kind>() {
            Ok(kind) => self.registry.add(kind, Arc::new(handler)),
            Err(e) => {
                let fault = BuildError::Kind { kind: kind.to_owned(), reason: e.to_string() };
                self.fault.get_or_insert(fault);
            }
        }
        self
    }

    /// Registers the built-in kinds: `noop`, `echo`, `evaluate`, `sleep`, `fail`, `http.request` and
    /// `command.run`.
    /// Handlers registered for the same names stand.
    #[must_use]
    pub fn builtin(mut self) -> Self {
        self.builtin = true;
        self
    }

    /// Says that it is not the worker that this process is for: it leaves the gauges of slots to that one.
    #[must_use]
    pub fn aside(mut self) -> Self {
        self.is_aside = true;
        self
    }

    /// Checks the parts. Reads the file of command templates.
    ///
    /// # Errors
    /// The first fault found.
    pub fn build(mut self) -> Result<Worker, BuildError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        check(&self.settings)?;
        let source = self.source.ok_or(BuildError::NoEngine)?;
        if self.builtin {
            let mut registry = handlers::builtin(&self.settings).map_err(BuildError::Commands)?;
            registry.add_all(self.registry);
            self.registry = registry;
        }
        let kinds = self.registry.kinds();
        if kinds.is_empty() {
            return Err(BuildError::NoHandlers);
        }
        check_rates(&self.settings.rate_limits, &kinds)?;
        let reporter = match self.reporter {
            Some(reporter) => reporter,
            None => reporter_of(&self.settings)?,
        };
        let registry = Arc::new(self.registry);
        let (settings, is_aside) = (self.settings, self.is_aside);
        Ok(Worker { settings, source, reporter, registry, is_aside })
    }
}

fn check(settings: &WorkerSettings) -> Result<(), BuildError> {
    let fault =
        |setting, fault: &str| Err(BuildError::Setting { setting, fault: fault.to_owned() });
    if !(1..=10_000).contains(&settings.concurrency) {
        return fault("worker.concurrency", "must be from 1 to 10000");
    }
    if settings.queues.is_empty() || settings.queues.len() > 100 {
        return fault("worker.queues", "must name 1 to 100 queues");
    }
    if !(LEASE_MIN..=LEASE_MAX).contains(&settings.lease) {
        return fault("worker.lease", "must be from 3 s to 1 h");
    }
    Ok(())
}

/// A rate of a kind that is misspelt would protect nothing.
fn check_rates(rates: &BTreeMap<Kind, RateLimit>, kinds: &[Kind]) -> Result<(), BuildError> {
    let fault = |fault| Err(BuildError::Setting { setting: "worker.rate_limits", fault });
    for (kind, rate) in rates {
        if !kinds.contains(kind) {
            let served: Vec<&str> = kinds.iter().map(Kind::as_str).collect();
            let served = served.join(", ");
            return fault(format!("names {kind}, which this worker does not serve: {served}"));
        }
        if rate.limit == 0 || rate.per.0.is_zero() || rate.burst == Some(0) {
            return fault(format!("has a rate of {kind} with a 0"));
        }
    }
    Ok(())
}

fn reporter_of(settings: &WorkerSettings) -> Result<SharedReporter, BuildError> {
    let Some(url) = &settings.api_url else {
        tracing::warn!("no API address is set: logs, progress and large values of jobs go nowhere");
        return Ok(Arc::new(Nowhere));
    };
    let reporter = HttpReporter::new(url, settings.api_key.clone()).map_err(|fault| {
        BuildError::Setting { setting: "worker.api_url", fault: format!("is {fault}") }
    })?;
    Ok(Arc::new(reporter))
}
