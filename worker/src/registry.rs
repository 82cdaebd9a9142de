//! Which handler performs which kind.

use std::collections::HashMap;
use std::sync::Arc;

use windlass_shared::model::name::Kind;

use crate::handler::Handler;

/// The handlers of one worker.
#[derive(Default)]
pub(crate) struct Registry {
    handlers: HashMap<Kind, Arc<dyn Handler>>,
}

impl Registry {
    /// Adds a handler; the last one for a kind counts.
    pub(crate) fn add(&mut self, kind: Kind, handler: Arc<dyn Handler>) {
        self.handlers.insert(kind, handler);
    }

    /// Adds the handlers of another registry, which count where both have one for a kind.
    pub(crate) fn add_all(&mut self, other: Self) {
        self.handlers.extend(other.handlers);
    }

    pub(crate) fn get(&self, kind: &Kind) -> Option<&Arc<dyn Handler>> {
        self.handlers.get(kind)
    }

    /// Every kind, by name.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.handlers.keys().cloned().collect();
        kinds.sort();
        kinds
    }
}
