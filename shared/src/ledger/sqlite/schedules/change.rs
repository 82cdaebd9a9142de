//! One change of a schedule: its row where nobody was faster, the rows of its fires, and their work.

use super::super::fault::{Class, Fault};
use super::super::runs::create;
use super::super::statement::{Args, execute};
use super::super::submit;
use super::super::writer::{Tx, release, savepoint, undo};
use super::text;
use crate::ledger::runs::{CreateOutcome, NewRun};
use crate::ledger::schedules::{
    DOUBLED, NewFire, NewWork, ScheduleChange, ScheduleChanged, TOO_MANY_QUEUES, refusal,
};
use crate::ledger::{Accepted, fit_text};
use crate::model::job::{Job, NewJob};
use crate::model::schedule::decide::{Submitted, reason};
use crate::model::schedule::{FireOutcome, FireSource};
use crate::model::time::Timestamp;

/// See [`crate::ledger::Ledger::change_schedule`].
pub(super) async fn change(
    tx: &mut Tx<'_>,
    change: &ScheduleChange,
) -> Result<ScheduleChanged, Fault> {
    if !move_on(tx, change).await? {
        return Ok(ScheduleChanged::Moved);
    }
    for (due, result) in &change.ends {
        let sql = "UPDATE fires SET result = ? WHERE schedule_id = ? AND due = ? AND outcome = 1 \
                   AND result IS NULL";
        let args = Args::default()
            .with(*result as i16)
            .with(change.id.as_bytes().as_slice())
            .with(due.micros());
        execute(tx.connection, sql, args).await?;
    }
    let (mut jobs, mut refused) = (Vec::new(), Vec::new());
    for new in &change.fires {
        let NewFire { fire, work, .. } = new;
        if !write(tx, change, new).await? {
            let doubled = work.as_ref().map(|_| (fire.due, DOUBLED.to_owned()));
            refused.extend(doubled);
            continue;
        }
        let submitted = match work {
            None => continue,
            Some(NewWork::Job(job)) => submit_job(tx, job).await?,
            Some(NewWork::Run(run)) => start_run(tx, run).await?,
        };
        match submitted {
            Ok(made) => jobs.extend(made),
            Err(why) => {
                refuse(tx, change, fire.due, &why).await?;
                refused.push((fire.due, why));
            }
        }
    }
    if !refused.is_empty() {
        // What was held back by a fire that did not come to be is decided over anew.
        let sql = "UPDATE schedules SET look_at = ? WHERE id = ?";
        let args = Args::default().with(tx.now.micros()).with(change.id.as_bytes().as_slice());
        execute(tx.connection, sql, args).await?;
    }
    let mut backfilled = 0;
    for due in &change.backfill {
        backfilled += backfill(tx, change, *due).await?;
    }
    Ok(ScheduleChanged::Done { jobs, refused, backfilled })
}

/// The schedule's own row; `false`: it is not what was seen.
async fn move_on(tx: &mut Tx<'_>, change: &ScheduleChange) -> Result<bool, Fault> {
    let sql = "UPDATE schedules SET version = version + 1, cursor_at = ?3, look_at = ?4, failures = ?5, \
               spec = coalesce(?6, spec), paused = CASE WHEN ?7 THEN ?8 ELSE paused END, \
               changed_at = CASE WHEN ?9 THEN ?10 ELSE changed_at END WHERE id = ?1 AND version = ?2";
    let args = Args::default()
        .with(change.id.as_bytes().as_slice())
        .with(i64::try_from(change.seen).unwrap_or(i64::MAX))
        .with(change.cursor.micros())
        .with(change.look_at.map(Timestamp::micros))
        .with(change.failures)
        .with(change.spec.as_ref().map(text))
        .with(change.paused.is_some())
        .with(change.paused.as_ref().and_then(Option::as_ref).map(text))
        .with(change.by_caller)
        .with(tx.now.micros());
    Ok(execute(tx.connection, sql, args).await? == 1)
}

/// The row of a fire; `false`: it has one already, and did not wait.
async fn write(tx: &mut Tx<'_>, change: &ScheduleChange, new: &NewFire) -> Result<bool, Fault> {
    const FRESH: &str = "INSERT INTO fires (schedule_id, due, decided_at, late, source, outcome, reason, \
        job_id, workflow_id, detail, namespace) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, s.namespace \
        FROM schedules s WHERE s.id = ?1 ON CONFLICT DO NOTHING";
    const WAITED: &str = "UPDATE fires SET decided_at = ?3, late = ?4, source = ?5, outcome = ?6, \
        reason = ?7, job_id = ?8, workflow_id = ?9, detail = ?10 WHERE schedule_id = ?1 AND due = ?2 AND outcome = 0";
    let fire = &new.fire;
    let submitted = new.work.as_ref().map(NewWork::submitted);
    let job = match &submitted {
        Some(Submitted::Job(id)) => Some(id.as_bytes().as_slice()),
        _ => None,
    };
    let run = match &submitted {
        Some(Submitted::Workflow(id)) => Some(id.as_bytes().as_slice()),
        _ => None,
    };
    let args = Args::default()
        .with(change.id.as_bytes().as_slice())
        .with(fire.due.micros())
        .with(tx.now.micros())
        .with(i64::try_from(fire.late.as_micros()).unwrap_or(i64::MAX))
        .with(fire.source as i16)
        .with(fire.outcome as i16)
        .with(fire.reason)
        .with(job)
        .with(run)
        .with(new.detail.as_deref().map(fit_text).map(std::borrow::Cow::into_owned));
    let sql = if fire.has_waited { WAITED } else { FRESH };
    Ok(execute(tx.connection, sql, args).await? == 1)
}

type Submission = Result<Vec<Job>, String>;

async fn submit_job(tx: &mut Tx<'_>, job: &NewJob) -> Result<Submission, Fault> {
    Ok(match submit::one(tx, job).await? {
        Ok(Accepted::New(job) | Accepted::Replaced(job, _)) => Ok(vec![job]),
        Ok(accepted) => Err(format!("job {} is there", accepted.id())),
        Err(refused) => Err(refusal(&refused)),
    })
}

/// A run that is refused leaves nothing behind.
async fn start_run(tx: &mut Tx<'_>, run: &NewRun) -> Result<Submission, Fault> {
    savepoint(tx).await?;
    let started = match create::create(tx, run).await {
        Ok(CreateOutcome::Created(jobs)) => Ok(jobs),
        Ok(_) => Err("a run with its id is there".to_owned()),
        Err(fault) => {
            let why = match fault.class() {
                Class::TooManyQueues => TOO_MANY_QUEUES,
                Class::Data => "the ledger does not take this run's data",
                // Not its fault: the due time is decided over again.
                Class::Passing | Class::Broken | Class::Failed => return Err(fault),
            };
            undo(tx, fault).await?;
            Err(why.to_owned())
        }
    };
    release(tx).await?;
    Ok(started)
}

async fn refuse(
    tx: &mut Tx<'_>,
    change: &ScheduleChange,
    due: Timestamp,
    why: &str,
) -> Result<(), Fault> {
    let sql = "UPDATE fires SET outcome = ?, reason = ?, detail = ?, job_id = NULL, workflow_id = NULL \
               WHERE schedule_id = ? AND due = ?";
    let args = Args::default()
        .with(FireOutcome::Skipped as i16)
        .with(reason::REFUSED)
        .with(fit_text(why).into_owned())
        .with(change.id.as_bytes().as_slice())
        .with(due.micros());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

async fn backfill(tx: &mut Tx<'_>, change: &ScheduleChange, due: Timestamp) -> Result<u32, Fault> {
    let sql = "INSERT INTO fires (schedule_id, due, decided_at, late, source, outcome, namespace) \
               SELECT ?1, ?2, ?3, 0, ?4, 0, s.namespace FROM schedules s WHERE s.id = ?1 \
               ON CONFLICT (schedule_id, due) DO UPDATE SET decided_at = ?3, source = ?4, outcome = 0, \
               reason = NULL, detail = NULL WHERE fires.outcome > 1";
    let args = Args::default()
        .with(change.id.as_bytes().as_slice())
        .with(due.micros())
        .with(tx.now.micros())
        .with(FireSource::Backfill as i16);
    Ok(u32::from(execute(tx.connection, sql, args).await? == 1))
}
