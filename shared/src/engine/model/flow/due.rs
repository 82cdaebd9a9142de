//! Things by when they are due.

use std::collections::{BTreeMap, BTreeSet};

/// Keys, each with an instant in µs, in the order of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due<K> {
    at: BTreeMap<K, i64>,
    order: BTreeSet<(i64, K)>,
}

impl<K> Default for Due<K> {
    fn default() -> Self {
        Self { at: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Due<K> {
    /// When this is due, if it is known.
    pub fn get(&self, key: K) -> Option<i64> {
        self.at.get(&key).copied()
    }

    /// The earliest one.
    pub fn first(&self) -> Option<(i64, K)> {
        self.order.first().copied()
    }

    /// Sets when this is due, whatever was known before.
    pub fn set(&mut self, key: K, at: i64) {
        if let Some(before) = self.at.insert(key, at) {
            self.order.remove(&(before, key));
        }
        self.order.insert((at, key));
    }

    /// Makes it no later than this.
    pub(super) fn set_earlier(&mut self, key: K, at: i64) {
        if self.get(key).is_none_or(|before| at < before) {
            self.set(key, at);
        }
    }

    /// How many there are.
    pub(in crate::engine::model) fn len(&self) -> usize {
        self.order.len()
    }

    /// All, the earliest first.
    pub(in crate::engine::model) fn iter(&self) -> impl Iterator<Item = (i64, K)> {
        self.order.iter().copied()
    }

    /// Forgets this.
    pub fn remove(&mut self, key: K) {
        if let Some(at) = self.at.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// Takes out what is due, the earliest first, at most so many.
    pub(super) fn take_due(&mut self, now: i64, max: u32) -> Vec<K> {
        let due = self.order.iter().take_while(|(at, _)| *at <= now).take(max as usize);
        let keys: Vec<K> = due.map(|(_, key)| *key).collect();
        for key in &keys {
            self.remove(*key);
        }
        keys
    }

    /// Makes everything due at this instant.
    pub(super) fn set_all(&mut self, at: i64) {
        self.order = self.at.keys().map(|key| (at, *key)).collect();
        self.at.values_mut().for_each(|value| *value = at);
    }
}
