//! What a run does next: a pure function of what is on record. No I/O, no clock.
//!
//! [`wants()`] says what has to be read beside the [`Snapshot`]; [`decide`] turns all of it into an [`Advance`], which
//! the ledger carries out whole or not at all, and into orders for what lies outside of that transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value as Json;

use super::release::{self, Released};
use super::wants::is_stopping;
pub use super::wants::{Facts, Options, Wants, wants};
use super::{ending, family, waits};
use crate::expr::{Scope, template};
use crate::ledger::runs::{Advance, END, Given, Items, Move, Release, Snapshot, Step, StepJob};
use crate::model::id::{BlobId, WorkflowId};
use crate::model::job::{JobError, JobState};
use crate::model::workflow::{
    ChildOf, ChildSpec, RunFailure, StepFailure, StepSpec, StepState, Work, WorkflowState, code,
    limits, permanent,
};

/// Prefix of the id of a step that undoes another. No submitted id has a colon.
pub const COMPENSATE: &str = "compensate:";
/// How often a run that is stopped looks for what still runs: an order to stop may be lost with whoever gave it.
pub(super) const STOP_AGAIN: Duration = Duration::from_secs(2);
/// Values that the expressions of one decision may look at before the other due steps are left to the next.
const WORK_MAX: u64 = 10_000_000;

/// What is to be done.
#[derive(Debug, Default)]
pub struct Decision {
    /// In the ledger, first.
    pub advance: Advance,
    /// Values over the inline limit that `advance` names; to be stored before it.
    pub blobs: Vec<(BlobId, Bytes)>,
    /// Runs to be started, after.
    pub start: Vec<waits::Start>,
    /// Runs to be stopped, after.
    pub stop: Vec<WorkflowId>,
    /// Whether running jobs are to be stopped, after.
    pub stop_jobs: bool,
    /// Something is to be skipped, and [`Facts::all`] was not read: decide again, with it.
    pub lacks_all: bool,
}

impl Decision {
    /// Nothing is to be done, now or by this build.
    pub fn is_empty(&self) -> bool {
        let Advance { state, ending, error, output, stop, moves, releases, added, .. } =
            &self.advance;
        let moves = moves.is_empty() && releases.is_empty() && added.is_empty();
        let run = state.is_none() && ending.is_none() && error.is_none() && output.is_none();
        moves && run && !stop && self.start.is_empty() && self.stop.is_empty() && !self.stop_jobs
    }
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
        moves: BTreeMap::new(),
        failed: None,
        skipped: HashSet::new(),
    };
    let run = &snapshot.run;
    let passed = run.deadline.is_some_and(|deadline| deadline <= snapshot.now);
    if passed && run.ending.is_none() && run.state == WorkflowState::Running {
        let text = "the deadline of the workflow has passed";
        desk.fail_run(permanent(code::DEADLINE_EXCEEDED, text), true);
        return desk.done();
    }
    for step in &snapshot.due {
        let is_much = desk.scope.as_ref().is_some_and(|scope| scope.work() > WORK_MAX);
        let stored: usize = desk.decision.blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        let releases = desk.decision.advance.releases.len();
        if is_much || releases >= limits::RELEASES_MAX || stored > release::STORED_BYTES_MAX {
            break;
        }
        match specs.get(&step.ord) {
            Some(spec) => desk.step(step, spec),
            None if step.ord == END => desk.end(step),
            // Cannot be read by this build: left to another one.
            None => {}
        }
        // A stop moves every step that has not started; decisions over them would not find them where they were.
        if desk.decision.advance.stop {
            break;
        }
    }
    desk.done()
}

/// The order to stop a run that has not ended: `ending` is the state that it will take.
pub fn stop(snapshot: &Snapshot, ending: WorkflowState, error: JobError) -> Advance {
    let mut advance = Advance {
        version: snapshot.run.version,
        ending: Some(ending),
        error: Some(error),
        stop: true,
        ..Advance::default()
    };
    advance.moves.push(look_again(snapshot));
    advance
}

/// The end of a stopped run is looked at once more after a while.
fn look_again(snapshot: &Snapshot) -> Move {
    Move {
        ord: END,
        from: StepState::Blocked,
        to: StepState::Blocked,
        seen: 0,
        output: None,
        error: None,
        wake_at: Some(snapshot.now.plus(STOP_AGAIN)),
        list: None,
    }
}

pub(super) struct Desk<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) options: &'a Options,
    pub(super) facts: &'a Facts,
    scope: Option<Scope>,
    pub(super) decision: Decision,
    /// By position: a step moves once.
    pub(super) moves: BTreeMap<i32, Move>,
    pub(super) failed: Option<JobError>,
    skipped: HashSet<i32>,
}

impl Desk<'_> {
    fn done(mut self) -> Decision {
        if !self.skipped.is_empty() {
            self.await_others();
        }
        if self.decision.advance.stop {
            // Those that have not started are stopped as they are. Items made now would not be stopped: their steps
            // stay due, and are looked at when the run is stopping.
            let made: HashSet<i32> = self
                .decision
                .advance
                .releases
                .drain(..)
                .filter_map(|release| match release {
                    Release::Item { ord, .. } => Some(ord),
                    Release::Blocked { .. } => None,
                })
                .collect();
            self.moves.retain(|ord, m| {
                let fails = m.to == StepState::Failed;
                fails || (m.from != StepState::Blocked && !made.contains(ord))
            });
            self.decision.blobs.clear();
            self.decision.start.clear();
            self.moves.insert(END, look_again(self.snapshot));
        }
        self.decision.advance.version = self.snapshot.run.version;
        self.decision.advance.moves = self.moves.into_values().collect();
        self.decision
    }

    pub(super) fn push(&mut self, new: Move) {
        let stays = new.from == new.to && new.list.is_none();
        if stays && self.moves.contains_key(&new.ord) {
            return;
        }
        self.moves.insert(new.ord, new);
    }

    fn step(&mut self, step: &Step, spec: &StepSpec) {
        if let Some(scope) = &self.scope {
            scope.start_step();
        }
        match step.state {
            StepState::Blocked => self.blocked(step, spec),
            StepState::Released => self.released(step, spec),
            StepState::Waiting => self.waiting(step, spec),
            // What made it due came too late.
            _ => self.stay(step),
        }
    }

    fn is_stopping(&self) -> bool {
        is_stopping(self.snapshot)
    }

    /// Notes that a step was looked at.
    pub(super) fn stay(&mut self, step: &Step) {
        self.push(moved(step, step.state));
    }

    /// Notes that the end was looked at, which is not to be looked at by itself any more.
    pub(super) fn stay_at_end(&mut self, end: &Step) {
        self.push(Move { wake_at: None, ..moved(end, end.state) });
    }

    /// Looks at the end once more after a while.
    pub(super) fn look_again_at(&mut self, end: &Step) {
        let wake_at = Some(self.snapshot.now.plus(STOP_AGAIN));
        self.push(Move { wake_at, ..moved(end, end.state) });
    }

    fn go(&mut self, released: Released) {
        if let Released::Go { step, jobs, blobs } = released {
            self.push(step);
            self.decision.advance.releases.extend(jobs);
            self.decision.blobs.extend(blobs);
        }
    }

    fn blocked(&mut self, step: &Step, spec: &StepSpec) {
        if step.needs_left > 0 || self.skipped.contains(&step.ord) {
            return self.stay(step);
        }
        if let Some(error) = self.facts.spoiled.clone().filter(|_| release::evaluates(spec)) {
            return self.ended(step, spec, Err(error));
        }
        let scope = self.take_scope();
        let (outcome, scope) = release::release(step, spec, scope, self.snapshot);
        self.scope = Some(scope);
        match outcome {
            Ok(Released::Skip) => {
                let mut skip = moved(step, StepState::Skipped);
                skip.error = Some(permanent(code::CONDITION_FALSE, "its condition was false"));
                self.push(skip);
            }
            Ok(go) => self.go(go),
            Err(error) => self.ended(step, spec, Err(error)),
        }
    }

    pub(super) fn take_scope(&mut self) -> Scope {
        self.scope.take().unwrap_or_else(|| {
            let run = &self.snapshot.run;
            let about = serde_json::json!({"id": run.id, "name": run.name});
            Scope::new(&self.facts.input, &about, self.facts.steps.clone())
        })
    }

    pub(super) fn put_scope(&mut self, scope: Scope) {
        self.scope = Some(scope);
    }

    fn released(&mut self, step: &Step, spec: &StepSpec) {
        let none = Vec::new();
        let jobs = self.facts.jobs.get(&step.ord).unwrap_or(&none);
        if step.many {
            return self.items(step, spec, jobs);
        }
        let Some(job) = jobs.first().filter(|job| job.state.is_terminal()) else {
            return self.stay(step);
        };
        let result = match job.state {
            JobState::Succeeded => Ok(()),
            state => Err(why(job, state)),
        };
        self.ended(step, spec, result);
    }

    fn items(&mut self, step: &Step, spec: &StepSpec, jobs: &[StepJob]) {
        let Items { total, made, open, failed } = step.items;
        let error = || {
            let mut ended = jobs.iter().filter(|job| job.state.is_terminal());
            let first = ended.find(|job| job.state != JobState::Succeeded);
            let Some(job) = first else { return permanent(code::STEP_FAILED, "an item failed") };
            let error = why(job, job.state);
            let message = format!("item {}: {}", job.item.unwrap_or_default(), error.message);
            JobError { message, ..error }
        };
        let stopping = self.is_stopping();
        if open == 0 {
            let result = match failed {
                // Items that were not made never will be, unless the run is retried.
                0 if stopping && made < total => {
                    Err(permanent(JobState::Cancelled.as_str(), "stopped with its run"))
                }
                0 => Ok(()),
                _ => Err(error()),
            };
            return self.ended(step, spec, result);
        }
        if stopping {
            return self.stay(step);
        }
        let fails = failed > 0 && spec.on_failure == StepFailure::Fail;
        if fails && self.options.on_failure == RunFailure::Stop {
            // Its other items are stopped with the run, which makes it due again.
            let error = step_failed(&step.id, &error());
            return self.fail_run(error, true);
        }
        if made == total {
            return self.stay(step);
        }
        if let Some(error) = self.facts.spoiled.clone().filter(|_| release::evaluates(spec)) {
            return self.broken(step, spec, error);
        }
        let scope = self.take_scope();
        let (outcome, scope) = release::more(step, spec, scope, self.snapshot);
        self.put_scope(scope);
        match outcome {
            Ok(Released::Skip) => self.stay(step),
            Ok(go) => self.go(go),
            Err(error) => self.broken(step, spec, error),
        }
    }

    /// A `for_each` of which no more items can be made ends when those that were have.
    fn broken(&mut self, step: &Step, spec: &StepSpec, error: JobError) {
        if step.items.open <= step.items.total - step.items.made {
            return self.ended(step, spec, Err(error));
        }
        let mut look = moved(step, step.state);
        look.wake_at = Some(self.snapshot.now.plus(STOP_AGAIN));
        self.push(look);
    }

    fn waiting(&mut self, step: &Step, spec: &StepSpec) {
        let none = Vec::new();
        let children = self.facts.children.get(&step.ord).unwrap_or(&none);
        if self.is_stopping() {
            // A child ends first, so that nothing of a stopped tree runs when its root says that it has ended.
            let live: Vec<WorkflowId> =
                children.iter().filter(|c| !c.state.is_terminal()).map(|c| c.id).collect();
            if live.is_empty() {
                self.push(moved(step, StepState::Cancelled));
            } else {
                self.decision.stop.extend(live);
                let mut look = moved(step, step.state);
                look.wake_at = Some(self.snapshot.now.plus(STOP_AGAIN));
                self.push(look);
            }
            return;
        }
        if let (Work::Child(child), true) = (&spec.work, step.many) {
            return family::look(self, step, spec, child, children);
        }
        let run = self.snapshot.run.id;
        // One signal is for one step.
        let taken = &self.decision.advance.taken;
        let given: Vec<&Given> =
            self.facts.given.iter().filter(|given| !taken.contains(&given.seq)).collect();
        match waits::look(run, step, spec, self.snapshot.now, &given, children) {
            waits::Seen::NotYet => self.stay(step),
            waits::Seen::Start => self.start(step, spec),
            waits::Seen::Done { output, taken } => {
                self.decision.advance.taken.extend(taken);
                let mut done = moved(step, StepState::Succeeded);
                done.output = output;
                self.push(done);
            }
            waits::Seen::Failed { error, taken } => {
                self.decision.advance.taken.extend(taken);
                self.ended(step, spec, Err(error));
            }
        }
    }

    /// Has a child started; the step stays due until it is on record.
    fn start(&mut self, step: &Step, spec: &StepSpec) {
        let Work::Child(child) = &spec.work else { return self.stay(step) };
        if let Some(error) = self.facts.refused.get(&step.ord) {
            return self.ended(step, spec, Err(error.clone()));
        }
        match self.child(step, child, None) {
            Ok(start) => self.decision.start.push(start),
            Err(error) => self.ended(step, spec, Err(error)),
        }
    }

    /// The run that a step is to start, for an item of its list perhaps.
    pub(super) fn child(
        &mut self,
        step: &Step,
        child: &ChildSpec,
        item: Option<(u32, &Json)>,
    ) -> Result<waits::Start, JobError> {
        let run = &self.snapshot.run;
        if item.is_some() && run.depth > 0 {
            // Each level would multiply the runs.
            let text = "only a run that no other has started may start workflows from a for_each";
            return Err(permanent(code::CHILD_FAILED, text));
        }
        if run.depth >= limits::DEPTH_MAX {
            let text =
                format!("workflows may start workflows {} deep, and no deeper", limits::DEPTH_MAX);
            return Err(permanent(code::CHILD_FAILED, text));
        }
        let (definition, spec) = match &child.of {
            ChildOf::Inline(spec) => (None, spec.clone()),
            ChildOf::Definition { name, version } => {
                let Some((version, spec)) = self.facts.definitions.get(&step.ord) else {
                    let version = version.map_or(String::new(), |v| format!(" version {v}"));
                    let text = format!("there is no definition {name:?}{version}");
                    return Err(permanent(code::CHILD_FAILED, text));
                };
                (Some((name.clone(), *version)), Box::new(spec.clone()))
            }
        };
        if let Some(error) = self.facts.spoiled.clone() {
            return Err(error);
        }
        let mut scope = self.take_scope();
        if let Some((at, item)) = item {
            scope.set_item(item, at as usize);
        }
        let input = template::fill(&child.input, &scope);
        scope.clear_item();
        self.put_scope(scope);
        let input = input.map_err(|fault| permanent(code::EXPRESSION_FAILED, fault.to_string()))?;
        release::stored(&input)?;
        let item = item.map(|(at, _)| at);
        let id = waits::child_id(run.id, step, item);
        Ok(waits::Start { ord: step.ord, item, id, definition, spec, input })
    }

    /// A step has ended; what that means for the run.
    pub(super) fn ended(&mut self, step: &Step, spec: &StepSpec, result: Result<(), JobError>) {
        let Err(error) = result else {
            return self.push(moved(step, StepState::Succeeded));
        };
        let stopped = self.is_stopping() && error.code == JobState::Cancelled.as_str();
        let to = if stopped { StepState::Cancelled } else { StepState::Failed };
        let mut end = moved(step, to);
        end.error = Some(error.clone());
        self.push(end);
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

    /// The run fails, now or when it has ended.
    pub(super) fn fail_run(&mut self, error: JobError, stop: bool) {
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
        let facts = self.facts;
        self.decision.lacks_all |= !facts.has_all;
        let all: HashMap<i32, &Step> = facts.all.iter().map(|s| (s.ord, s)).collect();
        let mut open: Vec<i32> = step.dependents.clone();
        while let Some(ord) = open.pop() {
            let Some(next) = all.get(&ord) else { continue };
            if next.state != StepState::Blocked || !self.skipped.insert(ord) {
                continue;
            }
            let mut skip = moved(next, StepState::Skipped);
            let text = format!("the step {:?}, which it needs, failed", step.id);
            skip.error = Some(permanent(code::UPSTREAM_FAILED, text));
            self.push(skip);
            open.extend(&next.dependents);
        }
    }

    /// Steps that are needed by skipped ones alone would be needed by nobody: the end waits for them.
    fn await_others(&mut self) {
        let all: HashMap<i32, &Step> = self.facts.all.iter().map(|s| (s.ord, s)).collect();
        let is_over = |ord: &i32| {
            self.skipped.contains(ord) || all.get(ord).is_some_and(|step| step.state.is_terminal())
        };
        let ends = |ord: &i32| self.moves.get(ord).is_some_and(|m| m.to.is_terminal());
        let others = all.values().filter(|step| !step.state.is_terminal() && !ends(&step.ord));
        let others = others
            .filter(|step| !step.dependents.contains(&END) && step.dependents.iter().all(is_over));
        let awaits: BTreeSet<i32> = others.map(|step| step.ord).collect();
        self.decision.advance.awaits = awaits.into_iter().collect();
    }

    /// The end is due: every step has ended, or the run is being stopped.
    fn end(&mut self, end: &Step) {
        if end.needs_left > 0 {
            let mut look = moved(end, end.state);
            self.decision.stop_jobs = self.is_stopping();
            look.wake_at = self.is_stopping().then(|| self.snapshot.now.plus(STOP_AGAIN));
            return self.push(look);
        }
        ending::end(self, end);
    }
}

fn why(job: &StepJob, state: JobState) -> JobError {
    job.error.clone().unwrap_or_else(|| permanent(state.as_str(), "it did not succeed"))
}

/// Why a run fails for a step.
pub(super) fn step_failed(step: &str, error: &JobError) -> JobError {
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
