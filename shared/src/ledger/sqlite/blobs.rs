//! Large payloads and outputs, kept by reference.

use bytes::Bytes;
use sqlx::sqlite::SqliteConnection;

use super::fault::Fault;
use super::jobs::Columns;
use super::statement::{Args, execute, row};
use super::writer::Tx;
use crate::model::id::BlobId;
use crate::model::name::Namespace;

/// A condition: no job and no run names the value of this table.
macro_rules! unnamed {
    ($blobs:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM jobs WHERE payload_blob = ",
            $blobs,
            ".id) \
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE output_blob = ",
            $blobs,
            ".id) \
             AND NOT EXISTS (SELECT 1 FROM workflows WHERE input_blob = ",
            $blobs,
            ".id) \
             AND NOT EXISTS (SELECT 1 FROM workflows WHERE output_blob = ",
            $blobs,
            ".id)"
        )
    };
}
pub(super) use unnamed;

/// Keeps a value; the first one of an id stays.
pub(super) async fn put(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: BlobId,
    bytes: &Bytes,
) -> Result<(), Fault> {
    let sql = "INSERT INTO blobs (namespace, id, created_at, bytes) VALUES (?, ?, ?, ?) \
               ON CONFLICT DO NOTHING";
    let args = Args::default()
        .with(namespace.as_str())
        .with(id.as_bytes().as_slice())
        .with(tx.now.micros())
        .with(bytes.as_ref());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

/// A kept value.
pub(super) async fn blob(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: BlobId,
) -> Result<Option<Bytes>, Fault> {
    let sql = "SELECT bytes FROM blobs WHERE namespace = ? AND id = ?";
    let args = Args::default().with(namespace.as_str()).with(id.as_bytes().as_slice());
    let found = row(connection, sql, args).await?;
    found.map(|row| Ok(Columns::of(&row).next::<Vec<u8>>()?.into())).transpose()
}

/// Deletes those of these values that no job and no run names any more.
pub(super) async fn forget_unnamed(
    connection: &mut SqliteConnection,
    values: &[(Namespace, [u8; 16])],
) -> Result<(), Fault> {
    let sql = concat!("DELETE FROM blobs WHERE namespace = ? AND id = ? AND ", unnamed!("blobs"));
    for (namespace, id) in values {
        let args = Args::default().with(namespace.as_str()).with(id.as_slice());
        execute(connection, sql, args).await?;
    }
    Ok(())
}
