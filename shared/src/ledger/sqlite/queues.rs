//! Queues: made by their first job or their first setting, never deleted.

use std::collections::HashSet;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use super::{Paused, Queue, QueueSettings, Rollup};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// Most queues in one answer.
const QUEUES_MAX: i64 = 10_000;
/// Most roll-ups in one answer.
const ROLLUPS_MAX: i64 = 100_000;
/// Most queues that the writer remembers to exist.
const KNOWN_MAX: usize = 10_000;

macro_rules! select_queue {
    ($tail:literal) => {
        concat!("SELECT namespace, name, settings, version, paused, created_at FROM queues ", $tail)
    };
}

/// Queues that the writer knows to exist, so that it does not ask with every job.
#[derive(Debug, Default)]
pub(super) struct Known {
    committed: HashSet<(Namespace, QueueName)>,
    /// Made by the transaction under way.
    fresh: HashSet<(Namespace, QueueName)>,
}

impl Known {
    /// The transaction was committed.
    pub(super) fn keep(&mut self) {
        if self.committed.len() + self.fresh.len() > KNOWN_MAX {
            self.committed.clear();
        }
        self.committed.extend(self.fresh.drain());
    }

    /// The transaction, or a part of it, came to nothing.
    pub(super) fn forget(&mut self) {
        self.fresh.clear();
    }
}

/// Makes a queue if it does not exist.
pub(super) async fn ensure(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &QueueName,
) -> Result<(), Fault> {
    let key = (namespace.clone(), name.clone());
    if tx.queues.committed.contains(&key) || tx.queues.fresh.contains(&key) {
        return Ok(());
    }
    let sql = "INSERT INTO queues (namespace, name, created_at) VALUES (?, ?, ?) \
               ON CONFLICT DO NOTHING";
    let args = Args::default().with(namespace.as_str()).with(name.as_str()).with(tx.now.micros());
    execute(tx.connection, sql, args).await?;
    tx.queues.fresh.insert(key);
    Ok(())
}

fn queue_of(row: &SqliteRow) -> Result<Queue, Fault> {
    let mut c = Columns::of(row);
    Ok(Queue {
        namespace: c.parsed()?,
        name: c.parsed()?,
        settings: c.json()?,
        version: c.count()?,
        paused: c.maybe_json()?,
        created_at: c.time()?,
    })
}

/// One queue.
pub(super) async fn queue(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    name: &QueueName,
) -> Result<Option<Queue>, Fault> {
    let args = Args::default().with(namespace.as_str()).with(name.as_str());
    let found = row(connection, select_queue!("WHERE namespace = ? AND name = ?"), args).await?;
    found.as_ref().map(queue_of).transpose()
}

/// Queues of one namespace, or of all.
pub(super) async fn queues(
    connection: &mut SqliteConnection,
    namespace: Option<&Namespace>,
) -> Result<Vec<Queue>, Fault> {
    let found = match namespace {
        Some(namespace) => {
            let sql = select_queue!("WHERE namespace = ? ORDER BY name LIMIT ?");
            let args = Args::default().with(namespace.as_str()).with(QUEUES_MAX);
            rows(connection, sql, args).await?
        }
        None => {
            let sql = select_queue!("ORDER BY name, namespace LIMIT ?");
            rows(connection, sql, Args::default().with(QUEUES_MAX)).await?
        }
    };
    found.iter().map(queue_of).collect()
}

/// Replaces the settings.
pub(super) async fn set(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &QueueName,
    settings: &QueueSettings,
) -> Result<Queue, Fault> {
    let settings = serde_json::to_string(settings).map_err(Fault::unreadable)?;
    let sql =
        "UPDATE queues SET settings = ?, version = version + 1 WHERE namespace = ? AND name = ?";
    change(tx, namespace, name, sql, Some(settings)).await
}

/// Pauses or resumes.
pub(super) async fn set_paused(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &QueueName,
    paused: Option<&Paused>,
) -> Result<Queue, Fault> {
    let paused = paused.map(serde_json::to_string).transpose().map_err(Fault::unreadable)?;
    let sql =
        "UPDATE queues SET paused = ?, version = version + 1 WHERE namespace = ? AND name = ?";
    change(tx, namespace, name, sql, paused).await
}

async fn change(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &QueueName,
    sql: &'static str,
    value: Option<String>,
) -> Result<Queue, Fault> {
    ensure(tx, namespace, name).await?;
    let args = Args::default().with(value).with(namespace.as_str()).with(name.as_str());
    execute(tx.connection, sql, args).await?;
    let found = queue(tx.connection, namespace, name).await?;
    found.ok_or_else(|| Fault::unreadable("a queue that was just written"))
}

/// Roll-ups of a namespace from a time on, oldest first.
pub(super) async fn rollups(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    since: Timestamp,
) -> Result<Vec<Rollup>, Fault> {
    let sql = "SELECT minute, queue, kind, outcome, count, run_ms FROM rollups \
               WHERE namespace = ? AND minute >= ? \
               ORDER BY minute, queue, kind, outcome LIMIT ?";
    let args = Args::default().with(namespace.as_str()).with(since.micros()).with(ROLLUPS_MAX);
    let found = rows(connection, sql, args).await?;
    found.iter().map(rollup_of).collect()
}

fn rollup_of(row: &SqliteRow) -> Result<Rollup, Fault> {
    let mut c = Columns::of(row);
    let (minute, queue, kind) = (c.time()?, c.parsed()?, c.parsed()?);
    let outcome = super::jobs::outcome(c.count()?)?;
    let word = serde_json::to_value(outcome).map_err(Fault::unreadable)?;
    let outcome = word.as_str().unwrap_or_default().to_owned();
    Ok(Rollup { minute, queue, kind, outcome, count: c.count()?, run_ms: c.count()? })
}
