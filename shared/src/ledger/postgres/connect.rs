//! Connections: their settings, the pools, and the checks of the server at start.

use std::str::FromStr;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use super::bounds;
use super::error::unchanged;
use super::{LedgerError, Result};
use crate::config::LedgerSettings;
use crate::ledger::backup::WRONG_LEDGER;
use crate::model::id::LedgerId;

/// Connections for outcomes and for submissions with a transaction of their own.
const BULK_CONNECTIONS: u32 = 4;
/// Longest wait for a connection, new or of a pool.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for the answer to the ROLLBACK before a connection goes back into its pool.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// A pooled connection that was used so lately is taken without asking whether it still answers.
const FRESH: Duration = Duration::from_secs(1);
/// Longest wait for the answer of one that was not; several dead ones must fit into [`CONNECT_TIMEOUT`].
const PING_TIMEOUT: Duration = Duration::from_millis(400);
/// Longest wait of a group commit for somebody else's lock. Short: everybody in the group waits with it.
const WRITER_LOCK_TIMEOUT: &str = "200ms";
/// Oldest PostgreSQL that the statements are written for.
const VERSION_MIN: i32 = 14;

/// Where the server is and what every session there is set to.
///
/// The limits are the server's, so that no client-side timer ever cuts a commit in two. The plans are
/// fixed ones: every statement is written for an index, and planning over many partitions costs more than
/// it finds. `jit` is off because the planner's penalties would trigger it.
pub(super) fn options(settings: &LedgerSettings) -> Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(settings.url.expose_secret()).map_err(unchanged)?;
    Ok(options
        .application_name("windlass")
        .statement_cache_capacity(100)
        .options([
            ("statement_timeout", "5s"),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "10s"),
            ("client_min_messages", "error"),
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("jit", "off"),
        ])
        // Calls are timed by `telemetry::ledger_call`; the statements' text stays out of the log.
        .disable_statement_logging())
}

/// For the writers of groups.
pub(super) fn writer_options(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options([("lock_timeout", WRITER_LOCK_TIMEOUT)])
}

/// For reads and rare writes.
pub(super) fn pool(options: &PgConnectOptions, most: u32, id: LedgerId) -> PgPool {
    pool_of(most, id).connect_lazy_with(options.clone())
}

/// For large statements that join arrays to tables: always row by row through the index, in the arrays'
/// order, which is the order of locking.
pub(super) fn bulk_pool(options: &PgConnectOptions, id: LedgerId) -> PgPool {
    let options =
        options.clone().options([("enable_hashjoin", "off"), ("enable_mergejoin", "off")]);
    pool_of(BULK_CONNECTIONS, id).connect_lazy_with(options)
}

fn pool_of(most: u32, id: LedgerId) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(CONNECT_TIMEOUT)
        .after_connect(move |connection, _| Box::pin(same_ledger(connection, id)))
        // One that was given back a moment ago has answered then; asking again would double every read.
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for > FRESH {
                    bounds::exchange(PING_TIMEOUT, connection.ping()).await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| {
            Box::pin(async move {
                // A `begin` whose future was dropped leaves a transaction open that the driver does not
                // know of; what the next user writes would be lost with it.
                // One that does not answer is closed.
                bounds::roll_back(connection, RELEASE_TIMEOUT).await?;
                Ok(true)
            })
        })
}

/// The database under an address can be replaced only while nobody is connected to it. So a process that looks which
/// ledger it is on every new connection never writes to another one than it has opened.
pub(super) async fn same_ledger(
    connection: &mut PgConnection,
    id: LedgerId,
) -> Result<(), sqlx::Error> {
    let found = sqlx::query_scalar("SELECT ledger_id FROM meta").fetch_optional(connection);
    let found: Option<uuid::Uuid> = bounds::exchange(CONNECT_TIMEOUT, found).await?;
    if found == Some(id.uuid()) {
        return Ok(());
    }
    Err(sqlx::Error::Configuration(WrongLedger.into()))
}

/// What [`same_ledger`] finds.
#[derive(Debug, thiserror::Error)]
#[error(
    "{WRONG_LEDGER}: the database holds another ledger than the one that this process has opened"
)]
pub(super) struct WrongLedger;

/// A connection of its own, outside the pools.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let connecting = PgConnection::connect_with(options);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// Refuses a server that would lose commits, or that the statements are not written for.
pub(super) async fn check_fitness(connection: &mut PgConnection) -> Result<()> {
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('fsync'), \
               current_setting('synchronous_commit'), current_setting('full_page_writes'), \
               current_setting('server_encoding'), current_setting('default_transaction_read_only')";
    let (version, fsync, commit, full_pages, encoding, read_only): (
        i32,
        String,
        String,
        String,
        String,
        String,
    ) = sqlx::query_as(sql).fetch_one(connection).await.map_err(unchanged)?;
    let fault = if version < VERSION_MIN * 10_000 {
        Some(format!("PostgreSQL {VERSION_MIN} or later is needed"))
    } else if fsync != "on" {
        Some("the server runs with fsync=off: it loses accepted jobs in a power cut".into())
    } else if commit == "off" {
        Some("the server runs with synchronous_commit=off: it loses accepted jobs".into())
    } else if full_pages != "on" {
        Some("the server runs with full_page_writes=off: a power cut can damage it".into())
    } else if encoding != "UTF8" {
        Some(format!("the database's encoding is {encoding}; UTF8 is needed"))
    } else if read_only == "on" {
        Some("the server is read-only (default_transaction_read_only): one that was recovered to a point in time is until `windlass backup adopt`".into())
    } else {
        None
    };
    fault.map_or(Ok(()), |text| Err(LedgerError::Unfit(text)))
}
