//! Fills the head of long queues again as they drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use windlass_shared::ledger::Queue;
use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::pump::Pump;

use super::Tally;
use crate::board::Duty;
use crate::ticker::{Ticks, every};

/// Shorter than a fast fleet needs to empty what is left of a shard that was nearly full.
const INTERVAL: Duration = Duration::from_millis(500);
/// So long one tick goes on while there are queues with more to fill.
const FILL_MAX: Duration = Duration::from_secs(10);

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
        let (life, pump, shutdown) = (life.clone(), pump.clone(), ticks.shutdown.clone());
        async move {
            let mut pump = pump.lock().await;
            let (mut pushed, began) = (Tally::default(), Instant::now());
            // Otherwise the interval would bound how fast a long queue can drain.
            let goes_on = || began.elapsed() < FILL_MAX && !shutdown.is_cancelled();
            while round(&life, &mut pump, &mut pushed).await? && goes_on() {}
            pushed.end()
        }
    })
    .await;
}

/// Looks at all queues, then goes on for a while with those that had more to fill, in turn; whether some have.
async fn round(life: &Lifecycle, pump: &mut Pump, pushed: &mut Tally) -> anyhow::Result<bool> {
    let mut unfilled = Vec::new();
    let mut walk = life.ledger().walk_queues(None);
    while let Some(queues) = walk.next().await? {
        for queue in queues {
            if fill(life, pump, &queue, pushed).await {
                unfilled.push(queue);
            }
        }
    }
    let began = Instant::now();
    while !unfilled.is_empty() && began.elapsed() < INTERVAL {
        for queue in std::mem::take(&mut unfilled) {
            if fill(life, pump, &queue, pushed).await {
                unfilled.push(queue);
            }
        }
    }
    Ok(!unfilled.is_empty())
}

/// One pass; whether there may be room for more.
async fn fill(life: &Lifecycle, pump: &mut Pump, queue: &Queue, pushed: &mut Tally) -> bool {
    let filled = pump.pass(life, queue).await;
    let is_more = filled.as_ref().is_ok_and(|filled| filled.is_more);
    pushed.add(filled.map(|filled| filled.pushed));
    is_more
}
