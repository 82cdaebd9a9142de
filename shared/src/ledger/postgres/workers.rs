//! Worker processes, as their beats say.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgRow;

use super::Result;
use super::error::{after_write, unchanged};
use super::row::{get, int4, parse, small, time};
use crate::ledger::unreadable::readable;
use crate::ledger::{WorkerBeat, fit_text};
use crate::model::id::WorkerId;
use crate::model::name::Namespace;

/// The columns of [`worker`], and where they are from.
pub(super) const WORKER_COLUMNS_FROM: &str = "SELECT id, name, namespace, host, version, queues, kinds, \
    concurrency, running, draining, started_at, seen_at FROM workers ";
/// Most workers of one answer.
const WORKERS_MAX: i64 = 10_000;

pub(super) async fn beat(pool: &PgPool, beat: &WorkerBeat) -> Result<bool> {
    let sql = "INSERT INTO workers (namespace, id, name, host, version, queues, kinds, concurrency, \
                   running, started_at, seen_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
                   (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
               ON CONFLICT (namespace, id) DO UPDATE SET name = EXCLUDED.name, host = EXCLUDED.host, \
                   version = EXCLUDED.version, queues = EXCLUDED.queues, kinds = EXCLUDED.kinds, \
                   concurrency = EXCLUDED.concurrency, running = EXCLUDED.running, \
                   started_at = EXCLUDED.started_at, seen_at = EXCLUDED.seen_at \
               RETURNING draining";
    sqlx::query_scalar(sql)
        .bind(beat.namespace.as_str())
        .bind(beat.id.uuid())
        .bind(fit_text(&beat.name))
        .bind(fit_text(&beat.host))
        .bind(fit_text(&beat.version))
        .bind(beat.queues.iter().map(|q| fit_text(q)).collect::<Vec<_>>())
        .bind(beat.kinds.iter().map(|k| fit_text(k)).collect::<Vec<_>>())
        .bind(int4(beat.concurrency))
        .bind(int4(beat.running))
        .bind(beat.started_at.micros())
        .fetch_one(pool)
        .await
        .map_err(after_write)
}

pub(super) async fn workers(
    pool: &PgPool,
    namespace: &Namespace,
    within: Duration,
) -> Result<Vec<WorkerBeat>> {
    let tail = "WHERE namespace = $1 \
                   AND seen_at >= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2 \
               ORDER BY name, id LIMIT $3";
    let within = i64::try_from(within.as_micros()).unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
    let sql = [WORKER_COLUMNS_FROM, tail].concat();
    let query = sqlx::query(sqlx::AssertSqlSafe(sql));
    let query = query.bind(namespace.as_str()).bind(within).bind(WORKERS_MAX);
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a worker", &rows, worker))
}

pub(super) fn worker(row: &PgRow) -> Result<WorkerBeat> {
    Ok(WorkerBeat {
        id: WorkerId::from_uuid(get(row, 0)?),
        name: get(row, 1)?,
        namespace: parse(row, 2, "namespace")?,
        host: get(row, 3)?,
        version: get(row, 4)?,
        queues: get(row, 5)?,
        kinds: get(row, 6)?,
        concurrency: small(row, 7, "concurrency")?,
        running: small(row, 8, "running")?,
        draining: get(row, 9)?,
        started_at: time(row, 10)?,
        seen_at: time(row, 11)?,
    })
}

pub(super) async fn drain(pool: &PgPool, namespace: &Namespace, id: WorkerId) -> Result<bool> {
    let sql = "UPDATE workers SET draining = true WHERE namespace = $1 AND id = $2";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(id.uuid());
    Ok(query.execute(pool).await.map_err(after_write)?.rows_affected() > 0)
}
