//! Notes jobs that have been running for a while in the ledger, so that lists show them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::ShardId;
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Timestamp;

use crate::ticker::every;

const INTERVAL: Duration = Duration::from_secs(1);

/// How far each shard's leases have been noted.
type Noted = HashMap<ShardId, (Timestamp, JobId)>;

pub(super) async fn run(life: Lifecycle, shutdown: CancellationToken) {
    let noted = Arc::new(Mutex::new(Noted::new()));
    every("running", INTERVAL, shutdown, || {
        let (life, noted) = (life.clone(), noted.clone());
        async move {
            let mut noted = noted.lock().await;
            let mut shards = 0;
            for shard in super::shards(&life).await? {
                let before = noted.get(&shard).copied();
                let after = record::record_running(&life, &shard, before).await?;
                if let Some(after) = after
                    && Some(after) != before
                {
                    noted.insert(shard, after);
                    shards += 1;
                }
            }
            Ok(shards)
        }
    })
    .await;
}
