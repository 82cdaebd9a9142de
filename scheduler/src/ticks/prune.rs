//! Deletes jobs and fires whose retention is over, in bounded batches, and ends operations whose process is gone.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::limits::{IDEMPOTENCY_TTL, OPERATION_SILENCE_MAX};

use crate::ticker::every;

const INTERVAL: Duration = Duration::from_secs(60);
/// Rows of one statement.
const BATCH: u32 = 2_000;
/// Statements of one tick: what does not fit waits for the next.
const BATCHES_MAX: usize = 50;

pub(super) async fn run(life: Lifecycle, retention: Duration, shutdown: CancellationToken) {
    every("prune", INTERVAL, shutdown, || async {
        let now = life.ledger().now().await?;
        let silent_since = now.minus(OPERATION_SILENCE_MAX);
        let mut total = life.ledger().fail_silent_operations(silent_since).await?;
        let before = now.minus(retention);
        for _ in 0..BATCHES_MAX {
            let deleted = life.ledger().prune(before, BATCH).await?;
            total += deleted;
            if deleted == 0 {
                break;
            }
        }
        for _ in 0..BATCHES_MAX {
            // A trigger is known by its row as long as its idempotency key is.
            let before = before.min(now.minus(IDEMPOTENCY_TTL));
            let deleted = life.ledger().prune_fires(before, BATCH).await?;
            total += deleted;
            if deleted == 0 {
                break;
            }
        }
        Ok(total)
    })
    .await;
}
