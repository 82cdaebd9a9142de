//! Pages of runs by filter, and those with something due.

use sqlx::sqlite::SqliteConnection;

use super::row::{run_of, select_runs};
use crate::ledger::runs::{Run, RunFilter};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::statement::{Args, composed, rows};
use crate::ledger::unreadable::readable;
use crate::model::id::WorkflowId;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Most runs in one answer.
const RUNS_MAX: u32 = 500;

/// Runs newest first, before `before`.
pub(in crate::ledger::sqlite) async fn list(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    filter: &RunFilter,
    before: Option<WorkflowId>,
    limit: u32,
) -> Result<Vec<Run>, Fault> {
    let mut sql = String::from(select_runs!("WHERE w.namespace = ? AND w.id < ?"));
    let before = before.map_or([0xff; 16], |id| *id.as_bytes());
    let mut args = Args::default().with(namespace.as_str()).with(before.as_slice());
    if !filter.states.is_empty() {
        let marks = vec!["?"; filter.states.len()].join(", ");
        sql.push_str(&format!(" AND w.state IN ({marks})"));
        for state in &filter.states {
            args.add(*state as i16);
        }
    }
    if let Some(name) = &filter.name {
        sql.push_str(" AND w.name = ?");
        args.add(name.as_str());
    }
    if let Some(definition) = &filter.definition {
        sql.push_str(" AND w.definition = ?");
        args.add(definition.as_str());
    }
    for tag in &filter.tags {
        sql.push_str(" AND EXISTS (SELECT 1 FROM json_each(w.tags) WHERE value = ?)");
        args.add(tag.as_str());
    }
    if let Some(after) = filter.created_after {
        sql.push_str(" AND w.created_at >= ?");
        args.add(after.micros());
    }
    if let Some(before) = filter.created_before {
        sql.push_str(" AND w.created_at < ?");
        args.add(before.micros());
    }
    sql.push_str(" ORDER BY w.id DESC LIMIT ?");
    args.add(limit.min(RUNS_MAX));
    let found = composed(connection, sql, args).await?;
    Ok(readable("a workflow", &found, run_of))
}

/// Runs that are not terminal and have something due: steps, a wait that is over, or a deadline that was not acted
/// upon. In id order after `after`.
pub(in crate::ledger::sqlite) async fn due(
    connection: &mut SqliteConnection,
    after: Option<WorkflowId>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<(Namespace, WorkflowId)>, Fault> {
    // A run that undoes what it did, or ends, takes no notice of its deadline.
    let sql = "WITH n (id) AS (SELECT * FROM (SELECT DISTINCT s.workflow_id FROM workflow_steps s \
               CROSS JOIN workflows w ON w.id = s.workflow_id \
               WHERE s.due > 0 AND s.workflow_id > ?1 AND w.state < 10 \
               ORDER BY s.workflow_id LIMIT ?2) \
               UNION SELECT workflow_id FROM workflow_steps WHERE wake_at <= ?3 \
               UNION SELECT id FROM workflows WHERE deadline <= ?3 AND state < 10 AND state = 0 \
               AND ending IS NULL) \
               SELECT w.namespace, w.id FROM n CROSS JOIN workflows w ON w.id = n.id \
               WHERE w.state < 10 AND w.id > ?1 ORDER BY w.id LIMIT ?2";
    let after = after.map_or([0; 16], |id| *id.as_bytes());
    let args = Args::default().with(after.as_slice()).with(limit).with(now.micros());
    let found = rows(connection, sql, args).await?;
    Ok(readable("a workflow", &found, |row| {
        let mut c = Columns::of(row);
        Ok::<_, Fault>((c.parsed()?, WorkflowId::from_bytes(c.id()?)))
    }))
}
