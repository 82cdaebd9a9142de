//! Removing what a load check leaves behind, in bounded steps.

use std::time::Duration;

use futures::future::BoxFuture;

use super::Lifecycle;
use crate::ledger::load_checks::Cleaned;
use crate::ledger::{LedgerError, Unfinished};
use crate::model::load_check::SHADOW_QUEUE;
use crate::model::name::{Namespace, QueueName};

/// Why jobs of a shadow are cancelled.
const REASON: &str = "the load check is over";
/// Far beyond any due time.
const AHEAD: Duration = Duration::from_secs(365 * 24 * 3600);

impl Lifecycle {
    /// One step: forgets at most `limit` ended jobs of a shadow, and cancels as many that have not ended. `None`: it is no
    /// shadow, is clean, or is one in which a check runs; nothing was touched. Safe to repeat.
    pub fn clean_shadow<'a>(
        &'a self,
        shadow: &'a Namespace,
        limit: u32,
    ) -> BoxFuture<'a, Result<Option<Cleaned>, LedgerError>> {
        Box::pin(async move { clean(self, shadow, limit).await })
    }
}

async fn clean(
    life: &Lifecycle,
    shadow: &Namespace,
    limit: u32,
) -> Result<Option<Cleaned>, LedgerError> {
    let cleaned = life.ledger().clean_shadow(shadow, limit).await?;
    let Some(Cleaned { is_done: false, .. }) = cleaned else { return Ok(cleaned) };
    let queue: QueueName = SHADOW_QUEUE.parse().expect("a legal name");
    let now = life.ledger().now().await?;
    let ever = now.plus(AHEAD);
    let left = Unfinished::new(shadow, &queue, (ever, ever), limit);
    for job in life.ledger().unfinished(left).await?.jobs {
        life.cancel(shadow, job.id, REASON).await?;
    }
    Ok(cleaned)
}
