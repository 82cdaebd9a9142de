//! See [`crate::ledger::backups`].

use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Result;
use super::error::{after_write, unchanged};
use super::row::{get, int8, maybe_time, time, unsigned};
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
impl super::Postgres {
    pub async fn note_backup(&self, made: &Made) -> Result<()> {
        let made = *made;
        self.detached(move |inner| async move {
            let sql = "INSERT INTO backups (id, at, made_at, rows, bytes, encrypted) \
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";
            let query = sqlx::query(sql)
                .bind(made.id.uuid())
                .bind(made.at.micros())
                .bind(made.made_at.micros())
                .bind(int8(made.rows))
                .bind(int8(made.bytes))
                .bind(made.encrypted);
            query.execute(&inner.pool).await.map_err(after_write)?;
            Ok(())
        })
        .await
    }

    pub async fn note_drill(&self, id: BackupId, drilled: &Drilled) -> Result<()> {
        let drilled = drilled.clone();
        self.detached(move |inner| async move {
            let sql = "UPDATE backups SET drilled_at = $2, drill_error = $3, \
                verified_at = CASE WHEN $4 THEN $2 ELSE verified_at END, \
                rto_ms = CASE WHEN $4 THEN $5 ELSE rto_ms END, \
                rpo_ms = CASE WHEN $4 THEN $6 ELSE rpo_ms END \
                WHERE id = $1 AND (drilled_at IS NULL OR drilled_at <= $2)";
            let query = sqlx::query(sql)
                .bind(id.uuid())
                .bind(drilled.at.micros())
                .bind(drilled.error.as_deref())
                .bind(drilled.error.is_none())
                .bind(int8(drilled.rto_ms))
                .bind(int8(drilled.rpo_ms));
            query.execute(&inner.pool).await.map_err(after_write)?;
            Ok(())
        })
        .await
    }

    pub async fn forget_backup(&self, id: BackupId) -> Result<()> {
        self.detached(move |inner| async move {
            let query = sqlx::query("DELETE FROM backups WHERE id = $1").bind(id.uuid());
            query.execute(&inner.pool).await.map_err(after_write)?;
            Ok(())
        })
        .await
    }

    pub async fn backup(&self, id: BackupId) -> Result<Option<Backup>> {
        self.read(async {
            let query = sqlx::query(select_backups!("WHERE id = $1")).bind(id.uuid());
            let found = query.fetch_optional(&self.inner.pool).await.map_err(unchanged)?;
            found.as_ref().map(backup_of).transpose()
        })
        .await
    }

    pub async fn backups(&self, before: Option<BackupId>, limit: u32) -> Result<Vec<Backup>> {
        self.read(async {
            let before = before.map_or(Uuid::max(), BackupId::uuid);
            let sql = select_backups!("WHERE id < $1 ORDER BY id DESC LIMIT $2");
            let query = sqlx::query(sql).bind(before).bind(i64::from(limit.min(PAGE_MAX)));
            let found = query.fetch_all(&self.inner.pool).await.map_err(unchanged)?;
            Ok(readable("a backup", &found, backup_of))
        })
        .await
    }
}

fn backup_of(row: &PgRow) -> Result<Backup> {
    let ms = |at, column| match get::<Option<i64>>(row, at)? {
        Some(_) => unsigned(row, at, column).map(Some),
        None => Ok(None),
    };
    Ok(Backup {
        made: Made {
            id: BackupId::from_uuid(get(row, 0)?),
            at: time(row, 1)?,
            made_at: time(row, 2)?,
            rows: unsigned(row, 3, "rows")?,
            bytes: unsigned(row, 4, "bytes")?,
            encrypted: get(row, 5)?,
        },
        verified_at: maybe_time(row, 6)?,
        rto_ms: ms(7, "rto_ms")?,
        rpo_ms: ms(8, "rpo_ms")?,
        drill_error: get(row, 9)?,
    })
}
