//! Results of load tests.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::fault::Fault;
use super::jobs::Columns;
use super::run_calls::change;
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Result, Sqlite, read};
use crate::ledger::load_results::{KEPT, PAGE_MAX, ResultFilter, StoredResult};
use crate::ledger::unreadable::readable;

macro_rules! select_results {
    ($tail:literal) => {
        concat!("SELECT id, profile, machine, passed, began_at, result FROM load_results ", $tail)
    };
}

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn add_load_result(&self, new: &StoredResult) -> Result<()> {
        let new = new.clone();
        change!(self, |tx| add(tx, &new))
    }

    pub async fn load_result(&self, id: Uuid) -> Result<Option<StoredResult>> {
        read!(self, one, id)
    }

    pub async fn load_results(
        &self,
        filter: &ResultFilter,
        limit: u32,
    ) -> Result<Vec<StoredResult>> {
        read!(self, list, filter, limit)
    }
}

async fn add(tx: &mut Tx<'_>, new: &StoredResult) -> Result<(), Fault> {
    let sql = "INSERT INTO load_results (id, profile, machine, passed, began_at, result) \
               VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING";
    let args = Args::default()
        .with(new.id.as_bytes().as_slice())
        .with(new.profile.as_str())
        .with(new.machine.as_str())
        .with(new.passed)
        .with(new.began_at.micros())
        .with(new.result.as_str());
    execute(tx.connection, sql, args).await?;
    let sql = "DELETE FROM load_results WHERE profile = ?1 AND machine = ?2 AND id NOT IN \
               (SELECT id FROM load_results WHERE profile = ?1 AND machine = ?2 \
                ORDER BY id DESC LIMIT ?3)";
    let args =
        Args::default().with(new.profile.as_str()).with(new.machine.as_str()).with(i64::from(KEPT));
    execute(tx.connection, sql, args).await?;
    Ok(())
}

async fn one(connection: &mut SqliteConnection, id: Uuid) -> Result<Option<StoredResult>, Fault> {
    let args = Args::default().with(id.as_bytes().as_slice());
    let found = row(connection, select_results!("WHERE id = ?"), args).await?;
    found.as_ref().map(result_of).transpose()
}

async fn list(
    connection: &mut SqliteConnection,
    filter: &ResultFilter,
    limit: u32,
) -> Result<Vec<StoredResult>, Fault> {
    let sql = select_results!(
        "WHERE (?1 IS NULL OR profile = ?1) AND (?2 IS NULL OR machine = ?2) \
         AND (?3 IS NULL OR passed = ?3) AND id < ?4 ORDER BY id DESC LIMIT ?5"
    );
    let args = Args::default()
        .with(filter.profile.as_deref())
        .with(filter.machine.as_deref())
        .with(filter.passed)
        .with(filter.before.unwrap_or(Uuid::max()).as_bytes().as_slice())
        .with(i64::from(limit.min(PAGE_MAX)));
    Ok(readable("a result", &rows(connection, sql, args).await?, result_of))
}

fn result_of(row: &SqliteRow) -> Result<StoredResult, Fault> {
    let mut c = Columns::of(row);
    Ok(StoredResult {
        id: Uuid::from_bytes(c.id()?),
        profile: c.next()?,
        machine: c.next()?,
        passed: c.next()?,
        began_at: c.time()?,
        result: c.next()?,
    })
}
