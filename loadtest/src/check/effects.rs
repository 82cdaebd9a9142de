//! What the handler of a load saw: the only witness of what ran that is not the system itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::time::Instant;
use windlass_shared::model::id::JobId;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::handler::{Handler, typed};

/// What was seen of one job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effect {
    /// The first time that it ran.
    pub(super) first: Instant,
    /// How often it ran.
    pub(super) runs: u32,
}

/// What was seen of all.
#[derive(Default)]
pub(super) struct Effects(Mutex<HashMap<JobId, Effect>>);

impl Effects {
    /// Notes that a job runs.
    pub(super) fn ran(&self, id: JobId) {
        let now = Instant::now();
        let mut seen = self.0.lock().expect("nobody panics while holding it");
        seen.entry(id).or_insert(Effect { first: now, runs: 0 }).runs += 1;
    }

    /// What was seen of a job; `None`: it never ran.
    pub(super) fn of(&self, id: JobId) -> Option<Effect> {
        self.0.lock().expect("nobody panics while holding it").get(&id).copied()
    }
}

/// Notes the job and is done.
pub(super) fn handler(effects: Arc<Effects>) -> Box<dyn Handler> {
    typed(move |ctx: Context, _: Value| {
        effects.ran(ctx.job_id());
        async { Ok::<_, HandlerError>(()) }
    })
}
