//! What handlers wrote.

use sqlx::PgPool;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryScalar;
use uuid::Uuid;

use super::error::{after_write, is_collision, unchanged};
use super::row::{get, int4, int8, small, time, unsigned};
use super::{LedgerError, Result};
use crate::ledger::{JobLines, LogLine, fit_text, unreadable};
use crate::limits::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX};
use crate::model::id::JobId;
use crate::model::name::Namespace;

/// Numbers the lines by a counter per job, whose row is locked until the commit; those over the bound are
/// counted and dropped.
const APPEND: &str = "
WITH job AS MATERIALIZED (
    SELECT j.id, i.lines FROM unnest($2::uuid[], $3::bigint[]) AS i(id, lines)
    JOIN jobs j ON j.id = i.id AND NOT j.namespace <> $1
), head AS (
    INSERT INTO job_log_heads AS h (job_id, namespace, lines)
    SELECT id, $1, lines FROM job ORDER BY id
    ON CONFLICT (job_id) DO UPDATE SET lines = h.lines + EXCLUDED.lines
    RETURNING job_id, lines
), kept AS (
    INSERT INTO job_logs (job_id, namespace, seq, at, attempt, level, message)
    SELECT l.id, $1, head.lines - job.lines + l.place, l.at, l.attempt, l.level, l.message
    FROM unnest($4::uuid[], $5::bigint[], $6::bigint[], $7::int[], $8::text[], $9::text[])
        AS l(id, place, at, attempt, level, message)
    JOIN job ON job.id = l.id JOIN head ON head.job_id = l.id
    WHERE head.lines - job.lines + l.place <= $10
)
SELECT id FROM job";

/// Tries of an append that met a deadlock.
const TRIES_MAX: u32 = 5;

pub(super) async fn append(
    pool: &PgPool,
    namespace: &Namespace,
    mut logs: Vec<JobLines>,
) -> Result<Vec<JobId>> {
    // The order of locking.
    logs.sort_by_key(|log| log.id);
    // More than fit are not even sent.
    let most = usize::try_from(LOG_LINES_MAX).unwrap_or(usize::MAX);
    logs.iter_mut().for_each(|log| log.lines.truncate(most));
    for _ in 0..TRIES_MAX {
        match bind(namespace, &logs).fetch_all(pool).await {
            Ok(found) => return Ok(found.into_iter().map(JobId::from_uuid).collect()),
            Err(error) if is_collision(&error) => {}
            Err(error) => return Err(after_write(error)),
        }
    }
    Err(LedgerError::Unavailable("log lines kept colliding with other writes".into()))
}

fn bind<'a>(
    namespace: &Namespace,
    logs: &'a [JobLines],
) -> QueryScalar<'static, sqlx::Postgres, Uuid, PgArguments> {
    let lines = || {
        let numbered = |log: &'a JobLines| (1_i64..).zip(&log.lines);
        logs.iter()
            .flat_map(move |log| numbered(log).map(move |(place, line)| (log.id, place, line)))
    };
    let count = |log: &JobLines| i64::try_from(log.lines.len()).unwrap_or(i64::MAX);
    sqlx::query_scalar(APPEND)
        .bind(namespace.as_str().to_owned())
        .bind(logs.iter().map(|log| log.id.uuid()).collect::<Vec<_>>())
        .bind(logs.iter().map(count).collect::<Vec<_>>())
        .bind(lines().map(|(id, ..)| id.uuid()).collect::<Vec<_>>())
        .bind(lines().map(|(_, place, _)| place).collect::<Vec<_>>())
        .bind(lines().map(|(.., line)| line.at.micros()).collect::<Vec<_>>())
        .bind(lines().map(|(.., line)| int4(line.attempt)).collect::<Vec<_>>())
        .bind(lines().map(|(.., line)| fit_text(&line.level).into_owned()).collect::<Vec<_>>())
        .bind(
            lines().map(|(.., line)| fit_text(cut(&line.message)).into_owned()).collect::<Vec<_>>(),
        )
        .bind(int8(LOG_LINES_MAX))
}

/// The message up to the bound, not in the middle of a character.
fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(LOG_LINE_BYTES_MAX)]
}

pub(super) async fn logs(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
    after: u64,
    limit: u32,
) -> Result<Option<Vec<LogLine>>> {
    let sql = "SELECT l.seq, l.at, l.attempt, l.level, l.message \
               FROM jobs j LEFT JOIN LATERAL ( \
                   SELECT * FROM job_logs WHERE job_id = j.id AND seq > $3 ORDER BY seq LIMIT $4 \
               ) l ON true \
               WHERE j.id = $1 AND j.namespace = $2 ORDER BY l.seq";
    let rows = sqlx::query(sql)
        .bind(id.uuid())
        .bind(namespace.as_str())
        .bind(int8(after))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(unchanged)?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut lines = Vec::with_capacity(rows.len());
    for row in &rows {
        // The join leaves one row without a line where there is none.
        if get::<Option<i64>>(row, 0)?.is_some() {
            match line(row) {
                Ok(line) => lines.push(line),
                Err(error) => unreadable::note("a log line", &error),
            }
        }
    }
    Ok(Some(lines))
}

fn line(row: &PgRow) -> Result<LogLine> {
    Ok(LogLine {
        seq: unsigned(row, 0, "seq")?,
        at: time(row, 1)?,
        attempt: small(row, 2, "attempt")?,
        level: get(row, 3)?,
        message: get(row, 4)?,
    })
}
