//! Fills the head of a queue again as it drains, while more of the queue waits in the ledger than the engine has room
//! for. The sweep would get there too, but at its own slow pace.
//!
//! The engine notes which groups of jobs it has refused room. The rest of a group comes from here alone, in the order of
//! acceptance: fresh ones are refused until a walk has found no more of them. Then they are taken again, and one more walk
//! brings those that were refused before. What a crash leaves undone there, the sweep does.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Lifecycle;
use super::delivery::PushError;
use super::sweep::{Crowded, Look, PAGES_MAX, SETTLED_AFTER, bring, read};
use crate::engine::flow::Group;
use crate::engine::model::REFUSED_MAX;
use crate::engine::{ShardId, ShardStats};
use crate::ledger::{Groups, Queue};
use crate::model::id::JobId;
use crate::model::time::Timestamp;

/// A page that was read longer ago is read again: pushes are justified by what the ledger said a moment ago.
const AHEAD_MAX: Duration = Duration::from_secs(2);
/// Most groups that are walked one by one; more of them are looked for among all jobs of the queue.
const GROUPS_MAX: u64 = 20;

/// Where the walks over the rest of queues are.
#[derive(Default)]
pub struct Pump {
    shards: HashMap<ShardId, Walks>,
    /// Shards that were nearly full of bytes, or of jobs ahead of their time, and may have refused some.
    held_back: HashSet<ShardId>,
}

/// Those of one queue.
#[derive(Default)]
struct Walks {
    /// Over the jobs of one group.
    groups: HashMap<Group, Walk>,
    /// Over all jobs.
    all: Option<WalkOverAll>,
}

/// What one pass over a queue has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filled {
    /// Jobs pushed.
    pub pushed: u64,
    /// It ended for its bound only, and got on: there may be room for more.
    pub is_more: bool,
}

#[derive(Default)]
struct Walk {
    /// Up to here all are in the engine.
    after: Option<JobId>,
    /// Fresh jobs are taken again: it is the one that brings those that were refused before.
    is_last: bool,
}

#[derive(Default)]
struct WalkOverAll {
    walk: Walk,
    /// Groups that had been refused when it began.
    refused: Vec<Group>,
    crowded: Crowded,
}

impl Pump {
    /// One bounded pass over a queue. Asks the engine only, unless its shard has refused some of
    /// the queue room, or was nearly full, since its rest was last found empty.
    ///
    /// Safe to drop and to run twice at once.
    ///
    /// # Errors
    /// The engine or the ledger did not answer; the next pass starts from the same place.
    pub async fn pass(&mut self, life: &Lifecycle, queue: &Queue) -> Result<Filled, PushError> {
        let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
        let stats = life.inner.engine.stats(&shard).await?;
        let Some(full) = fullness(&stats).filter(|_| stats.open) else {
            return Ok(Filled::default());
        };
        if full != Full::No {
            self.held_back.insert(shard.clone());
        }
        if full == Full::OfBytes {
            return Ok(Filled::default());
        }
        let may_have_been_refused = full == Full::No && self.held_back.contains(&shard);
        if stats.refused == 0 && !may_have_been_refused && !self.shards.contains_key(&shard) {
            return Ok(Filled::default());
        }
        let walks = self.shards.entry(shard.clone()).or_default();
        let mut pages = PAGES_MAX;
        let mut pushed = 0;
        if walks.all.is_none() && (stats.refused > GROUPS_MAX || may_have_been_refused) {
            let refused = life.inner.engine.refused(&shard, REFUSED_MAX as u32).await?;
            let refused = refused.into_iter().map(|refused| refused.group).collect();
            walks.all = Some(WalkOverAll { refused, ..WalkOverAll::default() });
            self.held_back.remove(&shard);
        }
        if stats.refused <= GROUPS_MAX {
            pushed += walks.fill_groups(life, &shard, stats.refused, &mut pages).await?;
        }
        pushed += walks.fill_all(life, &shard, &mut pages).await?;
        if walks.groups.is_empty() && walks.all.is_none() {
            self.shards.remove(&shard);
        }
        Ok(Filled { pushed, is_more: pages == 0 && pushed > 0 })
    }
}

impl Walks {
    /// Goes on with the groups that have room, and with those that are nearly done.
    async fn fill_groups(
        &mut self,
        life: &Lifecycle,
        shard: &ShardId,
        refused: u64,
        pages: &mut usize,
    ) -> Result<u64, PushError> {
        let mut noted = Vec::new();
        if refused > 0 {
            noted = life.inner.engine.refused(shard, GROUPS_MAX as u32).await?;
        }
        let is_noted = |group: &Group| noted.iter().any(|refused| refused.group == *group);
        // Somebody else has come to the end of the others.
        self.groups.retain(|group, walk| walk.is_last || is_noted(group));
        let mut due: Vec<Group> = self.groups.keys().copied().filter(|it| !is_noted(it)).collect();
        due.extend(noted.iter().filter(|refused| refused.has_room).map(|refused| refused.group));
        let mut pushed = 0;
        for group in due {
            pushed += self.fill(life, shard, group, pages).await?;
        }
        Ok(pushed)
    }

    /// Pushes the next jobs of a group, until it has its part again.
    async fn fill(
        &mut self,
        life: &Lifecycle,
        shard: &ShardId,
        group: Group,
        pages: &mut usize,
    ) -> Result<u64, PushError> {
        let walk = self.groups.entry(group).or_default();
        let (mut pushed, mut ahead) = (0, None);
        let read = async |after| -> Result<Look, PushError> {
            read(life, shard, any_time(life).await?, after, Groups::Only(group)).await
        };
        while *pages > 0 {
            *pages -= 1;
            let look = match ahead.take() {
                Some((began, look)) if Instant::elapsed(&began) < AHEAD_MAX => look,
                Some(_) | None => read(walk.after).await?,
            };
            // Where one page had room, so has the next, probably: it is read while this one is pushed.
            let end = look.last.filter(|_| pushed > 0 && *pages > 0);
            let page = if end.is_some() {
                let began = Instant::now();
                let (page, next) = tokio::join!(bring(life, shard, look), read(end));
                ahead = next.ok().map(|next| (began, next));
                page?
            } else {
                bring(life, shard, look).await?
            };
            pushed += page.pushed;
            walk.after = page.filled_to;
            if page.is_full {
                // It is noted again.
                walk.is_last = false;
                break;
            }
            if page.last.is_some() {
                continue;
            }
            if walk.is_last {
                self.groups.remove(&group);
                break;
            }
            life.inner.engine.refilled(shard, &[group]).await?;
            *walk = Walk { after: None, is_last: true };
        }
        Ok(pushed)
    }

    /// Goes on with the walk over all of a queue, if there is one.
    async fn fill_all(
        &mut self,
        life: &Lifecycle,
        shard: &ShardId,
        pages: &mut usize,
    ) -> Result<u64, PushError> {
        let Some(all) = &mut self.all else { return Ok(0) };
        let mut pushed = 0;
        while *pages > 0 {
            *pages -= 1;
            let changed_before = any_time(life).await?;
            let groups = all.crowded.others();
            let look = read(life, shard, changed_before, all.walk.after, groups).await?;
            let page = bring(life, shard, look).await?;
            pushed += page.pushed;
            all.walk.after = page.filled_to;
            all.crowded.add(&page);
            if page.is_full {
                break;
            }
            if page.last.is_some() {
                continue;
            }
            if all.walk.is_last {
                self.all = None;
                break;
            }
            let is_done = |group: &Group| !all.crowded.contains(*group);
            let done: Vec<Group> = all.refused.drain(..).filter(is_done).collect();
            life.inner.engine.refilled(shard, &done).await?;
            all.walk = Walk { after: None, is_last: true };
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
