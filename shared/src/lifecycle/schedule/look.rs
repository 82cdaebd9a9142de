//! What is due is decided over, and submitted.

use super::{seen, work};
use crate::ledger::schedules::{
    NewFire, NewWork, PAUSED_BY, Schedule, ScheduleChange, ScheduleChanged, ScheduleSeen,
};
use crate::ledger::{LedgerError, Paused};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::workflow::drive;
use crate::model::name::{Namespace, ScheduleName};
use crate::model::schedule::FireOutcome;
use crate::model::schedule::decide::{Decision, Fire, Sight, Submitted, decide, reason};
use crate::model::time::Timestamp;

/// Decisions of one look; what is left is looked at next.
const ROUNDS_MAX: usize = 20;

pub(super) async fn look(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
) -> Result<u64, LedgerError> {
    let mut decided = 0;
    for _ in 0..ROUNDS_MAX {
        let Some(seen) = seen(life, namespace, name).await? else { break };
        if seen.schedule.look_at.is_none_or(|at| at > seen.now) {
            break;
        }
        let round = Round::of(&seen, false);
        let (fires, ends) = (round.decision.fires.len(), round.decision.ends.len());
        if round.carry_out(life, &seen, |_| {}).await?.is_some() {
            decided += (fires + ends) as u64;
        }
    }
    Ok(decided)
}

/// A decision over what was seen.
pub(super) struct Round {
    pub(super) decision: Decision,
}

impl Round {
    /// `is_last`: the rules change after it.
    pub(super) fn of(seen: &ScheduleSeen, is_last: bool) -> Self {
        let schedule = &seen.schedule;
        let sight = Sight {
            id: schedule.id,
            spec: &schedule.spec,
            is_paused: schedule.paused.is_some(),
            failures: schedule.failures,
            cursor: schedule.cursor,
            open: &seen.open,
            waiting: &seen.waiting,
            now: seen.now,
            without_jitter: is_last,
        };
        Self { decision: decide(&sight) }
    }

    /// Whether everything that is due is in it.
    pub(super) fn is_whole(&self, now: Timestamp) -> bool {
        self.decision.look_at.is_none_or(|at| at > now)
    }

    /// Commits the decision, with what `also` adds to it, and tells the engine. `None`: somebody was faster.
    pub(super) async fn carry_out(
        self,
        life: &Lifecycle,
        seen: &ScheduleSeen,
        also: impl FnOnce(&mut ScheduleChange),
    ) -> Result<Option<Carried>, LedgerError> {
        let schedule = &seen.schedule;
        let mut change = ScheduleChange::deciding(schedule, &self.decision);
        if self.decision.pause {
            change.paused = Some(Some(paused_for(self.decision.failures, seen.now)));
        }
        for fire in &self.decision.fires {
            let new = with_work(life, schedule, *fire).await?;
            if new.fire.outcome != fire.outcome {
                // What was held back by it is decided over anew.
                change.look_at = Some(seen.now);
            }
            change.fires.push(new);
        }
        also(&mut change);
        let carried = commit(life, change).await?;
        let Some(carried) = carried else { return Ok(None) };
        if self.decision.pause {
            tracing::warn!(schedule = %schedule.name, namespace = %schedule.namespace,
                failures = self.decision.failures, "a schedule is paused: its fires fail");
        }
        for work in &self.decision.cancel {
            cancel(life, schedule, *work).await?;
        }
        Ok(Some(carried))
    }
}

/// What a change came to.
pub(super) struct Carried {
    pub(super) backfilled: u32,
}

/// Commits a change and tells the engine; `None`: somebody was faster.
pub(super) async fn commit(
    life: &Lifecycle,
    change: ScheduleChange,
) -> Result<Option<Carried>, LedgerError> {
    let id = change.id;
    let runs: Vec<_> =
        change.fires.iter().filter_map(|new| run_to_carry_on(new.work.as_ref())).collect();
    let told: Vec<Fire> = change.fires.iter().map(|new| new.fire).collect();
    // Fixed before the insert is sent: a push that is delayed past it could restart a finished job.
    let ticket = life.inner.delivery.ticket().await;
    match life.inner.ledger.change_schedule(change).await? {
        ScheduleChanged::Moved => Ok(None),
        ScheduleChanged::Done { jobs, refused, backfilled } => {
            crate::failpoint!("schedule.committed");
            drive::push(life, jobs, ticket);
            runs.into_iter().for_each(|run| drive::soon(life, run));
            for (due, why) in &refused {
                tracing::warn!(schedule.id = %id, %due, why, "the work of a fire was not taken");
            }
            let was_taken = |fire: &&Fire| refused.iter().all(|(due, _)| *due != fire.due);
            told.iter().filter(was_taken).for_each(count);
            Ok(Some(Carried { backfilled }))
        }
    }
}

/// A run whose first steps have to be decided over.
fn run_to_carry_on(work: Option<&NewWork>) -> Option<crate::model::id::WorkflowId> {
    match work {
        Some(NewWork::Run(run)) if run.steps.iter().any(|step| step.due) => Some(run.id),
        _ => None,
    }
}

fn count(fire: &Fire) {
    metrics::counter!("windlass_schedule_fires_total", "outcome" => fire.outcome.as_str())
        .increment(1);
    if fire.outcome == FireOutcome::Fired {
        metrics::histogram!("windlass_schedule_late_seconds").record(fire.late);
    }
}

/// A fire with what it submits; one whose work cannot be made is skipped, with the reason.
pub(super) async fn with_work(
    life: &Lifecycle,
    schedule: &Schedule,
    fire: Fire,
) -> Result<NewFire, LedgerError> {
    if fire.outcome != FireOutcome::Fired {
        return Ok(NewFire { fire, detail: None, work: None });
    }
    Ok(match work::make(life, schedule, &fire).await? {
        Ok(work) => NewFire { fire, detail: None, work: Some(work) },
        Err(why) => {
            tracing::warn!(schedule = %schedule.name, namespace = %schedule.namespace, due = %fire.due,
                why, "a fire was skipped: its work cannot be made");
            let skipped =
                Fire { outcome: FireOutcome::Skipped, reason: Some(reason::REFUSED), ..fire };
            NewFire { fire: skipped, detail: Some(why), work: None }
        }
    })
}

fn paused_for(failures: u32, now: Timestamp) -> Paused {
    let reason = format!("{failures} fires in a row failed");
    Paused { since: now, by: PAUSED_BY.to_owned(), reason: Some(reason) }
}

/// Safe to repeat: what has ended meanwhile is left alone.
async fn cancel(life: &Lifecycle, schedule: &Schedule, work: Submitted) -> Result<(), LedgerError> {
    let reason = format!("a later fire of the schedule {} takes its place", schedule.name);
    match work {
        Submitted::Job(id) => life.cancel(&schedule.namespace, id, &reason).await.map(drop),
        Submitted::Workflow(id) => {
            life.cancel_run(&schedule.namespace, id, &reason).await.map(drop)
        }
    }
}
