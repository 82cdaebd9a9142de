//! A connection died after a write was sent: was it committed?
//!
//! The server knows. Its process for the old connection ("backend") may still be at work, so it is ended
//! first; after that its transaction is either committed or undone, and the rows, whose ids were drawn
//! before the write, are there or not.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use super::connect::connect;
use super::insert::{Made, made};

/// After that the caller is told that the outcome is not known.
const DECIDE_TIMEOUT: Duration = Duration::from_secs(5);
const DELAY_MIN: Duration = Duration::from_millis(20);
const DELAY_MAX: Duration = Duration::from_millis(500);

/// One session on the server. The start tells it from a later one with the same process number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    pid: i32,
    started: String,
}

impl Backend {
    /// The session of `connection`.
    pub(super) async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let sql =
            "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let (pid, started) = sqlx::query_as(sql).fetch_one(connection).await?;
        Ok(Self { pid, started })
    }

    /// Ends the session and waits until it is gone; then a fresh connection. `None`: not within
    /// [`DECIDE_TIMEOUT`].
    pub(super) async fn outlive(&self, options: &PgConnectOptions) -> Option<PgConnection> {
        let delays = ExponentialBuilder::default()
            .with_min_delay(DELAY_MIN)
            .with_max_delay(DELAY_MAX)
            .with_jitter()
            .without_max_times();
        let outlived = (|| self.end(options)).retry(delays);
        tokio::time::timeout(DECIDE_TIMEOUT, outlived).await.ok()?.ok()
    }

    async fn end(&self, options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
        let mut connection = connect(options).await?;
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE pid = $1 AND backend_start::text = $2";
        let query = sqlx::query(sql).bind(self.pid).bind(&self.started);
        if query.fetch_optional(&mut connection).await?.is_none() {
            return Ok(connection);
        }
        // It was there: asked to go, it is looked for again after the delay.
        Err(sqlx::Error::PoolTimedOut)
    }
}

/// Which of these jobs exist.
pub(super) async fn committed(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Made, sqlx::Error> {
    let sql = "SELECT id, created_at, state = 0 FROM jobs WHERE id = ANY($1)";
    let rows = sqlx::query(sql).bind(ids).fetch_all(connection).await?;
    rows.iter().map(made).collect()
}
