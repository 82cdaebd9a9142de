//! Partial results: storing them, and what earlier attempts left.

use std::time::Duration;

use bytes::Bytes;
use windlass_shared::limits::VALUE_BYTES_MAX;

use crate::attempt::Attempt;
use crate::persist::persistently;
use crate::reporter::{Left, ReportError};

/// Longest time to store a partial result, or to ask for what is left, with retries.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Why a partial result is not stored.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Over 1 MiB of JSON.
    #[error("the partial result has {0} bytes; {VALUE_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// It cannot be written as JSON (a map with keys that are no text).
    #[error("the partial result cannot be written as JSON")]
    NotJson(#[source] serde_json::Error),
    /// The lease has passed on, or the job has ended: a successor may be at work, whose results count.
    #[error("the lease is lost: the partial result is not stored")]
    Stale,
    /// It could not be handed in.
    #[error("the partial result cannot be stored")]
    NotStored(#[from] ReportError),
}

/// Why what earlier attempts left cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// It could not be asked for.
    #[error("cannot ask for what earlier attempts left")]
    NotAsked(#[from] ReportError),
    /// The partial result is of another type: an older build of the handler may have stored it.
    #[error("the partial result of an earlier attempt does not fit")]
    Unfit(#[source] serde_json::Error),
}

/// Stores a partial result under the attempt's lease. One at a time: the last one that begins counts.
pub(crate) async fn store(attempt: &Attempt, data: Bytes) -> Result<(), CheckpointError> {
    if data.len() > VALUE_BYTES_MAX {
        return Err(CheckpointError::TooLarge(data.len()));
    }
    let _turn = attempt.checkpointing.lock().await;
    if attempt.is_lost() {
        return Err(CheckpointError::Stale);
    }
    let (id, fence) = (attempt.held.id, attempt.held.fence);
    let put = || attempt.crew.reporter.put_checkpoint(id, fence, data.clone());
    if persistently(TIME_MAX, put).await? { Ok(()) } else { Err(CheckpointError::Stale) }
}

/// What earlier attempts left; asked for once.
pub(crate) async fn left(attempt: &Attempt) -> Result<&Left, ResumeError> {
    let ask = async || {
        let (id, fence) = (attempt.held.id, attempt.held.fence);
        persistently(TIME_MAX, || attempt.crew.reporter.left(id, fence, attempt.number)).await
    };
    Ok(attempt.left.get_or_try_init(ask).await?)
}
