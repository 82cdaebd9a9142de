//! Removes what load checks have left, and old checks; shows how the latest one ended. Leader only, for economy: all of it
//! is safe to do twice.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_shared::ledger::LedgerError;
use windlass_shared::ledger::load_checks::LoadCheck;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::load_check::CheckState;

use super::Tally;
use crate::leader::Lead;
use crate::ticker::every;

const INTERVAL: Duration = Duration::from_secs(5);
/// Shadows of one tick.
const SHADOWS_MAX: u32 = 10;
/// Jobs of one step.
const BATCH: u32 = 500;
/// Steps over one shadow in one tick.
const STEPS_MAX: usize = 10;
/// Checks are kept this long, and no more than so many.
const KEEP: u32 = 100;
const KEEP_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
/// Among so many the latest with a verdict is looked for.
const LATEST: u32 = 20;

pub(super) async fn run(life: Lifecycle, lead: Lead, shutdown: CancellationToken) {
    every("shadows", INTERVAL, shutdown, || {
        let (life, lead) = (life.clone(), lead.clone());
        async move {
            // Every replica shows it, so that it does not matter whose metrics are read.
            show(&life).await?;
            if lead.epoch().is_none() {
                return Ok(0);
            }
            tick(&life).await
        }
    })
    .await;
}

async fn tick(life: &Lifecycle) -> anyhow::Result<u64> {
    let mut cleaned = Tally::default();
    for shadow in life.ledger().unclean_shadows(SHADOWS_MAX).await? {
        for _ in 0..STEPS_MAX {
            let step = life.clean_shadow(&shadow, BATCH).await;
            let goes_on = matches!(&step, Ok(Some(step)) if !step.is_done && step.jobs > 0);
            cleaned.add(step.map(|step| step.map_or(0, |step| step.jobs)));
            if !goes_on {
                break;
            }
        }
    }
    let before = life.ledger().now().await?.minus(KEEP_FOR);
    cleaned.add(life.ledger().prune_checks(before, KEEP).await);
    cleaned.end()
}

/// The latest verdict, as metrics. Nothing before the first.
async fn show(life: &Lifecycle) -> Result<(), LedgerError> {
    let checks = life.ledger().load_checks(None, LATEST).await?;
    let has_verdict = |check: &&LoadCheck| match check.state {
        CheckState::Passed | CheckState::Failed => true,
        CheckState::Running | CheckState::Aborted => false,
    };
    let Some(latest) = checks.iter().find(has_verdict) else { return Ok(()) };
    let passed = if latest.state == CheckState::Passed { 1.0 } else { 0.0 };
    metrics::gauge!("windlass_load_check_passed").set(passed);
    if let Some(ended_at) = latest.ended_at {
        let age = life.ledger().now().await?.since(ended_at);
        metrics::gauge!("windlass_load_check_age_seconds").set(age.as_secs_f64());
    }
    let p99 = latest.report.as_ref().and_then(|report| report.measured("start_p99_ms"));
    if let Some(ms) = p99 {
        metrics::gauge!("windlass_load_check_start_p99_seconds").set(ms / 1_000.0);
    }
    Ok(())
}
