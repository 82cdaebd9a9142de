//! Signals and votes.

use sqlx::postgres::PgRow;
use sqlx::{Acquire, PgConnection, PgPool};

use super::super::error::unchanged;
use super::super::row::{get, maybe_bytes, time, unsigned};
use super::super::{Inner, Result};
use super::{Tries, row};
use crate::ledger::fit_text;
use crate::ledger::runs::{GIVEN_MAX, Given, NewGiven, RunChanged};
use crate::model::id::WorkflowId;
use crate::model::name::Namespace;

/// How far a transaction got.
enum Attempt {
    Done,
    Unknown,
    Full,
    /// The state's number.
    Ended(i16),
}

/// See [`crate::ledger::Ledger::give`].
pub(in super::super) async fn give(
    inner: &Inner,
    namespace: &Namespace,
    id: WorkflowId,
    given: &NewGiven,
) -> Result<RunChanged<()>> {
    let mut tries = Tries::default();
    loop {
        let mut connection = inner.own.acquire().await.map_err(unchanged)?;
        match attempt(&mut connection, namespace, id, given).await {
            Ok(Attempt::Done) => return Ok(RunChanged::Done(())),
            Ok(Attempt::Unknown) => return Ok(RunChanged::Unknown),
            Ok(Attempt::Full) => return Ok(RunChanged::Full),
            Ok(Attempt::Ended(state)) => {
                return Ok(RunChanged::Refused(row::workflow_state(state)?));
            }
            Err(error) => tries.again(error)?,
        }
    }
}

/// The run is locked first: places are given in the order of commits, and no step begins to wait unseen.
async fn attempt(
    connection: &mut PgConnection,
    namespace: &Namespace,
    id: WorkflowId,
    given: &NewGiven,
) -> Result<Attempt, sqlx::Error> {
    const GIVE: &str = "
INSERT INTO workflow_signals (workflow_id, at, namespace, kind, name, by, role, approved, reason, body)
SELECT $1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $2,
    CASE WHEN $6::boolean IS NULL THEN 'signal' ELSE 'approval' END, $3, $4, $5, $6, $7, $8
WHERE (SELECT count(*) FROM (SELECT FROM workflow_signals WHERE workflow_id = $1 LIMIT $9) n) < $9";
    let mut transaction = connection.begin().await?;
    let sql = "SELECT state FROM workflows WHERE id = $1 AND namespace = $2 FOR NO KEY UPDATE";
    let query = sqlx::query_scalar(sql).bind(id.uuid()).bind(namespace.as_str());
    let Some(state) = query.fetch_optional(&mut *transaction).await? else {
        return Ok(Attempt::Unknown);
    };
    if state >= 10 {
        return Ok(Attempt::Ended(state));
    }
    let noted = sqlx::query(GIVE)
        .bind(id.uuid())
        .bind(namespace.as_str())
        .bind(fit_text(&given.name))
        .bind(fit_text(&given.by))
        .bind(given.role.as_deref().map(fit_text))
        .bind(given.approved)
        .bind(given.reason.as_deref().map(fit_text))
        .bind(given.body.as_deref())
        .bind(i64::from(GIVEN_MAX))
        .execute(&mut *transaction)
        .await?;
    if noted.rows_affected() == 0 {
        return Ok(Attempt::Full);
    }
    let sql = "UPDATE workflow_steps SET due = due + 1 WHERE workflow_id = $1 AND state = 2";
    sqlx::query(sql).bind(id.uuid()).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Attempt::Done)
}

/// Signals that no step has taken, and all votes; oldest first.
pub(in super::super) async fn given(pool: &PgPool, id: WorkflowId) -> Result<Vec<Given>> {
    let sql = "SELECT seq, at, name, by, role, approved, reason, body FROM workflow_signals \
               WHERE workflow_id = $1 AND (NOT taken OR approved IS NOT NULL) ORDER BY seq LIMIT $2";
    let query = sqlx::query(sql).bind(id.uuid()).bind(i64::from(GIVEN_MAX));
    query.fetch_all(pool).await.map_err(unchanged)?.iter().map(given_of).collect()
}

fn given_of(row: &PgRow) -> Result<Given> {
    Ok(Given {
        seq: unsigned(row, 0, "seq")?,
        at: time(row, 1)?,
        name: get(row, 2)?,
        by: get(row, 3)?,
        role: get(row, 4)?,
        approved: get(row, 5)?,
        reason: get(row, 6)?,
        body: maybe_bytes(row, 7)?,
    })
}
