//! Queues and their settings.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool};

use super::circuits::set_for;
use super::error::{after_write, unchanged};
use super::row::{get, int8, json, parse, time, to_json, unsigned};
use super::{Inner, LedgerError, Result};
use crate::ledger::circuits::SharedCircuits;
use crate::ledger::unreadable::readable;
use crate::ledger::{Paused, Queue, QueueCursor, QueuePage, QueueSettings, Submission};
use crate::limits::QUEUES_PER_NAMESPACE_MAX;
use crate::model::name::{Namespace, QueueName};

/// Most queues that a process remembers to exist.
const KNOWN_MAX: usize = 50_000;

/// Queues that are known to exist, so that submissions need not name them. None is ever deleted.
#[derive(Default)]
pub(super) struct KnownQueues {
    known: Mutex<HashSet<(Namespace, QueueName)>>,
}

impl KnownQueues {
    fn known(&self) -> MutexGuard<'_, HashSet<(Namespace, QueueName)>> {
        self.known.lock().expect("no holder of this lock panics")
    }

    /// Whether none of a submission's queues may have to be made.
    pub(super) fn has_all_of(&self, submission: &Submission) -> bool {
        let queues = submission.jobs.iter().map(|job| (&job.namespace, &job.queue)).collect();
        self.unknown(queues).is_empty()
    }

    /// Those that may have to be made.
    pub(super) fn unknown<'a>(
        &self,
        queues: HashSet<(&'a Namespace, &'a QueueName)>,
    ) -> Vec<(&'a Namespace, &'a QueueName)> {
        let known = self.known();
        let is_new =
            |(n, q): &(&Namespace, &QueueName)| !known.contains(&((*n).clone(), (*q).clone()));
        queues.into_iter().filter(is_new).collect()
    }

    /// Notes queues whose making is committed. Over the bound it starts anew.
    pub(super) fn add(&self, queues: Vec<(Namespace, QueueName)>) {
        if queues.is_empty() {
            return;
        }
        let mut known = self.known();
        if known.len() + queues.len() > KNOWN_MAX {
            known.clear();
        }
        known.extend(queues);
    }
}

macro_rules! returning_queue {
    ($sql:literal) => {
        concat!($sql, " RETURNING namespace, name, settings, version, paused, created_at")
    };
}

fn queue_of(row: &PgRow) -> Result<Queue> {
    let paused: Option<&str> = get(row, 4)?;
    Ok(Queue {
        namespace: parse(row, 0, "namespace")?,
        name: parse(row, 1, "name")?,
        settings: json(get(row, 2)?, "settings")?,
        version: unsigned(row, 3, "version")?,
        circuits: SharedCircuits::default(),
        paused: paused.map(|text| json(text, "paused")).transpose()?,
        created_at: time(row, 5)?,
    })
}

pub(super) async fn queue(
    pool: &PgPool,
    namespace: &Namespace,
    name: &QueueName,
) -> Result<Option<Queue>> {
    let sql = "SELECT namespace, name, settings, version, paused, created_at FROM queues \
               WHERE namespace = $1 AND name = $2";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    match query.fetch_optional(pool).await.map_err(unchanged)? {
        Some(row) => given(pool, queue_of(&row)?).await.map(Some),
        None => Ok(None),
    }
}

/// With what is set of its circuits.
async fn given(pool: &PgPool, queue: Queue) -> Result<Queue> {
    let mut queues = Box::pin(give(pool, vec![queue])).await?;
    Ok(queues.remove(0))
}

/// Gives queues what is set of the circuits of their namespaces. Where anything is, both are read once more, as of one
/// moment: see [`Queue::shard_version`].
async fn give(pool: &PgPool, mut queues: Vec<Queue>) -> Result<Vec<Queue>> {
    if set_for(pool, &queues).await?.is_none() {
        return Ok(queues);
    }
    let sql = "SELECT namespace, name, settings, version, paused, created_at FROM queues \
               WHERE (namespace, name) IN (SELECT * FROM unnest($1::text[], $2::text[]))";
    let mut moment = pool.begin().await.map_err(unchanged)?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *moment)
        .await
        .map_err(unchanged)?;
    let namespaces: Vec<&str> = queues.iter().map(|queue| queue.namespace.as_str()).collect();
    let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    let query = sqlx::query(sql).bind(namespaces).bind(names);
    let rows = query.fetch_all(&mut *moment).await.map_err(unchanged)?;
    let circuits = set_for(&mut *moment, &queues).await?.unwrap_or_default();
    moment.commit().await.map_err(unchanged)?;
    let seen = readable("a queue", &rows, queue_of).into_iter();
    let mut seen: HashMap<_, _> =
        seen.map(|queue| ((queue.namespace.clone(), queue.name.clone()), queue)).collect();
    for queue in &mut queues {
        let key = (queue.namespace.clone(), queue.name.clone());
        let circuits = circuits.get(&queue.namespace).cloned().unwrap_or_default();
        // Queues are never deleted.
        if let Some(seen) = seen.remove(&key) {
            *queue = Queue { circuits, ..seen };
        }
    }
    Ok(queues)
}

pub(super) async fn page(
    pool: &PgPool,
    namespace: Option<&Namespace>,
    after: Option<&QueueCursor>,
    limit: u32,
) -> Result<QueuePage> {
    const OF_ONE: &str = "SELECT namespace, name, settings, version, paused, created_at FROM queues \
         WHERE namespace COLLATE \"C\" = $1 AND name COLLATE \"C\" > $2 \
         ORDER BY namespace COLLATE \"C\", name COLLATE \"C\" LIMIT $3";
    const OF_ALL: &str = "SELECT namespace, name, settings, version, paused, created_at FROM queues \
         WHERE (namespace COLLATE \"C\", name COLLATE \"C\") > ($1, $2) \
         ORDER BY namespace COLLATE \"C\", name COLLATE \"C\" LIMIT $3";
    let after = after.map_or(("", ""), |after| (after.namespace.as_str(), after.name.as_str()));
    let query = match namespace {
        Some(namespace) => sqlx::query(OF_ONE).bind(namespace.as_str()),
        None => sqlx::query(OF_ALL).bind(after.0),
    };
    let query = query.bind(after.1).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    let is_full = u32::try_from(rows.len()).is_ok_and(|len| len >= limit);
    let last = rows.last().filter(|_| is_full);
    let next = last.map(cursor).transpose()?;
    let queues = Box::pin(give(pool, readable("a queue", &rows, queue_of))).await?;
    Ok(QueuePage { queues, next })
}

fn cursor(row: &PgRow) -> Result<QueueCursor> {
    Ok(QueueCursor { namespace: get(row, 0)?, name: get(row, 1)? })
}

/// The queues of a submission that do not exist, and for which its namespace has no room.
pub(super) async fn closed_to(
    inner: &Inner,
    submission: &Submission,
) -> Result<HashSet<QueueName>> {
    let queues = submission.jobs.iter().map(|job| (&job.namespace, &job.queue)).collect();
    let unknown = inner.known_queues.unknown(queues);
    // A submission is of one namespace.
    let Some((namespace, _)) = unknown.first().copied() else { return Ok(HashSet::new()) };
    let names: Vec<&str> = unknown.iter().map(|(_, name)| name.as_str()).collect();
    let sql = "SELECT w.name FROM unnest($2::text[]) AS w(name) WHERE NOT EXISTS \
                   (SELECT FROM queues q WHERE q.namespace = $1 AND q.name = w.name) ORDER BY w.name";
    let query = sqlx::query_scalar(sql).bind(namespace.as_str()).bind(names);
    let new: Vec<String> = query.fetch_all(&inner.pool).await.map_err(unchanged)?;
    if new.is_empty() {
        let known = unknown.iter().map(|(n, q)| ((*n).clone(), (*q).clone()));
        inner.known_queues.add(known.collect());
        return Ok(HashSet::new());
    }
    let sql = "SELECT count(*) FROM (SELECT FROM queues WHERE namespace = $1 LIMIT $2) q";
    let most = int8(QUEUES_PER_NAMESPACE_MAX);
    let query = sqlx::query_scalar(sql).bind(namespace.as_str()).bind(most);
    let there: i64 = query.fetch_one(&inner.pool).await.map_err(unchanged)?;
    let room = usize::try_from(most - there).unwrap_or(0);
    let over: HashSet<&str> = new.iter().skip(room).map(String::as_str).collect();
    let closed = unknown.iter().filter(|(_, name)| over.contains(name.as_str()));
    Ok(closed.map(|(_, name)| (*name).clone()).collect())
}

pub(super) async fn set_queue(
    pool: &PgPool,
    namespace: &Namespace,
    name: &QueueName,
    seen: Option<u64>,
    settings: &QueueSettings,
) -> Result<Option<Queue>> {
    // One that has just been made has version 1, whoever made it, and no settings to lose.
    let sql = returning_queue!(
        "UPDATE queues AS q SET settings = $3, version = q.version + 1 \
         WHERE namespace = $1 AND name = $2 AND ($4::bigint IS NULL OR version = greatest($4, 1))"
    );
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    let query = query.bind(to_json(settings)?).bind(seen.map(int8));
    let mut connection = pool.acquire().await.map_err(unchanged)?;
    if !make(&mut connection, namespace, name).await.map_err(after_write)? {
        return Err(LedgerError::TooManyQueues);
    }
    let found = query.fetch_optional(&mut *connection).await.map_err(after_write)?;
    // Not while a connection is held: others may hold the rest of the pool, and want one more too.
    drop(connection);
    match found {
        Some(row) => changed(pool, &row).await.map(Some),
        None => Ok(None),
    }
}

/// A queue that has just been changed.
async fn changed(pool: &PgPool, row: &PgRow) -> Result<Queue> {
    given(pool, queue_of(row)?).await.map_err(|_| LedgerError::OutcomeUnknown)
}

pub(super) async fn set_paused(
    pool: &PgPool,
    namespace: &Namespace,
    name: &QueueName,
    paused: Option<&Paused>,
) -> Result<Queue> {
    let sql = returning_queue!(
        "INSERT INTO queues AS q (namespace, name, paused, created_at) \
         VALUES ($1, $2, $3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
         ON CONFLICT (namespace, name) DO UPDATE \
             SET paused = EXCLUDED.paused, version = q.version + 1"
    );
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    let query = query.bind(paused.map(to_json).transpose()?);
    let mut connection = pool.acquire().await.map_err(unchanged)?;
    if !make(&mut connection, namespace, name).await.map_err(after_write)? {
        return Err(LedgerError::TooManyQueues);
    }
    let row = query.fetch_one(&mut *connection).await.map_err(after_write)?;
    drop(connection);
    changed(pool, &row).await
}

/// Makes a queue if need be, perhaps as part of a transaction; `false`: there is no room for it.
pub(super) async fn make(
    connection: &mut PgConnection,
    namespace: &Namespace,
    name: &QueueName,
) -> Result<bool, sqlx::Error> {
    let sql = "SELECT EXISTS (SELECT FROM queues WHERE namespace = $1 AND name = $2)";
    let query = sqlx::query_scalar(sql).bind(namespace.as_str()).bind(name.as_str());
    if query.fetch_one(&mut *connection).await? {
        return Ok(true);
    }
    let sql = "INSERT INTO queues AS q (namespace, name, created_at) \
               SELECT $1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
               WHERE (SELECT count(*) FROM (SELECT FROM queues WHERE namespace = $1 LIMIT $3) n) < $3 \
               ON CONFLICT (namespace, name) DO UPDATE SET name = q.name";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    let made = query.bind(int8(QUEUES_PER_NAMESPACE_MAX)).execute(connection).await?;
    Ok(made.rows_affected() > 0)
}
