//! The statements around recording.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use sqlx::sqlite::SqliteConnection;

use super::{Change, Known, Names, RollupKey, RollupSum};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::{Columns, bind_id, name};
use crate::ledger::sqlite::statement::{Args, Bulk};
use crate::ledger::sqlite::writer::Tx;
use crate::ledger::{Record, RecordRunning, fit_text, unreadable};
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::{AttemptOutcome, JobError, JobState, Value};
use crate::model::time::Timestamp;

/// What is on record of the jobs.
///
/// One row of JSON for each statement, not a row for each job: each row wakes the writer's task, and that costs
/// more than the job.
pub(super) async fn look<'r>(
    connection: &mut SqliteConnection,
    records: &[&'r Record],
) -> Result<HashMap<JobId, Known<'r>>, Fault> {
    static LOOK: Bulk = Bulk::new(
        "SELECT json_group_array(json_array(hex(id), row, namespace, queue, kind, state, fence, \
         unique_key, cancel_reason, iif(workflow_id IS NULL, NULL, hex(workflow_id)), \
         workflow_ord, run_at, created_at, order_key)) FROM jobs WHERE id IN (VALUES",
        "(?)",
        ")",
    );
    let found = LOOK.fetch(connection, records, |args, record| bind_id(args, &record.id)).await?;
    let mut known = HashMap::with_capacity(records.len());
    let mut latest = None;
    for row in &found {
        let text: &str = Columns::of(row).next()?;
        for line in lines("a job", text)? {
            match known_of(line, &mut latest) {
                Ok((id, job)) => {
                    known.insert(id, job);
                }
                Err(fault) => unreadable::note("a job", &fault),
            }
        }
    }
    Ok(known)
}

/// The lines of one answer; all but those that do not read.
pub(in crate::ledger::sqlite) fn lines<'j, L: serde::Deserialize<'j>>(
    what: &'static str,
    text: &'j str,
) -> Result<Vec<L>, Fault> {
    if let Ok(lines) = serde_json::from_str(text) {
        return Ok(lines);
    }
    let raw: Vec<&'j RawValue> = serde_json::from_str(text).map_err(Fault::unreadable)?;
    Ok(unreadable::readable(what, &raw, |line| serde_json::from_str(line.get())))
}

/// The columns of [`look`]. Names and hexadecimal digits have no escapes in JSON.
type Line<'j> = (
    &'j str,
    i64,
    &'j str,
    &'j str,
    &'j str,
    i16,
    u64,
    Option<String>,
    Option<String>,
    Option<&'j str>,
    Option<i32>,
    i64,
    i64,
    Option<String>,
);

/// Jobs that end together mostly have the same names, which are then not made anew.
fn known_of<'r>(
    (
        id,
        row,
        namespace,
        queue,
        kind,
        state,
        fence,
        unique_key,
        cancel_reason,
        run,
        ord,
        due,
        made,
        order_key,
    ): Line<'_>,
    latest: &mut Option<Names>,
) -> Result<(JobId, Known<'r>), Fault> {
    let id = uuid::Uuid::try_parse(id).map_err(Fault::unreadable)?;
    // Of a state that a newer build invented, only the side of the border is known, and that decides.
    let by_side =
        if state >= JobState::Succeeded as i16 { JobState::Dead } else { JobState::Ready };
    let state = JobState::from_number(state).unwrap_or(by_side);
    let is_same = |names: &Names| {
        names.namespace.as_str() == namespace
            && names.queue.as_str() == queue
            && names.kind.as_str() == kind
    };
    let names = match latest.take().filter(is_same) {
        Some(names) => names,
        None => Names { namespace: name(namespace)?, queue: name(queue)?, kind: name(kind)? },
    };
    *latest = Some(names.clone());
    let run = run.map(uuid::Uuid::try_parse).transpose().map_err(Fault::unreadable)?;
    let known = Known {
        row,
        names,
        state,
        fence: Fence(fence),
        run_at: Timestamp::from_micros(due),
        created_at: Timestamp::from_micros(made),
        unique_key,
        order_key,
        cancel_reason,
        step: run.map(WorkflowId::from_uuid).zip(ord),
        change: None,
    };
    Ok((JobId::from_uuid(id), known))
}

/// Writes the changes. The guard repeats what was decided in memory, so that a mistake there cannot take a
/// terminal state back.
pub(super) async fn update(tx: &mut Tx<'_>, jobs: &[&Known<'_>]) -> Result<(), Fault> {
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
         output_blob = coalesce(v.output_blob, jobs.output_blob), \
         output = coalesce(v.output, jobs.output) \
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

fn bind_change(args: &mut Args, now: i64, job: &Known<'_>, change: &Change<'_>) {
    args.add(job.row)
        .add(job.state as i16)
        .add(fence(job.fence))
        .add(now)
        .add(i64::from(change.attempt))
        .add(i64::from(change.crashes))
        .add(change.run_at.map(Timestamp::micros))
        .add(change.started_at.map(Timestamp::micros))
        .add(change.finished_at.map(Timestamp::micros))
        .add(change.worker.map(fit_text));
    bind_error(args, change.error.as_deref());
    let (blob, inline) = match change.output {
        None => (None, None),
        Some(Value::Inline(bytes)) => (None, Some(bytes.as_ref())),
        Some(Value::Blob(id)) => (Some(id.as_bytes().as_slice()), None),
    };
    args.add(change.usage.map(Bytes::as_ref)).add(blob).add(inline);
}

/// A fence as the tables have it; it stays below 2^53.
pub(in crate::ledger::sqlite) fn fence(fence: Fence) -> i64 {
    i64::try_from(fence.0).unwrap_or(i64::MAX)
}

/// Adds the three columns of an error.
fn bind_error(args: &mut Args, error: Option<&JobError>) {
    args.add(error.map(|error| error.retryable))
        .add(error.map(|error| fit_text(&error.code)))
        .add(error.map(|error| fit_text(&error.message)));
}

pub(super) async fn insert_attempts(
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

pub(super) async fn add_rollups(
    connection: &mut SqliteConnection,
    rollups: &[(RollupKey, RollupSum)],
) -> Result<(), Fault> {
    static ADD: Bulk = Bulk::new(
        "INSERT INTO rollups (namespace, minute, queue, kind, outcome, count, run_ms, ended, dead, wait_ms, \
         total_ms) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "ON CONFLICT DO UPDATE SET count = count + excluded.count, run_ms = run_ms + excluded.run_ms, \
         ended = ended + excluded.ended, dead = dead + excluded.dead, \
         wait_ms = wait_ms + excluded.wait_ms, total_ms = total_ms + excluded.total_ms",
    );
    ADD.execute(connection, rollups, |args, ((names, minute, outcome), sum)| {
        args.add(names.namespace.as_str())
            .add(*minute)
            .add(names.queue.as_str())
            .add(names.kind.as_str())
            .add(*outcome)
            .add(sum.count)
            .add(sum.run_ms)
            .add(sum.ended)
            .add(sum.dead)
            .add(sum.wait_ms)
            .add(sum.total_ms);
    })
    .await?;
    Ok(())
}

/// Notes leases that have lasted, the highest fence of each job.
pub(in crate::ledger::sqlite) async fn running(
    tx: &mut Tx<'_>,
    running: &[RecordRunning],
) -> Result<(), Fault> {
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
