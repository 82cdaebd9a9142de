//! A run that has ended goes on.

use crate::ledger::runs::{END, Reset};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::bind_id;
use crate::ledger::sqlite::statement::{Args, Bulk, execute};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::JobState;
use crate::model::workflow::StepState;

/// See [`crate::ledger::Ledger::retry_run`]: the jobs that may run. `None`: the run is not as it was, and nothing is
/// changed.
pub(in crate::ledger::sqlite) async fn retry(
    tx: &mut Tx<'_>,
    (run, version): (WorkflowId, u64),
    resets: &[Reset],
) -> Result<Option<Vec<JobId>>, Fault> {
    let sql = "UPDATE workflows SET version = version + 1, state = 0, changed_at = ?3, \
               deadline = ?3 + (deadline - began_at), began_at = ?3, ending = NULL, finished_at = NULL, \
               error_code = NULL, error_message = NULL, output = NULL, output_blob = NULL \
               WHERE id = ?1 AND version = ?2 AND state >= 10";
    let args = id(run).with(i64::try_from(version).unwrap_or(i64::MAX)).with(tx.now.micros());
    if execute(tx.connection, sql, args).await? == 0 {
        return Ok(None);
    }
    // A stop had made the end wait for what ran.
    let sql = "UPDATE workflow_plans SET dependents = (SELECT json_group_array(value) \
               FROM json_each(dependents) WHERE value <> ?2) \
               WHERE workflow_id = ?1 AND instr(dependents, '-1') > 0 AND dependents <> '[-1]'";
    execute(tx.connection, sql, id(run).with(END)).await?;
    reset_steps(tx, run, resets).await?;
    forget_items(tx, run, resets).await?;
    reset_jobs(tx, run, resets).await
}

fn id(run: WorkflowId) -> Args {
    Args::default().with(run.as_bytes().as_slice())
}

async fn reset_steps(tx: &mut Tx<'_>, run: WorkflowId, resets: &[Reset]) -> Result<(), Fault> {
    // What `items_open` says of a `for_each` is of one that keeps its list; all else starts as it came in.
    static RESET: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, state, needs_left, due, started_at, open) AS (VALUES",
        "(?, ?, ?, ?, ?, ?, ?)",
        ") UPDATE workflow_steps AS s SET state = v.state, needs_left = v.needs_left, due = v.due, \
         started_at = v.started_at, finished_at = NULL, wake_at = NULL, output = NULL, \
         error_code = NULL, error_message = NULL, items_failed = 0, \
         items_open = coalesce(v.open, 1), items_made = iif(v.open IS NULL, 1, s.items_made), \
         items_total = iif(v.open IS NULL, 1, s.items_total) \
         FROM v WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord",
    );
    let now = tx.now.micros();
    RESET
        .execute(tx.connection, resets, |args, reset| {
            args.add(run.as_bytes().as_slice())
                .add(reset.ord)
                .add(reset.to as i16)
                .add(reset.needs_left)
                .add(reset.due)
                .add((reset.to != StepState::Blocked).then_some(now))
                .add(reset.items_open);
        })
        .await?;
    Ok(())
}

/// Forgets lists and items of steps that start from nothing. Their old jobs stay until the run is forgotten.
async fn forget_items(tx: &mut Tx<'_>, run: WorkflowId, resets: &[Reset]) -> Result<(), Fault> {
    static ITEMS: Bulk =
        Bulk::new("DELETE FROM workflow_items WHERE (workflow_id, ord) IN (VALUES", "(?, ?)", ")");
    static LISTS: Bulk = Bulk::new(
        "UPDATE workflow_plans SET items = NULL \
         WHERE items IS NOT NULL AND (workflow_id, ord) IN (VALUES",
        "(?, ?)",
        ")",
    );
    let fresh: Vec<i32> =
        resets.iter().filter(|reset| reset.items_open.is_none()).map(|reset| reset.ord).collect();
    for table in [&ITEMS, &LISTS] {
        table
            .execute(tx.connection, &fresh, |args, ord| {
                args.add(run.as_bytes().as_slice()).add(*ord);
            })
            .await?;
    }
    Ok(())
}

/// Gives jobs a fresh budget and a higher fence, as a redrive does; those that may run.
async fn reset_jobs(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    resets: &[Reset],
) -> Result<Option<Vec<JobId>>, Fault> {
    // A time to expire at that has passed would end the job at once.
    static RESET: Bulk = Bulk::new(
        "WITH v (id, workflow_id, state, now) AS (VALUES",
        "(?, ?, ?, ?)",
        ") UPDATE jobs SET state = v.state, fence = jobs.fence + 1, attempt = 0, crashes = 0, \
         run_at = v.now, changed_at = v.now, \
         expires_at = iif(jobs.expires_at > v.now, jobs.expires_at, NULL), \
         started_at = NULL, finished_at = NULL, cancel_requested = 0, cancel_reason = NULL, \
         error_retryable = NULL, error_code = NULL, error_message = NULL, usage = NULL, \
         output = NULL, output_blob = NULL \
         FROM v WHERE jobs.id = v.id AND jobs.workflow_id = v.workflow_id",
    );
    static PROGRESS: Bulk =
        Bulk::new("DELETE FROM job_progress WHERE job_id IN (VALUES", "(?)", ")");
    let mut jobs: Vec<(JobId, JobState)> = Vec::new();
    for reset in resets {
        let is_released = reset.to == StepState::Released;
        let state = if is_released { JobState::Ready } else { JobState::Blocked };
        jobs.extend(reset.jobs.iter().map(|id| (*id, state)));
    }
    let now = tx.now.micros();
    RESET
        .execute(tx.connection, &jobs, |args, (id, state)| {
            args.add(id.as_bytes().as_slice())
                .add(run.as_bytes().as_slice())
                .add(*state as i16)
                .add(now);
        })
        .await?;
    PROGRESS.execute(tx.connection, &jobs, |args, (id, _)| bind_id(args, id)).await?;
    let ready = jobs.into_iter().filter(|(_, state)| *state == JobState::Ready);
    Ok(Some(ready.map(|(id, _)| id).collect()))
}
