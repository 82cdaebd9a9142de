//! Deleting what is past its time, in bounded steps, and the daily partitions of jobs.

use sqlx::PgPool;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Result;
use super::error::{after_write, unchanged};
use super::forget::{By, Forget, forget};
use super::gates::{bound, is_past, leads};
use super::row::get;
use crate::ledger::Epoch;
use crate::ledger::retention::{Aged, Pruned, Tidy};
use crate::model::id::JobId;
use crate::model::time::Timestamp;

/// Ids looked at by one statement.
const SCAN_MAX: i64 = 10_000;
/// Days prepared ahead.
const PARTITION_DAYS: i32 = 3;
/// Partitions dropped by one call.
const DROPS_MAX: i32 = 1;

/// Deletes at most `limit` rows of each sort; how many.
pub(super) async fn prune(
    pool: &PgPool,
    lead: Option<Epoch>,
    tidy: Tidy,
    limit: u32,
) -> Result<u64> {
    let mut pruned = 0;
    for (sql, until) in [
        (IDEMPOTENCY, tidy.keys_before()),
        (HOLDS, tidy.now),
        (THROTTLES, tidy.now),
        // A value may wait for the submission or outcome that names it.
        (BLOBS, tidy.keyed_before()),
        (WORKERS, tidy.before),
        (OPERATIONS, tidy.keyed_before()),
        (ROLLUPS, tidy.before),
    ] {
        let query = sqlx::query(sql).bind(until.micros()).bind(i64::from(limit));
        let query = query.bind(bound(lead));
        pruned += query.execute(pool).await.map_err(after_write)?.rows_affected();
    }
    // An empty partition costs little; a busy table is asked again in the next call.
    if let Err(error) = drop_empty_partitions(pool, lead, tidy.before).await {
        tracing::debug!(%error, "an empty partition of the ledger could not be dropped now");
    }
    Ok(pruned)
}

const IDEMPOTENCY: &str = concat!(
    "DELETE FROM idempotency i USING (SELECT namespace, key FROM idempotency \
     WHERE created_at < $1 ORDER BY created_at LIMIT $2) old \
     WHERE i.namespace = old.namespace AND i.key = old.key AND i.created_at < $1 AND ",
    leads!("$3")
);
const HOLDS: &str = concat!(
    "DELETE FROM holds h USING (SELECT namespace, queue, unique_key FROM holds \
     WHERE until < $1 ORDER BY until LIMIT $2) old \
     WHERE h.namespace = old.namespace AND h.queue = old.queue AND h.unique_key = old.unique_key \
       AND h.until < $1 AND ",
    leads!("$3")
);
// Its time has passed: the key has all of its rate again.
const THROTTLES: &str = concat!(
    "DELETE FROM throttles t USING (SELECT namespace, queue, key FROM throttles \
     WHERE free_at < $1 ORDER BY free_at LIMIT $2) old \
     WHERE t.namespace = old.namespace AND t.queue = old.queue AND t.key = old.key \
       AND t.free_at < $1 AND ",
    leads!("$3")
);
const BLOBS: &str = concat!(
    "DELETE FROM blobs b USING (SELECT namespace, id FROM blobs \
     WHERE refs = 0 AND created_at < $1 ORDER BY created_at LIMIT $2) old \
     WHERE b.namespace = old.namespace AND b.id = old.id AND b.refs = 0 AND ",
    leads!("$3")
);
const WORKERS: &str = concat!(
    "DELETE FROM workers w USING (SELECT namespace, id FROM workers \
     WHERE seen_at < $1 LIMIT $2) old \
     WHERE w.namespace = old.namespace AND w.id = old.id AND w.seen_at < $1 AND ",
    leads!("$3")
);
const OPERATIONS: &str = concat!(
    "DELETE FROM operations o USING (SELECT namespace, id FROM operations \
     WHERE finished_at < $1 LIMIT $2) old \
     WHERE o.namespace = old.namespace AND o.id = old.id AND o.finished_at < $1 AND ",
    leads!("$3")
);
const ROLLUPS: &str = concat!(
    "DELETE FROM rollups r USING (SELECT namespace, minute, queue, kind, outcome \
     FROM rollups WHERE minute < $1 ORDER BY minute LIMIT $2) old \
     WHERE r.namespace = old.namespace AND r.minute = old.minute AND r.queue = old.queue \
       AND r.kind = old.kind AND r.outcome = old.outcome AND ",
    leads!("$3")
);

/// One step of a walk over jobs in id order.
pub(super) async fn prune_jobs(
    pool: &PgPool,
    lead: Option<Epoch>,
    aged: &Aged,
    after: Option<JobId>,
    limit: u32,
) -> Result<Option<Pruned<JobId>>> {
    let (mut ids, mut last, mut at_end): (Vec<Uuid>, Option<Uuid>, bool) =
        (Vec::new(), None, false);
    // First as many as may be deleted: where all are old, no more are looked at.
    for most in [i64::from(limit).min(SCAN_MAX), SCAN_MAX] {
        let rows = look(pool, aged, last.or(after.map(JobId::uuid)), most).await?;
        let mut looked = 0;
        for row in &rows {
            if ids.len() >= limit as usize {
                break;
            }
            last = Some(get(row, 0)?);
            looked += 1;
            if get::<Option<bool>>(row, 1)? == Some(true) {
                ids.extend(last);
            }
        }
        at_end = looked == rows.len() && rows.len() < most as usize;
        if at_end || ids.len() >= limit as usize {
            break;
        }
    }
    let deleted = if ids.is_empty() {
        0
    } else {
        let ended_before = aged.before;
        let deleted = forget(pool, Forget { ids, ended_before, by: By::Age(lead) }).await?;
        if deleted == 0 && is_past(pool, lead).await? {
            return Ok(None);
        }
        deleted
    };
    Ok(Some(Pruned { deleted, last: last.map(JobId::from_uuid), at_end }))
}

/// Jobs in the order of their ids, and whether each is past its time and of no run that is on record.
async fn look(pool: &PgPool, aged: &Aged, after: Option<Uuid>, most: i64) -> Result<Vec<PgRow>> {
    let sql = "SELECT id, state = ANY($3) AND state >= 10 AND changed_at < $4 \
                   AND (namespace = ANY($5)) = $6 AND (workflow_id IS NULL \
                   OR (SELECT w.id FROM workflows w WHERE w.id = workflow_id) IS NULL) FROM jobs \
               WHERE id > $1 AND id < $2 ORDER BY id LIMIT $7";
    let states: Vec<i16> = aged.states.iter().map(|state| *state as i16).collect();
    let (namespaces, included) = aged.whose.parts();
    let query = sqlx::query(sql)
        .bind(after.unwrap_or_default())
        .bind(aged.end().uuid())
        .bind(states)
        .bind(aged.before.micros())
        .bind(namespaces)
        .bind(included)
        .bind(most);
    query.fetch_all(pool).await.map_err(unchanged)
}

async fn drop_empty_partitions(
    pool: &PgPool,
    lead: Option<Epoch>,
    before: Timestamp,
) -> Result<()> {
    let sql = concat!(
        "SELECT windlass_drop_empty_partitions( \
             (to_timestamp($1::float8 / 1000000) AT TIME ZONE 'UTC')::date, $2) WHERE ",
        leads!("$3")
    );
    let query = sqlx::query(sql).bind(before.micros()).bind(DROPS_MAX).bind(bound(lead));
    query.execute(pool).await.map_err(after_write)?;
    Ok(())
}

/// Makes the partitions of the coming days.
pub(super) async fn ensure_partitions(pool: &PgPool) -> Result<()> {
    let query = sqlx::query("SELECT windlass_ensure_partitions($1)").bind(PARTITION_DAYS);
    query.execute(pool).await.map_err(after_write)?;
    Ok(())
}
