//! Steps are added to a run that is on its way.

use std::collections::HashSet;

use super::{AddedSteps, build, drive, pin, read, release};
use crate::ledger::LedgerError;
use crate::ledger::runs::{Advance, Advanced, END, NewStep, Run, Step};
use crate::lifecycle::Lifecycle;
use crate::model::id::WorkflowId;
use crate::model::name::Namespace;
use crate::model::workflow::{StepSpec, WorkflowState, limits};

/// Looks at a run that others carry on at the same time.
const TRIES_MAX: usize = 50;

pub(super) async fn add(
    life: &Lifecycle,
    namespace: &Namespace,
    id: WorkflowId,
    after: &str,
    specs: &mut [StepSpec],
) -> Result<AddedSteps, LedgerError> {
    let ledger = &life.inner.ledger;
    pin::pin(ledger, namespace, specs).await?;
    let mut names: Vec<String> = specs.iter().map(|spec| spec.id.clone()).collect();
    names.push(after.to_owned());
    for _ in 0..TRIES_MAX {
        let Some(run) = ledger.run(namespace, id).await? else { return Ok(AddedSteps::Unknown) };
        if run.state != WorkflowState::Running || run.ending.is_some() {
            return Ok(AddedSteps::Ended);
        }
        if run.steps as usize + specs.len() > limits::STEPS_MAX {
            return Ok(AddedSteps::TooMany);
        }
        let known = ledger.steps_named(id, &names).await?;
        if let Some(taken) = known.iter().find(|step| step.id != after) {
            return Ok(AddedSteps::Taken(taken.id.clone()));
        }
        let Some(mut step) = known.into_iter().find(|step| !step.state.is_terminal()) else {
            return Ok(AddedSteps::NoSuchStep);
        };
        // What is skipped already waits for nothing.
        let all = read::all_steps(ledger, &run).await?;
        let over = all.into_iter().filter(|other| other.state.is_terminal());
        let over: HashSet<i32> = over.map(|other| other.ord).collect();
        step.dependents.retain(|ord| !over.contains(ord));
        if step.dependents.is_empty() {
            step.dependents.push(END);
        }
        let mut added = rows(&run, &step, specs);
        for (id, bytes) in build::large(&mut added) {
            ledger.put_blob(namespace, id, bytes).await?;
        }
        let advance = Advance { version: run.version, added, ..Advance::default() };
        // Fixed before the rows are sent: a push that is delayed past it could restart a finished job.
        let not_after = life.inner.delivery.deadline().await;
        match ledger.advance(&run, &advance).await? {
            // Somebody was faster, or the step has ended: look again.
            Advanced::Conflict => {}
            Advanced::Done { released, .. } => {
                drive::push(life, released, not_after);
                drive::soon(life, id);
                return Ok(AddedSteps::Done);
            }
        }
    }
    Err(LedgerError::Unavailable("the run keeps moving; try again".into()))
}

/// Rows of steps after one that has not ended; what needed that waits for the last of them too.
fn rows(run: &Run, after: &Step, specs: &[StepSpec]) -> Vec<NewStep> {
    let origin = release::origin(run);
    let first = i32::try_from(run.steps).expect("steps are bounded");
    let at = |n: usize| first + i32::try_from(n).expect("steps are bounded");
    let mut dependents: Vec<Vec<i32>> = vec![Vec::new(); specs.len()];
    for (n, spec) in specs.iter().enumerate() {
        for need in &spec.needs {
            dependents[*need as usize].push(at(n));
        }
    }
    specs
        .iter()
        .zip(dependents)
        .enumerate()
        .map(|(n, (spec, mut below))| {
            if below.is_empty() {
                below.clone_from(&after.dependents);
            }
            let needs = match &spec.needs[..] {
                [] => vec![after.ord],
                needs => needs.iter().map(|need| at(*need as usize)).collect(),
            };
            build::row(spec, at(n), needs, below, &origin)
        })
        .collect()
}
