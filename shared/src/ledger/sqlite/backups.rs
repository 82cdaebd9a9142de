//! See [`crate::ledger::backups`].

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::fault::Fault;
use super::jobs::Columns;
use super::run_calls::change;
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Result, read};
use crate::ledger::backups::{Backup, Drilled, Made, PAGE_MAX};
use crate::ledger::unreadable::readable;
use crate::model::id::BackupId;

macro_rules! select_backups {
    ($tail:literal) => {
        concat!(
            "SELECT id, at, made_at, rows, bytes, encrypted, verified_at, rto_ms, rpo_ms, drill_error FROM backups ",
            $tail
        )
    };
}

#[allow(missing_docs, reason = "documented once, at `Ledger`")]
impl super::Sqlite {
    pub async fn note_backup(&self, made: &Made) -> Result<()> {
        let made = *made;
        change!(self, |tx| note(tx, made))
    }

    pub async fn note_drill(&self, id: BackupId, drilled: &Drilled) -> Result<()> {
        let drilled = drilled.clone();
        change!(self, |tx| drill(tx, id, &drilled))
    }

    pub async fn forget_backup(&self, id: BackupId) -> Result<()> {
        change!(self, |tx| forget(tx, id))
    }

    pub async fn backup(&self, id: BackupId) -> Result<Option<Backup>> {
        read!(self, one, id)
    }

    pub async fn backups(&self, before: Option<BackupId>, limit: u32) -> Result<Vec<Backup>> {
        read!(self, list, before, limit)
    }
}

async fn note(tx: &mut Tx<'_>, made: Made) -> Result<(), Fault> {
    let sql = "INSERT INTO backups (id, at, made_at, rows, bytes, encrypted) \
        VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING";
    let args = Args::default()
        .with(made.id.as_bytes().as_slice())
        .with(made.at.micros())
        .with(made.made_at.micros())
        .with(number(made.rows))
        .with(number(made.bytes))
        .with(made.encrypted);
    execute(tx.connection, sql, args).await?;
    Ok(())
}

async fn drill(tx: &mut Tx<'_>, id: BackupId, drilled: &Drilled) -> Result<(), Fault> {
    let sql = "UPDATE backups SET drilled_at = ?2, drill_error = ?3, \
        verified_at = CASE WHEN ?4 THEN ?2 ELSE verified_at END, \
        rto_ms = CASE WHEN ?4 THEN ?5 ELSE rto_ms END, \
        rpo_ms = CASE WHEN ?4 THEN ?6 ELSE rpo_ms END \
        WHERE id = ?1 AND (drilled_at IS NULL OR drilled_at <= ?2)";
    let args = Args::default()
        .with(id.as_bytes().as_slice())
        .with(drilled.at.micros())
        .with(drilled.error.as_deref())
        .with(drilled.error.is_none())
        .with(number(drilled.rto_ms))
        .with(number(drilled.rpo_ms));
    execute(tx.connection, sql, args).await?;
    Ok(())
}

async fn forget(tx: &mut Tx<'_>, id: BackupId) -> Result<(), Fault> {
    let args = Args::default().with(id.as_bytes().as_slice());
    execute(tx.connection, "DELETE FROM backups WHERE id = ?", args).await?;
    Ok(())
}

async fn one(connection: &mut SqliteConnection, id: BackupId) -> Result<Option<Backup>, Fault> {
    let args = Args::default().with(id.as_bytes().as_slice());
    let found = row(connection, select_backups!("WHERE id = ?"), args).await?;
    found.as_ref().map(backup_of).transpose()
}

async fn list(
    connection: &mut SqliteConnection,
    before: Option<BackupId>,
    limit: u32,
) -> Result<Vec<Backup>, Fault> {
    let before = before.map_or(Uuid::max(), BackupId::uuid);
    let sql = select_backups!("WHERE id < ? ORDER BY id DESC LIMIT ?");
    let args =
        Args::default().with(before.as_bytes().as_slice()).with(i64::from(limit.min(PAGE_MAX)));
    Ok(readable("a backup", &rows(connection, sql, args).await?, backup_of))
}

fn backup_of(row: &SqliteRow) -> Result<Backup, Fault> {
    let mut c = Columns::of(row);
    Ok(Backup {
        made: Made {
            id: BackupId::from_bytes(c.id()?),
            at: c.time()?,
            made_at: c.time()?,
            rows: c.count()?,
            bytes: c.count()?,
            encrypted: c.next()?,
        },
        verified_at: c.maybe_time()?,
        rto_ms: c.maybe_count()?,
        rpo_ms: c.maybe_count()?,
        drill_error: c.next()?,
    })
}

/// As SQLite holds it; one that is too large (none is) becomes the largest.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
