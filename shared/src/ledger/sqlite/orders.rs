//! Orders: looking at them, and setting them right. What keeps them is in `migrations/sqlite/0011_order.sql`.

use std::collections::{HashMap, HashSet};

use sqlx::sqlite::SqliteConnection;

use super::fault::Fault;
use super::jobs::{Columns, bind_id, job_of, select_jobs};
use super::run_calls::change;
use super::statement::{Args, Bulk, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Result, Sqlite, read};
use crate::ledger::orders::{BEFORE_MAX, Mended, OrderName, OrderPlace};
use crate::ledger::unreadable::readable;
use crate::model::id::JobId;
use crate::model::job::{Job, JobState};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// An order by its parts.
pub(super) type OrderKey = (Namespace, QueueName, String);

/// Corrects jobs that were just inserted: a trigger blocks those with others of their order before them.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    jobs: impl Iterator<Item = &mut Job>,
) -> Result<(), Fault> {
    static BLOCKED: Bulk =
        Bulk::new("SELECT id FROM jobs WHERE state = 0 AND id IN (VALUES", "(?)", ")");
    let jobs: Vec<&mut Job> = jobs.filter(|job| job.spec.order_key.is_some()).collect();
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let found = BLOCKED.fetch(connection, &ids, bind_id).await?;
    let blocked: Result<HashSet<[u8; 16]>, Fault> =
        found.iter().map(|row| Columns::of(row).id()).collect();
    let blocked = blocked?;
    for job in jobs.into_iter().filter(|job| blocked.contains(job.id.as_bytes())) {
        job.state = JobState::Blocked;
    }
    Ok(())
}

/// What comes first in these orders, where it may run, with what came with the order.
pub(super) async fn heads_after(
    connection: &mut SqliteConnection,
    orders: &HashMap<OrderKey, usize>,
) -> Result<Vec<(usize, JobId)>, Fault> {
    static HEADS: Bulk = Bulk::new(
        "SELECT l.namespace, l.queue, l.order_key, l.job_id FROM order_chains c \
         JOIN order_links l ON l.namespace = c.namespace AND l.queue = c.queue \
         AND l.order_key = c.order_key AND l.number = c.head \
         JOIN jobs j ON j.id = l.job_id \
         WHERE j.state IN (1, 2) AND (c.namespace, c.queue, c.order_key) IN (VALUES",
        "(?, ?, ?)",
        ")",
    );
    let wanted: Vec<&OrderKey> = orders.keys().collect();
    let found = HEADS
        .fetch(connection, &wanted, |args, (namespace, queue, key)| {
            args.add(namespace.as_str()).add(queue.as_str()).add(key.as_str());
        })
        .await?;
    let mut heads = Vec::with_capacity(found.len());
    for row in &found {
        let mut c = Columns::of(row);
        let order = (c.parsed()?, c.parsed()?, c.next()?);
        let at = orders.get(&order).copied().unwrap_or_default();
        heads.push((at, JobId::from_bytes(c.id()?)));
    }
    Ok(heads)
}

/// Whether a job has a place in an order.
pub(super) async fn has_place(connection: &mut SqliteConnection, id: JobId) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM order_links WHERE job_id = ?";
    let args = Args::default().with(id.as_bytes().as_slice());
    Ok(row(connection, sql, args).await?.is_some())
}

async fn head(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    queue: &QueueName,
    key: &str,
) -> Result<Option<Job>, Fault> {
    const SQL: &str = select_jobs!(
        "WHERE j.state BETWEEN 1 AND 9 AND j.id = (SELECT l.job_id FROM order_chains c \
         JOIN order_links l ON l.namespace = c.namespace AND l.queue = c.queue \
         AND l.order_key = c.order_key AND l.number = c.head \
         WHERE c.namespace = ? AND c.queue = ? AND c.order_key = ?)"
    );
    let args = Args::default().with(namespace.as_str()).with(queue.as_str()).with(key);
    row(connection, SQL, args).await?.as_ref().map(job_of).transpose()
}

async fn place(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<OrderPlace>, Fault> {
    let sql = "SELECT (SELECT count(*) FROM (SELECT 1 FROM order_links b \
                   WHERE b.namespace = l.namespace AND b.queue = l.queue AND b.order_key = l.order_key \
                   AND b.number < l.number LIMIT ?3)), j.id, j.state \
               FROM order_links l \
               JOIN order_chains c ON c.namespace = l.namespace AND c.queue = l.queue AND c.order_key = l.order_key \
               JOIN order_links h ON h.namespace = c.namespace AND h.queue = c.queue \
                   AND h.order_key = c.order_key AND h.number = c.head \
               JOIN jobs j ON j.id = h.job_id WHERE l.job_id = ?1 AND l.namespace = ?2";
    let args = Args::default().with(id.as_bytes().as_slice()).with(namespace.as_str());
    let Some(row) = row(connection, sql, args.with(BEFORE_MAX)).await? else { return Ok(None) };
    let mut c = Columns::of(&row);
    let before = c.count()?;
    Ok(Some(OrderPlace { before, head: JobId::from_bytes(c.id()?), head_state: c.state()? }))
}

async fn overdue(
    connection: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Job>, Fault> {
    const SQL: &str = select_jobs!(
        "WHERE j.id IN (SELECT l.job_id FROM order_links l JOIN jobs b ON b.id = l.job_id \
         WHERE l.expires_at <= ? AND b.state = 0 ORDER BY l.expires_at LIMIT ?) ORDER BY j.expires_at"
    );
    let found = rows(connection, SQL, Args::default().with(now.micros()).with(limit)).await?;
    Ok(readable("a job", &found, job_of))
}

/// What a walk looked at: the orders to set right, and the last of all.
type Looked = (Vec<OrderName>, Option<OrderName>);

/// Reads only, so that the writer is not kept from its work where there is nothing to do.
async fn look(
    connection: &mut SqliteConnection,
    after: Option<&OrderName>,
    limit: u32,
) -> Result<Looked, Fault> {
    let sql = "SELECT p.namespace, p.queue, p.order_key, j.id IS NULL OR j.state IN (0, 10) FROM ( \
                   SELECT * FROM order_chains c \
                   WHERE (?1 IS NULL OR (c.namespace, c.queue, c.order_key) > (?1, ?2, ?3)) \
                   ORDER BY c.namespace, c.queue, c.order_key LIMIT ?4) AS p \
               LEFT JOIN order_links l ON l.namespace = p.namespace AND l.queue = p.queue \
                   AND l.order_key = p.order_key AND l.number = p.head \
               LEFT JOIN jobs j ON j.id = l.job_id ORDER BY p.namespace, p.queue, p.order_key";
    let args = Args::default()
        .with(after.map(|at| at.namespace.as_str()))
        .with(after.map(|at| at.queue.as_str()))
        .with(after.map(|at| at.key.as_str()))
        .with(limit);
    let found = rows(connection, sql, args).await?;
    let is_full = found.len() >= limit as usize;
    let (mut stuck, mut last) = (Vec::new(), None);
    for row in &found {
        let mut c = Columns::of(row);
        let name = OrderName { namespace: c.next()?, queue: c.next()?, key: c.next()? };
        if c.next()? {
            stuck.push(name.clone());
        }
        last = Some(name);
    }
    Ok((stuck, last.filter(|_| is_full)))
}

/// Sets orders right; the jobs that were let run.
async fn mend(tx: &mut Tx<'_>, orders: &[OrderName]) -> Result<Vec<JobId>, Fault> {
    const STATEMENTS: [&str; 4] = [
        "DELETE FROM order_links AS l WHERE l.namespace = ?1 AND l.queue = ?2 AND l.order_key = ?3 \
         AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = l.job_id AND j.state <> 10) AND ?4 > 0",
        "UPDATE order_chains SET head = coalesce((SELECT min(l.number) FROM order_links l \
             WHERE l.namespace = ?1 AND l.queue = ?2 AND l.order_key = ?3), 0) \
         WHERE namespace = ?1 AND queue = ?2 AND order_key = ?3 AND ?4 > 0",
        "DELETE FROM order_chains \
         WHERE namespace = ?1 AND queue = ?2 AND order_key = ?3 AND head = 0 AND ?4 > 0",
        "UPDATE jobs SET state = iif(run_at > ?4, 1, 2), run_at = max(run_at, ?4), changed_at = ?4 \
         WHERE state = 0 AND id = (SELECT l.job_id FROM order_chains c JOIN order_links l \
             ON l.namespace = c.namespace AND l.queue = c.queue AND l.order_key = c.order_key \
             AND l.number = c.head \
             WHERE c.namespace = ?1 AND c.queue = ?2 AND c.order_key = ?3)",
    ];
    let mut released = Vec::new();
    for order in orders {
        let named = || {
            let args = Args::default().with(order.namespace.as_str());
            args.with(order.queue.as_str()).with(order.key.as_str())
        };
        let mut changed = 0;
        for sql in STATEMENTS {
            changed = execute(tx.connection, sql, named().with(tx.now.micros())).await?;
        }
        if changed == 0 {
            continue;
        }
        let sql = "SELECT l.job_id FROM order_chains c JOIN order_links l ON l.namespace = c.namespace \
                   AND l.queue = c.queue AND l.order_key = c.order_key AND l.number = c.head \
                   WHERE c.namespace = ? AND c.queue = ? AND c.order_key = ?";
        if let Some(row) = row(tx.connection, sql, named()).await? {
            released.push(JobId::from_bytes(Columns::of(&row).id()?));
        }
    }
    Ok(released)
}

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn order_head(
        &self,
        namespace: &Namespace,
        queue: &QueueName,
        key: &str,
    ) -> Result<Option<Job>> {
        read!(self, head, namespace, queue, key)
    }

    pub async fn order_place(
        &self,
        namespace: &Namespace,
        id: JobId,
    ) -> Result<Option<OrderPlace>> {
        read!(self, place, namespace, id)
    }

    pub async fn overdue_in_order(&self, now: Timestamp, limit: u32) -> Result<Vec<Job>> {
        read!(self, overdue, now, limit)
    }

    pub async fn mend_orders(&self, after: Option<OrderName>, limit: u32) -> Result<Mended> {
        let after = after.as_ref();
        let (stuck, next) = read!(self, look, after, limit)?;
        if stuck.is_empty() {
            return Ok(Mended { released: Vec::new(), next });
        }
        let ids = change!(self, stuck.len(), |tx| mend(tx, &stuck))?;
        Ok(Mended { released: self.read_back(&ids).await, next })
    }
}
