//! What handlers wrote.

use sqlx::PgPool;
use sqlx::postgres::PgRow;

use super::Result;
use super::error::{after_write, unchanged};
use super::row::{get, int4, int8, small, time, unsigned};
use crate::ledger::{LogLine, fit_text};
use crate::limits::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX};
use crate::model::id::JobId;
use crate::model::name::Namespace;

/// Numbers the lines by a counter per job, whose row is locked until the commit; those over the bound are
/// counted and dropped.
const APPEND: &str = "
WITH job AS (
    SELECT id FROM jobs WHERE id = $1 AND namespace = $2
), head AS (
    INSERT INTO job_log_heads AS h (job_id, namespace, lines)
    SELECT id, $2, $3 FROM job
    ON CONFLICT (job_id) DO UPDATE SET lines = h.lines + EXCLUDED.lines
    RETURNING lines - $3 AS before
), kept AS (
    INSERT INTO job_logs (job_id, namespace, seq, at, attempt, level, message)
    SELECT $1, $2, head.before + l.place, l.at, l.attempt, l.level, l.message
    FROM head, unnest($4::bigint[], $5::int[], $6::text[], $7::text[]) WITH ORDINALITY
        AS l(at, attempt, level, message, place)
    WHERE head.before + l.place <= $8
)
SELECT count(*) FROM job";

pub(super) async fn append(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
    lines: &[LogLine],
) -> Result<bool> {
    // More than fit are not even sent.
    let most = usize::try_from(LOG_LINES_MAX).unwrap_or(usize::MAX);
    let lines = &lines[..lines.len().min(most)];
    let row = sqlx::query(APPEND)
        .bind(id.uuid())
        .bind(namespace.as_str())
        .bind(i64::try_from(lines.len()).unwrap_or(i64::MAX))
        .bind(lines.iter().map(|l| l.at.micros()).collect::<Vec<_>>())
        .bind(lines.iter().map(|l| int4(l.attempt)).collect::<Vec<_>>())
        .bind(lines.iter().map(|l| fit_text(&l.level)).collect::<Vec<_>>())
        .bind(lines.iter().map(|l| fit_text(cut(&l.message))).collect::<Vec<_>>())
        .bind(int8(LOG_LINES_MAX))
        .fetch_one(pool)
        .await
        .map_err(after_write)?;
    Ok(get::<i64>(&row, 0)? > 0)
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
            lines.push(line(row)?);
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
