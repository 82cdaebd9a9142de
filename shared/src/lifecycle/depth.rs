//! How many jobs of a queue wait, as its `max_depth` counts them.

use crate::engine::ShardStats;
use crate::ledger::{Ledger, LedgerError};
use crate::model::name::{Namespace, QueueName};

/// What the engine says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Jobs that wait in the engine.
    pub here: u64,
    /// Jobs that run or have just ended, which are on record as waiting; the engine knows better.
    on_the_way: u64,
    /// The ledger may keep more.
    pub may_be_more: bool,
}

impl Depth {
    /// By the figures of the queue's shard.
    pub fn of(stats: &ShardStats) -> Self {
        Self {
            here: stats.ready + stats.delayed,
            on_the_way: stats.leased + stats.outbox,
            may_be_more: may_hold_back(stats),
        }
    }

    /// How many wait, by the ledger; counts no further than to tell whether they are fewer than `most`, which bounds the
    /// cost. May be dropped, and repeated.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub async fn recorded(
        self,
        ledger: &Ledger,
        namespace: &Namespace,
        queue: &QueueName,
        most: u64,
    ) -> Result<u64, LedgerError> {
        let at_most = most.saturating_add(self.on_the_way);
        let recorded = ledger.waiting(namespace, queue, at_most).await?;
        Ok(recorded.saturating_sub(self.on_the_way).max(self.here))
    }
}

/// Whether the ledger may keep jobs of the queue that the engine has no room for. Of those ahead of their time the pump
/// brings more before a tenth of their room is free, and so of all when there is no room for their bytes.
fn may_hold_back(stats: &ShardStats) -> bool {
    let Some(settings) = &stats.settings else { return true };
    stats.refused > 0
        || stats.delayed >= settings.jobs_max / 10 * 9
        || stats.bytes >= settings.bytes_max / 10 * 9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ShardSettings;

    #[test]
    fn the_ledger_is_asked_once_the_engine_has_refused_or_may_have() {
        let settings =
            ShardSettings { jobs_max: 100, bytes_max: 1_000, ..ShardSettings::default() };
        let stats = ShardStats { settings: Some(settings), ..ShardStats::default() };
        assert!(!may_hold_back(&ShardStats { ready: 80, delayed: 89, ..stats.clone() }));
        assert!(may_hold_back(&ShardStats { refused: 1, ..stats.clone() }));
        assert!(may_hold_back(&ShardStats { delayed: 90, ..stats.clone() }));
        assert!(may_hold_back(&ShardStats { bytes: 900, ..stats }));
        assert!(may_hold_back(&ShardStats::default()));
    }
}
