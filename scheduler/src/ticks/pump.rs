//! Fills the head of long queues again as they drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::sweep::Pump;

use super::Tally;
use crate::ticker::every;

/// Shorter than a fast fleet needs to empty what is left of a shard that was nearly full.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(life: Lifecycle, shutdown: CancellationToken) {
    let pump = Arc::new(Mutex::new(Pump::default()));
    every("pump", INTERVAL, shutdown, || {
        let (life, pump) = (life.clone(), pump.clone());
        async move {
            let mut pump = pump.lock().await;
            let mut pushed = Tally::default();
            let mut walk = life.ledger().walk_queues(None);
            while let Some(queues) = walk.next().await? {
                for queue in queues {
                    pushed.add(pump.pass(&life, &queue).await);
                }
            }
            pushed.end()
        }
    })
    .await;
}
