//! Ids that left the shard and must not come back with the same fence.

use super::*;

/// The number of the tombstone window that holds at `now`.
pub fn window(now: Timestamp) -> i64 {
    let length_us = limits::TOMBSTONE_TTL.as_micros() as i64;
    now.micros().div_euclid(length_us)
}

/// Fences by id, in two windows that take turns.
#[derive(Debug, Clone, Default)]
pub(super) struct Tombstones {
    /// Number of the window that `present` belongs to.
    window: i64,
    present: HashMap<JobId, Fence>,
    previous: HashMap<JobId, Fence>,
}

impl Tombstones {
    /// Drops what no longer stands at `now`. Every verb that looks at tombstones does this first.
    pub(super) fn turn(&mut self, now: Timestamp) {
        let window = window(now);
        // A clock that went back keeps them longer, never shorter.
        if window <= self.window {
            return;
        }
        let next = window == self.window + 1;
        let old = std::mem::take(&mut self.present);
        self.previous = if next { old } else { HashMap::new() };
        self.window = window;
    }

    /// The highest fence that stands for this id.
    pub(super) fn standing(&self, id: JobId) -> Option<Fence> {
        self.present.get(&id).max(self.previous.get(&id)).copied()
    }

    /// Writes a tombstone; never lowers one.
    pub(super) fn raise(&mut self, id: JobId, fence: Fence) {
        let fence = self.standing(id).map_or(fence, |standing| standing.max(fence));
        self.present.insert(id, fence);
    }

    pub(super) fn remove(&mut self, id: JobId) {
        self.present.remove(&id);
        self.previous.remove(&id);
    }

    /// Those that stand at `now`, as (window, id, fence), in order.
    pub(super) fn list(&self, now: Timestamp) -> Vec<(i64, JobId, Fence)> {
        let in_window = |number: i64, tombs: &HashMap<JobId, Fence>| {
            tombs.iter().map(|(id, fence)| (number, *id, *fence)).collect::<Vec<_>>()
        };
        let mut all = in_window(self.window, &self.present);
        all.extend(in_window(self.window - 1, &self.previous));
        all.retain(|(number, ..)| *number + 1 >= window(now));
        all.sort_unstable();
        all
    }
}
