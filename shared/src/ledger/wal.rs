//! What point in time recovery needs of a PostgreSQL server: whether it can be backed up as files, how its archive does,
//! and the step that makes a server which was recovered from files a new ledger.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Result, postgres};
use crate::config::LedgerSettings;
use crate::model::id::LedgerId;
use crate::model::time::Timestamp;

/// How the names of those settings begin that tell a server to recover and keep it read-only until it was adopted. They mean
/// nothing to the server that came out of it.
pub const OF_RECOVERY: [&str; 4] =
    ["recovery_", "restore_command", "archive_cleanup_command", "default_transaction_read_only"];

/// A server, as far as base backups and the archiving of its WAL are concerned.
#[derive(Debug, Clone)]
pub struct Server {
    /// Major version.
    pub version: i32,
    /// The ledger in this database.
    pub ledger: LedgerId,
    /// Ledger time.
    pub now: Timestamp,
    /// A standby, or one that recovers.
    pub in_recovery: bool,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// Whether `archive_command` or `archive_library` is set.
    pub has_archiver: bool,
    /// Bytes of a WAL file.
    pub segment_bytes: i64,
    /// Of connections that may stream; 0: none.
    pub wal_senders: i32,
    /// The role that asked.
    pub role: String,
    /// It may make base backups.
    pub may_replicate: bool,
    /// Tablespaces outside of the data directory.
    pub tablespaces: i64,
    /// The service that runs it, where it is one that allows no base backups.
    pub managed_by: Option<String>,
    /// See [`Archiver`].
    pub archiver: Archiver,
}

/// What became of archiving last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiver {
    /// The latest file that was archived.
    pub last_archived: Option<Timestamp>,
    /// The latest try that failed: when, and of which file.
    pub last_failed: Option<(Timestamp, String)>,
}

impl Archiver {
    /// The latest try failed: the file.
    pub fn fails_at(&self) -> Option<&str> {
        let (at, name) = self.last_failed.as_ref()?;
        self.last_archived.is_none_or(|archived| archived < *at).then_some(name.as_str())
    }
}

/// A ledger that was adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Its new id.
    pub ledger: LedgerId,
    /// The one that it was recovered under; `None`: an earlier call had given the new id already, and only what was left
    /// to do was done.
    pub was: Option<LedgerId>,
    /// The timeline of the server; `None`: it does not say.
    pub timeline: Option<i32>,
    /// It was read-only until now.
    pub was_read_only: bool,
    /// It still is: the other ledgers of the server, by database, that are to be adopted first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
}

/// Looks at the server of a ledger. Changes nothing.
///
/// # Errors
/// [`super::LedgerError::Unfit`]: it is not PostgreSQL.
pub fn look_at_server(settings: &LedgerSettings) -> BoxFuture<'_, Result<Server>> {
    Box::pin(async move { postgres::wal::look(settings).await })
}

/// Makes the ledger of a server that was recovered from files a new one, as [`super::backup::finish`] does for one that
/// was restored from a dump, and then lets others write to the server, where nobody could and every ledger of it was
/// adopted. In this order, so that nobody ever writes to one under its old id. Safe to repeat after an error.
///
/// # Errors
/// [`super::LedgerError::Unfit`]: the server still recovers, somebody uses it, it was adopted since it was recovered, or
/// the role may not let others write. [`super::LedgerError::Schema`]: the schema is not this build's.
pub fn adopt(settings: &LedgerSettings) -> BoxFuture<'_, Result<Adopted>> {
    Box::pin(async move { postgres::wal::adopt(settings).await })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archiving_fails_while_the_latest_try_did() {
        let at = |s: i64| Timestamp::from_millis(s * 1000);
        let of = |archived: Option<i64>, failed: Option<i64>| Archiver {
            last_archived: archived.map(at),
            last_failed: failed.map(|s| (at(s), "x".to_owned())),
        };
        assert_eq!(of(None, None).fails_at(), None);
        assert_eq!(of(Some(1), None).fails_at(), None);
        assert_eq!(of(Some(2), Some(1)).fails_at(), None);
        assert_eq!(of(Some(1), Some(2)).fails_at(), Some("x"));
        assert_eq!(of(None, Some(1)).fails_at(), Some("x"));
    }
}
