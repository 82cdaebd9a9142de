//! Connections: one that writes, a few that read, and the check that commits are kept.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row};

use super::LedgerError;
use super::fault::Fault;
use super::statement::{Args, row};

/// Longest wait for another program's lock, such as a shell that an operator has open on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a reading connection.
const READER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most reading connections; each is a thread.
const READERS_MAX: u32 = 4;
/// Bytes of a page in a database made by this build. Rows are written in order, so that larger pages mean fewer
/// system calls: 16 KiB recorded a third more jobs per second than SQLite's 4 KiB.
const PAGE_BYTES: u32 = 16 << 10;
/// Pages of WAL after which a commit also copies them into the database: 32 MiB. Fixed, so that an operator's
/// build of SQLite cannot turn it off.
const CHECKPOINT_PAGES: &str = "2048";
/// A WAL that grew beyond this is cut back at the next checkpoint.
const WAL_BYTES_MAX: &str = "67108864";
/// Page cache of the writer and of a reader, in KiB (negative by SQLite's convention).
const WRITER_CACHE: &str = "-65536";
const READER_CACHE: &str = "-8192";
/// Prepared statements kept by a connection; more than the ledger has.
const STATEMENTS: usize = 256;
/// Rows on their way from the driver's thread.
const ROWS_BUFFERED: usize = 1024;

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS)
        .row_buffer_size(ROWS_BUFFERED)
        .foreign_keys(false)
        .pragma("temp_store", "memory")
        // Reading through a map turns a disk's error into a signal that ends the process unexplained.
        .pragma("mmap_size", "0")
        .disable_statement_logging()
}

/// Opens the connection that writes, and checks that it keeps commits.
///
/// # Errors
/// [`LedgerError::Unfit`] where the file system or the build of SQLite refuses what keeps commits.
pub(super) async fn writer(file: &Path) -> Result<SqliteConnection, LedgerError> {
    let options = options(file)
        .page_size(PAGE_BYTES)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // macOS keeps an ordinary fsync in the disk's cache; elsewhere this changes nothing.
        .pragma("fullfsync", "1")
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("journal_size_limit", WAL_BYTES_MAX)
        .pragma("cache_size", WRITER_CACHE);
    let mut connection = options.connect().await.map_err(Fault::from)?;
    verify(&mut connection).await?;
    Ok(connection)
}

/// Opens the connections that read. They cannot write.
///
/// # Errors
/// [`LedgerError::Unavailable`] when the file cannot be opened.
pub(super) async fn readers(file: &Path, most: u32) -> Result<SqlitePool, LedgerError> {
    let options = options(file).read_only(true).pragma("cache_size", READER_CACHE);
    let pool = SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(most.clamp(1, READERS_MAX))
        .acquire_timeout(READER_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        // A file does not hang up; asking would cost each read a second crossing to the driver's thread.
        .test_before_acquire(false);
    Ok(pool.connect_with(options).await.map_err(Fault::from)?)
}

/// Opens one connection that cannot write, on a file that may belong to another process.
pub(super) async fn visitor(file: &Path) -> Result<SqliteConnection, LedgerError> {
    Ok(options(file).read_only(true).connect().await.map_err(Fault::from)?)
}

/// Opens a file that is nobody's ledger yet, such as a copy that is being made. Without a WAL, so that it is one file.
pub(super) async fn private(file: &Path) -> Result<SqliteConnection, LedgerError> {
    let options = options(file)
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", WRITER_CACHE);
    Ok(options.connect().await.map_err(Fault::from)?)
}

/// `synchronous=NORMAL` was seen to lose more than a second of commits at a power cut; only `FULL` in WAL
/// mode keeps all of them.
async fn verify(connection: &mut SqliteConnection) -> Result<(), LedgerError> {
    let mode: String = pragma(connection, "PRAGMA journal_mode").await?;
    let synchronous: i64 = pragma(connection, "PRAGMA synchronous").await?;
    let checkpoint: i64 = pragma(connection, "PRAGMA wal_autocheckpoint").await?;
    if mode != "wal" {
        return Err(LedgerError::Unfit(format!(
            "the ledger's file system does not take SQLite's WAL (journal_mode is {mode})"
        )));
    }
    if synchronous != 2 {
        return Err(LedgerError::Unfit(format!(
            "SQLite would lose commits at a power cut (synchronous is {synchronous}, not 2)"
        )));
    }
    if checkpoint.to_string() != CHECKPOINT_PAGES {
        return Err(LedgerError::Unfit(format!("wal_autocheckpoint is {checkpoint}")));
    }
    Ok(())
}

async fn pragma<T>(connection: &mut SqliteConnection, sql: &'static str) -> Result<T, LedgerError>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    let found = row(connection, sql, Args::default()).await?;
    let found = found.ok_or_else(|| Fault::unreadable(sql))?;
    Ok(found.try_get(0).map_err(Fault::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::sqlite::statement::execute;

    /// Goal: the check itself bites. A connection set to lose commits is refused.
    #[tokio::test]
    async fn a_connection_that_would_lose_commits_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.db");
        std::fs::File::create(&file).unwrap();
        let mut connection = writer(&file).await.unwrap();
        verify(&mut connection).await.unwrap();
        for wrong in ["PRAGMA synchronous = NORMAL", "PRAGMA synchronous = OFF"] {
            execute(&mut connection, wrong, Args::default()).await.unwrap();
            assert!(matches!(verify(&mut connection).await, Err(LedgerError::Unfit(_))), "{wrong}");
        }
        execute(&mut connection, "PRAGMA synchronous = FULL", Args::default()).await.unwrap();
        verify(&mut connection).await.unwrap();
        execute(&mut connection, "PRAGMA journal_mode = DELETE", Args::default()).await.unwrap();
        assert!(matches!(verify(&mut connection).await, Err(LedgerError::Unfit(_))));
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.db");
        std::fs::File::create(&file).unwrap();
        let _writer = writer(&file).await.unwrap();
        let pool = readers(&file, 1).await.unwrap();
        let mut reader = pool.acquire().await.unwrap();
        assert!(execute(&mut reader, "CREATE TABLE t (x)", Args::default()).await.is_err());
    }
}
