//! Signals and votes.

use sqlx::sqlite::SqliteConnection;

use super::row::workflow_state;
use crate::ledger::fit_text;
use crate::ledger::runs::{GIVEN_MAX, Given, NewGiven, RunChanged};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::statement::{Args, execute, row, rows};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::WorkflowId;
use crate::model::name::Namespace;

fn of(id: WorkflowId) -> Args {
    Args::default().with(id.as_bytes().as_slice())
}

/// Signals that no step has taken, and all votes; oldest first.
pub(in crate::ledger::sqlite) async fn given(
    connection: &mut SqliteConnection,
    id: WorkflowId,
) -> Result<Vec<Given>, Fault> {
    let sql = "SELECT seq, at, name, by, role, approved, reason, body FROM workflow_signals \
               WHERE workflow_id = ? AND (taken = 0 OR approved IS NOT NULL) ORDER BY seq";
    let found = rows(connection, sql, of(id)).await?;
    let given = |row| {
        let mut c = Columns::of(row);
        Ok(Given {
            seq: c.count()?,
            at: c.time()?,
            name: c.next()?,
            by: c.next()?,
            role: c.next()?,
            approved: c.next()?,
            reason: c.next()?,
            body: c.maybe_bytes()?,
        })
    };
    found.iter().map(given).collect()
}

/// Notes a signal or a vote, and makes what waits due.
pub(in crate::ledger::sqlite) async fn give(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: WorkflowId,
    given: &NewGiven,
) -> Result<RunChanged<()>, Fault> {
    let sql = "SELECT w.state, (SELECT count(*) FROM workflow_signals WHERE workflow_id = w.id) \
               FROM workflows w WHERE w.id = ? AND w.namespace = ?";
    let found = row(tx.connection, sql, of(id).with(namespace.as_str())).await?;
    let Some(found) = found else { return Ok(RunChanged::Unknown) };
    let mut c = Columns::of(&found);
    let (state, count) = (workflow_state(c.next()?)?, c.next::<i64>()?);
    if state.is_terminal() {
        return Ok(RunChanged::Refused(state));
    }
    if count >= i64::from(GIVEN_MAX) {
        return Ok(RunChanged::Full);
    }
    let sql = "INSERT INTO workflow_signals (workflow_id, at, namespace, kind, name, by, role, \
               approved, reason, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let args = of(id)
        .with(tx.now.micros())
        .with(namespace.as_str())
        .with(if given.approved.is_some() { "approval" } else { "signal" })
        .with(given.name.as_str())
        .with(fit_text(&given.by))
        .with(given.role.as_deref().map(fit_text))
        .with(given.approved)
        .with(given.reason.as_deref().map(fit_text))
        .with(given.body.as_deref());
    execute(tx.connection, sql, args).await?;
    let sql = "UPDATE workflow_steps SET due = due + 1 WHERE workflow_id = ? AND state = 2";
    execute(tx.connection, sql, of(id)).await?;
    Ok(RunChanged::Done(()))
}

/// Notes that signals were used up; votes stay.
pub(super) async fn take(tx: &mut Tx<'_>, run: WorkflowId, taken: &[u64]) -> Result<(), Fault> {
    if taken.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE workflow_signals SET taken = 1 \
               WHERE workflow_id = ? AND approved IS NULL AND seq IN (SELECT value FROM json_each(?))";
    let seqs = serde_json::to_string(taken).expect("numbers always serialise");
    execute(tx.connection, sql, of(run).with(seqs)).await?;
    Ok(())
}
