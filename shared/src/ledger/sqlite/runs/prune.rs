//! Forgetting runs that are past their time, whole.

use sqlx::sqlite::SqliteConnection;

use crate::ledger::sqlite::blobs;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::prune::{self, Cause};
use crate::ledger::sqlite::statement::{Args, execute, row, rows};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::time::Timestamp;

/// Runs that may go, each with jobs of it.
pub(in crate::ledger::sqlite) type Ended = Vec<(WorkflowId, Vec<JobId>)>;

/// Runs that ended before `before` and whose parents have ended, earliest first, with at most `limit` jobs and about as many steps in all. Of a run
/// with more jobs than that the first ones go, and the run with the last. Reads only.
pub(in crate::ledger::sqlite) async fn ended(
    connection: &mut SqliteConnection,
    before: Timestamp,
    limit: u32,
) -> Result<Ended, Fault> {
    let sql = "SELECT id, steps FROM workflows w WHERE state >= 10 AND finished_at < ? \
               AND NOT EXISTS (SELECT 1 FROM workflows p WHERE p.id = w.parent_id AND p.state < 10) \
               ORDER BY finished_at LIMIT ?";
    let args = Args::default().with(before.micros()).with(limit);
    let (mut ended, mut jobs_left, mut steps_left) = (Ended::new(), limit, i64::from(limit));
    for found in &rows(connection, sql, args).await? {
        let mut c = Columns::of(found);
        let id = WorkflowId::from_bytes(c.id()?);
        let jobs = jobs_of(connection, id, jobs_left).await?;
        jobs_left -= u32::try_from(jobs.len()).unwrap_or(jobs_left).min(jobs_left);
        steps_left -= c.next::<i64>()?;
        ended.push((id, jobs));
        if jobs_left == 0 || steps_left <= 0 {
            break;
        }
    }
    Ok(ended)
}

async fn jobs_of(
    connection: &mut SqliteConnection,
    id: WorkflowId,
    limit: u32,
) -> Result<Vec<JobId>, Fault> {
    let sql = "SELECT id FROM jobs WHERE workflow_id = ? ORDER BY id LIMIT ?";
    let args = Args::default().with(id.as_bytes().as_slice()).with(limit);
    let found = rows(connection, sql, args).await?;
    found.iter().map(|row| Ok(JobId::from_bytes(Columns::of(row).id()?))).collect()
}

/// Deletes jobs of runs with all that is theirs, and the runs that have none left; how many of both. A run that was
/// made to go on since somebody looked is left alone.
pub(in crate::ledger::sqlite) async fn forget(
    tx: &mut Tx<'_>,
    ended: &[(WorkflowId, Vec<JobId>)],
    before: Timestamp,
) -> Result<u64, Fault> {
    let mut deleted = 0;
    for (id, jobs) in ended {
        let of = || Args::default().with(id.as_bytes().as_slice());
        let sql = "SELECT namespace, input_blob, output_blob FROM workflows w \
                   WHERE id = ? AND state >= 10 AND finished_at < ? AND NOT EXISTS \
                   (SELECT 1 FROM workflows p WHERE p.id = w.parent_id AND p.state < 10)";
        let Some(found) = row(tx.connection, sql, of().with(before.micros())).await? else {
            continue;
        };
        deleted += prune::forget(tx, jobs, Cause::OfRun).await?;
        let sql = "SELECT 1 FROM jobs WHERE workflow_id = ? LIMIT 1";
        if row(tx.connection, sql, of()).await?.is_some() {
            continue;
        }
        for sql in [
            "DELETE FROM workflow_steps WHERE workflow_id = ?",
            "DELETE FROM workflow_plans WHERE workflow_id = ?",
            "DELETE FROM workflow_items WHERE workflow_id = ?",
            "DELETE FROM workflow_signals WHERE workflow_id = ?",
            "DELETE FROM workflows WHERE id = ?",
        ] {
            execute(tx.connection, sql, of()).await?;
        }
        let mut c = Columns::of(&found);
        // What cannot be read of an old run must not keep it for ever; its values go with age.
        if let Ok(namespace) = c.parsed() {
            let blobs = [c.maybe_id()?, c.maybe_id()?].into_iter().flatten();
            let values: Vec<_> = blobs.map(|blob| (Clone::clone(&namespace), blob)).collect();
            blobs::forget_unnamed(tx.connection, &values).await?;
        }
        deleted += 1;
    }
    Ok(deleted)
}
