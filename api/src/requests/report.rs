//! What workers report beside the engine.

use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::model::id::{BlobId, Fence, JobId, LeaseId, LedgerId, WorkerId};
use windlass_shared::model::name::{Kind, QueueName};
use windlass_shared::model::time::Timestamp;

use super::docs::{DurationText, KindText, QueueNameText};
use super::lease::{ErrorRequest, cut};
use super::{Faults, Text};

/// Log lines in one report.
pub const LINES_MAX: usize = 5_000;
/// Other items in one report, of each sort.
pub const ITEMS_MAX: usize = 1_000;
/// Partial results in one report; a body holds no more of the largest.
pub const CHECKPOINTS_MAX: usize = 30;
/// Jobs that one report may ask about; the answer may hold as many values.
pub const RESUME_MAX: usize = 8;

/// A worker's report. Every part may be absent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest<'a> {
    /// The worker lives.
    #[serde(borrow, default)]
    #[schema(value_type = Option<BeatRequest<'static>>)]
    pub worker: Option<BeatRequest<'a>>,
    /// What handlers wrote.
    #[serde(borrow, default, deserialize_with = "super::bounded::<_, _, LINES_MAX>")]
    #[schema(required = false, max_items = 5000)]
    pub logs: Vec<LogRequest<'a>>,
    /// How far jobs are.
    #[serde(borrow, default, deserialize_with = "super::bounded::<_, _, ITEMS_MAX>")]
    #[schema(required = false, max_items = 1000)]
    pub progress: Vec<ProgressRequest<'a>>,
    /// The ledger that the engine was filled from, where the worker knows it. Outcomes of another ledger are refused.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub ledger: Option<LedgerId>,
    /// Outcomes whose engine lost them (the direct path). Recorded if the ledger has nothing newer.
    #[serde(borrow, default, deserialize_with = "super::bounded::<_, _, ITEMS_MAX>")]
    #[schema(required = false, max_items = 1000)]
    pub outcomes: Vec<OutcomeRequest<'a>>,
    /// Partial results of jobs under way. They are durable with the answer that says so.
    #[serde(borrow, default, deserialize_with = "super::bounded::<_, _, CHECKPOINTS_MAX>")]
    #[schema(required = false, max_items = 30)]
    pub checkpoints: Vec<CheckpointRequest<'a>>,
    /// Jobs of which the worker wants to know what earlier attempts left.
    #[serde(default, deserialize_with = "super::bounded::<_, _, RESUME_MAX>")]
    #[schema(required = false, max_items = 8)]
    pub resume: Vec<ResumeRequest>,
}

/// The partial result of a job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRequest<'a> {
    /// Whose.
    #[schema(value_type = String, format = Uuid)]
    pub job_id: JobId,
    /// The lease's number; a lease that is not the job's any more stores nothing.
    #[schema(value_type = u64, minimum = 0, maximum = 9007199254740991_u64)]
    pub fence: Fence,
    /// Any JSON, at most 1 MiB; takes the place of the one before.
    #[serde(borrow)]
    #[schema(value_type = serde_json::Value)]
    pub data: &'a RawValue,
}

/// Asks for what earlier attempts left.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// Which job.
    #[schema(value_type = String, format = Uuid)]
    pub job_id: JobId,
    /// The lease's number.
    #[schema(value_type = u64, minimum = 0, maximum = 9007199254740991_u64)]
    pub fence: Fence,
    /// The number of the attempt that asks.
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub attempt: u32,
}

/// A worker process lives.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WorkerBeat)]
pub struct BeatRequest<'a> {
    /// Its id; a new one for each start.
    #[schema(value_type = String, format = Uuid)]
    pub id: WorkerId,
    /// Its label.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub name: Text<'a>,
    /// Where it runs.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub host: Text<'a>,
    /// Build version.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 64, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub version: Text<'a>,
    /// Queues that it claims from.
    #[serde(default, deserialize_with = "super::bounded::<_, _, 200>")]
    #[schema(value_type = Vec<QueueNameText>, required = false, max_items = 200)]
    pub queues: Vec<QueueName>,
    /// Kinds that it can run; empty is any.
    #[serde(default, deserialize_with = "super::bounded::<_, _, 1000>")]
    #[schema(value_type = Vec<KindText>, required = false, max_items = 1000)]
    pub kinds: Vec<Kind>,
    /// Slots.
    #[schema(minimum = 0, maximum = 100_000)]
    pub concurrency: u32,
    /// Jobs running.
    #[schema(minimum = 0, maximum = 100_000)]
    pub running: u32,
    /// Process start.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
}

impl BeatRequest<'_> {
    /// Notes what is wrong with its texts.
    pub fn check(&self, faults: &mut Faults) {
        faults.indexed("/worker/name", self.name.as_str(), 128);
        faults.indexed("/worker/host", self.host.as_str(), 255);
        faults.indexed("/worker/version", self.version.as_str(), 64);
        for (pointer, n) in
            [("/worker/concurrency", self.concurrency), ("/worker/running", self.running)]
        {
            if n > 100_000 {
                faults.wrong(pointer, "must be at most 100000");
            }
        }
    }
}

/// One line that a handler wrote.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LogLineRequest)]
pub struct LogRequest<'a> {
    /// Whose log.
    #[schema(value_type = String, format = Uuid)]
    pub job_id: JobId,
    /// The attempt that wrote it.
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub attempt: u32,
    /// When, by the worker's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How grave.
    pub level: Level,
    /// The text; cut at 16 KiB.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub message: Text<'a>,
}

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For the author.
    Debug,
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warn,
    /// Someone must act.
    Error,
}

impl Level {
    /// The wire word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// How far a job is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProgressRequest<'a> {
    /// Which.
    #[schema(value_type = String, format = Uuid)]
    pub job_id: JobId,
    /// The lease's number; older ones than the recorded one change nothing.
    #[schema(value_type = u64, minimum = 0, maximum = 9007199254740991_u64)]
    pub fence: Fence,
    /// 0 to 100.
    #[schema(minimum = 0, maximum = 100)]
    pub percent: f64,
    /// In words; cut at 1,000 bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    pub message: Option<Text<'a>>,
}

impl ProgressRequest<'_> {
    /// The text, cut.
    pub fn text(&self) -> Option<String> {
        self.message.as_ref().map(|text| cut(text.as_str(), 1_000))
    }
}

/// An outcome by the direct path.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutcomeRequest<'a> {
    /// Which job.
    #[schema(value_type = String, format = Uuid)]
    pub job_id: JobId,
    /// The lease's number.
    #[schema(value_type = u64, minimum = 0, maximum = 9007199254740991_u64)]
    pub fence: Fence,
    /// The lease's token, where the worker has it. After a clock that went back another lease may have the same number.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub lease_id: Option<LeaseId>,
    /// How it ended.
    pub outcome: OutcomeWord,
    /// With `retry` and `snoozed`: when it runs again.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    pub delay: Option<windlass_shared::model::time::Span>,
    /// When it ended (engine time, as the worker knows it): from an hour before the job's creation to an hour
    /// from now.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// When it started; bounded as `at` is.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub claimed_at: Option<Timestamp>,
    /// Attempts that counted, this one included.
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub attempt: u32,
    /// Leases lost so far.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub crashes: u32,
    /// Who ran it. Default: the `worker` of the report.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub worker: Option<Text<'a>>,
    /// With `succeeded`: any JSON, at most 1 MiB.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>)]
    pub output: Option<&'a RawValue>,
    /// In the place of `output`: the blob that holds it, stored before.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub output_blob: Option<BlobId>,
    /// With the others.
    #[serde(borrow, default)]
    #[schema(value_type = Option<ErrorRequest<'static>>)]
    pub error: Option<ErrorRequest<'a>>,
    /// It was the attempt's time limit. Default: whether the error's code is `timeout`.
    #[serde(default)]
    pub timed_out: Option<bool>,
    /// What it used: an object, at most 16 KiB.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    pub usage: Option<&'a RawValue>,
}

/// How an attempt ended, by the direct path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeWord {
    /// Ended well.
    Succeeded,
    /// Failed; runs again after `delay`.
    Retry,
    /// Failed for good.
    Dead,
    /// Runs again after `delay`; does not count.
    Snoozed,
    /// Handed back; does not count.
    Released,
    /// Stopped on request.
    Cancelled,
}
