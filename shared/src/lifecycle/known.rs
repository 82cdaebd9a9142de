//! Which queues exist, as far as this process has seen. Queues are never deleted, so what was seen stays
//! true.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::engine::ShardId;
use crate::ledger::Ledger;
use crate::model::name::{Namespace, QueueName};

/// Queues remembered; beyond it they are forgotten and looked up again.
const QUEUES_MAX: usize = 10_000;

/// Queues that were seen in the ledger.
#[derive(Default)]
pub(super) struct KnownQueues {
    seen: Mutex<HashSet<(Namespace, QueueName)>>,
}

impl KnownQueues {
    /// Those of the shards, which are all of one namespace, whose queue exists. Asks the ledger once if any
    /// was not seen before. A ledger that does not answer leaves it at what was seen.
    pub(super) async fn among(&self, ledger: &Ledger, shards: &[ShardId]) -> Vec<ShardId> {
        let known = self.seen_among(shards);
        let Some(first) = shards.first().filter(|_| known.len() < shards.len()) else {
            return known;
        };
        let Ok(queues) = ledger.queues(Some(&first.namespace)).await else { return known };
        {
            let mut seen = self.lock();
            if seen.len() + queues.len() > QUEUES_MAX {
                seen.clear();
            }
            seen.extend(queues.into_iter().take(QUEUES_MAX).map(|q| (q.namespace, q.name)));
        }
        self.seen_among(shards)
    }

    fn seen_among(&self, shards: &[ShardId]) -> Vec<ShardId> {
        let seen = self.lock();
        let is_seen =
            |shard: &&ShardId| seen.contains(&(shard.namespace.clone(), shard.queue.clone()));
        shards.iter().filter(is_seen).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(Namespace, QueueName)>> {
        self.seen.lock().expect("nothing panics while holding it")
    }
}
