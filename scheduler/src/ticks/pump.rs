//! Fills the head of long queues again as they drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::pump::Pump;

use super::Tally;
use crate::board::Duty;
use crate::ticker::{Ticks, every};

/// Shorter than a fast fleet needs to empty what is left of a shard that was nearly full.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) static DUTY: Duty = Duty {
    name: "pump",
    what: "fills the head of long queues again",
    interval: INTERVAL,
    batch: 200,
    longest: Duration::from_secs(60),
    who: Who::Every,
};

pub(super) async fn run(life: Lifecycle, ticks: Ticks) {
    let pump = Arc::new(Mutex::new(Pump::default()));
    every(&DUTY, &ticks, || {
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
