//! What a handler knows about the attempt that it performs.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use windlass_shared::gate::Gate;
use windlass_shared::model::evaluate::{Evaluation, Previous};
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::{JobSpec, Progress, StepRef};
use windlass_shared::model::name::{Kind, Namespace, QueueName};
use windlass_shared::model::time::Timestamp;

use crate::attempt::{Attempt, StopReason};
use crate::checkpoint::{self, CheckpointError, ResumeError};

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// For whoever debugs the handler.
    Debug,
    /// Worth knowing.
    Info,
    /// Odd, but dealt with.
    Warn,
    /// Went wrong.
    Error,
}

impl LogLevel {
    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// One attempt of one job, from the handler's side. Cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Attempt>);

impl Context {
    pub(crate) fn new(attempt: Arc<Attempt>) -> Self {
        Self(attempt)
    }

    /// The job.
    pub fn job_id(&self) -> JobId {
        self.0.held.id
    }

    /// Which attempt this is, from 1. Lost leases, releases and snoozes don't count.
    pub fn attempt(&self) -> u32 {
        self.0.number
    }

    /// The number of this lease; it only rises for a job. Pass it to stores that can refuse a lower one:
    /// that is what keeps a handler that was cut off from overwriting its successor's work.
    pub fn fence(&self) -> Fence {
        self.0.held.fence
    }

    /// End of the lease as last extended, in engine time. It is extended while the attempt runs.
    pub fn lease_expires_at(&self) -> Timestamp {
        self.0.expires_at()
    }

    /// What selected this handler.
    pub fn kind(&self) -> &Kind {
        &self.0.head.kind
    }

    /// Whose job it is.
    pub fn namespace(&self) -> &Namespace {
        &self.0.shard.namespace
    }

    /// Where it waited.
    pub fn queue(&self) -> &QueueName {
        &self.0.shard.queue
    }

    /// The rules that it runs under.
    pub fn spec(&self) -> &JobSpec {
        &self.0.head.spec
    }

    /// The workflow step that it is.
    pub fn step(&self) -> Option<&StepRef> {
        self.0.head.workflow.as_ref()
    }

    /// W3C trace context of the submission.
    pub fn traceparent(&self) -> Option<&str> {
        self.0.head.traceparent.as_deref()
    }

    /// The request that made the job.
    pub fn request_id(&self) -> Option<&str> {
        self.0.head.request_id.as_deref()
    }

    /// The payload as it came, JSON.
    pub fn payload(&self) -> Bytes {
        self.0.payload_bytes.get().cloned().unwrap_or_default()
    }

    /// Fires when the attempt is to stop: cancelled, over its limit, the worker stopping, or its lease lost.
    ///
    /// A handler that asks for it has a few seconds to react, then its future is dropped; one that never
    /// asks is dropped at once.
    pub fn cancellation(&self) -> CancellationToken {
        self.0.stop.listen().clone()
    }

    /// Whether [`Self::cancellation`] has fired because somebody asked for the job to be cancelled, and for no other
    /// reason. Does not change once it has fired.
    pub fn is_cancelled(&self) -> bool {
        self.0.stop.reason() == Some(StopReason::Cancelled)
    }

    /// How far the job is: `percent` from 0 to 100, and in words. Returns at once; of several reports
    /// within half a second only the last is kept.
    pub fn progress(&self, percent: f64, message: Option<&str>) {
        let percent = if percent.is_finite() { percent.clamp(0.0, 100.0) } else { 0.0 };
        let progress = Progress { percent, message: message.map(str::to_owned) };
        self.0.crew.reports.progress(self.job_id(), self.fence(), progress);
    }

    /// Adds a line to the job's log. Returns at once; when lines come faster than they can be stored, the
    /// oldest are dropped and counted.
    pub fn log(&self, level: LogLevel, message: impl Into<String>) {
        self.0.crew.reports.log(self.job_id(), self.attempt(), level, message.into());
    }

    /// Stores a partial result, at most 1 MiB of JSON, in place of the one before; it is durable when this returns. A later
    /// attempt of the job, on whatever worker, gets it by [`Self::resume`], and whoever looks at a job that did not
    /// succeed sees it as `partial_output`. Takes at most 10 s, and a write to the ledger: checkpoint every few seconds,
    /// not every item. May be repeated; dropped before its end, it may or may not have happened.
    ///
    /// # Errors
    /// See [`CheckpointError`]: with [`Stale`](CheckpointError::Stale) the attempt should end, its work is not its own
    /// any more; with the others it may go on.
    pub async fn checkpoint(&self, value: &(impl Serialize + Sync)) -> Result<(), CheckpointError> {
        let data = serde_json::to_vec(value).map_err(CheckpointError::NotJson)?;
        checkpoint::store(&self.0, data.into()).await
    }

    /// The latest partial result that earlier attempts of the job stored; `None` where there is none (or it is JSON
    /// `null`). Asked for at the first call, and remembered: what this attempt stores does not show here. Also a first
    /// attempt may have one: releases, lost leases and snoozes are no attempts.
    ///
    /// # Errors
    /// It cannot be had within 10 s, or does not fit the type.
    pub async fn resume<T: DeserializeOwned>(&self) -> Result<Option<T>, ResumeError> {
        let data = self.checkpoint_value().await?;
        data.map(|data| serde_json::from_slice(&data).map_err(ResumeError::Unfit)).transpose()
    }

    /// As [`Self::resume`], as JSON.
    ///
    /// # Errors
    /// It cannot be had within 10 s.
    pub async fn checkpoint_value(&self) -> Result<Option<Bytes>, ResumeError> {
        let left = checkpoint::left(&self.0).await?;
        Ok(left.checkpoint.clone().filter(|data| data != "null"))
    }

    /// Why the attempt before this one failed, and, where its result was evaluated, its score and what to do better. A
    /// first attempt has none, and asks nobody; nor has one whose predecessor's outcome is not on record within 2 s.
    ///
    /// # Errors
    /// It cannot be had within 10 s.
    pub async fn previous(&self) -> Result<Option<Previous>, ResumeError> {
        if self.attempt() < 2 {
            return Ok(None);
        }
        Ok(checkpoint::left(&self.0).await?.previous.clone())
    }

    /// The verdict over this attempt's result, for a handler that evaluates by itself and then returns an error: the
    /// next attempt gets its score and recommendations by [`Self::previous`]. The last call counts; of an attempt that
    /// succeeds it is not kept.
    pub fn set_evaluation(&self, evaluation: Evaluation) {
        *self.0.evaluation.lock().expect("nobody panics while holding it") = Some(evaluation);
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.0.crew.gate
    }

    /// Puts on record what the attempt used, as a JSON object. The last call counts.
    pub fn set_usage(&self, usage: serde_json::Value) {
        *self.0.usage.lock().expect("nobody panics while holding the usage") = Some(usage);
    }
}
