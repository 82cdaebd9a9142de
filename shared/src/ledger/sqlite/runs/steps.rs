//! Steps on their way in.

use std::collections::{BTreeMap, HashSet};

use crate::ledger::runs::NewStep;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::statement::{Args, Bulk, execute};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::WorkflowId;
use crate::model::name::Namespace;
use crate::model::workflow::StepState;

/// Positions as the table has them.
pub(super) fn ords_text(ords: &[i32]) -> String {
    serde_json::to_string(ords).expect("numbers always serialise")
}

/// Inserts steps.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    namespace: &Namespace,
    steps: &[NewStep],
) -> Result<(), Fault> {
    static STEPS: Bulk = Bulk::new(
        "INSERT INTO workflow_steps (workflow_id, ord, due, started_at, needs_left, state, plain, \
         many, paced, job_id, namespace, step) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    );
    static PLANS: Bulk = Bulk::new(
        "INSERT INTO workflow_plans (workflow_id, ord, needs, dependents, spec) VALUES",
        "(?, ?, ?, ?, ?)",
        "",
    );
    let now = tx.now.micros();
    STEPS
        .execute(tx.connection, steps, |args, step| {
            args.add(run.as_bytes().as_slice())
                .add(step.ord)
                .add(step.due)
                .add((step.state == StepState::Released).then_some(now))
                .add(i64::try_from(step.needs.len()).unwrap_or(i64::MAX))
                .add(step.state as i16)
                .add(step.plain)
                .add(step.many)
                .add(step.paced)
                .add(step.job.as_ref().map(|job| job.id.as_bytes().as_slice()))
                .add(namespace.as_str())
                .add(step.id.as_str());
        })
        .await?;
    PLANS
        .execute(tx.connection, steps, |args, step| {
            args.add(run.as_bytes().as_slice())
                .add(step.ord)
                .add(ords_text(&step.needs))
                .add(ords_text(&step.dependents))
                .add(step.spec.as_str());
        })
        .await?;
    Ok(())
}

/// Makes steps that are there already wait for those of `added` that name them as dependents, and counts the added
/// ones.
pub(super) async fn link(tx: &mut Tx<'_>, run: WorkflowId, added: &[NewStep]) -> Result<(), Fault> {
    static WAIT: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, n) AS (VALUES",
        "(?, ?, ?)",
        ") UPDATE workflow_steps AS s SET needs_left = s.needs_left + v.n \
         FROM v WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord",
    );
    // A JSON array grows by its text: `[1,2]` and `3,4` are `[1,2,3,4]`.
    static NEED: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, more) AS (VALUES",
        "(?, ?, ?)",
        ") UPDATE workflow_plans AS p SET needs = rtrim(p.needs, ']') \
         || iif(p.needs = '[]', '', ',') || v.more || ']' \
         FROM v WHERE p.workflow_id = v.workflow_id AND p.ord = v.ord",
    );
    let fresh: HashSet<i32> = added.iter().map(|step| step.ord).collect();
    let mut edges: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for step in added {
        for dependent in step.dependents.iter().filter(|ord| !fresh.contains(ord)) {
            edges.entry(*dependent).or_default().push(step.ord);
        }
    }
    let edges: Vec<(i32, Vec<i32>)> = edges.into_iter().collect();
    WAIT.execute(tx.connection, &edges, |args, (dependent, needs)| {
        let n = i64::try_from(needs.len()).unwrap_or(i64::MAX);
        args.add(run.as_bytes().as_slice()).add(*dependent).add(n);
    })
    .await?;
    NEED.execute(tx.connection, &edges, |args, (dependent, needs)| {
        let more: Vec<String> = needs.iter().map(i32::to_string).collect();
        args.add(run.as_bytes().as_slice()).add(*dependent).add(more.join(","));
    })
    .await?;
    let sql = "UPDATE workflows SET steps = steps + ? WHERE id = ?";
    let count = i64::try_from(added.len()).unwrap_or(i64::MAX);
    execute(tx.connection, sql, Args::default().with(count).with(run.as_bytes().as_slice()))
        .await?;
    Ok(())
}
