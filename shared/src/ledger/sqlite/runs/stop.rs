//! Stopping a run.

use crate::ledger::runs::END;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::statement::{Args, Bulk, execute, row};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::WorkflowId;

/// Cancels what has not started, and makes the end wait for what runs: with its dependents cancelled, a running step
/// would otherwise be needed by nobody. What waits is due, and items that were not made are not waited for. A repeat
/// finds nothing left to do.
pub(super) async fn stop(tx: &mut Tx<'_>, run: WorkflowId) -> Result<(), Fault> {
    let id = || Args::default().with(run.as_bytes().as_slice());
    let now = tx.now.micros();
    let sql = "UPDATE jobs SET state = 12, cancel_requested = 1, finished_at = ?2, \
               changed_at = ?2, error_code = 'cancelled', \
               error_message = 'its workflow was stopped', error_retryable = 0 \
               WHERE state = 0 AND id IN (SELECT job_id FROM workflow_steps \
               WHERE workflow_id = ?1 AND state = 0 AND job_id IS NOT NULL)";
    execute(tx.connection, sql, id().with(now)).await?;
    // `-1` is in the text of a list only where the end is in the list.
    let sql = "SELECT count(*) FROM workflow_steps s \
               JOIN workflow_plans p ON p.workflow_id = s.workflow_id AND p.ord = s.ord \
               WHERE s.workflow_id = ? AND s.state = 0 AND s.ord >= 0 \
               AND instr(p.dependents, '-1') > 0";
    let stopped = row(tx.connection, sql, id()).await?;
    let stopped: i64 = stopped.map_or(Ok(0), |row| Columns::of(&row).next())?;
    let sql = "UPDATE workflow_steps SET state = 12, finished_at = ?2, due = 0, wake_at = NULL \
               WHERE workflow_id = ?1 AND state = 0 AND ord >= 0";
    execute(tx.connection, sql, id().with(now)).await?;
    let sql = "UPDATE workflow_plans SET dependents = json_insert(dependents, '$[#]', ?2) \
               WHERE workflow_id = ?1 AND instr(dependents, '-1') = 0 AND ord IN \
               (SELECT ord FROM workflow_steps WHERE workflow_id = ?1 AND state IN (1, 2))";
    let awaited = execute(tx.connection, sql, id().with(END)).await?;
    let sql = "UPDATE workflow_steps SET due = due + 1 WHERE workflow_id = ? AND state = 2";
    execute(tx.connection, sql, id()).await?;
    stop_items(tx, run).await?;
    // The end may have been the last that waits: then it is due by this very statement.
    let sql = "UPDATE workflow_steps SET needs_left = max(0, needs_left + ?2), \
               due = due + (needs_left + ?2 <= 0) WHERE workflow_id = ?1 AND ord = ?3";
    let change = i64::try_from(awaited).unwrap_or(i64::MAX) - stopped;
    execute(tx.connection, sql, id().with(change).with(END)).await?;
    Ok(())
}

/// Leaves to wait for the items whose jobs have not ended. With none, nobody's end would make the step due.
async fn stop_items(tx: &mut Tx<'_>, run: WorkflowId) -> Result<(), Fault> {
    let sql = "WITH v (ord, open) AS (SELECT s.ord, (SELECT count(*) FROM workflow_items i \
               CROSS JOIN jobs j ON j.id = i.job_id WHERE i.workflow_id = s.workflow_id \
               AND i.ord = s.ord AND j.state < 10) FROM workflow_steps s \
               WHERE s.workflow_id = ?1 AND s.state = 1 AND s.many AND s.items_made < s.items_total) \
               UPDATE workflow_steps AS s SET items_open = v.open, due = s.due + (v.open = 0) \
               FROM v WHERE s.workflow_id = ?1 AND s.ord = v.ord";
    execute(tx.connection, sql, Args::default().with(run.as_bytes().as_slice())).await?;
    Ok(())
}

/// Makes the end wait for these steps, where they have not ended and it does not yet.
pub(super) async fn await_end(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    awaits: &[i32],
) -> Result<(), Fault> {
    static AWAIT: Bulk = Bulk::new(
        "WITH v (workflow_id, ord) AS (VALUES",
        "(?, ?)",
        ") UPDATE workflow_plans AS p SET dependents = json_insert(p.dependents, '$[#]', -1) FROM v \
         WHERE p.workflow_id = v.workflow_id AND p.ord = v.ord AND instr(p.dependents, '-1') = 0 \
         AND EXISTS (SELECT 1 FROM workflow_steps s WHERE s.workflow_id = p.workflow_id \
         AND s.ord = p.ord AND s.state < 10)",
    );
    if awaits.is_empty() {
        return Ok(());
    }
    let awaited = AWAIT
        .execute(tx.connection, awaits, |args, ord| {
            args.add(run.as_bytes().as_slice()).add(*ord);
        })
        .await?;
    let sql = "UPDATE workflow_steps SET needs_left = needs_left + ?2 \
               WHERE workflow_id = ?1 AND ord = ?3";
    let args = Args::default()
        .with(run.as_bytes().as_slice())
        .with(i64::try_from(awaited).unwrap_or(i64::MAX))
        .with(END);
    execute(tx.connection, sql, args).await?;
    Ok(())
}
