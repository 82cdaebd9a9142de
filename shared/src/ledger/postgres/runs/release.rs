//! Jobs of steps that a decision lets run.

use sqlx::PgConnection;
use uuid::Uuid;

use super::super::row::value_parts;
use super::rows::{StepJobRow, insert_jobs};
use crate::ledger::runs::{Release, Run};
use crate::model::id::JobId;
use crate::model::job::Value;
use crate::model::time::Timestamp;

/// Fills in blocked jobs and makes those of items; all of them are added to `released`. The run is locked.
pub(super) async fn release(
    connection: &mut PgConnection,
    run: &Run,
    releases: &[Release],
    now: i64,
    released: &mut Vec<JobId>,
) -> Result<(), sqlx::Error> {
    let mut blocked = Vec::new();
    let mut made: Vec<StepJobRow<'_>> = Vec::new();
    for release in releases {
        match release {
            Release::Blocked { id, payload, run_at, expires_at } => {
                blocked.push((*id, payload.as_ref(), *run_at, *expires_at));
            }
            Release::Item { ord, item, step, job } => {
                made.push(StepJobRow { ord: *ord, step, item: Some(*item), blocked: false, job });
            }
        }
    }
    if !blocked.is_empty() {
        released.extend(fill(connection, run, &blocked, now).await?);
    }
    if made.is_empty() {
        return Ok(());
    }
    insert_jobs(connection, run.id, &made, now).await?;
    released.extend(made.iter().map(|row| row.job.id));
    let sql = "
UPDATE workflow_steps s SET items_made = s.items_made + v.n
FROM (SELECT ord, count(*)::int AS n FROM unnest($2::int[]) AS v(ord) GROUP BY ord) v
WHERE s.workflow_id = $1 AND s.ord = v.ord";
    let ords: Vec<i32> = made.iter().map(|row| row.ord).collect();
    sqlx::query(sql).bind(run.id.uuid()).bind(ords).execute(connection).await?;
    Ok(())
}

/// A blocked job: its payload where it gets one, and when it may start and must have.
type Blocked<'a> = (JobId, Option<&'a Value>, Timestamp, Option<Timestamp>);

/// A payload that is replaced (a retried step has one of its first life) is named no more.
async fn fill(
    connection: &mut PgConnection,
    run: &Run,
    jobs: &[Blocked<'_>],
    now: i64,
) -> Result<Vec<JobId>, sqlx::Error> {
    const SQL: &str = "
WITH v AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::bytea[], $5::uuid[], $6::bigint[], $7::bigint[])
    AS v(id, payload, payload_blob, run_at, expires_at)
), old AS MATERIALIZED (
    SELECT j.payload_blob FROM v JOIN jobs j ON j.id = v.id
    WHERE j.payload_blob IS NOT NULL AND j.state + 0 = 0
      AND (v.payload IS NOT NULL OR v.payload_blob IS NOT NULL)
), filled AS (
    UPDATE jobs j SET state = CASE WHEN v.run_at > $2 THEN 1 ELSE 2 END, run_at = v.run_at, changed_at = $2,
        expires_at = coalesce(v.expires_at, j.expires_at),
        payload = CASE WHEN v.payload_blob IS NULL THEN coalesce(v.payload, j.payload) END,
        payload_blob = CASE WHEN v.payload IS NULL THEN coalesce(v.payload_blob, j.payload_blob) END
    FROM v WHERE j.id = v.id AND j.state + 0 = 0
    RETURNING j.id, v.payload_blob
), named AS (
    UPDATE blobs b SET refs = greatest(0, b.refs + n.change)
    FROM (SELECT id, sum(change)::int AS change FROM (
              SELECT payload_blob AS id, 1 AS change FROM filled WHERE payload_blob IS NOT NULL
              UNION ALL SELECT payload_blob, -1 FROM old
          ) one GROUP BY id) n
    WHERE b.namespace = $1 AND b.id = n.id
)
SELECT id FROM filled";
    let ids: Vec<Uuid> = sqlx::query_scalar(SQL)
        .bind(run.namespace.as_str())
        .bind(now)
        .bind(jobs.iter().map(|j| j.0.uuid()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| value_parts(j.1).0).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| value_parts(j.1).1).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| j.2.micros()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| j.3.map(Timestamp::micros)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(ids.into_iter().map(JobId::from_uuid).collect())
}
