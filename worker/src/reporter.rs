//! Where a worker's logs, progress, beats and large values go: to the API, or, in one process with it,
//! straight to the ledger.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use windlass_shared::engine::Verdict;
use windlass_shared::model::evaluate::Previous;
use windlass_shared::model::id::{BlobId, Fence, JobId, LeaseId, LedgerId, WorkerId};
use windlass_shared::model::name::{Kind, QueueName};
use windlass_shared::model::time::Timestamp;

pub(crate) mod buffer;
mod direct;
pub mod http;
pub mod ledger;
pub(crate) mod pump;

/// Body of `POST /v1/worker/reports`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The beat.
    pub worker: Beat,
    /// What handlers wrote, oldest first; at most [`REPORT_LINES_MAX`].
    pub logs: Vec<LogEntry>,
    /// How far jobs are; at most one per job, and at most [`REPORT_LINES_MAX`].
    pub progress: Vec<ProgressEntry>,
}

/// Most log lines, and most progress entries, in one report.
pub const REPORT_LINES_MAX: usize = 500;

/// A worker process, alive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Its id; fresh for each start.
    pub id: WorkerId,
    /// Its label.
    pub name: String,
    /// On which host.
    pub host: String,
    /// Build version.
    pub version: String,
    /// Queues that it claims from.
    pub queues: Vec<QueueName>,
    /// Kinds that it can run.
    pub kinds: Vec<Kind>,
    /// Slots.
    pub concurrency: u32,
    /// Jobs running.
    pub running: u32,
    /// Process start, by its own clock.
    pub started_at: Timestamp,
}

/// One line of a job's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Whose.
    pub job_id: JobId,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// When, by the worker's clock.
    pub at: Timestamp,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub message: String,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressEntry {
    /// Which.
    pub job_id: JobId,
    /// Older fences are ignored.
    pub fence: Fence,
    /// 0 to 100.
    pub percent: f64,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Answer to a [`Report`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportReply {
    /// An operator wants the worker to finish what it has and take nothing new.
    #[serde(default)]
    pub drain: bool,
    /// The ledger that has it; `None` of an API that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerId>,
}

/// The end of an attempt, for the ledger: the engine has lost it, or does not answer.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectOutcome {
    /// Which job.
    pub job_id: JobId,
    /// The lease that ended.
    pub fence: Fence,
    /// Its token.
    pub lease_id: LeaseId,
    /// What happens next; delays are from `at`.
    pub verdict: Verdict,
    /// When it ended, in engine time as far as the worker knows it.
    pub at: Timestamp,
    /// When it started (engine time).
    pub claimed_at: Timestamp,
    /// Attempts that counted, this one included where it counts.
    pub attempt: u32,
    /// Leases lost before this one.
    pub crashes: u32,
    /// Who held the lease.
    pub worker: WorkerId,
    /// Output, error and usage, as the engine has them ([`Detail`](windlass_shared::engine::envelope::Detail)).
    pub detail: Bytes,
}

/// Most outcomes in one call of [`Reporter::record`].
pub const DIRECT_MAX: usize = 1_000;

/// What became of one [`DirectOutcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectReply {
    /// The ledger has it now.
    Applied,
    /// The ledger had it, or something newer.
    Stale,
    /// The ledger knows no such job.
    Unknown,
}

/// What earlier attempts of a job left for a later one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Left {
    /// The latest partial result, JSON.
    pub checkpoint: Option<Bytes>,
    /// Why the attempt before failed.
    pub previous: Option<Previous>,
}

/// Why something could not be reported, stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Not reached, too slow, or overloaded: try again later.
    #[error("the receiver of reports is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It understood and said no; the same again would be refused again.
    #[error("the receiver of reports refused with status {0}")]
    Refused(u16),
    /// It has another ledger than the one that the outcomes are of.
    #[error("wrong_ledger: the receiver of reports has another ledger")]
    WrongLedger,
    /// The worker has none: no API address is set.
    #[error("the worker has no API address to report to")]
    Unconfigured,
}

impl ReportError {
    /// Whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// The receiver of reports and keeper of large values.
///
/// Every call is safe to repeat but for [`Reporter::report`], which may then store log lines twice; every
/// call may be dropped, and then may or may not have happened.
pub trait Reporter: Send + Sync + 'static {
    /// Delivers a report.
    fn report(&self, report: Report) -> BoxFuture<'_, Result<ReportReply, ReportError>>;

    /// Keeps a value under an id of the caller's.
    fn put_blob(&self, id: BlobId, bytes: Bytes) -> BoxFuture<'_, Result<(), ReportError>>;

    /// Stores the partial result of a job under a lease; durable on `true`. `false`: the lease is not the job's any more,
    /// or there is no such job that has not ended.
    fn put_checkpoint(
        &self,
        job_id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> BoxFuture<'_, Result<bool, ReportError>>;

    /// What earlier attempts left for the `attempt`th, under the lease `fence`. Waits about 2 s for an outcome that is on
    /// its way into the ledger.
    fn left(
        &self,
        job_id: JobId,
        fence: Fence,
        attempt: u32,
    ) -> BoxFuture<'_, Result<Left, ReportError>>;

    /// Records the ends of attempts past the engine; at most [`DIRECT_MAX`]. One reply per outcome, in order: then it
    /// is durable, or the ledger knows better. `ledger`: whose jobs they are, where the worker knows;
    /// [`ReportError::WrongLedger`] if it is another.
    fn record(
        &self,
        ledger: Option<LedgerId>,
        outcomes: Vec<DirectOutcome>,
    ) -> BoxFuture<'_, Result<Vec<DirectReply>, ReportError>>;

    /// A kept value; `None`: there is no such.
    fn blob(&self, id: BlobId) -> BoxFuture<'_, Result<Option<Bytes>, ReportError>>;
}

/// Reports to nobody: log lines and progress vanish, large values and partial results cannot be had.
pub struct Nowhere;

impl Reporter for Nowhere {
    fn report(&self, _report: Report) -> BoxFuture<'_, Result<ReportReply, ReportError>> {
        Box::pin(std::future::ready(Ok(ReportReply::default())))
    }
    fn put_checkpoint(
        &self,
        _job_id: JobId,
        _fence: Fence,
        _data: Bytes,
    ) -> BoxFuture<'_, Result<bool, ReportError>> {
        Box::pin(std::future::ready(Err(ReportError::Unconfigured)))
    }
    fn left(
        &self,
        _job_id: JobId,
        _fence: Fence,
        _attempt: u32,
    ) -> BoxFuture<'_, Result<Left, ReportError>> {
        Box::pin(std::future::ready(Err(ReportError::Unconfigured)))
    }
    fn record(
        &self,
        _ledger: Option<LedgerId>,
        _outcomes: Vec<DirectOutcome>,
    ) -> BoxFuture<'_, Result<Vec<DirectReply>, ReportError>> {
        Box::pin(std::future::ready(Err(ReportError::Unconfigured)))
    }
    fn put_blob(&self, _id: BlobId, _bytes: Bytes) -> BoxFuture<'_, Result<(), ReportError>> {
        Box::pin(std::future::ready(Err(ReportError::Unconfigured)))
    }
    fn blob(&self, _id: BlobId) -> BoxFuture<'_, Result<Option<Bytes>, ReportError>> {
        Box::pin(std::future::ready(Err(ReportError::Unconfigured)))
    }
}

/// A reporter that is shared.
pub type SharedReporter = Arc<dyn Reporter>;
