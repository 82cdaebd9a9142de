//! The scheduler: records outcomes, keeps queues moving, sweeps, prunes.
//!
//! Every duty is safe to run in several replicas at once, because the ledger's guards and the engine's
//! scripts refuse what was done already. Those whose reads are dear are done by the leader only.

use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_shared::config::{OverwatchSettings, RetentionSettings};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::verify::VerifySettings;
use windlass_shared::model::id::WorkerId;

pub mod backup;
mod board;
mod due;
mod leader;
pub mod overwatch;
mod recorder;
mod steady;
mod ticker;
mod ticks;

/// How a scheduler works.
#[derive(Debug, Clone)]
pub struct SchedulerSettings {
    /// How long what has ended is kept.
    pub retention: RetentionSettings,
    /// Who stands for the lead: drawn at the start of a process that shares its ledger with others.
    pub holder: WorkerId,
    /// The process's label, for people.
    pub name: String,
    /// Times of the verification of shards.
    pub verify: VerifySettings,
    /// Overwatch, and who is notified.
    pub overwatch: OverwatchSettings,
}

impl Default for SchedulerSettings {
    /// Seven days, a fresh holder, and the usual times.
    fn default() -> Self {
        Self {
            retention: RetentionSettings::default(),
            holder: WorkerId::generate(),
            name: "scheduler".to_owned(),
            verify: VerifySettings::default(),
            overwatch: OverwatchSettings::default(),
        }
    }
}

/// Runs the recorder and every duty until `shutdown`, then finishes what is under way.
pub fn run(
    life: Lifecycle,
    settings: SchedulerSettings,
    shutdown: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(work(life, settings, shutdown))
}

async fn work(life: Lifecycle, settings: SchedulerSettings, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    let board = board::Board::new(settings.holder);
    tasks.spawn(recorder::run(life.clone(), board.clone(), shutdown.clone()));
    let ledger = life.ledger().clone();
    let (candidate, lead) = leader::Candidate::new(
        ledger.clone(),
        settings.holder,
        settings.name.clone(),
        board.clone(),
    );
    tasks.spawn(candidate.run(shutdown.clone()));
    let ticks = ticker::Ticks { lead, board: board.clone(), shutdown: shutdown.clone() };
    let steady = steady::Steady::after(settings.retention.clock_wait);
    ticks::start(&mut tasks, &life, &settings, steady.clone(), &ticks);
    let (own, name) = (settings.overwatch.clone(), settings.name.clone());
    tasks.spawn(overwatch::notify::outage::run(life.clone(), own, name, shutdown.clone()));
    tasks.spawn(overwatch::run(life.clone(), settings.overwatch.clone(), steady, ticks.clone()));
    tasks.spawn(board.run(ledger, settings.name.clone(), shutdown.clone()));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            // A duty that is gone is a promise that nobody keeps: the process must be started again.
            tracing::error!(%error, "a scheduler duty panicked; stopping");
            shutdown.cancel();
        }
    }
}
