//! What the ledger keeps of backups, so that they can be listed without their store.
//!
//! The store decides what there is. The jobs of backups note here what they make, meet and prove, and forget what is gone;
//! what the command line makes comes here with the next backup that a job makes, and its drills of backups that are here
//! already do not.

use futures::future::BoxFuture;

use super::{Ledger, Result, dispatch};
use crate::model::id::BackupId;
use crate::model::time::Timestamp;

/// Most backups of a page.
pub(super) const PAGE_MAX: u32 = 500;

/// A backup, as it was made. None of it ever changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Its id in the store.
    pub id: BackupId,
    /// The instant of the ledger that it holds.
    pub at: Timestamp,
    /// When it was complete.
    pub made_at: Timestamp,
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Whether its parts are encrypted.
    pub encrypted: bool,
}

/// What one drill of a backup has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drilled {
    /// When it began.
    pub at: Timestamp,
    /// How long the restore took, in ms; kept of drills that passed only.
    pub rto_ms: u64,
    /// How old the backup was, in ms; kept of drills that passed only.
    pub rpo_ms: u64,
    /// Why it did not pass.
    pub error: Option<String>,
}

/// A backup on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// As it was made.
    pub made: Made,
    /// When the latest drill that passed began.
    pub verified_at: Option<Timestamp>,
    /// `rto_ms` of that drill.
    pub rto_ms: Option<u64>,
    /// `rpo_ms` of that drill.
    pub rpo_ms: Option<u64>,
    /// Why the latest drill did not pass; `None` also where there was none.
    pub drill_error: Option<String>,
}

impl Ledger {
    /// Notes a backup, unless it is on record. Safe to repeat.
    pub fn note_backup<'a>(&'a self, made: &'a Made) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, note_backup(made)) })
    }

    /// Notes a drill of a backup that is on record; one that began before the drill on record changes nothing. Safe to
    /// repeat.
    pub fn note_drill<'a>(
        &'a self,
        id: BackupId,
        drilled: &'a Drilled,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, note_drill(id, drilled)) })
    }

    /// Forgets a backup that is no longer in the store. Safe to repeat.
    pub fn forget_backup(&self, id: BackupId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { dispatch!(self, forget_backup(id)) })
    }

    /// One backup.
    pub fn backup(&self, id: BackupId) -> BoxFuture<'_, Result<Option<Backup>>> {
        Box::pin(async move { dispatch!(self, backup(id)) })
    }

    /// Backups, newest first, before `before` (exclusive); at most 500.
    pub fn backups(
        &self,
        before: Option<BackupId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Backup>>> {
        Box::pin(async move { dispatch!(self, backups(before, limit)) })
    }
}
