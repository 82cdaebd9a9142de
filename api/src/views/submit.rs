//! Answers to batch submissions.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::model::job::JobState;
use windlass_shared::model::time::Timestamp;

use super::job::StateDocs;
use crate::error::{ApiError, FieldError};

/// What became of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchResult {
    /// Jobs that are durable now, or were before.
    pub accepted: usize,
    /// Jobs that were refused.
    pub rejected: usize,
    /// One per job, in order.
    pub results: Vec<BatchItem>,
}

/// What became of one job of a batch: `id` and `state`, or `error`.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchItem {
    /// Its place in the batch, from 0.
    pub index: usize,
    /// Of the accepted job, or of the holder of its unique key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    pub id: Option<String>,
    /// `null` where it is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<StateDocs>)]
    pub state: Option<JobState>,
    /// Its place among the items of the job (`collect`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// The job that it replaced, which never runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    pub replaced: Option<String>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ItemError>,
}

/// An item of a job that collects.
#[derive(Debug, Serialize, ToSchema)]
pub struct CollectedItem {
    /// The job that runs with it.
    #[schema(format = Uuid)]
    pub id: String,
    /// Its place among the job's `items`, from 1; `null` where the answer is given again.
    #[schema(required = true)]
    pub item: Option<u32>,
    /// `blocked` while the job collects.
    #[schema(value_type = StateDocs)]
    pub state: JobState,
    /// The job runs then at the latest, if a worker is free.
    #[schema(value_type = String, format = DateTime)]
    pub run_at: Timestamp,
}

/// Why one item was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemError {
    /// Stable, as in problems.
    pub code: &'static str,
    /// In words.
    pub detail: String,
    /// What is wrong, by pointer into the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl From<&ApiError> for ItemError {
    fn from(error: &ApiError) -> Self {
        Self {
            code: error.code().as_str(),
            detail: error.detail().to_owned(),
            errors: error.errors().to_vec(),
        }
    }
}
