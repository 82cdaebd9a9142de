//! The schema: which migrations there are, and which a database has.

use std::borrow::Cow;

use sqlx::Row;
use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnection;

use super::fault::Fault;
use super::statement::{Args, row, rows};
use super::{LedgerError, MigrationStatus};

/// Every migration of this build, oldest first: version, name, text.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "core", include_str!("../../../../migrations/sqlite/0001_core.sql")),
    (2, "upkeep", include_str!("../../../../migrations/sqlite/0002_upkeep.sql")),
    (3, "workflows", include_str!("../../../../migrations/sqlite/0003_workflows.sql")),
    (4, "gates", include_str!("../../../../migrations/sqlite/0004_gates.sql")),
    (5, "schedules", include_str!("../../../../migrations/sqlite/0005_schedules.sql")),
    (6, "duties", include_str!("../../../../migrations/sqlite/0006_duties.sql")),
    (7, "overwatch", include_str!("../../../../migrations/sqlite/0007_overwatch.sql")),
    (8, "load_checks", include_str!("../../../../migrations/sqlite/0008_load_checks.sql")),
    (9, "backups", include_str!("../../../../migrations/sqlite/0009_backups.sql")),
    (10, "quotas", include_str!("../../../../migrations/sqlite/0010_quotas.sql")),
    (11, "order", include_str!("../../../../migrations/sqlite/0011_order.sql")),
    (12, "circuits", include_str!("../../../../migrations/sqlite/0012_circuits.sql")),
    (13, "shaping", include_str!("../../../../migrations/sqlite/0013_shaping.sql")),
    (14, "groups", include_str!("../../../../migrations/sqlite/0014_groups.sql")),
    (15, "load_results", include_str!("../../../../migrations/sqlite/0015_load_results.sql")),
];

/// The version of this build.
pub(super) fn latest() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, text)| {
        let text = (*text).into_sql_str();
        Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, text, false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Applies what is missing; what was applied.
///
/// # Errors
/// [`LedgerError::Schema`] when the database has migrations that this build does not know, or others under
/// the same numbers.
pub(super) async fn migrate(
    connection: &mut SqliteConnection,
) -> Result<Vec<MigrationStatus>, LedgerError> {
    let before = status(connection).await?;
    migrator().run_direct(None, connection, false).await.map_err(refused)?;
    let missing = before.into_iter().filter(|migration| !migration.applied);
    Ok(missing.map(|migration| MigrationStatus { applied: true, ..migration }).collect())
}

/// Known migrations, as of a database that does not exist.
pub(super) fn none_applied() -> Vec<MigrationStatus> {
    let known = MIGRATIONS.iter().map(|(version, name, _)| MigrationStatus {
        version: *version,
        name: (*name).to_owned(),
        applied: false,
    });
    known.collect()
}

/// Known migrations and applied ones, oldest first.
pub(super) async fn status(
    connection: &mut SqliteConnection,
) -> Result<Vec<MigrationStatus>, LedgerError> {
    let mut found = none_applied();
    for (version, name) in applied(connection).await? {
        match found.iter_mut().find(|migration| migration.version == version) {
            Some(migration) => migration.applied = true,
            None => found.push(MigrationStatus { version, name, applied: true }),
        }
    }
    found.sort_by_key(|migration| migration.version);
    Ok(found)
}

/// # Errors
/// [`LedgerError::Schema`] unless the database has exactly this build's migrations.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), LedgerError> {
    let status = status(connection).await?;
    if status.iter().any(|migration| !migration.applied) {
        return Err(LedgerError::Schema(
            "the ledger's schema is older than this build: run `windlass migrate up`".into(),
        ));
    }
    if status.len() > MIGRATIONS.len() {
        return Err(LedgerError::Schema("the ledger's schema is newer than this build".into()));
    }
    Ok(())
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<(i64, String)>, Fault> {
    let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'";
    if row(connection, table, Args::default()).await?.is_none() {
        return Ok(Vec::new());
    }
    let sql = "SELECT version, description FROM _sqlx_migrations WHERE success ORDER BY version";
    let found = rows(connection, sql, Args::default()).await?;
    found.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn refused(error: MigrateError) -> LedgerError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            Fault::from(error).into()
        }
        other => LedgerError::Schema(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a migration file that nobody listed above fails the build's tests, not the first start.
    #[test]
    fn every_migration_file_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".sql"))
            .collect();
        files.sort();
        let listed: Vec<String> = MIGRATIONS
            .iter()
            .map(|(version, name, _)| format!("{version:04}_{name}.sql"))
            .collect();
        assert_eq!(files, listed);
    }
}
