//! See [`crate::ledger::backup`].

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::fault::Fault;
use super::jobs::Columns;
use super::place::Place;
use super::run_calls::change;
use super::statement::{Args, composed, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Result, connect, gates, read, schema};
use crate::config::LedgerSettings;
use crate::ledger::backup::{Contents, Origin, SAMPLES_EACH, TableSum, Target};
use crate::model::id::LedgerId;
use crate::model::job::JobState;
use crate::model::time::Timestamp;

/// See the same name of PostgreSQL's.
const GENERATIONS: i64 = 1_000_000;

pub(in crate::ledger) fn schema_version() -> i64 {
    schema::latest()
}

pub(in crate::ledger) fn file(settings: &LedgerSettings) -> Result<PathBuf> {
    Ok(Place::of(settings)?.file().to_owned())
}

pub(in crate::ledger) async fn copy(settings: &LedgerSettings, to: &Path) -> Result<Origin> {
    let place = Place::of(settings)?;
    let mut visitor = connect::visitor(place.file()).await?;
    schema::check(&mut visitor).await?;
    let at = now(&mut visitor).await?;
    // VACUUM INTO fills an empty file, and leaves its mode as it is.
    let mut options = std::fs::OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(to);
    made.map_err(|error| LedgerError::Unavailable(error.into()))?;
    let path = to.to_str().ok_or_else(|| LedgerError::Unfit("the path is not UTF-8".into()))?;
    execute(&mut visitor, "VACUUM INTO ?", Args::default().with(path)).await?;
    visitor.close().await.map_err(Fault::from)?;
    let mut copy = connect::private(to).await?;
    let ledger = gates::ledger_id(&mut copy).await?;
    execute(&mut copy, "DELETE FROM meta", Args::default()).await?;
    let version = row(&mut copy, "SELECT sqlite_version()", Args::default()).await?;
    let version = version.ok_or_else(|| Fault::unreadable("SQLite's version"))?;
    let version = number(version.try_get(0).map_err(Fault::from)?);
    copy.close().await.map_err(Fault::from)?;
    Ok(Origin { ledger, schema: schema_version(), database: "sqlite".into(), version, at })
}

/// `3.46.1` as 3046001.
fn number(version: &str) -> i32 {
    version.split('.').take(3).fold(0, |n, part| n * 1000 + part.parse::<i32>().unwrap_or(0))
}

async fn now(connection: &mut SqliteConnection) -> Result<Timestamp> {
    let sql = "SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER)";
    let found = row(connection, sql, Args::default()).await?;
    let found = found.ok_or_else(|| Fault::unreadable("the time"))?;
    Ok(Timestamp::from_micros(found.try_get(0).map_err(Fault::from)?))
}

pub(in crate::ledger) async fn contents(file: &Path) -> Result<Contents> {
    let mut connection = connect::visitor(file).await?;
    let found = read_contents(&mut connection).await?;
    connection.close().await.map_err(Fault::from)?;
    Ok(found)
}

async fn read_contents(connection: &mut SqliteConnection) -> Result<Contents, Fault> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'meta'";
    let mut tables = BTreeMap::new();
    for found in rows(connection, sql, Args::default()).await? {
        let name: String = found.try_get(0)?;
        let whole = whole_row(connection, &name).await?;
        let sql = format!("SELECT {whole} FROM {}", quoted(&name));
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let mut stream = query.fetch(&mut *connection);
        let (mut rows, mut sum) = (0, 0u128);
        while let Some(row) = stream.try_next().await? {
            rows += 1;
            sum = sum.wrapping_add(hash(row.try_get(0)?));
        }
        tables.insert(name, TableSum { rows, sum: format!("{sum:032x}") });
    }
    if !tables.contains_key("jobs") {
        return Ok(Contents { tables, ..Contents::default() });
    }
    let sql = "SELECT state, count(*) FROM jobs GROUP BY state";
    let mut jobs = BTreeMap::new();
    for found in rows(connection, sql, Args::default()).await? {
        let (state, count): (i64, i64) = (found.try_get(0)?, found.try_get(1)?);
        let known = i16::try_from(state).ok().and_then(JobState::from_number);
        let word = known.map_or_else(|| state.to_string(), |state| state.as_str().into());
        jobs.insert(word, count.unsigned_abs());
    }
    let whole = whole_row(connection, "jobs").await?;
    let mut samples = BTreeMap::new();
    for order in ["", "DESC"] {
        let sql = format!("SELECT id, {whole} FROM jobs ORDER BY id {order} LIMIT {SAMPLES_EACH}");
        for found in composed(connection, sql, Args::default()).await? {
            let id: [u8; 16] = Columns::of(&found).id()?;
            let sum = hash(found.try_get(1)?);
            samples.insert(uuid::Uuid::from_bytes(id).to_string(), format!("{sum:032x}"));
        }
    }
    Ok(Contents { tables, jobs, samples })
}

/// An expression for all columns of a table as one text that no two different rows share.
async fn whole_row(connection: &mut SqliteConnection, table: &str) -> Result<String, Fault> {
    let sql = "SELECT name FROM pragma_table_info(?) ORDER BY cid";
    let found = rows(connection, sql, Args::default().with(table)).await?;
    let columns: Vec<String> = found
        .iter()
        .map(|row| Ok(format!("quote({})", quoted(row.try_get(0)?))))
        .collect::<Result<_, Fault>>()?;
    Ok(columns.join(" || ',' || "))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn hash(text: &str) -> u128 {
    let digest = Sha256::digest(text.as_bytes());
    u128::from_be_bytes(digest[..16].try_into().expect("SHA-256 has 32 bytes"))
}

pub(in crate::ledger) fn target(settings: &LedgerSettings) -> Result<Target> {
    let place = Place::of(settings)?;
    // Also where the file is gone: a process may have the one that was there.
    if place.is_locked()? {
        let shown = place.file().display();
        return Ok(Target::Live(format!("a process has {shown} open")));
    }
    // A journal that an earlier file has left would be played back into the new one.
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut path = place.file().as_os_str().to_owned();
        path.push(suffix);
        let path = PathBuf::from(path);
        match std::fs::symlink_metadata(&path) {
            Ok(found) => {
                let (shown, size) = (path.display(), found.len());
                return Ok(Target::NotEmpty(format!("{shown} is there, with {size} bytes")));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(LedgerError::Unavailable(error.into())),
        }
    }
    Ok(Target::Empty)
}

pub(in crate::ledger) async fn finish(settings: &LedgerSettings) -> Result<LedgerId> {
    let place = Place::of(settings)?;
    let mut connection = connect::private(place.file()).await?;
    schema::check(&mut connection).await?;
    let damage = row(&mut connection, "PRAGMA quick_check(1)", Args::default()).await?;
    let damage = damage.ok_or_else(|| Fault::unreadable("the file's check"))?;
    let damage: String = damage.try_get(0).map_err(Fault::from)?;
    if damage != "ok" {
        return Err(LedgerError::Unfit(format!("the restored file is damaged: {damage}")));
    }
    let now = now(&mut connection).await?.micros();
    let done = renew(&mut connection, now).await?;
    connection.close().await.map_err(Fault::from)?;
    done
}

async fn renew(connection: &mut SqliteConnection, now: i64) -> Result<Result<LedgerId>, Fault> {
    execute(connection, "BEGIN IMMEDIATE", Args::default()).await?;
    if row(connection, "SELECT 1 FROM meta", Args::default()).await?.is_some() {
        execute(connection, "ROLLBACK", Args::default()).await?;
        return Ok(Err(LedgerError::Unfit("the database is a ledger already".into())));
    }
    let statements = [
        "UPDATE leader SET epoch = max(epoch + 1, ?), expires_at = 0",
        "UPDATE jobs SET fence = max(fence + 1, ?) WHERE state < 10",
        "DELETE FROM workers WHERE ? > 0",
    ];
    for sql in statements {
        execute(connection, sql, Args::default().with(now)).await?;
    }
    let sql = "UPDATE shards SET generation = generation + ?, process = NULL, changed_at = ?";
    execute(connection, sql, Args::default().with(GENERATIONS).with(now)).await?;
    execute(connection, "INSERT INTO meta DEFAULT VALUES", Args::default()).await?;
    let id = gates::ledger_id(connection).await?;
    execute(connection, "COMMIT", Args::default()).await?;
    Ok(Ok(id))
}

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl super::Sqlite {
    pub async fn present_id(&self) -> Result<LedgerId> {
        read!(self, gates::ledger_id)
    }

    pub async fn has_default(&self, name: &str) -> Result<bool> {
        read!(self, has_default, name)
    }

    pub async fn note_default(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        change!(self, |tx| note_default(tx, &name))
    }
}

async fn has_default(connection: &mut SqliteConnection, name: &str) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM defaults WHERE name = ?";
    Ok(row(connection, sql, Args::default().with(name)).await?.is_some())
}

async fn note_default(tx: &mut Tx<'_>, name: &str) -> Result<(), Fault> {
    let sql = "INSERT INTO defaults (name, made_at) VALUES (?, ?) ON CONFLICT DO NOTHING";
    execute(tx.connection, sql, Args::default().with(name).with(tx.now.micros())).await?;
    Ok(())
}
