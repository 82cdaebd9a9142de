//! Backups as callers see them, and what callers send to have one made, proven or restored.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use windlass_shared::ledger::backups::Backup;
use windlass_shared::model::time::Timestamp;

/// Nothing can be said yet; the target of a restore in particular is never sent, but set.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BackupRequest)]
pub struct NothingSent {}

/// A backup of the ledger.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Backup)]
pub struct BackupView {
    /// UUIDv7; the folder of the store in which it is.
    #[schema(format = Uuid)]
    id: String,
    /// The instant of the ledger that it holds.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// When it was complete.
    #[schema(value_type = String, format = DateTime)]
    made_at: Timestamp,
    /// Rows of all tables.
    rows: u64,
    /// Bytes of all parts.
    bytes: u64,
    encrypted: bool,
    /// When the latest drill that passed began.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    verified_at: Option<Timestamp>,
    /// Of that drill: how long the restore took.
    #[schema(required = true)]
    rto_ms: Option<u64>,
    /// Of that drill: how old the backup was.
    #[schema(required = true)]
    rpo_ms: Option<u64>,
    /// Why the latest drill did not pass; `null` where it passed, or there was none.
    #[schema(required = true)]
    drill_error: Option<String>,
}

impl From<Backup> for BackupView {
    fn from(backup: Backup) -> Self {
        Self {
            id: backup.made.id.to_string(),
            at: backup.made.at,
            made_at: backup.made.made_at,
            rows: backup.made.rows,
            bytes: backup.made.bytes,
            encrypted: backup.made.encrypted,
            verified_at: backup.verified_at,
            rto_ms: backup.rto_ms,
            rpo_ms: backup.rpo_ms,
            drill_error: backup.drill_error,
        }
    }
}
