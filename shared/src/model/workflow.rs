//! A workflow: a graph of steps. As submitted and checked, and the states that it goes through.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::job::{JobError, JobSpec, Priority};
use super::name::{Kind, QueueName};
use super::time::{Span, Timestamp};

pub mod draw;
pub mod graph;

/// What a run is doing. The ledger stores the number; never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum WorkflowState {
    /// Steps run, or may run.
    Running = 0,
    /// Only signals, approvals or timers are outstanding.
    Waiting = 1,
    /// It has failed, and undoes what had succeeded.
    Compensating = 2,
    /// Every step ended as it should.
    Succeeded = 10,
    /// A step failed, or the deadline passed.
    Failed = 11,
    /// Stopped on request.
    Cancelled = 12,
    /// It had failed, and everything that had to be undone is.
    Compensated = 13,
}

impl WorkflowState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Running,
        Self::Waiting,
        Self::Compensating,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Compensated,
    ];

    /// Whether the run will not go on by itself.
    pub const fn is_terminal(self) -> bool {
        self as i16 >= Self::Succeeded as i16
    }

    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Compensating => "compensating",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Compensated => "compensated",
        }
    }

    /// From the ledger's number; `None` for a number that this build does not know.
    pub fn from_number(n: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as i16 == n)
    }
}

/// What a step is doing. The ledger stores the number; never reorder. While it is [`Self::Released`] its jobs
/// say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum StepState {
    /// Waits for the steps that it needs.
    Blocked = 0,
    /// Its job, or its jobs, may run.
    Released = 1,
    /// Waits for a signal, an approval, a time, or a child run.
    Waiting = 2,
    /// Ended well.
    Succeeded = 10,
    /// Its job failed for good, or one of its items did.
    Failed = 11,
    /// Stopped with its run.
    Cancelled = 12,
    /// Not run: its condition was false, or a step that it needs had failed.
    Skipped = 13,
}

impl StepState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Blocked,
        Self::Released,
        Self::Waiting,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Skipped,
    ];

    /// Whether the step will not go on by itself.
    pub const fn is_terminal(self) -> bool {
        self as i16 >= Self::Succeeded as i16
    }

    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Released => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }

    /// From the ledger's number; `None` for a number that this build does not know.
    pub fn from_number(n: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as i16 == n)
    }
}

/// What a step's failure means for its run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepFailure {
    /// The run fails.
    #[default]
    Fail,
    /// Whatever needs the step is skipped; the rest goes on, and the run may succeed.
    SkipDependents,
    /// As if it had succeeded with the output `null`.
    Continue,
}

/// What a run that fails does with the steps that don't depend on the failed one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunFailure {
    /// Those that have not started are cancelled, those that run are stopped.
    #[default]
    Stop,
    /// They go on to their end.
    LetFinish,
}

/// A checked workflow, as it is stored: names resolved to positions, and nothing in it can be refused any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowSpec {
    /// For people.
    pub name: String,
    /// Of the run, from its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// See [`RunFailure`].
    #[serde(default)]
    pub on_failure: RunFailure,
    /// What the run answers, a template; `None`: the outputs of the steps that no other needs, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// Words to find runs by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// In order of submission.
    pub steps: Vec<StepSpec>,
}

/// One checked step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Unique in its run.
    pub id: String,
    /// Positions of the steps that must have ended first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<u32>,
    /// A condition: false skips the step.
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// A list: one job, or one run, per item, with `item` and `index` in scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<String>,
    /// Most jobs of a `for_each` at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// See [`StepFailure`].
    #[serde(default)]
    pub on_failure: StepFailure,
    /// Runs when the run fails after this step has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<JobTemplate>,
    /// What it does.
    pub work: Work,
}

impl StepSpec {
    /// Whether the transaction that ends the last of its needs can release it as it stands: one job, made up
    /// front, with nothing to be evaluated or reckoned at its release.
    pub fn is_plain(&self) -> bool {
        let Work::Job(job) = &self.work else { return false };
        self.condition.is_none()
            && self.for_each.is_none()
            && !job.is_template
            && job.delay.is_none()
            && job.ttl.is_none()
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly all are jobs, the largest variant")]
pub enum Work {
    /// A job; with `for_each` one per item.
    Job(JobTemplate),
    /// `wait.signal`: until `POST /v1/workflows/{id}/signals/{name}`; its body is the output.
    Signal {
        /// Which.
        name: String,
        /// Fails after this long.
        timeout: Option<Span>,
    },
    /// `wait.timer`: for a while, or until an instant. Texts are templates.
    Timer(TimerSpec),
    /// `wait.approval`.
    Approval(ApprovalSpec),
    /// `workflow.run`: a run of its own; its output is the output.
    Child(ChildSpec),
}

/// When a timer rings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerSpec {
    /// This long after its release.
    For(Span),
    /// At an instant; at once if it has passed.
    Until(Timestamp),
    /// A template that yields a duration or an instant.
    Template(String),
}

/// Who must agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalSpec {
    /// So many different people. At least 1.
    pub required: u32,
    /// Who counts: names of API keys' roles, or names of keys; empty is anyone who may operate runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Fails after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Span>,
    /// What is asked, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl ApprovalSpec {
    /// Names of roles: a word that is one means the role, and no key that is named so.
    const ROLES: [&str; 5] = ["admin", "operator", "submitter", "worker", "viewer"];

    /// Whether somebody is on the list of those who count.
    pub fn names(&self, role: Option<&str>, by: &str) -> bool {
        self.roles.iter().any(|word| match Self::ROLES.contains(&word.as_str()) {
            true => role == Some(word),
            false => by == word,
        })
    }
}

/// Which workflow a `workflow.run` starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildSpec {
    /// A stored one, or one written in place.
    pub of: ChildOf,
    /// Its input, a template.
    pub input: Json,
}

/// See [`ChildSpec`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildOf {
    /// A stored definition; its latest version when the run was submitted, unless one is given.
    Definition {
        /// Its name.
        name: String,
        /// Which.
        version: Option<u32>,
    },
    /// Written in place.
    Inline(Box<WorkflowSpec>),
}

/// A checked job that is made later, perhaps more than once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobTemplate {
    /// Where it waits.
    pub queue: QueueName,
    /// Which handler runs it.
    pub kind: Kind,
    /// Its place among the ready.
    #[serde(default)]
    pub priority: Priority,
    /// JSON; with `is_template` its strings hold expressions.
    #[serde(default)]
    pub payload: Json,
    /// Whether the payload has to be filled in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_template: bool,
    /// Not before this long after its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// Expired when not started within this time of its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// Its rules.
    pub spec: JobSpec,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The caller's own object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Json>,
}

/// Codes of what ends a step or a run without an attempt of its own.
pub mod code {
    /// The condition of a step was false.
    pub const CONDITION_FALSE: &str = "condition_false";
    /// A step that it needs had failed or was skipped for a failure.
    pub const UPSTREAM_FAILED: &str = "upstream_failed";
    /// An expression failed over the values at hand.
    pub const EXPRESSION_FAILED: &str = "expression_failed";
    /// The run's deadline passed.
    pub const DEADLINE_EXCEEDED: &str = "deadline_exceeded";
    /// A wait's own time-out passed.
    pub const WAIT_TIMED_OUT: &str = "wait_timed_out";
    /// Somebody said no.
    pub const APPROVAL_REJECTED: &str = "approval_rejected";
    /// A step failed whose failure fails the run.
    pub const STEP_FAILED: &str = "step_failed";
    /// A child run did not succeed.
    pub const CHILD_FAILED: &str = "child_failed";
    /// A compensation failed for good.
    pub const COMPENSATION_FAILED: &str = "compensation_failed";
}

/// An error that no other attempt can mend.
pub fn permanent(code: &str, message: impl Into<String>) -> JobError {
    JobError { code: code.into(), message: message.into(), retryable: false }
}

/// Bounds of workflows.
pub mod limits {
    use super::Duration;

    /// Most steps of a run, those added later included.
    pub const STEPS_MAX: usize = 10_000;
    /// Most `needs` of all steps together.
    pub const EDGES_MAX: usize = 100_000;
    /// Most items of one `for_each`.
    pub const ITEMS_MAX: usize = 10_000;
    /// Most items of one `for_each` of workflows.
    pub const CHILDREN_MAX: usize = 1_000;
    /// Runs started by runs started by runs.
    pub const DEPTH_MAX: u16 = 8;
    /// Most people that an approval may ask for.
    pub const APPROVERS_MAX: u32 = 100;
    /// Jobs made by one transaction of an advance.
    pub const RELEASES_MAX: usize = 500;
    /// Most bytes of outputs that the expressions of one step may see.
    pub const SCOPE_BYTES_MAX: usize = 8 << 20;
    /// Longest deadline of a run, or wait of a step.
    pub const WAIT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
}
