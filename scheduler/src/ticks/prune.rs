//! Deletes jobs whose retention is over, in bounded batches.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_shared::lifecycle::Lifecycle;

use crate::ticker::every;

const INTERVAL: Duration = Duration::from_secs(60);
/// Rows of one statement.
const BATCH: u32 = 2_000;
/// Statements of one tick: what does not fit waits for the next.
const BATCHES_MAX: usize = 50;

pub(super) async fn run(life: Lifecycle, retention: Duration, shutdown: CancellationToken) {
    every("prune", INTERVAL, shutdown, || async {
        let before = life.ledger().now().await?.minus(retention);
        let mut total = 0;
        for _ in 0..BATCHES_MAX {
            let deleted = life.ledger().prune(before, BATCH).await?;
            total += deleted;
            if deleted == 0 {
                break;
            }
        }
        Ok(total)
    })
    .await;
}
