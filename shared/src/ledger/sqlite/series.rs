//! Series that are open, as rows, and what becomes of their jobs.

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::blobs;
use super::fault::Fault;
use super::jobs::{Columns, jobs};
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use crate::ledger::shaping::FRAME;
use crate::limits::INLINE_BYTES_MAX;
use crate::model::id::{BlobId, JobId};
use crate::model::job::{Job, JobState, NewJob};
use crate::model::name::Namespace;
use crate::model::shaping::{Series, SeriesSort};
use crate::model::time::Timestamp;

macro_rules! select_series {
    ($tail:literal) => {
        concat!(
            "SELECT sort, key, job_id, opened_at, shuts_at, latest_at, items, items_max, bytes, \
             bytes_max FROM series ",
            $tail
        )
    };
}

/// The open series that a job belongs to.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    job: &NewJob,
    sort: SeriesSort,
    key: &str,
) -> Result<Option<Series>, Fault> {
    let sql =
        select_series!("WHERE namespace = ? AND queue = ? AND kind = ? AND sort = ? AND key = ?");
    let args = Args::default()
        .with(job.namespace.as_str())
        .with(job.queue.as_str())
        .with(job.kind.as_str())
        .with(sort as i16)
        .with(key);
    row(connection, sql, args).await?.map(|row| series_of(&row)).transpose()
}

/// The open series that a job stands for.
pub(super) async fn series(
    connection: &mut SqliteConnection,
    job: JobId,
) -> Result<Option<Series>, Fault> {
    let args = Args::default().with(job.as_bytes().as_slice());
    let found = row(connection, select_series!("WHERE job_id = ?"), args).await?;
    found.map(|row| series_of(&row)).transpose()
}

fn series_of(row: &SqliteRow) -> Result<Series, Fault> {
    let mut c = Columns::of(row);
    let sort = SeriesSort::from_number(c.count()?);
    Ok(Series {
        sort: sort.ok_or_else(|| Fault::unreadable("a sort of series"))?,
        key: c.next()?,
        job: JobId::from_bytes(c.id()?),
        opened_at: c.time()?,
        shuts_at: c.time()?,
        latest_at: c.time()?,
        items: c.count()?,
        items_max: c.count()?,
        bytes: c.count()?,
        bytes_max: c.count()?,
    })
}

/// Notes what has become of a series, or where one begins.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    job: &NewJob,
    series: &Series,
) -> Result<(), Fault> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let sql = "INSERT INTO series (namespace, queue, kind, sort, key, job_id, opened_at, shuts_at, \
               latest_at, items, items_max, bytes, bytes_max) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET \
               job_id = excluded.job_id, opened_at = excluded.opened_at, shuts_at = excluded.shuts_at, \
               latest_at = excluded.latest_at, items = excluded.items, items_max = excluded.items_max, \
               bytes = excluded.bytes, bytes_max = excluded.bytes_max";
    let args = Args::default()
        .with(job.namespace.as_str())
        .with(job.queue.as_str())
        .with(job.kind.as_str())
        .with(series.sort as i16)
        .with(series.key.as_str())
        .with(series.job.as_bytes().as_slice())
        .with(series.opened_at.micros())
        .with(series.shuts_at.micros())
        .with(series.latest_at.micros())
        .with(series.items)
        .with(series.items_max)
        .with(number(series.bytes))
        .with(number(series.bytes_max));
    execute(connection, sql, args).await?;
    Ok(())
}

/// Jobs of series whose time has come, the longest due first.
pub(super) async fn due(
    connection: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<JobId>, Fault> {
    let sql = "SELECT job_id FROM series WHERE shuts_at <= ? ORDER BY shuts_at LIMIT ?";
    let args = Args::default().with(now.micros()).with(limit);
    let found = rows(connection, sql, args).await?;
    found.iter().map(|row| Ok(JobId::from_bytes(Columns::of(row).id()?))).collect()
}

/// Shuts the series that these jobs stand for, those that are open still, and makes the jobs ready: collected items become
/// their payload. The jobs, as they are then.
pub(super) async fn shut_these(tx: &mut Tx<'_>, ids: &[JobId]) -> Result<Vec<Job>, Fault> {
    let mut shut = Vec::with_capacity(ids.len());
    for id in ids {
        let this = || Args::default().with(id.as_bytes().as_slice());
        if execute(tx.connection, "DELETE FROM series WHERE job_id = ?", this()).await? == 0 {
            continue;
        }
        if let Some((namespace, payload)) = packed(tx.connection, *id).await? {
            let large = (payload.len() > INLINE_BYTES_MAX).then(BlobId::generate);
            if let Some(blob) = large {
                blobs::put(tx, &namespace, blob, &payload).await?;
            }
            let sql = "UPDATE jobs SET payload = ?, payload_blob = ? WHERE id = ? AND state = 0";
            let args = Args::default()
                .with(large.is_none().then_some(payload.as_ref()))
                .with(large.as_ref().map(|blob| blob.as_bytes().as_slice()))
                .with(id.as_bytes().as_slice());
            execute(tx.connection, sql, args).await?;
            execute(tx.connection, "DELETE FROM series_items WHERE job_id = ?", this()).await?;
        }
        let sql = "UPDATE jobs SET state = ?, run_at = min(run_at, ?), changed_at = ? \
                   WHERE id = ? AND state = 0 AND workflow_id IS NULL";
        let args = Args::default()
            .with(JobState::Ready as i16)
            .with(tx.now.micros())
            .with(tx.now.micros())
            .with(id.as_bytes().as_slice());
        if execute(tx.connection, sql, args).await? == 1 {
            shut.push(*id);
        }
    }
    jobs(tx.connection, &shut).await
}

/// The payload that the items of a job make, and the namespace that they are of; `None`: it has none.
async fn packed(
    connection: &mut SqliteConnection,
    id: JobId,
) -> Result<Option<(Namespace, Bytes)>, Fault> {
    let sql = "SELECT namespace, payload FROM series_items WHERE job_id = ? ORDER BY item";
    let found = rows(connection, sql, Args::default().with(id.as_bytes().as_slice())).await?;
    let mut payload = FRAME[0].as_bytes().to_vec();
    let mut namespace = None;
    for row in &found {
        let mut c = Columns::of(row);
        if namespace.replace(c.parsed()?).is_some() {
            payload.extend_from_slice(FRAME[1].as_bytes());
        }
        payload.extend_from_slice(c.next::<&[u8]>()?);
    }
    payload.extend_from_slice(FRAME[2].as_bytes());
    Ok(namespace.map(|namespace| (namespace, payload.into())))
}
