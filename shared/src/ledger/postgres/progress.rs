//! How far jobs are.

use std::cmp::Reverse;

use sqlx::PgPool;

use super::error::{after_write, is_collision};
use super::row::int8;
use super::{LedgerError, Result};
use crate::ledger::{JobProgress, fit_text};
use crate::model::name::Namespace;

/// Tries of a write that met a deadlock.
const TRIES_MAX: u32 = 5;

const SET: &str = "
INSERT INTO job_progress AS p (job_id, namespace, fence, percent, message)
SELECT j.id, j.namespace, v.fence, v.percent, v.message
FROM unnest($2::uuid[], $3::bigint[], $4::float8[], $5::text[]) AS v(id, fence, percent, message)
JOIN jobs j ON j.id = v.id AND NOT j.namespace <> $1 AND j.fence + 0 <= v.fence
ORDER BY j.id
ON CONFLICT (job_id) DO UPDATE
    SET fence = EXCLUDED.fence, percent = EXCLUDED.percent, message = EXCLUDED.message
    WHERE p.fence <= EXCLUDED.fence";

pub(super) async fn set(
    pool: &PgPool,
    namespace: &Namespace,
    mut progress: Vec<JobProgress>,
) -> Result<()> {
    // Of a job that is there twice the highest fence counts, and of that the last word.
    progress.reverse();
    progress.sort_by_key(|p| (p.id, Reverse(p.fence)));
    progress.dedup_by_key(|p| p.id);
    for _ in 0..TRIES_MAX {
        let messages = progress.iter().map(|p| p.progress.message.as_deref().map(fit_text));
        let query = sqlx::query(SET)
            .bind(namespace.as_str())
            .bind(progress.iter().map(|p| p.id.uuid()).collect::<Vec<_>>())
            .bind(progress.iter().map(|p| int8(p.fence.0)).collect::<Vec<_>>())
            .bind(progress.iter().map(|p| p.progress.percent).collect::<Vec<_>>())
            .bind(messages.collect::<Vec<_>>());
        match query.execute(pool).await {
            Ok(_) => return Ok(()),
            Err(error) if is_collision(&error) => {}
            Err(error) => return Err(after_write(error)),
        }
    }
    Err(LedgerError::Unavailable("progress kept colliding with other writes".into()))
}
