//! A `for_each` of runs: a child for each item, and their answers in the order of the items.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde_json::Value as Json;

use super::decide::{Desk, STOP_AGAIN, moved, step_failed};
use super::waits::{ChildSeen, child_id};
use crate::ledger::runs::{Move, Step};
use crate::model::id::WorkflowId;
use crate::model::job::JobError;
use crate::model::workflow::{
    ChildSpec, RunFailure, StepFailure, StepSpec, StepState, WorkflowState, code, limits, permanent,
};

/// Runs started by one decision; each is a transaction of its own.
const STARTS_MAX: usize = 20;

/// How the children of a step are.
struct Family<'c> {
    /// By item; `None`: not started.
    children: Vec<Option<&'c ChildSeen>>,
    live: usize,
    failed: Option<(usize, &'c ChildSeen)>,
}

impl<'c> Family<'c> {
    fn of(run: WorkflowId, step: &Step, items: usize, children: &'c [ChildSeen]) -> Self {
        let by_id: HashMap<WorkflowId, &ChildSeen> = children.iter().map(|c| (c.id, c)).collect();
        let ids = (0..).take(items).map(|item| child_id(run, step, Some(item)));
        let children: Vec<_> = ids.map(|id| by_id.get(&id).copied()).collect();
        let there = || children.iter().enumerate().filter_map(|(at, c)| Some((at, (*c)?)));
        let live = there().filter(|(_, child)| !child.state.is_terminal()).count();
        let failed =
            there().find(|(_, c)| c.state.is_terminal() && c.state != WorkflowState::Succeeded);
        Self { live, failed, children }
    }

    /// Why the step does not succeed.
    fn error(&self) -> Option<JobError> {
        let (item, child) = self.failed?;
        let why = child.error.as_ref().map_or("", |error| error.message.as_str());
        let text = format!(
            "item {item}: the workflow {} ended as {}: {why}",
            child.id,
            child.state.as_str()
        );
        Some(permanent(code::CHILD_FAILED, text))
    }

    /// What they answer, `null` for those that failed.
    fn outputs(&self) -> Result<Bytes, JobError> {
        let mut list = Vec::with_capacity(self.children.len());
        let mut bytes = 0;
        for child in &self.children {
            let output = child.filter(|child| child.state == WorkflowState::Succeeded);
            let output = output.and_then(|child| child.output.as_ref());
            bytes += output.map_or(4, Bytes::len);
            if bytes > limits::SCOPE_BYTES_MAX {
                let text = "the answers of its workflows are larger than 8 MiB together";
                return Err(permanent(code::EXPRESSION_FAILED, text));
            }
            list.push(output.and_then(|o| serde_json::from_slice(o).ok()).unwrap_or(Json::Null));
        }
        Ok(Bytes::from(Json::Array(list).to_string()))
    }
}

/// Looks at a step that waits for the runs of its items, while the run goes forward.
pub(super) fn look(
    desk: &mut Desk<'_>,
    step: &Step,
    spec: &StepSpec,
    child: &ChildSpec,
    children: &[ChildSeen],
) {
    let list: Option<Vec<Json>> = step.list.as_ref().and_then(|l| serde_json::from_slice(l).ok());
    let Some(list) = list else {
        let error = permanent("internal", "the list of the step cannot be read");
        return desk.ended(step, spec, Err(error));
    };
    let run = desk.snapshot.run.id;
    let family = Family::of(run, step, list.len(), children);
    let ours: HashSet<WorkflowId> =
        family.children.iter().flatten().map(|child| child.id).collect();
    if children.iter().any(|child| !child.state.is_terminal() && !ours.contains(&child.id)) {
        // One of before a retry goes on. Its end makes the step due.
        return desk.stay(step);
    }
    let stops = spec.on_failure == StepFailure::Fail && desk.options.on_failure == RunFailure::Stop;
    if let Some(error) = family.error().filter(|_| stops) {
        return desk.fail_run(step_failed(&step.id, &error), true);
    }
    let missing: Vec<usize> =
        (0..list.len()).filter(|item| family.children[*item].is_none()).collect();
    if missing.is_empty() && family.live == 0 {
        return end(desk, step, spec, &family);
    }
    if let Some(error) = desk.facts.refused.get(&step.ord).cloned() {
        return broken(desk, step, spec, &family, error);
    }
    let most = spec.max_parallel.map_or(list.len(), |most| most as usize);
    let room = most.saturating_sub(family.live).min(STARTS_MAX);
    if room == 0 || missing.is_empty() {
        return desk.stay(step);
    }
    // The step stays due until they are on record.
    for item in missing.into_iter().take(room) {
        let at = u32::try_from(item).expect("items are bounded");
        match desk.child(step, child, Some((at, &list[item]))) {
            Ok(start) => desk.decision.start.push(start),
            Err(error) => return broken(desk, step, spec, &family, error),
        }
    }
}

fn end(desk: &mut Desk<'_>, step: &Step, spec: &StepSpec, family: &Family<'_>) {
    let output = match family.outputs() {
        Ok(output) => output,
        Err(error) => return desk.ended(step, spec, Err(error)),
    };
    desk.ended(step, spec, family.error().map_or(Ok(()), Err));
    if let Some(end) = desk.moves.get_mut(&step.ord) {
        end.output = Some(output);
    }
}

/// No more can be started: the step ends when those that were have.
fn broken(desk: &mut Desk<'_>, step: &Step, spec: &StepSpec, family: &Family<'_>, error: JobError) {
    desk.decision.start.retain(|start| start.ord != step.ord);
    if family.live == 0 {
        return desk.ended(step, spec, Err(error));
    }
    let wake_at = Some(desk.snapshot.now.plus(STOP_AGAIN));
    desk.push(Move { wake_at, ..moved(step, StepState::Waiting) });
}
