//! How a run ends: what it answers, and what has to be undone first.

use super::build;
use super::decide::{COMPENSATE, Desk};
use super::release::{self, Stored};
use crate::expr::template;
use crate::ledger::runs::{NewStep, Step};
use crate::model::job::JobError;
use crate::model::workflow::{JobTemplate, StepSpec, StepState, WorkflowState, code, permanent};

/// Decides over a run of which every step has ended.
pub(super) fn end(desk: &mut Desk<'_>, end: &Step) {
    let run = &desk.snapshot.run;
    if desk.facts.all.iter().any(|step| !step.state.is_terminal()) {
        // It is waited for, or will be: it was not there yet when others ended.
        return desk.look_again_at(end);
    }
    let failed = run.error.is_some() || desk.failed.is_some();
    let state = match (run.state, run.ending) {
        (WorkflowState::Compensating, _) => {
            let mut undone = desk.facts.all.iter().filter(|step| step.id.starts_with(COMPENSATE));
            match undone.all(|step| step.state == StepState::Succeeded) {
                true => WorkflowState::Compensated,
                false => WorkflowState::Failed,
            }
        }
        (_, Some(WorkflowState::Cancelled)) => WorkflowState::Cancelled,
        (_, _) if failed || run.ending.is_some() => {
            let mut undo = compensations(desk);
            if !undo.is_empty() {
                desk.decision.blobs.extend(build::large(&mut undo));
                desk.decision.advance.state = Some(WorkflowState::Compensating);
                desk.decision.advance.added = undo;
                return desk.stay_at_end(end);
            }
            WorkflowState::Failed
        }
        (_, _) => match answer(desk) {
            Ok((output, blob)) => {
                desk.decision.advance.output = Some(output);
                desk.decision.blobs.extend(blob);
                WorkflowState::Succeeded
            }
            Err(error) => {
                desk.decision.advance.error = Some(error);
                WorkflowState::Failed
            }
        },
    };
    desk.decision.advance.state = Some(state);
}

/// Steps that undo what has succeeded, latest first, one after the other.
fn compensations(desk: &Desk<'_>) -> Vec<NewStep> {
    let all = &desk.facts.all;
    let mut done: Vec<(&Step, JobTemplate)> = all
        .iter()
        .filter(|step| step.state == StepState::Succeeded)
        .filter_map(|step| {
            let spec: StepSpec = serde_json::from_str(&step.spec).ok()?;
            Some((step, spec.compensate?))
        })
        .collect();
    done.sort_by_key(|(step, _)| std::cmp::Reverse((step.finished_at, step.ord)));
    let first = all.iter().map(|step| step.ord + 1).max().unwrap_or(0);
    release::chain(done, first, &desk.snapshot.run)
}

/// What the run answers.
fn answer(desk: &mut Desk<'_>) -> Result<Stored, JobError> {
    let Some(output) = &desk.options.output else {
        return release::stored(&release::outputs_of_last(&desk.facts.all, &desk.facts.steps));
    };
    if let Some(error) = desk.facts.spoiled.clone() {
        return Err(error);
    }
    let scope = desk.take_scope();
    let answer = template::fill(output, &scope);
    desk.put_scope(scope);
    release::stored(&answer.map_err(|e| permanent(code::EXPRESSION_FAILED, e.to_string()))?)
}
