//! Stored definitions. A version is never changed.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::ledger::runs::Definition;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::statement::{Args, execute, row, rows};
use crate::ledger::sqlite::writer::Tx;
use crate::ledger::unreadable::readable;
use crate::model::name::Namespace;

/// `SELECT` of whole definitions; what follows names them, as `d`.
macro_rules! select_definitions {
    ($tail:literal) => {
        concat!(
            "SELECT d.namespace, d.name, d.version, d.created_at, d.by, d.document, d.source ",
            "FROM definitions d ",
            $tail
        )
    };
}

fn definition_of(row: &SqliteRow) -> Result<Definition, Fault> {
    let mut c = Columns::of(row);
    Ok(Definition {
        namespace: c.parsed()?,
        name: c.next()?,
        version: c.count()?,
        created_at: c.time()?,
        by: c.next()?,
        document: c.next()?,
        source: c.next()?,
    })
}

/// Stores a new version, unless its document is that of the latest: the version, and whether it is new.
pub(in crate::ledger::sqlite) async fn put(
    tx: &mut Tx<'_>,
    new: &Definition,
) -> Result<(u32, bool), Fault> {
    let latest = definition(tx.connection, &new.namespace, &new.name, None).await?;
    if let Some(latest) = latest.as_ref().filter(|latest| latest.document == new.document) {
        return Ok((latest.version, false));
    }
    let version = latest.map_or(0, |latest| latest.version) + 1;
    let sql = "INSERT INTO definitions (namespace, name, version, created_at, by, document, \
               source) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let args = Args::default()
        .with(new.namespace.as_str())
        .with(new.name.as_str())
        .with(version)
        .with(tx.now.micros())
        .with(new.by.as_str())
        .with(new.document.as_str())
        .with(new.source.as_str());
    execute(tx.connection, sql, args).await?;
    Ok((version, true))
}

/// One version, or the latest.
pub(in crate::ledger::sqlite) async fn definition(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    name: &str,
    version: Option<u32>,
) -> Result<Option<Definition>, Fault> {
    let sql = select_definitions!(
        "WHERE d.namespace = ?1 AND d.name = ?2 AND d.version = coalesce(?3, \
         (SELECT max(version) FROM definitions WHERE namespace = ?1 AND name = ?2))"
    );
    let args = Args::default().with(namespace.as_str()).with(name).with(version);
    row(connection, sql, args).await?.as_ref().map(definition_of).transpose()
}

/// The latest version of each, by name after `after`.
pub(in crate::ledger::sqlite) async fn latest(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<Definition>, Fault> {
    let sql = select_definitions!(
        "WHERE d.namespace = ? AND d.name > ? AND NOT EXISTS (SELECT 1 FROM definitions n \
         WHERE n.namespace = d.namespace AND n.name = d.name AND n.version > d.version) \
         ORDER BY d.name LIMIT ?"
    );
    let args = Args::default().with(namespace.as_str()).with(after.unwrap_or_default()).with(limit);
    Ok(readable("a definition", &rows(connection, sql, args).await?, definition_of))
}

/// The versions of one, newest first, before `before`.
pub(in crate::ledger::sqlite) async fn versions(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    name: &str,
    before: Option<u32>,
    limit: u32,
) -> Result<Vec<Definition>, Fault> {
    let sql = select_definitions!(
        "WHERE d.namespace = ? AND d.name = ? AND d.version < ? ORDER BY d.version DESC LIMIT ?"
    );
    let before = before.map_or(i64::MAX, i64::from);
    let args = Args::default().with(namespace.as_str()).with(name).with(before).with(limit);
    Ok(readable("a definition", &rows(connection, sql, args).await?, definition_of))
}
