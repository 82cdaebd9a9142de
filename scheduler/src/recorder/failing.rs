//! Which shards cannot be recorded now. One that fails is told of until it works, whatever the others do.

use std::collections::{BTreeMap, HashSet};

use windlass_shared::engine::ShardId;
use windlass_shared::ledger::LedgerError;
use windlass_shared::lifecycle::PushError;

/// Shards that are named in the log in one outage: of a store that is away they may be all.
const NAMED_MAX: usize = 5;

/// What cannot be done now, and why.
#[derive(Debug, Default)]
pub(super) struct Failing {
    shards: BTreeMap<ShardId, String>,
    /// Why the shards cannot be listed.
    list: Option<String>,
    /// Shards that were named in the log since all was well.
    named: usize,
}

impl Failing {
    /// Its outcomes cannot be recorded.
    pub(super) fn shard(&mut self, shard: ShardId, error: &PushError) {
        metrics::counter!("windlass_recorder_failures_total").increment(1);
        if !self.shards.contains_key(&shard) && self.named < NAMED_MAX {
            self.named += 1;
            tracing::warn!(%shard, %error, "outcomes cannot be recorded now; they are kept and repeated");
        }
        self.shards.insert(shard, error.to_string());
    }

    /// They are recorded.
    pub(super) fn works(&mut self, shard: &ShardId) {
        if self.shards.remove(shard).is_some() && self.shards.is_empty() {
            self.named = 0;
            tracing::info!("outcomes are recorded again");
        }
    }

    /// Of a shard that is not among these nothing is left to record.
    pub(super) fn keep(&mut self, shards: &HashSet<ShardId>) {
        self.shards.retain(|shard, _| shards.contains(shard));
        if self.shards.is_empty() {
            self.named = 0;
        }
    }

    /// How the shards were listed.
    pub(super) fn list(&mut self, result: Result<(), &LedgerError>) {
        let Err(error) = result else {
            self.list = None;
            return;
        };
        metrics::counter!("windlass_recorder_failures_total").increment(1);
        if self.list.is_none() {
            tracing::warn!(%error, "the shards to record cannot be listed now");
        }
        self.list = Some(error.to_string());
    }

    /// One line of it all.
    pub(super) fn told(&self) -> Option<String> {
        if let Some((shard, why)) = self.shards.first_key_value() {
            let others = match self.shards.len() - 1 {
                0 => String::new(),
                others => format!(" and {others} other shards"),
            };
            return Some(format!("outcomes of {shard}{others} cannot be recorded now: {why}"));
        }
        self.list.as_ref().map(|why| format!("the shards cannot be listed now: {why}"))
    }
}
