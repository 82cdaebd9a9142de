//! A job: as submitted, as recorded, and the states that it goes through.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::evaluate::Evaluate;
use super::id::{BlobId, Fence, JobId, WorkflowId};
use super::name::{Kind, Namespace, QueueName};
use super::retry::RetryPolicy;
use super::shaping::Shaping;
use super::time::{Span, Timestamp};
use crate::engine::flow::{Flow, Keys};

/// What a job is doing. The ledger stores the number; never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum JobState {
    /// Waits for dependencies; or stands for a series of submissions that is open ([`super::shaping::Series`]).
    Blocked = 0,
    /// Waits for its time.
    Scheduled = 1,
    /// May run now.
    Ready = 2,
    /// An attempt is under way.
    Running = 3,
    /// Waits out the delay after a failed attempt.
    Retrying = 4,
    /// Ended well.
    Succeeded = 10,
    /// Attempts used up, or a permanent error.
    Dead = 11,
    /// Stopped on request.
    Cancelled = 12,
    /// Not started before its `expires_at`.
    Expired = 13,
    /// Kept killing its workers.
    Quarantined = 14,
}

impl JobState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Blocked,
        Self::Scheduled,
        Self::Ready,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
        Self::Expired,
        Self::Quarantined,
    ];

    /// Whether the job will not run again by itself.
    pub const fn is_terminal(self) -> bool {
        self as i16 >= Self::Succeeded as i16
    }

    /// Whether an operator may run the job again.
    pub const fn can_redrive(self) -> bool {
        matches!(self, Self::Dead | Self::Cancelled | Self::Expired | Self::Quarantined)
    }

    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Quarantined => "quarantined",
        }
    }

    /// From the ledger's number; `None` for a number that this build does not know.
    pub fn from_number(n: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as i16 == n)
    }
}

impl std::str::FromStr for JobState {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or("not a job state")
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 0 to 9; 9 runs first. One level is worth the queue's `priority_unit` of waiting, so none starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// The highest level.
    pub const MAX: Self = Self(9);

    /// `None` above 9.
    pub const fn new(level: u8) -> Option<Self> {
        if level <= 9 { Some(Self(level)) } else { None }
    }
    /// The level.
    pub const fn level(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    /// The middle, 5.
    fn default() -> Self {
        Self(5)
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let n = u64::deserialize(d)?;
        u8::try_from(n)
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| serde::de::Error::custom("must be a number from 0 to 9"))
    }
}

/// JSON bytes as they came, small enough to travel, or a reference to a blob in the ledger.
///
/// Opaque outside `expect`, conditions and templates. Values over
/// [`crate::limits::INLINE_BYTES_MAX`] are blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The JSON text itself.
    Inline(Bytes),
    /// Where it is kept.
    Blob(BlobId),
}

impl Value {
    /// JSON `null`.
    pub const fn null() -> Self {
        Self::Inline(Bytes::from_static(b"null"))
    }
    /// Bytes carried inline.
    pub fn inline_len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Blob(_) => 0,
        }
    }
}

/// The rules that a job runs under. Fixed at submission but for `max_attempts` (PATCH).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Handler failures and time-outs allowed, the first attempt included.
    pub max_attempts: u32,
    /// Lost leases allowed; one more and the job is quarantined.
    pub max_crashes: u32,
    /// Limit of one attempt.
    pub timeout: Span,
    /// When to try again.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// Result gate; `None` accepts every output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// Slots that the job takes on its worker; at least 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// The worker stops the handler before its lease can pass to another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// At most one job of the same key in a queue runs at a time, in accepted order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_key: Option<String>,
    /// What becomes of those behind it if it does not succeed. Of a job with an `order_key`. The triggers of the
    /// ledger read it here.
    #[serde(default, skip_serializing_if = "OrderOnFailure::is_skip")]
    pub order_on_failure: OrderOnFailure,
    /// Jobs of one key share the queue's `per_key_concurrency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Jobs of one key share the queue's `per_key_rate_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_key: Option<String>,
    /// Jobs of one key together get one share of the queue; `None`: see [`Self::fairness_key()`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fairness_key: Option<String>,
    /// What a start costs of rates; at least 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub rate_limit_units: u32,
    /// The named dependency whose circuit holds the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<String>,
}

impl JobSpec {
    /// What the engine holds its start to; `None`: nothing but the limits of its queue and kind.
    pub fn flow(&self, kind: &Kind) -> Option<Flow> {
        let keys = Keys {
            share: self.fairness_key(),
            concurrency: self.concurrency_key.as_deref(),
            rate: self.rate_limit_key.as_deref(),
            circuit: self.circuit.as_deref(),
            units: self.rate_limit_units,
            weight: self.weight.max(1),
        };
        Flow::new(kind, keys)
    }

    /// With whom the job shares what it gets: its own key, or else that of its limits.
    pub fn fairness_key(&self) -> Option<&str> {
        let own = self.fairness_key.as_deref();
        own.or(self.concurrency_key.as_deref()).or(self.rate_limit_key.as_deref())
    }
}

fn one() -> u32 {
    1
}
fn is_one(n: &u32) -> bool {
    *n == 1
}

impl Default for JobSpec {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            max_crashes: 3,
            timeout: Span(Duration::from_secs(60)),
            retry: RetryPolicy::default(),
            expect: None,
            weight: 1,
            exclusive: false,
            order_key: None,
            order_on_failure: OrderOnFailure::default(),
            concurrency_key: None,
            rate_limit_key: None,
            fairness_key: None,
            rate_limit_units: 1,
            circuit: None,
        }
    }
}

/// A result gate: an output that fails it fails the attempt with `result_rejected`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// JSON Schema (draft 2020-12) that the output must satisfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// CEL over `output` that must be true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expr: Option<String>,
    /// What the output is scored by; below the threshold it is refused, with recommendations for the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate: Option<Box<Evaluate>>,
}

/// What the end of a job means for those behind it in its order, where it did not succeed: it is dead, cancelled, expired
/// or quarantined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderOnFailure {
    /// The next one runs.
    #[default]
    Skip,
    /// They wait until it has been redriven and has succeeded, or is forgotten.
    Block,
}

impl OrderOnFailure {
    /// [`Self::Skip`]; as serde asks.
    fn is_skip(&self) -> bool {
        *self == Self::Skip
    }
}

/// What a second submission with a held unique key gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// 409 that names the holder.
    #[default]
    Reject,
    /// The holder, as if it had been submitted now.
    ReturnExisting,
    /// The holder is cancelled if it has not started, and the new job takes the key; else as `Reject`.
    Replace,
}

/// At most one job holds a key in its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// The key.
    pub key: String,
    /// `None`: held until the job is terminal. `Some`: held for that long after submission.
    pub window: Option<Duration>,
    /// What a second submission gets.
    pub on_conflict: OnConflict,
}

/// The workflow step that a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRef {
    /// The run.
    pub id: WorkflowId,
    /// The step's id in it.
    pub step: String,
}

/// A validated job on its way into the ledger. Its id is drawn before, so that an unknown outcome of
/// the commit can be resolved by looking for it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Drawn by the submitter.
    pub id: JobId,
    /// Whose it is.
    pub namespace: Namespace,
    /// Where it waits.
    pub queue: QueueName,
    /// Which handler runs it.
    pub kind: Kind,
    /// Its place among the ready.
    pub priority: Priority,
    /// The caller's JSON.
    pub payload: Value,
    /// Not before; `None`: see `delay`.
    pub run_at: Option<Timestamp>,
    /// Not before this long after acceptance, by the ledger's clock: that of the host that submits may be wrong.
    /// `None` is at once.
    pub delay: Option<Duration>,
    /// Not started by then: expired. `None`: see `ttl`.
    pub expires_at: Option<Timestamp>,
    /// Not started this long after acceptance: expired.
    pub ttl: Option<Duration>,
    /// Its rules.
    pub spec: JobSpec,
    /// Its unique key.
    pub unique: Option<Unique>,
    /// What it meets before it is a job of its own; not together with a unique key or a time.
    pub shaping: Option<Box<Shaping>>,
    /// Words to find it by; at most 20 of 128 bytes.
    pub tags: Vec<String>,
    /// The caller's own JSON object, not passed to the handler as payload; `None` is `{}`.
    pub meta: Option<Bytes>,
    /// The request that made it.
    pub request_id: Option<String>,
    /// W3C trace context of that request.
    pub traceparent: Option<String>,
}

impl NewJob {
    /// A job with a fresh id, to run now, and with the defaults of everything else.
    pub fn new(namespace: Namespace, queue: QueueName, kind: Kind, payload: Value) -> Self {
        Self {
            id: JobId::generate(),
            namespace,
            queue,
            kind,
            priority: Priority::default(),
            payload,
            run_at: None,
            delay: None,
            expires_at: None,
            ttl: None,
            spec: JobSpec::default(),
            unique: None,
            shaping: None,
            tags: Vec::new(),
            meta: None,
            request_id: None,
            traceparent: None,
        }
    }

    /// Its `run_at` and `expires_at` if the ledger accepts it at this instant.
    pub fn times(&self, accepted_at: Timestamp) -> (Timestamp, Option<Timestamp>) {
        let after = |length: Option<Duration>| length.map(|length| accepted_at.plus(length));
        let run_at = self.run_at.or(after(self.delay)).unwrap_or(accepted_at);
        (run_at, self.expires_at.or(after(self.ttl)))
    }
}

/// Why an attempt or a job did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable, snake_case; retry rules match on it.
    pub code: String,
    /// For people; cut at [`crate::limits::ERROR_MESSAGE_BYTES_MAX`].
    pub message: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
}

/// How far a handler says that it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: f64,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A job as the ledger has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub namespace: Namespace,
    /// Where it waits.
    pub queue: QueueName,
    /// Which handler runs it.
    pub kind: Kind,
    /// The recorded state.
    pub state: JobState,
    /// Its place among the ready.
    pub priority: Priority,
    /// The caller's JSON.
    pub payload: Value,
    /// Its rules.
    pub spec: JobSpec,
    /// The highest fence recorded or granted to a redrive.
    pub fence: Fence,
    /// Attempts that count: handler failures and time-outs so far, plus the one under way or successful.
    pub attempt: u32,
    /// Leases lost so far.
    pub crashes: u32,
    /// Not before.
    pub run_at: Timestamp,
    /// Accepted at (ledger time).
    pub created_at: Timestamp,
    /// Start of the latest attempt on record (engine time).
    pub started_at: Option<Timestamp>,
    /// End, of a terminal job (engine time).
    pub finished_at: Option<Timestamp>,
    /// Not started by then: expired.
    pub expires_at: Option<Timestamp>,
    /// What the handler returned.
    pub output: Option<Value>,
    /// The latest error on record.
    pub error: Option<JobError>,
    /// Worker of the latest attempt on record.
    pub worker: Option<String>,
    /// The step that it is.
    pub workflow: Option<StepRef>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The caller's own JSON object.
    pub meta: Option<Bytes>,
    /// Its unique key.
    pub unique_key: Option<String>,
    /// Somebody asked to stop it.
    pub cancel_requested: bool,
    /// How far it is.
    pub progress: Option<Progress>,
    /// The request that made it.
    pub request_id: Option<String>,
    /// W3C trace context of that request.
    pub traceparent: Option<String>,
}

/// How one attempt ended, for `GET /v1/jobs/{id}/attempts`.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The lease's fence; unique with the job's id.
    pub fence: Fence,
    /// The attempt's number as the handler saw it.
    pub attempt: u32,
    /// The worker's name and id.
    pub worker: Option<String>,
    /// The claim's instant (engine time).
    pub started_at: Option<Timestamp>,
    /// The settle's instant (engine time); `None` while it runs.
    pub finished_at: Option<Timestamp>,
    /// How it ended; `None` while it runs.
    pub outcome: Option<AttemptOutcome>,
    /// Why it did not succeed.
    pub error: Option<JobError>,
    /// What it used, as JSON (`{"cpu_ms", "memory_peak_bytes"}`), where the handler can tell, and under `evaluation` the
    /// [`Evaluation`](super::evaluate::Evaluation) of a result that was refused.
    pub usage: Option<Bytes>,
}

/// How one attempt ended. The ledger stores the number; never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum AttemptOutcome {
    /// The handler returned a value that passed its gate.
    Succeeded = 1,
    /// The handler returned an error, panicked, or its output was refused.
    Failed = 2,
    /// Over the attempt's limit.
    TimedOut = 3,
    /// The lease ran out: the worker died or was cut off.
    LeaseLost = 4,
    /// Stopped on request.
    Cancelled = 5,
    /// The handler asked to run later.
    Snoozed = 6,
    /// Handed back by a worker that stops.
    Released = 7,
}

impl AttemptOutcome {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::LeaseLost,
        Self::Cancelled,
        Self::Snoozed,
        Self::Released,
    ];
    /// From the ledger's number.
    pub fn from_number(n: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|o| *o as i16 == n)
    }
}
