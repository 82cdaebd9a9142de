//! Jobs, attempts, logs and operations as callers see them.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::Value as Json;
use utoipa::ToSchema;
use windlass_shared::engine::{Live, LiveState};
use windlass_shared::ledger::{LogLine, Operation};
use windlass_shared::lifecycle::explain::Explanation;
use windlass_shared::model::evaluate::Evaluation;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{
    Attempt, AttemptOutcome, Expect, Job, JobError, JobState, OrderOnFailure, Progress, StepRef,
    Value,
};
use windlass_shared::model::retry::RetryPolicy;
use windlass_shared::model::time::{Span, Timestamp};

use super::Raw;
use super::evaluate::EvaluationDocs;
use crate::requests::job::OrderOnFailureDocs;
use crate::requests::retry::RetryDocs;

/// A job's state.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobState)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub enum StateDocs {
    Blocked,
    Scheduled,
    Ready,
    Running,
    Retrying,
    Succeeded,
    Dead,
    Cancelled,
    Expired,
    Quarantined,
}

/// Why an attempt or a job did not succeed.
#[derive(Serialize, ToSchema)]
#[schema(as = JobError)]
pub struct JobErrorDocs {
    /// Stable, snake_case.
    code: String,
    /// For people.
    message: String,
    /// Whether another attempt may succeed.
    retryable: bool,
}

/// How far a job is.
#[derive(Serialize, ToSchema)]
#[schema(as = Progress)]
pub struct ProgressDocs {
    /// 0 to 100.
    percent: f64,
    /// In words.
    message: Option<String>,
}

/// The workflow step that a job is.
#[derive(Serialize, ToSchema)]
#[schema(as = StepRef)]
pub struct StepDocs {
    /// The run.
    id: String,
    /// The step's id in it.
    step: String,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    /// UUIDv7; sorts by time of submission.
    #[schema(format = Uuid)]
    id: String,
    namespace: String,
    queue: String,
    kind: String,
    /// With the engine's word for jobs that have not ended; terminal only once recorded.
    #[schema(value_type = StateDocs)]
    state: JobState,
    priority: u8,
    /// As submitted. `null` in lists when `payload_ref` is set.
    #[schema(value_type = Json, required = true)]
    payload: Option<Raw>,
    /// Where a payload over 16 KiB is kept: `GET /v1/blobs/{id}`.
    #[schema(required = true, format = Uuid)]
    payload_ref: Option<String>,
    /// What the handler returned. `null` in lists when `output_ref` is set.
    #[schema(value_type = Json, required = true)]
    output: Option<Raw>,
    /// Where an output over 16 KiB is kept.
    #[schema(required = true, format = Uuid)]
    output_ref: Option<String>,
    /// The latest partial result that a handler stored, of a job that has not succeeded. `null` in lists.
    #[schema(value_type = Json, required = true)]
    partial_output: Option<Raw>,
    /// The latest error.
    #[schema(value_type = Option<JobErrorDocs>, required = true)]
    error: Option<JobError>,
    /// Attempts that count: failures and time-outs so far, plus the one under way or successful.
    attempt: u32,
    max_attempts: u32,
    /// Workers lost so far.
    crashes: u32,
    max_crashes: u32,
    #[schema(value_type = Option<ProgressDocs>, required = true)]
    progress: Option<Progress>,
    /// Not before.
    #[schema(value_type = String, format = DateTime)]
    run_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Start of the latest attempt.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    finished_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    expires_at: Option<Timestamp>,
    /// Limit of one attempt.
    #[schema(value_type = String)]
    timeout: Span,
    #[schema(value_type = RetryDocs)]
    retry: RetryPolicy,
    #[schema(value_type = Option<Object>, required = true)]
    expect: Option<Expect>,
    weight: u32,
    exclusive: bool,
    #[schema(required = true)]
    order_key: Option<String>,
    #[schema(value_type = OrderOnFailureDocs)]
    order_on_failure: OrderOnFailure,
    #[schema(required = true)]
    concurrency_key: Option<String>,
    #[schema(required = true)]
    rate_limit_key: Option<String>,
    rate_limit_units: u32,
    #[schema(required = true)]
    fairness_key: Option<String>,
    #[schema(required = true)]
    circuit: Option<String>,
    /// Who runs it, or ran it last.
    #[schema(required = true)]
    worker: Option<String>,
    #[schema(value_type = Option<StepDocs>, required = true)]
    workflow: Option<StepRef>,
    tags: Vec<String>,
    #[schema(value_type = Object)]
    meta: Raw,
    #[schema(required = true)]
    unique_key: Option<String>,
    /// Somebody asked to stop it.
    cancel_requested: bool,
    /// The request that made it.
    #[schema(required = true)]
    request_id: Option<String>,
    #[schema(required = true)]
    traceparent: Option<String>,
    /// The job that this submission replaced, which never runs (`debounce`, or `unique` with `replace`). Only in the answer
    /// to the submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<String>,
}

impl JobView {
    /// As recorded.
    pub fn recorded(job: Job) -> Self {
        let (payload, payload_ref) = split(Some(job.payload));
        let (output, output_ref) = split(job.output);
        let spec = job.spec;
        Self {
            id: job.id.to_string(),
            namespace: job.namespace.to_string(),
            queue: job.queue.to_string(),
            kind: job.kind.to_string(),
            state: job.state,
            priority: job.priority.level(),
            payload,
            payload_ref,
            output,
            output_ref,
            partial_output: None,
            error: job.error,
            attempt: job.attempt,
            max_attempts: spec.max_attempts,
            crashes: job.crashes,
            max_crashes: spec.max_crashes,
            progress: job.progress,
            run_at: job.run_at,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            expires_at: job.expires_at,
            timeout: spec.timeout,
            retry: spec.retry,
            expect: spec.expect,
            weight: spec.weight,
            exclusive: spec.exclusive,
            order_key: spec.order_key,
            order_on_failure: spec.order_on_failure,
            concurrency_key: spec.concurrency_key,
            rate_limit_key: spec.rate_limit_key,
            rate_limit_units: spec.rate_limit_units,
            fairness_key: spec.fairness_key,
            circuit: spec.circuit,
            worker: job.worker,
            workflow: job.workflow,
            tags: job.tags,
            meta: Raw(job.meta.unwrap_or_else(|| Bytes::from_static(b"{}"))),
            unique_key: job.unique_key,
            cancel_requested: job.cancel_requested,
            request_id: job.request_id,
            traceparent: job.traceparent,
            replaced: None,
        }
    }

    /// With the job that it has taken the place of.
    pub fn replacing(self, old: Option<JobId>) -> Self {
        Self { replaced: old.map(|id| id.to_string()), ..self }
    }

    /// With what the engine says. Of a job that has ended the ledger's word stands.
    pub fn live(job: Job, live: Option<Live>) -> Self {
        let fence = job.fence;
        let mut view = Self::recorded(job);
        let Some(live) = live.filter(|live| !view.state.is_terminal() && live.fence >= fence)
        else {
            return view;
        };
        view.crashes = view.crashes.max(live.crashes);
        match live.state {
            LiveState::Ready { .. } => view.state = JobState::Ready,
            LiveState::Delayed if live.attempt > 0 => view.state = JobState::Retrying,
            LiveState::Delayed => view.state = JobState::Scheduled,
            LiveState::Leased { worker, claimed_at, cancel, .. } => {
                view.state = JobState::Running;
                view.attempt = live.attempt.saturating_add(1);
                view.started_at = Some(claimed_at);
                view.worker = Some(worker.to_string());
                view.cancel_requested |= cancel;
                return view;
            }
            // Its end is not recorded yet, and only what is recorded is an end.
            LiveState::Finishing => view.state = JobState::Running,
        }
        view.attempt = view.attempt.max(live.attempt);
        if matches!(live.state, LiveState::Delayed) {
            view.run_at = live.run_at;
        }
        view
    }

    /// In a worker's hands since `claimed_at`.
    pub fn leased(job: Job, attempt: u32, claimed_at: Timestamp, worker: String) -> Self {
        let mut view = Self::recorded(job);
        view.state = JobState::Running;
        view.attempt = attempt;
        view.started_at = Some(claimed_at);
        view.worker = Some(worker);
        view
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }
    /// Whether attempts may have left a partial result that is to be shown. What is on record may not know of the one
    /// under way.
    pub fn may_have_partial_output(&self, has_run: bool) -> bool {
        (has_run || self.attempt > 0) && self.state != JobState::Succeeded
    }
    /// Puts a partial result in its place.
    pub fn set_partial_output(&mut self, bytes: Bytes) {
        self.partial_output = Some(Raw(bytes));
    }
    /// Puts a large payload in its place.
    pub fn set_payload(&mut self, bytes: Bytes) {
        self.payload = Some(Raw(bytes));
    }
    /// Puts a large output in its place.
    pub fn set_output(&mut self, bytes: Bytes) {
        self.output = Some(Raw(bytes));
    }
}

fn split(value: Option<Value>) -> (Option<Raw>, Option<String>) {
    match value {
        Some(Value::Inline(bytes)) => (Some(Raw(bytes)), None),
        Some(Value::Blob(id)) => (None, Some(id.to_string())),
        None => (None, None),
    }
}

/// One attempt of a job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptView {
    /// From 1.
    number: u32,
    /// The lease's number.
    fence: u64,
    #[schema(required = true)]
    worker: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    finished_at: Option<Timestamp>,
    /// `null` while it runs.
    #[schema(value_type = Option<AttemptOutcomeDocs>, required = true)]
    outcome: Option<AttemptOutcome>,
    #[schema(value_type = Option<JobErrorDocs>, required = true)]
    error: Option<JobError>,
    /// What it used, where the handler can tell.
    #[schema(value_type = Option<Object>, required = true)]
    usage: Option<Raw>,
    /// The verdict over an output that was refused, where it was scored.
    #[schema(value_type = Option<EvaluationDocs>, required = true)]
    evaluation: Option<Evaluation>,
}

/// How an attempt ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AttemptOutcome)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub enum AttemptOutcomeDocs {
    Succeeded,
    Failed,
    TimedOut,
    LeaseLost,
    Cancelled,
    Snoozed,
    Released,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let (usage, evaluation) = attempt.usage.as_ref().map(Evaluation::apart).unwrap_or_default();
        Self {
            number: attempt.attempt,
            fence: attempt.fence.0,
            worker: attempt.worker,
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
            outcome: attempt.outcome,
            error: attempt.error,
            usage: usage.map(Raw),
            evaluation,
        }
    }
}

/// One line of a job's log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogLine)]
pub struct LogView {
    /// Its place, from 1.
    seq: u64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    attempt: u32,
    /// `debug`, `info`, `warn` or `error`.
    level: String,
    message: String,
}

impl From<LogLine> for LogView {
    fn from(line: LogLine) -> Self {
        Self {
            seq: line.seq,
            at: line.at,
            attempt: line.attempt,
            level: line.level,
            message: line.message,
        }
    }
}

/// A bulk action.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Operation)]
pub struct OperationView {
    #[schema(format = Uuid)]
    id: String,
    /// `retry`, `cancel` or `delete`.
    action: String,
    /// `running`, `succeeded` or `failed`.
    state: String,
    /// Jobs that matched so far.
    matched: u64,
    /// Jobs changed so far.
    changed: u64,
    #[schema(required = true)]
    error: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    finished_at: Option<Timestamp>,
}

impl From<Operation> for OperationView {
    fn from(operation: Operation) -> Self {
        Self {
            id: operation.id.to_string(),
            action: operation.action,
            state: operation.state,
            matched: operation.matched,
            changed: operation.changed,
            error: operation.error,
            created_at: operation.created_at,
            finished_at: operation.finished_at,
        }
    }
}

/// What a bulk action would change.
#[derive(Debug, Serialize, ToSchema)]
pub struct DryRun {
    /// Always true.
    pub dry_run: bool,
    /// Jobs that match now.
    pub matched: u64,
}

/// What holds a job back.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Explanation)]
pub struct ExplanationView {
    #[schema(format = Uuid)]
    id: String,
    #[schema(value_type = StateDocs)]
    state: JobState,
    /// Nothing but its turn holds it back.
    runnable: bool,
    /// The most telling first.
    reasons: Vec<ReasonView>,
}

/// One thing that holds a job back.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reason)]
pub struct ReasonView {
    /// Stable, snake_case.
    code: &'static str,
    detail: String,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    since: Option<Timestamp>,
    /// Known or estimated.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    until: Option<Timestamp>,
    /// The facts behind it.
    evidence: Json,
}

impl From<Explanation> for ExplanationView {
    fn from(explanation: Explanation) -> Self {
        let reasons = explanation.reasons.into_iter().map(|reason| ReasonView {
            code: reason.code,
            detail: reason.detail,
            since: reason.since,
            until: reason.until,
            evidence: reason.evidence,
        });
        Self {
            id: explanation.id.to_string(),
            state: explanation.state,
            runnable: explanation.runnable,
            reasons: reasons.collect(),
        }
    }
}
