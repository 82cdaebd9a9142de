//! Carries workflows on that nobody else does: what waits for a time, and what a lost process has left.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::Lifecycle;

use super::Tally;
use crate::board::Duty;
use crate::ticker::{Ticks, every};

/// How late a timer or a deadline may be.
const INTERVAL: Duration = Duration::from_millis(500);
/// Runs of one read.
const PAGE: u32 = 500;
/// Runs carried on at once.
const AT_ONCE: usize = 8;

pub(super) static DUTY: Duty = Duty {
    name: "workflows",
    what: "carries on runs that wait for a time, or were left",
    interval: INTERVAL,
    batch: PAGE,
    longest: Duration::from_secs(120),
    who: Who::Every,
};

pub(super) async fn run(life: Lifecycle, ticks: Ticks) {
    every(&DUTY, &ticks, || {
        let life = life.clone();
        async move {
            let mut moved = Tally::default();
            let mut after = None;
            loop {
                let due = life.ledger().due_runs(after, PAGE).await?;
                let is_last = due.len() < PAGE as usize;
                after = due.last().map(|(_, id)| *id);
                let runs = due.into_iter().map(|(_, id)| {
                    let life = life.clone();
                    async move { life.advance_run(id).await }
                });
                let results: Vec<_> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
                results.into_iter().for_each(|result| moved.add(result));
                if is_last {
                    return moved.end();
                }
            }
        }
    })
    .await;
}
