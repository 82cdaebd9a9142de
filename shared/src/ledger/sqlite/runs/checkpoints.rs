//! Partial results of jobs, the latest of each.

use bytes::Bytes;
use sqlx::sqlite::SqliteConnection;

use crate::ledger::runs::Checkpoint;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::record::fence as fence_number;
use crate::ledger::sqlite::statement::{Args, execute, row};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{Fence, JobId};
use crate::model::name::Namespace;

/// Stores the partial result of a job that is not terminal; `false`: it is, or a higher fence has stored one.
pub(in crate::ledger::sqlite) async fn put(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: JobId,
    fence: Fence,
    data: &Bytes,
) -> Result<bool, Fault> {
    let sql = "INSERT INTO checkpoints (job_id, namespace, fence, at, data) \
               SELECT id, namespace, ?3, ?4, ?5 FROM jobs \
               WHERE id = ?1 AND namespace = ?2 AND state < 10 \
               ON CONFLICT DO UPDATE SET fence = excluded.fence, at = excluded.at, \
               data = excluded.data WHERE fence <= excluded.fence";
    let args = Args::default()
        .with(id.as_bytes().as_slice())
        .with(namespace.as_str())
        .with(fence_number(fence))
        .with(tx.now.micros())
        .with(data.as_ref());
    Ok(execute(tx.connection, sql, args).await? > 0)
}

/// The latest partial result of a job.
pub(in crate::ledger::sqlite) async fn latest(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<Checkpoint>, Fault> {
    let sql = "SELECT fence, at, data FROM checkpoints WHERE job_id = ? AND namespace = ?";
    let args = Args::default().with(id.as_bytes().as_slice()).with(namespace.as_str());
    let Some(found) = row(connection, sql, args).await? else { return Ok(None) };
    let mut c = Columns::of(&found);
    let (fence, at) = (Fence(c.count()?), c.time()?);
    let data = c.maybe_bytes()?.unwrap_or_default();
    Ok(Some(Checkpoint { fence, at, data }))
}
