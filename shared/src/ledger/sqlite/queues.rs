//! Queues: made by their first job or their first setting, never deleted.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokio::sync::broadcast;

use super::circuits::give;
use super::fault::Fault;
use super::jobs::Columns;
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use super::{Paused, Queue, QueueCursor, QueueMinute, QueuePage, QueueSettings, Rollup};
use crate::ledger::circuits::SharedCircuits;
use crate::ledger::minutes_before;
use crate::ledger::queue::READS_MAX;
use crate::ledger::queue_walk::NEWS_MAX;
use crate::ledger::unreadable::readable;
use crate::limits::QUEUES_PER_NAMESPACE_MAX;
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// Most roll-ups in one answer.
const ROLLUPS_MAX: i64 = 100_000;
/// Most queues that the writer remembers to exist.
const KNOWN_MAX: usize = 50_000;

macro_rules! select_queue {
    ($tail:literal) => {
        concat!("SELECT namespace, name, settings, version, paused, created_at FROM queues ", $tail)
    };
}

/// Queues that the writer knows to exist, so that it does not ask with every job.
#[derive(Debug)]
pub(super) struct Known {
    committed: HashSet<(Namespace, QueueName)>,
    /// Made or seen by the transaction under way.
    fresh: HashSet<(Namespace, QueueName)>,
    /// Those of them that it made.
    made: Vec<(Namespace, QueueName)>,
    news: broadcast::Sender<(Namespace, QueueName)>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            committed: HashSet::new(),
            fresh: HashSet::new(),
            made: Vec::new(),
            news: broadcast::channel(NEWS_MAX).0,
        }
    }
}

impl Known {
    /// Where committed queues are told.
    pub(super) fn news(&self) -> broadcast::Sender<(Namespace, QueueName)> {
        self.news.clone()
    }

    fn has(&self, key: &(Namespace, QueueName)) -> bool {
        self.committed.contains(key) || self.fresh.contains(key)
    }

    /// The transaction was committed.
    pub(super) fn keep(&mut self) {
        for queue in self.made.drain(..) {
            // Fails when nobody listens, which is no loss.
            let _ = self.news.send(queue);
        }
        if self.committed.len() + self.fresh.len() > KNOWN_MAX {
            self.committed.clear();
        }
        self.committed.extend(self.fresh.drain());
    }

    /// The transaction, or a part of it, came to nothing.
    pub(super) fn forget(&mut self) {
        self.fresh.clear();
        self.made.clear();
    }
}

/// Those of these queues that do not exist, and for which their namespace has no room.
pub(super) async fn without_room<'q>(
    tx: &mut Tx<'_>,
    queues: impl Iterator<Item = (&'q Namespace, &'q QueueName)>,
) -> Result<HashSet<(Namespace, QueueName)>, Fault> {
    // Each looked at once, and owned only then: this is asked of every job.
    let distinct: HashSet<(&Namespace, &QueueName)> = queues.collect();
    let unknown: BTreeSet<_> = distinct.into_iter().map(|(n, q)| (n.clone(), q.clone())).collect();
    let (mut closed, mut rooms) = (HashSet::new(), HashMap::new());
    for key in unknown {
        if tx.queues.has(&key) || queue_exists(tx.connection, &key).await? {
            continue;
        }
        let room = match rooms.entry(key.0.clone()) {
            Entry::Occupied(room) => room.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(room(tx.connection, &key.0).await?),
        };
        match room.checked_sub(1) {
            Some(left) => *room = left,
            None => {
                closed.insert(key);
            }
        }
    }
    Ok(closed)
}

async fn queue_exists(
    connection: &mut SqliteConnection,
    (namespace, name): &(Namespace, QueueName),
) -> Result<bool, Fault> {
    let args = Args::default().with(namespace.as_str()).with(name.as_str());
    let sql = "SELECT 1 FROM queues WHERE namespace = ? AND name = ?";
    Ok(row(connection, sql, args).await?.is_some())
}

/// How many more queues a namespace may have.
async fn room(connection: &mut SqliteConnection, namespace: &Namespace) -> Result<u64, Fault> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM queues WHERE namespace = ? LIMIT ?)";
    let most = i64::try_from(QUEUES_PER_NAMESPACE_MAX).unwrap_or(i64::MAX);
    let args = Args::default().with(namespace.as_str()).with(most);
    let found = row(connection, sql, args).await?;
    let found = found.ok_or_else(|| Fault::unreadable("a count"))?;
    Ok(QUEUES_PER_NAMESPACE_MAX.saturating_sub(Columns::of(&found).count()?))
}

/// Makes a queue if it does not exist.
///
/// # Errors
/// [`Fault::too_many_queues`] where there is no room for it.
pub(super) async fn ensure(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &QueueName,
) -> Result<(), Fault> {
    let key = (namespace.clone(), name.clone());
    if tx.queues.has(&key) {
        return Ok(());
    }
    if !queue_exists(tx.connection, &key).await? {
        if room(tx.connection, namespace).await? == 0 {
            return Err(Fault::too_many_queues());
        }
        make(tx, &key).await?;
    }
    tx.queues.fresh.insert(key);
    Ok(())
}

/// As [`ensure`], where the caller has seen to it that there is room, or none is needed.
pub(super) async fn ensure_allowed(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &QueueName,
) -> Result<(), Fault> {
    let key = (namespace.clone(), name.clone());
    if !tx.queues.has(&key) {
        make(tx, &key).await?;
        tx.queues.fresh.insert(key);
    }
    Ok(())
}

async fn make(tx: &mut Tx<'_>, key: &(Namespace, QueueName)) -> Result<(), Fault> {
    let sql = "INSERT INTO queues (namespace, name, created_at) VALUES (?, ?, ?) \
               ON CONFLICT DO NOTHING";
    let args = Args::default().with(key.0.as_str()).with(key.1.as_str()).with(tx.now.micros());
    if execute(tx.connection, sql, args).await? > 0 {
        tx.queues.made.push(key.clone());
    }
    Ok(())
}

fn queue_of(row: &SqliteRow) -> Result<Queue, Fault> {
    let mut c = Columns::of(row);
    Ok(Queue {
        namespace: c.parsed()?,
        name: c.parsed()?,
        settings: c.json()?,
        version: c.count()?,
        circuits: SharedCircuits::default(),
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
    let found = bare(connection, namespace, name).await?;
    Ok(given(connection, found.into_iter().collect()).await?.pop())
}

/// Without what is set of its circuits.
async fn bare(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    name: &QueueName,
) -> Result<Option<Queue>, Fault> {
    let args = Args::default().with(namespace.as_str()).with(name.as_str());
    let found = row(connection, select_queue!("WHERE namespace = ? AND name = ?"), args).await?;
    found.as_ref().map(queue_of).transpose()
}

/// With what is set of the circuits of their namespaces, as of one moment: what changed while circuits were read is read
/// anew, and then they are, too. See [`Queue::shard_version`].
async fn given(
    connection: &mut SqliteConnection,
    mut queues: Vec<Queue>,
) -> Result<Vec<Queue>, Fault> {
    for _ in 0..READS_MAX {
        if !give(connection, &mut queues).await? {
            return Ok(queues);
        }
        let mut is_same = true;
        for queue in &mut queues {
            let Some(now) = bare(connection, &queue.namespace, &queue.name).await? else {
                continue;
            };
            is_same &= now.version == queue.version;
            *queue = Queue { circuits: Arc::clone(&queue.circuits), ..now };
        }
        if is_same {
            return Ok(queues);
        }
    }
    Err(Fault::restless())
}

/// Queues of one namespace, or of all, from behind a place.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    namespace: Option<&Namespace>,
    after: Option<&QueueCursor>,
    limit: u32,
) -> Result<QueuePage, Fault> {
    let after = after.map_or(("", ""), |after| (after.namespace.as_str(), after.name.as_str()));
    let (sql, first) = match namespace {
        Some(namespace) => {
            let sql = select_queue!("WHERE namespace = ? AND name > ? ORDER BY name LIMIT ?");
            (sql, namespace.as_str())
        }
        None => {
            let sql =
                select_queue!("WHERE (namespace, name) > (?, ?) ORDER BY namespace, name LIMIT ?");
            (sql, after.0)
        }
    };
    let args = Args::default().with(first).with(after.1).with(i64::from(limit));
    let found = rows(connection, sql, args).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|len| len >= limit);
    let next = found.last().filter(|_| is_full).map(cursor_of).transpose()?;
    let queues = given(connection, readable("a queue", &found, queue_of)).await?;
    Ok(QueuePage { queues, next })
}

fn cursor_of(row: &SqliteRow) -> Result<QueueCursor, Fault> {
    let mut c = Columns::of(row);
    Ok(QueueCursor { namespace: c.next()?, name: c.next()? })
}

/// Replaces the settings, of the version that was seen.
pub(super) async fn set(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &QueueName,
    seen: Option<u64>,
    settings: &QueueSettings,
) -> Result<Option<Queue>, Fault> {
    let settings = serde_json::to_string(settings).map_err(Fault::unreadable)?;
    ensure(tx, namespace, name).await?;
    // One that has just been made has version 1, whoever made it, and no settings to lose.
    let known = queue(tx.connection, namespace, name).await?;
    if seen.is_some_and(|seen| known.is_some_and(|queue| queue.version != seen.max(1))) {
        return Ok(None);
    }
    let sql =
        "UPDATE queues SET settings = ?, version = version + 1 WHERE namespace = ? AND name = ?";
    change(tx, namespace, name, sql, Some(settings)).await.map(Some)
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

/// Attempts of a queue that ended, by minute. Each minute is looked up by itself: a range of them would have those of
/// all queues of the namespace.
pub(super) async fn minutes(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    queue: &QueueName,
    now: Timestamp,
) -> Result<Vec<QueueMinute>, Fault> {
    let sql = "SELECT r.minute, sum(r.count), sum(r.run_ms) FROM json_each(?) m \
               CROSS JOIN rollups r ON r.namespace = ? AND r.minute = m.value AND r.queue = ? \
               GROUP BY r.minute ORDER BY r.minute";
    let minutes = serde_json::to_string(&minutes_before(now).collect::<Vec<_>>());
    let args = Args::default()
        .with(minutes.map_err(Fault::unreadable)?)
        .with(namespace.as_str())
        .with(queue.as_str());
    let found = rows(connection, sql, args).await?;
    let minute = |row: &SqliteRow| {
        let mut c = Columns::of(row);
        Ok::<_, Fault>(QueueMinute { minute: c.time()?, count: c.count()?, run_ms: c.count()? })
    };
    Ok(readable("a minute of a queue", &found, minute))
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
    Ok(readable("a roll-up", &found, rollup_of))
}

fn rollup_of(row: &SqliteRow) -> Result<Rollup, Fault> {
    let mut c = Columns::of(row);
    let (minute, queue, kind) = (c.time()?, c.parsed()?, c.parsed()?);
    let outcome = super::jobs::outcome(c.count()?)?;
    let word = serde_json::to_value(outcome).map_err(Fault::unreadable)?;
    let outcome = word.as_str().unwrap_or_default().to_owned();
    Ok(Rollup { minute, queue, kind, outcome, count: c.count()?, run_ms: c.count()? })
}
