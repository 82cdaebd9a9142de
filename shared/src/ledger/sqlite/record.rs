//! Outcomes: compared with what is on record, then written with a few wide statements.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::fault::Fault;
use super::holds::{self, HoldKey};
use super::orders::OrderKey;
use super::runs::note::{self, Follow, Gone};
use super::writer::{Tx, release, savepoint, undo};
use super::{LedgerError, Record, Recorded, orders};
use crate::engine::Ended;
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::{AttemptOutcome, JobError, JobState, Value};
use crate::model::name::{Kind, Namespace, QueueName};
use crate::model::time::Timestamp;

mod rows;

pub(super) use rows::{fence, lines, running};

/// Outcomes that wait for the writer.
pub(super) struct Recording {
    pub(super) records: Vec<Record>,
    pub(super) reply: oneshot::Sender<Result<Followed, LedgerError>>,
}

/// What became of outcomes, and what follows from them in runs.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// One per record, in order.
    pub(super) replies: Vec<Recorded>,
    /// Jobs that may run now: of steps, and the first of orders.
    pub(super) released: Vec<JobId>,
    /// Runs with something to be decided over.
    pub(super) due: Vec<WorkflowId>,
}

impl Followed {
    /// The answers of outcomes that were written together. What follows in a run is told where the first outcome of
    /// that run came from.
    fn split(all: Written, waiting: &[Recording]) -> Vec<Self> {
        let mut replies = all.replies.into_iter();
        let mut ends = Vec::with_capacity(waiting.len());
        let mut parts: Vec<Self> = Vec::with_capacity(waiting.len());
        let mut end = 0;
        for recording in waiting {
            end += recording.records.len();
            ends.push(end);
            let replies = replies.by_ref().take(recording.records.len()).collect();
            parts.push(Self { replies, ..Self::default() });
        }
        let part = |run: &WorkflowId| {
            let record = all.first.get(run).copied().unwrap_or_default();
            ends.partition_point(|end| *end <= record).min(waiting.len() - 1)
        };
        for (run, job) in all.follow.released {
            parts[part(&run)].released.push(job);
        }
        for run in all.follow.due {
            parts[part(&run)].due.push(run);
        }
        for (record, head) in all.heads {
            parts[ends.partition_point(|end| *end <= record).min(waiting.len() - 1)]
                .released
                .push(head);
        }
        parts
    }
}

/// What one statement batch came to.
struct Written {
    replies: Vec<Recorded>,
    follow: Follow,
    /// Of each run in `follow`, the first of its outcomes.
    first: HashMap<WorkflowId, usize>,
    /// The first jobs of orders in which one has ended, each with its outcome.
    heads: Vec<(usize, JobId)>,
}

/// Writes all that wait, together; one that the database refuses is refused alone.
///
/// # Errors
/// Only where the transaction cannot go on.
pub(super) async fn write_all(
    tx: &mut Tx<'_>,
    waiting: &[Recording],
) -> Result<Vec<Result<Followed, Fault>>, Fault> {
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<&Record> = waiting.iter().flat_map(|w| &w.records).collect();
    if let Ok(written) = alone(tx, &all).await? {
        return Ok(Followed::split(written, waiting).into_iter().map(Ok).collect());
    }
    let mut results = Vec::with_capacity(waiting.len());
    for recording in waiting {
        let records: Vec<&Record> = recording.records.iter().collect();
        let written = alone(tx, &records).await?;
        let one = std::slice::from_ref(recording);
        results.push(written.map(|written| Followed::split(written, one).remove(0)));
    }
    Ok(results)
}

/// Writes outcomes within another's change.
pub(super) async fn write_now(tx: &mut Tx<'_>, records: Vec<Record>) -> Result<Followed, Fault> {
    let written = write(tx, &records.iter().collect::<Vec<_>>()).await?;
    // Nobody waits for this one by itself.
    let recording = Recording { records, reply: oneshot::channel().0 };
    Ok(Followed::split(written, std::slice::from_ref(&recording)).remove(0))
}

/// Writes outcomes, or nothing.
async fn alone(tx: &mut Tx<'_>, records: &[&Record]) -> Result<Result<Written, Fault>, Fault> {
    savepoint(tx).await?;
    let result = write(tx, records).await;
    if let Err(fault) = &result {
        undo(tx, fault.clone()).await?;
    }
    release(tx).await?;
    Ok(result)
}

async fn write(tx: &mut Tx<'_>, records: &[&Record]) -> Result<Written, Fault> {
    let mut sheet = Sheet { known: rows::look(tx.connection, records).await?, ..Sheet::default() };
    let replies = records.iter().map(|record| sheet.apply(record)).collect();
    let changes: Vec<&Known<'_>> =
        sheet.known.values().filter(|job| job.change.is_some()).collect();
    rows::update(tx, &changes).await?;
    rows::insert_attempts(tx.connection, &sheet.attempts).await?;
    holds::free(tx.connection, &sheet.freed).await?;
    let gone = gone(&changes);
    let heads = orders::heads_after(tx.connection, &sheet.left_orders(records)).await?;
    let first = if gone.is_empty() { HashMap::new() } else { sheet.first_of_runs(records) };
    let rollups: Vec<(RollupKey, RollupSum)> = sheet.rollups.into_iter().collect();
    rows::add_rollups(tx.connection, &rollups).await?;
    Ok(Written { replies, follow: note::note(tx, &gone).await?, first, heads })
}

/// The jobs of runs that have ended, by step.
fn gone(changes: &[&Known<'_>]) -> Vec<Gone> {
    let mut gone: BTreeMap<(WorkflowId, i32), Gone> = BTreeMap::new();
    for job in changes {
        if let Some(step) = job.step.filter(|_| job.state.is_terminal()) {
            gone.entry(step).or_insert_with(|| Gone::none(step)).count(job.state);
        }
    }
    gone.into_values().collect()
}

/// What is on record of a job, and what changes.
struct Known<'r> {
    row: i64,
    names: Names,
    state: JobState,
    fence: Fence,
    run_at: Timestamp,
    created_at: Timestamp,
    unique_key: Option<String>,
    order_key: Option<String>,
    cancel_reason: Option<String>,
    /// Of which run, and which step of it.
    step: Option<(WorkflowId, i32)>,
    change: Option<Change<'r>>,
}

/// Where a job belongs.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Names {
    namespace: Namespace,
    queue: QueueName,
    kind: Kind,
}

/// New values of a job; `None` of the optional ones leaves what is there.
#[derive(Default)]
struct Change<'r> {
    attempt: u32,
    crashes: u32,
    run_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    worker: Option<&'r str>,
    error: Option<Cow<'r, JobError>>,
    output: Option<&'r Value>,
    usage: Option<&'r Bytes>,
}

/// Names, start of the minute, outcome.
type RollupKey = (Names, i64, i16);

#[derive(Default)]
struct RollupSum {
    count: i64,
    run_ms: i64,
    ended: i64,
    dead: i64,
    wait_ms: i64,
    total_ms: i64,
}

/// Everything that a batch of outcomes changes.
#[derive(Default)]
struct Sheet<'r> {
    known: HashMap<JobId, Known<'r>>,
    attempts: Vec<(&'r Record, AttemptOutcome)>,
    freed: Vec<(HoldKey, JobId)>,
    rollups: HashMap<RollupKey, RollupSum>,
}

impl<'r> Sheet<'r> {
    /// The orders in which a job has ended, each with the place of an outcome of one.
    fn left_orders(&self, records: &[&Record]) -> HashMap<OrderKey, usize> {
        let ended = records.iter().enumerate().filter_map(|(at, record)| {
            let job = self.known.get(&record.id)?;
            let key = job
                .order_key
                .clone()
                .filter(|_| job.change.is_some() && job.state.is_terminal())?;
            Some(((job.names.namespace.clone(), job.names.queue.clone(), key), at))
        });
        ended.collect()
    }

    /// Of each run that these outcomes are of, the first one's place.
    fn first_of_runs(&self, records: &[&Record]) -> HashMap<WorkflowId, usize> {
        let mut first = HashMap::new();
        for (at, record) in records.iter().enumerate() {
            if let Some((run, _)) = self.known.get(&record.id).and_then(|job| job.step) {
                first.entry(run).or_insert(at);
            }
        }
        first
    }

    /// Applies one outcome to what is on record, its predecessors in the batch included.
    fn apply(&mut self, record: &'r Record) -> Recorded {
        let known = self.known.get_mut(&record.id);
        let Some(job) = known.filter(|job| job.names.namespace == record.namespace) else {
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
        job.run_at = run_at.unwrap_or(job.run_at);
        if let Some(outcome) = outcome {
            if !is_first_success {
                self.attempts.push((record, outcome));
            }
            let minute = record.at.micros().div_euclid(MINUTE_US) * MINUTE_US;
            let key = (job.names.clone(), minute, outcome as i16);
            let sum = self.rollups.entry(key).or_default();
            let run = record.claimed_at.map_or(0, |claimed| record.at.since(claimed).as_millis());
            sum.count += 1;
            sum.run_ms = sum.run_ms.saturating_add(i64::try_from(run).unwrap_or(i64::MAX));
            if state.is_terminal() {
                let begun = record.claimed_at.unwrap_or(record.at);
                sum.ended += 1;
                sum.dead += i64::from(matches!(state, JobState::Dead | JobState::Quarantined));
                sum.wait_ms = sum.wait_ms.saturating_add(ms(begun, job.run_at));
                sum.total_ms = sum.total_ms.saturating_add(ms(record.at, job.created_at));
            }
        }
        if state.is_terminal()
            && let Some(key) = job.unique_key.take()
        {
            let names = &job.names;
            self.freed.push(((names.namespace.clone(), names.queue.clone(), key), record.id));
        }
        Recorded::Applied
    }
}

const MINUTE_US: i64 = 60_000_000;

/// Whole milliseconds from `earlier` to `later`; 0 where they are the other way round.
fn ms(later: Timestamp, earlier: Timestamp) -> i64 {
    i64::try_from(later.since(earlier).as_millis()).unwrap_or(i64::MAX)
}

impl<'r> Change<'r> {
    /// Takes over an outcome, on top of an earlier one of the same batch.
    fn take(
        &mut self,
        record: &'r Record,
        run_at: Option<Timestamp>,
        error: Option<Cow<'r, JobError>>,
        keeps_usage: bool,
    ) {
        self.attempt = record.attempt;
        self.crashes = record.crashes;
        self.run_at = run_at.or(self.run_at);
        self.started_at = record.claimed_at.or(self.started_at);
        self.finished_at = record.ended.is_terminal().then_some(record.at);
        self.worker = record.worker.as_deref().or(self.worker);
        self.error = error.or(self.error.take());
        self.output = record.output.as_ref().or(self.output);
        self.usage = record.usage.as_ref().filter(|_| keeps_usage);
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
fn error_of<'r>(record: &'r Record, reason: Option<&str>) -> Option<Cow<'r, JobError>> {
    match (&record.error, record.ended, reason) {
        (Some(error), _, _) => Some(Cow::Borrowed(error)),
        (None, Ended::Cancelled, reason) => {
            Some(Cow::Owned(cancelled(reason.unwrap_or("cancelled on request"))))
        }
        (None, _, _) => None,
    }
}

/// The error of a cancelled job.
pub(super) fn cancelled(reason: &str) -> JobError {
    JobError { code: "cancelled".into(), message: reason.into(), retryable: false }
}
