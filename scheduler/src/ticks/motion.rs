//! Promotes due jobs and reaps lost leases. Claims do the same; this keeps queues honest that nobody
//! claims from.

use std::time::Duration;

use windlass_shared::engine::{EngineError, ShardId};
use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::limits::MOVE_MAX;

use super::Tally;
use crate::board::Duty;
use crate::ticker::{Ticks, every};

const INTERVAL: Duration = Duration::from_millis(500);

pub(super) static DUTY: Duty = Duty {
    name: "motion",
    what: "promotes due jobs and reaps lost leases",
    interval: INTERVAL,
    batch: 200,
    longest: Duration::from_secs(60),
    who: Who::Every,
};

pub(super) async fn run(life: Lifecycle, ticks: Ticks) {
    every(&DUTY, &ticks, || tick(&life)).await;
}

async fn tick(life: &Lifecycle) -> anyhow::Result<u64> {
    let mut moved = Tally::default();
    for shard in super::shards(life).await? {
        moved.add(move_due(life, &shard).await);
    }
    moved.end()
}

async fn move_due(life: &Lifecycle, shard: &ShardId) -> Result<u64, EngineError> {
    let max = u32::try_from(MOVE_MAX).unwrap_or(u32::MAX);
    // One that fails must not keep the other from being tried.
    let (promoted, reaped) =
        tokio::join!(life.engine().promote(shard, max), life.engine().reap(shard, max));
    Ok(u64::from(promoted?) + u64::from(reaped?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticks::rig::Rig;

    /// A queue whose keys are damaged comes first; the one behind it moves all the same.
    #[tokio::test]
    async fn a_broken_queue_does_not_stop_the_others() {
        let rig = Rig::start(&["a-broken", "b-sound"]).await;
        let sound = rig.shard("b-sound");
        rig.push_later(&sound).await;
        rig.damage("a-broken", "delayed");
        let moved = rig.until_due(&sound, || tick(&rig.life)).await;
        assert!(moved.is_err(), "the failure is told");
        assert_eq!(rig.life.engine().stats(&sound).await.unwrap().ready, 1);
    }
}
