//! A run that has ended goes on.

use sqlx::{Acquire, PgConnection};

use super::super::error::unchanged;
use super::super::row::{int4, int8, value_parts};
use super::super::{Inner, Result};
use super::{Tries, name_blob, read_back};
use crate::ledger::runs::{Reset, Run};
use crate::model::id::JobId;
use crate::model::job::Job;
use crate::model::workflow::StepState;

/// See [`crate::ledger::Ledger::retry_run`].
pub(in super::super) async fn retry(
    inner: &Inner,
    run: &Run,
    resets: &[Reset],
) -> Result<Option<Vec<Job>>> {
    let mut tries = Tries::default();
    loop {
        let mut connection = inner.own.acquire().await.map_err(unchanged)?;
        match attempt(&mut connection, run, resets).await {
            Ok(false) => return Ok(None),
            Ok(true) => break,
            Err(error) => tries.again(error)?,
        }
    }
    let ready = resets.iter().filter(|reset| reset.to == StepState::Released);
    let ids: Vec<JobId> = ready.flat_map(|reset| reset.jobs.iter().copied()).collect();
    Ok(Some(read_back(inner, &ids).await))
}

/// `false`: the run is not as it was, nothing is changed.
async fn attempt(
    connection: &mut PgConnection,
    run: &Run,
    resets: &[Reset],
) -> Result<bool, sqlx::Error> {
    const RUN: &str = "
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
)
UPDATE workflows SET version = version + 1, state = 0, changed_at = clock.now, began_at = clock.now,
    deadline = clock.now + (deadline - began_at), finished_at = NULL, ending = NULL, output = NULL,
    output_blob = NULL, error_code = NULL, error_message = NULL
FROM clock WHERE id = $1 AND version = $2 AND state >= 10
RETURNING changed_at";
    let mut transaction = connection.begin().await?;
    let query = sqlx::query_scalar(RUN).bind(run.id.uuid()).bind(int8(run.version));
    let Some(now) = query.fetch_optional(&mut *transaction).await? else { return Ok(false) };
    if let (_, Some(blob)) = value_parts(run.output.as_ref()) {
        name_blob(&mut transaction, run.namespace.as_str(), blob, -1).await?;
    }
    reset_steps(&mut transaction, run, resets, now).await?;
    reset_jobs(&mut transaction, run, resets, now).await?;
    // A stop had made the end wait for what ran, though others needed it.
    let sql = "UPDATE workflow_steps SET dependents = array_remove(dependents, -1) \
               WHERE workflow_id = $1 AND -1 = ANY(dependents) AND cardinality(dependents) > 1";
    sqlx::query(sql).bind(run.id.uuid()).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(true)
}

async fn reset_steps(
    connection: &mut PgConnection,
    run: &Run,
    resets: &[Reset],
    now: i64,
) -> Result<(), sqlx::Error> {
    const SQL: &str = "
WITH v AS MATERIALIZED (
    SELECT * FROM unnest($3::int[], $4::smallint[], $5::int[], $6::boolean[], $7::int[])
    AS v(ord, to_state, needs_left, due, items_open)
), forgotten AS (
    DELETE FROM workflow_items i USING v WHERE i.workflow_id = $1 AND i.ord = v.ord AND v.items_open IS NULL
)
UPDATE workflow_steps s SET state = v.to_state, needs_left = v.needs_left, due = v.due::int, wake_at = NULL,
    started_at = CASE WHEN v.to_state = 0 THEN NULL ELSE $2 END, finished_at = NULL, output = NULL,
    error_code = NULL, error_message = NULL,
    items = CASE WHEN v.items_open IS NULL THEN NULL ELSE s.items END,
    items_total = CASE WHEN v.items_open IS NULL THEN 1 ELSE s.items_total END,
    items_made = CASE WHEN v.items_open IS NULL THEN 1 ELSE s.items_made END,
    items_open = coalesce(v.items_open, 1), items_failed = 0
FROM v WHERE s.workflow_id = $1 AND s.ord = v.ord";
    sqlx::query(SQL)
        .bind(run.id.uuid())
        .bind(now)
        .bind(resets.iter().map(|r| r.ord).collect::<Vec<_>>())
        .bind(resets.iter().map(|r| r.to as i16).collect::<Vec<_>>())
        .bind(resets.iter().map(|r| int4(r.needs_left)).collect::<Vec<_>>())
        .bind(resets.iter().map(|r| r.due).collect::<Vec<_>>())
        .bind(resets.iter().map(|r| r.items_open.map(int4)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// As a redrive makes a job ready again; blocked where its step is.
async fn reset_jobs(
    connection: &mut PgConnection,
    run: &Run,
    resets: &[Reset],
    now: i64,
) -> Result<(), sqlx::Error> {
    const SQL: &str = "
WITH v AS MATERIALIZED (
    SELECT * FROM unnest($4::uuid[], $5::boolean[]) AS v(id, ready)
), old AS MATERIALIZED (
    SELECT j.output_blob FROM v JOIN jobs j ON j.id = v.id
    WHERE j.workflow_id = $1 AND j.output_blob IS NOT NULL
), unnamed AS (
    UPDATE blobs b SET refs = greatest(0, b.refs - n.jobs)
    FROM (SELECT output_blob AS id, count(*)::int AS jobs FROM old GROUP BY 1) n
    WHERE b.namespace = $3 AND b.id = n.id
), progress AS (
    DELETE FROM job_progress p USING v WHERE p.job_id = v.id
)
UPDATE jobs j SET state = CASE WHEN v.ready THEN 2 ELSE 0 END, fence = j.fence + 1, attempt = 0, crashes = 0,
    run_at = $2, changed_at = $2, started_at = NULL, finished_at = NULL, output = NULL, output_blob = NULL,
    error_code = NULL, error_message = NULL, error_retryable = NULL, cancel_requested = false,
    cancel_reason = NULL, expires_at = CASE WHEN j.expires_at > $2 THEN j.expires_at END
FROM v WHERE j.id = v.id AND j.workflow_id = $1";
    let jobs: Vec<(JobId, bool)> = resets
        .iter()
        .flat_map(|reset| reset.jobs.iter().map(|id| (*id, reset.to == StepState::Released)))
        .collect();
    if jobs.is_empty() {
        return Ok(());
    }
    sqlx::query(SQL)
        .bind(run.id.uuid())
        .bind(now)
        .bind(run.namespace.as_str())
        .bind(jobs.iter().map(|job| job.0.uuid()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.1).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
