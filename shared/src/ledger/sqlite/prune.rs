//! Forgetting: one job on request, and in bounded batches whatever is past its time.

use sqlx::sqlite::SqliteConnection;

use super::blobs::unnamed;
use super::fault::Fault;
use super::jobs::{Columns, bind_id};
use super::statement::{Args, Bulk, execute, rows};
use super::writer::Tx;
use super::{blobs, holds};
use crate::ledger::retention::{Aged, Tidy};
use crate::ledger::unreadable;
use crate::model::id::JobId;
use crate::model::job::JobState;
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

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
    let (named, included) = aged.whose.parts();
    let (mut ids, mut last, mut at_end): (_, Option<JobId>, _) = (Vec::new(), None, false);
    // First as many as may be deleted: where all are old, no more are looked at.
    for most in [limit.min(SCAN_MAX), SCAN_MAX] {
        let from = last.or(after).map_or([0; 16], |id| *id.as_bytes());
        let args = Args::default().with(from.as_slice()).with(aged.end().as_bytes().as_slice());
        let found = rows(connection, sql, args.with(most)).await?;
        let mut looked = 0;
        for row in &found {
            if ids.len() >= limit as usize {
                break;
            }
            let mut c = Columns::of(row);
            let id = JobId::from_bytes(c.id()?);
            (last, looked) = (Some(id), looked + 1);
            let (state, changed_at): (i64, Timestamp) = (c.next()?, c.time()?);
            let (of_run, namespace): (bool, &str) = (c.next()?, c.next()?);
            let of_state = |one: &JobState| one.is_terminal() && i64::from(*one as i16) == state;
            let is_old = changed_at < aged.before && aged.states.iter().any(of_state);
            if is_old && !of_run && named.contains(&namespace) == included {
                ids.push(id);
            }
        }
        at_end = looked == found.len() && found.len() < most as usize;
        if at_end || ids.len() >= limit as usize {
            break;
        }
    }
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

/// Values looked at by one call.
const VALUES_LOOKED_AT: u32 = 5_000;
/// Values deleted by one call: each may have many pages.
const VALUES_MAX: usize = 100;

/// A place among values, by age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ValuePlace(i64, i64);

/// What no index leads to, or what only a look at many rows finds.
#[derive(Default)]
pub(super) struct Strays {
    /// Rows of values that nobody names.
    values: Vec<i64>,
    /// The last value that was looked at; the next call goes on behind it. At the end it begins anew.
    pub(super) values_at: ValuePlace,
    workers: Vec<(String, Vec<u8>)>,
    operations: Vec<(String, Vec<u8>)>,
}

/// Looks for old values that nobody names, behind `after`, and for workers and operations that are past their time, at
/// most `limit` of each. Reads only, however far it must look, so that the writer is not kept from its work.
pub(super) async fn strays(
    connection: &mut SqliteConnection,
    tidy: Tidy,
    after: ValuePlace,
    limit: u32,
) -> Result<Strays, Fault> {
    let mut strays = Strays::default();
    let sql = concat!(
        "SELECT b.row, b.created_at, ",
        unnamed!("b"),
        " FROM blobs b WHERE b.created_at < ?1 AND b.created_at >= ?2 \
         AND (b.created_at, b.row) > (?2, ?3) ORDER BY b.created_at, b.row LIMIT ?4"
    );
    // A value may wait this long for the submission that names it.
    let args = Args::default().with(tidy.keyed_before().micros()).with(after.0).with(after.1);
    let found = rows(connection, sql, args.with(VALUES_LOOKED_AT)).await?;
    let mut looked = 0;
    for value in &found {
        if strays.values.len() >= VALUES_MAX.min(limit as usize) {
            break;
        }
        let mut c = Columns::of(value);
        let (row, created_at): (i64, i64) = (c.next()?, c.next()?);
        (strays.values_at, looked) = (ValuePlace(created_at, row), looked + 1);
        if c.next()? {
            strays.values.push(row);
        }
    }
    if looked == found.len() && found.len() < VALUES_LOOKED_AT as usize {
        strays.values_at = ValuePlace::default();
    }
    for (sql, before, into) in [
        (
            "SELECT namespace, id FROM workers WHERE seen_at < ? LIMIT ?",
            tidy.before,
            &mut strays.workers,
        ),
        (
            "SELECT namespace, id FROM operations WHERE finished_at < ? LIMIT ?",
            tidy.keyed_before(),
            &mut strays.operations,
        ),
    ] {
        let args = Args::default().with(before.micros()).with(limit);
        for row in &rows(connection, sql, args).await? {
            let mut c = Columns::of(row);
            into.push((c.next()?, c.next()?));
        }
    }
    Ok(strays)
}

/// Deletes what is neither a job nor a run and past its time: what was found, if it is so still, and of the tables whose
/// rows are found by age at most `limit` each; how many rows.
pub(super) async fn tidy(
    tx: &mut Tx<'_>,
    tidy: Tidy,
    strays: &Strays,
    limit: u32,
) -> Result<u64, Fault> {
    static VALUES: Bulk = Bulk::new(
        concat!("DELETE FROM blobs WHERE ", unnamed!("blobs"), " AND row IN (VALUES"),
        "(?)",
        ")",
    );
    // Each row brings the time with it: it is the same for all.
    static WORKERS: Bulk = Bulk::new(
        "WITH v (namespace, id, before) AS (VALUES",
        "(?, ?, ?)",
        ") DELETE FROM workers WHERE (namespace, id) IN (SELECT namespace, id FROM v) \
         AND seen_at < (SELECT before FROM v LIMIT 1)",
    );
    static OPERATIONS: Bulk = Bulk::new(
        "WITH v (namespace, id, before) AS (VALUES",
        "(?, ?, ?)",
        ") DELETE FROM operations WHERE (namespace, id) IN (SELECT namespace, id FROM v) \
         AND finished_at < (SELECT before FROM v LIMIT 1)",
    );
    let mut deleted = VALUES
        .execute(tx.connection, &strays.values, |args, row| {
            args.add(*row);
        })
        .await?;
    for (table, keys, before) in [
        (&WORKERS, &strays.workers, tidy.before),
        (&OPERATIONS, &strays.operations, tidy.keyed_before()),
    ] {
        deleted += table
            .execute(tx.connection, keys, |args, (namespace, id)| {
                args.add(namespace.as_str()).add(id.as_slice()).add(before.micros());
            })
            .await?;
    }
    for (sql, before) in [
        (
            "DELETE FROM idempotency WHERE (namespace, key) IN \
             (SELECT namespace, key FROM idempotency WHERE created_at < ? LIMIT ?)",
            tidy.keys_before(),
        ),
        (
            "DELETE FROM holds WHERE (namespace, queue, unique_key) IN \
             (SELECT namespace, queue, unique_key FROM holds WHERE until < ? LIMIT ?)",
            tidy.now,
        ),
        (
            // Their time has passed: the key has all of its rate again.
            "DELETE FROM throttles WHERE (namespace, queue, key) IN \
             (SELECT namespace, queue, key FROM throttles WHERE free_at < ? LIMIT ?)",
            tidy.now,
        ),
        (
            "DELETE FROM rollups WHERE (namespace, minute, queue, kind, outcome) IN \
             (SELECT namespace, minute, queue, kind, outcome FROM rollups WHERE minute < ? LIMIT ?)",
            tidy.before,
        ),
    ] {
        let args = Args::default().with(before.micros()).with(i64::from(limit));
        deleted += execute(tx.connection, sql, args).await?;
    }
    Ok(deleted)
}
