//! Runs, newest first.

use sqlx::PgPool;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::super::Result;
use super::super::error::unchanged;
use super::super::row::get;
use super::row::{self, run_columns};
use crate::ledger::runs::{Run, RunFilter};
use crate::ledger::unreadable::readable;
use crate::model::id::WorkflowId;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Most runs of one answer.
const RUNS_MAX: u32 = 500;
/// Reads of one call: more than one only where rows cannot be read by this build.
const READS_MAX: u32 = 20;

/// A page that is not full is the last one, so rows that this build cannot read are made up for.
pub(in super::super) async fn list(
    pool: &PgPool,
    namespace: &Namespace,
    filter: &RunFilter,
    before: Option<WorkflowId>,
    limit: u32,
) -> Result<Vec<Run>> {
    // No stored text has a NUL, and the database takes none.
    let texts = filter.tags.iter().chain(&filter.name).chain(&filter.definition);
    let limit = limit.min(RUNS_MAX) as usize;
    if limit == 0 || texts.into_iter().any(|text| text.contains('\0')) {
        return Ok(Vec::new());
    }
    let (mut runs, mut before) = (Vec::new(), before.map_or(Uuid::max(), WorkflowId::uuid));
    for _ in 0..READS_MAX {
        let most = limit - runs.len();
        let rows = page(pool, namespace, filter, before, most).await?;
        runs.extend(readable("a run", &rows, row::run));
        match rows.last() {
            Some(last) if rows.len() == most && runs.len() < limit => before = get(last, 0)?,
            _ => break,
        }
    }
    Ok(runs)
}

async fn page(
    pool: &PgPool,
    namespace: &Namespace,
    filter: &RunFilter,
    before: Uuid,
    most: usize,
) -> Result<Vec<PgRow>> {
    let sql = concat!(
        "SELECT ",
        run_columns!(),
        " FROM workflows w WHERE w.namespace = $1 AND w.id < $2 \
         AND (cardinality($3::smallint[]) = 0 OR w.state = ANY($3)) \
         AND ($4::text IS NULL OR w.name = $4) AND ($5::text IS NULL OR w.definition = $5) \
         AND w.tags @> $6::text[] AND w.created_at >= $7 AND w.created_at < $8 \
         ORDER BY w.id DESC LIMIT $9"
    );
    sqlx::query(sql)
        .bind(namespace.as_str())
        .bind(before)
        .bind(filter.states.iter().map(|state| *state as i16).collect::<Vec<_>>())
        .bind(filter.name.as_deref())
        .bind(filter.definition.as_deref())
        .bind(&filter.tags)
        .bind(filter.created_after.map_or(i64::MIN, Timestamp::micros))
        .bind(filter.created_before.map_or(i64::MAX, Timestamp::micros))
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
        .map_err(unchanged)
}
