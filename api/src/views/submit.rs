//! Answers to batch submissions.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::model::job::JobState;

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
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ItemError>,
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
