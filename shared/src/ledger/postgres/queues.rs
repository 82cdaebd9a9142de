//! Queues and their settings.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool};

use super::Result;
use super::error::{after_write, unchanged};
use super::row::{get, json, parse, time, to_json, unsigned};
use crate::ledger::{Paused, Queue, QueueSettings};
use crate::model::name::{Namespace, QueueName};

/// Most queues of one answer.
const QUEUES_MAX: i64 = 10_000;
/// Most queues that a process remembers to exist.
const KNOWN_MAX: usize = 10_000;

/// Queues that are known to exist, so that submissions need not name them. None is ever deleted.
#[derive(Default)]
pub(super) struct KnownQueues {
    known: Mutex<HashSet<(Namespace, QueueName)>>,
}

impl KnownQueues {
    fn known(&self) -> MutexGuard<'_, HashSet<(Namespace, QueueName)>> {
        self.known.lock().expect("no holder of this lock panics")
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
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    row.as_ref().map(queue_of).transpose()
}

pub(super) async fn queues(pool: &PgPool, namespace: Option<&Namespace>) -> Result<Vec<Queue>> {
    let sql = "SELECT namespace, name, settings, version, paused, created_at FROM queues \
               WHERE $1::text IS NULL OR namespace = $1 \
               ORDER BY name COLLATE \"C\", namespace COLLATE \"C\" LIMIT $2";
    let query = sqlx::query(sql).bind(namespace.map(Namespace::as_str)).bind(QUEUES_MAX);
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    rows.iter().map(queue_of).collect()
}

pub(super) async fn set_queue(
    pool: &PgPool,
    namespace: &Namespace,
    name: &QueueName,
    settings: &QueueSettings,
) -> Result<Queue> {
    let sql = returning_queue!(
        "INSERT INTO queues AS q (namespace, name, settings, created_at) \
         VALUES ($1, $2, $3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
         ON CONFLICT (namespace, name) DO UPDATE \
             SET settings = EXCLUDED.settings, version = q.version + 1"
    );
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    let query = query.bind(to_json(settings)?);
    queue_of(&query.fetch_one(pool).await.map_err(after_write)?)
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
    queue_of(&query.fetch_one(pool).await.map_err(after_write)?)
}

/// Makes a queue if need be, as part of a transaction.
pub(super) async fn make(
    connection: &mut PgConnection,
    namespace: &Namespace,
    name: &QueueName,
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO queues (namespace, name, created_at) \
               VALUES ($1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
               ON CONFLICT (namespace, name) DO NOTHING";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    query.execute(connection).await?;
    Ok(())
}
