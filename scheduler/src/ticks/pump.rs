//! Fills the head of long queues again as they drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::sweep::Pump;

use crate::ticker::every;

/// Shorter than a fast fleet needs to empty what is left of a shard that was nearly full.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(life: Lifecycle, shutdown: CancellationToken) {
    let pump = Arc::new(Mutex::new(Pump::default()));
    every("pump", INTERVAL, shutdown, || {
        let (life, pump) = (life.clone(), pump.clone());
        async move {
            let mut pump = pump.lock().await;
            let mut pushed = 0;
            let mut failed = None;
            let mut walk = life.ledger().walk_queues(None);
            while let Some(queues) = walk.next().await? {
                for queue in queues {
                    // What is wrong with one queue must not stop the others.
                    match pump.pass(&life, &queue).await {
                        Ok(more) => pushed += more,
                        Err(error) => failed = Some(error),
                    }
                }
            }
            failed.map_or(Ok(pushed), |error| Err(error.into()))
        }
    })
    .await;
}
