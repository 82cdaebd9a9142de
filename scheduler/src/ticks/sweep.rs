//! Pushes jobs that the ledger has and the engine has not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::sweep::Sweeper;

use super::Tally;
use crate::ticker::every;

const INTERVAL: Duration = Duration::from_secs(10);

pub(super) async fn run(life: Lifecycle, shutdown: CancellationToken) {
    let sweeper = Arc::new(Mutex::new(Sweeper::default()));
    every("sweep", INTERVAL, shutdown, || {
        let (life, sweeper) = (life.clone(), sweeper.clone());
        async move {
            let mut sweeper = sweeper.lock().await;
            let mut repaired = Tally::default();
            let mut walk = life.ledger().walk_queues(None);
            while let Some(queues) = walk.next().await? {
                for queue in queues {
                    let swept = sweeper.pass(&life, &queue).await;
                    repaired.add(swept.map(|swept| swept.pushed + swept.ended));
                }
            }
            repaired.end()
        }
    })
    .await;
}
