//! What follows from quotas once the ledger has decided.

use super::Lifecycle;
use crate::ledger::quotas::Exceeded;

/// Has the unfinished jobs counted of whom it is due for. Nobody waits for it; where it fails, the next submission wishes
/// for it again.
pub(super) fn after(life: &Lifecycle) {
    for namespace in life.inner.ledger.uncounted() {
        let ledger = life.inner.ledger.clone();
        life.inner.tasks.spawn(async move {
            if let Err(error) = ledger.count_quotas(&namespace).await {
                tracing::debug!(%namespace, %error, "unfinished jobs could not be counted");
            }
        });
    }
}

/// Counts a refusal.
pub(super) fn refused(exceeded: &Exceeded) {
    let quota = exceeded.quota.as_str();
    metrics::counter!("windlass_quota_refusals_total", "quota" => quota).increment(1);
}
