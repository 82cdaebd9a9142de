//! Outcomes: compared with what is on record, then written with a few wide statements.

use std::collections::HashMap;

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokio::sync::oneshot;

use super::fault::Fault;
use super::holds::{self, HoldKey};
use super::jobs::{Columns, bind_id};
use super::statement::{Args, Bulk};
use super::writer::{Tx, release, savepoint, undo};
use super::{LedgerError, Record, RecordRunning, Recorded, fit_text};
use crate::engine::Ended;
use crate::model::id::{Fence, JobId};
use crate::model::job::{AttemptOutcome, JobError, JobState, Value};
use crate::model::name::{Kind, Namespace, QueueName};
use crate::model::time::Timestamp;

/// Outcomes that wait for the writer.
pub(super) struct Recording {
    pub(super) records: Vec<Record>,
    pub(super) reply: oneshot::Sender<Result<Vec<Recorded>, LedgerError>>,
}

/// Writes all that wait, together; one that the database refuses is refused alone.
///
/// # Errors
/// Only where the transaction cannot go on.
pub(super) async fn write_all(
    tx: &mut Tx<'_>,
    waiting: &[Recording],
) -> Result<Vec<Result<Vec<Recorded>, Fault>>, Fault> {
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<&Record> = waiting.iter().flat_map(|w| &w.records).collect();
    if let Ok(replies) = alone(tx, &all).await? {
        let mut replies = replies.into_iter();
        return Ok(waiting
            .iter()
            .map(|w| Ok(replies.by_ref().take(w.records.len()).collect()))
            .collect());
    }
    let mut results = Vec::with_capacity(waiting.len());
    for recording in waiting {
        let records: Vec<&Record> = recording.records.iter().collect();
        results.push(alone(tx, &records).await?);
    }
    Ok(results)
}

/// Writes outcomes, or nothing.
async fn alone(
    tx: &mut Tx<'_>,
    records: &[&Record],
) -> Result<Result<Vec<Recorded>, Fault>, Fault> {
    savepoint(tx).await?;
    let result = write(tx, records).await;
    if let Err(fault) = &result {
        undo(tx, fault.clone()).await?;
    }
    release(tx).await?;
    Ok(result)
}

async fn write(tx: &mut Tx<'_>, records: &[&Record]) -> Result<Vec<Recorded>, Fault> {
    let mut sheet = Sheet { known: look(tx.connection, records).await?, ..Sheet::default() };
    let replies = records.iter().map(|record| sheet.apply(record)).collect();
    let changes: Vec<&Known> = sheet.known.values().filter(|job| job.change.is_some()).collect();
    update(tx, &changes).await?;
    insert_attempts(tx.connection, &sheet.attempts).await?;
    holds::free(tx.connection, &sheet.freed).await?;
    let rollups: Vec<(RollupKey, RollupSum)> = sheet.rollups.into_iter().collect();
    add_rollups(tx.connection, &rollups).await?;
    Ok(replies)
}

/// What is on record of a job, and what changes.
struct Known {
    row: i64,
    namespace: Namespace,
    queue: QueueName,
    kind: Kind,
    state: JobState,
    fence: Fence,
    unique_key: Option<String>,
    cancel_reason: Option<String>,
    change: Option<Change>,
}

/// New values of a job; `None` of the optional ones leaves what is there.
#[derive(Default)]
struct Change {
    attempt: u32,
    crashes: u32,
    run_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    worker: Option<String>,
    error: Option<JobError>,
    output: Option<Value>,
    usage: Option<Bytes>,
}

/// Namespace, start of the minute, queue, kind, outcome.
type RollupKey = (Namespace, i64, QueueName, Kind, i16);

#[derive(Default)]
struct RollupSum {
    count: i64,
    run_ms: i64,
}

/// Everything that a batch of outcomes changes.
#[derive(Default)]
struct Sheet<'r> {
    known: HashMap<JobId, Known>,
    attempts: Vec<(&'r Record, AttemptOutcome)>,
    freed: Vec<(HoldKey, JobId)>,
    rollups: HashMap<RollupKey, RollupSum>,
}

impl<'r> Sheet<'r> {
    /// Applies one outcome to what is on record, its predecessors in the batch included.
    fn apply(&mut self, record: &'r Record) -> Recorded {
        let known = self.known.get_mut(&record.id);
        let Some(job) = known.filter(|job| job.namespace == record.namespace) else {
            return Recorded::Unknown;
        };
        let is_open = job.fence < record.fence
            || (job.fence == record.fence && job.state == JobState::Running);
        if job.state.is_terminal() || !is_open {
            return Recorded::Stale;
        }
        let outcome = outcome_of(record);
        let (state, run_at) = state_of(record.ended);
        let is_first_success =
            state == JobState::Succeeded && record.attempt <= 1 && record.crashes == 0;
        job.state = state;
        job.fence = record.fence;
        let error = error_of(record, job.cancel_reason.as_deref());
        job.change.get_or_insert_default().take(record, run_at, error, is_first_success);
        if let Some(outcome) = outcome {
            if !is_first_success {
                self.attempts.push((record, outcome));
            }
            let minute = record.at.micros().div_euclid(MINUTE_US) * MINUTE_US;
            let key = (
                job.namespace.clone(),
                minute,
                job.queue.clone(),
                job.kind.clone(),
                outcome as i16,
            );
            let sum = self.rollups.entry(key).or_default();
            let run = record.claimed_at.map_or(0, |claimed| record.at.since(claimed).as_millis());
            sum.count += 1;
            sum.run_ms = sum.run_ms.saturating_add(i64::try_from(run).unwrap_or(i64::MAX));
        }
        if state.is_terminal()
            && let Some(key) = job.unique_key.take()
        {
            self.freed.push(((job.namespace.clone(), job.queue.clone(), key), record.id));
        }
        Recorded::Applied
    }
}

const MINUTE_US: i64 = 60_000_000;

impl Change {
    /// Takes over an outcome, on top of an earlier one of the same batch.
    fn take(
        &mut self,
        record: &Record,
        run_at: Option<Timestamp>,
        error: Option<JobError>,
        keeps_usage: bool,
    ) {
        self.attempt = record.attempt;
        self.crashes = record.crashes;
        self.run_at = run_at.or(self.run_at);
        self.started_at = record.claimed_at.or(self.started_at);
        self.finished_at = record.ended.is_terminal().then_some(record.at);
        self.worker = record.worker.clone().or(self.worker.take());
        self.error = error.or(self.error.take());
        self.output = record.output.clone().or(self.output.take());
        self.usage = record.usage.clone().filter(|_| keeps_usage);
    }
}

/// The state that an outcome leads to, and when the job may run again.
fn state_of(ended: Ended) -> (JobState, Option<Timestamp>) {
    match ended {
        Ended::Succeeded => (JobState::Succeeded, None),
        Ended::Retry(at) => (JobState::Retrying, Some(at)),
        Ended::Dead => (JobState::Dead, None),
        Ended::Snoozed(at) => (JobState::Scheduled, Some(at)),
        Ended::Released | Ended::Lost => (JobState::Ready, None),
        Ended::Cancelled => (JobState::Cancelled, None),
        Ended::Expired => (JobState::Expired, None),
        Ended::Quarantined => (JobState::Quarantined, None),
    }
}

/// How the attempt ended; `None`: there was none.
fn outcome_of(record: &Record) -> Option<AttemptOutcome> {
    record.claimed_at?;
    match record.ended {
        Ended::Succeeded => Some(AttemptOutcome::Succeeded),
        Ended::Retry(_) | Ended::Dead if record.timed_out => Some(AttemptOutcome::TimedOut),
        Ended::Retry(_) | Ended::Dead => Some(AttemptOutcome::Failed),
        Ended::Snoozed(_) => Some(AttemptOutcome::Snoozed),
        Ended::Released => Some(AttemptOutcome::Released),
        Ended::Cancelled => Some(AttemptOutcome::Cancelled),
        Ended::Expired => None,
        Ended::Lost | Ended::Quarantined => Some(AttemptOutcome::LeaseLost),
    }
}

/// The error to show; a cancelled job shows why somebody cancelled it.
fn error_of(record: &Record, reason: Option<&str>) -> Option<JobError> {
    match (&record.error, record.ended, reason) {
        (_, Ended::Cancelled, Some(reason)) => Some(cancelled(reason)),
        (Some(error), _, _) => Some(error.clone()),
        (None, Ended::Cancelled, None) => Some(cancelled("cancelled")),
        (None, _, _) => None,
    }
}

/// The error of a cancelled job.
pub(super) fn cancelled(reason: &str) -> JobError {
    JobError { code: "cancelled".into(), message: reason.into(), retryable: false }
}

async fn look(
    connection: &mut SqliteConnection,
    records: &[&Record],
) -> Result<HashMap<JobId, Known>, Fault> {
    static LOOK: Bulk = Bulk::new(
        "SELECT id, row, namespace, queue, kind, state, fence, unique_key, cancel_reason \
         FROM jobs WHERE id IN (VALUES",
        "(?)",
        ")",
    );
    let found = LOOK.fetch(connection, records, |args, record| bind_id(args, &record.id)).await?;
    found.iter().map(known_of).collect()
}

fn known_of(row: &SqliteRow) -> Result<(JobId, Known), Fault> {
    let mut c = Columns::of(row);
    let id = JobId::from_bytes(c.id()?);
    let known = Known {
        row: c.next()?,
        namespace: c.parsed()?,
        queue: c.parsed()?,
        kind: c.parsed()?,
        state: c.state()?,
        fence: Fence(c.count()?),
        unique_key: c.next()?,
        cancel_reason: c.next()?,
        change: None,
    };
    Ok((id, known))
}

/// Writes the changes. The guard repeats what was decided in memory, so that a mistake there cannot take a
/// terminal state back.
async fn update(tx: &mut Tx<'_>, jobs: &[&Known]) -> Result<(), Fault> {
    static UPDATE: Bulk = Bulk::new(
        "WITH v (row, state, fence, changed_at, attempt, crashes, run_at, started_at, \
         finished_at, worker, error_retryable, error_code, error_message, usage, output_blob, \
         output) AS (VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ") UPDATE jobs SET state = v.state, fence = v.fence, changed_at = v.changed_at, \
         attempt = v.attempt, crashes = v.crashes, run_at = coalesce(v.run_at, jobs.run_at), \
         started_at = coalesce(v.started_at, jobs.started_at), finished_at = v.finished_at, \
         worker = coalesce(v.worker, jobs.worker), usage = v.usage, \
         error_retryable = iif(v.state = 10, NULL, coalesce(v.error_retryable, jobs.error_retryable)), \
         error_code = iif(v.state = 10, NULL, coalesce(v.error_code, jobs.error_code)), \
         error_message = iif(v.state = 10, NULL, coalesce(v.error_message, jobs.error_message)), \
         output_blob = v.output_blob, output = v.output \
         FROM v WHERE jobs.row = v.row AND jobs.state < 10 AND jobs.fence <= v.fence",
    );
    let now = tx.now.micros();
    let changed = UPDATE
        .execute(tx.connection, jobs, |args, job| {
            if let Some(change) = &job.change {
                bind_change(args, now, job, change);
            }
        })
        .await?;
    if changed == jobs.len() as u64 {
        Ok(())
    } else {
        Err(Fault::unreadable("jobs that changed under the writer"))
    }
}

fn bind_change(args: &mut Args, now: i64, job: &Known, change: &Change) {
    args.add(job.row)
        .add(job.state as i16)
        .add(fence(job.fence))
        .add(now)
        .add(i64::from(change.attempt))
        .add(i64::from(change.crashes))
        .add(change.run_at.map(Timestamp::micros))
        .add(change.started_at.map(Timestamp::micros))
        .add(change.finished_at.map(Timestamp::micros))
        .add(change.worker.as_deref().map(fit_text));
    bind_error(args, change.error.as_ref());
    let (blob, inline) = match &change.output {
        None => (None, None),
        Some(Value::Inline(bytes)) => (None, Some(bytes.as_ref())),
        Some(Value::Blob(id)) => (Some(id.as_bytes().as_slice()), None),
    };
    args.add(change.usage.as_deref()).add(blob).add(inline);
}

/// A fence as the tables have it; it stays below 2^53.
pub(super) fn fence(fence: Fence) -> i64 {
    i64::try_from(fence.0).unwrap_or(i64::MAX)
}

/// Adds the three columns of an error.
fn bind_error(args: &mut Args, error: Option<&JobError>) {
    args.add(error.map(|error| error.retryable))
        .add(error.map(|error| fit_text(&error.code)))
        .add(error.map(|error| fit_text(&error.message)));
}

async fn insert_attempts(
    connection: &mut SqliteConnection,
    attempts: &[(&Record, AttemptOutcome)],
) -> Result<(), Fault> {
    static INSERT: Bulk = Bulk::new(
        "INSERT INTO attempts (job_id, fence, namespace, attempt, outcome, started_at, \
         finished_at, worker, error_retryable, error_code, error_message, usage) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "ON CONFLICT DO NOTHING",
    );
    INSERT
        .execute(connection, attempts, |args, (record, outcome)| {
            args.add(record.id.as_bytes().as_slice())
                .add(fence(record.fence))
                .add(record.namespace.as_str())
                .add(i64::from(record.attempt))
                .add(*outcome as i16)
                .add(record.claimed_at.map(Timestamp::micros))
                .add(record.at.micros())
                .add(record.worker.as_deref().map(fit_text));
            bind_error(args, record.error.as_ref());
            args.add(record.usage.as_deref());
        })
        .await?;
    Ok(())
}

async fn add_rollups(
    connection: &mut SqliteConnection,
    rollups: &[(RollupKey, RollupSum)],
) -> Result<(), Fault> {
    static ADD: Bulk = Bulk::new(
        "INSERT INTO rollups (namespace, minute, queue, kind, outcome, count, run_ms) VALUES",
        "(?, ?, ?, ?, ?, ?, ?)",
        "ON CONFLICT DO UPDATE SET count = count + excluded.count, run_ms = run_ms + excluded.run_ms",
    );
    ADD.execute(connection, rollups, |args, ((namespace, minute, queue, kind, outcome), sum)| {
        args.add(namespace.as_str())
            .add(*minute)
            .add(queue.as_str())
            .add(kind.as_str())
            .add(*outcome)
            .add(sum.count)
            .add(sum.run_ms);
    })
    .await?;
    Ok(())
}

/// Notes leases that have lasted, the highest fence of each job.
pub(super) async fn running(tx: &mut Tx<'_>, running: &[RecordRunning]) -> Result<(), Fault> {
    static UPDATE: Bulk = Bulk::new(
        "WITH v (id, fence, changed_at, attempt, started_at, worker) AS (VALUES",
        "(?, ?, ?, ?, ?, ?)",
        ") UPDATE jobs SET state = 3, fence = v.fence, changed_at = v.changed_at, \
         attempt = v.attempt, started_at = v.started_at, worker = v.worker \
         FROM v WHERE jobs.id = v.id AND jobs.state < 10 AND jobs.fence < v.fence",
    );
    let mut latest: HashMap<JobId, &RecordRunning> = HashMap::with_capacity(running.len());
    for lease in running {
        let known = latest.entry(lease.id).or_insert(lease);
        if known.fence < lease.fence {
            *known = lease;
        }
    }
    let leases: Vec<&RecordRunning> = latest.into_values().collect();
    let now = tx.now.micros();
    UPDATE
        .execute(tx.connection, &leases, |args, lease| {
            args.add(lease.id.as_bytes().as_slice())
                .add(fence(lease.fence))
                .add(now)
                .add(i64::from(lease.attempt))
                .add(lease.claimed_at.micros())
                .add(fit_text(&lease.worker));
        })
        .await?;
    Ok(())
}
