//! A run is stopped: what has not started never does.

use sqlx::PgConnection;

use crate::ledger::runs::Run;

/// Cancels what has not started, makes what waits due, and the end wait for what runs: with its dependents cancelled,
/// a running step would otherwise be needed by nobody. The run is locked.
pub(super) async fn stop(
    connection: &mut PgConnection,
    run: &Run,
    now: i64,
) -> Result<(), sqlx::Error> {
    const CANCEL: &str = "
WITH stopped AS (
    UPDATE workflow_steps SET state = 12, finished_at = $2, due = 0, wake_at = NULL
    WHERE workflow_id = $1 AND state = 0 AND ord >= 0
    RETURNING job_id, dependents
), ended AS (
    UPDATE jobs j SET state = 12, cancel_requested = true, finished_at = $2, changed_at = $2,
        error_code = 'cancelled', error_message = 'its workflow was stopped', error_retryable = false
    FROM stopped s WHERE j.id = s.job_id AND j.state + 0 = 0
)
SELECT count(*) FROM stopped WHERE -1 = ANY(dependents)";
    // Items that were not made never end: nobody waits for them.
    const AWAIT: &str = "
WITH unmade AS (
    SELECT ord, CASE WHEN state = 1 AND many THEN items_total - items_made ELSE 0 END AS n, -1 = ANY(dependents) AS last
    FROM workflow_steps WHERE workflow_id = $1 AND state IN (1, 2)
), awaited AS (
    UPDATE workflow_steps s SET items_open = s.items_open - u.n,
        dependents = CASE WHEN u.last THEN s.dependents ELSE s.dependents || -1 END,
        due = s.due + (s.state = 2 OR u.n > 0 AND s.items_open = u.n)::int
    FROM unmade u WHERE s.workflow_id = $1 AND s.ord = u.ord
    RETURNING u.last
)
SELECT count(*) FROM awaited WHERE NOT last";
    // The end may have been the last that waits: then it is due by this very statement.
    const LOWER: &str = "
UPDATE workflow_steps SET needs_left = needs_left + $2, due = due + (needs_left + $2 = 0)::int
WHERE workflow_id = $1 AND ord = -1";
    let id = run.id.uuid();
    let stopped: i64 =
        sqlx::query_scalar(CANCEL).bind(id).bind(now).fetch_one(&mut *connection).await?;
    let awaited: i64 = sqlx::query_scalar(AWAIT).bind(id).fetch_one(&mut *connection).await?;
    let change = i32::try_from(awaited - stopped).expect("a run has fewer steps than that");
    sqlx::query(LOWER).bind(id).bind(change).execute(connection).await?;
    Ok(())
}

/// Makes the end wait for these steps, where they have not ended and it does not yet. The run is locked.
pub(super) async fn await_end(
    connection: &mut PgConnection,
    run: &Run,
    awaits: &[i32],
) -> Result<(), sqlx::Error> {
    if awaits.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE workflow_steps SET dependents = dependents || -1 \
               WHERE workflow_id = $1 AND ord = ANY($2) AND state < 10 AND NOT -1 = ANY(dependents)";
    let query = sqlx::query(sql).bind(run.id.uuid()).bind(awaits);
    let awaited = query.execute(&mut *connection).await?.rows_affected();
    let awaited = i32::try_from(awaited).expect("a run has fewer steps than that");
    let sql = "UPDATE workflow_steps SET needs_left = needs_left + $2 WHERE workflow_id = $1 AND ord = -1";
    sqlx::query(sql).bind(run.id.uuid()).bind(awaited).execute(connection).await?;
    Ok(())
}
