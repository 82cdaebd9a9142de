//! Forgetting: one job on request, and in bounded batches whatever is past its time.

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use super::fault::Fault;
use super::jobs::{Columns, bind_id};
use super::statement::{Args, Bulk, execute, rows};
use super::writer::Tx;
use super::{blobs, holds};
use crate::ledger::retention::Aged;
use crate::ledger::unreadable;
use crate::limits::IDEMPOTENCY_TTL;
use crate::model::id::JobId;
use crate::model::job::JobState;
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// A job may have got its id this much later, by a clock set back since, than it ended.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(3600);
/// The last instant that an id can hold.
const MILLIS_MAX: u64 = (1 << 48) - 1;

/// Ids looked at by one step.
const SCAN_MAX: u32 = 5_000;

/// What a step of a walk over jobs has found.
pub(super) struct Found {
    pub(super) ids: Vec<JobId>,
    /// The last job that was looked at.
    pub(super) last: Option<JobId>,
    /// None behind it can be old enough.
    pub(super) at_end: bool,
}

/// Jobs behind `after` that are past their time and of no run that is on record, oldest ids first. Reads only, however
/// far it must look, so that the writer is not kept from its work.
pub(super) async fn ended(
    connection: &mut SqliteConnection,
    aged: &Aged,
    after: Option<JobId>,
    limit: u32,
) -> Result<Found, Fault> {
    let sql = "SELECT id, state, changed_at, workflow_id IS NOT NULL AND EXISTS \
               (SELECT 1 FROM workflows w WHERE w.id = jobs.workflow_id), namespace FROM jobs \
               WHERE id > ? AND id < ? ORDER BY id LIMIT ?";
    let end = aged.before.plus(CLOCK_STEP_MAX).millis();
    let end = JobId::first_at(u64::try_from(end).unwrap_or(0).min(MILLIS_MAX));
    let args = Args::default()
        .with(after.map_or([0; 16], |id| *id.as_bytes()).as_slice())
        .with(end.as_bytes().as_slice())
        .with(SCAN_MAX);
    let found = rows(connection, sql, args).await?;
    let (mut ids, mut last, mut looked) = (Vec::new(), None, 0);
    for row in &found {
        if ids.len() >= limit as usize {
            break;
        }
        let mut c = Columns::of(row);
        let id = JobId::from_bytes(c.id()?);
        (last, looked) = (Some(id), looked + 1);
        let (state, changed_at): (i64, Timestamp) = (c.next()?, c.time()?);
        let (of_run, namespace): (bool, &str) = (c.next()?, c.next()?);
        let of_state = |known: &JobState| known.is_terminal() && i64::from(*known as i16) == state;
        let (named, included) = aged.whose.parts();
        let is_old = changed_at < aged.before && aged.states.iter().any(of_state);
        if is_old && !of_run && named.contains(&namespace) == included {
            ids.push(id);
        }
    }
    let at_end = looked == found.len() && found.len() < SCAN_MAX as usize;
    Ok(Found { ids, last, at_end })
}

/// Why jobs are forgotten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody asked for it: a unique key whose window lasts is freed with the job.
    Asked,
    /// Their end was recorded before this: a window stays. Its promise is about submissions, not about the job.
    Old(Timestamp),
    /// Their run is forgotten.
    OfRun,
}

/// Deletes terminal jobs with everything that is theirs; how many. Others among `ids` are left alone.
pub(super) async fn forget(tx: &mut Tx<'_>, ids: &[JobId], cause: Cause) -> Result<u64, Fault> {
    static LOOK: Bulk = Bulk::new(
        "SELECT id, changed_at, workflow_id, workflow_ord, workflow_item, namespace, queue, \
         unique_key, payload_blob, output_blob FROM jobs WHERE state >= 10 AND id IN (VALUES",
        "(?)",
        ")",
    );
    static DELETE: [Bulk; 6] = [
        Bulk::new("DELETE FROM jobs WHERE state >= 10 AND id IN (VALUES", "(?)", ")"),
        Bulk::new("DELETE FROM attempts WHERE job_id IN (VALUES", "(?)", ")"),
        Bulk::new("DELETE FROM job_logs WHERE job_id IN (VALUES", "(?)", ")"),
        Bulk::new("DELETE FROM job_log_heads WHERE job_id IN (VALUES", "(?)", ")"),
        Bulk::new("DELETE FROM job_progress WHERE job_id IN (VALUES", "(?)", ")"),
        Bulk::new("DELETE FROM checkpoints WHERE job_id IN (VALUES", "(?)", ")"),
    ];
    static ITEMS: Bulk = Bulk::new(
        "DELETE FROM workflow_items WHERE (workflow_id, ord, item) IN (VALUES",
        "(?, ?, ?)",
        ")",
    );
    let (mut gone, mut held, mut values) = (Vec::with_capacity(ids.len()), Vec::new(), Vec::new());
    let mut items = Vec::new();
    for row in &LOOK.fetch(tx.connection, ids, bind_id).await? {
        let mut c = Columns::of(row);
        let id = JobId::from_bytes(c.id()?);
        let changed_at = c.time()?;
        let item = (c.maybe_id()?, c.next::<Option<i64>>()?, c.next::<Option<i64>>()?);
        // It may have been redriven, and have ended again, since somebody looked.
        if matches!(cause, Cause::Old(before) if changed_at >= before) {
            continue;
        }
        gone.push(id);
        if let (Some(run), Some(ord), Some(item)) = item {
            items.push((run, ord, item));
        }
        let names: Result<(Namespace, QueueName), Fault> =
            c.parsed().and_then(|namespace| Ok((namespace, c.parsed()?)));
        // What cannot be read of an old job must not keep it for ever; its values go with age.
        let (namespace, queue) = match names {
            Ok(names) => names,
            Err(fault) => {
                unreadable::note("a job", &fault);
                continue;
            }
        };
        if let Some(key) = c.next::<Option<String>>()?.filter(|_| cause == Cause::Asked) {
            held.push(((namespace.clone(), queue, key), id));
        }
        for _ in 0..2 {
            values.extend(c.maybe_id()?.map(|value| (namespace.clone(), value)));
        }
    }
    for table in &DELETE {
        table.execute(tx.connection, &gone, bind_id).await?;
    }
    ITEMS
        .execute(tx.connection, &items, |args, (run, ord, item)| {
            args.add(run.as_slice()).add(*ord).add(*item);
        })
        .await?;
    for (key, id) in &held {
        holds::forget(tx.connection, key, *id).await?;
    }
    blobs::forget_unnamed(tx.connection, &values).await?;
    Ok(gone.len() as u64)
}

/// Deletes what is not a job and past its time, at most `limit` rows of each table; how many rows.
pub(super) async fn tidy(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let day_ago = tx.now.minus(IDEMPOTENCY_TTL);
    // A value may wait this long for the submission that names it.
    let unnamed_before = before.min(day_ago);
    let steps = [
        (
            "DELETE FROM idempotency WHERE (namespace, key) IN \
             (SELECT namespace, key FROM idempotency WHERE created_at < ? LIMIT ?)",
            day_ago,
        ),
        (
            "DELETE FROM holds WHERE (namespace, queue, unique_key) IN \
             (SELECT namespace, queue, unique_key FROM holds WHERE until < ? LIMIT ?)",
            tx.now,
        ),
        (
            "DELETE FROM blobs WHERE row IN (SELECT b.row FROM blobs b WHERE b.created_at < ? \
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE payload_blob = b.id) \
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE output_blob = b.id) \
             AND NOT EXISTS (SELECT 1 FROM workflows WHERE input_blob = b.id) \
             AND NOT EXISTS (SELECT 1 FROM workflows WHERE output_blob = b.id) LIMIT ?)",
            unnamed_before,
        ),
        (
            "DELETE FROM workers WHERE (namespace, id) IN \
             (SELECT namespace, id FROM workers WHERE seen_at < ? LIMIT ?)",
            before,
        ),
        (
            "DELETE FROM operations WHERE (namespace, id) IN \
             (SELECT namespace, id FROM operations WHERE finished_at < ? LIMIT ?)",
            // A repeat of the call that started it finds it by its key for that long.
            before.min(day_ago),
        ),
        (
            "DELETE FROM rollups WHERE (namespace, minute, queue, kind, outcome) IN \
             (SELECT namespace, minute, queue, kind, outcome FROM rollups WHERE minute < ? LIMIT ?)",
            before,
        ),
    ];
    let mut deleted = 0;
    for (sql, before) in steps {
        let args = Args::default().with(before.micros()).with(i64::from(limit));
        deleted += execute(tx.connection, sql, args).await?;
    }
    Ok(deleted)
}
