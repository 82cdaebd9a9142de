//! Promotes due jobs and reaps lost leases. Claims do the same; this keeps queues honest that nobody
//! claims from.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::limits::MOVE_MAX;

use crate::ticker::every;

const INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(life: Lifecycle, shutdown: CancellationToken) {
    every("motion", INTERVAL, shutdown, || async {
        let mut moved = 0;
        for shard in super::shards(&life).await? {
            let max = u32::try_from(MOVE_MAX)?;
            moved += u64::from(life.engine().promote(&shard, max).await?);
            moved += u64::from(life.engine().reap(&shard, max).await?);
        }
        Ok(moved)
    })
    .await;
}
