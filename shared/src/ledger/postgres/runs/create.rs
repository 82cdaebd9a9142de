//! A run comes in: the run, its steps and their jobs in one transaction.

use std::collections::BTreeSet;

use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::super::error::{is_collision, is_lost, unchanged};
use super::super::insert::{Spend, array_text, pack_ids};
use super::super::own::{self, Taken};
use super::super::row::{int8, value_parts};
use super::super::unknown::Backend;
use super::super::{Inner, LedgerError, Result, jobs};
use crate::ledger::runs::{CreateOutcome, NewRun, NewStep};
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::NewJob;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;
use crate::model::workflow::StepState;

/// Tries of the transaction: after a lost connection that committed nothing, or a deadlock.
const TRIES_MAX: u32 = 6;
/// Rows of one statement.
const CHUNK: usize = 1_000;

/// Commits a run. See [`crate::ledger::Ledger::create_run`].
pub(in super::super) async fn create(inner: &Inner, new: &NewRun) -> Result<CreateOutcome> {
    for _ in 0..TRIES_MAX {
        let mut connection = inner.bulk.acquire().await.map_err(unchanged)?;
        let backend = Backend::of(&mut connection).await.map_err(unchanged)?;
        match attempt(&mut connection, new).await {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => return created(inner, new).await,
            Err(error) if is_collision(&error) => {}
            Err(error) if is_lost(&error) => {
                drop(connection.detach());
                let Some(mut fresh) = backend.outlive(&inner.options).await else {
                    return Err(LedgerError::OutcomeUnknown);
                };
                let sql = "SELECT EXISTS (SELECT FROM workflows WHERE id = $1)";
                let query = sqlx::query_scalar(sql).bind(new.id.uuid());
                match query.fetch_one(&mut fresh).await {
                    Ok(true) => return created(inner, new).await,
                    Ok(false) => {}
                    Err(_) => return Err(LedgerError::OutcomeUnknown),
                }
            }
            Err(error) => return Err(unchanged(error)),
        }
    }
    Err(LedgerError::Unavailable("no try of a transaction came through".into()))
}

/// What is committed. The jobs are read back; if that fails, the sweep will push them.
async fn created(inner: &Inner, new: &NewRun) -> Result<CreateOutcome> {
    let ready = new.steps.iter().filter(|step| step.state == StepState::Released);
    let ids: Vec<JobId> = ready.filter_map(|step| step.job.as_ref().map(|job| job.id)).collect();
    let mut released = Vec::with_capacity(ids.len());
    for ids in ids.chunks(CHUNK) {
        released.extend(jobs::jobs(&inner.pool, ids).await.unwrap_or_default());
    }
    Ok(CreateOutcome::Created(released))
}

/// One try. `None`: committed.
async fn attempt(
    connection: &mut PgConnection,
    new: &NewRun,
) -> Result<Option<CreateOutcome>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    if let Some(key) = &new.idempotency {
        let ids = pack_ids([Some(new.id.uuid())].into_iter());
        match own::take_key(&mut transaction, &new.namespace, key, &ids).await? {
            Taken::Ours => {}
            Taken::Spent(ids) => {
                let id = ids.into_iter().flatten().next().map(WorkflowId::from_uuid);
                return Ok(Some(id.map_or(CreateOutcome::KeyReused, CreateOutcome::Replayed)));
            }
            Taken::OtherBody => return Ok(Some(CreateOutcome::KeyReused)),
        }
    }
    if let Some(parent) = new.parent {
        // Locked until the commit, so that the parent cannot be stopped in between and leave a child behind.
        let sql = "SELECT s.state FROM workflow_steps s JOIN workflows w ON w.id = s.workflow_id \
                   WHERE s.workflow_id = $1 AND s.ord = $2 AND w.ending IS NULL AND w.state < 10 \
                   FOR UPDATE OF s";
        let query = sqlx::query_scalar(sql).bind(parent.run.uuid()).bind(parent.ord);
        let state: Option<i16> = query.fetch_optional(&mut *transaction).await?;
        if state != Some(StepState::Waiting as i16) {
            return Ok(Some(CreateOutcome::ParentGone));
        }
    }
    let now: i64 = sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        .fetch_one(&mut *transaction)
        .await?;
    insert_run(&mut transaction, new, now).await?;
    let made: Vec<StepJobRow<'_>> = new.steps.iter().filter_map(StepJobRow::of_step).collect();
    insert_jobs(&mut transaction, new.id, &made, now).await?;
    insert_steps(&mut transaction, new.id, &new.namespace, &new.steps, now).await?;
    transaction.commit().await?;
    Ok(None)
}

async fn insert_run(
    connection: &mut PgConnection,
    new: &NewRun,
    now: i64,
) -> Result<(), sqlx::Error> {
    const SQL: &str = "
INSERT INTO workflows (id, namespace, name, state, created_at, changed_at, deadline, steps, definition,
    definition_version, document, input, input_blob, tags, parent_id, parent_ord, parent_item, depth,
    rerun_of, request_id, traceparent)
VALUES ($1, $2, $3, 0, $4, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";
    let (input, blob) = value_parts(Some(&new.input));
    let definition = new.definition.as_ref();
    let steps = new.steps.iter().filter(|s| s.ord >= 0).count();
    sqlx::query(SQL)
        .bind(new.id.uuid())
        .bind(new.namespace.as_str())
        .bind(&new.name)
        .bind(now)
        .bind(new.deadline.map(Timestamp::micros))
        .bind(i32::try_from(steps).unwrap_or(i32::MAX))
        .bind(definition.map(|d| d.0.as_str()))
        .bind(definition.map(|d| i32::try_from(d.1).unwrap_or(i32::MAX)))
        .bind(new.document.as_deref())
        .bind(input)
        .bind(blob)
        .bind(&new.tags)
        .bind(new.parent.map(|p| p.run.uuid()))
        .bind(new.parent.map(|p| p.ord))
        .bind(new.parent.and_then(|p| p.item).map(|n| i32::try_from(n).unwrap_or(i32::MAX)))
        .bind(i16::try_from(new.depth).unwrap_or(i16::MAX))
        .bind(new.rerun_of.map(WorkflowId::uuid))
        .bind(new.request_id.as_deref())
        .bind(new.traceparent.as_deref())
        .execute(&mut *connection)
        .await?;
    if let Some(blob) = blob {
        name_blob(connection, &new.namespace, blob).await?;
    }
    Ok(())
}

async fn name_blob(
    connection: &mut PgConnection,
    namespace: &Namespace,
    blob: Uuid,
) -> Result<(), sqlx::Error> {
    let sql = "UPDATE blobs SET refs = refs + 1 WHERE namespace = $1 AND id = $2";
    sqlx::query(sql).bind(namespace.as_str()).bind(blob).execute(connection).await?;
    Ok(())
}

/// A job of a step, on its way in.
pub(super) struct StepJobRow<'a> {
    pub(super) ord: i32,
    pub(super) step: &'a str,
    pub(super) item: Option<u32>,
    pub(super) blocked: bool,
    pub(super) job: &'a NewJob,
}

impl<'a> StepJobRow<'a> {
    pub(super) fn of_step(step: &'a NewStep) -> Option<Self> {
        let job = step.job.as_ref()?;
        let blocked = step.state != StepState::Released;
        Some(Self { ord: step.ord, step: &step.id, item: None, blocked, job })
    }
}

/// Inserts jobs of steps, makes their queues, and counts the blobs that they name.
pub(super) async fn insert_jobs(
    connection: &mut PgConnection,
    run: WorkflowId,
    rows: &[StepJobRow<'_>],
    now: i64,
) -> Result<(), sqlx::Error> {
    const SQL: &str = "
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::bytea[],
        $9::uuid[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::bytea[], $15::text[],
        $16::text[], $17::int[], $18::text[], $19::int[], $20::boolean[])
    AS i(id, namespace, queue, kind, priority, payload, payload_blob, run_at, expires_at, spec, tags, meta,
        request_id, traceparent, ord, step, item, blocked)
), made AS (
    INSERT INTO jobs (id, fence, run_at, created_at, changed_at, expires_at, state, priority, namespace,
        queue, kind, spec, payload, payload_blob, tags, meta, request_id, traceparent, workflow_id,
        workflow_ord, workflow_step, workflow_item)
    SELECT id, 0, coalesce(run_at, $2), $2, $2, expires_at,
        CASE WHEN blocked THEN 0 WHEN run_at > $2 THEN 1 ELSE 2 END, priority, namespace, queue, kind, spec,
        payload, payload_blob, coalesce(tags::text[], '{}'), meta, request_id, traceparent, $1, ord, step, item
    FROM input
), numbered AS (
    INSERT INTO workflow_items (workflow_id, ord, item, job_id)
    SELECT $1, ord, item, id FROM input WHERE item IS NOT NULL
), named AS (
    UPDATE blobs b SET refs = b.refs + n.jobs
    FROM (SELECT namespace, payload_blob, count(*)::int AS jobs FROM input
          WHERE payload_blob IS NOT NULL GROUP BY namespace, payload_blob) n
    WHERE b.namespace = n.namespace AND b.id = n.payload_blob
)
INSERT INTO queues (namespace, name, created_at) SELECT DISTINCT namespace, queue, $2 FROM input ORDER BY 1, 2
ON CONFLICT (namespace, name) DO NOTHING";
    for rows in rows.chunks(CHUNK) {
        fn each<'a, T>(
            rows: &[StepJobRow<'a>],
            part: impl Fn(&StepJobRow<'a>) -> T,
        ) -> Vec<T> {
            rows.iter().map(part).collect()
        }
        let specs = each(rows, |r| {
            serde_json::to_string(&r.job.spec).map_err(|e| sqlx::Error::Encode(e.into()))
        });
        sqlx::query(SQL)
            .bind(run.uuid())
            .bind(now)
            .bind(each(rows, |r| r.job.id.uuid()))
            .bind(each(rows, |r| r.job.namespace.as_str()))
            .bind(each(rows, |r| r.job.queue.as_str()))
            .bind(each(rows, |r| r.job.kind.as_str()))
            .bind(each(rows, |r| i16::from(r.job.priority.level())))
            .bind(each(rows, |r| value_parts(Some(&r.job.payload)).0))
            .bind(each(rows, |r| value_parts(Some(&r.job.payload)).1))
            .bind(each(rows, |r| r.job.run_at.map(Timestamp::micros)))
            .bind(each(rows, |r| r.job.expires_at.map(Timestamp::micros)))
            .bind(specs.into_iter().collect::<Result<Vec<String>, _>>()?)
            .bind(each(rows, |r| array_text(&r.job.tags)))
            .bind(each(rows, |r| r.job.meta.as_deref()))
            .bind(each(rows, |r| r.job.request_id.as_deref()))
            .bind(each(rows, |r| r.job.traceparent.as_deref()))
            .bind(each(rows, |r| r.ord))
            .bind(each(rows, |r| r.step))
            .bind(each(rows, |r| r.item.map(|n| i32::try_from(n).unwrap_or(i32::MAX))))
            .bind(each(rows, |r| r.blocked))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Inserts steps.
pub(super) async fn insert_steps(
    connection: &mut PgConnection,
    run: WorkflowId,
    namespace: &Namespace,
    steps: &[NewStep],
    now: i64,
) -> Result<(), sqlx::Error> {
    // Arrays of arrays must have one length in PostgreSQL, so the positions travel as array literals.
    const SQL: &str = "
INSERT INTO workflow_steps (workflow_id, namespace, ord, step, state, due, needs, dependents, needs_left, plain,
    many, paced, job_id, spec, started_at)
SELECT $1, $2, ord, step, state, due, needs::int[], dependents::int[], needs_left, plain, many, paced, job_id, spec,
    CASE WHEN state = 1 THEN $3 END
FROM unnest($4::int[], $5::text[], $6::smallint[], $7::bigint[], $8::text[], $9::text[], $10::int[],
    $11::boolean[], $12::boolean[], $13::boolean[], $14::uuid[], $15::text[])
AS v(ord, step, state, due, needs, dependents, needs_left, plain, many, paced, job_id, spec)";
    for steps in steps.chunks(CHUNK) {
        fn each<'a, T>(steps: &'a [NewStep], part: impl Fn(&'a NewStep) -> T) -> Vec<T> {
            steps.iter().map(part).collect()
        }
        sqlx::query(SQL)
            .bind(run.uuid())
            .bind(namespace.as_str())
            .bind(now)
            .bind(each(steps, |s| s.ord))
            .bind(each(steps, |s| s.id.as_str()))
            .bind(each(steps, |s| s.state as i16))
            .bind(each(steps, |s| i64::from(s.due)))
            .bind(each(steps, |s| literal(&s.needs)))
            .bind(each(steps, |s| literal(&s.dependents)))
            .bind(each(steps, |s| i32::try_from(s.needs.len()).unwrap_or(i32::MAX)))
            .bind(each(steps, |s| s.plain))
            .bind(each(steps, |s| s.many))
            .bind(each(steps, |s| s.paced))
            .bind(each(steps, |s| s.job.as_ref().map(|job| job.id.uuid())))
            .bind(each(steps, |s| s.spec.as_str()))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn literal(numbers: &[i32]) -> String {
    let texts: Vec<String> = numbers.iter().map(i32::to_string).collect();
    format!("{{{}}}", texts.join(","))
}
