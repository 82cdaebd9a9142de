//! The installation's own jobs: a small worker inside of every scheduler (and of `dev`) on the queue `system` of the
//! namespace `system`, and nowhere else.
//!
//! They are jobs like any other: recorded, leased, retried, listed, and scheduled by schedules of that namespace. Only
//! admins may submit them (`api/src/auth/roles.rs`). A kind is added by a line in [`kinds`].

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use windlass_shared::config::{Settings, WorkerSettings};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_worker::builder::{BuildError, EngineSource};
use windlass_worker::handler::Handler;
use windlass_worker::reporter::ledger::LedgerReporter;
use windlass_worker::worker::{Worker, WorkerError};

mod backup;
mod load_check;
mod loadtest;
mod ping;

/// Jobs that are under way at a shutdown have this long to end; then they go back, and run elsewhere. Short: a scheduler
/// that stops is one of several that go on, or all of `dev` waits for it.
const DRAIN: Duration = Duration::from_secs(2);
/// Between two tries to open the engine.
const AGAIN: Duration = Duration::from_secs(1);

/// Where this installation's API is, for those of its own kinds that need one.
#[derive(Clone)]
pub struct Api {
    /// Its address.
    pub url: String,
    /// A key for it.
    pub key: Option<SecretString>,
}

/// What the handlers of the installation's own kinds are made with. Cheap to clone.
#[derive(Clone)]
pub struct Installation {
    /// Ledger, engine, and the verbs of a job's life.
    pub life: Lifecycle,
    /// Of this process.
    pub settings: Arc<Settings>,
    /// The engine for workers in this process.
    pub source: EngineSource,
    /// The API; `None`: nobody has said where it is.
    pub api: Option<Api>,
    /// Cancelled when the process stops; a little later, jobs under way are told to stop.
    pub stopping: CancellationToken,
}

/// A kind and what performs it.
pub type OwnKind = (&'static str, Box<dyn Handler>);

/// Every kind that the installation runs itself.
fn kinds(installation: &Installation) -> Vec<OwnKind> {
    let mut kinds = vec![
        ping::kind(installation),
        load_check::kind(installation),
        loadtest::kind(installation),
    ];
    kinds.extend(backup::kinds(installation));
    kinds
}

/// Works until the process stops, then gives back what does not end at once.
///
/// # Errors
/// A part of the worker broke. An engine that cannot be opened is waited for.
pub async fn run(installation: Installation) -> anyhow::Result<()> {
    let over = installation.stopping.child_token();
    let working = async {
        let worked = work(&installation).await;
        over.cancel();
        worked
    };
    let (worked, ()) = tokio::join!(working, backup::keep_defaults(&installation, &over));
    worked
}

async fn work(installation: &Installation) -> anyhow::Result<()> {
    let shutdown = &installation.stopping;
    loop {
        let worker = worker(installation, kinds(installation))?;
        match worker.run(shutdown.clone()).await {
            Err(WorkerError::Engine(error)) => {
                tracing::warn!(%error, "the installation's own jobs wait for the engine");
                let pause = tokio::time::sleep(AGAIN);
                if shutdown.run_until_cancelled(pause).await.is_none() {
                    return Ok(());
                }
            }
            ended => return Ok(ended?),
        }
    }
}

fn worker(installation: &Installation, kinds: Vec<OwnKind>) -> Result<Worker, BuildError> {
    let settings = WorkerSettings {
        name: "system".to_owned(),
        namespace: Namespace::system(),
        queues: vec![(QueueName::system(), 1)],
        concurrency: installation.settings.system_slots,
        lease: installation.settings.worker.lease,
        drain_timeout: DRAIN,
        ..WorkerSettings::default()
    };
    let reporter = LedgerReporter::new(installation.life.clone(), Namespace::system());
    let builder = Worker::builder(settings)
        .engine(installation.source.clone())
        .reporter(Arc::new(reporter))
        .aside();
    let add = |builder: windlass_worker::builder::WorkerBuilder, (kind, handler): OwnKind| {
        builder.handler(kind, handler)
    };
    kinds.into_iter().fold(builder, add).build()
}

#[cfg(test)]
mod tests;
