//! Partial results of jobs.

use bytes::Bytes;
use sqlx::{PgPool, Row};

use super::Result;
use super::error::{after_write, unchanged};
use super::row::{int8, time, unsigned};
use crate::ledger::runs::Checkpoint;
use crate::model::id::{Fence, JobId};
use crate::model::name::Namespace;

/// `false`: the job is unknown or terminal, or a later lease has stored one.
pub(super) async fn put(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
    fence: Fence,
    data: &[u8],
) -> Result<bool> {
    let sql = "INSERT INTO checkpoints AS c (job_id, namespace, fence, at, data) \
               SELECT j.id, j.namespace, $3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $4 \
               FROM jobs j WHERE j.id = $1 AND NOT j.namespace <> $2 AND j.state + 0 < 10 \
               ON CONFLICT (job_id) DO UPDATE SET fence = EXCLUDED.fence, at = EXCLUDED.at, \
                   data = EXCLUDED.data WHERE c.fence <= EXCLUDED.fence";
    let query = sqlx::query(sql).bind(id.uuid()).bind(namespace.as_str());
    let query = query.bind(int8(fence.0)).bind(data);
    Ok(query.execute(pool).await.map_err(after_write)?.rows_affected() > 0)
}

pub(super) async fn checkpoint(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<Checkpoint>> {
    let sql = "SELECT fence, at, data FROM checkpoints WHERE job_id = $1 AND namespace = $2";
    let query = sqlx::query(sql).bind(id.uuid()).bind(namespace.as_str());
    let Some(row) = query.fetch_optional(pool).await.map_err(unchanged)? else { return Ok(None) };
    Ok(Some(Checkpoint {
        fence: Fence(unsigned(&row, 0, "fence")?),
        at: time(&row, 1)?,
        data: Bytes::from(row.try_get::<Vec<u8>, _>(2).map_err(unchanged)?),
    }))
}
