//! Notes jobs that have been running for a while in the ledger, so that lists show them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_shared::lifecycle::{Lifecycle, record};

use crate::ticker::every;

const INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(life: Lifecycle, shutdown: CancellationToken) {
    every("running", INTERVAL, shutdown, || async {
        let mut noted = 0;
        for shard in super::shards(&life).await? {
            noted += record::record_running(&life, &shard).await? as u64;
        }
        Ok(noted)
    })
    .await;
}
