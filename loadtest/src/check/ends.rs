//! When the ledger has the end of each job: it is asked again and again for those that are open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use windlass_shared::ledger::Ledger;
use windlass_shared::model::id::JobId;

/// Between two questions; an end is noted this much too late at most, and the time of the answer.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Ids of one question.
const ASK_MAX: usize = 1_000;

/// Accepted jobs, and when their end was seen.
#[derive(Default)]
pub(super) struct Open {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Vec<JobId>,
    ended: HashMap<JobId, Instant>,
}

impl Open {
    /// Asks for a job from now on.
    pub(super) fn add(&self, id: JobId) {
        self.state().open.push(id);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// Asks for all that are open, once. An answer that does not come is asked for again.
    async fn ask(&self, ledger: &Ledger) {
        let open = self.state().open.clone();
        for chunk in open.chunks(ASK_MAX) {
            let Ok(ended) = ledger.terminal_among(chunk).await else { return };
            let now = Instant::now();
            let mut state = self.state();
            state.ended.extend(ended.into_iter().map(|id| (id, now)));
        }
        let mut state = self.state();
        let State { open, ended } = &mut *state;
        open.retain(|id| !ended.contains_key(id));
    }
}

/// The asking, until dropped.
pub(super) struct Ends {
    /// Where accepted jobs are told.
    pub(super) open: Arc<Open>,
    _asking: AbortOnDropHandle<()>,
}

impl Ends {
    pub(super) fn start(ledger: Ledger) -> Self {
        let open = Arc::new(Open::default());
        let asked = Arc::clone(&open);
        // It only reads, so that it may be dropped anywhere.
        let asking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(ASK_EVERY).await;
                asked.ask(&ledger).await;
            }
        });
        Self { open, _asking: AbortOnDropHandle::new(asking) }
    }

    /// Waits until none is open, for at most this long; whether that came to pass.
    pub(super) async fn settled(&self, most: Duration) -> anyhow::Result<bool> {
        let until = Instant::now() + most;
        while !self.open.state().open.is_empty() {
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(true)
    }

    /// When each end was seen; those that are missing were not.
    pub(super) fn finish(self) -> HashMap<JobId, Instant> {
        std::mem::take(&mut self.open.state().ended)
    }
}
