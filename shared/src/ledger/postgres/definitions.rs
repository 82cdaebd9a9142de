//! Stored definitions of workflows.

use sqlx::postgres::PgRow;
use sqlx::{Acquire, PgConnection, PgPool};

use super::error::{after_write, unchanged};
use super::row::{get, int4, parse, small, time};
use super::{Inner, Result};
use crate::ledger::fit_text;
use crate::ledger::runs::Definition;
use crate::ledger::unreadable::readable;
use crate::model::name::Namespace;

/// The columns of [`definition_of`].
macro_rules! columns {
    () => {
        "namespace, name, version, created_at, by, document, source"
    };
}

/// See [`crate::ledger::Ledger::put_definition`].
pub(super) async fn put(inner: &Inner, definition: &Definition) -> Result<(u32, bool)> {
    let mut connection = inner.pool.acquire().await.map_err(unchanged)?;
    let (version, new) = put_in(&mut connection, definition).await.map_err(after_write)?;
    Ok((u32::try_from(version).unwrap_or_default(), new))
}

/// One writer of a name at a time: its lock goes with the transaction.
async fn put_in(
    connection: &mut PgConnection,
    definition: &Definition,
) -> Result<(i32, bool), sqlx::Error> {
    const PUT: &str = "
INSERT INTO definitions (namespace, name, version, created_at, by, document, source)
VALUES ($1, $2, $3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $4, $5, $6)";
    let (namespace, name) = (definition.namespace.as_str(), definition.name.as_str());
    let mut transaction = connection.begin().await?;
    let sql = "SELECT pg_advisory_xact_lock(hashtext('definitions'), hashtext($1 || '/' || $2))";
    sqlx::query(sql).bind(namespace).bind(name).execute(&mut *transaction).await?;
    let sql = "SELECT version, document FROM definitions WHERE namespace = $1 AND name = $2 \
               ORDER BY version DESC LIMIT 1";
    let query = sqlx::query_as(sql).bind(namespace).bind(name);
    let latest: Option<(i32, String)> = query.fetch_optional(&mut *transaction).await?;
    let version = match latest {
        Some((version, document)) if document == definition.document => {
            return Ok((version, false));
        }
        Some((version, _)) => version + 1,
        None => 1,
    };
    sqlx::query(PUT)
        .bind(namespace)
        .bind(name)
        .bind(version)
        .bind(fit_text(&definition.by))
        .bind(&definition.document)
        .bind(fit_text(&definition.source))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok((version, true))
}

pub(super) async fn definition(
    pool: &PgPool,
    namespace: &Namespace,
    name: &str,
    version: Option<u32>,
) -> Result<Option<Definition>> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM definitions WHERE namespace = $1 AND name = $2 AND ($3::int IS NULL OR version = $3) \
         ORDER BY version DESC LIMIT 1"
    );
    if name.contains('\0') {
        return Ok(None);
    }
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name).bind(version.map(int4));
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    row.as_ref().map(definition_of).transpose()
}

/// The latest version of each, by name in the order of bytes.
pub(super) async fn latest(
    pool: &PgPool,
    namespace: &Namespace,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<Definition>> {
    let sql = concat!(
        "SELECT DISTINCT ON (name COLLATE \"C\") ",
        columns!(),
        " FROM definitions WHERE namespace = $1 AND ($2::text IS NULL OR name COLLATE \"C\" > $2) \
         ORDER BY name COLLATE \"C\", version DESC LIMIT $3"
    );
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(after).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a definition", &rows, definition_of))
}

/// The versions of one, newest first.
pub(super) async fn versions(
    pool: &PgPool,
    namespace: &Namespace,
    name: &str,
    before: Option<u32>,
    limit: u32,
) -> Result<Vec<Definition>> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM definitions WHERE namespace = $1 AND name = $2 AND ($3::int IS NULL OR version < $3) \
         ORDER BY version DESC LIMIT $4"
    );
    if name.contains('\0') {
        return Ok(Vec::new());
    }
    let query = sqlx::query(sql)
        .bind(namespace.as_str())
        .bind(name)
        .bind(before.map(int4))
        .bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a definition", &rows, definition_of))
}

fn definition_of(row: &PgRow) -> Result<Definition> {
    Ok(Definition {
        namespace: parse(row, 0, "namespace")?,
        name: get(row, 1)?,
        version: small(row, 2, "version")?,
        created_at: time(row, 3)?,
        by: get(row, 4)?,
        document: get(row, 5)?,
        source: get(row, 6)?,
    })
}
