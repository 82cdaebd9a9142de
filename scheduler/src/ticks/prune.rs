//! Deletes what is past its time and is not a job (`retention` does these), in bounded batches, and ends operations
//! whose process is gone. Leader only.

use std::time::Duration;

use windlass_shared::ledger::Epoch;
use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::limits::{IDEMPOTENCY_TTL, OPERATION_SILENCE_MAX};

use crate::board::Duty;
use crate::ticker::{Ticks, leading};

/// Rows of one statement.
const BATCH: u32 = 2_000;
/// Statements of one tick: what does not fit waits for the next.
const BATCHES_MAX: usize = 50;

static DUTY: Duty = Duty {
    name: "prune",
    what: "deletes old runs, keys, values, workers and fires; ends operations whose process is gone",
    interval: Duration::from_secs(60),
    batch: BATCH,
    longest: Duration::from_secs(300),
    who: Who::Leader,
};

pub(super) async fn run(life: Lifecycle, retention: Duration, ticks: Ticks) {
    leading(&DUTY, &ticks, |epoch| tick(&life, retention, epoch)).await;
}

async fn tick(life: &Lifecycle, retention: Duration, epoch: Epoch) -> anyhow::Result<u64> {
    let (ledger, lead) = (life.ledger(), Some(epoch));
    let now = ledger.now().await?;
    let silent_since = now.minus(OPERATION_SILENCE_MAX);
    let mut total = ledger.fail_silent_operations(lead, silent_since).await?;
    let before = now.minus(retention);
    for _ in 0..BATCHES_MAX {
        let deleted = ledger.prune(lead, before, BATCH).await?;
        total += deleted;
        if deleted == 0 {
            break;
        }
    }
    for _ in 0..BATCHES_MAX {
        // A trigger is known by its row as long as its idempotency key is.
        let before = before.min(now.minus(IDEMPOTENCY_TTL));
        let deleted = ledger.prune_fires(lead, before, BATCH).await?;
        total += deleted;
        if deleted == 0 {
            break;
        }
    }
    Ok(total)
}
