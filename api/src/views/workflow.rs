//! Runs of workflows and their steps as callers see them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::Value as Json;
use utoipa::ToSchema;
use windlass_shared::ledger::runs::{Given, Items, Run};
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{JobError, JobState, Value};
use windlass_shared::model::time::Timestamp;
use windlass_shared::model::workflow::{StepState, WorkflowState};

use super::Raw;
use super::job::{JobErrorDocs, StateDocs};

/// A run's state.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WorkflowState)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub enum WorkflowStateDocs {
    /// Steps run, or may run.
    Running,
    /// Only signals, approvals, timers or child runs are outstanding.
    Waiting,
    /// It has failed, and undoes what had succeeded.
    Compensating,
    Succeeded,
    Failed,
    Cancelled,
    /// It had failed, and everything that had to be undone is.
    Compensated,
}

/// A step's state.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StepState)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub enum StepStateDocs {
    /// Waits for the steps that it needs.
    Blocked,
    /// Its job, or its jobs, may run.
    Running,
    /// Waits for a signal, an approval, a time, or a child run.
    Waiting,
    Succeeded,
    Failed,
    Cancelled,
    /// Its condition was false, or a step that it needs had failed.
    Skipped,
}

/// A run of a workflow.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Workflow)]
pub struct RunView {
    /// UUIDv7; sorts by time of submission.
    #[schema(format = Uuid)]
    id: String,
    namespace: String,
    name: String,
    #[schema(value_type = WorkflowStateDocs)]
    state: &'static str,
    /// Steps that have ended, of all: 0 to 1.
    progress: f64,
    /// Steps by state.
    counts: BTreeMap<&'static str, u32>,
    /// The stored definition that it runs.
    #[schema(required = true)]
    definition: Option<String>,
    /// Of that definition.
    #[schema(required = true)]
    version: Option<u32>,
    /// As given; in lists `{"$blob": id}` where it is over 16 KiB.
    #[schema(value_type = Json, required = true)]
    input: Raw,
    /// What it answers, once it has succeeded; in lists `{"$blob": id}` where it is over 16 KiB.
    #[schema(value_type = Json, required = true)]
    output: Option<Raw>,
    /// Why it failed or was stopped.
    #[schema(value_type = Option<JobErrorDocs>, required = true)]
    error: Option<JobError>,
    tags: Vec<String>,
    /// The step of another run that started it.
    #[schema(required = true)]
    parent: Option<ParentView>,
    /// The run that it repeats.
    #[schema(required = true, format = Uuid)]
    rerun_of: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    finished_at: Option<Timestamp>,
    /// It fails when it has not ended by then.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    deadline: Option<Timestamp>,
    /// The request that made it.
    #[schema(required = true)]
    request_id: Option<String>,
    #[schema(required = true)]
    traceparent: Option<String>,
}

/// The step that started a run.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ParentStep)]
pub struct ParentView {
    /// Its run.
    #[schema(format = Uuid)]
    pub id: String,
    /// Its id; `null` in lists.
    #[schema(required = true)]
    pub step: Option<String>,
}

impl RunView {
    /// As recorded; with how many steps are in each state, which decides whether it waits.
    pub fn new(run: Run, counts: &[(StepState, u32)]) -> Self {
        let state = visible_state(run.state, counts);
        let done: u32 = counts.iter().filter(|(s, _)| s.is_terminal()).map(|(_, n)| n).sum();
        let total: u32 = counts.iter().map(|(_, n)| n).sum();
        let progress = if total == 0 { 0.0 } else { f64::from(done) / f64::from(total) };
        let mut by_state: BTreeMap<&'static str, u32> =
            StepState::ALL.into_iter().map(|state| (state.as_str(), 0)).collect();
        by_state.extend(counts.iter().map(|(state, n)| (state.as_str(), *n)));
        let (definition, version) = run.definition.unzip();
        Self {
            id: run.id.to_string(),
            namespace: run.namespace.to_string(),
            name: run.name,
            state: state.as_str(),
            progress,
            counts: by_state,
            definition,
            version,
            input: shown(run.input),
            output: run.output.map(shown),
            error: run.error,
            tags: run.tags,
            parent: run.parent.map(|p| ParentView { id: p.run.to_string(), step: None }),
            rerun_of: run.rerun_of.map(|id| id.to_string()),
            created_at: run.created_at,
            finished_at: run.finished_at,
            deadline: run.deadline,
            request_id: run.request_id,
            traceparent: run.traceparent,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }
    /// Puts a large input in its place.
    pub fn set_input(&mut self, bytes: Bytes) {
        self.input = Raw(bytes);
    }
    /// Puts a large output in its place.
    pub fn set_output(&mut self, bytes: Bytes) {
        self.output = Some(Raw(bytes));
    }
    /// Names the step that started it.
    pub fn set_parent_step(&mut self, step: String) {
        if let Some(parent) = &mut self.parent {
            parent.step = Some(step);
        }
    }
}

/// A run that goes forward waits when nothing of it may run and something waits.
pub fn visible_state(state: WorkflowState, counts: &[(StepState, u32)]) -> WorkflowState {
    let has = |wanted| counts.iter().any(|(state, n)| *state == wanted && *n > 0);
    let waits = has(StepState::Waiting) && !has(StepState::Released);
    match state {
        WorkflowState::Running if waits => WorkflowState::Waiting,
        state => state,
    }
}

/// A value inline, or where it is.
pub fn shown(value: Value) -> Raw {
    match value {
        Value::Inline(bytes) => Raw(bytes),
        Value::Blob(id) => Raw(Bytes::from(format!("{{\"$blob\":\"{id}\"}}"))),
    }
}

/// A run with its steps.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkflowWithSteps)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: RunView,
    /// In order of submission; steps that were added come last.
    pub steps: Vec<StepView>,
}

/// A step of a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkflowStep)]
pub struct StepView {
    pub id: String,
    /// Of its job, or what it waits for.
    pub kind: String,
    #[schema(value_type = StepStateDocs)]
    pub state: &'static str,
    /// Ids of the steps that it needs.
    pub needs: Vec<String>,
    /// Its job. `null` for steps that are no job, or more than one.
    #[schema(value_type = Option<String>, format = Uuid, required = true)]
    pub job_id: Option<JobId>,
    /// The state of its job, as recorded.
    #[schema(value_type = Option<StateDocs>, required = true)]
    pub job_state: Option<JobState>,
    /// Of a `for_each`: the first 1,000 of its jobs, in the order of the items.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub job_ids: Option<Vec<JobId>>,
    /// Of a `for_each`: how many items there are and how they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemsView>,
    /// Of a `workflow.run`: the run that it has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    pub workflow_id: Option<String>,
    /// Of a `workflow.run` with `for_each`: the runs that it has started, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub workflow_ids: Option<Vec<String>>,
    /// While it waits: for what.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub waits_for: Option<Json>,
    /// `{"$blob": id}` where it is over 16 KiB; of a `for_each` a list.
    #[schema(value_type = Json, required = true)]
    pub output: Option<Raw>,
    /// There is an output, and the answer had no more room for it: read the job.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub output_omitted: bool,
    /// Why it did not succeed, or was skipped.
    #[schema(value_type = Option<JobErrorDocs>, required = true)]
    pub error: Option<JobError>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub finished_at: Option<Timestamp>,
}

/// Counts of a `for_each`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StepItems)]
pub struct ItemsView {
    /// All.
    total: u32,
    /// Those with a job.
    started: u32,
    /// Those that have not ended.
    open: u32,
    /// Those that ended otherwise than well.
    failed: u32,
}

impl From<Items> for ItemsView {
    fn from(items: Items) -> Self {
        Self { total: items.total, started: items.made, open: items.open, failed: items.failed }
    }
}

/// What a retry does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkflowRetry)]
pub struct RetryView {
    /// The run, running again.
    pub workflow: RunView,
    /// Steps whose results stay.
    pub reused: Vec<String>,
    /// Steps that run (again).
    pub again: Vec<String>,
}

/// One vote on an approval.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Vote)]
pub struct VoteView {
    /// Name of the API key.
    by: String,
    /// Its role.
    #[schema(required = true)]
    role: Option<String>,
    approve: bool,
    #[schema(required = true)]
    reason: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<Given> for VoteView {
    fn from(given: Given) -> Self {
        let approve = given.approved == Some(true);
        Self { by: given.by, role: given.role, approve, reason: given.reason, at: given.at }
    }
}

/// Steps that came into a run.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddedSteps {
    /// Their ids.
    pub added: Vec<String>,
}
