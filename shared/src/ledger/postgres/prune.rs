//! Deleting what is past its time, in bounded steps, and the daily partitions of jobs.

use std::sync::Mutex;

use sqlx::PgPool;
use uuid::Uuid;

use super::error::{after_write, unchanged};
use super::forget::{By, Forget, forget};
use super::row::get;
use super::{Result, runs};
use crate::limits::IDEMPOTENCY_TTL;
use crate::model::id::JobId;
use crate::model::time::Timestamp;

/// Ids looked at by one statement.
const SCAN_MAX: i64 = 10_000;
/// Statements of one call that look for jobs: about a second's worth.
const WINDOWS_MAX: u32 = 50;
/// Days prepared ahead.
const PARTITION_DAYS: i32 = 3;
/// Partitions dropped by one call.
const DROPS_MAX: i32 = 1;

/// How far the latest pass over the jobs has come. Kept from call to call, so that old jobs that stay (they
/// wait for a time far ahead) are passed once in a pass, not in every call.
#[derive(Default)]
pub(super) struct Pass {
    after: Mutex<Option<Uuid>>,
}

impl Pass {
    fn after(&self) -> Uuid {
        self.after.lock().expect("no holder of this lock panics").unwrap_or(Uuid::nil())
    }

    fn set(&self, after: Option<Uuid>) {
        *self.after.lock().expect("no holder of this lock panics") = after;
    }
}

/// Deletes at most `limit` rows of each sort; how many.
pub(super) async fn prune(
    pool: &PgPool,
    pass: &Pass,
    before: Timestamp,
    limit: u32,
) -> Result<u64> {
    let mut pruned = runs::prune(pool, before, limit).await?;
    pruned += prune_jobs(pool, pass, before, limit).await?;
    let now = super::now(pool).await?;
    for (sql, until) in [
        (IDEMPOTENCY, now.minus(IDEMPOTENCY_TTL)),
        (HOLDS, now),
        // A value may wait for the submission or outcome that names it.
        (BLOBS, before.min(now.minus(IDEMPOTENCY_TTL))),
        (WORKERS, before),
        // A repeat of the call that started it finds it by its key for that long.
        (OPERATIONS, before.min(now.minus(IDEMPOTENCY_TTL))),
        (ROLLUPS, before),
    ] {
        let query = sqlx::query(sql).bind(until.micros()).bind(i64::from(limit));
        pruned += query.execute(pool).await.map_err(after_write)?.rows_affected();
    }
    Ok(pruned)
}

const IDEMPOTENCY: &str = "DELETE FROM idempotency i USING (SELECT namespace, key FROM idempotency \
     WHERE created_at < $1 ORDER BY created_at LIMIT $2) old \
     WHERE i.namespace = old.namespace AND i.key = old.key AND i.created_at < $1";
const HOLDS: &str = "DELETE FROM holds h USING (SELECT namespace, queue, unique_key FROM holds \
     WHERE until < $1 ORDER BY until LIMIT $2) old \
     WHERE h.namespace = old.namespace AND h.queue = old.queue AND h.unique_key = old.unique_key \
       AND h.until < $1";
const BLOBS: &str = "DELETE FROM blobs b USING (SELECT namespace, id FROM blobs \
     WHERE refs = 0 AND created_at < $1 ORDER BY created_at LIMIT $2) old \
     WHERE b.namespace = old.namespace AND b.id = old.id AND b.refs = 0";
const WORKERS: &str = "DELETE FROM workers w USING (SELECT namespace, id FROM workers \
     WHERE seen_at < $1 LIMIT $2) old \
     WHERE w.namespace = old.namespace AND w.id = old.id AND w.seen_at < $1";
const OPERATIONS: &str = "DELETE FROM operations o USING (SELECT namespace, id FROM operations \
     WHERE finished_at < $1 LIMIT $2) old \
     WHERE o.namespace = old.namespace AND o.id = old.id AND o.finished_at < $1";
const ROLLUPS: &str = "DELETE FROM rollups r USING (SELECT namespace, minute, queue, kind, outcome \
     FROM rollups WHERE minute < $1 ORDER BY minute LIMIT $2) old \
     WHERE r.namespace = old.namespace AND r.minute = old.minute AND r.queue = old.queue \
       AND r.kind = old.kind AND r.outcome = old.outcome";

/// One step of the pass over jobs in id order. Ends early with the first that were deleted.
async fn prune_jobs(pool: &PgPool, pass: &Pass, before: Timestamp, limit: u32) -> Result<u64> {
    // A job that ended before that instant was made before it, so its id is below.
    let end = JobId::first_at(u64::try_from(before.millis()).unwrap_or(0) + 1).uuid();
    for _ in 0..WINDOWS_MAX {
        let sql = "SELECT id, state >= 10 AND changed_at < $3 AND (workflow_id IS NULL \
                       OR (SELECT w.id FROM workflows w WHERE w.id = workflow_id) IS NULL) FROM jobs \
                   WHERE id > $1 AND id < $2 ORDER BY id LIMIT $4";
        let query = sqlx::query(sql).bind(pass.after()).bind(end).bind(before.micros());
        let rows = query.bind(SCAN_MAX).fetch_all(pool).await.map_err(unchanged)?;
        let (mut ids, mut last): (Vec<Uuid>, Option<Uuid>) = (Vec::new(), None);
        for row in &rows {
            if ids.len() >= limit as usize {
                break;
            }
            last = Some(get(row, 0)?);
            if get::<Option<bool>>(row, 1)? == Some(true) {
                ids.extend(last);
            }
        }
        let Some(last) = last else {
            pass.set(None);
            // An empty partition costs little; a busy table is asked again in the next pass.
            if let Err(error) = drop_empty_partitions(pool, before).await {
                tracing::debug!(%error, "an empty partition of the ledger could not be dropped now");
            }
            return Ok(0);
        };
        let gone = forget(pool, Forget { ids, ended_before: before, by: By::Age }).await?;
        pass.set(Some(last));
        if gone > 0 {
            return Ok(gone);
        }
    }
    Ok(0)
}

async fn drop_empty_partitions(pool: &PgPool, before: Timestamp) -> Result<()> {
    let sql = "SELECT windlass_drop_empty_partitions( \
                   (to_timestamp($1::float8 / 1000000) AT TIME ZONE 'UTC')::date, $2)";
    let query = sqlx::query(sql).bind(before.micros()).bind(DROPS_MAX);
    query.execute(pool).await.map_err(after_write)?;
    Ok(())
}

/// Makes the partitions of the coming days.
pub(super) async fn ensure_partitions(pool: &PgPool) -> Result<()> {
    let query = sqlx::query("SELECT windlass_ensure_partitions($1)").bind(PARTITION_DAYS);
    query.execute(pool).await.map_err(after_write)?;
    Ok(())
}
