//! Deletes what is past its time and is neither a job nor a run (`retention` does these), in bounded batches with pauses,
//! and ends operations whose process is gone. Leader only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use windlass_shared::ledger::duties::Who;
use windlass_shared::ledger::retention::Tidy;
use windlass_shared::ledger::{Epoch, Ledger};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::limits::{IDEMPOTENCY_TTL, OPERATION_SILENCE_MAX};

use crate::board::Duty;
use crate::steady::{Reading, Steady};
use crate::ticker::{Ticks, leading};

/// Rows of one statement.
const BATCH: u32 = 2_000;
/// A tick begins no batch after this long: what does not fit waits for the next.
const BUDGET: Duration = Duration::from_secs(30);
/// Longest pause after a batch, as of `retention`.
const PAUSE_MAX: Duration = Duration::from_secs(1);

static DUTY: Duty = Duty {
    name: "prune",
    what: "deletes old keys, values, workers and fires; ends operations whose process is gone",
    interval: Duration::from_secs(60),
    batch: BATCH,
    longest: Duration::from_secs(300),
    who: Who::Leader,
};

pub(super) async fn run(life: Lifecycle, keep: Duration, steady: Steady, ticks: Ticks) {
    let prune = Arc::new(Mutex::new(Prune { keep, steady, through: Instant::now() }));
    leading(&DUTY, &ticks, |epoch| {
        let (life, prune) = (life.clone(), prune.clone());
        async move {
            let reading = Reading::of(life.ledger()).await?;
            prune.lock().await.tick(life.ledger(), epoch, reading, BUDGET).await
        }
    })
    .await;
}

struct Prune {
    keep: Duration,
    steady: Steady,
    /// When nothing was left to delete last.
    through: Instant,
}

impl Prune {
    /// Ends what is silent and deletes what is old until nothing is left or `budget` has passed; how much. Nothing, where
    /// the reading is not to be trusted.
    async fn tick(
        &mut self,
        ledger: &Ledger,
        epoch: Epoch,
        now: Reading,
        budget: Duration,
    ) -> anyhow::Result<u64> {
        if !self.steady.trusts(now) {
            return Ok(0);
        }
        let lead = Some(epoch);
        let silent_since = now.ledger.minus(OPERATION_SILENCE_MAX);
        let mut total = ledger.fail_silent_operations(lead, silent_since).await?;
        let tidy = Tidy { now: now.ledger, before: now.ledger.minus(self.keep) };
        // A trigger is known by its row as long as its idempotency key is.
        let fires_before = tidy.before.min(now.ledger.minus(IDEMPOTENCY_TTL));
        let started = Instant::now();
        loop {
            let began = Instant::now();
            let deleted = ledger.prune(lead, tidy, BATCH).await?
                + ledger.prune_fires(lead, fires_before, BATCH).await?;
            total += deleted;
            if deleted == 0 {
                self.through = Instant::now();
                break;
            }
            if started.elapsed() >= budget {
                break;
            }
            tokio::time::sleep(began.elapsed().min(PAUSE_MAX)).await;
        }
        let behind = if self.through >= started { Duration::ZERO } else { self.through.elapsed() };
        metrics::gauge!("windlass_prune_behind_seconds").set(behind.as_secs_f64());
        Ok(total)
    }
}

#[cfg(test)]
mod tests;
