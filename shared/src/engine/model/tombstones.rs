//! Ids that left the shard and must not come back with the same fence.

use super::*;

/// The number of the tombstone window that holds at `now`.
pub fn window(now: Timestamp) -> i64 {
    let length_us = limits::TOMBSTONE_TTL.as_micros() as i64;
    now.micros().div_euclid(length_us)
}

/// Tombstones by id, in two windows that take turns.
#[derive(Debug, Clone, Default)]
pub(super) struct Tombstones {
    /// Number of the window that `present` belongs to.
    window: i64,
    present: HashMap<JobId, Tombstone>,
    previous: HashMap<JobId, Tombstone>,
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

    /// The greatest that stands for this id.
    pub(super) fn standing(&self, id: JobId) -> Option<Tombstone> {
        self.present.get(&id).max(self.previous.get(&id)).copied()
    }

    /// Writes a tombstone; never lowers one.
    pub(super) fn raise(&mut self, id: JobId, tombstone: Tombstone) {
        let tombstone = self.standing(id).map_or(tombstone, |standing| standing.max(tombstone));
        self.present.insert(id, tombstone);
    }

    pub(super) fn remove(&mut self, id: JobId) {
        self.present.remove(&id);
        self.previous.remove(&id);
    }

    /// Those that stand at `now`, by window and id, in order.
    pub(super) fn list(&self, now: Timestamp) -> Vec<(i64, JobId, Tombstone)> {
        let in_window = |number: i64, tombs: &HashMap<JobId, Tombstone>| {
            tombs.iter().map(|(id, tomb)| (number, *id, *tomb)).collect::<Vec<_>>()
        };
        let mut all = in_window(self.window, &self.present);
        all.extend(in_window(self.window - 1, &self.previous));
        all.retain(|(number, ..)| *number + 1 >= window(now));
        all.sort_unstable();
        all
    }
}
