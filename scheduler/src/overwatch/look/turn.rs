//! Whose turn it is, where one look cannot take them all.

use windlass_shared::ledger::Queue;
use windlass_shared::model::name::{Namespace, QueueName};

/// The queue that had its turn last. By name, so that queues that come and go in between cost nobody a turn.
#[derive(Debug, Default)]
pub(super) struct Turn(Option<(Namespace, QueueName)>);

impl Turn {
    /// Puts them in the order in which it is their turn.
    pub(super) fn sort<T>(&self, items: &mut [T], queue: impl Fn(&T) -> &Queue) {
        items.sort_by(|a, b| place(queue(a)).cmp(&place(queue(b))));
        if let Some((namespace, name)) = &self.0 {
            let begin = items.partition_point(|item| place(queue(item)) <= (namespace, name));
            items.rotate_left(begin);
        }
    }

    /// This one has had its turn.
    pub(super) fn took(&mut self, queue: &Queue) {
        self.0 = Some((queue.namespace.clone(), queue.name.clone()));
    }
}

fn place(queue: &Queue) -> (&Namespace, &QueueName) {
    (&queue.namespace, &queue.name)
}
