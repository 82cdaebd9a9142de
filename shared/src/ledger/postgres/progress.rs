//! How far jobs are.

use sqlx::PgPool;

use super::Result;
use super::error::after_write;
use super::row::int8;
use crate::ledger::fit_text;
use crate::model::id::{Fence, JobId};
use crate::model::job::Progress;
use crate::model::name::Namespace;

pub(super) async fn set(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
    fence: Fence,
    progress: &Progress,
) -> Result<()> {
    let sql = "INSERT INTO job_progress AS p (job_id, namespace, fence, percent, message) \
               SELECT id, namespace, $3, $4, $5 FROM jobs \
               WHERE id = $1 AND namespace = $2 AND fence <= $3 \
               ON CONFLICT (job_id) DO UPDATE \
                   SET fence = EXCLUDED.fence, percent = EXCLUDED.percent, message = EXCLUDED.message \
                   WHERE p.fence <= EXCLUDED.fence";
    sqlx::query(sql)
        .bind(id.uuid())
        .bind(namespace.as_str())
        .bind(int8(fence.0))
        .bind(progress.percent)
        .bind(progress.message.as_deref().map(fit_text))
        .execute(pool)
        .await
        .map_err(after_write)?;
    Ok(())
}
