//! API keys.

use sqlx::PgPool;
use sqlx::postgres::PgRow;

use super::Result;
use super::error::{BadColumn, after_write, unchanged};
use super::row::{get, maybe_time, time};
use crate::ledger::unreadable::readable;
use crate::ledger::{ApiKey, Role, fit_text};
use crate::model::id::KeyId;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Most keys of one answer.
const KEYS_MAX: i64 = 10_000;

const ROLES: [(Role, &str); 5] = [
    (Role::Admin, "admin"),
    (Role::Operator, "operator"),
    (Role::Submitter, "submitter"),
    (Role::Worker, "worker"),
    (Role::Viewer, "viewer"),
];

fn word(role: Role) -> &'static str {
    let found = ROLES.iter().find(|(known, _)| *known == role);
    found.expect("every role is in the table").1
}

pub(super) async fn create(pool: &PgPool, key: &ApiKey) -> Result<()> {
    let sql = "INSERT INTO api_keys (id, public, secret_hash, name, role, namespace, created_at, \
                   expires_at, revoked_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    sqlx::query(sql)
        .bind(key.id.uuid())
        .bind(&key.public)
        .bind(&key.secret_hash[..])
        .bind(fit_text(&key.name))
        .bind(word(key.role))
        .bind(key.namespace.as_ref().map(Namespace::as_str))
        .bind(key.created_at.micros())
        .bind(key.expires_at.map(Timestamp::micros))
        .bind(key.revoked_at.map(Timestamp::micros))
        .execute(pool)
        .await
        .map_err(after_write)?;
    Ok(())
}

pub(super) async fn key(pool: &PgPool, public: &str) -> Result<Option<ApiKey>> {
    if public.contains('\0') {
        return Ok(None);
    }
    let sql = "SELECT id, public, secret_hash, name, role, namespace, created_at, expires_at, revoked_at \
               FROM api_keys WHERE public = $1";
    let row = sqlx::query(sql).bind(public).fetch_optional(pool).await.map_err(unchanged)?;
    row.as_ref().map(key_of).transpose()
}

pub(super) async fn keys(pool: &PgPool) -> Result<Vec<ApiKey>> {
    let sql = "SELECT id, public, secret_hash, name, role, namespace, created_at, expires_at, revoked_at \
               FROM api_keys ORDER BY created_at DESC, id DESC LIMIT $1";
    let rows = sqlx::query(sql).bind(KEYS_MAX).fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a key", &rows, key_of))
}

fn key_of(row: &PgRow) -> Result<ApiKey> {
    let role: &str = get(row, 4)?;
    let role = ROLES.iter().find(|(_, word)| *word == role).ok_or(BadColumn { column: "role" })?;
    let hash: &[u8] = get(row, 2)?;
    let namespace: Option<&str> = get(row, 5)?;
    let namespace = namespace.map(str::parse).transpose();
    Ok(ApiKey {
        id: KeyId::from_uuid(get(row, 0)?),
        public: get(row, 1)?,
        secret_hash: hash.try_into().map_err(|_| BadColumn { column: "secret_hash" })?,
        name: get(row, 3)?,
        role: role.0,
        namespace: namespace.map_err(|_| BadColumn { column: "namespace" })?,
        created_at: time(row, 6)?,
        expires_at: maybe_time(row, 7)?,
        revoked_at: maybe_time(row, 8)?,
    })
}

pub(super) async fn revoke(pool: &PgPool, id: KeyId) -> Result<bool> {
    let sql = "UPDATE api_keys \
               SET revoked_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
               WHERE id = $1 AND revoked_at IS NULL";
    let query = sqlx::query(sql).bind(id.uuid());
    Ok(query.execute(pool).await.map_err(after_write)?.rows_affected() > 0)
}
