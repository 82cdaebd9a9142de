//! Carries committed jobs to the engine.
use super::*;
pub(super) struct Pusher;
impl Pusher {
    pub(super) fn start(_l: Ledger, _e: Engine, _s: CancellationToken, _t: &TaskTracker) -> Self { Self }
}
