//! The table of contents of what a scheduler does by itself. Each duty is one file of one shape.

use tokio::task::JoinSet;
use windlass_shared::engine::ShardId;
use windlass_shared::ledger::LedgerError;
use windlass_shared::lifecycle::Lifecycle;

use crate::SchedulerSettings;
use crate::steady::Steady;
use crate::ticker::Ticks;

mod gates;
mod gauges;
mod motion;
mod prune;
mod pump;
mod retention;
#[cfg(test)]
pub(crate) mod rig;
mod running;
mod schedules;
mod series;
mod shadows;
mod sweep;
mod workflows;

/// Starts every duty.
pub(crate) fn start(
    tasks: &mut JoinSet<()>,
    life: &Lifecycle,
    settings: &SchedulerSettings,
    steady: Steady,
    ticks: &Ticks,
) {
    tasks.spawn(motion::run(life.clone(), ticks.clone()));
    tasks.spawn(running::run(life.clone(), ticks.clone()));
    tasks.spawn(pump::run(life.clone(), ticks.clone()));
    tasks.spawn(gates::run(life.clone(), settings.verify, ticks.clone()));
    tasks.spawn(sweep::run(life.clone(), ticks.clone()));
    let retention = &settings.retention;
    tasks.spawn(prune::run(life.clone(), retention.default, steady.clone(), ticks.clone()));
    tasks.spawn(retention::run(life.clone(), retention.clone(), steady.clone(), ticks.clone()));
    tasks.spawn(workflows::run(life.clone(), ticks.clone()));
    tasks.spawn(schedules::run(life.clone(), ticks.clone()));
    tasks.spawn(series::run(life.clone(), ticks.clone()));
    tasks.spawn(gauges::run(life.clone(), ticks.clone()));
    tasks.spawn(shadows::run(life.clone(), steady, ticks.clone()));
}

/// Every shard that the ledger knows of.
pub(crate) async fn shards(life: &Lifecycle) -> Result<Vec<ShardId>, LedgerError> {
    let (mut shards, mut walk) = (Vec::new(), life.ledger().walk_queues(None));
    while let Some(queues) = walk.next().await? {
        shards.extend(queues.into_iter().map(|queue| ShardId::first(queue.namespace, queue.name)));
    }
    Ok(shards)
}

/// What a duty has done over all queues. What is wrong with one queue must not stop the others.
#[derive(Default)]
pub(crate) struct Tally {
    done: u64,
    failed: Option<anyhow::Error>,
}

impl Tally {
    /// Adds what became of one queue.
    pub(crate) fn add<E: Into<anyhow::Error>>(&mut self, result: Result<u64, E>) {
        match result {
            Ok(done) => self.done += done,
            Err(error) => self.failed = Some(error.into()),
        }
    }

    /// The sum, or the last failure.
    pub(crate) fn end(self) -> anyhow::Result<u64> {
        self.failed.map_or(Ok(self.done), Err)
    }
}
