//! Submissions with a transaction of their own: large ones, atomic ones, and those whose keys need a
//! second look. Row by row where a row asks for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::bounds::exchange;
use super::error::{is_collision, is_lost, unchanged};
use super::insert::{Made, accepted, unpack_ids};
use super::own_rows::Rows;
use super::quotas::{Doors, Limited};
use super::unknown::{Backend, committed};
use super::write_queue::Pending;
use super::{Inner, LedgerError, Result, series};
use crate::ledger::{Accepted, Idempotency, Refused, Submission, SubmitOutcome};
use crate::limits::IDEMPOTENCY_TTL;
use crate::model::id::JobId;
use crate::model::name::{Namespace, QueueName};

/// Tries of one transaction: after a lost connection that committed nothing, or a deadlock.
const TRIES_MAX: u32 = 6;
/// As the writer's, for the whole transaction and for its commit.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Whether a submission has to pass the door of its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Ask,
    /// It has, as a whole, with the part that is in.
    Passed,
}

/// Carries out a submission in a task that nobody cancels, and answers it.
pub(super) fn spawn(inner: &Arc<Inner>, pending: Pending) {
    let task_inner = Arc::clone(inner);
    inner.tasks.spawn(async move {
        let outcome = commit(&task_inner, &pending.submission, &pending.closed, Door::Ask).await;
        pending.answer(outcome);
    });
}

/// As [`spawn`], for a submission of which a group commit has brought in the jobs in `made`.
pub(super) fn spawn_rest(inner: &Arc<Inner>, mut pending: Pending, made: &Made) {
    let jobs = std::mem::take(&mut pending.submission.jobs);
    let entries: Vec<_> = jobs.iter().map(|j| made.get(&j.id.uuid()).copied()).collect();
    let task_inner = Arc::clone(inner);
    inner.tasks.spawn(async move {
        let left = jobs.iter().zip(&entries).filter(|(_, entry)| entry.is_none());
        let rest = Submission {
            jobs: left.map(|(job, _)| job.clone()).collect(),
            atomic: pending.submission.atomic,
            idempotency: pending.submission.idempotency.clone(),
        };
        let door = if rest.jobs.len() < jobs.len() { Door::Passed } else { Door::Ask };
        let rest = match commit(&task_inner, &rest, &pending.closed, door).await {
            Ok(SubmitOutcome::Done(results)) => results,
            // What is committed is said, always: the caller would submit it again.
            Err(error) if rest.jobs.len() < jobs.len() => {
                let refused = refused_by(&error);
                rest.jobs.iter().map(|_| Err(refused.clone())).collect()
            }
            other => return pending.answer(other),
        };
        let mut rest = rest.into_iter();
        let results = jobs.into_iter().zip(entries).map(|(job, entry)| match entry {
            Some(entry) => Ok(Accepted::New(accepted(job, entry))),
            None => rest.next().expect("one result for each job that was left"),
        });
        let outcome = SubmitOutcome::Done(results.collect());
        pending.answer(Ok(outcome));
    });
}

/// What is said of the jobs that were left when their transaction failed.
fn refused_by(error: &LedgerError) -> Refused {
    match error {
        LedgerError::OutcomeUnknown => Refused::OutcomeUnknown,
        LedgerError::TooManyQueues => Refused::TooManyQueues,
        LedgerError::Unavailable(cause) | LedgerError::Failed(cause) => {
            tracing::warn!(error = %cause, "the rest of a submission was not committed");
            Refused::Unavailable
        }
        LedgerError::Overloaded | LedgerError::Schema(_) | LedgerError::Unfit(_) => {
            Refused::Unavailable
        }
    }
}

/// How far a transaction got.
enum Prepared {
    /// There is nothing to commit.
    Answered(SubmitOutcome),
    /// True once it is committed.
    Ready(SubmitOutcome),
}

/// Runs the transaction until it is known what became of it.
async fn commit(
    inner: &Inner,
    submission: &Submission,
    closed: &HashSet<QueueName>,
    door: Door,
) -> Result<SubmitOutcome> {
    let started = Instant::now();
    for _ in 0..TRIES_MAX {
        // What took so long once takes as long again, and holds one of few connections meanwhile.
        if started.elapsed() >= SILENCE_MAX {
            let text = "the submission took too long; send it in smaller parts";
            return Err(LedgerError::Unavailable(text.into()));
        }
        let mut connection = inner.own.acquire().await.map_err(unchanged)?;
        let backend = exchange(inner.silence, Backend::of(&mut connection)).await;
        let backend = backend.map_err(unchanged)?;
        let limited = Some(&inner.limited).filter(|_| door == Door::Ask);
        let (error, ready) = match attempt(&mut connection, submission, closed, limited).await {
            Ok(outcome) => return Ok(outcome),
            Err(failed) => failed,
        };
        if is_collision(&error) {
            continue;
        }
        if !is_lost(&error) {
            return Err(unchanged(error));
        }
        // Given up, not given back: nobody else is to find what is left on it.
        drop(connection.detach());
        let Some(mut fresh) = backend.outlive(&inner.options).await else {
            return Err(LedgerError::OutcomeUnknown);
        };
        let Some(outcome) = ready else { continue };
        match exchange(inner.silence, is_committed(&mut fresh, submission, &outcome)).await {
            Ok(Some(false)) => {}
            Ok(Some(true)) => return Ok(outcome),
            Ok(None) | Err(_) => return Err(LedgerError::OutcomeUnknown),
        }
    }
    Err(LedgerError::Unavailable("no try of a transaction came through".into()))
}

type Failed = (sqlx::Error, Option<SubmitOutcome>);

/// One try. An error comes with the outcome that holds in case the commit, which was sent, went through.
async fn attempt(
    connection: &mut PgConnection,
    submission: &Submission,
    closed: &HashSet<QueueName>,
    limited: Option<&Limited>,
) -> Result<SubmitOutcome, Failed> {
    let beginning = exchange(SILENCE_MAX, connection.begin());
    let mut transaction = beginning.await.map_err(|e| (e, None))?;
    let preparing = exchange(SILENCE_MAX, prepare(&mut transaction, submission, closed, limited));
    let prepared = preparing.await.map_err(|e| (e, None))?;
    match prepared {
        Prepared::Answered(outcome) => {
            exchange(SILENCE_MAX, transaction.rollback()).await.map_err(|e| (e, None))?;
            Ok(outcome)
        }
        Prepared::Ready(outcome) => match exchange(SILENCE_MAX, transaction.commit()).await {
            Ok(()) => Ok(outcome),
            Err(error) => Err((error, Some(outcome))),
        },
    }
}

/// Whether a transaction was committed with this outcome; `None`: nothing is left to tell it by.
async fn is_committed(
    connection: &mut PgConnection,
    submission: &Submission,
    outcome: &SubmitOutcome,
) -> Result<Option<bool>, sqlx::Error> {
    let SubmitOutcome::Done(results) = outcome else { return Ok(Some(false)) };
    let new = results.iter().flatten().filter_map(Accepted::new_id).map(JobId::uuid);
    let new: Vec<Uuid> = new.collect();
    if new.is_empty() {
        return series::kept(connection, submission, results).await;
    }
    Ok(Some(!committed(connection, &new).await?.is_empty()))
}

/// Everything but the commit.
async fn prepare(
    connection: &mut PgConnection,
    submission: &Submission,
    closed: &HashSet<QueueName>,
    limited: Option<&Limited>,
) -> Result<Prepared, sqlx::Error> {
    let sql = "SELECT set_config('statement_timeout', '30s', true)";
    sqlx::query(sql).execute(&mut *connection).await?;
    let namespace = submission.jobs.first().map(|job| &job.namespace);
    let doors = namespace.into_iter().filter(|name| limited.is_some_and(|l| l.has(name)));
    let mut doors = Doors::lock(connection, &doors.collect()).await?;
    let key = namespace.zip(submission.idempotency.as_ref());
    if let Some((namespace, idempotency)) = key
        && let Some(outcome) = replay(connection, namespace, idempotency).await?
    {
        return Ok(Prepared::Answered(outcome));
    }
    let mut rows = Rows::new(&mut *connection, &submission.jobs, closed);
    rows.insert_all().await?;
    let results = rows.results();
    if submission.atomic && results.iter().any(Result::is_err) {
        return Ok(Prepared::Answered(SubmitOutcome::Done(refuse_all(results))));
    }
    // Nothing accepted, nothing kept: the key is not spent either.
    if results.iter().all(Result::is_err) {
        return Ok(Prepared::Answered(SubmitOutcome::Done(results)));
    }
    if results.iter().flatten().any(Accepted::brings_in) {
        let jobs: Vec<_> = submission.jobs.iter().collect();
        let admitted = doors.admit(connection, &jobs).await?;
        limited.into_iter().for_each(|limited| doors.note(limited));
        if let Err(exceeded) = admitted {
            return Ok(Prepared::Answered(SubmitOutcome::OverQuota(exceeded)));
        }
    }
    if let Some((namespace, idempotency)) = key {
        let id_of = |accepted: &Accepted| accepted.id().uuid();
        let ids = super::insert::pack_ids(results.iter().map(|r| r.as_ref().ok().map(id_of)));
        let sql = "UPDATE idempotency SET ids = $3 WHERE namespace = $1 AND key = $2";
        let query = sqlx::query(sql).bind(namespace.as_str()).bind(&idempotency.key).bind(ids);
        query.execute(&mut *connection).await?;
    }
    Ok(Prepared::Ready(SubmitOutcome::Done(results)))
}

/// What the caller of an atomic submission is told when a part was refused.
fn refuse_all(results: Vec<Result<Accepted, Refused>>) -> Vec<Result<Accepted, Refused>> {
    results.into_iter().map(|result| result.and(Err(Refused::Batch))).collect()
}

/// Takes the key for this transaction; the earlier answer where it is spent.
async fn replay(
    connection: &mut PgConnection,
    namespace: &Namespace,
    idempotency: &Idempotency,
) -> Result<Option<SubmitOutcome>, sqlx::Error> {
    let ids = match take_key(connection, namespace, idempotency, &[]).await? {
        Taken::Ours => return Ok(None),
        Taken::OtherBody => return Ok(Some(SubmitOutcome::KeyReused)),
        Taken::Spent(ids) => ids,
    };
    let accepted: Vec<Uuid> = ids.iter().copied().flatten().collect();
    let found: HashMap<_, _> = committed(connection, &accepted).await?;
    let known = |id: Uuid| found.contains_key(&id).then(|| JobId::from_uuid(id));
    let ids = ids.into_iter().map(|id| id.and_then(known)).collect();
    Ok(Some(SubmitOutcome::Replayed(ids)))
}

/// What became of a caller's key.
pub(super) enum Taken {
    /// It stands for what this transaction brings in.
    Ours,
    /// It was used before with the same body, for these.
    Spent(Vec<Option<Uuid>>),
    /// It was used before with another body.
    OtherBody,
}

/// Takes a key for this transaction, to stand for `ids` ([`super::insert::pack_ids`]).
pub(super) async fn take_key(
    connection: &mut PgConnection,
    namespace: &Namespace,
    idempotency: &Idempotency,
    ids: &[u8],
) -> Result<Taken, sqlx::Error> {
    let sql = "
        INSERT INTO idempotency (namespace, key, body_hash, ids, created_at)
        VALUES ($1, $2, $3, $5, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
        ON CONFLICT (namespace, key) DO UPDATE
            SET body_hash = EXCLUDED.body_hash, ids = EXCLUDED.ids, created_at = EXCLUDED.created_at
            WHERE idempotency.created_at <= EXCLUDED.created_at - $4
        RETURNING key";
    let taken = sqlx::query(sql)
        .bind(namespace.as_str())
        .bind(&idempotency.key)
        .bind(&idempotency.body_hash[..])
        .bind(i64::try_from(IDEMPOTENCY_TTL.as_micros()).unwrap_or(i64::MAX))
        .bind(ids)
        .fetch_optional(&mut *connection)
        .await?;
    if taken.is_some() {
        return Ok(Taken::Ours);
    }
    // The row is locked by the statement above, so it is still there.
    let sql = "SELECT body_hash, ids FROM idempotency WHERE namespace = $1 AND key = $2";
    let query = sqlx::query_as(sql).bind(namespace.as_str()).bind(&idempotency.key);
    let (body_hash, ids): (Vec<u8>, Vec<u8>) = query.fetch_one(&mut *connection).await?;
    if body_hash != idempotency.body_hash {
        return Ok(Taken::OtherBody);
    }
    Ok(Taken::Spent(unpack_ids(&ids)))
}
