//! Orders: looking at them, and setting them right. What keeps them is in `migrations/postgres/0011_order.sql`.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::error::{after_write, is_collision, unchanged};
use super::row::{self, get, select_jobs};
use super::{Inner, LedgerError, Postgres, Result, runs};
use crate::ledger::orders::{BEFORE_MAX, Mended, OrderName, OrderPlace};
use crate::model::id::JobId;
use crate::model::job::Job;
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// Tries of a statement that met a deadlock.
const TRIES_MAX: u32 = 5;

/// What comes first in the orders of these jobs, which have ended, where it may run.
pub(super) async fn heads_after(
    connection: &mut PgConnection,
    ended: &[Uuid],
) -> Result<Vec<JobId>> {
    const SQL: &str = "
SELECT DISTINCT j.id FROM jobs e
JOIN order_chains c ON c.namespace = e.namespace AND c.queue = e.queue AND c.order_key = e.order_key
JOIN order_links l ON l.namespace = c.namespace AND l.queue = c.queue AND l.order_key = c.order_key AND l.number = c.head
JOIN jobs j ON j.id = l.job_id
WHERE e.id = ANY($1) AND j.state + 0 IN (1, 2)";
    if ended.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query_scalar(SQL).bind(ended);
    let ids: Vec<Uuid> = query.fetch_all(connection).await.map_err(unchanged)?;
    Ok(ids.into_iter().map(JobId::from_uuid).collect())
}

async fn head(
    pool: &PgPool,
    namespace: &Namespace,
    queue: &QueueName,
    key: &str,
) -> Result<Option<Job>> {
    const SQL: &str = select_jobs!(
        "jobs",
        "WHERE j.state + 0 BETWEEN 1 AND 9 AND j.id = (SELECT l.job_id FROM order_chains c \
         JOIN order_links l ON l.namespace = c.namespace AND l.queue = c.queue AND l.order_key = c.order_key \
         AND l.number = c.head WHERE c.namespace = $1 AND c.queue = $2 AND c.order_key = $3)"
    );
    let query = sqlx::query(SQL).bind(namespace.as_str()).bind(queue.as_str()).bind(key);
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    row.as_ref().map(row::job).transpose()
}

async fn place(pool: &PgPool, namespace: &Namespace, id: JobId) -> Result<Option<OrderPlace>> {
    const SQL: &str = "
SELECT (SELECT count(*) FROM (SELECT FROM order_links b WHERE b.namespace = l.namespace AND b.queue = l.queue
            AND b.order_key = l.order_key AND b.number < l.number AND b.number >= c.head LIMIT $3) AS before),
    j.id, j.state
FROM order_links l
JOIN order_chains c ON c.namespace = l.namespace AND c.queue = l.queue AND c.order_key = l.order_key
JOIN order_links h ON h.namespace = c.namespace AND h.queue = c.queue AND h.order_key = c.order_key AND h.number = c.head
JOIN jobs j ON j.id = h.job_id
WHERE l.job_id = $1 AND l.namespace = $2";
    let query = sqlx::query(SQL).bind(id.uuid()).bind(namespace.as_str());
    let query = query.bind(i64::from(BEFORE_MAX));
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    row.as_ref().map(place_of).transpose()
}

fn place_of(row: &PgRow) -> Result<OrderPlace> {
    Ok(OrderPlace {
        before: u32::try_from(get::<i64>(row, 0)?).unwrap_or(BEFORE_MAX),
        head: JobId::from_uuid(get(row, 1)?),
        head_state: row::state(get(row, 2)?)?,
    })
}

async fn overdue(pool: &PgPool, now: Timestamp, limit: u32) -> Result<Vec<Job>> {
    const SQL: &str = select_jobs!(
        "(SELECT jobs.* FROM order_links l JOIN jobs ON jobs.id = l.job_id \
         WHERE l.expires_at <= $1 AND jobs.state + 0 = 0 ORDER BY l.expires_at LIMIT $2)",
        "ORDER BY j.expires_at"
    );
    let query = sqlx::query(SQL).bind(now.micros()).bind(i64::from(limit));
    Ok(row::jobs(&query.fetch_all(pool).await.map_err(unchanged)?))
}

/// Each order is set right by a statement of its own: none waits for the lock on another meanwhile.
async fn mend(inner: &Inner, after: Option<OrderName>, limit: u32) -> Result<Mended> {
    const LOOK: &str = "
SELECT p.namespace, p.queue, p.order_key, j.id IS NULL OR j.state + 0 IN (0, 10) FROM (
    SELECT * FROM order_chains c WHERE ($1::text IS NULL OR (c.namespace, c.queue, c.order_key) > ($1, $2, $3))
    ORDER BY c.namespace, c.queue, c.order_key LIMIT $4
) AS p
LEFT JOIN order_links l ON l.namespace = p.namespace AND l.queue = p.queue AND l.order_key = p.order_key AND l.number = p.head
LEFT JOIN jobs j ON j.id = l.job_id
ORDER BY p.namespace, p.queue, p.order_key";
    let looked: Vec<(String, String, String, bool)> = sqlx::query_as(LOOK)
        .bind(after.as_ref().map(|at| at.namespace.as_str()))
        .bind(after.as_ref().map(|at| at.queue.as_str()))
        .bind(after.as_ref().map(|at| at.key.as_str()))
        .bind(i64::from(limit))
        .fetch_all(&inner.pool)
        .await
        .map_err(unchanged)?;
    let mut released = Vec::new();
    for (namespace, queue, key, _) in looked.iter().filter(|order| order.3) {
        released.extend(mend_one(&inner.pool, [namespace, queue, key]).await?);
    }
    let is_full = looked.len() >= limit as usize;
    let last = looked.into_iter().next_back().filter(|_| is_full);
    let next = last.map(|(namespace, queue, key, _)| OrderName { namespace, queue, key });
    Ok(Mended { released: runs::read_back(inner, &released).await, next })
}

async fn mend_one(pool: &PgPool, [namespace, queue, key]: [&str; 3]) -> Result<Option<JobId>> {
    for _ in 0..TRIES_MAX {
        let query = sqlx::query_scalar("SELECT windlass_order_mend($1, $2, $3)");
        match query.bind(namespace).bind(queue).bind(key).fetch_one(pool).await {
            Ok(released) => return Ok(Option::<Uuid>::map(released, JobId::from_uuid)),
            Err(error) if is_collision(&error) => {}
            Err(error) => return Err(after_write(error)),
        }
    }
    Err(LedgerError::Unavailable("an order kept colliding with other writes".into()))
}

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn order_head(
        &self,
        namespace: &Namespace,
        queue: &QueueName,
        key: &str,
    ) -> Result<Option<Job>> {
        self.read(head(&self.inner.pool, namespace, queue, key)).await
    }

    pub async fn order_place(
        &self,
        namespace: &Namespace,
        id: JobId,
    ) -> Result<Option<OrderPlace>> {
        self.read(place(&self.inner.pool, namespace, id)).await
    }

    pub async fn overdue_in_order(&self, now: Timestamp, limit: u32) -> Result<Vec<Job>> {
        self.read(overdue(&self.inner.pool, now, limit)).await
    }

    pub async fn mend_orders(&self, after: Option<OrderName>, limit: u32) -> Result<Mended> {
        self.detached(move |inner| async move { mend(&inner, after, limit).await }).await
    }
}
