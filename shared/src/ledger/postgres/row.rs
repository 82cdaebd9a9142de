//! Rows to values and back.

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::{BadColumn, unchanged};
use super::{LedgerError, Result};
use crate::ledger::unreadable::readable;
use crate::model::id::{BlobId, Fence, JobId, WorkflowId};
use crate::model::job::{Job, JobError, JobState, Priority, Progress, StepRef, Value};
use crate::model::time::Timestamp;

/// The columns of [`job`], of a job's row `j` and its progress `p`.
macro_rules! job_columns {
    () => {
        "j.id, j.namespace, j.queue, j.kind, j.state, j.priority, j.payload, j.payload_blob, j.spec, \
         j.fence, j.attempt, j.crashes, j.run_at, j.created_at, j.started_at, j.finished_at, \
         j.expires_at, j.output, j.output_blob, j.error_code, j.error_message, j.error_retryable, \
         j.worker, j.workflow_id, j.workflow_step, j.tags, j.meta, j.unique_key, \
         j.cancel_requested, j.request_id, j.traceparent, p.percent, p.message"
    };
}
pub(super) use job_columns;

/// A query for jobs: `from` is the source of `j`, `rest` what follows the join with the progress.
macro_rules! select_jobs {
    ($from:expr, $rest:expr) => {
        concat!(
            "SELECT ",
            $crate::ledger::postgres::row::job_columns!(),
            " FROM ",
            $from,
            " j LEFT JOIN job_progress p ON p.job_id = j.id ",
            $rest
        )
    };
}
pub(super) use select_jobs;

/// One column by its place.
pub(super) fn get<'r, T>(row: &'r PgRow, at: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(at).map_err(unchanged)
}

/// One column that is text of a type of ours.
pub(super) fn parse<T: std::str::FromStr>(
    row: &PgRow,
    at: usize,
    column: &'static str,
) -> Result<T> {
    get::<&str>(row, at)?.parse().map_err(|_| BadColumn { column }.into())
}

/// One column that is JSON of a type of ours.
pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str, column: &'static str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| BadColumn { column }.into())
}

pub(super) fn time(row: &PgRow, at: usize) -> Result<Timestamp> {
    Ok(Timestamp::from_micros(get(row, at)?))
}

pub(super) fn maybe_time(row: &PgRow, at: usize) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, at)?.map(Timestamp::from_micros))
}

pub(super) fn maybe_bytes(row: &PgRow, at: usize) -> Result<Option<Bytes>> {
    Ok(get::<Option<Vec<u8>>>(row, at)?.map(Bytes::from))
}

/// A count or fence; the ledger writes none that is negative.
pub(super) fn unsigned(row: &PgRow, at: usize, column: &'static str) -> Result<u64> {
    u64::try_from(get::<i64>(row, at)?).map_err(|_| BadColumn { column }.into())
}

pub(super) fn small(row: &PgRow, at: usize, column: &'static str) -> Result<u32> {
    u32::try_from(get::<i32>(row, at)?).map_err(|_| BadColumn { column }.into())
}

/// A number of ours as the database's; one that is too large (none is) becomes the largest.
pub(super) fn int8(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn int4(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

pub(super) fn state(number: i16) -> Result<JobState> {
    JobState::from_number(number).ok_or_else(|| BadColumn { column: "state" }.into())
}

/// Inline bytes, or the reference; the database has one of the two, or none.
pub(super) fn value_parts(value: Option<&Value>) -> (Option<&[u8]>, Option<Uuid>) {
    match value {
        Some(Value::Inline(bytes)) => (Some(bytes), None),
        Some(Value::Blob(id)) => (None, Some(id.uuid())),
        None => (None, None),
    }
}

pub(super) fn maybe_value(row: &PgRow, inline: usize, blob: usize) -> Result<Option<Value>> {
    if let Some(id) = get::<Option<Uuid>>(row, blob)? {
        return Ok(Some(Value::Blob(BlobId::from_uuid(id))));
    }
    Ok(maybe_bytes(row, inline)?.map(Value::Inline))
}

/// The three columns of an error, from `at` on.
pub(super) fn maybe_error(row: &PgRow, at: usize) -> Result<Option<JobError>> {
    let Some(code) = get::<Option<String>>(row, at)? else { return Ok(None) };
    let message = get::<Option<String>>(row, at + 1)?.unwrap_or_default();
    let retryable = get::<Option<bool>>(row, at + 2)?.unwrap_or_default();
    Ok(Some(JobError { code, message, retryable }))
}

/// A job from the columns of [`job_columns`].
pub(super) fn job(row: &PgRow) -> Result<Job> {
    let workflow = match get::<Option<Uuid>>(row, 23)? {
        Some(id) => {
            let step = get::<Option<String>>(row, 24)?.unwrap_or_default();
            Some(StepRef { id: WorkflowId::from_uuid(id), step })
        }
        None => None,
    };
    let progress = get::<Option<f64>>(row, 31)?;
    let message = get::<Option<String>>(row, 32)?;
    let priority = u8::try_from(get::<i16>(row, 5)?).ok().and_then(Priority::new);
    Ok(Job {
        id: JobId::from_uuid(get(row, 0)?),
        namespace: parse(row, 1, "namespace")?,
        queue: parse(row, 2, "queue")?,
        kind: parse(row, 3, "kind")?,
        state: state(get(row, 4)?)?,
        priority: priority.ok_or(BadColumn { column: "priority" })?,
        payload: maybe_value(row, 6, 7)?.ok_or(BadColumn { column: "payload" })?,
        spec: json(get(row, 8)?, "spec")?,
        fence: Fence(unsigned(row, 9, "fence")?),
        attempt: small(row, 10, "attempt")?,
        crashes: small(row, 11, "crashes")?,
        run_at: time(row, 12)?,
        created_at: time(row, 13)?,
        started_at: maybe_time(row, 14)?,
        finished_at: maybe_time(row, 15)?,
        expires_at: maybe_time(row, 16)?,
        output: maybe_value(row, 17, 18)?,
        error: maybe_error(row, 19)?,
        worker: get(row, 22)?,
        workflow,
        tags: get(row, 25)?,
        meta: maybe_bytes(row, 26)?,
        unique_key: get(row, 27)?,
        cancel_requested: get(row, 28)?,
        progress: progress.map(|percent| Progress { percent, message }),
        request_id: get(row, 29)?,
        traceparent: get(row, 30)?,
    })
}

/// Those that read.
pub(super) fn jobs(rows: &[PgRow]) -> Vec<Job> {
    readable("a job", rows, job)
}

/// JSON of a value of ours, which always serialises.
pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| LedgerError::Failed(error.into()))
}
