//! Forgetting runs that ended long ago.

use sqlx::PgPool;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::super::Result;
use super::super::error::{after_write, unchanged};
use super::super::forget::{By, Forget, forget, forget_values};
use super::super::gates::{bound, is_past, leads};
use super::super::row::{get, time};
use crate::ledger::Epoch;
use crate::ledger::retention::{AgedRuns, Pruned, RunPlace};
use crate::model::id::WorkflowId;
use crate::model::time::Timestamp;

/// Jobs looked up at a time.
const JOBS_MAX: i64 = 1_000;
/// Such looks of one call. What is left then has no run any more, and goes with old jobs.
const LOOKS_MAX: u32 = 20;

/// Runs looked at by one statement.
const SCAN_MAX: i64 = 5_000;

/// A child is kept until its parent has ended: its step looks at it.
const FIND: &str = "
SELECT w.id, w.finished_at, w.steps, w.state = ANY($4) AND (w.namespace = ANY($5)) = $6
  AND (SELECT p.id FROM workflows p WHERE p.id = w.parent_id AND p.state + 0 < 10) IS NULL
FROM workflows w
WHERE w.state >= 10 AND w.finished_at < $1 AND w.finished_at >= $2 AND (w.finished_at, w.id) > ($2, $3)
ORDER BY w.finished_at, w.id LIMIT $7";

/// The run goes first, so that none is there in part. Its items go with their jobs.
const FORGET: &str = concat!(
    "
WITH dead AS (
    DELETE FROM workflows w WHERE w.id = ANY($1) AND w.state >= 10 AND w.finished_at < $2
      AND (SELECT p.id FROM workflows p WHERE p.id = w.parent_id AND p.state + 0 < 10) IS NULL AND ",
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

/// One step of a walk over runs in the order of their ends.
pub(in super::super) async fn prune(
    pool: &PgPool,
    lead: Option<Epoch>,
    aged: &AgedRuns,
    after: Option<RunPlace>,
    limit: u32,
) -> Result<Option<Pruned<RunPlace>>> {
    let (mut ids, mut last, mut steps) = (Vec::<Uuid>::new(), None, 0);
    let mut at_end = false;
    // First as many as may be deleted at most: where all are old, no more are looked at.
    for most in [i64::from(limit).min(SCAN_MAX), SCAN_MAX] {
        let rows = look(pool, aged, last.or(after), most).await?;
        let mut looked = 0;
        for row in &rows {
            if steps >= i64::from(limit) {
                break;
            }
            let id: Uuid = get(row, 0)?;
            last = Some(RunPlace { finished_at: time(row, 1)?, id: WorkflowId::from_uuid(id) });
            looked += 1;
            if get::<bool>(row, 3)? {
                steps += i64::from(get::<i32>(row, 2)?) + 1;
                ids.push(id);
            }
        }
        at_end = looked == rows.len() && rows.len() < most as usize;
        if at_end || steps >= i64::from(limit) {
            break;
        }
    }
    let mut deleted = 0;
    if !ids.is_empty() {
        let query = sqlx::query_as(FORGET).bind(ids).bind(aged.before.micros()).bind(bound(lead));
        let dead: Vec<(Uuid, String, Option<Uuid>, Option<Uuid>)> =
            query.fetch_all(pool).await.map_err(after_write)?;
        if dead.is_empty() && is_past(pool, lead).await? {
            return Ok(None);
        }
        let ids: Vec<Uuid> = dead.iter().map(|run| run.0).collect();
        let values = dead.into_iter().map(|(_, name, input, output)| (name, [input, output]));
        forget_values(pool, values.collect()).await?;
        deleted = ids.len() as u64 + forget_jobs(pool, &ids, aged).await?;
    }
    Ok(Some(Pruned { deleted, last, at_end }))
}

/// Runs in the order of their ends, and whether each is past its time and not waited for.
async fn look(
    pool: &PgPool,
    aged: &AgedRuns,
    after: Option<RunPlace>,
    most: i64,
) -> Result<Vec<PgRow>> {
    let (from, id) =
        after.map_or((i64::MIN, Uuid::nil()), |at| (at.finished_at.micros(), at.id.uuid()));
    let states: Vec<i16> = aged.states.iter().map(|state| *state as i16).collect();
    let (namespaces, included) = aged.whose.parts();
    let query = sqlx::query(FIND)
        .bind(aged.before.micros())
        .bind(from)
        .bind(id)
        .bind(states)
        .bind(namespaces)
        .bind(included)
        .bind(most);
    query.fetch_all(pool).await.map_err(unchanged)
}

/// Those that are past their own time.
async fn forget_jobs(pool: &PgPool, runs: &[Uuid], aged: &AgedRuns) -> Result<u64> {
    let (states, before): (Vec<i16>, Vec<i64>) =
        aged.jobs.iter().map(|(state, before)| (*state as i16, before.micros())).unzip();
    let mut gone = 0;
    for _ in 0..LOOKS_MAX {
        let sql = "SELECT id FROM jobs WHERE workflow_id = ANY($1) AND state + 0 >= 10 \
                   AND changed_at < ($3::bigint[])[array_position($2::smallint[], state)] LIMIT $4";
        let query = sqlx::query_scalar(sql).bind(runs).bind(&states).bind(&before).bind(JOBS_MAX);
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
