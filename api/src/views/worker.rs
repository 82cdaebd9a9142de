//! Workers and leases as callers see them.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::ledger::WorkerBeat;
use windlass_shared::model::evaluate::Previous;
use windlass_shared::model::job::JobError;
use windlass_shared::model::time::Timestamp;

use super::Raw;
use super::evaluate::PreviousDocs;
use super::job::{JobErrorDocs, JobView};
use super::submit::ItemError;

/// A worker process.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub struct WorkerView {
    #[schema(format = Uuid)]
    id: String,
    name: String,
    host: String,
    version: String,
    queues: Vec<String>,
    /// Empty is any.
    kinds: Vec<String>,
    concurrency: u32,
    running: u32,
    /// Asked to drain.
    draining: bool,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Latest heartbeat.
    #[schema(value_type = String, format = DateTime)]
    seen_at: Timestamp,
}

impl From<WorkerBeat> for WorkerView {
    fn from(beat: WorkerBeat) -> Self {
        Self {
            id: beat.id.to_string(),
            name: beat.name,
            host: beat.host,
            version: beat.version,
            queues: beat.queues,
            kinds: beat.kinds,
            concurrency: beat.concurrency,
            running: beat.running,
            draining: beat.draining,
            started_at: beat.started_at,
            seen_at: beat.seen_at,
        }
    }
}

/// A drain that was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Draining {
    /// The worker.
    #[schema(format = Uuid)]
    pub id: String,
    /// Always true; the worker learns of it with its next beat.
    pub draining: bool,
}

/// Jobs in a worker's hands.
#[derive(Debug, Serialize, ToSchema)]
pub struct Leases {
    /// Empty when none came in time.
    pub jobs: Vec<LeasedJob>,
}

/// A job and its lease.
#[derive(Debug, Serialize, ToSchema)]
pub struct LeasedJob {
    /// The job; large payloads included.
    #[serde(flatten)]
    pub job: JobView,
    /// Proof of holding it.
    pub lease: LeaseView,
    /// The latest partial result that earlier attempts stored, to go on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub checkpoint: Option<Raw>,
    /// Why the attempt before failed, and what to do better.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PreviousDocs>, nullable = false)]
    pub previous: Option<Previous>,
}

/// A lease.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lease)]
pub struct LeaseView {
    /// To be shown with every heartbeat and settle.
    pub token: String,
    /// Rises with every lease of the job; a guard for the handler's own storage.
    pub fence: u64,
    /// Unless extended.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// Answer to a heartbeat.
#[derive(Debug, Serialize, ToSchema)]
pub struct HeartbeatResult {
    /// One per item, in order.
    pub results: Vec<HeartbeatItem>,
}

/// What became of one lease.
#[derive(Debug, Serialize, ToSchema)]
pub struct HeartbeatItem {
    /// The job.
    #[schema(format = Uuid)]
    pub id: String,
    /// Still held.
    pub ok: bool,
    /// The new end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Somebody asked to stop the job: stop, and settle it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
    /// Why it is not held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ItemError>,
}

/// Answer to a settle.
#[derive(Debug, Serialize, ToSchema)]
pub struct SettleResult {
    /// One per item, in order.
    pub results: Vec<SettledItem>,
}

/// What became of one settle.
#[derive(Debug, Serialize, ToSchema)]
pub struct SettledItem {
    /// The job.
    #[schema(format = Uuid)]
    pub id: String,
    /// It counts; also when it had landed before.
    pub ok: bool,
    /// The job's result gate refused the output: the attempt counts as failed with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<JobErrorDocs>, nullable = false)]
    pub rejected: Option<JobError>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ItemError>,
}

/// Answer to a worker's report.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReportResult {
    /// An operator has asked this worker to drain.
    pub drain: bool,
    /// The id of this ledger. Outcomes of jobs that were claimed under another are of no use here.
    #[schema(format = Uuid)]
    pub ledger: String,
    /// What became of each outcome, in order: `applied`, `stale` or `unknown`.
    pub outcomes: Vec<&'static str>,
    /// What became of each partial result, in order: `stored` (it is durable), or `stale` (the lease is not the job's any
    /// more, or there is no such job that has not ended).
    pub checkpoints: Vec<&'static str>,
    /// What earlier attempts left, for each job of `resume`, in order.
    pub resume: Vec<LeftView>,
}

/// What earlier attempts left.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Left)]
pub struct LeftView {
    /// The job.
    #[schema(format = Uuid)]
    pub job_id: String,
    /// The latest partial result; `null`: none.
    #[schema(value_type = serde_json::Value, required = true)]
    pub checkpoint: Option<Raw>,
    /// Why the attempt before failed; `null` where it is the first, or the outcome is not on record within 2 s.
    #[schema(value_type = Option<PreviousDocs>, required = true)]
    pub previous: Option<Previous>,
}
