//! Shards that are due for a pass, first come first served: a busy shard that is due again goes to the end, so
//! that any number of busy shards get their turns.

use std::collections::{HashSet, VecDeque};

use windlass_shared::engine::ShardId;

/// Each shard at most once.
#[derive(Default)]
pub(crate) struct Due {
    order: VecDeque<ShardId>,
    waiting: HashSet<ShardId>,
}

impl Due {
    /// Puts a shard at the end, unless it waits already.
    pub(crate) fn add(&mut self, shard: &ShardId) {
        if !self.waiting.contains(shard) {
            self.waiting.insert(shard.clone());
            self.order.push_back(shard.clone());
        }
    }

    /// The first that is not busy. The busy ones before it keep their places.
    pub(crate) fn take(&mut self, is_busy: impl Fn(&ShardId) -> bool) -> Option<ShardId> {
        let place = self.order.iter().position(|shard| !is_busy(shard))?;
        let shard = self.order.remove(place)?;
        self.waiting.remove(&shard);
        Some(shard)
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::name::Namespace;

    use super::*;

    fn shard(n: usize) -> ShardId {
        ShardId::first(Namespace::default(), format!("q{n}").parse().unwrap())
    }

    /// Goal: with room for eight passes and more busy shards than that, none waits for ever.
    #[test]
    fn every_busy_shard_gets_its_turn() {
        let mut due = Due::default();
        let mut turns = [0; 12];
        (0..12).for_each(|n| due.add(&shard(n)));
        for _ in 0..30 {
            let batch: Vec<ShardId> = std::iter::from_fn(|| due.take(|_| false)).take(8).collect();
            for taken in batch {
                let n = (0..12).find(|n| shard(*n) == taken).unwrap();
                turns[n] += 1;
                // It found outcomes, so it is due again.
                due.add(&taken);
            }
        }
        assert!(turns.iter().all(|n| *n == 20), "{turns:?}");
    }

    #[test]
    fn a_shard_under_way_keeps_its_place_and_waits_once() {
        let mut due = Due::default();
        for n in [1, 2, 1, 3] {
            due.add(&shard(n));
        }
        assert_eq!(due.take(|s| *s == shard(1)), Some(shard(2)));
        assert_eq!(due.take(|_| false), Some(shard(1)));
        assert_eq!(due.take(|_| false), Some(shard(3)));
        assert_eq!(due.take(|_| false), None);
    }
}
