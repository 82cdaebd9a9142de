//! Notes jobs that have been running for a while in the ledger, so that lists show them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use windlass_shared::engine::ShardId;
use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Timestamp;

use super::Tally;
use crate::board::Duty;
use crate::ticker::{Ticks, every};

const INTERVAL: Duration = Duration::from_secs(1);

/// How far each shard's leases have been noted.
type Noted = HashMap<ShardId, (Timestamp, JobId)>;

pub(super) static DUTY: Duty = Duty {
    name: "running",
    what: "notes jobs that have run for a while",
    interval: INTERVAL,
    batch: 200,
    longest: Duration::from_secs(60),
    who: Who::Every,
};

pub(super) async fn run(life: Lifecycle, ticks: Ticks) {
    let noted = Arc::new(Mutex::new(Noted::new()));
    every(&DUTY, &ticks, || {
        let (life, noted) = (life.clone(), noted.clone());
        async move { tick(&life, &mut *noted.lock().await).await }
    })
    .await;
}

async fn tick(life: &Lifecycle, noted: &mut Noted) -> anyhow::Result<u64> {
    let mut shards = Tally::default();
    for shard in super::shards(life).await? {
        let before = noted.get(&shard).copied();
        let after = record::record_running(life, &shard, before).await;
        shards.add(after.map(|after| match after {
            Some(after) if Some(after) != before => {
                noted.insert(shard, after);
                1
            }
            _ => 0,
        }));
    }
    shards.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticks::rig::Rig;

    /// A queue whose keys are damaged comes first; the one behind it is noted all the same.
    #[tokio::test]
    async fn a_broken_queue_does_not_stop_the_others() {
        let rig = Rig::start(&["a-broken", "b-sound"]).await;
        let sound = rig.shard("b-sound");
        let id = rig.submit("b-sound").await;
        rig.claim(&sound).await;
        rig.damage("a-broken", "leases");
        let noted = rig
            .until("the job is noted", async || {
                let mut noted = Noted::new();
                assert!(tick(&rig.life, &mut noted).await.is_err(), "the failure is told");
                noted.remove(&sound)
            })
            .await;
        assert_eq!(noted.1, id);
    }
}
