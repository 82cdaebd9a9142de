//! Unique keys and who holds them.

use std::collections::HashMap;

use sqlx::sqlite::SqliteConnection;

use super::fault::Fault;
use super::jobs::Columns;
use super::statement::{Args, Bulk, execute, row};
use super::writer::Tx;
use crate::model::id::JobId;
use crate::model::job::JobState;
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// A unique key in its queue.
pub(super) type HoldKey = (Namespace, QueueName, String);

/// The holder of a unique key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    pub(super) job: JobId,
    /// `None`: until the job is terminal.
    pub(super) until: Option<Timestamp>,
    /// No attempt of the job is on record: it may be replaced.
    pub(super) is_waiting: bool,
}

impl Hold {
    /// Whether the key is still held.
    pub(super) fn lasts(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// The holders of these keys. Windows that are over are among them.
pub(super) async fn look_up(
    connection: &mut SqliteConnection,
    keys: &[HoldKey],
) -> Result<HashMap<HoldKey, Hold>, Fault> {
    static HOLDERS: Bulk = Bulk::new(
        "SELECT h.namespace, h.queue, h.unique_key, h.job_id, h.until, j.state, j.started_at \
         FROM holds h LEFT JOIN jobs j ON j.id = h.job_id \
         WHERE (h.namespace, h.queue, h.unique_key) IN (VALUES",
        "(?, ?, ?)",
        ")",
    );
    let found = HOLDERS
        .fetch(connection, keys, |args, (namespace, queue, key)| {
            args.add(namespace.as_str()).add(queue.as_str()).add(key.as_str());
        })
        .await?;
    let mut holds = HashMap::with_capacity(found.len());
    for row in &found {
        let mut c = Columns::of(row);
        let key = (c.parsed()?, c.parsed()?, c.next()?);
        let (job, until) = (JobId::from_bytes(c.id()?), c.maybe_time()?);
        let state: Option<i64> = c.next()?;
        let started_at = c.maybe_time()?;
        let is_live = state.is_some_and(|state| state < i64::from(JobState::Running as i16));
        holds.insert(key, Hold { job, until, is_waiting: is_live && started_at.is_none() });
    }
    Ok(holds)
}

/// Gives keys to new holders, in order.
pub(super) async fn take(
    connection: &mut SqliteConnection,
    holds: &[(HoldKey, Hold)],
) -> Result<(), Fault> {
    static TAKE: Bulk = Bulk::new(
        "INSERT INTO holds (namespace, queue, unique_key, job_id, until) VALUES",
        "(?, ?, ?, ?, ?)",
        "ON CONFLICT DO UPDATE SET job_id = excluded.job_id, until = excluded.until",
    );
    TAKE.execute(connection, holds, |args, ((namespace, queue, key), hold)| {
        args.add(namespace.as_str())
            .add(queue.as_str())
            .add(key.as_str())
            .add(hold.job.as_bytes().as_slice())
            .add(hold.until.map(Timestamp::micros));
    })
    .await?;
    Ok(())
}

/// The job that holds a key now.
pub(super) async fn holder(tx: &mut Tx<'_>, key: &HoldKey) -> Result<Option<JobId>, Fault> {
    let sql = "SELECT job_id FROM holds WHERE namespace = ? AND queue = ? AND unique_key = ? \
               AND (until IS NULL OR until > ?)";
    let args = Args::default()
        .with(key.0.as_str())
        .with(key.1.as_str())
        .with(key.2.as_str())
        .with(tx.now.micros());
    let found = row(tx.connection, sql, args).await?;
    found.map(|row| Ok(JobId::from_bytes(Columns::of(&row).id()?))).transpose()
}

/// Frees the keys that these jobs hold until they are terminal. Windows stay.
pub(super) async fn free(
    connection: &mut SqliteConnection,
    holders: &[(HoldKey, JobId)],
) -> Result<(), Fault> {
    static FREE: Bulk = Bulk::new(
        "DELETE FROM holds WHERE until IS NULL \
         AND (namespace, queue, unique_key, job_id) IN (VALUES",
        "(?, ?, ?, ?)",
        ")",
    );
    FREE.execute(connection, holders, |args, ((namespace, queue, key), job)| {
        args.add(namespace.as_str())
            .add(queue.as_str())
            .add(key.as_str())
            .add(job.as_bytes().as_slice());
    })
    .await?;
    Ok(())
}

/// Frees a key of a job that is moved or forgotten, its window included.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    (namespace, queue, key): &HoldKey,
    holder: JobId,
) -> Result<(), Fault> {
    let sql = "DELETE FROM holds \
               WHERE namespace = ? AND queue = ? AND unique_key = ? AND job_id = ?";
    let args = Args::default()
        .with(namespace.as_str())
        .with(queue.as_str())
        .with(key.as_str())
        .with(holder.as_bytes().as_slice());
    execute(connection, sql, args).await?;
    Ok(())
}

/// Ends a waiting job whose key another one has taken. Its old hold is overwritten already.
pub(super) async fn cancel_replaced(
    tx: &mut Tx<'_>,
    replaced: JobId,
    by: JobId,
) -> Result<(), Fault> {
    let sql = "UPDATE jobs SET state = ?, finished_at = ?, changed_at = ?, error_code = 'cancelled', \
               error_message = ?, error_retryable = 0 WHERE id = ? AND state < 10";
    let args = Args::default()
        .with(JobState::Cancelled as i16)
        .with(tx.now.micros())
        .with(tx.now.micros())
        .with(format!("replaced by job {by}, which has the same unique key"))
        .with(replaced.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    Ok(())
}
