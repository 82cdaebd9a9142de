//! See [`crate::ledger::upkeep`].

use sqlx::sqlite::SqliteConnection;

use super::fault::Fault;
use super::jobs::Columns;
use super::run_calls::change;
use super::statement::{Args, execute, rows};
use super::writer::Tx;
use super::{LedgerError, Result, read};
use crate::ledger::upkeep::{LastUpkeep, Upkeep};
use crate::model::time::Timestamp;

#[allow(missing_docs, reason = "documented once, at `Ledger`")]
impl super::Sqlite {
    pub async fn note_upkeep(&self, what: Upkeep, at: Option<Timestamp>) -> Result<()> {
        change!(self, |tx| note(tx, what, at))
    }

    pub async fn last_upkeep(&self) -> Result<LastUpkeep> {
        read!(self, last)
    }
}

async fn note(tx: &mut Tx<'_>, what: Upkeep, at: Option<Timestamp>) -> Result<(), Fault> {
    let sql = "INSERT INTO upkeep (name, at) VALUES (?1, ?2) \
        ON CONFLICT (name) DO UPDATE SET at = excluded.at WHERE ?3 AND at < excluded.at";
    let args =
        Args::default().with(what.as_str()).with(at.unwrap_or(tx.now).micros()).with(at.is_some());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

async fn last(connection: &mut SqliteConnection) -> Result<LastUpkeep, Fault> {
    let mut found = LastUpkeep::new();
    for row in rows(connection, "SELECT name, at FROM upkeep", Args::default()).await? {
        let mut columns = Columns::of(&row);
        let (name, at): (&str, _) = (columns.next()?, columns.time()?);
        // What a newer build notes is nothing to this one.
        if let Some(what) = Upkeep::parse(name) {
            found.insert(what, at);
        }
    }
    Ok(found)
}
