//! Attempts that ended, by minute. Written with the outcomes (`record`).

use sqlx::PgPool;
use sqlx::postgres::PgRow;

use super::Result;
use super::error::{BadColumn, unchanged};
use super::row::{get, parse, time, unsigned};
use crate::ledger::unreadable::readable;
use crate::ledger::{QueueMinute, Rollup, minutes_before};
use crate::model::job::AttemptOutcome;
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// Most rows of one answer, oldest first.
const ROLLUPS_MAX: i64 = 100_000;

pub(super) async fn rollups(
    pool: &PgPool,
    namespace: &Namespace,
    since: Timestamp,
) -> Result<Vec<Rollup>> {
    let sql = "SELECT minute, queue, kind, outcome, count, run_ms FROM rollups \
               WHERE namespace = $1 AND minute >= $2 \
               ORDER BY minute, queue, kind, outcome LIMIT $3";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(since.micros()).bind(ROLLUPS_MAX);
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a roll-up", &rows, rollup))
}

/// Each minute is looked up by itself: a range of them would have those of all queues of the namespace.
pub(super) async fn of_queue(
    pool: &PgPool,
    namespace: &Namespace,
    queue: &QueueName,
) -> Result<(Vec<QueueMinute>, Timestamp)> {
    let now = super::now(pool).await?;
    let sql = "SELECT r.minute, sum(r.count)::bigint, sum(r.run_ms)::bigint \
               FROM unnest($2::bigint[]) AS m(minute) \
               JOIN rollups r ON r.namespace = $1 AND r.minute = m.minute AND r.queue = $3 \
               GROUP BY r.minute ORDER BY r.minute";
    let minutes: Vec<i64> = minutes_before(now).collect();
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(minutes).bind(queue.as_str());
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    let minute = |row: &PgRow| -> Result<QueueMinute> {
        Ok(QueueMinute {
            minute: time(row, 0)?,
            count: unsigned(row, 1, "count")?,
            run_ms: unsigned(row, 2, "run_ms")?,
        })
    };
    Ok((readable("a minute of a queue", &rows, minute), now))
}

fn rollup(row: &PgRow) -> Result<Rollup> {
    let outcome = AttemptOutcome::from_number(get(row, 3)?);
    let outcome = outcome.ok_or(BadColumn { column: "outcome" })?;
    Ok(Rollup {
        minute: time(row, 0)?,
        queue: parse(row, 1, "queue")?,
        kind: parse(row, 2, "kind")?,
        outcome: word(outcome).into(),
        count: unsigned(row, 4, "count")?,
        run_ms: unsigned(row, 5, "run_ms")?,
    })
}

const fn word(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Succeeded => "succeeded",
        AttemptOutcome::Failed => "failed",
        AttemptOutcome::TimedOut => "timed_out",
        AttemptOutcome::LeaseLost => "lease_lost",
        AttemptOutcome::Cancelled => "cancelled",
        AttemptOutcome::Snoozed => "snoozed",
        AttemptOutcome::Released => "released",
    }
}
