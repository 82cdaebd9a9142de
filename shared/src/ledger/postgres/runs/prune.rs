//! Forgetting runs that ended long ago.

use sqlx::PgPool;
use uuid::Uuid;

use super::super::Result;
use super::super::error::{after_write, unchanged};
use super::super::forget::{By, Forget, forget, forget_values};
use super::super::gates::{bound, leads};
use crate::ledger::Epoch;
use crate::model::time::Timestamp;

/// Jobs looked up at a time.
const JOBS_MAX: i64 = 1_000;
/// Such looks of one call. What is left then has no run any more, and goes with old jobs.
const LOOKS_MAX: u32 = 20;

/// A child is kept until its parent has ended: its step looks at it.
const FIND: &str = "
SELECT w.id, w.steps FROM workflows w
WHERE w.state >= 10 AND w.finished_at < $1
  AND (SELECT p.id FROM workflows p WHERE p.id = w.parent_id AND p.state + 0 < 10) IS NULL
ORDER BY w.finished_at LIMIT $2";

/// The run goes first, so that none is there in part. Its items go with their jobs.
const FORGET: &str = concat!(
    "
WITH dead AS (
    DELETE FROM workflows WHERE id = ANY($1) AND state >= 10 AND finished_at < $2 AND ",
    leads!("$3"),
    "
    RETURNING id, namespace, input_blob, output_blob
), steps_gone AS (
    DELETE FROM workflow_steps s USING dead d WHERE s.workflow_id = d.id
), signals_gone AS (
    DELETE FROM workflow_signals s USING dead d WHERE s.workflow_id = d.id
), unnamed AS (
    UPDATE blobs b SET refs = greatest(0, b.refs - n.runs)
    FROM (SELECT namespace, id, count(*)::int AS runs FROM (
              SELECT namespace, input_blob AS id FROM dead WHERE input_blob IS NOT NULL
              UNION ALL SELECT namespace, output_blob FROM dead WHERE output_blob IS NOT NULL
          ) one GROUP BY namespace, id) n
    WHERE b.namespace = n.namespace AND b.id = n.id
)
SELECT id, namespace, input_blob, output_blob FROM dead"
);

/// Forgets runs that ended before that instant, with everything that is theirs: of at most about `limit` steps, but
/// at least one run; how many runs and jobs. Safe to repeat.
pub(in super::super) async fn prune(
    pool: &PgPool,
    lead: Option<Epoch>,
    before: Timestamp,
    limit: u32,
) -> Result<u64> {
    let query = sqlx::query_as(FIND).bind(before.micros()).bind(i64::from(limit));
    let found: Vec<(Uuid, i32)> = query.fetch_all(pool).await.map_err(unchanged)?;
    let (mut ids, mut steps) = (Vec::new(), 0);
    for (id, more) in found {
        if steps >= i64::from(limit) {
            break;
        }
        steps += i64::from(more) + 1;
        ids.push(id);
    }
    if ids.is_empty() {
        return Ok(0);
    }
    let query = sqlx::query_as(FORGET).bind(ids).bind(before.micros()).bind(bound(lead));
    let dead: Vec<(Uuid, String, Option<Uuid>, Option<Uuid>)> =
        query.fetch_all(pool).await.map_err(after_write)?;
    let ids: Vec<Uuid> = dead.iter().map(|run| run.0).collect();
    let runs = ids.len() as u64;
    let values = dead.into_iter().map(|(_, namespace, input, output)| (namespace, [input, output]));
    forget_values(pool, values.collect()).await?;
    Ok(runs + forget_jobs(pool, &ids).await?)
}

async fn forget_jobs(pool: &PgPool, runs: &[Uuid]) -> Result<u64> {
    let mut gone = 0;
    for _ in 0..LOOKS_MAX {
        let sql = "SELECT id FROM jobs WHERE workflow_id = ANY($1) AND state + 0 >= 10 LIMIT $2";
        let query = sqlx::query_scalar(sql).bind(runs).bind(JOBS_MAX);
        let ids: Vec<Uuid> = query.fetch_all(pool).await.map_err(unchanged)?;
        if ids.is_empty() {
            break;
        }
        let last = ids.len() < usize::try_from(JOBS_MAX).unwrap_or(usize::MAX);
        let ended_before = Timestamp::from_micros(i64::MAX);
        gone += forget(pool, Forget { ids, ended_before, by: By::Run }).await?;
        if last {
            break;
        }
    }
    Ok(gone)
}
