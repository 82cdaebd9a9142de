//! One change of a schedule: its row where nobody was faster, the rows of its fires, and their work.

use std::collections::{BTreeSet, HashSet};

use sqlx::{Acquire, Executor, PgConnection};
use uuid::Uuid;

use super::super::error::{is_bad_data, is_collision, is_lost, unchanged};
use super::super::own_rows::Rows;
use super::super::row::int8;
use super::super::{Inner, LedgerError, Result, queues, runs};
use super::{now, text};
use crate::ledger::runs::NewRun;
use crate::ledger::schedules::{
    DOUBLED, NewFire, NewWork, ScheduleChange, ScheduleChanged, TOO_MANY_QUEUES, refusal,
};
use crate::ledger::{Accepted, fit_text};
use crate::model::id::JobId;
use crate::model::job::{Job, NewJob};
use crate::model::name::QueueName;
use crate::model::schedule::FireOutcome;
use crate::model::schedule::decide::{Fire, Submitted, reason};
use crate::model::time::Timestamp;
use crate::model::workflow::StepState;

/// Tries of the transaction: after a deadlock, or a lost connection that had not sent the commit.
const TRIES_MAX: u32 = 5;

/// What a transaction has come to.
struct Made {
    jobs: Vec<Job>,
    /// Jobs of runs that may run now, to be read back.
    released: Vec<JobId>,
    refused: Vec<(Timestamp, String)>,
    backfilled: u32,
}

pub(super) async fn change(inner: &Inner, change: &ScheduleChange) -> Result<ScheduleChanged> {
    for _ in 0..TRIES_MAX {
        let mut connection = inner.own.acquire().await.map_err(unchanged)?;
        let (error, is_sent) = match attempt(&mut connection, change).await {
            Ok(Some(mut made)) => {
                drop(connection);
                made.jobs.extend(runs::read_back(inner, &made.released).await);
                let Made { jobs, refused, backfilled, .. } = made;
                return Ok(ScheduleChanged::Done { jobs, refused, backfilled });
            }
            Ok(None) => return Ok(ScheduleChanged::Moved),
            Err(failed) => failed,
        };
        if is_collision(&error) {
            continue;
        }
        if !is_lost(&error) {
            return Err(unchanged(error));
        }
        // Given up, not given back: nobody else is to find what is left on it.
        drop(connection.detach());
        if is_sent {
            // Whoever looks again finds the version that it saw, or another. What was committed is in the ledger, and
            // its jobs are found by the sweep.
            return Err(LedgerError::OutcomeUnknown);
        }
    }
    Err(LedgerError::Unavailable("no try of a transaction came through".into()))
}

type Failed = (sqlx::Error, bool);

/// One try; an error says whether the commit was sent. `None`: somebody was faster.
async fn attempt(
    connection: &mut PgConnection,
    change: &ScheduleChange,
) -> Result<Option<Made>, Failed> {
    let before = |error| (error, false);
    let mut transaction = connection.begin().await.map_err(before)?;
    let Some(now) = move_on(&mut transaction, change).await.map_err(before)? else {
        return Ok(None);
    };
    let made = write(&mut transaction, change, now).await.map_err(before)?;
    transaction.commit().await.map_err(|error| (error, true))?;
    Ok(Some(made))
}

/// The schedule's own row; ledger time. `None`: it is not what was seen.
async fn move_on(
    connection: &mut PgConnection,
    change: &ScheduleChange,
) -> Result<Option<i64>, sqlx::Error> {
    let sql = concat!(
        "UPDATE schedules SET version = version + 1, cursor_at = $3, look_at = $4, failures = $5, \
         spec = coalesce($6, spec), paused = CASE WHEN $7 THEN $8 ELSE paused END, \
         changed_at = CASE WHEN $9 THEN ",
        now!(),
        " ELSE changed_at END WHERE id = $1 AND version = $2 RETURNING ",
        now!()
    );
    sqlx::query_scalar(sql)
        .bind(change.id.uuid())
        .bind(int8(change.seen))
        .bind(change.cursor.micros())
        .bind(change.look_at.map(Timestamp::micros))
        .bind(i32::try_from(change.failures).unwrap_or(i32::MAX))
        .bind(change.spec.as_ref().map(text))
        .bind(change.paused.is_some())
        .bind(change.paused.as_ref().and_then(Option::as_ref).map(text))
        .bind(change.by_caller)
        .fetch_optional(connection)
        .await
}

async fn write(
    connection: &mut PgConnection,
    change: &ScheduleChange,
    now: i64,
) -> Result<Made, sqlx::Error> {
    let mut made =
        Made { jobs: Vec::new(), released: Vec::new(), refused: Vec::new(), backfilled: 0 };
    note_ends(connection, change).await?;
    let written = write_fires(connection, change, now).await?;
    let (mut jobs, mut places, mut runs, mut doubled) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for NewFire { fire, work, .. } in &change.fires {
        match work {
            Some(_) if !written.contains(&fire.due.micros()) => doubled.push(fire.due),
            Some(NewWork::Job(job)) => {
                jobs.push((**job).clone());
                places.push(fire.due);
            }
            Some(NewWork::Run(run)) => runs.push((fire.due, run.as_ref())),
            None => {}
        }
    }
    submit_jobs(connection, &jobs, &places, &mut made).await?;
    for (due, run) in runs {
        start_run(connection, due, run, now, &mut made).await?;
    }
    for (due, why) in &made.refused {
        refuse(connection, change, *due, why).await?;
    }
    look_again(connection, change, !made.refused.is_empty()).await?;
    made.refused.extend(doubled.into_iter().map(|due| (due, DOUBLED.to_owned())));
    made.backfilled = backfill(connection, change, now).await?;
    Ok(made)
}

async fn note_ends(
    connection: &mut PgConnection,
    change: &ScheduleChange,
) -> Result<(), sqlx::Error> {
    if change.ends.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE fires f SET result = e.result FROM unnest($2::bigint[], $3::smallint[]) AS e(due, result) \
               WHERE f.schedule_id = $1 AND f.due = e.due AND f.outcome = 1 AND f.result IS NULL";
    sqlx::query(sql)
        .bind(change.id.uuid())
        .bind(change.ends.iter().map(|(due, _)| due.micros()).collect::<Vec<_>>())
        .bind(change.ends.iter().map(|(_, result)| *result as i16).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// The rows of fires; the due times of those that are written. One that has a row already, and did not wait, is left
/// as it is, and its work is not submitted.
async fn write_fires(
    connection: &mut PgConnection,
    change: &ScheduleChange,
    now: i64,
) -> Result<HashSet<i64>, sqlx::Error> {
    const FRESH: &str = "
INSERT INTO fires (schedule_id, due, decided_at, late, source, outcome, reason, detail, job_id, workflow_id,
    namespace)
SELECT $1, i.due, $2, i.late, i.source, i.outcome, i.reason, i.detail, i.job_id, i.workflow_id, s.namespace
FROM unnest($3::bigint[], $4::bigint[], $5::smallint[], $6::smallint[], $7::text[], $8::uuid[], $9::uuid[],
    $10::text[]) AS i(due, late, source, outcome, reason, job_id, workflow_id, detail), schedules s WHERE s.id = $1
ON CONFLICT DO NOTHING RETURNING due";
    const WAITED: &str = "
UPDATE fires f SET decided_at = $2, late = i.late, source = i.source, outcome = i.outcome, reason = i.reason,
    detail = i.detail, job_id = i.job_id, workflow_id = i.workflow_id
FROM unnest($3::bigint[], $4::bigint[], $5::smallint[], $6::smallint[], $7::text[], $8::uuid[], $9::uuid[],
    $10::text[]) AS i(due, late, source, outcome, reason, job_id, workflow_id, detail)
WHERE f.schedule_id = $1 AND f.due = i.due AND f.outcome = 0 RETURNING f.due";
    let mut written = HashSet::new();
    for (sql, has_waited) in [(FRESH, false), (WAITED, true)] {
        let rows: Vec<&NewFire> =
            change.fires.iter().filter(|row| row.fire.has_waited == has_waited).collect();
        if rows.is_empty() {
            continue;
        }
        let work = |pick: fn(Submitted) -> Option<Uuid>| -> Vec<Option<Uuid>> {
            rows.iter()
                .map(|row| row.work.as_ref().map(NewWork::submitted).and_then(pick))
                .collect()
        };
        let late = |fire: &Fire| i64::try_from(fire.late.as_micros()).unwrap_or(i64::MAX);
        let dues: Vec<i64> = sqlx::query_scalar(sql)
            .bind(change.id.uuid())
            .bind(now)
            .bind(rows.iter().map(|row| row.fire.due.micros()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| late(&row.fire)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.fire.source as i16).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.fire.outcome as i16).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.fire.reason).collect::<Vec<_>>())
            .bind(work(|work| match work {
                Submitted::Job(id) => Some(id.uuid()),
                Submitted::Workflow(_) => None,
            }))
            .bind(work(|work| match work {
                Submitted::Workflow(id) => Some(id.uuid()),
                Submitted::Job(_) => None,
            }))
            .bind(rows.iter().map(|row| row.detail.as_deref().map(fit_text)).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        written.extend(dues);
    }
    Ok(written)
}

async fn submit_jobs(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    dues: &[Timestamp],
    made: &mut Made,
) -> Result<(), sqlx::Error> {
    if jobs.is_empty() {
        return Ok(());
    }
    let queues: BTreeSet<_> = jobs.iter().map(|job| (&job.namespace, &job.queue)).collect();
    let mut closed: HashSet<QueueName> = HashSet::new();
    for (namespace, queue) in queues {
        if !queues::make(connection, namespace, queue).await? {
            closed.insert(queue.clone());
        }
    }
    let mut rows = Rows::new(connection, jobs, &closed);
    rows.insert_all().await?;
    for (result, due) in rows.results().into_iter().zip(dues) {
        match result {
            Ok(Accepted::New(job) | Accepted::Replaced(job, _)) => made.jobs.push(job),
            Ok(accepted) => made.refused.push((*due, format!("job {} is there", accepted.id()))),
            Err(refused) => made.refused.push((*due, refusal(&refused))),
        }
    }
    Ok(())
}

/// A run that is refused leaves nothing behind.
async fn start_run(
    connection: &mut PgConnection,
    due: Timestamp,
    run: &NewRun,
    now: i64,
    made: &mut Made,
) -> Result<(), sqlx::Error> {
    connection.execute("SAVEPOINT run").await?;
    let why = match runs::insert_within(connection, run, now).await {
        Ok(true) => {
            connection.execute("RELEASE SAVEPOINT run").await?;
            let ready = run.steps.iter().filter(|step| step.state == StepState::Released);
            made.released.extend(ready.filter_map(|step| step.job.as_ref().map(|job| job.id)));
            return Ok(());
        }
        Ok(false) => TOO_MANY_QUEUES,
        Err(error) if is_bad_data(&error) => "the ledger does not take this run's data",
        Err(error) => return Err(error),
    };
    connection.execute("ROLLBACK TO SAVEPOINT run").await?;
    made.refused.push((due, why.to_owned()));
    Ok(())
}

async fn refuse(
    connection: &mut PgConnection,
    change: &ScheduleChange,
    due: Timestamp,
    why: &str,
) -> Result<(), sqlx::Error> {
    let sql = "UPDATE fires SET outcome = $3, reason = $4, detail = $5, job_id = NULL, workflow_id = NULL \
               WHERE schedule_id = $1 AND due = $2";
    sqlx::query(sql)
        .bind(change.id.uuid())
        .bind(due.micros())
        .bind(FireOutcome::Skipped as i16)
        .bind(reason::REFUSED)
        .bind(fit_text(why))
        .execute(connection)
        .await?;
    Ok(())
}

/// What was held back by a fire that did not come to be is decided over anew.
async fn look_again(
    connection: &mut PgConnection,
    change: &ScheduleChange,
    refused: bool,
) -> Result<(), sqlx::Error> {
    if refused {
        let sql = concat!("UPDATE schedules SET look_at = ", now!(), " WHERE id = $1");
        sqlx::query(sql).bind(change.id.uuid()).execute(connection).await?;
    }
    Ok(())
}

async fn backfill(
    connection: &mut PgConnection,
    change: &ScheduleChange,
    now: i64,
) -> Result<u32, sqlx::Error> {
    if change.backfill.is_empty() {
        return Ok(0);
    }
    let sql = "INSERT INTO fires AS f (schedule_id, due, decided_at, late, source, outcome, namespace) \
               SELECT $1, i.due, $2, 0, 2, 0, s.namespace FROM unnest($3::bigint[]) AS i(due), schedules s \
               WHERE s.id = $1 \
               ON CONFLICT (schedule_id, due) DO UPDATE SET decided_at = $2, source = 2, outcome = 0, \
                   reason = NULL, detail = NULL WHERE f.outcome > 1";
    let query = sqlx::query(sql)
        .bind(change.id.uuid())
        .bind(now)
        .bind(change.backfill.iter().map(|due| due.micros()).collect::<Vec<_>>());
    let rows = query.execute(connection).await?.rows_affected();
    Ok(u32::try_from(rows).unwrap_or(u32::MAX))
}
