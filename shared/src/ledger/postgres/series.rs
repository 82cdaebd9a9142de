//! Series that are open, and what becomes of their jobs. The words are those of [`crate::ledger::shaping`].

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use super::error::{after_write, is_collision, unchanged};
use super::row::{self, get, int4, int8, select_jobs};
use super::{LedgerError, Result};
use crate::ledger::shaping::{self, FRAME};
use crate::ledger::{Accepted, Refused, Submission};
use crate::limits::INLINE_BYTES_MAX;
use crate::model::id::JobId;
use crate::model::job::{Job, NewJob};
use crate::model::shaping::{Series, SeriesSort, Shaping};
use crate::model::time::Timestamp;

/// Tries of a shutting that met a deadlock.
const TRIES_MAX: u32 = 5;
/// Times that a place may be left and taken while somebody enters it.
const LOOKS_MAX: u32 = 20;

macro_rules! series_columns {
    () => {
        "sort, key, job_id, opened_at, shuts_at, latest_at, items, items_max, bytes, bytes_max"
    };
}

/// A series whose row this transaction holds.
pub(super) struct Entered {
    pub(super) series: Series,
    /// This job has begun it.
    pub(super) is_new: bool,
    pub(super) now: Timestamp,
}

/// Locks the series that a job belongs to; begins one where there is none.
pub(super) async fn enter(
    connection: &mut PgConnection,
    job: &NewJob,
    shaping: &Shaping,
) -> Result<Entered, sqlx::Error> {
    const LOCK: &str = concat!(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, ",
        series_columns!(),
        " FROM series WHERE namespace = $1 AND queue = $2 AND kind = $3 AND sort = $4 AND key = $5 \
         FOR UPDATE"
    );
    // Lengths of time here: the ledger knows what they are counted from.
    let lengths = shaping::begin(Timestamp::default(), job, shaping);
    let lengths =
        lengths.ok_or_else(|| sqlx::Error::Protocol("a throttle has no series".into()))?;
    for _ in 0..LOOKS_MAX {
        let query = sqlx::query(LOCK)
            .bind(job.namespace.as_str())
            .bind(job.queue.as_str())
            .bind(job.kind.as_str())
            .bind(lengths.sort as i16)
            .bind(&lengths.key);
        if let Some(row) = query.fetch_optional(&mut *connection).await? {
            let now = Timestamp::from_micros(sqlx::Row::try_get(&row, 0)?);
            return Ok(Entered { series: series_at(&row, 1)?, is_new: false, now });
        }
        if let Some(series) = open(connection, job, &lengths).await? {
            let now = series.opened_at;
            return Ok(Entered { series, is_new: true, now });
        }
    }
    // The place changes hands faster than it can be looked at.
    Err(sqlx::Error::PoolTimedOut)
}

/// Begins a series, unless somebody else was faster.
async fn open(
    connection: &mut PgConnection,
    job: &NewJob,
    lengths: &Series,
) -> Result<Option<Series>, sqlx::Error> {
    const OPEN: &str = concat!(
        "WITH clock AS MATERIALIZED (
             SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
         )
         INSERT INTO series (namespace, queue, kind, ",
        series_columns!(),
        ") SELECT $1, $2, $3, $4, $5, $6, clock.now, clock.now + $7, clock.now + $8, $9, $10, $11, $12
         FROM clock ON CONFLICT (namespace, queue, kind, sort, key) DO NOTHING RETURNING ",
        series_columns!()
    );
    let row =
        bind_series(sqlx::query(OPEN), job, lengths, false).fetch_optional(connection).await?;
    row.map(|row| series_at(&row, 0)).transpose()
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind_series<'q>(query: Query<'q>, job: &NewJob, series: &Series, with_start: bool) -> Query<'q> {
    let query = query
        .bind(job.namespace.as_str().to_owned())
        .bind(job.queue.as_str().to_owned())
        .bind(job.kind.as_str().to_owned())
        .bind(series.sort as i16)
        .bind(series.key.clone())
        .bind(series.job.uuid());
    let query = if with_start { query.bind(series.opened_at.micros()) } else { query };
    query
        .bind(series.shuts_at.micros())
        .bind(series.latest_at.micros())
        .bind(int4(series.items))
        .bind(int4(series.items_max))
        .bind(int8(series.bytes))
        .bind(int8(series.bytes_max))
}

/// Notes what has become of a series, or where another one begins in its place. `job` is any of its submissions.
pub(super) async fn put(
    connection: &mut PgConnection,
    job: &NewJob,
    series: &Series,
) -> Result<(), sqlx::Error> {
    const PUT: &str = concat!(
        "INSERT INTO series (namespace, queue, kind, ",
        series_columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (namespace, queue, kind, sort, key) DO UPDATE SET job_id = EXCLUDED.job_id,
             opened_at = EXCLUDED.opened_at, shuts_at = EXCLUDED.shuts_at,
             latest_at = EXCLUDED.latest_at, items = EXCLUDED.items, items_max = EXCLUDED.items_max,
             bytes = EXCLUDED.bytes, bytes_max = EXCLUDED.bytes_max"
    );
    bind_series(sqlx::query(PUT), job, series, true).execute(connection).await?;
    Ok(())
}

/// Adds items to a collecting job, numbered from `first`.
pub(super) async fn add_items(
    connection: &mut PgConnection,
    of: JobId,
    first: u32,
    items: &[&NewJob],
) -> Result<(), sqlx::Error> {
    let Some(one) = items.first() else { return Ok(()) };
    let sql = "INSERT INTO series_items (job_id, item, id, namespace, payload)
        SELECT $1, $2 + i.place::int - 1, i.id, $3, i.payload
        FROM unnest($4::uuid[], $5::bytea[]) WITH ORDINALITY AS i(id, payload, place)";
    sqlx::query(sql)
        .bind(of.uuid())
        .bind(int4(first))
        .bind(one.namespace.as_str())
        .bind(items.iter().map(|job| job.id.uuid()).collect::<Vec<_>>())
        .bind(items.iter().map(|job| shaping::item_bytes(job)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Shuts series whose rows this transaction holds, and makes their jobs ready: collected items become their payload. The
/// jobs, as they are then.
pub(super) async fn shut_these(
    connection: &mut PgConnection,
    jobs: &[Uuid],
) -> Result<Vec<Job>, sqlx::Error> {
    const SHUT: &str = "
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
), s AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[]) AS s(id, blob)
), packed AS MATERIALIZED (
    SELECT i.job_id, $4::bytea || string_agg(i.payload, $5::bytea ORDER BY i.item) || $6::bytea AS payload
    FROM series_items i WHERE i.job_id = ANY($1) GROUP BY i.job_id
), gone AS (
    DELETE FROM series WHERE job_id = ANY($1)
), used AS (
    DELETE FROM series_items WHERE job_id = ANY($1)
), large AS (
    INSERT INTO blobs (namespace, id, bytes, refs, created_at)
    SELECT j.namespace, s.blob, p.payload, 1, clock.now
    FROM packed p JOIN s ON s.id = p.job_id JOIN jobs j ON j.id = s.id, clock
    WHERE octet_length(p.payload) > $3 AND j.state = 0
)
UPDATE jobs j SET state = 2, run_at = least(j.run_at, clock.now), changed_at = clock.now,
    payload = CASE WHEN p.job_id IS NULL THEN j.payload
        WHEN octet_length(p.payload) <= $3 THEN p.payload END,
    payload_blob = CASE WHEN p.job_id IS NULL THEN j.payload_blob
        WHEN octet_length(p.payload) > $3 THEN s.blob END
FROM s LEFT JOIN packed p ON p.job_id = s.id, clock
WHERE j.id = s.id AND j.state = 0 AND j.workflow_id IS NULL";
    const READ: &str = select_jobs!("jobs", "WHERE j.id = ANY($1) AND j.state = 2 ORDER BY j.id");
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query(SHUT)
        .bind(jobs)
        .bind(jobs.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(i32::try_from(INLINE_BYTES_MAX).unwrap_or(i32::MAX))
        .bind(FRAME[0].as_bytes())
        .bind(FRAME[1].as_bytes())
        .bind(FRAME[2].as_bytes())
        .execute(&mut *connection)
        .await?;
    Ok(row::jobs(&sqlx::query(READ).bind(jobs).fetch_all(connection).await?))
}

pub(super) async fn shut_due(pool: &PgPool, limit: u32) -> Result<Vec<Job>> {
    // Asked without a lock first: that none is due is the common case.
    let sql = "SELECT EXISTS (SELECT FROM series \
               WHERE shuts_at <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)";
    if !sqlx::query_scalar(sql).fetch_one(pool).await.map_err(unchanged)? {
        return Ok(Vec::new());
    }
    let sql = "SELECT job_id FROM series \
               WHERE shuts_at <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
               ORDER BY shuts_at LIMIT $1 FOR UPDATE SKIP LOCKED";
    shut_found(pool, || sqlx::query_scalar(sql).bind(i64::from(limit))).await
}

pub(super) async fn shut(pool: &PgPool, job: JobId) -> Result<Option<Job>> {
    let sql = "SELECT job_id FROM series WHERE job_id = $1 FOR UPDATE";
    Ok(shut_found(pool, || sqlx::query_scalar(sql).bind(job.uuid())).await?.pop())
}

type Ids<'q> = sqlx::query::QueryScalar<'q, sqlx::Postgres, Uuid, sqlx::postgres::PgArguments>;

/// Locks what `find` finds, and shuts it.
async fn shut_found<'q>(pool: &PgPool, find: impl Fn() -> Ids<'q>) -> Result<Vec<Job>> {
    for _ in 0..TRIES_MAX {
        let mut connection = pool.acquire().await.map_err(unchanged)?;
        let mut transaction = connection.begin().await.map_err(unchanged)?;
        let shut = async {
            let found = find().fetch_all(&mut *transaction).await?;
            shut_these(&mut transaction, &found).await
        };
        match shut.await {
            Ok(jobs) => match transaction.commit().await {
                Ok(()) => return Ok(jobs),
                Err(error) if is_collision(&error) => {}
                Err(error) => return Err(after_write(error)),
            },
            Err(error) if is_collision(&error) => {}
            Err(error) => return Err(unchanged(error)),
        }
    }
    Err(LedgerError::Unavailable("shutting kept colliding with other writes".into()))
}

pub(super) async fn series(pool: &PgPool, job: JobId) -> Result<Option<Series>> {
    const SQL: &str = concat!("SELECT ", series_columns!(), " FROM series WHERE job_id = $1");
    let row = sqlx::query(SQL).bind(job.uuid()).fetch_optional(pool).await.map_err(unchanged)?;
    row.map(|row| series_at(&row, 0).map_err(unchanged)).transpose()
}

fn series_at(row: &PgRow, at: usize) -> Result<Series, sqlx::Error> {
    let unreadable = |error: LedgerError| sqlx::Error::Decode(error.into());
    let number = |n: usize| get::<i64>(row, at + n).map_err(unreadable);
    let small = |n: usize| row::small(row, at + n, "items").map_err(unreadable);
    let sort = SeriesSort::from_number(get(row, at).map_err(unreadable)?);
    Ok(Series {
        sort: sort.ok_or_else(|| sqlx::Error::Decode("a sort of series".into()))?,
        key: get(row, at + 1).map_err(unreadable)?,
        job: JobId::from_uuid(get(row, at + 2).map_err(unreadable)?),
        opened_at: Timestamp::from_micros(number(3)?),
        shuts_at: Timestamp::from_micros(number(4)?),
        latest_at: Timestamp::from_micros(number(5)?),
        items: small(6)?,
        items_max: small(7)?,
        bytes: number(8)?.unsigned_abs(),
        bytes_max: number(9)?.unsigned_abs(),
    })
}

/// Whether items that went into series of others are there, after the answer to their commit was lost. `None`: their
/// series have been shut since, and what came to be in them is not known any more.
pub(super) async fn kept(
    connection: &mut PgConnection,
    submission: &Submission,
    results: &[Result<Accepted, Refused>],
) -> Result<Option<bool>, sqlx::Error> {
    let items = submission.jobs.iter().zip(results).filter_map(|(job, result)| match result {
        Ok(Accepted::Collected(item)) => Some((item.job.uuid(), job.id.uuid())),
        _ => None,
    });
    let (jobs, ids): (Vec<Uuid>, Vec<Uuid>) = items.unzip();
    if jobs.is_empty() {
        return Ok(Some(false));
    }
    // All are of one transaction: one that is there, or one that its open series has not got, tells of all.
    let sql = "SELECT EXISTS (SELECT FROM series_items WHERE job_id = ANY($1) AND id = ANY($2)), \
               EXISTS (SELECT FROM series WHERE job_id = ANY($1))";
    let found: (bool, bool) =
        sqlx::query_as(sql).bind(jobs).bind(ids).fetch_one(connection).await?;
    Ok(match found {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    })
}
