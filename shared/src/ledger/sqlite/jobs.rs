//! Jobs as rows: reading them back, and the calls that look jobs up.

use std::str::FromStr;

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Decode, Row, Sqlite, Type};

use super::fault::Fault;
use super::statement::{Args, Bulk, row, rows};
use crate::ledger::unreadable::readable;
use crate::limits::ATTEMPTS_SHOWN_MAX;
use crate::model::id::{BlobId, Fence, JobId, WorkflowId};
use crate::model::job::{
    Attempt, AttemptOutcome, Job, JobError, JobState, Priority, Progress, StepRef, Value,
};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// `SELECT` of whole jobs; what follows names the jobs, as `j`.
macro_rules! select_jobs {
    ($tail:expr) => {
        concat!(
            "SELECT j.id, j.state, j.fence, j.namespace, j.queue, j.kind, j.unique_key, j.run_at, ",
            "j.created_at, j.started_at, j.finished_at, j.expires_at, j.attempt, j.crashes, ",
            "j.priority, j.cancel_requested, j.error_retryable, j.error_code, j.error_message, ",
            "j.worker, j.workflow_id, j.workflow_step, j.tags, j.request_id, j.traceparent, ",
            "j.meta, j.spec, j.payload_blob, j.payload, j.output_blob, j.output, ",
            "p.percent, p.message ",
            "FROM jobs j LEFT JOIN job_progress p ON p.job_id = j.id ",
            $tail
        )
    };
}
pub(super) use select_jobs;

/// Reads the columns of a row one after the other, in the order in which they were selected.
pub(super) struct Columns<'r> {
    row: &'r SqliteRow,
    at: usize,
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r SqliteRow) -> Self {
        Self { row, at: 0 }
    }

    /// The next column.
    pub(super) fn next<T: Decode<'r, Sqlite> + Type<Sqlite>>(&mut self) -> Result<T, Fault> {
        let value = self.row.try_get(self.at)?;
        self.at += 1;
        Ok(value)
    }

    /// The next column, 16 bytes.
    pub(super) fn id(&mut self) -> Result<[u8; 16], Fault> {
        self.maybe_id()?.ok_or_else(|| Fault::unreadable("an id"))
    }

    pub(super) fn maybe_id(&mut self) -> Result<Option<[u8; 16]>, Fault> {
        let bytes: Option<&[u8]> = self.next()?;
        bytes.map(|b| b.try_into().map_err(|_| Fault::unreadable("an id"))).transpose()
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, Fault> {
        Ok(Timestamp::from_micros(self.next()?))
    }

    pub(super) fn maybe_time(&mut self) -> Result<Option<Timestamp>, Fault> {
        Ok(self.next::<Option<i64>>()?.map(Timestamp::from_micros))
    }

    /// The next column, a number that is not negative and fits.
    pub(super) fn count<T: TryFrom<i64>>(&mut self) -> Result<T, Fault> {
        let n: i64 = self.next()?;
        T::try_from(n).map_err(|_| Fault::unreadable("a number"))
    }

    /// The next column, text with a meaning.
    pub(super) fn parsed<T: FromStr>(&mut self) -> Result<T, Fault> {
        name(self.next()?)
    }

    /// The next column, JSON that the ledger wrote.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Fault> {
        let text: &str = self.next()?;
        serde_json::from_str(text).map_err(Fault::unreadable)
    }

    pub(super) fn maybe_json<T: serde::de::DeserializeOwned>(
        &mut self,
    ) -> Result<Option<T>, Fault> {
        let text: Option<&str> = self.next()?;
        text.map(|text| serde_json::from_str(text).map_err(Fault::unreadable)).transpose()
    }

    pub(super) fn maybe_bytes(&mut self) -> Result<Option<Bytes>, Fault> {
        Ok(self.next::<Option<Vec<u8>>>()?.map(Bytes::from))
    }

    /// The next column, as [`Self::count`], or NULL.
    pub(super) fn maybe_count<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, Fault> {
        let n: Option<i64> = self.next()?;
        n.map(|n| T::try_from(n).map_err(|_| Fault::unreadable("a number"))).transpose()
    }

    pub(super) fn state(&mut self) -> Result<JobState, Fault> {
        let n: i64 = self.next()?;
        let state = i16::try_from(n).ok().and_then(JobState::from_number);
        state.ok_or_else(|| Fault::unreadable(format_args!("job state {n}")))
    }

    /// The next three columns.
    pub(super) fn error(&mut self) -> Result<Option<JobError>, Fault> {
        let retryable: Option<bool> = self.next()?;
        let code: Option<String> = self.next()?;
        let message: Option<String> = self.next()?;
        Ok(code.map(|code| JobError {
            code,
            message: message.unwrap_or_default(),
            retryable: retryable.unwrap_or_default(),
        }))
    }

    /// The next two columns: a reference, and the bytes where there is none.
    pub(super) fn value(&mut self) -> Result<Option<Value>, Fault> {
        let blob = self.maybe_id()?.map(|id| Value::Blob(BlobId::from_bytes(id)));
        let inline = self.maybe_bytes()?.map(Value::Inline);
        Ok(blob.or(inline))
    }
}

/// A text with a meaning.
pub(super) fn name<T: FromStr>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(|_| Fault::unreadable("a name"))
}

/// A job from a row of [`select_jobs!`].
pub(super) fn job_of(row: &SqliteRow) -> Result<Job, Fault> {
    let mut c = Columns::of(row);
    let id = JobId::from_bytes(c.id()?);
    let state = c.state()?;
    let fence = Fence(c.count()?);
    let (namespace, queue, kind) = (c.parsed()?, c.parsed()?, c.parsed()?);
    let unique_key = c.next()?;
    let (run_at, created_at) = (c.time()?, c.time()?);
    let (started_at, finished_at, expires_at) = (c.maybe_time()?, c.maybe_time()?, c.maybe_time()?);
    let (attempt, crashes) = (c.count()?, c.count()?);
    let priority = Priority::new(c.count()?).ok_or_else(|| Fault::unreadable("a priority"))?;
    let cancel_requested = c.next()?;
    let error = c.error()?;
    let worker = c.next()?;
    let (workflow_id, step) = (c.maybe_id()?, c.next::<Option<String>>()?);
    let workflow = workflow_id
        .map(|id| StepRef { id: WorkflowId::from_bytes(id), step: step.unwrap_or_default() });
    let tags = c.maybe_json()?.unwrap_or_default();
    let (request_id, traceparent) = (c.next()?, c.next()?);
    let meta = c.maybe_bytes()?;
    let spec = c.json()?;
    let payload = c.value()?.ok_or_else(|| Fault::unreadable("a payload"))?;
    let output = c.value()?;
    let percent: Option<f64> = c.next()?;
    let message = c.next()?;
    let progress = percent.map(|percent| Progress { percent, message });
    Ok(Job {
        id,
        namespace,
        queue,
        kind,
        state,
        priority,
        payload,
        spec,
        fence,
        attempt,
        crashes,
        run_at,
        created_at,
        started_at,
        finished_at,
        expires_at,
        output,
        error,
        worker,
        workflow,
        tags,
        meta,
        unique_key,
        cancel_requested,
        progress,
        request_id,
        traceparent,
    })
}

/// One job of a namespace.
pub(super) async fn job(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<Job>, Fault> {
    let sql = select_jobs!("WHERE j.id = ? AND j.namespace = ?");
    let args = Args::default().with(id.as_bytes().as_slice()).with(namespace.as_str());
    row(connection, sql, args).await?.as_ref().map(job_of).transpose()
}

/// Jobs by id; missing ones are left out.
pub(super) async fn jobs(
    connection: &mut SqliteConnection,
    ids: &[JobId],
) -> Result<Vec<Job>, Fault> {
    static JOBS: Bulk = Bulk::new(select_jobs!("WHERE j.id IN (VALUES"), "(?)", ")");
    let found = JOBS.fetch(connection, ids, bind_id).await?;
    Ok(readable("a job", &found, job_of))
}

/// Those of these ids that a namespace has a job of.
pub(super) async fn on_record(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    ids: &[JobId],
) -> Result<Vec<JobId>, Fault> {
    static IDS: Bulk = Bulk::new("SELECT id, namespace FROM jobs WHERE id IN (VALUES", "(?)", ")");
    let mut found = Vec::with_capacity(ids.len());
    for row in &IDS.fetch(connection, ids, bind_id).await? {
        let mut c = Columns::of(row);
        let id = JobId::from_bytes(c.id()?);
        if c.next::<&str>()? == namespace.as_str() {
            found.push(id);
        }
    }
    Ok(found)
}

/// The terminal ones among these.
pub(super) async fn terminal_among(
    connection: &mut SqliteConnection,
    ids: &[JobId],
) -> Result<Vec<JobId>, Fault> {
    static TERMINAL: Bulk =
        Bulk::new("SELECT id FROM jobs WHERE state >= 10 AND id IN (VALUES", "(?)", ")");
    let found = TERMINAL.fetch(connection, ids, bind_id).await?;
    found.iter().map(|row| Ok(JobId::from_bytes(Columns::of(row).id()?))).collect()
}

pub(super) fn bind_id(args: &mut Args, id: &JobId) {
    args.add(id.as_bytes().as_slice());
}

/// Attempts on record, oldest first; one that runs, and a success at the first attempt, are made up from the
/// job's row. `None`: no such job.
pub(super) async fn attempts(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<Vec<Attempt>>, Fault> {
    let sql = "SELECT state, fence, attempt, worker, started_at, finished_at, usage FROM jobs \
               WHERE id = ? AND namespace = ?";
    let args = Args::default().with(id.as_bytes().as_slice()).with(namespace.as_str());
    let Some(job) = row(connection, sql, args).await? else { return Ok(None) };
    let sql = "SELECT fence, attempt, worker, started_at, finished_at, outcome, \
               error_retryable, error_code, error_message, usage \
               FROM attempts WHERE job_id = ? ORDER BY fence DESC LIMIT ?";
    let args = Args::default().with(id.as_bytes().as_slice()).with(i64::from(ATTEMPTS_SHOWN_MAX));
    let found = rows(connection, sql, args).await?;
    let mut attempts = readable("an attempt", &found, attempt_of);
    attempts.reverse();
    let (state, latest) = latest_of(&job)?;
    let is_recorded = attempts.iter().any(|attempt| attempt.fence == latest.fence);
    if matches!(state, JobState::Running | JobState::Succeeded) && !is_recorded {
        attempts.push(latest);
    }
    Ok(Some(attempts))
}

fn attempt_of(row: &SqliteRow) -> Result<Attempt, Fault> {
    let mut c = Columns::of(row);
    Ok(Attempt {
        fence: Fence(c.count()?),
        attempt: c.count()?,
        worker: c.next()?,
        started_at: c.maybe_time()?,
        finished_at: c.maybe_time()?,
        outcome: Some(outcome(c.count()?)?),
        error: c.error()?,
        usage: c.maybe_bytes()?,
    })
}

fn latest_of(row: &SqliteRow) -> Result<(JobState, Attempt), Fault> {
    let mut c = Columns::of(row);
    let state = c.state()?;
    let attempt = Attempt {
        fence: Fence(c.count()?),
        attempt: c.count()?,
        worker: c.next()?,
        started_at: c.maybe_time()?,
        finished_at: c.maybe_time()?,
        outcome: (state == JobState::Succeeded).then_some(AttemptOutcome::Succeeded),
        error: None,
        usage: c.maybe_bytes()?,
    };
    Ok((state, attempt))
}

/// An attempt's end from the ledger's number.
pub(super) fn outcome(n: i16) -> Result<AttemptOutcome, Fault> {
    AttemptOutcome::from_number(n)
        .ok_or_else(|| Fault::unreadable(format_args!("attempt outcome {n}")))
}
