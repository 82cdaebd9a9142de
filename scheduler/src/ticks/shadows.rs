//! Removes what load checks have left, and old checks. Leader only, for economy: all of it is safe to do twice.

use std::time::Duration;

use windlass_shared::ledger::LedgerError;
use windlass_shared::ledger::duties::Who;
use windlass_shared::ledger::load_checks::{CheckEnd, LoadCheck};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::job::JobState;
use windlass_shared::model::load_check::{CheckState, Report};
use windlass_shared::model::name::Namespace;

use super::Tally;
use crate::board::Duty;
use crate::steady::{Reading, Steady};
use crate::ticker::{Ticks, leading};

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

static DUTY: Duty = Duty {
    name: "shadows",
    what: "removes what load checks have left, and old checks",
    interval: Duration::from_secs(5),
    batch: BATCH,
    longest: Duration::from_secs(60),
    who: Who::Leader,
};

pub(super) async fn run(life: Lifecycle, steady: Steady, ticks: Ticks) {
    leading(&DUTY, &ticks, |_| tick(&life, &steady)).await;
}

async fn tick(life: &Lifecycle, steady: &Steady) -> anyhow::Result<u64> {
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
    cleaned.add(judge_abandoned(life).await);
    let now = Reading::of(life.ledger()).await?;
    if steady.trusts(now) {
        cleaned.add(life.ledger().prune_checks(now.ledger.minus(KEEP_FOR), KEEP).await);
    }
    cleaned.end()
}

/// Gives a verdict to a check that says `running`, and whose job will not come to it again: it was cancelled between two
/// attempts, or kept killing its workers.
async fn judge_abandoned(life: &Lifecycle) -> Result<u64, LedgerError> {
    let checks = life.ledger().load_checks(None, LATEST).await?;
    let mut judged = 0;
    for check in checks.into_iter().filter(|check| check.state == CheckState::Running) {
        let job = life.ledger().job(&Namespace::system(), check.id).await?;
        let (state, reason) = match job.map(|job| job.state) {
            Some(state) if !state.is_terminal() => continue,
            Some(JobState::Cancelled) => (CheckState::Aborted, "stopped on request"),
            _ => (CheckState::Failed, "interrupted: its job ended before it had a verdict"),
        };
        let report = (state == CheckState::Failed).then(Report::interrupted);
        let reasons = vec![reason.to_owned()];
        let end = CheckEnd { id: check.id, run: check.run, state, reasons, report };
        judged += u64::from(life.ledger().end_check(&end).await?);
    }
    Ok(judged)
}

/// The latest verdict of a load check, as metrics; of every replica, so that it does not matter whose are read. Nothing
/// before the first.
pub(super) async fn show(life: &Lifecycle) -> Result<(), LedgerError> {
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

#[cfg(test)]
mod tests {
    use windlass_shared::ledger::load_checks::{CheckBegun, NewCheck};
    use windlass_shared::model::id::{Fence, JobId};
    use windlass_shared::model::job::{NewJob, Value};
    use windlass_shared::model::load_check::{KIND, Plan};
    use windlass_shared::model::name::QueueName;

    use super::*;
    use crate::ticks::rig::Rig;

    async fn begun(life: &Lifecycle, id: JobId) -> Namespace {
        let shadow = Namespace::shadow(uuid::Uuid::now_v7());
        let plan = Plan::default();
        let new = NewCheck { id, run: Fence(1), plan, shadow: shadow.clone(), ids: (0, 1 << 47) };
        let begun = life.ledger().begin_check(&new).await.unwrap();
        assert!(matches!(begun, CheckBegun::Started(_)), "{begun:?}");
        shadow
    }

    async fn state(life: &Lifecycle, id: JobId) -> CheckState {
        life.ledger().load_check(id).await.unwrap().expect("it is kept").state
    }

    /// Goal: no check says `running` for ever, and none that may still run is judged or cleaned.
    #[tokio::test]
    async fn checks_without_a_job_get_a_verdict_and_are_cleaned() {
        let rig = Rig::start(&[]).await;
        let (life, steady) = (&rig.life, Steady::after(Duration::ZERO));
        let gone = JobId::generate();
        let shadow = begun(life, gone).await;
        tick(life, &steady).await.unwrap();
        assert_eq!(state(life, gone).await, CheckState::Failed);
        tick(life, &steady).await.unwrap();
        assert_eq!(life.clean_shadow(&shadow, 9).await.unwrap(), None, "it is clean");

        let kind = KIND.parse().unwrap();
        let job = NewJob::new(Namespace::system(), QueueName::system(), kind, Value::null());
        let id = job.id;
        let submission = windlass_shared::ledger::Submission {
            jobs: vec![job],
            atomic: false,
            idempotency: None,
        };
        life.submit(submission).await.unwrap();
        begun(life, id).await;
        tick(life, &steady).await.unwrap();
        assert_eq!(state(life, id).await, CheckState::Running, "its job may come");
        life.cancel(&Namespace::system(), id, "a test").await.unwrap();
        tick(life, &steady).await.unwrap();
        assert_eq!(state(life, id).await, CheckState::Aborted);
    }
}
