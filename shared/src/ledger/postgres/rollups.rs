//! Attempts that ended, by minute. Written with the outcomes (`record`).

use sqlx::PgPool;
use sqlx::postgres::PgRow;

use super::Result;
use super::error::{BadColumn, unchanged};
use super::row::{get, parse, time, unsigned};
use crate::ledger::Rollup;
use crate::ledger::unreadable::readable;
use crate::model::job::AttemptOutcome;
use crate::model::name::Namespace;
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
