//! Waiting for jobs to end.
use super::*;
pub(super) struct Waiters;
impl Waiters {
    pub(super) fn start(_l: Ledger, _s: CancellationToken, _t: &TaskTracker) -> Self { Self }
}
pub(super) async fn wait(_l: &Lifecycle, _n: &Namespace, _id: JobId, _t: Duration) -> Result<Option<Option<Job>>, LedgerError> { todo!() }
