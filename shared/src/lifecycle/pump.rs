//! Fills the head of a queue again as it drains, while more of the queue waits in the ledger than the engine has room
//! for. The sweep would get there too, but at its own slow pace.

use std::collections::{HashMap, HashSet};

use super::Lifecycle;
use super::delivery::PushError;
use super::sweep::{Crowded, PAGES_MAX, SETTLED_AFTER, page};
use crate::engine::flow::Group;
use crate::engine::{Refused, ShardId, ShardStats};
use crate::ledger::{Groups, Queue};
use crate::model::id::JobId;
use crate::model::time::Timestamp;

/// Groups that one pass fills.
const GROUPS_MAX: u32 = 20;

/// Where the walks over the rest of queues are.
#[derive(Default)]
pub struct Pump {
    /// Groups that were refused room.
    groups: HashMap<(ShardId, Group), Walk>,
    /// Shards of which anything may wait in the ledger, whatever its group, each with the id up to which all are in the
    /// engine.
    behind: HashMap<ShardId, Option<JobId>>,
    /// Shards that were nearly full of bytes, or of jobs ahead of their time, and may have refused some.
    held_back: HashSet<ShardId>,
}

/// A walk over the jobs of one group.
struct Walk {
    /// Up to here all are in the engine.
    after: Option<JobId>,
    /// When the group was refused room before the walk began. What is refused later may be behind it.
    since: Timestamp,
}

impl Pump {
    /// One bounded pass over a queue; how many jobs it pushed. Asks the engine only, unless its shard has refused some of
    /// the queue room, or was nearly full, since its rest was last found empty.
    ///
    /// Safe to drop and to run twice at once.
    ///
    /// # Errors
    /// The engine or the ledger did not answer; the next pass starts from the same place.
    pub async fn pass(&mut self, life: &Lifecycle, queue: &Queue) -> Result<u64, PushError> {
        let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
        let stats = life.inner.engine.stats(&shard).await?;
        if !stats.open {
            return Ok(0);
        }
        let Some(is_full) = fullness(&stats) else { return Ok(0) };
        if is_full != Full::No {
            self.held_back.insert(shard.clone());
        }
        if is_full == Full::OfBytes {
            return Ok(0);
        }
        let mut pushed = 0;
        if stats.refused > 0 {
            for group in life.inner.engine.refused(&shard, GROUPS_MAX).await? {
                pushed += self.fill(life, &shard, group).await?;
            }
        } else {
            self.groups.retain(|(of, _), _| *of != shard);
        }
        // A walk that is under way comes to its end first.
        let is_due = is_full == Full::No && !self.behind.contains_key(&shard);
        if is_due && self.held_back.remove(&shard) {
            self.behind.insert(shard.clone(), None);
        }
        Ok(pushed + self.catch_up(life, &shard).await?)
    }

    /// Pushes the next jobs of a group, until it has its part again.
    async fn fill(
        &mut self,
        life: &Lifecycle,
        shard: &ShardId,
        refused: Refused,
    ) -> Result<u64, PushError> {
        let key = (shard.clone(), refused.group);
        let walk = self.groups.entry(key.clone()).or_insert(Walk { after: None, since: refused.at });
        let mut pushed = 0;
        for _ in 0..PAGES_MAX {
            let changed_before = any_time(life).await?;
            let groups = Groups::Only(refused.group);
            let page = page(life, shard, changed_before, walk.after, groups).await?;
            pushed += page.pushed;
            walk.after = page.filled_to;
            if page.is_full {
                break;
            }
            if page.last.is_none() {
                let done = Refused { at: walk.since, ..refused };
                life.inner.engine.refilled(shard, done).await?;
                self.groups.remove(&key);
                break;
            }
        }
        Ok(pushed)
    }

    /// Goes on with the walk over all of a queue, if there is one.
    async fn catch_up(&mut self, life: &Lifecycle, shard: &ShardId) -> Result<u64, PushError> {
        let Some(cursor) = self.behind.get_mut(shard) else { return Ok(0) };
        let (mut pushed, mut crowded) = (0, Crowded::default());
        for _ in 0..PAGES_MAX {
            let changed_before = any_time(life).await?;
            let page = page(life, shard, changed_before, *cursor, crowded.others()).await?;
            pushed += page.pushed;
            *cursor = page.filled_to;
            if page.is_full || !crowded.add(&page) {
                break;
            }
            if page.last.is_none() {
                self.behind.remove(shard);
                break;
            }
        }
        Ok(pushed)
    }
}

/// No matter when jobs changed: what is on its way by the common path as well is pushed once.
async fn any_time(life: &Lifecycle) -> Result<Timestamp, PushError> {
    Ok(life.inner.ledger.now().await?.plus(SETTLED_AFTER))
}

/// What a shard is nearly full of, other than jobs that could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    No,
    /// Those that wait for their time have room of their own; see `ShardSettings::jobs_max`.
    OfLater,
    OfBytes,
}

/// `None`: nobody has given the shard its settings.
fn fullness(stats: &ShardStats) -> Option<Full> {
    let settings = stats.settings.as_ref()?;
    Some(if stats.bytes >= settings.bytes_max / 5 * 4 {
        Full::OfBytes
    } else if stats.delayed >= settings.jobs_max / 5 * 4 {
        Full::OfLater
    } else {
        Full::No
    })
}
