//! Forgetting runs that are past their time.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::ledger::retention::{AgedRuns, RunPlace};
use crate::ledger::sqlite::blobs;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::prune::{self, Cause};
use crate::ledger::sqlite::statement::{Args, execute, row, rows};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::JobState;
use crate::model::time::Timestamp;
use crate::model::workflow::WorkflowState;

/// Runs looked at by one step.
const SCAN_MAX: u32 = 5_000;

/// What a step of a walk over runs has found.
pub(in crate::ledger::sqlite) struct Found {
    pub(in crate::ledger::sqlite) ids: Vec<WorkflowId>,
    /// The last run that was looked at.
    pub(in crate::ledger::sqlite) last: Option<RunPlace>,
    /// None behind it is old enough.
    pub(in crate::ledger::sqlite) at_end: bool,
}

/// Runs behind `after` that are past their time and whose parents have ended, earliest first: of about `limit` steps,
/// but at least one. Reads only.
pub(in crate::ledger::sqlite) async fn ended(
    connection: &mut SqliteConnection,
    aged: &AgedRuns,
    after: Option<RunPlace>,
    limit: u32,
) -> Result<Found, Fault> {
    let sql = "SELECT id, finished_at, steps, state, namespace, EXISTS \
               (SELECT 1 FROM workflows p WHERE p.id = w.parent_id AND p.state < 10) \
               FROM workflows w WHERE state >= 10 AND finished_at < ?1 AND finished_at >= ?2 \
               AND (finished_at, id) > (?2, ?3) ORDER BY finished_at, id LIMIT ?4";
    let (named, included) = aged.whose.parts();
    let (mut ids, mut last, mut at_end) = (Vec::new(), None, false);
    let mut left = i64::from(limit);
    // First as many as may be deleted at most: where all are old, no more are looked at.
    for most in [limit.min(SCAN_MAX), SCAN_MAX] {
        let (from, id) = last.or(after).map_or((i64::MIN, [0; 16]), |at: RunPlace| {
            (at.finished_at.micros(), *at.id.as_bytes())
        });
        let args = Args::default().with(aged.before.micros()).with(from).with(id.as_slice());
        let found = rows(connection, sql, args.with(most)).await?;
        let mut looked = 0;
        for row in &found {
            if left <= 0 {
                break;
            }
            let mut c = Columns::of(row);
            let (id, finished_at) = (WorkflowId::from_bytes(c.id()?), c.time()?);
            (last, looked) = (Some(RunPlace { finished_at, id }), looked + 1);
            let (steps, state, namespace, is_looked_at): (i64, i64, &str, bool) =
                (c.next()?, c.next()?, c.next()?, c.next()?);
            let is_of = |of: &WorkflowState| of.is_terminal() && i64::from(*of as i16) == state;
            let is_its = named.contains(&namespace) == included;
            if aged.states.iter().any(is_of) && is_its && !is_looked_at {
                ids.push(id);
                left -= steps + 1;
            }
        }
        at_end = looked == found.len() && found.len() < most as usize;
        if at_end || left <= 0 {
            break;
        }
    }
    Ok(Found { ids, last, at_end })
}

/// Deletes runs with all that is theirs; how many runs and jobs. The run goes first, so that none is there in part: of
/// its jobs at most `limit` that are past their own time go with it, and the others as old jobs do. A run that was made to
/// go on since somebody looked is left alone.
pub(in crate::ledger::sqlite) async fn forget(
    tx: &mut Tx<'_>,
    ended: &[WorkflowId],
    aged: &AgedRuns,
    limit: u32,
) -> Result<u64, Fault> {
    let (mut deleted, mut left) = (0, limit);
    let time = |(state, before): &(JobState, Timestamp)| {
        ((*state as i16).to_string(), serde_json::Value::from(before.micros()))
    };
    let times = serde_json::Value::Object(aged.jobs.iter().map(time).collect()).to_string();
    for id in ended {
        let of = || Args::default().with(id.as_bytes().as_slice());
        let sql = "SELECT namespace, input_blob, output_blob FROM workflows w \
                   WHERE id = ? AND state >= 10 AND finished_at < ? AND NOT EXISTS \
                   (SELECT 1 FROM workflows p WHERE p.id = w.parent_id AND p.state < 10)";
        let Some(found) = row(tx.connection, sql, of().with(aged.before.micros())).await? else {
            continue;
        };
        for sql in [
            "DELETE FROM workflow_steps WHERE workflow_id = ?",
            "DELETE FROM workflow_plans WHERE workflow_id = ?",
            "DELETE FROM workflow_signals WHERE workflow_id = ?",
            "DELETE FROM workflows WHERE id = ?",
        ] {
            execute(tx.connection, sql, of()).await?;
        }
        forget_values(tx, &found).await?;
        let sql = "SELECT id FROM jobs WHERE workflow_id = ? AND state >= 10 \
                   AND changed_at < json_extract(?, '$.\"' || state || '\"') LIMIT ?";
        let found = rows(tx.connection, sql, of().with(times.as_str()).with(left)).await?;
        let jobs: Result<Vec<JobId>, Fault> =
            found.iter().map(|row| Ok(JobId::from_bytes(Columns::of(row).id()?))).collect();
        let jobs = prune::forget(tx, &jobs?, Cause::OfRun).await?;
        left = left.saturating_sub(u32::try_from(jobs).unwrap_or(u32::MAX));
        deleted += jobs + 1;
    }
    Ok(deleted)
}

/// What cannot be read of an old run must not keep it for ever; its values go with age.
async fn forget_values(tx: &mut Tx<'_>, run: &SqliteRow) -> Result<(), Fault> {
    let mut c = Columns::of(run);
    let Ok(namespace) = c.parsed() else { return Ok(()) };
    let blobs = [c.maybe_id()?, c.maybe_id()?].into_iter().flatten();
    let values: Vec<_> = blobs.map(|blob| (Clone::clone(&namespace), blob)).collect();
    blobs::forget_unnamed(tx.connection, &values).await
}
