//! The table of contents of what a scheduler does by itself. Each duty is one file of one shape.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::ShardId;
use windlass_shared::ledger::LedgerError;
use windlass_shared::lifecycle::Lifecycle;

use crate::SchedulerSettings;
use crate::leader::Lead;

mod gates;
mod gauges;
mod motion;
mod prune;
mod pump;
#[cfg(test)]
mod rig;
mod running;
mod schedules;
mod shadows;
mod sweep;
mod workflows;

/// Starts every duty.
pub(crate) fn start(
    tasks: &mut JoinSet<()>,
    life: &Lifecycle,
    lead: &Lead,
    settings: &SchedulerSettings,
    shutdown: &CancellationToken,
) {
    tasks.spawn(motion::run(life.clone(), shutdown.clone()));
    tasks.spawn(running::run(life.clone(), shutdown.clone()));
    tasks.spawn(pump::run(life.clone(), shutdown.clone()));
    tasks.spawn(gates::run(life.clone(), lead.clone(), settings.verify, shutdown.clone()));
    tasks.spawn(sweep::run(life.clone(), lead.clone(), shutdown.clone()));
    tasks.spawn(prune::run(life.clone(), settings.retention, shutdown.clone()));
    tasks.spawn(workflows::run(life.clone(), shutdown.clone()));
    tasks.spawn(schedules::run(life.clone(), lead.clone(), shutdown.clone()));
    tasks.spawn(gauges::run(life.clone(), shutdown.clone()));
    tasks.spawn(shadows::run(life.clone(), lead.clone(), shutdown.clone()));
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
