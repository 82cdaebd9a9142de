//! Large payloads and outputs, kept by reference.

use bytes::Bytes;
use sqlx::PgPool;

use super::Result;
use super::error::{after_write, unchanged};
use crate::model::id::BlobId;
use crate::model::name::Namespace;

pub(super) async fn put(
    pool: &PgPool,
    namespace: &Namespace,
    id: BlobId,
    bytes: &[u8],
) -> Result<()> {
    let sql = "INSERT INTO blobs (namespace, id, bytes, created_at) \
               VALUES ($1, $2, $3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
               ON CONFLICT (namespace, id) DO NOTHING";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(id.uuid()).bind(bytes);
    query.execute(pool).await.map_err(after_write)?;
    Ok(())
}

pub(super) async fn blob(
    pool: &PgPool,
    namespace: &Namespace,
    id: BlobId,
) -> Result<Option<Bytes>> {
    let sql = "SELECT bytes FROM blobs WHERE namespace = $1 AND id = $2";
    let query = sqlx::query_scalar(sql).bind(namespace.as_str()).bind(id.uuid());
    let bytes: Option<Vec<u8>> = query.fetch_optional(pool).await.map_err(unchanged)?;
    Ok(bytes.map(Bytes::from))
}
