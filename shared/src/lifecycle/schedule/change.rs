//! What callers do to schedules.

use super::look::{Carried, Round, commit, with_work};
use super::{BackfillError, Backfilled, NewSchedule, Scheduled, seen};
use crate::ledger::schedules::{FireRow, Schedule, ScheduleChange, ScheduleSeen};
use crate::ledger::{LedgerError, Paused};
use crate::lifecycle::Lifecycle;
use crate::model::id::ScheduleId;
use crate::model::name::{Namespace, ScheduleName};
use crate::model::schedule::decide::{Fire, jitter};
use crate::model::schedule::{BACKFILL_MAX, FireOutcome, FireSource, ScheduleSpec};
use crate::model::time::Timestamp;

/// Tries of a change: others change the schedule at the same time, or it is behind.
const TRIES_MAX: usize = 50;
/// Fires deleted by one call.
const DELETE_MAX: u32 = 5_000;
/// Such calls of one deletion; pruning does the rest.
const DELETES_MAX: usize = 200;

pub(super) async fn create(
    life: &Lifecycle,
    new: NewSchedule,
) -> Result<Option<Schedule>, LedgerError> {
    let now = life.inner.ledger.now().await?;
    let look_at = look_at(new.id, &new.spec, now);
    let schedule = Schedule {
        id: new.id,
        namespace: new.namespace,
        name: new.name,
        spec: new.spec,
        version: 1,
        paused: new.paused,
        failures: 0,
        cursor: now,
        look_at,
        fires_from: Timestamp::default(),
        created_at: now,
        changed_at: now,
    };
    life.inner.ledger.create_schedule(&schedule).await
}

/// When the first due time after `cursor` is to be fired.
fn look_at(id: ScheduleId, spec: &ScheduleSpec, cursor: Timestamp) -> Option<Timestamp> {
    let due = spec.next_after(cursor)?;
    Some(due.plus(jitter(spec, id, due)))
}

/// Decides over everything that is due, and commits the last of it with what `also` adds. `None`: no such schedule.
/// `new_rules`: it is what is due by the old ones.
async fn with_what_is_due<T>(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
    new_rules: bool,
    mut also: impl FnMut(&ScheduleSeen, &mut ScheduleChange) -> T,
) -> Result<Option<(Carried, T)>, LedgerError> {
    for _ in 0..TRIES_MAX {
        let Some(seen) = seen(life, namespace, name).await? else { return Ok(None) };
        let round = Round::of(&seen, new_rules);
        if !round.is_whole(seen.now) {
            round.carry_out(life, &seen, |_| {}).await?;
            continue;
        }
        let mut told = None;
        let carried =
            round.carry_out(life, &seen, |change| told = Some(also(&seen, change))).await?;
        if let (Some(carried), Some(told)) = (carried, told) {
            return Ok(Some((carried, told)));
        }
    }
    Err(LedgerError::Unavailable("the schedule is behind with its due times; try again".into()))
}

/// What the schedule is now.
async fn now_is(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
) -> Result<Scheduled<Schedule>, LedgerError> {
    let found = life.inner.ledger.schedule(namespace, name).await?;
    Ok(found.map_or(Scheduled::Unknown, Scheduled::Done))
}

pub(super) async fn pause(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
    paused: Option<Paused>,
) -> Result<Scheduled<Schedule>, LedgerError> {
    let Some(found) = life.inner.ledger.schedule(namespace, name).await? else {
        return Ok(Scheduled::Unknown);
    };
    if found.paused.is_some() == paused.is_some() {
        return Ok(Scheduled::Done(found));
    }
    let done = with_what_is_due(life, namespace, name, false, |seen, change| {
        change.paused = Some(paused.clone());
        change.by_caller = true;
        if paused.is_none() {
            change.failures = 0;
            // Those that waited may go on.
            change.look_at = Some(seen.now);
        }
    })
    .await?;
    if done.is_none() {
        return Ok(Scheduled::Unknown);
    }
    now_is(life, namespace, name).await
}

pub(super) async fn patch<E>(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
    make: impl Fn(&Schedule) -> Result<ScheduleSpec, E>,
) -> Result<Scheduled<Result<Schedule, E>>, LedgerError> {
    // Looked at before anything is decided: a refused change changes nothing.
    match life.inner.ledger.schedule(namespace, name).await? {
        None => return Ok(Scheduled::Unknown),
        Some(found) => {
            if let Err(refused) = make(&found) {
                return Ok(Scheduled::Done(Err(refused)));
            }
        }
    }
    let done = with_what_is_due(life, namespace, name, true, |seen, change| {
        let spec = make(&seen.schedule)?;
        // What the new rules would have had due before is not.
        change.cursor = change.cursor.max(seen.now);
        // What waits, or was to be cancelled, is looked at by the new rules.
        change.look_at = Some(seen.now);
        change.spec = Some(spec);
        change.by_caller = true;
        Ok(())
    })
    .await?;
    Ok(match done {
        None => Scheduled::Unknown,
        Some((_, Err(refused))) => Scheduled::Done(Err(refused)),
        Some((_, Ok(()))) => match now_is(life, namespace, name).await? {
            Scheduled::Done(schedule) => Scheduled::Done(Ok(schedule)),
            Scheduled::Unknown => Scheduled::Unknown,
        },
    })
}

pub(super) async fn trigger(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
    due: Timestamp,
) -> Result<Scheduled<FireRow>, LedgerError> {
    for _ in 0..TRIES_MAX {
        let Some(seen) = seen(life, namespace, name).await? else { return Ok(Scheduled::Unknown) };
        if let Some(fire) = fire_at(life, &seen.schedule, due).await? {
            return Ok(Scheduled::Done(fire));
        }
        let (source, outcome) = (FireSource::Trigger, FireOutcome::Fired);
        let late = seen.now.since(due);
        let fire = Fire { due, source, outcome, reason: None, late, has_waited: false };
        let mut change = ScheduleChange::of(&seen.schedule);
        change.fires.push(with_work(life, &seen.schedule, fire).await?);
        // Whoever was faster may have fired the same: looked at above, the next time round.
        commit(life, change).await?;
    }
    Err(LedgerError::Unavailable("the schedule keeps changing; try again".into()))
}

async fn fire_at(
    life: &Lifecycle,
    schedule: &Schedule,
    due: Timestamp,
) -> Result<Option<FireRow>, LedgerError> {
    let after = Timestamp::from_micros(due.micros().saturating_add(1));
    let latest = life.inner.ledger.fires(schedule.id, Some(after), 1).await?;
    Ok(latest.into_iter().find(|fire| fire.due == due))
}

/// Now, or a microsecond later where it could be a due time: those are whole milliseconds.
pub(super) fn between_due_times(now: Timestamp) -> Timestamp {
    if now.micros() % 1_000 == 0 { Timestamp::from_micros(now.micros() + 1) } else { now }
}

pub(super) async fn backfill(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
    from: Timestamp,
    to: Timestamp,
) -> Result<Scheduled<Result<Backfilled, BackfillError>>, LedgerError> {
    let Some(found) = life.inner.ledger.schedule(namespace, name).await? else {
        return Ok(Scheduled::Unknown);
    };
    if let Err(refused) = due_between(&found, from, to) {
        return Ok(Scheduled::Done(Err(refused)));
    }
    let done = with_what_is_due(life, namespace, name, false, |seen, change| {
        // A later one is not due yet.
        change.backfill = due_between(&seen.schedule, from, to.min(change.cursor))?;
        change.look_at = Some(seen.now);
        Ok(change.backfill.len())
    })
    .await?;
    Ok(match done {
        None => Scheduled::Unknown,
        Some((_, Err(refused))) => Scheduled::Done(Err(refused)),
        Some((carried, Ok(due))) => Scheduled::Done(Ok(Backfilled {
            due: u32::try_from(due).unwrap_or(u32::MAX),
            fires: carried.backfilled,
        })),
    })
}

/// Due times by the rules as they are now, whether the schedule was there or not.
fn due_between(
    schedule: &Schedule,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<Timestamp>, BackfillError> {
    if from < schedule.fires_from {
        return Err(BackfillError::Forgotten { until: schedule.fires_from });
    }
    let mut found = Vec::new();
    let mut after = Timestamp::from_micros(from.micros().saturating_sub(1));
    while let Some(due) = schedule.spec.next_kept(after).filter(|due| *due <= to) {
        found.push(due);
        if found.len() > BACKFILL_MAX {
            return Err(BackfillError::TooMany);
        }
        after = due;
    }
    Ok(found)
}

pub(super) async fn delete(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
) -> Result<Scheduled<()>, LedgerError> {
    let ledger = &life.inner.ledger;
    let Some(id) = ledger.delete_schedule(namespace, name).await? else {
        return Ok(Scheduled::Unknown);
    };
    for _ in 0..DELETES_MAX {
        if ledger.delete_fires(id, DELETE_MAX).await? < u64::from(DELETE_MAX) {
            break;
        }
    }
    Ok(Scheduled::Done(()))
}
