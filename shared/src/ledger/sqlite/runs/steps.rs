//! Steps on their way in.

use crate::ledger::runs::NewStep;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::statement::Bulk;
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::WorkflowId;
use crate::model::name::Namespace;
use crate::model::workflow::StepState;

/// Positions as the table has them.
pub(super) fn ords_text(ords: &[i32]) -> String {
    serde_json::to_string(ords).expect("numbers always serialise")
}

/// A step on its way in, and how many of its needs have not ended.
pub(super) struct Row<'a> {
    pub(super) step: &'a NewStep,
    pub(super) state: StepState,
    pub(super) due: bool,
    pub(super) needs_left: usize,
}

impl<'a> Row<'a> {
    /// Of a step all of whose needs come in with it.
    pub(super) fn of(step: &'a NewStep) -> Self {
        Self { step, state: step.state, due: step.due, needs_left: step.needs.len() }
    }
}

/// Inserts steps.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    namespace: &Namespace,
    steps: &[Row<'_>],
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
        .execute(tx.connection, steps, |args, row| {
            let step = row.step;
            args.add(run.as_bytes().as_slice())
                .add(step.ord)
                .add(row.due)
                .add((row.state == StepState::Released).then_some(now))
                .add(i64::try_from(row.needs_left).unwrap_or(i64::MAX))
                .add(row.state as i16)
                .add(step.plain)
                .add(step.many)
                .add(step.paced)
                .add(step.job.as_ref().map(|job| job.id.as_bytes().as_slice()))
                .add(namespace.as_str())
                .add(step.id.as_str());
        })
        .await?;
    PLANS
        .execute(tx.connection, steps, |args, Row { step, .. }| {
            args.add(run.as_bytes().as_slice())
                .add(step.ord)
                .add(ords_text(&step.needs))
                .add(ords_text(&step.dependents))
                .add(step.spec.as_str());
        })
        .await?;
    Ok(())
}
