//! Submissions: decided in memory against what the tables hold, then written with a few wide statements.
//!
//! The writer is alone, so nothing changes between looking and writing. The decisions are [`plan`]'s; here is
//! what surrounds them.

use std::collections::{HashMap, HashSet};

use sqlx::sqlite::SqliteConnection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::fault::{Class, Fault};
use super::holds::{self, HoldKey};
use super::jobs::{Columns, bind_id};
use super::plan::{self, Found, KeyRow, Planned};
use super::quotas::Doors;
use super::statement::Bulk;
use super::writer::{Tx, release, roll_back, savepoint, undo};
use super::{Accepted, LedgerError, Refused, Submission, SubmitOutcome, orders, queues, shaping};
use crate::model::id::JobId;
use crate::model::job::NewJob;
use crate::model::name::Namespace;

/// A submission that waits for the writer.
pub(super) struct Submitting {
    pub(super) submission: Submission,
    pub(super) reply: oneshot::Sender<Result<SubmitOutcome, LedgerError>>,
    /// Its share of the rows that may wait.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// How a submission comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Through the door of its namespace.
    Door,
    /// Past it: it is promised already.
    Past,
}

/// Rows that the database refused when each was tried alone: (submission, job) and why.
pub(super) type Bad = HashMap<(usize, usize), String>;

/// Writes all that wait, together; if the database refuses that, without the rows that it refuses.
///
/// # Errors
/// Only where the transaction cannot go on.
pub(super) async fn write_all(
    tx: &mut Tx<'_>,
    waiting: &[Submitting],
) -> Result<Vec<Result<SubmitOutcome, Fault>>, Fault> {
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let all = waiting.iter().map(|w| &w.submission);
    let plain: Vec<&Submission> = all.clone().filter(|s| !shaping::is_shaped(s)).collect();
    if plain.len() == waiting.len() {
        return write_plain(tx, plain).await;
    }
    let mut written = write_plain(tx, plain).await?.into_iter();
    let mut results = Vec::with_capacity(waiting.len());
    for submission in all {
        results.push(if shaping::is_shaped(submission) {
            shaping::write(tx, submission).await?
        } else {
            written.next().expect("one result for each that is not shaped")
        });
    }
    Ok(results)
}

/// As [`write_all`], of those that are not shaped.
async fn write_plain(
    tx: &mut Tx<'_>,
    submissions: Vec<&Submission>,
) -> Result<Vec<Result<SubmitOutcome, Fault>>, Fault> {
    if submissions.is_empty() {
        return Ok(Vec::new());
    }
    if let Ok(outcomes) = alone(tx, &submissions, &Bad::new(), Way::Door).await? {
        return Ok(outcomes.into_iter().map(Ok).collect());
    }
    let bad = refused_rows(tx, &submissions).await?;
    if let Ok(outcomes) = alone(tx, &submissions, &bad, Way::Door).await? {
        return Ok(outcomes.into_iter().map(Ok).collect());
    }
    // Not a row of theirs, then: whoever is the reason is left alone with it.
    let mut results = Vec::with_capacity(submissions.len());
    for submission in submissions {
        let result = alone(tx, &[submission], &Bad::new(), Way::Door).await?;
        results.push(result.map(|mut outcomes| outcomes.remove(0)));
    }
    Ok(results)
}

/// Writes one job as part of a change that is more than a submission; a refusal leaves nothing of it.
///
/// # Errors
/// Not the job's fault; nothing of it is left either.
pub(super) async fn one(
    tx: &mut Tx<'_>,
    job: &NewJob,
) -> Result<std::result::Result<Accepted, Refused>, Fault> {
    let submission = Submission { jobs: vec![job.clone()], atomic: false, idempotency: None };
    let outcome = match alone(tx, &[&submission], &Bad::new(), Way::Past).await? {
        Ok(mut outcomes) => outcomes.pop(),
        Err(fault) if fault.class() == Class::Data => None,
        Err(fault) => return Err(fault),
    };
    match outcome {
        Some(SubmitOutcome::Done(mut results)) if results.len() == 1 => Ok(results.remove(0)),
        _ => Ok(Err(Refused::BadData(BAD_DATA.to_owned()))),
    }
}

/// What the caller is told of a row that the database does not take; its own words stay inside.
pub(super) const BAD_DATA: &str = "the ledger does not take this job's data";

/// Writes submissions, or nothing.
async fn alone(
    tx: &mut Tx<'_>,
    submissions: &[&Submission],
    bad: &Bad,
    way: Way,
) -> Result<Result<Vec<SubmitOutcome>, Fault>, Fault> {
    savepoint(tx).await?;
    let result = write(tx, submissions, bad, way).await;
    if let Err(fault) = &result {
        undo(tx, fault.clone()).await?;
    }
    release(tx).await?;
    Ok(result)
}

/// Decides and writes, all of it or up to the fault.
pub(super) async fn write(
    tx: &mut Tx<'_>,
    submissions: &[&Submission],
    bad: &Bad,
    way: Way,
) -> Result<Vec<SubmitOutcome>, Fault> {
    let mut found = look(tx, submissions).await?;
    if way == Way::Door {
        found.doors = Doors::of(tx, submissions).await?;
    }
    let mut plan = plan::plan(tx.now, submissions, found, bad);
    let mut seen = HashSet::new();
    for row in &plan.rows {
        let queue = (&row.job.namespace, &row.job.queue);
        if seen.insert(queue) {
            queues::ensure_allowed(tx, queue.0, queue.1).await?;
        }
    }
    insert(tx.connection, &plan.rows).await?;
    holds::take(tx.connection, &plan.holds).await?;
    for (replaced, by) in &plan.replaced {
        holds::cancel_replaced(tx, *replaced, *by).await?;
    }
    keep_keys(tx, &plan.keys).await?;
    plan.doors.write(tx).await?;
    orders::settle(tx.connection, plan.rows.iter_mut().map(|row| &mut row.job)).await?;
    Ok(plan.outcomes())
}

/// Reads what the decisions need: used keys, held keys, and which jobs of used keys are still there.
pub(super) async fn look(tx: &mut Tx<'_>, submissions: &[&Submission]) -> Result<Found, Fault> {
    let keys = look_up_keys(tx.connection, submissions).await?;
    let named: Vec<JobId> =
        keys.values().flat_map(|key| key.ids.iter().flatten().copied()).collect();
    let wanted: Vec<HoldKey> = submissions
        .iter()
        .flat_map(|submission| &submission.jobs)
        .filter_map(|job| {
            let unique = job.unique.as_ref()?;
            Some((job.namespace.clone(), job.queue.clone(), unique.key.clone()))
        })
        .collect();
    let holds = holds::look_up(tx.connection, &wanted).await?;
    let queues = submissions.iter().flat_map(|s| &s.jobs).map(|job| (&job.namespace, &job.queue));
    let closed = queues::without_room(tx, queues).await?;
    let existing = existing(tx.connection, &named).await?;
    Ok(Found { keys, holds, existing, closed, doors: Doors::default() })
}

async fn look_up_keys(
    connection: &mut SqliteConnection,
    submissions: &[&Submission],
) -> Result<HashMap<(Namespace, String), KeyRow>, Fault> {
    static KEYS: Bulk = Bulk::new(
        "SELECT namespace, key, body_hash, ids, created_at FROM idempotency \
         WHERE (namespace, key) IN (VALUES",
        "(?, ?)",
        ")",
    );
    let wanted: Vec<(&Namespace, &str)> = submissions
        .iter()
        .filter_map(|submission| {
            let key = submission.idempotency.as_ref()?;
            Some((&submission.jobs.first()?.namespace, key.key.as_str()))
        })
        .collect();
    let found = KEYS
        .fetch(connection, &wanted, |args, (namespace, key)| {
            args.add(namespace.as_str()).add(*key);
        })
        .await?;
    let mut keys = HashMap::with_capacity(found.len());
    for row in &found {
        let mut c = Columns::of(row);
        let at = (c.parsed()?, c.next()?);
        let hash: &[u8] = c.next()?;
        let body_hash = hash.try_into().map_err(|_| Fault::unreadable("a body's hash"))?;
        let ids = plan::unpack(c.next()?);
        keys.insert(at, KeyRow { body_hash, ids, created_at: c.time()? });
    }
    Ok(keys)
}

async fn existing(
    connection: &mut SqliteConnection,
    ids: &[JobId],
) -> Result<HashSet<JobId>, Fault> {
    static EXISTING: Bulk = Bulk::new("SELECT id FROM jobs WHERE id IN (VALUES", "(?)", ")");
    let found = EXISTING.fetch(connection, ids, bind_id).await?;
    found.iter().map(|row| Ok(JobId::from_bytes(Columns::of(row).id()?))).collect()
}

/// Inserts rows.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    rows: &[Planned],
) -> Result<(), Fault> {
    static INSERT: Bulk = Bulk::new(
        "INSERT INTO jobs (id, state, fence, namespace, queue, kind, unique_key, unique_until, \
         run_at, created_at, changed_at, expires_at, priority, tags, request_id, traceparent, \
         meta, spec, payload_blob, payload, order_key, flow_group) VALUES",
        "(?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    );
    INSERT.execute(connection, rows, Planned::bind).await?;
    Ok(())
}

/// Notes what idempotency keys stand for from now on.
pub(super) async fn keep_keys(
    tx: &mut Tx<'_>,
    keys: &[((Namespace, String), KeyRow)],
) -> Result<(), Fault> {
    static KEEP: Bulk = Bulk::new(
        "INSERT INTO idempotency (namespace, key, body_hash, ids, created_at) VALUES",
        "(?, ?, ?, ?, ?)",
        "ON CONFLICT DO UPDATE SET body_hash = excluded.body_hash, ids = excluded.ids, \
         created_at = excluded.created_at",
    );
    KEEP.execute(tx.connection, keys, |args, ((namespace, key), row)| {
        args.add(namespace.as_str())
            .add(key.as_str())
            .add(row.body_hash.as_slice())
            .add(plan::pack(&row.ids))
            .add(row.created_at.micros());
    })
    .await?;
    Ok(())
}

/// Tries every row by itself and notes those that the database refuses; keeps none.
async fn refused_rows(tx: &mut Tx<'_>, submissions: &[&Submission]) -> Result<Bad, Fault> {
    let mut bad = Bad::new();
    savepoint(tx).await?;
    for (s, submission) in submissions.iter().enumerate() {
        for (j, job) in submission.jobs.iter().enumerate() {
            let row = Planned::new(tx.now, job, &mut plan::Specs::default());
            savepoint(tx).await?;
            if let Err(fault) = insert(tx.connection, std::slice::from_ref(&row)).await {
                bad.insert((s, j), BAD_DATA.to_owned());
                undo(tx, fault).await?;
            }
            release(tx).await?;
        }
    }
    roll_back(tx).await?;
    release(tx).await?;
    Ok(bad)
}
