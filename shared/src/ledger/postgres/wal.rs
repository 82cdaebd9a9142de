//! See [`crate::ledger::wal`].

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::backup::{alive, connect, connect_to, now, others, outdate};
use super::error::{after_write, unchanged};
use super::{LedgerError, Result, gates, schema};
use crate::config::LedgerSettings;
use crate::ledger::wal::{Adopted, Archiver, OF_RECOVERY, Server};
use crate::model::id::LedgerId;
use crate::model::time::Timestamp;

/// Roles that only managed services make, and whose.
const MANAGED: &str = "SELECT name FROM pg_roles JOIN (VALUES ('rds_superuser', 'Amazon RDS'), \
    ('cloudsqlsuperuser', 'Google Cloud SQL'), ('azure_pg_admin', 'Azure Database for PostgreSQL'), \
    ('alloydbsuperuser', 'Google AlloyDB'), ('neon_superuser', 'Neon')) AS known (role, name) \
    ON rolname = role LIMIT 1";

pub(in crate::ledger) async fn look(settings: &LedgerSettings) -> Result<Server> {
    if settings.is_sqlite() {
        return Err(LedgerError::Unfit("the ledger is not on PostgreSQL".into()));
    }
    let mut connection = connect(settings).await?;
    let found = read(&mut connection).await;
    // Failing to say goodbye changes nothing.
    let _ = connection.close().await;
    found
}

async fn read(connection: &mut PgConnection) -> Result<Server> {
    let ledger = gates::ledger_id(connection).await?;
    let at = now(&mut *connection).await?;
    let managed_by =
        sqlx::query_scalar(MANAGED).fetch_optional(&mut *connection).await.map_err(unchanged)?;
    let sql = "SELECT current_setting('server_version_num')::int / 10000 AS version, \
        pg_is_in_recovery() AS in_recovery, current_setting('wal_level') AS wal_level, \
        current_setting('archive_mode') AS archive_mode, \
        current_setting('archive_command', true) NOT IN ('', '(disabled)') \
            OR coalesce(current_setting('archive_library', true), '') <> '' AS has_archiver, \
        pg_size_bytes(current_setting('wal_segment_size')) AS segment_bytes, \
        current_setting('max_wal_senders')::int AS wal_senders, current_user::text AS role, \
        (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS may_replicate, \
        (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')) AS tablespaces";
    let row = sqlx::query(sql).fetch_one(&mut *connection).await.map_err(unchanged)?;
    let archiver = archiver(connection).await?;
    let read = |row: &PgRow| {
        Ok(Server {
            version: row.try_get("version")?,
            ledger,
            now: at,
            in_recovery: row.try_get("in_recovery")?,
            wal_level: row.try_get("wal_level")?,
            archive_mode: row.try_get("archive_mode")?,
            has_archiver: row.try_get("has_archiver")?,
            segment_bytes: row.try_get("segment_bytes")?,
            wal_senders: row.try_get("wal_senders")?,
            role: row.try_get("role")?,
            may_replicate: row.try_get("may_replicate")?,
            tablespaces: row.try_get("tablespaces")?,
            managed_by,
            archiver,
        })
    };
    read(&row).map_err(unchanged)
}

async fn archiver(connection: &mut PgConnection) -> Result<Archiver> {
    let sql = "SELECT (extract(epoch FROM last_archived_time) * 1000000)::bigint, \
        (extract(epoch FROM last_failed_time) * 1000000)::bigint, last_failed_wal FROM pg_stat_archiver";
    let (archived, failed, name): (Option<i64>, Option<i64>, Option<String>) =
        sqlx::query_as(sql).fetch_one(connection).await.map_err(unchanged)?;
    Ok(Archiver {
        last_archived: archived.map(Timestamp::from_micros),
        last_failed: failed.map(|at| (Timestamp::from_micros(at), name.unwrap_or_default())),
    })
}

pub(in crate::ledger) async fn adopt(settings: &LedgerSettings) -> Result<Adopted> {
    if settings.is_sqlite() {
        return Err(LedgerError::Unfit(
            "the ledger is not on PostgreSQL; `windlass backup restore` makes a new one".into(),
        ));
    }
    let mut connection = connect(settings).await?;
    let adopted = adopt_on(&mut connection, settings).await;
    let _ = connection.close().await;
    adopted
}

async fn adopt_on(connection: &mut PgConnection, settings: &LedgerSettings) -> Result<Adopted> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on', \
        (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)";
    let (recovers, mut was_read_only, is_superuser): (bool, bool, bool) =
        sqlx::query_as(sql).fetch_one(&mut *connection).await.map_err(unchanged)?;
    if is_superuser {
        // A role may be let write to a server on which nobody else can.
        was_read_only |= is_set_read_only(connection).await?;
    }
    if recovers {
        let why = "the server still recovers, or is a standby: wait until it has been promoted";
        return Err(LedgerError::Unfit(why.into()));
    }
    if was_read_only && !is_superuser {
        let why = "the server is read-only until it is adopted, and only a superuser can change that: \
            connect as one";
        return Err(LedgerError::Unfit(why.into()));
    }
    schema::check(connection).await?;
    if let Some(who) = user(connection, was_read_only).await? {
        return Err(LedgerError::Unfit(format!(
            "somebody uses the ledger: {who}; stop them first"
        )));
    }
    execute(connection, "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE").await?;
    let timeline = match timeline(connection).await {
        // A service need not say. A server of our own must: what was adopted on it is told by its timeline.
        Err(error) if was_read_only => return Err(error),
        told => told.ok(),
    };
    let was = gates::ledger_id(connection).await?;
    let ledger = replace_id(connection, timeline).await?;
    if ledger.is_none() && !was_read_only {
        return Err(LedgerError::Unfit(format!(
            "the ledger was adopted already since its server was recovered: it is {was} now"
        )));
    }
    let mut waits_for = Vec::new();
    if was_read_only {
        waits_for = others_to_adopt(connection, settings, timeline).await?;
        if waits_for.is_empty() {
            open(connection).await?;
        }
    }
    Ok(Adopted {
        ledger: ledger.unwrap_or(was),
        was: ledger.map(|_| was),
        timeline,
        was_read_only,
        waits_for,
    })
}

/// Whether the server's settings say so, whatever they are for this session. For superusers.
async fn is_set_read_only(connection: &mut PgConnection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_file_settings \
        WHERE name = 'default_transaction_read_only' AND applied AND setting IN ('on', 'true', 'yes', '1'))";
    sqlx::query_scalar(sql).fetch_one(connection).await.map_err(unchanged)
}

/// Databases of the server with a ledger that has not been adopted on this timeline. They are on it under their old ids,
/// and whoever uses them could write as soon as this one can be written to. Those that a drill has left are no ledger of
/// anybody's.
async fn others_to_adopt(
    connection: &mut PgConnection,
    settings: &LedgerSettings,
    timeline: Option<i32>,
) -> Result<Vec<String>> {
    // A server that does not say its timeline cannot be asked which were adopted on it.
    let Some(timeline) = timeline else { return Ok(Vec::new()) };
    let sql = "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate \
        AND NOT starts_with(datname::text, 'windlass_drill_') ORDER BY 1";
    let databases: Vec<String> =
        sqlx::query_scalar(sql).fetch_all(&mut *connection).await.map_err(unchanged)?;
    let mut found = Vec::new();
    for database in databases {
        let mut there = connect_to(settings, &database).await?;
        let waits = waits(&mut there, timeline).await;
        let _ = there.close().await;
        if waits? {
            found.push(database);
        }
    }
    Ok(found)
}

/// Whether a database has a ledger, in whatever schema, that has not been adopted on this timeline.
async fn waits(connection: &mut PgConnection, timeline: i32) -> Result<bool> {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname), EXISTS (SELECT FROM pg_attribute a \
        WHERE a.attrelid = c.oid AND a.attname = 'adopted_timeline' AND NOT a.attisdropped) \
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        JOIN pg_attribute l ON l.attrelid = c.oid AND l.attname = 'ledger_id' AND NOT l.attisdropped \
        WHERE c.relname = 'meta' AND c.relkind = 'r'";
    let tables: Vec<(String, bool)> =
        sqlx::query_as(sql).fetch_all(&mut *connection).await.map_err(unchanged)?;
    for (table, can_tell) in tables {
        // An older build's cannot have been adopted; an empty one is no ledger.
        let adopted = if can_tell { "adopted_timeline" } else { "NULL" };
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {table} WHERE {adopted} IS DISTINCT FROM {timeline})"
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false);
        let waits: bool = query.fetch_one(&mut *connection).await.map_err(unchanged)?;
        if waits {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Who uses the ledger. What rows say of workers and leaders of a read-only server is as old as what was recovered.
async fn user(connection: &mut PgConnection, is_read_only: bool) -> Result<Option<String>> {
    if let Some(who) = others(connection).await? {
        return Ok(Some(who));
    }
    if is_read_only { Ok(None) } else { alive(connection).await }
}

/// The new id; `None`: the ledger got one on this timeline, to which only a recovery or a failover leads.
async fn replace_id(
    connection: &mut PgConnection,
    timeline: Option<i32>,
) -> Result<Option<LedgerId>> {
    let mut tx = connection.begin().await.map_err(unchanged)?;
    let sql = "UPDATE meta SET ledger_id = gen_random_uuid(), adopted_timeline = $1 \
        WHERE $1 IS NULL OR adopted_timeline IS DISTINCT FROM $1 RETURNING ledger_id";
    let id = sqlx::query_scalar(sql).bind(timeline).fetch_optional(&mut *tx).await;
    let Some(id) = id.map_err(unchanged)? else { return Ok(None) };
    outdate(&mut tx).await?;
    tx.commit().await.map_err(after_write)?;
    Ok(Some(LedgerId::from_uuid(id)))
}

/// The timeline that the server writes.
async fn timeline(connection: &mut PgConnection) -> Result<i32> {
    let sql = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";
    sqlx::query_scalar(sql).fetch_one(connection).await.map_err(unchanged)
}

/// Lets others write.
async fn open(connection: &mut PgConnection) -> Result<()> {
    let sql = "SELECT DISTINCT quote_ident(name) FROM pg_file_settings, unnest($1::text[]) AS beginning \
        WHERE starts_with(name, beginning) AND sourcefile LIKE '%/postgresql.auto.conf'";
    let names: Vec<String> = sqlx::query_scalar(sql)
        .bind(OF_RECOVERY.map(str::to_owned).to_vec())
        .fetch_all(&mut *connection)
        .await
        .map_err(unchanged)?;
    for name in names {
        execute(connection, &format!("ALTER SYSTEM RESET {name}")).await?;
    }
    execute(connection, "SELECT pg_reload_conf()").await
}

async fn execute(connection: &mut PgConnection, sql: &str) -> Result<()> {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(false);
    query.execute(connection).await.map_err(after_write)?;
    Ok(())
}
