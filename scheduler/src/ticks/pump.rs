//! Fills the head of long queues again as they drain.

use std::collections::VecDeque;
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
            let (mut pushed, until) = (Tally::default(), Instant::now() + FILL_MAX);
            let is_over = || shutdown.is_cancelled() || Instant::now() >= until;
            // Otherwise the interval would bound how fast a long queue can drain.
            while round(&life, &mut pump, &mut pushed, &is_over).await? {}
            pushed.end()
        }
    })
    .await;
}

/// Looks at all queues, then goes on for a while with those that had more to fill, in turn; whether another round is to
/// follow.
async fn round(
    life: &Lifecycle,
    pump: &mut Pump,
    pushed: &mut Tally,
    is_over: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<bool> {
    let mut unfilled = VecDeque::new();
    let mut walk = life.ledger().walk_queues(None);
    while let Some(queues) = walk.next().await? {
        for queue in queues {
            if fill(life, pump, &queue, pushed).await {
                unfilled.push_back(queue);
            }
        }
    }
    let began = Instant::now();
    while began.elapsed() < INTERVAL
        && !is_over()
        && let Some(queue) = unfilled.pop_front()
    {
        if fill(life, pump, &queue, pushed).await {
            unfilled.push_back(queue);
        }
    }
    Ok(!unfilled.is_empty() && !is_over())
}

/// One pass; whether there may be room for more.
async fn fill(life: &Lifecycle, pump: &mut Pump, queue: &Queue, pushed: &mut Tally) -> bool {
    let filled = pump.pass(life, queue).await;
    let is_more = filled.as_ref().is_ok_and(|filled| filled.is_more);
    pushed.add(filled.map(|filled| filled.pushed));
    is_more
}
