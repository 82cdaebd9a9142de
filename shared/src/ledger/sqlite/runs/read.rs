//! Runs, steps and their jobs as they are.

use sqlx::sqlite::SqliteConnection;

use super::row::{
    error_of, run_of, select_runs, select_steps, step_job_of, step_of, step_state, workflow_state,
};
use super::steps::ords_text;
use crate::ledger::runs::{ChildSeen, DUE_MAX, Run, Snapshot, Step, StepJob};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::statement::{Args, Bulk, row, rows};
use crate::model::id::{JobId, WorkflowId};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;
use crate::model::workflow::StepState;

/// Most steps in one answer.
const STEPS_MAX: u32 = 2_000;

fn of(id: WorkflowId) -> Args {
    Args::default().with(id.as_bytes().as_slice())
}

/// One run of a namespace.
pub(in crate::ledger::sqlite) async fn run(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: WorkflowId,
) -> Result<Option<Run>, Fault> {
    let sql = select_runs!("WHERE w.id = ? AND w.namespace = ?");
    let found = row(connection, sql, of(id).with(namespace.as_str())).await?;
    found.as_ref().map(run_of).transpose()
}

/// Steps after a position, in order.
pub(in crate::ledger::sqlite) async fn steps(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    after: i32,
    limit: u32,
) -> Result<Vec<Step>, Fault> {
    let sql = select_steps!("WHERE s.workflow_id = ? AND s.ord > ? ORDER BY s.ord LIMIT ?");
    let found = rows(connection, sql, of(id).with(after).with(limit.min(STEPS_MAX))).await?;
    found.iter().map(step_of).collect()
}

/// As [`steps`], without lists and outputs.
pub(in crate::ledger::sqlite) async fn step_heads(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    after: i32,
    limit: u32,
) -> Result<Vec<Step>, Fault> {
    let sql = select_steps!(heads, "WHERE s.workflow_id = ? AND s.ord > ? ORDER BY s.ord LIMIT ?");
    let found = rows(connection, sql, of(id).with(after).with(limit.min(STEPS_MAX))).await?;
    found.iter().map(step_of).collect()
}

/// Steps by id, in order of position; missing ones are left out.
pub(in crate::ledger::sqlite) async fn steps_named(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    names: &[String],
) -> Result<Vec<Step>, Fault> {
    static STEPS: Bulk =
        Bulk::new(select_steps!("WHERE (s.workflow_id, s.step) IN (VALUES"), "(?, ?)", ")");
    let found = STEPS
        .fetch(connection, names, |args, name| {
            args.add(id.as_bytes().as_slice()).add(name.as_str());
        })
        .await?;
    let mut steps: Vec<Step> = found.iter().map(step_of).collect::<Result<_, _>>()?;
    steps.sort_unstable_by_key(|step| step.ord);
    steps.dedup_by_key(|step| step.ord);
    Ok(steps)
}

/// How many steps are in each state, without the end.
pub(in crate::ledger::sqlite) async fn step_counts(
    connection: &mut SqliteConnection,
    id: WorkflowId,
) -> Result<Vec<(StepState, u32)>, Fault> {
    let sql = "SELECT state, count(*) FROM workflow_steps WHERE workflow_id = ? AND ord >= 0 \
               GROUP BY state ORDER BY state";
    let found = rows(connection, sql, of(id)).await?;
    let count = |row| {
        let mut c = Columns::of(row);
        Ok((step_state(c.next()?)?, c.count()?))
    };
    found.iter().map(count).collect()
}

/// What an advance decides over, all of one instant.
pub(in crate::ledger::sqlite) async fn snapshot(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    now: Timestamp,
) -> Result<Option<Snapshot>, Fault> {
    // The run is read before its steps: what changes between the two changes its version, or makes its steps due.
    let Some(found) = row(connection, select_runs!("WHERE w.id = ?"), of(id)).await? else {
        return Ok(None);
    };
    let sql = select_steps!(
        "WHERE s.workflow_id = ?1 AND s.ord IN (\
         SELECT ord FROM workflow_steps WHERE workflow_id = ?1 AND due > 0 \
         UNION SELECT ord FROM workflow_steps WHERE wake_at <= ?2 AND +workflow_id = ?1) \
         ORDER BY s.ord LIMIT ?3"
    );
    let steps = rows(connection, sql, of(id).with(now.micros()).with(DUE_MAX)).await?;
    let due = steps.iter().map(step_of).collect::<Result<_, _>>()?;
    Ok(Some(Snapshot { run: run_of(&found)?, due, now }))
}

/// The jobs of the steps `?2` of the run `?1`.
macro_rules! named_jobs {
    () => {
        "WITH n (ord, item, job_id) AS (\
         SELECT ord, NULL, job_id FROM workflow_steps WHERE workflow_id = ?1 \
         AND job_id IS NOT NULL AND ord IN (SELECT value FROM json_each(?2)) UNION ALL \
         SELECT ord, item, job_id FROM workflow_items WHERE workflow_id = ?1 \
         AND ord IN (SELECT value FROM json_each(?2))) "
    };
}

/// The jobs of steps, items in order.
pub(in crate::ledger::sqlite) async fn step_jobs(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    ords: &[i32],
) -> Result<Vec<StepJob>, Fault> {
    let sql = concat!(
        named_jobs!(),
        "SELECT n.ord, n.item, j.id, j.state, j.error_retryable, j.error_code, \
         j.error_message, j.output_blob, j.output \
         FROM n CROSS JOIN jobs j ON j.id = n.job_id ORDER BY n.ord, n.item"
    );
    let found = rows(connection, sql, of(id).with(ords_text(ords))).await?;
    found.iter().map(step_job_of).collect()
}

/// See [`crate::ledger::Ledger::step_output_bytes`].
pub(in crate::ledger::sqlite) async fn step_output_bytes(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    ords: &[i32],
) -> Result<u64, Fault> {
    let sql = concat!(
        named_jobs!(),
        "SELECT coalesce(sum(length(j.output)), 0) FROM n CROSS JOIN jobs j ON j.id = n.job_id"
    );
    let found = row(connection, sql, of(id).with(ords_text(ords))).await?;
    let bytes: i64 = found.map_or(Ok(0), |row| Columns::of(&row).next())?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// Jobs of a run that may run or do, in id order.
pub(in crate::ledger::sqlite) async fn live_jobs(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    after: Option<JobId>,
    limit: u32,
) -> Result<Vec<JobId>, Fault> {
    let sql = "SELECT id FROM jobs WHERE workflow_id = ? AND id > ? AND state < 10 \
               AND (state > 0 OR order_key IS NOT NULL \
                    AND EXISTS (SELECT 1 FROM order_links l WHERE l.job_id = jobs.id)) ORDER BY id LIMIT ?";
    let after = after.map_or([0; 16], |id| *id.as_bytes());
    let found = rows(connection, sql, of(id).with(after.as_slice()).with(limit)).await?;
    found.iter().map(|row| Ok(JobId::from_bytes(Columns::of(row).id()?))).collect()
}

/// Runs that steps have started, oldest first.
pub(in crate::ledger::sqlite) async fn children(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    ords: &[i32],
) -> Result<Vec<(i32, ChildSeen)>, Fault> {
    let sql = "SELECT w.parent_ord, w.id, w.state, w.error_code, w.error_message, \
               coalesce(w.output, b.bytes) FROM workflows w LEFT JOIN blobs b \
               ON b.namespace = w.namespace AND b.id = w.output_blob WHERE w.parent_id = ? \
               AND w.parent_ord IN (SELECT value FROM json_each(?)) ORDER BY w.id";
    let found = rows(connection, sql, of(id).with(ords_text(ords))).await?;
    let child = |row| {
        let mut c = Columns::of(row);
        let ord = c.next()?;
        let seen = ChildSeen {
            id: WorkflowId::from_bytes(c.id()?),
            state: workflow_state(c.next()?)?,
            error: error_of(&mut c)?,
            output: c.maybe_bytes()?,
        };
        Ok((ord, seen))
    };
    found.iter().map(child).collect()
}
