//! What backups need of a ledger's database: a consistent look at it, sums to compare by, and the last step of a restore.
//!
//! A dump holds every table but the row of `meta`, and a database without that row is no ledger: [`Ledger::open`] refuses
//! it. [`finish`] writes the row, with a new id, in the transaction that makes everything of before stale. So there is no
//! instant at which a restored database can be opened under the id that it was dumped from, or half-way.

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Ledger, Result, postgres, sqlite};
use crate::config::LedgerSettings;
use crate::model::id::LedgerId;
use crate::model::time::Timestamp;

pub use super::postgres::backup::Snapshot;

/// What an error says first when the database was replaced under this process.
pub const WRONG_LEDGER: &str = "wrong_ledger";

/// Jobs of which a row's own sum is kept, from each end of the table.
pub(super) const SAMPLES_EACH: u32 = 10;

/// A ledger as it was at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Which one.
    pub ledger: LedgerId,
    /// Its latest migration.
    pub schema: i64,
    /// `postgres` or `sqlite`.
    pub database: String,
    /// Major version of the server; of SQLite, its version number.
    pub version: i32,
    /// Ledger time, read before the snapshot was taken: everything committed by then is in it.
    pub at: Timestamp,
}

/// What a database holds, as sums that do not depend on the order of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// By table.
    pub tables: BTreeMap<String, TableSum>,
    /// Jobs by state.
    pub jobs: BTreeMap<String, u64>,
    /// A sum over the whole row of some jobs, by id.
    pub samples: BTreeMap<String, String>,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSum {
    /// How many rows.
    pub rows: u64,
    /// Over all columns of all rows.
    pub sum: String,
}

impl Contents {
    /// Where the other differs, in words; empty: nowhere. At most 20 lines.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for table in
            self.tables.keys().chain(other.tables.keys().filter(|t| !self.tables.contains_key(*t)))
        {
            match (self.tables.get(table), other.tables.get(table)) {
                (Some(a), Some(b)) if a.rows != b.rows => {
                    found.push(format!("table {table} has {} rows, not {}", b.rows, a.rows));
                }
                (Some(a), Some(b)) if a.sum != b.sum => {
                    found.push(format!("rows of table {table} differ"));
                }
                (Some(_), Some(_)) => {}
                (Some(_), None) => found.push(format!("table {table} is missing")),
                (None, _) => found.push(format!("table {table} should not be there")),
            }
        }
        if self.jobs != other.jobs {
            found.push(format!("jobs by state are {:?}, not {:?}", other.jobs, self.jobs));
        }
        for (id, sum) in &self.samples {
            if other.samples.get(id) != Some(sum) {
                found.push(format!("job {id} differs"));
            }
        }
        found.truncate(20);
        found
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.values().map(|table| table.rows).sum()
    }
}

/// Whether a database may be restored into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Yes.
    Empty,
    /// It holds something.
    NotEmpty(String),
    /// A Windlass process uses it.
    Live(String),
}

/// The latest migration of this build.
pub fn schema_version(settings: &LedgerSettings) -> i64 {
    if settings.is_sqlite() {
        sqlite::backup::schema_version()
    } else {
        postgres::backup::schema_version()
    }
}

/// Copies a SQLite ledger, which another process may have open, into a new file, without the row of `meta`.
///
/// # Errors
/// [`super::LedgerError::Schema`] unless the schema is this build's; `to` exists; the disk is full.
pub fn copy_sqlite<'a>(
    settings: &'a LedgerSettings,
    to: &'a Path,
) -> BoxFuture<'a, Result<Origin>> {
    Box::pin(async move { sqlite::backup::copy(settings, to).await })
}

/// The file of a SQLite ledger.
///
/// # Errors
/// [`super::LedgerError::Unfit`]: the address names none.
pub fn sqlite_file(settings: &LedgerSettings) -> Result<std::path::PathBuf> {
    sqlite::backup::file(settings)
}

/// What a restored database holds. Reads every row once.
pub fn contents(settings: &LedgerSettings) -> BoxFuture<'_, Result<Contents>> {
    Box::pin(async move {
        if settings.is_sqlite() {
            sqlite::backup::contents(&sqlite::backup::file(settings)?).await
        } else {
            postgres::backup::contents(settings).await
        }
    })
}

/// Whether a database may be restored into. Changes nothing.
pub fn look_at_target(settings: &LedgerSettings) -> BoxFuture<'_, Result<Target>> {
    Box::pin(async move {
        if settings.is_sqlite() {
            sqlite::backup::target(settings)
        } else {
            postgres::backup::target(settings).await
        }
    })
}

/// The last step of a restore, in one transaction: nobody leads, no shard is open, no worker is known; epochs and the
/// fences of jobs that have not ended are past whatever the old ledger has given out; the ledger gets an id.
///
/// # Errors
/// [`super::LedgerError::Unfit`]: it has an id already. But for [`super::LedgerError::OutcomeUnknown`], it is no ledger.
pub fn finish(settings: &LedgerSettings) -> BoxFuture<'_, Result<LedgerId>> {
    Box::pin(async move {
        if settings.is_sqlite() {
            sqlite::backup::finish(settings).await
        } else {
            postgres::backup::finish(settings).await
        }
    })
}

/// Major version of the PostgreSQL server of these settings.
pub fn server_version(settings: &LedgerSettings) -> BoxFuture<'_, Result<i32>> {
    Box::pin(async move { postgres::backup::major_version(settings).await })
}

/// Makes an empty database on the PostgreSQL server of these settings. Needs the right to.
pub fn create_database<'a>(
    settings: &'a LedgerSettings,
    name: &'a str,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move { postgres::backup::create_database(settings, name).await })
}

/// Drops a database of the PostgreSQL server of these settings, whoever is connected to it. Safe to repeat.
pub fn drop_database<'a>(settings: &'a LedgerSettings, name: &'a str) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move { postgres::backup::drop_database(settings, name).await })
}

/// Databases of the PostgreSQL server of these settings whose names begin with `prefix`.
pub fn databases<'a>(
    settings: &'a LedgerSettings,
    prefix: &'a str,
) -> BoxFuture<'a, Result<Vec<String>>> {
    Box::pin(async move { postgres::backup::databases(settings, prefix).await })
}

impl Ledger {
    /// Whether the database was replaced under this process, by a restore for instance. Nothing was written to the other
    /// one, and nothing ever will be: this process can do nothing but end. `false` also where it does not answer.
    pub fn was_replaced(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            match self.present_id().await {
                Ok(id) => id != self.id(),
                Err(super::LedgerError::Unfit(why)) => why.starts_with(WRONG_LEDGER),
                Err(_) => false,
            }
        })
    }

    /// What the database says now of which ledger it is.
    pub fn present_id(&self) -> BoxFuture<'_, Result<LedgerId>> {
        Box::pin(async move { super::dispatch!(self, present_id()) })
    }

    /// Whether the installation was given this default once ([`Self::note_default`]).
    pub fn has_default<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { super::dispatch!(self, has_default(name)) })
    }

    /// Notes that the installation was given this default. Safe to repeat.
    pub fn note_default<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { super::dispatch!(self, note_default(name)) })
    }
}
