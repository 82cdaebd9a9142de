//! Labels whose values users choose, kept to a bounded number.

use std::collections::HashSet;
use std::sync::{LazyLock, RwLock};

use metrics::SharedString;

use crate::model::name::{Kind, QueueName};

/// Most distinct values of one label; the rest is counted under `other`.
pub const LABEL_VALUES_MAX: usize = 200;

/// The values of one label that have been seen, first come, first kept.
#[derive(Debug, Default)]
pub struct LabelSet {
    seen: RwLock<HashSet<SharedString>>,
}

impl LabelSet {
    /// `value` itself while there is room for it, else `other`. Cheap for values seen before.
    pub fn bound(&self, value: &str) -> SharedString {
        // A poisoned lock holds a complete set: inserting is its only change.
        let seen = self.seen.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = seen.get(value) {
            return known.clone();
        }
        let full = seen.len() >= LABEL_VALUES_MAX;
        drop(seen);
        if full {
            return SharedString::const_str("other");
        }
        let mut seen = self.seen.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.len() >= LABEL_VALUES_MAX && !seen.contains(value) {
            return SharedString::const_str("other");
        }
        let value = SharedString::from_shared(value.into());
        seen.insert(value.clone());
        value
    }
}

// One set per process and label, like the metrics recorder that they feed.
static QUEUES: LazyLock<LabelSet> = LazyLock::new(LabelSet::default);
static KINDS: LazyLock<LabelSet> = LazyLock::new(LabelSet::default);

/// The value of label `queue`.
pub fn queue(name: &QueueName) -> SharedString {
    QUEUES.bound(name.as_str())
}

/// The value of label `kind`.
pub fn kind(name: &Kind) -> SharedString {
    KINDS.bound(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overflow_is_other_and_the_first_are_kept() {
        let set = LabelSet::default();
        for n in 0..LABEL_VALUES_MAX {
            assert_eq!(&*set.bound(&format!("q{n}")), format!("q{n}"));
        }
        assert_eq!(&*set.bound("one-too-many"), "other");
        assert_eq!(&*set.bound("q7"), "q7");
    }
}
