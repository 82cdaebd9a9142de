//! Shuts series of submissions whose time has come: debounced jobs, and jobs that collect items.

use std::time::Duration;

use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::limits::SERIES_BATCH_MAX;

use crate::board::Duty;
use crate::ticker::{Ticks, every};

/// How late a series may be shut, where no submission comes that does it.
const INTERVAL: Duration = Duration::from_millis(250);

pub(super) static DUTY: Duty = Duty {
    name: "series",
    what: "makes debounced and collecting jobs ready whose time has come",
    interval: INTERVAL,
    batch: SERIES_BATCH_MAX,
    longest: Duration::from_secs(60),
    who: Who::Every,
};

pub(super) async fn run(life: Lifecycle, ticks: Ticks) {
    every(&DUTY, &ticks, || {
        let life = life.clone();
        async move {
            let mut shut = 0;
            loop {
                let some = life.shut_series(SERIES_BATCH_MAX).await?;
                shut += some;
                if some < u64::from(SERIES_BATCH_MAX) {
                    return Ok(shut);
                }
            }
        }
    })
    .await;
}
