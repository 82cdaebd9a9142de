//! What a run does next: a pure function of what is on record. No I/O, no clock.
//!
//! [`wants`] says what has to be read beside the [`Snapshot`]; [`decide`] turns all of it into an [`Advance`], which
//! the ledger carries out whole or not at all, and into orders for what lies outside of that transaction.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde_json::Value as Json;

use super::release::{self, Released};
use super::waits::{self, ChildSeen, Given};
use crate::expr::Scope;
use crate::ledger::runs::{Advance, END, Items, Move, NewStep, Snapshot, Step, StepJob};
use crate::model::id::WorkflowId;
use crate::model::job::{JobError, JobState};
use crate::model::workflow::{
    JobTemplate, RunFailure, StepFailure, StepSpec, StepState, Work, WorkflowState, code, permanent,
};

/// Prefix of the id of a step that undoes another. No submitted id has a colon.
pub const COMPENSATE: &str = "compensate:";

/// What has to be read before a decision.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The jobs of these steps.
    pub jobs: Vec<i32>,
    /// State and output of these steps, by id, for expressions.
    pub steps: Vec<String>,
    /// Signals and approvals given.
    pub given: bool,
    /// Runs that these steps have started.
    pub children: Vec<i32>,
    /// All steps with their edges: something is to be skipped, undone, or answered.
    pub all: bool,
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
    /// Every step but the end.
    pub all: Vec<Step>,
    /// What `input` is.
    pub input: Json,
}

/// Options of a run that matter to decisions.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// See [`RunFailure`].
    #[serde(default)]
    pub on_failure: RunFailure,
    /// See [`crate::model::workflow::WorkflowSpec::output`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Decision {
    /// In the ledger, first.
    pub advance: Advance,
    /// Values over the inline limit that `advance` names; to be stored before it.
    pub blobs: Vec<(crate::model::id::BlobId, Bytes)>,
    /// Runs to be started, after.
    pub start: Vec<waits::Start>,
    /// Runs to be stopped, after.
    pub stop: Vec<WorkflowId>,
    /// Whether running jobs are to be stopped, after.
    pub stop_jobs: bool,
}

/// What a decision over this snapshot will look at.
pub fn wants(snapshot: &Snapshot, specs: &HashMap<i32, StepSpec>, options: &Options) -> Wants {
    let mut wants = Wants::default();
    let stopping = snapshot.run.ending.is_some();
    for step in &snapshot.due {
        let Some(spec) = specs.get(&step.ord) else {
            // The end: the answer is made of all steps, and what is to be undone is found among them.
            wants.all |= step.needs_left == 0;
            if let Some(template) = &options.output
                && let Ok(names) = crate::expr::template::check_all(template, false)
            {
                wants.steps.extend(names.steps);
            }
            continue;
        };
        match step.state {
            StepState::Released => {
                wants.jobs.push(step.ord);
                wants.all |= spec.on_failure != StepFailure::Continue;
            }
            StepState::Blocked if !stopping && step.needs_left == 0 => {
                wants.steps.extend(release::names(spec));
                wants.given |= matches!(spec.work, Work::Signal { .. } | Work::Approval(_));
            }
            StepState::Waiting => {
                wants.given |= matches!(spec.work, Work::Signal { .. } | Work::Approval(_));
                if matches!(spec.work, Work::Child(_)) {
                    wants.children.push(step.ord);
                    wants.steps.extend(release::names(spec));
                }
                wants.all |= spec.on_failure != StepFailure::Continue;
            }
            _ => {}
        }
    }
    wants.steps.sort();
    wants.steps.dedup();
    wants
}

/// Decides over a run that is not terminal. Expressions are evaluated here: the caller bounds the time.
pub fn decide(
    snapshot: &Snapshot,
    specs: &HashMap<i32, StepSpec>,
    options: &Options,
    facts: &Facts,
) -> Decision {
    let mut desk = Desk {
        snapshot,
        options,
        facts,
        scope: None,
        decision: Decision::default(),
        failed: None,
        skipped: HashSet::new(),
    };
    desk.decision.advance.version = snapshot.run.version;
    let passed = snapshot.run.deadline.is_some_and(|deadline| deadline <= snapshot.now);
    if passed && snapshot.run.ending.is_none() && snapshot.run.state == WorkflowState::Running {
        desk.fail_run(
            permanent(code::DEADLINE_EXCEEDED, "the deadline of the workflow has passed"),
            true,
        );
        return desk.decision;
    }
    for step in &snapshot.due {
        match specs.get(&step.ord) {
            Some(spec) => desk.step(step, spec),
            None => desk.end(step),
        }
        if desk.decision.advance.stop {
            desk.drop_starts();
            break;
        }
    }
    desk.decision
}

struct Desk<'a> {
    snapshot: &'a Snapshot,
    options: &'a Options,
    facts: &'a Facts,
    scope: Option<Scope>,
    decision: Decision,
    failed: Option<JobError>,
    skipped: HashSet<i32>,
}

impl<'a> Desk<'a> {
    fn step(&mut self, step: &Step, spec: &StepSpec) {
        match step.state {
            StepState::Blocked => self.blocked(step, spec),
            StepState::Released => self.released(step, spec),
            StepState::Waiting => self.waiting(step, spec),
            // What made it due came too late.
            _ => self.stay(step),
        }
    }

    fn is_stopping(&self) -> bool {
        self.snapshot.run.ending.is_some()
    }

    /// A stop moves every step that has not started; decisions over them would not find them where they were.
    fn drop_starts(&mut self) {
        let advance = &mut self.decision.advance;
        advance.moves.retain(|one| one.from != StepState::Blocked || one.ord == END);
        advance.releases.clear();
        self.decision.blobs.clear();
    }

    /// Notes that a step was looked at.
    fn stay(&mut self, step: &Step) {
        self.decision.advance.moves.push(moved(step, step.state));
    }

    fn blocked(&mut self, step: &Step, spec: &StepSpec) {
        if step.needs_left > 0 || self.skipped.contains(&step.ord) {
            return self.stay(step);
        }
        let snapshot = self.snapshot;
        let scope = self.scope.take().unwrap_or_else(|| self.new_scope());
        let released = release::release(step, spec, scope, snapshot);
        let (outcome, scope) = released;
        self.scope = Some(scope);
        match outcome {
            Ok(Released::Skip) => {
                let mut skip = moved(step, StepState::Skipped);
                skip.error = Some(permanent(code::CONDITION_FALSE, "its condition was false"));
                self.decision.advance.moves.push(skip);
            }
            Ok(Released::Go { step: moves, jobs, blobs }) => {
                self.decision.advance.moves.push(moves);
                self.decision.advance.releases.extend(jobs);
                self.decision.blobs.extend(blobs);
            }
            Err(error) => self.ended(step, spec, Err(error)),
        }
    }

    fn new_scope(&self) -> Scope {
        let run = &self.snapshot.run;
        let about = serde_json::json!({"id": run.id, "name": run.name});
        Scope::new(&self.facts.input, &about, self.facts.steps.clone())
    }

    fn released(&mut self, step: &Step, spec: &StepSpec) {
        let none = Vec::new();
        let jobs = self.facts.jobs.get(&step.ord).unwrap_or(&none);
        if !step.many {
            let Some(job) = jobs.first().filter(|job| job.state.is_terminal()) else {
                return self.stay(step);
            };
            let result = match job.state {
                JobState::Succeeded => Ok(()),
                state => Err(job.error.clone().unwrap_or_else(|| permanent(state.as_str(), ""))),
            };
            return self.ended(step, spec, result);
        }
        let Items { total, made, open, failed } = step.items;
        let first =
            jobs.iter().find(|job| job.state.is_terminal() && job.state != JobState::Succeeded);
        let error = first.and_then(|job| {
            let error = job.error.clone()?;
            let message = format!("item {}: {}", job.item.unwrap_or_default(), error.message);
            Some(JobError { message, ..error })
        });
        let error = error.unwrap_or_else(|| permanent(code::STEP_FAILED, "an item failed"));
        if open == 0 {
            // A stop does not wait for the items that it kept from being made; without them it has not succeeded.
            let error =
                if failed == 0 { permanent("cancelled", "its run was stopped") } else { error };
            let done = failed == 0 && made == total;
            return self.ended(step, spec, if done { Ok(()) } else { Err(error) });
        }
        if failed > 0 && spec.on_failure == StepFailure::Fail && !self.is_stopping() {
            // Its other items are stopped with the run, or end; either way they make it due again.
            self.stay(step);
            if self.options.on_failure == RunFailure::Stop {
                return self.fail_run(step_failed(&step.id, &error), true);
            }
        }
        if made < total && !self.is_stopping() {
            let scope = self.scope.take().unwrap_or_else(|| self.new_scope());
            let (outcome, scope) = release::more(step, spec, scope, self.snapshot);
            self.scope = Some(scope);
            match outcome {
                Ok(Released::Go { step: moves, jobs, blobs }) => {
                    self.decision.advance.moves.push(moves);
                    self.decision.advance.releases.extend(jobs);
                    self.decision.blobs.extend(blobs);
                }
                Ok(Released::Skip) => self.stay(step),
                Err(error) => self.ended(step, spec, Err(error)),
            }
            return;
        }
        self.stay(step);
    }

    fn waiting(&mut self, step: &Step, spec: &StepSpec) {
        let none = Vec::new();
        let children = self.facts.children.get(&step.ord).unwrap_or(&none);
        if self.is_stopping() {
            // A child ends first, so that nothing of a stopped tree runs when its root says that it has ended.
            let live: Vec<WorkflowId> =
                children.iter().filter(|c| !c.state.is_terminal()).map(|c| c.id).collect();
            if live.is_empty() {
                self.decision.advance.moves.push(moved(step, StepState::Cancelled));
            } else {
                self.decision.stop.extend(live);
                self.stay(step);
            }
            return;
        }
        match waits::look(step, spec, self.snapshot.now, &self.facts.given, children) {
            waits::Seen::NotYet => self.stay(step),
            waits::Seen::Start(start) => self.decision.start.push(start),
            waits::Seen::Done { output, taken } => {
                self.decision.advance.taken.extend(taken);
                let mut done = moved(step, StepState::Succeeded);
                done.output = output;
                self.decision.advance.moves.push(done);
            }
            waits::Seen::Failed { error, taken } => {
                self.decision.advance.taken.extend(taken);
                self.ended(step, spec, Err(error));
            }
        }
    }

    /// A step has ended; what that means for the run.
    fn ended(&mut self, step: &Step, spec: &StepSpec, result: Result<(), JobError>) {
        let Err(error) = result else {
            self.decision.advance.moves.push(moved(step, StepState::Succeeded));
            return;
        };
        let stopped = self.is_stopping() && error.code == "cancelled";
        let to = if stopped { StepState::Cancelled } else { StepState::Failed };
        let mut end = moved(step, to);
        end.error = Some(error.clone());
        self.decision.advance.moves.push(end);
        if self.is_stopping() {
            return;
        }
        if let Some(undone) = step.id.strip_prefix(COMPENSATE) {
            let text = format!("undoing the step {undone:?} failed: {}", error.message);
            self.decision.advance.error = Some(permanent(code::COMPENSATION_FAILED, text));
            return;
        }
        match spec.on_failure {
            StepFailure::Continue => {}
            StepFailure::SkipDependents => self.skip_below(step),
            StepFailure::Fail => {
                let stop = self.options.on_failure == RunFailure::Stop;
                self.fail_run(step_failed(&step.id, &error), stop);
                if !stop {
                    self.skip_below(step);
                }
            }
        }
    }

    fn fail_run(&mut self, error: JobError, stop: bool) {
        // The first failure is the one on record.
        if self.snapshot.run.error.is_none() && self.failed.is_none() {
            self.decision.advance.error = Some(error.clone());
            self.failed = Some(error);
        }
        if stop {
            self.decision.advance.ending = Some(WorkflowState::Failed);
            self.decision.advance.stop = true;
            self.decision.stop_jobs = true;
        }
    }

    /// Skips everything that needs a step, directly or through others.
    fn skip_below(&mut self, step: &Step) {
        let below: HashMap<i32, &Step> = self.facts.all.iter().map(|s| (s.ord, s)).collect();
        let mut open: Vec<i32> = step.dependents.clone();
        while let Some(ord) = open.pop() {
            let Some(next) = below.get(&ord) else { continue };
            if next.state != StepState::Blocked || !self.skipped.insert(ord) {
                continue;
            }
            let mut skip = moved(next, StepState::Skipped);
            let text = format!("the step {:?}, which it needs, failed", step.id);
            skip.error = Some(permanent(code::UPSTREAM_FAILED, text));
            self.decision.advance.moves.push(skip);
            open.extend(&next.dependents);
        }
    }

    /// Every step has ended, or the run was stopped and nothing of it runs any more.
    fn end(&mut self, end: &Step) {
        if end.needs_left > 0 {
            return self.stay(end);
        }
        let run = &self.snapshot.run;
        let failed = run.error.is_some() || self.failed.is_some();
        let state = match (run.state, run.ending) {
            (WorkflowState::Compensating, _) => {
                let error = run.error.as_ref().or(self.failed.as_ref());
                let broke =
                    self.facts.all.iter().any(|step| {
                        step.id.starts_with(COMPENSATE) && step.state == StepState::Failed
                    });
                let broke = broke || error.is_some_and(|e| e.code == code::COMPENSATION_FAILED);
                if broke { WorkflowState::Failed } else { WorkflowState::Compensated }
            }
            (_, Some(WorkflowState::Cancelled)) => WorkflowState::Cancelled,
            (_, _) if failed || run.ending.is_some() => {
                let undo = self.compensations();
                if !undo.is_empty() {
                    self.decision.advance.state = Some(WorkflowState::Compensating);
                    self.decision.advance.added = undo;
                    return self.stay(end);
                }
                WorkflowState::Failed
            }
            (_, _) => match self.answer() {
                Ok((output, blob)) => {
                    self.decision.advance.output = Some(output);
                    self.decision.blobs.extend(blob);
                    WorkflowState::Succeeded
                }
                Err(error) => {
                    self.decision.advance.error = Some(error);
                    WorkflowState::Failed
                }
            },
        };
        self.decision.advance.state = Some(state);
    }

    /// Steps that undo what has succeeded, latest first, one after the other.
    fn compensations(&self) -> Vec<NewStep> {
        let mut done: Vec<(&Step, JobTemplate)> = self
            .facts
            .all
            .iter()
            .filter(|step| step.state == StepState::Succeeded)
            .filter_map(|step| {
                let spec: StepSpec = serde_json::from_str(&step.spec).ok()?;
                Some((step, spec.compensate?))
            })
            .collect();
        done.sort_by_key(|(step, _)| std::cmp::Reverse((step.finished_at, step.ord)));
        let first = self.facts.all.iter().map(|step| step.ord + 1).max().unwrap_or(0);
        release::chain(done, first, &self.snapshot.run)
    }

    /// What the run answers.
    fn answer(&mut self) -> Result<release::Stored, JobError> {
        let scope = self.scope.take().unwrap_or_else(|| self.new_scope());
        let answer = match &self.options.output {
            Some(template) => crate::expr::template::fill(template, &scope)
                .map_err(|e| permanent(code::EXPRESSION_FAILED, e.to_string())),
            None => Ok(release::outputs_of_last(&self.facts.all, &self.facts.steps)),
        };
        self.scope = Some(scope);
        release::stored(&answer?)
    }
}

fn step_failed(step: &str, error: &JobError) -> JobError {
    permanent(
        code::STEP_FAILED,
        format!("the step {step:?} failed: {}: {}", error.code, error.message),
    )
}

/// A move that takes off every reason that the snapshot had shown.
pub(super) fn moved(step: &Step, to: StepState) -> Move {
    Move {
        ord: step.ord,
        from: step.state,
        to,
        seen: step.due,
        output: None,
        error: None,
        wake_at: if to == step.state { step.wake_at } else { None },
        list: None,
    }
}
