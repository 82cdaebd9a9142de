//! No call waits for ever for a server that went away without a word.
//!
//! The server's own limits end what it still works on; these here end what it will never answer. A call that is
//! given up drops its pooled connection, and the pool closes what does not answer its ROLLBACK ([`connect`]), so
//! that nobody else is handed it.

use std::time::Duration;

use sqlx::{Executor as _, PgConnection};

use super::{LedgerError, Result};

/// A server that is silent for so long is taken for lost. Above the server's own limit for a statement, so that
/// it is the network that has failed.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(12);
/// Housekeeping is many statements; in a row they may take this many times longer.
pub(super) const LONG: u32 = 5;

/// A read: nothing was changed.
pub(super) async fn read<T>(most: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = || Err(LedgerError::Unavailable("the server is silent".into()));
    tokio::time::timeout(most, call).await.unwrap_or_else(|_| silent())
}

/// A write, which may have been carried out.
pub(super) async fn write<T>(most: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(most, call).await.unwrap_or(Err(LedgerError::OutcomeUnknown))
}

/// One exchange on a connection; silence is a lost connection, which must not be used again.
pub(super) async fn exchange<T>(
    most: Duration,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let silent = || Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(most, call).await.unwrap_or_else(|_| silent())
}

/// Ends a transaction whose beginning the driver may not know of. Where there is none, as nearly always, the server
/// would log a warning at a lone ROLLBACK; a transaction that has failed refuses the BEGIN, and its connection is
/// closed.
pub(super) async fn roll_back(
    connection: &mut PgConnection,
    most: Duration,
) -> Result<(), sqlx::Error> {
    exchange(most, async { connection.execute(sqlx::raw_sql("BEGIN; ROLLBACK")).await })
        .await
        .map(|_| ())
}
