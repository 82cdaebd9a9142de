//! A run that has ended goes on from what did not succeed.

use std::collections::{HashMap, HashSet};

use super::decide::COMPENSATE;
use super::{Retried, drive, read};
use crate::ledger::LedgerError;
use crate::ledger::runs::{END, Reset, RunChanged, Step, StepJob};
use crate::lifecycle::Lifecycle;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::JobState;
use crate::model::name::Namespace;
use crate::model::workflow::{StepFailure, StepSpec, StepState, WorkflowState, code};

/// Looks at a run that others change at the same time.
const TRIES_MAX: usize = 10;

pub(super) async fn retry(
    life: &Lifecycle,
    namespace: &Namespace,
    id: WorkflowId,
) -> Result<RunChanged<Retried>, LedgerError> {
    let ledger = &life.inner.ledger;
    for _ in 0..TRIES_MAX {
        let Some(run) = ledger.run(namespace, id).await? else { return Ok(RunChanged::Unknown) };
        if !matches!(run.state, WorkflowState::Failed | WorkflowState::Cancelled) {
            return Ok(RunChanged::Refused(run.state));
        }
        let all = read::all_steps(ledger, &run).await?;
        // What was undone cannot be built upon.
        if all.iter().any(|step| step.id.starts_with(COMPENSATE)) {
            return Ok(RunChanged::Refused(run.state));
        }
        let again = chosen(&all);
        let many: Vec<i32> =
            all.iter().filter(|s| s.many && again.contains(&s.ord)).map(|s| s.ord).collect();
        let mut items: HashMap<i32, Vec<StepJob>> = HashMap::new();
        if !many.is_empty() {
            for job in ledger.step_jobs(id, &many).await? {
                items.entry(job.ord).or_default().push(job);
            }
        }
        let resets = resets(&all, &again, &items);
        let not_after = life.inner.delivery.deadline().await;
        let Some(released) = ledger.retry_run(&run, &resets).await? else { continue };
        drive::push(life, released, not_after);
        drive::soon(life, id);
        let Some(run) = ledger.run(namespace, id).await? else { return Ok(RunChanged::Unknown) };
        let ids = |keep: &dyn Fn(&Step) -> bool| {
            all.iter().filter(|step| keep(step)).map(|step| step.id.clone()).collect()
        };
        let reused = ids(&|step| step.state == StepState::Succeeded);
        let again = ids(&|step| again.contains(&step.ord));
        return Ok(RunChanged::Done(Retried { run, reused, again }));
    }
    Err(LedgerError::Unavailable("the run keeps changing; try again".into()))
}

/// Steps that run again: those that failed or were stopped, and those that were skipped for it.
fn chosen(all: &[Step]) -> HashSet<i32> {
    let again = all.iter().filter(|step| match step.state {
        StepState::Cancelled => true,
        StepState::Failed => {
            // One that was passed over has had its dependents run.
            let spec: Result<StepSpec, _> = serde_json::from_str(&step.spec);
            spec.map_or(true, |spec| spec.on_failure != StepFailure::Continue)
        }
        StepState::Skipped => step.error.as_ref().is_some_and(|e| e.code == code::UPSTREAM_FAILED),
        _ => false,
    });
    again.map(|step| step.ord).collect()
}

fn resets(all: &[Step], again: &HashSet<i32>, items: &HashMap<i32, Vec<StepJob>>) -> Vec<Reset> {
    let open = |needs: &[i32]| {
        let open = needs.iter().filter(|need| again.contains(need)).count();
        u32::try_from(open).expect("needs are bounded")
    };
    let mut resets: Vec<Reset> = all
        .iter()
        .filter(|step| again.contains(&step.ord))
        .map(|step| reset(step, open(&step.needs), items.get(&step.ord)))
        .collect();
    // A stop makes the end wait for what runs besides; only the others have it as their sole dependent.
    let last = all.iter().filter(|step| step.dependents == [END] && again.contains(&step.ord));
    let needs_left = u32::try_from(last.count()).expect("steps are bounded");
    resets.push(Reset {
        ord: END,
        to: StepState::Blocked,
        needs_left,
        due: needs_left == 0,
        jobs: Vec::new(),
        items_open: None,
    });
    resets
}

fn reset(step: &Step, needs_left: u32, items: Option<&Vec<StepJob>>) -> Reset {
    let starts = needs_left == 0;
    if let Some(items) = items.filter(|_| starts && step.list.is_some()) {
        let jobs: Vec<JobId> = items
            .iter()
            .filter(|job| job.state.is_terminal() && job.state != JobState::Succeeded)
            .map(|job| job.id)
            .collect();
        let unmade = step.items.total - step.items.made;
        let count = u32::try_from(jobs.len()).expect("items are bounded");
        return Reset {
            ord: step.ord,
            to: StepState::Released,
            needs_left,
            due: unmade > 0 || count == 0,
            jobs,
            items_open: Some(count + unmade),
        };
    }
    let plain = starts && step.plain;
    Reset {
        ord: step.ord,
        to: if plain { StepState::Released } else { StepState::Blocked },
        needs_left,
        due: starts && !plain,
        jobs: step.job_id.into_iter().collect(),
        items_open: None,
    }
}
