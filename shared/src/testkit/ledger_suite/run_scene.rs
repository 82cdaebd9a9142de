//! What the cases about workflows need: runs of few steps, and short words for how they move.

use std::time::Duration;

use bytes::Bytes;

use super::scene::Scene;
use crate::engine::Ended;
use crate::ledger::runs::{
    Advance, Advanced, CreateOutcome, END, Move, NewRun, NewStep, Parent, RecordReply, Snapshot,
    Step,
};
use crate::ledger::{Record, Recorded};
use crate::lifecycle::workflow::build::{self, Origin};
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::{Job, JobSpec, JobState, Priority, Value};
use crate::model::time::Span;
use crate::model::workflow::{
    ChildOf, ChildSpec, JobTemplate, RunFailure, StepFailure, StepSpec, StepState, Work,
    WorkflowSpec, WorkflowState, permanent,
};

/// What a job of these runs is made from.
pub(super) fn template() -> JobTemplate {
    JobTemplate {
        queue: "q".parse().expect("a legal queue name"),
        kind: "test.step".parse().expect("a legal kind"),
        priority: Priority::default(),
        payload: serde_json::json!({"n": 1}),
        is_template: false,
        delay: None,
        ttl: None,
        spec: JobSpec::default(),
        tags: vec!["step".into()],
        meta: None,
    }
}

fn step_of(id: &str, needs: &[u32], work: Work) -> StepSpec {
    StepSpec {
        id: id.into(),
        needs: needs.to_vec(),
        condition: None,
        for_each: None,
        max_parallel: None,
        on_failure: StepFailure::Fail,
        compensate: None,
        work,
    }
}

/// A plain step: a job as it stands.
pub(super) fn plain(id: &str, needs: &[u32]) -> StepSpec {
    step_of(id, needs, Work::Job(template()))
}

/// A plain step that needs nothing, with its job in another queue.
pub(super) fn elsewhere(id: &str, queue: &str) -> StepSpec {
    let queue = queue.parse().expect("a legal queue name");
    step_of(id, &[], Work::Job(JobTemplate { queue, ..template() }))
}

/// What the job of a step is made from.
pub(super) fn template_of(step: &StepSpec) -> Option<JobTemplate> {
    match &step.work {
        Work::Job(template) => Some(template.clone()),
        _ => None,
    }
}

/// A step that an advance has to look at before its job may run.
pub(super) fn templated(id: &str, needs: &[u32]) -> StepSpec {
    step_of(id, needs, Work::Job(JobTemplate { is_template: true, ..template() }))
}

/// A step with a job for each of a list.
pub(super) fn many(id: &str, needs: &[u32], max_parallel: Option<u32>) -> StepSpec {
    StepSpec { for_each: Some("input".into()), max_parallel, ..plain(id, needs) }
}

/// A step that waits for a signal.
pub(super) fn signal(id: &str, needs: &[u32]) -> StepSpec {
    let timeout = Some(Span(Duration::from_secs(60)));
    step_of(id, needs, Work::Signal { name: "go".into(), timeout })
}

/// A step that starts a run.
pub(super) fn child(id: &str, needs: &[u32]) -> StepSpec {
    let of = ChildOf::Definition { name: "d".into(), version: None };
    step_of(id, needs, Work::Child(ChildSpec { of, input: serde_json::Value::Null }))
}

/// How one step moves, every reason that was seen taken off.
pub(super) fn moves(step: &Step, to: StepState) -> Move {
    Move {
        ord: step.ord,
        from: step.state,
        to,
        seen: step.due,
        output: None,
        error: None,
        wake_at: None,
        list: None,
    }
}

/// As [`moves`], to the end of a step that did not succeed.
pub(super) fn fails(step: &Step, to: StepState) -> Move {
    Move { error: Some(permanent("step_failed", "it broke")), ..moves(step, to) }
}

/// The steps whose jobs these are, sorted.
pub(super) fn step_names(jobs: &[Job]) -> Vec<&str> {
    let mut names: Vec<&str> =
        jobs.iter().map(|job| job.workflow.as_ref().expect("a step's job").step.as_str()).collect();
    names.sort_unstable();
    names
}

pub(super) fn advanced(outcome: Advanced) -> (Vec<Job>, bool) {
    match outcome {
        Advanced::Done { released, more } => (released, more),
        Advanced::Conflict => panic!("the run was not as it had been seen"),
    }
}

impl Scene {
    /// A run of these steps, not yet on record.
    pub(super) fn new_run(&self, steps: Vec<StepSpec>) -> NewRun {
        let spec = WorkflowSpec {
            name: "flow".into(),
            deadline: None,
            on_failure: RunFailure::Stop,
            output: None,
            tags: Vec::new(),
            steps,
        };
        NewRun {
            id: WorkflowId::generate(),
            namespace: self.namespace.clone(),
            name: spec.name.clone(),
            definition: None,
            document: Some(serde_json::to_string(&spec).expect("plain data")),
            options: "{\"on_failure\":\"stop\"}".into(),
            input: Value::Inline(Bytes::from_static(b"{\"list\":[1,2]}")),
            deadline: None,
            tags: Vec::new(),
            parent: None,
            depth: 0,
            rerun_of: None,
            request_id: None,
            traceparent: None,
            steps: build::rows(&spec, &self.origin()),
            idempotency: None,
        }
    }

    fn origin(&self) -> Origin<'_> {
        Origin { namespace: &self.namespace, request_id: Some("r1"), traceparent: None }
    }

    /// Rows of steps to be added: edges and positions are the caller's.
    pub(super) fn added(
        &self,
        spec: &StepSpec,
        ord: i32,
        needs: Vec<i32>,
        dependents: Vec<i32>,
    ) -> NewStep {
        let alone = StepSpec { needs: Vec::new(), ..spec.clone() };
        let one = WorkflowSpec {
            name: "one".into(),
            deadline: None,
            on_failure: RunFailure::Stop,
            output: None,
            tags: Vec::new(),
            steps: vec![alone],
        };
        let mut row = build::rows(&one, &self.origin()).remove(0);
        if !needs.is_empty() {
            (row.state, row.due) = (StepState::Blocked, false);
        }
        NewStep { ord, needs, dependents, ..row }
    }

    /// Creates a run that must be new; its jobs that may run.
    pub(super) async fn create(&self, new: &NewRun) -> Vec<Job> {
        match self.ledger.create_run(new).await.expect("create_run") {
            CreateOutcome::Created(jobs) => jobs,
            other => panic!("expected a new run, got {other:?}"),
        }
    }

    /// A new run of these steps; its id, and its jobs that may run.
    pub(super) async fn run_of(&self, steps: Vec<StepSpec>) -> (WorkflowId, Vec<Job>) {
        let new = self.new_run(steps);
        (new.id, self.create(&new).await)
    }

    /// A child of a step, not yet on record.
    pub(super) fn new_child(&self, run: WorkflowId, ord: i32) -> NewRun {
        let parent = Some(Parent { run, ord, item: None });
        NewRun { parent, depth: 1, ..self.new_run(vec![plain("a", &[])]) }
    }

    pub(super) async fn step(&self, run: WorkflowId, id: &str) -> Step {
        let mut found = self.ledger.steps_named(run, &[id.to_owned()]).await.expect("steps_named");
        assert_eq!(found.len(), 1, "the step {id:?}");
        found.remove(0)
    }

    pub(super) async fn end_of(&self, run: WorkflowId) -> Step {
        let first = self.ledger.steps(run, i32::MIN, 1).await.expect("steps").remove(0);
        assert_eq!(first.ord, END);
        first
    }

    pub(super) async fn all_steps(&self, run: WorkflowId) -> Vec<Step> {
        self.ledger.steps(run, END, 2_000).await.expect("steps")
    }

    /// The job of a step with one.
    pub(super) async fn job_of(&self, run: WorkflowId, step: &str) -> Job {
        let id = self.step(run, step).await.job_id.expect("the step has a job");
        self.get(id).await
    }

    /// Records an outcome of a job's next lease, which must apply.
    pub(super) async fn ends(&self, job: JobId, ended: Ended) -> RecordReply {
        let record = self.next_record(job, ended).await;
        let reply = self.ledger.record(vec![record]).await.expect("record");
        assert_eq!(reply.replies, [Recorded::Applied]);
        reply
    }

    /// An outcome of a job's next lease.
    pub(super) async fn next_record(&self, job: JobId, ended: Ended) -> Record {
        let fence = self.get(job).await.fence.0 + 1;
        self.record(job, fence, ended)
    }

    /// As [`Self::ends`], by the step's name.
    pub(super) async fn step_ends(&self, run: WorkflowId, step: &str, ended: Ended) -> RecordReply {
        let id = self.step(run, step).await.job_id.expect("the step has a job");
        self.ends(id, ended).await
    }

    pub(super) async fn snapshot(&self, run: WorkflowId) -> Snapshot {
        self.ledger.run_snapshot(run).await.expect("run_snapshot").expect("the run is there")
    }

    /// Carries out a decision over the run as it is now.
    pub(super) async fn try_advance(
        &self,
        run: WorkflowId,
        decide: impl FnOnce(&mut Advance),
    ) -> Advanced {
        let run = self.snapshot(run).await.run;
        let mut advance = Advance { version: run.version, ..Advance::default() };
        decide(&mut advance);
        self.ledger.advance(&run, &advance).await.expect("advance")
    }

    /// As [`Self::try_advance`]; it must be carried out.
    pub(super) async fn advance(
        &self,
        run: WorkflowId,
        decide: impl FnOnce(&mut Advance),
    ) -> (Vec<Job>, bool) {
        advanced(self.try_advance(run, decide).await)
    }

    /// Moves one step.
    pub(super) async fn move_step(
        &self,
        run: WorkflowId,
        step: &str,
        to: StepState,
    ) -> (Vec<Job>, bool) {
        let one = moves(&self.step(run, step).await, to);
        self.advance(run, |advance| advance.moves.push(one)).await
    }

    /// Ends a run that has nothing left to do, or stops what it has first.
    pub(super) async fn end_run(&self, run: WorkflowId, state: WorkflowState) {
        self.advance(run, |advance| {
            advance.stop = true;
            advance.state = Some(state);
        })
        .await;
    }

    /// Whether the run is among those with something to do.
    pub(super) async fn is_due(&self, run: WorkflowId) -> bool {
        let mut after = None;
        loop {
            let page = self.ledger.due_runs(after, 50).await.expect("due_runs");
            if page.iter().any(|(namespace, id)| *id == run && *namespace == self.namespace) {
                return true;
            }
            match page.last() {
                Some((_, last)) if page.len() == 50 => after = Some(*last),
                _ => return false,
            }
        }
    }

    /// The state, and what is left to end before it.
    pub(super) async fn state_of(&self, run: WorkflowId, step: &str) -> (StepState, u32) {
        let step = self.step(run, step).await;
        (step.state, step.needs_left)
    }

    pub(super) async fn job_state(&self, run: WorkflowId, step: &str) -> JobState {
        self.job_of(run, step).await.state
    }
}
