//! A run comes in: the run, its steps and their jobs in one transaction.

use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::super::error::{is_collision, is_lost, unchanged};
use super::super::insert::pack_ids;
use super::super::own::{self, Taken};
use super::super::quotas::{Doors, Limited};
use super::super::row::{int4, value_parts};
use super::super::unknown::Backend;
use super::super::{Inner, LedgerError, Result};
use super::rows::{StepJobRow, StepRow, insert_jobs, insert_steps, make_queues};
use super::{name_blob, read_back};
use crate::ledger::runs::{CreateOutcome, NewRun, Parent};
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::NewJob;
use crate::model::time::Timestamp;
use crate::model::workflow::StepState;

/// Tries of the transaction: after a lost connection that committed nothing, or a deadlock.
const TRIES_MAX: u32 = 6;

/// How far a transaction got.
enum Attempt {
    Committed,
    Answered(CreateOutcome),
    TooManyQueues,
}

/// Commits a run. See [`crate::ledger::Ledger::create_run`].
pub(in super::super) async fn create(inner: &Inner, new: &NewRun) -> Result<CreateOutcome> {
    for _ in 0..TRIES_MAX {
        let mut connection = inner.own.acquire().await.map_err(unchanged)?;
        let backend = Backend::of(&mut connection).await.map_err(unchanged)?;
        match attempt(&mut connection, new, &inner.limited).await {
            Ok(Attempt::Committed) => return Ok(created(inner, new).await),
            Ok(Attempt::Answered(outcome)) => return Ok(outcome),
            Ok(Attempt::TooManyQueues) => return Err(LedgerError::TooManyQueues),
            Err(error) if is_collision(&error) => {}
            Err(error) if is_lost(&error) => {
                // Given up, not given back: nobody else is to find what is left on it.
                drop(connection.detach());
                let Some(mut fresh) = backend.outlive(&inner.options).await else {
                    return Err(LedgerError::OutcomeUnknown);
                };
                match is_there(&mut fresh, new.id).await {
                    Ok(true) => return Ok(created(inner, new).await),
                    Ok(false) => {}
                    Err(_) => return Err(LedgerError::OutcomeUnknown),
                }
            }
            Err(error) => return Err(unchanged(error)),
        }
    }
    Err(LedgerError::Unavailable("no try of a transaction came through".into()))
}

async fn is_there(connection: &mut PgConnection, id: WorkflowId) -> Result<bool, sqlx::Error> {
    let sql = "SELECT EXISTS (SELECT FROM workflows WHERE id = $1)";
    sqlx::query_scalar(sql).bind(id.uuid()).fetch_one(connection).await
}

/// What is committed, read back.
async fn created(inner: &Inner, new: &NewRun) -> CreateOutcome {
    let ready = new.steps.iter().filter(|step| step.state == StepState::Released);
    let ids: Vec<JobId> = ready.filter_map(|step| step.job.as_ref().map(|job| job.id)).collect();
    CreateOutcome::Created(read_back(inner, &ids).await)
}

async fn attempt(
    connection: &mut PgConnection,
    new: &NewRun,
    limited: &Limited,
) -> Result<Attempt, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // What a step starts is promised already.
    let is_limited = new.parent.is_none() && limited.has(&new.namespace);
    let doors = Some(&new.namespace).filter(|_| is_limited).into_iter().collect();
    let mut doors = Doors::lock(&mut transaction, &doors).await?;
    if let Some(key) = &new.idempotency {
        let ids = pack_ids([Some(new.id.uuid())].into_iter());
        match own::take_key(&mut transaction, &new.namespace, key, &ids).await? {
            Taken::Ours => {}
            Taken::Spent(ids) => {
                let id = ids.into_iter().flatten().next().map(WorkflowId::from_uuid);
                let outcome = id.map_or(CreateOutcome::KeyReused, CreateOutcome::Replayed);
                return Ok(Attempt::Answered(outcome));
            }
            Taken::OtherBody => return Ok(Attempt::Answered(CreateOutcome::KeyReused)),
        }
    }
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let now: i64 = sqlx::query_scalar(sql).fetch_one(&mut *transaction).await?;
    if !insert_run(&mut transaction, new, now).await? {
        return Ok(Attempt::Answered(CreateOutcome::Replayed(new.id)));
    }
    if let Some(parent) = new.parent
        && let Some(outcome) = look_at_parent(&mut transaction, parent, new.id).await?
    {
        return Ok(Attempt::Answered(outcome));
    }
    if !insert_all_steps(&mut transaction, new, now).await? {
        return Ok(Attempt::TooManyQueues);
    }
    let jobs: Vec<&NewJob> = new.steps.iter().filter_map(|step| step.job.as_ref()).collect();
    let admitted = doors.admit(&mut transaction, &jobs).await?;
    doors.note(limited);
    if let Err(exceeded) = admitted {
        return Ok(Attempt::Answered(CreateOutcome::OverQuota(exceeded)));
    }
    transaction.commit().await?;
    Ok(Attempt::Committed)
}

/// `false`: there is no room for one of its queues.
async fn insert_all_steps(
    connection: &mut PgConnection,
    new: &NewRun,
    now: i64,
) -> Result<bool, sqlx::Error> {
    if !make_queues(connection, &new.namespace, &new.steps).await? {
        return Ok(false);
    }
    let made: Vec<StepJobRow<'_>> = new.steps.iter().filter_map(StepJobRow::of_step).collect();
    insert_jobs(connection, new.id, &made, now).await?;
    let rows: Vec<StepRow<'_>> = new.steps.iter().map(StepRow::fresh).collect();
    insert_steps(connection, new.id, &new.namespace, &rows, now).await?;
    Ok(true)
}

/// Inserts a run that no step has started as part of the caller's transaction; `false`: there is no room for one of
/// its queues, and what was written has to be undone.
pub(in super::super) async fn insert_within(
    connection: &mut PgConnection,
    new: &NewRun,
    now: i64,
) -> Result<bool, sqlx::Error> {
    Ok(insert_run(connection, new, now).await? && insert_all_steps(connection, new, now).await?)
}

/// Whether the step may start this run; else the answer. The parent stays locked until the commit, so that it
/// cannot be stopped in between and leave a child behind, nor start two.
async fn look_at_parent(
    connection: &mut PgConnection,
    parent: Parent,
    child: WorkflowId,
) -> Result<Option<CreateOutcome>, sqlx::Error> {
    let gone = Ok(Some(CreateOutcome::ParentGone));
    let sql = "SELECT ending IS NULL AND state < 10 FROM workflows WHERE id = $1 FOR NO KEY UPDATE";
    let query = sqlx::query_scalar(sql).bind(parent.run.uuid());
    if query.fetch_optional(&mut *connection).await? != Some(true) {
        return gone;
    }
    let sql = "SELECT state, started_at FROM workflow_steps WHERE workflow_id = $1 AND ord = $2";
    let query = sqlx::query_as(sql).bind(parent.run.uuid()).bind(parent.ord);
    let step: Option<(i16, Option<i64>)> = query.fetch_optional(&mut *connection).await?;
    let Some((state, started_at)) = step else { return gone };
    if state != StepState::Waiting as i16 {
        return gone;
    }
    // What it started before a retry of its run has ended by now.
    let sql = "SELECT id FROM workflows WHERE parent_id = $1 AND parent_ord = $2 \
               AND parent_item IS NOT DISTINCT FROM $3 AND id <> $4 \
               AND (state < 10 OR created_at >= $5) ORDER BY created_at DESC LIMIT 1";
    let found: Option<Uuid> = sqlx::query_scalar(sql)
        .bind(parent.run.uuid())
        .bind(parent.ord)
        .bind(parent.item.map(int4))
        .bind(child.uuid())
        .bind(started_at)
        .fetch_optional(connection)
        .await?;
    Ok(found.map(|id| CreateOutcome::Replayed(WorkflowId::from_uuid(id))))
}

/// `false`: there is a run with this id.
async fn insert_run(
    connection: &mut PgConnection,
    new: &NewRun,
    now: i64,
) -> Result<bool, sqlx::Error> {
    const SQL: &str = "
INSERT INTO workflows (id, namespace, name, state, created_at, began_at, changed_at, deadline, steps, definition,
    definition_version, document, options, input, input_blob, tags, parent_id, parent_ord, parent_item, depth,
    rerun_of, request_id, traceparent)
VALUES ($1, $2, $3, 0, $4, $4, $4, $5, $6, $7, $8, $9, $20, $10, $11, coalesce($12::text[], '{}'), $13, $14, $15, $16,
    $17, $18, $19)
ON CONFLICT (id) DO NOTHING";
    let (input, blob) = value_parts(Some(&new.input));
    let definition = new.definition.as_ref();
    let steps = new.steps.iter().filter(|s| s.ord >= 0).count();
    let made = sqlx::query(SQL)
        .bind(new.id.uuid())
        .bind(new.namespace.as_str())
        .bind(&new.name)
        .bind(now)
        .bind(new.deadline.map(Timestamp::micros))
        .bind(i32::try_from(steps).unwrap_or(i32::MAX))
        .bind(definition.map(|d| d.0.as_str()))
        .bind(definition.map(|d| int4(d.1)))
        .bind(new.document.as_deref())
        .bind(input)
        .bind(blob)
        .bind(&new.tags)
        .bind(new.parent.map(|p| p.run.uuid()))
        .bind(new.parent.map(|p| p.ord))
        .bind(new.parent.and_then(|p| p.item).map(int4))
        .bind(i16::try_from(new.depth).unwrap_or(i16::MAX))
        .bind(new.rerun_of.map(WorkflowId::uuid))
        .bind(new.request_id.as_deref())
        .bind(new.traceparent.as_deref())
        .bind(&new.options)
        .execute(&mut *connection)
        .await?;
    if made.rows_affected() == 0 {
        return Ok(false);
    }
    if let Some(blob) = blob {
        name_blob(connection, new.namespace.as_str(), blob, 1).await?;
    }
    Ok(true)
}
