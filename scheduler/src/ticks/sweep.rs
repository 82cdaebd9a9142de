//! Holds ledger and engine against each other: pushes jobs that the ledger has and the engine has not, and takes out of
//! the engine what it should not have. Leader only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use windlass_shared::ledger::Queue;
use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::compare::Auditor;
use windlass_shared::lifecycle::order::Tender;
use windlass_shared::lifecycle::sweep::Sweeper;
use windlass_shared::lifecycle::{Lifecycle, PushError};

use super::Tally;
use crate::board::Duty;
use crate::ticker::{Ticks, leading};

const INTERVAL: Duration = Duration::from_secs(10);

/// Where the walks are.
#[derive(Default)]
struct Walks {
    sweeper: Sweeper,
    auditor: Auditor,
    tender: Tender,
}

impl Walks {
    async fn pass(&mut self, life: &Lifecycle, queue: &Queue) -> Result<u64, PushError> {
        let audited = self.auditor.pass(life, queue).await?;
        let swept = self.sweeper.pass(life, queue).await?;
        Ok(audited.pushed + audited.dropped + swept.pushed + swept.ended)
    }
}

pub(super) static DUTY: Duty = Duty {
    name: "sweep",
    what: "holds ledger and engine against each other",
    interval: INTERVAL,
    batch: 200,
    longest: Duration::from_secs(300),
    who: Who::Leader,
};

pub(super) async fn run(life: Lifecycle, ticks: Ticks) {
    let walks = Arc::new(Mutex::new(Walks::default()));
    leading(&DUTY, &ticks, |_| {
        let (life, walks) = (life.clone(), walks.clone());
        async move {
            let mut walks = walks.lock().await;
            let mut repaired = Tally::default();
            let mut walk = life.ledger().walk_queues(None);
            while let Some(queues) = walk.next().await? {
                for queue in queues {
                    repaired.add(walks.pass(&life, &queue).await);
                }
            }
            repaired.add(walks.tender.pass(&life).await);
            repaired.end()
        }
    })
    .await;
}
