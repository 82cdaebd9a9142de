//! Forgetting runs that are past their time.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::ledger::sqlite::blobs;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::prune::{self, Cause};
use crate::ledger::sqlite::statement::{Args, execute, row, rows};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::time::Timestamp;

/// Runs that ended before `before` and whose parents have ended, earliest first: of about `limit` steps, but at least
/// one. Reads only.
pub(in crate::ledger::sqlite) async fn ended(
    connection: &mut SqliteConnection,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<WorkflowId>, Fault> {
    let sql = "SELECT id, steps FROM workflows w WHERE state >= 10 AND finished_at < ? \
               AND NOT EXISTS (SELECT 1 FROM workflows p WHERE p.id = w.parent_id AND p.state < 10) \
               ORDER BY finished_at LIMIT ?";
    let args = Args::default().with(before.micros()).with(limit);
    let (mut ended, mut left) = (Vec::new(), i64::from(limit));
    for found in &rows(connection, sql, args).await? {
        if left <= 0 {
            break;
        }
        let mut c = Columns::of(found);
        ended.push(WorkflowId::from_bytes(c.id()?));
        left -= c.next::<i64>()? + 1;
    }
    Ok(ended)
}

/// Deletes runs with all that is theirs; how many runs and jobs. The run goes first, so that none is there in part: of
/// their jobs at most `limit` go with them, and the others as old jobs do. A run that was made to go on since somebody
/// looked is left alone.
pub(in crate::ledger::sqlite) async fn forget(
    tx: &mut Tx<'_>,
    ended: &[WorkflowId],
    before: Timestamp,
    limit: u32,
) -> Result<u64, Fault> {
    let (mut deleted, mut left) = (0, limit);
    for id in ended {
        let of = || Args::default().with(id.as_bytes().as_slice());
        let sql = "SELECT namespace, input_blob, output_blob FROM workflows w \
                   WHERE id = ? AND state >= 10 AND finished_at < ? AND NOT EXISTS \
                   (SELECT 1 FROM workflows p WHERE p.id = w.parent_id AND p.state < 10)";
        let Some(found) = row(tx.connection, sql, of().with(before.micros())).await? else {
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
        let sql = "SELECT id FROM jobs WHERE workflow_id = ? AND state >= 10 LIMIT ?";
        let found = rows(tx.connection, sql, of().with(left)).await?;
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
