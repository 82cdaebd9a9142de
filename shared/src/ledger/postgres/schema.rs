//! The schema: its migrations, and whether a database has them.

use std::collections::BTreeMap;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, SqlSafeStr};

use super::connect::connect;
use super::error::unchanged;
use super::{LedgerError, MigrationStatus, Result};

/// Every migration of this build, oldest first.
const MIGRATIONS: [(i64, &str, &str); 15] = [
    (1, "core", include_str!("../../../../migrations/postgres/0001_core.sql")),
    (2, "upkeep", include_str!("../../../../migrations/postgres/0002_upkeep.sql")),
    (3, "workflows", include_str!("../../../../migrations/postgres/0003_workflows.sql")),
    (4, "gates", include_str!("../../../../migrations/postgres/0004_gates.sql")),
    (5, "schedules", include_str!("../../../../migrations/postgres/0005_schedules.sql")),
    (6, "duties", include_str!("../../../../migrations/postgres/0006_duties.sql")),
    (7, "overwatch", include_str!("../../../../migrations/postgres/0007_overwatch.sql")),
    (8, "load_checks", include_str!("../../../../migrations/postgres/0008_load_checks.sql")),
    (9, "backups", include_str!("../../../../migrations/postgres/0009_backups.sql")),
    (10, "quotas", include_str!("../../../../migrations/postgres/0010_quotas.sql")),
    (11, "order", include_str!("../../../../migrations/postgres/0011_order.sql")),
    (12, "circuits", include_str!("../../../../migrations/postgres/0012_circuits.sql")),
    (13, "shaping", include_str!("../../../../migrations/postgres/0013_shaping.sql")),
    (14, "groups", include_str!("../../../../migrations/postgres/0014_groups.sql")),
    (15, "load_results", include_str!("../../../../migrations/postgres/0015_load_results.sql")),
];

/// The version of this build.
pub(super) fn latest() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        let no_transaction = sql.starts_with("-- no-transaction");
        let (name, sql) = ((*name).into(), sql.into_sql_str());
        Migration::new(*version, name, MigrationType::Simple, sql, no_transaction)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Applies what is missing, under the database's advisory lock; which.
pub(super) async fn migrate(options: &PgConnectOptions) -> Result<Vec<MigrationStatus>> {
    // A migration may take longer than any statement of the running processes.
    let options = options.clone().options([("statement_timeout", "0"), ("lock_timeout", "10s")]);
    let mut connection = connect(&options).await.map_err(unchanged)?;
    super::connect::check_fitness(&mut connection).await?;
    let before = applied(&mut connection).await?;
    migrator().run_direct(None, &mut connection, false).await.map_err(migrate_error)?;
    let after = status(&mut connection).await?;
    // Failing to say goodbye changes nothing.
    let _ = connection.close().await;
    Ok(after.into_iter().filter(|m| !before.contains_key(&m.version)).collect())
}

/// The state of every migration known here, or applied there.
pub(super) async fn status(connection: &mut PgConnection) -> Result<Vec<MigrationStatus>> {
    let mut there = applied(connection).await?;
    let mut all = Vec::new();
    for (version, name, _) in MIGRATIONS {
        let applied = there.remove(&version).is_some();
        all.push(MigrationStatus { version, name: name.into(), applied });
    }
    let unknown = there.into_iter();
    all.extend(unknown.map(|(version, name)| MigrationStatus { version, name, applied: true }));
    Ok(all)
}

/// Refuses a schema that is older or newer than this build.
pub(super) async fn check(connection: &mut PgConnection) -> Result<()> {
    let all = status(connection).await?;
    let ours = latest();
    if let Some(newer) = all.iter().find(|m| m.version > ours) {
        let newer = newer.version;
        return Err(LedgerError::Schema(format!(
            "the ledger's schema is at version {newer}, newer than {ours} of this build: use a newer build"
        )));
    }
    if let Some(missing) = all.iter().find(|m| !m.applied) {
        let missing = missing.version;
        return Err(LedgerError::Schema(format!(
            "the ledger's schema lacks version {missing}: run `windlass migrate up`"
        )));
    }
    Ok(())
}

async fn applied(connection: &mut PgConnection) -> Result<BTreeMap<i64, String>> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(unchanged)?;
    if !exists {
        return Ok(BTreeMap::new());
    }
    let sql = "SELECT version, description FROM _sqlx_migrations WHERE success ORDER BY version";
    let rows: Vec<(i64, String)> =
        sqlx::query_as(sql).fetch_all(connection).await.map_err(unchanged)?;
    Ok(rows.into_iter().collect())
}

fn migrate_error(error: MigrateError) -> LedgerError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => unchanged(error),
        MigrateError::VersionMissing(version) => LedgerError::Schema(format!(
            "the ledger's schema is at version {version}, newer than this build"
        )),
        MigrateError::VersionMismatch(version) => LedgerError::Schema(format!(
            "version {version} of the ledger's schema was applied from another text than this build's"
        )),
        MigrateError::Dirty(version) => LedgerError::Schema(format!(
            "version {version} of the ledger's schema was applied in part: restore a backup or repair it by hand"
        )),
        other => LedgerError::Failed(other.into()),
    }
}
