//! What has to be read before a decision over a run.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::release;
use super::waits::{ChildSeen, Given};
use crate::ledger::runs::{END, Snapshot, Step, StepJob};
use crate::model::job::JobError;
use crate::model::time::Span;
use crate::model::workflow::{
    ChildOf, RunFailure, StepFailure, StepSpec, StepState, Work, WorkflowSpec, WorkflowState,
};

/// What is wanted beside the [`Snapshot`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The jobs of these steps, which have one.
    pub jobs: Vec<i32>,
    /// The jobs of these `for_each`, for the reason of a failure.
    pub items: Vec<i32>,
    /// State and output of these steps, by id, for expressions.
    pub steps: Vec<String>,
    /// The outputs of the steps that no other needs, for the answer of the run.
    pub last: bool,
    /// Signals and approvals given.
    pub given: bool,
    /// Runs that these steps have started.
    pub children: Vec<i32>,
    /// Definitions, with the version if one is asked for, by the position of the step that starts one.
    pub definitions: Vec<(i32, String, Option<u32>)>,
    /// All steps with their edges: something is to be undone, or answered.
    pub all: bool,
    /// Expressions are evaluated.
    pub evaluates: bool,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Facts {
    /// By position of their step.
    pub jobs: HashMap<i32, Vec<StepJob>>,
    /// What expressions see of steps, by id.
    pub steps: HashMap<String, Json>,
    /// Signals and approvals, oldest first.
    pub given: Vec<Given>,
    /// By position of the step that started them.
    pub children: HashMap<i32, Vec<ChildSeen>>,
    /// By position of the step that starts one; missing: there is none.
    pub definitions: HashMap<i32, (u32, WorkflowSpec)>,
    /// Every step but the end, if [`Facts::has_all`].
    pub all: Vec<Step>,
    /// Whether they were read.
    pub has_all: bool,
    /// Why children of these steps, by position, cannot be started.
    pub refused: HashMap<i32, JobError>,
    /// What `input` is.
    pub input: Json,
    /// Why nothing can be evaluated: the values are too large, or the expressions took too long.
    pub spoiled: Option<JobError>,
}

/// Options of a run that matter to decisions.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// See [`RunFailure`].
    #[serde(default)]
    pub on_failure: RunFailure,
    /// See [`WorkflowSpec::output`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// Longest time of a run, from its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
}

/// Whether a run only waits for what runs to end.
pub(super) fn is_stopping(snapshot: &Snapshot) -> bool {
    snapshot.run.ending.is_some() && snapshot.run.state != WorkflowState::Compensating
}

/// What a decision over this snapshot will look at.
pub fn wants(snapshot: &Snapshot, specs: &HashMap<i32, StepSpec>, options: &Options) -> Wants {
    let mut wants = Wants::default();
    let stopping = is_stopping(snapshot);
    for step in &snapshot.due {
        let Some(spec) = specs.get(&step.ord) else {
            if step.ord == END {
                wants.of_end(step, options);
            }
            continue;
        };
        match step.state {
            StepState::Released => wants.of_released(step, spec, stopping, options),
            StepState::Blocked if step.needs_left == 0 => {
                wants.steps.extend(release::names(spec));
                wants.evaluates |= release::evaluates(spec);
            }
            StepState::Waiting => wants.of_waiting(step, spec, stopping),
            _ => {}
        }
    }
    wants.steps.sort();
    wants.steps.dedup();
    wants
}

impl Wants {
    /// The answer is made of all steps, and what is to be undone is found among them.
    fn of_end(&mut self, end: &Step, options: &Options) {
        if end.needs_left > 0 {
            return;
        }
        self.all = true;
        match &options.output {
            Some(template) => {
                self.evaluates = true;
                if let Ok(names) = crate::expr::template::check_all(template, false) {
                    self.steps.extend(names.steps);
                }
            }
            None => self.last = true,
        }
    }

    fn of_released(&mut self, step: &Step, spec: &StepSpec, stopping: bool, options: &Options) {
        if !step.many {
            self.jobs.push(step.ord);
            return;
        }
        let items = step.items;
        let stops = spec.on_failure == StepFailure::Fail && options.on_failure == RunFailure::Stop;
        // The reason of a failure; there may be very many items, so not before it is used.
        if items.failed > 0 && (items.open == 0 || (stops && !stopping)) {
            self.items.push(step.ord);
        }
        if items.made < items.total && !stopping {
            self.steps.extend(release::names(spec));
            self.evaluates |= release::evaluates(spec);
        }
    }

    fn of_waiting(&mut self, step: &Step, spec: &StepSpec, stopping: bool) {
        self.given |= matches!(spec.work, Work::Signal { .. } | Work::Approval(_));
        if let Work::Child(child) = &spec.work {
            self.children.push(step.ord);
            if stopping {
                return;
            }
            self.steps.extend(release::names(spec));
            self.evaluates = true;
            if let ChildOf::Definition { name, version } = &child.of {
                self.definitions.push((step.ord, name.clone(), *version));
            }
        }
    }
}
