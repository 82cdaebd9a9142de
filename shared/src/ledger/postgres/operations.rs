//! Bulk operations.

use sqlx::PgPool;
use sqlx::postgres::PgRow;

use super::Result;
use super::error::{after_write, unchanged};
use super::gates::{bound, leads};
use super::row::{get, int8, maybe_time, parse, time, unsigned};
use crate::ledger::{Epoch, Operation, SILENT_OPERATION, fit_text};
use crate::model::id::OperationId;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

pub(super) async fn put(pool: &PgPool, operation: &Operation) -> Result<()> {
    let sql = "INSERT INTO operations (namespace, id, action, state, matched, changed, error, created_at, \
                   finished_at, changed_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, \
                   (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
               ON CONFLICT (namespace, id) DO UPDATE SET action = EXCLUDED.action, \
                   state = EXCLUDED.state, matched = EXCLUDED.matched, changed = EXCLUDED.changed, \
                   error = EXCLUDED.error, created_at = EXCLUDED.created_at, \
                   finished_at = EXCLUDED.finished_at, changed_at = EXCLUDED.changed_at";
    sqlx::query(sql)
        .bind(operation.namespace.as_str())
        .bind(operation.id.uuid())
        .bind(&operation.action)
        .bind(&operation.state)
        .bind(int8(operation.matched))
        .bind(int8(operation.changed))
        .bind(operation.error.as_deref().map(fit_text))
        .bind(operation.created_at.micros())
        .bind(operation.finished_at.map(Timestamp::micros))
        .execute(pool)
        .await
        .map_err(after_write)?;
    Ok(())
}

pub(super) async fn fail_silent(
    pool: &PgPool,
    lead: Option<Epoch>,
    silent_since: Timestamp,
) -> Result<u64> {
    let sql = concat!(
        "UPDATE operations SET state = 'failed', error = $2, \
             finished_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
         WHERE state = 'running' AND coalesce(changed_at, created_at) < $1 AND ",
        leads!("$3")
    );
    let query =
        sqlx::query(sql).bind(silent_since.micros()).bind(SILENT_OPERATION).bind(bound(lead));
    Ok(query.execute(pool).await.map_err(after_write)?.rows_affected())
}

pub(super) async fn operation(
    pool: &PgPool,
    namespace: &Namespace,
    id: OperationId,
) -> Result<Option<Operation>> {
    let sql = "SELECT id, namespace, action, state, matched, changed, error, created_at, finished_at \
               FROM operations WHERE namespace = $1 AND id = $2";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(id.uuid());
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    row.as_ref().map(operation_of).transpose()
}

fn operation_of(row: &PgRow) -> Result<Operation> {
    Ok(Operation {
        id: OperationId::from_uuid(get(row, 0)?),
        namespace: parse(row, 1, "namespace")?,
        action: get(row, 2)?,
        state: get(row, 3)?,
        matched: unsigned(row, 4, "matched")?,
        changed: unsigned(row, 5, "changed")?,
        error: get(row, 6)?,
        created_at: time(row, 7)?,
        finished_at: maybe_time(row, 8)?,
    })
}
