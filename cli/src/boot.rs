//! What every role does first and last.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use windlass_shared::config::Settings;
use windlass_shared::engine::{Engine, EngineError};
use windlass_shared::ledger::{Ledger, LedgerError};
use windlass_shared::shutdown::Shutdown;
use windlass_shared::telemetry::{logs, metrics::Metrics};

use crate::exit::{Failure, Outcome};

/// How long a role waits at start for a store that does not answer, as when all are started together.
const STORE_WAIT: Duration = Duration::from_secs(60);
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How often a process looks whether its ledger is the one that it has opened.
const LEDGER_WATCH: Duration = Duration::from_secs(5);
/// Whether [`watch_ledger`] has found another one: the process ends, and not well.
static REPLACED: AtomicBool = AtomicBool::new(false);
/// How long tasks may take to end after a drain.
pub const TASKS_END: Duration = Duration::from_secs(15);

/// A role that has begun.
pub struct Booted {
    /// What it counts.
    pub metrics: Metrics,
    /// Asked for by signals.
    pub shutdown: Shutdown,
}

/// Sets up logs, metrics and signals.
///
/// # Errors
/// They are set up already, or the operating system refuses.
pub fn boot(role: &'static str, settings: &Settings) -> Outcome<Booted> {
    logs::init(&settings.log).map_err(Failure::Usage)?;
    let metrics =
        Metrics::install().map_err(|why| anyhow!(why).context("cannot set up metrics"))?;
    let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
    metrics.spawn_upkeep(shutdown.token.clone(), &shutdown.tasks);
    crate::memory::spawn_upkeep(shutdown.token.clone(), &shutdown.tasks);
    for note in &settings.notes {
        tracing::warn!(note, "a setting was ignored");
    }
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(role, version, profile = %settings.profile, "starting");
    Ok(Booted { metrics, shutdown })
}

/// Listens on an address.
///
/// # Errors
/// The address is in use, or not of this host.
pub async fn listen(address: SocketAddr, setting: &str) -> Outcome<TcpListener> {
    let listener = TcpListener::bind(address).await;
    Ok(listener.with_context(|| format!("cannot listen on {address} ({setting})"))?)
}

/// Opens the ledger; while it does not answer, tries again for a minute, or until `shutdown`.
pub async fn open_ledger(settings: &Settings, shutdown: &CancellationToken) -> Outcome<Ledger> {
    patiently(
        "ledger",
        shutdown,
        || crate::setup::open_ledger(settings),
        |error| matches!(error.downcast_ref(), Some(LedgerError::Unavailable(_))),
    )
    .await
}

/// Stops this process when its ledger was replaced under it: what it knows is of another one (`wrong_ledger`).
pub fn watch_ledger(ledger: &Ledger, shutdown: &Shutdown) {
    let (ledger, token) = (ledger.clone(), shutdown.token.clone());
    let stop = token.clone();
    shutdown.tasks.spawn(stop.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(LEDGER_WATCH).await;
            if ledger.was_replaced().await {
                tracing::error!(
                    "wrong_ledger: the ledger was replaced under this process; stopping"
                );
                REPLACED.store(true, Ordering::SeqCst);
                token.cancel();
                return;
            }
        }
    }));
}

/// Opens the engine; while it does not answer, tries again for a minute, or until `shutdown`.
pub async fn open_engine(settings: &Settings, shutdown: &CancellationToken) -> Outcome<Engine> {
    patiently(
        "engine",
        shutdown,
        || crate::setup::open_engine(settings),
        |error| matches!(error.downcast_ref(), Some(EngineError::Unavailable(_))),
    )
    .await
}

async fn patiently<T, F: Future<Output = Outcome<T>>>(
    store: &'static str,
    shutdown: &CancellationToken,
    open: impl Fn() -> F,
    passes: impl Fn(&anyhow::Error) -> bool,
) -> Outcome<T> {
    let deadline = tokio::time::Instant::now() + STORE_WAIT;
    loop {
        match open().await {
            Err(Failure::Failed(error))
                if passes(&error) && tokio::time::Instant::now() < deadline =>
            {
                tracing::warn!(store, error = format!("{error:#}"), "not there yet; trying again");
            }
            done => return done,
        }
        let pause = tokio::time::sleep(STORE_PAUSE);
        if shutdown.run_until_cancelled(pause).await.is_none() {
            return Err(Failure::Failed(anyhow!("stopped before the {store} could be opened")));
        }
    }
}

/// Waits for the tasks of a role to end after its drain.
pub async fn finish(role: &'static str, shutdown: &Shutdown) -> Outcome {
    shutdown.token.cancel();
    if !shutdown.finished(TASKS_END).await {
        return Err(Failure::Failed(anyhow!("tasks of {role} did not end in time")));
    }
    if REPLACED.load(Ordering::SeqCst) {
        let why = "wrong_ledger: the ledger was replaced while this process ran; start it again";
        return Err(Failure::Failed(anyhow!(why)));
    }
    tracing::info!(role, "stopped");
    Ok(())
}
