//! Runs and steps as they are.

use sqlx::PgPool;
use uuid::Uuid;

use super::super::Result;
use super::super::error::unchanged;
use super::super::row::{get, parse, small};
use super::row::{self, run_columns, step_columns};
use crate::ledger::runs::{ChildSeen, DUE_MAX, Run, Snapshot, Step, StepJob};
use crate::model::id::{JobId, WorkflowId};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;
use crate::model::workflow::StepState;

pub(in super::super) async fn run(
    pool: &PgPool,
    namespace: &Namespace,
    id: WorkflowId,
) -> Result<Option<Run>> {
    let sql =
        concat!("SELECT ", run_columns!(), " FROM workflows w WHERE id = $1 AND namespace = $2");
    let query = sqlx::query(sql).bind(id.uuid()).bind(namespace.as_str());
    query.fetch_optional(pool).await.map_err(unchanged)?.as_ref().map(row::run).transpose()
}

/// Most steps of one answer.
const STEPS_MAX: u32 = 2_000;

/// Steps after a position, in order.
pub(in super::super) async fn steps(
    pool: &PgPool,
    id: WorkflowId,
    after: i32,
    limit: u32,
) -> Result<Vec<Step>> {
    let sql = concat!(
        "SELECT ",
        step_columns!(),
        " FROM workflow_steps s WHERE workflow_id = $1 AND ord > $2 ORDER BY ord LIMIT $3"
    );
    let query = sqlx::query(sql).bind(id.uuid()).bind(after).bind(i64::from(limit.min(STEPS_MAX)));
    query.fetch_all(pool).await.map_err(unchanged)?.iter().map(row::step).collect()
}

/// As [`steps`], without lists and outputs, which the server then need not fetch from where it keeps large values.
pub(in super::super) async fn step_heads(
    pool: &PgPool,
    id: WorkflowId,
    after: i32,
    limit: u32,
) -> Result<Vec<Step>> {
    let sql = concat!(
        "SELECT ",
        step_columns!(heads),
        " FROM workflow_steps s WHERE workflow_id = $1 AND ord > $2 ORDER BY ord LIMIT $3"
    );
    let query = sqlx::query(sql).bind(id.uuid()).bind(after).bind(i64::from(limit.min(STEPS_MAX)));
    query.fetch_all(pool).await.map_err(unchanged)?.iter().map(row::step).collect()
}

pub(in super::super) async fn steps_named(
    pool: &PgPool,
    id: WorkflowId,
    names: &[String],
) -> Result<Vec<Step>> {
    let sql = concat!(
        "SELECT ",
        step_columns!(),
        " FROM workflow_steps s WHERE workflow_id = $1 AND step = ANY($2) AND ord >= 0 ORDER BY ord"
    );
    let names: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| !name.contains('\0')).collect();
    let query = sqlx::query(sql).bind(id.uuid()).bind(names);
    query.fetch_all(pool).await.map_err(unchanged)?.iter().map(row::step).collect()
}

/// How many steps are in each state, the end left out.
pub(in super::super) async fn step_counts(
    pool: &PgPool,
    id: WorkflowId,
) -> Result<Vec<(StepState, u32)>> {
    let sql = "SELECT state, count(*)::int FROM workflow_steps \
               WHERE workflow_id = $1 AND ord >= 0 GROUP BY state ORDER BY state";
    let rows = sqlx::query(sql).bind(id.uuid()).fetch_all(pool).await.map_err(unchanged)?;
    rows.iter().map(|r| Ok((row::step_state(get(r, 0)?)?, small(r, 1, "count")?))).collect()
}

/// Jobs that are neither terminal nor blocked, in id order.
pub(in super::super) async fn live_jobs(
    pool: &PgPool,
    id: WorkflowId,
    after: Option<JobId>,
    limit: u32,
) -> Result<Vec<JobId>> {
    let sql = "SELECT id FROM jobs j WHERE workflow_id = $1 AND id > $2 AND state + 0 < 10 \
               AND (state + 0 <> 0 OR order_key IS NOT NULL \
                    AND EXISTS (SELECT FROM order_links l WHERE l.job_id = j.id)) ORDER BY id LIMIT $3";
    let query = sqlx::query_scalar(sql)
        .bind(id.uuid())
        .bind(after.map_or(Uuid::nil(), JobId::uuid))
        .bind(i64::from(limit));
    let ids: Vec<Uuid> = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(ids.into_iter().map(JobId::from_uuid).collect())
}

/// Runs that steps have started, oldest first.
pub(in super::super) async fn children(
    pool: &PgPool,
    id: WorkflowId,
    ords: &[i32],
) -> Result<Vec<(i32, ChildSeen)>> {
    let sql = "SELECT c.parent_ord, c.id, c.state, coalesce(c.output, b.bytes), c.error_code, c.error_message \
               FROM workflows c LEFT JOIN blobs b ON b.namespace = c.namespace AND b.id = c.output_blob \
               WHERE c.parent_id = $1 AND c.parent_ord = ANY($2) ORDER BY c.created_at, c.id";
    let query = sqlx::query(sql).bind(id.uuid()).bind(ords);
    query.fetch_all(pool).await.map_err(unchanged)?.iter().map(row::child).collect()
}

/// What an advance decides over. The run is read before its steps: what changes between the two changes its
/// version, or makes its steps due again.
pub(in super::super) async fn snapshot(pool: &PgPool, id: WorkflowId) -> Result<Option<Snapshot>> {
    let sql = concat!(
        "SELECT ",
        run_columns!(),
        ", (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM workflows w WHERE id = $1"
    );
    let found = sqlx::query(sql).bind(id.uuid()).fetch_optional(pool).await.map_err(unchanged)?;
    let Some(found) = found else { return Ok(None) };
    let sql = concat!(
        "SELECT ",
        step_columns!(),
        " FROM workflow_steps s WHERE workflow_id = $1 AND ord = ANY(ARRAY( \
             SELECT ord FROM workflow_steps WHERE workflow_id = $1 AND due > 0 \
             UNION SELECT ord FROM workflow_steps WHERE workflow_id = $1 AND wake_at <= $3 \
             ORDER BY 1 LIMIT $2)) ORDER BY ord"
    );
    let now: i64 = get(&found, 28)?;
    let query = sqlx::query(sql).bind(id.uuid()).bind(i64::from(DUE_MAX)).bind(now);
    let steps = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(Some(Snapshot {
        run: row::run(&found)?,
        due: steps.iter().map(row::step).collect::<Result<_>>()?,
        now: Timestamp::from_micros(now),
    }))
}

/// The jobs of the steps `$2` of the run `$1`.
macro_rules! named_jobs {
    () => {
        "
WITH named AS (
    SELECT ord, NULL::int AS item, job_id FROM workflow_steps
    WHERE workflow_id = $1 AND ord = ANY($2) AND job_id IS NOT NULL
    UNION ALL
    SELECT ord, item, job_id FROM workflow_items WHERE workflow_id = $1 AND ord = ANY($2)
)"
    };
}

/// The jobs of steps, items in order.
pub(in super::super) async fn step_jobs(
    pool: &PgPool,
    id: WorkflowId,
    ords: &[i32],
) -> Result<Vec<StepJob>> {
    const SQL: &str = concat!(
        named_jobs!(),
        "
SELECT n.ord, n.item, j.id, j.state, j.output, j.output_blob, j.error_code, j.error_message, j.error_retryable
FROM named n JOIN jobs j ON j.id = n.job_id ORDER BY n.ord, n.item"
    );
    let query = sqlx::query(SQL).bind(id.uuid()).bind(ords);
    query.fetch_all(pool).await.map_err(unchanged)?.iter().map(row::step_job).collect()
}

/// See [`crate::ledger::Ledger::step_output_bytes`].
pub(in super::super) async fn step_output_bytes(
    pool: &PgPool,
    id: WorkflowId,
    ords: &[i32],
) -> Result<u64> {
    const SQL: &str = concat!(
        named_jobs!(),
        "
SELECT coalesce(sum(octet_length(j.output)), 0)::bigint FROM named n JOIN jobs j ON j.id = n.job_id"
    );
    let query = sqlx::query_scalar(SQL).bind(id.uuid()).bind(ords);
    let bytes: i64 = query.fetch_one(pool).await.map_err(unchanged)?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// Runs with something due: steps, a wait or a deadline that has passed. In id order after `after`.
pub(in super::super) async fn due(
    pool: &PgPool,
    after: Option<WorkflowId>,
    limit: u32,
) -> Result<Vec<(Namespace, WorkflowId)>> {
    const SQL: &str = "
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
), named AS (
    (SELECT DISTINCT workflow_id AS id FROM workflow_steps
     WHERE due > 0 AND workflow_id > $1 ORDER BY 1 LIMIT $2)
    UNION
    (SELECT DISTINCT workflow_id FROM workflow_steps, clock
     WHERE wake_at IS NOT NULL AND wake_at <= clock.now AND workflow_id > $1 ORDER BY 1 LIMIT $2)
    UNION
    (SELECT id FROM workflows, clock
     WHERE deadline IS NOT NULL AND deadline <= clock.now AND state < 10 AND state = 0 AND ending IS NULL
       AND id > $1
     ORDER BY 1 LIMIT $2)
)
SELECT w.namespace, w.id FROM named n JOIN workflows w ON w.id = n.id WHERE w.state < 10
ORDER BY w.id LIMIT $2";
    let after = after.map_or(Uuid::nil(), WorkflowId::uuid);
    let query = sqlx::query(SQL).bind(after).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    rows.iter()
        .map(|row| Ok((parse(row, 0, "namespace")?, WorkflowId::from_uuid(get(row, 1)?))))
        .collect()
}
