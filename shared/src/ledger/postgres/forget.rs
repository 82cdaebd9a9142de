//! Deleting terminal jobs with everything that is about them alone.

use sqlx::PgPool;
use uuid::Uuid;

use super::error::{after_write, is_collision};
use super::gates::{bound, leads};
use super::row::get;
use super::{LedgerError, Result};
use crate::ledger::Epoch;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Tries of a statement that met a deadlock.
const TRIES_MAX: u32 = 5;

/// Deletes jobs, if they are terminal still, and what hangs on them. A large value goes with the last job
/// that names it. The hold of a window that lasts goes with a job that is deleted by hand ($3), and stays
/// when old jobs are pruned: its promise is about submissions, not about the job. Those of a run go with it ($4) or
/// after it.
const FORGET: &str = concat!(
    "
WITH dead AS (
    DELETE FROM jobs
    WHERE id = ANY($1) AND state >= 10 AND changed_at < $2 AND ($3::text IS NULL OR namespace = $3)
      AND ($4 OR workflow_id IS NULL
           OR $3 IS NULL AND (SELECT w.id FROM workflows w WHERE w.id = workflow_id) IS NULL)
      AND ",
    leads!("$5"),
    "
    RETURNING id, namespace, queue, unique_key, payload_blob, output_blob, workflow_id, workflow_ord,
        workflow_item
), attempts_gone AS (
    DELETE FROM attempts a USING dead d WHERE a.job_id = d.id
), logs_gone AS (
    DELETE FROM job_logs l USING dead d WHERE l.job_id = d.id
), heads_gone AS (
    DELETE FROM job_log_heads l USING dead d WHERE l.job_id = d.id
), checkpoints_gone AS (
    DELETE FROM checkpoints c USING dead d WHERE c.job_id = d.id
), items_gone AS (
    DELETE FROM workflow_items i USING dead d
    WHERE d.workflow_item IS NOT NULL AND i.workflow_id = d.workflow_id AND i.ord = d.workflow_ord
      AND i.item = d.workflow_item AND i.job_id = d.id
), progress_gone AS (
    DELETE FROM job_progress p USING dead d WHERE p.job_id = d.id
), holds_gone AS (
    DELETE FROM holds h USING dead d
    WHERE $3 IS NOT NULL AND h.namespace = d.namespace AND h.queue = d.queue
      AND h.unique_key = d.unique_key AND h.job_id = d.id
), unnamed AS (
    UPDATE blobs b SET refs = greatest(0, b.refs - n.jobs)
    FROM (SELECT namespace, id, count(*)::int AS jobs FROM (
              SELECT namespace, payload_blob AS id FROM dead WHERE payload_blob IS NOT NULL
              UNION ALL SELECT namespace, output_blob FROM dead WHERE output_blob IS NOT NULL
          ) one GROUP BY namespace, id) n
    WHERE b.namespace = n.namespace AND b.id = n.id
)
SELECT namespace, payload_blob, output_blob FROM dead"
);

/// After [`FORGET`] has counted them down. What a crash in between leaves goes with age, as values do that no
/// job ever named.
const FORGET_VALUES: &str = "
DELETE FROM blobs b USING unnest($1::text[], $2::uuid[]) AS n(namespace, id)
WHERE b.namespace = n.namespace AND b.id = n.id AND b.refs = 0";

/// Which jobs.
pub(super) struct Forget<'a> {
    pub(super) ids: Vec<Uuid>,
    /// By ledger time.
    pub(super) ended_before: Timestamp,
    pub(super) by: By<'a>,
}

/// Who forgets them.
#[derive(Clone, Copy)]
pub(super) enum By<'a> {
    /// Somebody, in this namespace.
    Hand(&'a Namespace),
    /// Time, as told by that leader.
    Age(Option<Epoch>),
    /// Their run's end in the ledger.
    Run,
}

/// Forgets jobs; how many. Safe to repeat.
pub(super) async fn forget(pool: &PgPool, what: Forget<'_>) -> Result<u64> {
    for _ in 0..TRIES_MAX {
        let query = sqlx::query(FORGET)
            .bind(&what.ids)
            .bind(what.ended_before.micros())
            .bind(match what.by {
                By::Hand(namespace) => Some(namespace.as_str()),
                By::Age(_) | By::Run => None,
            })
            .bind(matches!(what.by, By::Run))
            .bind(match what.by {
                By::Age(lead) => bound(lead),
                By::Hand(_) | By::Run => None,
            });
        match query.fetch_all(pool).await {
            Ok(rows) => {
                let named = rows.iter().map(|row| Ok((get(row, 0)?, [get(row, 1)?, get(row, 2)?])));
                forget_values(pool, named.collect::<Result<_>>()?).await?;
                return Ok(rows.len() as u64);
            }
            Err(error) if is_collision(&error) => {}
            Err(error) => return Err(after_write(error)),
        }
    }
    Err(LedgerError::Unavailable("deleting kept colliding with other writes".into()))
}

/// Drops values that nobody names any more, of those that rows named that are gone: namespace, and its values.
pub(super) async fn forget_values(
    pool: &PgPool,
    gone: Vec<(String, [Option<Uuid>; 2])>,
) -> Result<()> {
    let (mut namespaces, mut ids) = (Vec::<String>::new(), Vec::<Uuid>::new());
    for (namespace, values) in gone {
        for id in values.into_iter().flatten() {
            namespaces.push(namespace.clone());
            ids.push(id);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(FORGET_VALUES).bind(namespaces).bind(ids);
    query.execute(pool).await.map_err(after_write)?;
    Ok(())
}
