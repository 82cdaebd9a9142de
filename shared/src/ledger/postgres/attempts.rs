//! Attempts on record, and those that are on the job's row alone.

use sqlx::PgPool;
use sqlx::postgres::PgRow;

use super::Result;
use super::error::{BadColumn, unchanged};
use super::row::{get, maybe_bytes, maybe_error, maybe_time, small, state, unsigned};
use crate::ledger::unreadable;
use crate::limits::ATTEMPTS_SHOWN_MAX;
use crate::model::id::{Fence, JobId};
use crate::model::job::{Attempt, AttemptOutcome, JobState};
use crate::model::name::Namespace;

pub(super) async fn attempts(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<Vec<Attempt>>> {
    // One statement, so that a job that ends meanwhile is not seen half.
    let sql = "
        SELECT a.fence, a.attempt, a.worker, a.started_at, a.finished_at, a.outcome, a.error_code,
            a.error_message, a.error_retryable, a.usage, j.state, j.fence, j.attempt, j.worker,
            j.started_at, j.finished_at, j.usage
        FROM jobs j LEFT JOIN LATERAL (
            SELECT * FROM attempts WHERE job_id = j.id ORDER BY fence DESC LIMIT $3
        ) a ON true
        WHERE j.id = $1 AND j.namespace = $2 ORDER BY a.fence";
    let query = sqlx::query(sql).bind(id.uuid()).bind(namespace.as_str());
    let query = query.bind(i64::from(ATTEMPTS_SHOWN_MAX));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    let Some(last) = rows.last() else { return Ok(None) };
    let mut attempts = Vec::with_capacity(rows.len() + 1);
    for row in &rows {
        // The join leaves one row without an attempt where there is none.
        if get::<Option<i64>>(row, 0)?.is_some() {
            match attempt(row) {
                Ok(attempt) => attempts.push(attempt),
                Err(error) => unreadable::note("an attempt", &error),
            }
        }
    }
    if let Some(latest) = on_the_job(last)?
        && attempts.iter().all(|a| a.fence != latest.fence)
    {
        attempts.push(latest);
    }
    Ok(Some(attempts))
}

fn attempt(row: &PgRow) -> Result<Attempt> {
    let outcome = AttemptOutcome::from_number(get(row, 5)?);
    Ok(Attempt {
        fence: Fence(unsigned(row, 0, "fence")?),
        attempt: small(row, 1, "attempt")?,
        worker: get(row, 2)?,
        started_at: maybe_time(row, 3)?,
        finished_at: maybe_time(row, 4)?,
        outcome: Some(outcome.ok_or(BadColumn { column: "outcome" })?),
        error: maybe_error(row, 6)?,
        usage: maybe_bytes(row, 9)?,
    })
}

/// The attempt under way, or the one that succeeded.
fn on_the_job(row: &PgRow) -> Result<Option<Attempt>> {
    let outcome = match state(get(row, 10)?)? {
        JobState::Running => None,
        JobState::Succeeded => Some(AttemptOutcome::Succeeded),
        JobState::Blocked
        | JobState::Scheduled
        | JobState::Ready
        | JobState::Retrying
        | JobState::Dead
        | JobState::Cancelled
        | JobState::Expired
        | JobState::Quarantined => return Ok(None),
    };
    Ok(Some(Attempt {
        fence: Fence(unsigned(row, 11, "fence")?),
        attempt: small(row, 12, "attempt")?,
        worker: get(row, 13)?,
        started_at: maybe_time(row, 14)?,
        finished_at: maybe_time(row, 15)?,
        outcome,
        error: None,
        usage: maybe_bytes(row, 16)?,
    }))
}
