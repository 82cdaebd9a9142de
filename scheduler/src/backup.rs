//! Backups of the ledger: made, checked, restored, and proven by drills.
//!
//! A backup is a folder of an object store: parts, and the manifest, which is written last and signed. Without a manifest
//! there is no backup. The manifest says of what instant the parts are, what they must hold, and how each is checked, so
//! that everything that can be wrong with a backup is found before a database is touched.
//!
//! The engine is not in it: it is rebuilt from the ledger. `docs/backups.md` says how to use all this.

use windlass_shared::ledger::LedgerError;

mod canary;
pub mod create;
pub mod drill;
mod durable;
pub mod fetch;
mod keys;
pub mod manifest;
mod pg;
mod pipe;
pub mod restore;
pub mod retain;
mod scratch;
mod seal;
pub mod store;
pub mod wal;

#[cfg(test)]
mod tests;

pub use keys::new_key;

/// Why a backup could not be made, checked or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A setting is missing or wrong.
    #[error("{0}")]
    Settings(String),
    /// The store of backups.
    #[error("the store of backups failed")]
    Store(#[source] object_store::Error),
    /// The store does not let us in, or not do this.
    #[error("the store of backups refuses: look at its credentials, and at what they may do there")]
    StoreDenied(#[source] object_store::Error),
    /// The database.
    #[error("the ledger failed")]
    Ledger(#[from] LedgerError),
    /// Another backup is being made.
    #[error("backup {0} is being made at this moment")]
    Busy(String),
    /// There is no manifest of this id.
    #[error("there is no backup {0}, or it was never completed")]
    NotFound(String),
    /// The manifest cannot be read, or is not what was signed.
    #[error("the manifest is damaged: {0}")]
    BadManifest(String),
    /// Signed by another installation's key.
    #[error("the backup was signed with another key (its key is {found}, ours {ours})")]
    ForeignKey {
        /// The short name of the key that signed it.
        found: String,
        /// And of the one in the settings.
        ours: String,
    },
    /// A newer build wrote it.
    #[error("the backup has format {0}, which this build does not know: use a newer build")]
    NewerFormat(u32),
    /// The schema of the dump is not this build's.
    #[error("the backup's schema is at version {found}, {} than {ours} of this build: restore it with the build that made it, then migrate", if found < ours { "older" } else { "newer" })]
    OtherSchema {
        /// Of the backup.
        found: i64,
        /// Of this build.
        ours: i64,
    },
    /// A part is not there.
    #[error("part {0} is missing")]
    MissingPart(usize),
    /// A part is shorter or longer than it was.
    #[error("part {part} has {found} bytes, not {expected}")]
    PartSize {
        /// Which, from 0.
        part: usize,
        /// Bytes there.
        found: u64,
        /// Bytes once.
        expected: u64,
    },
    /// A part's bytes are not what they were.
    #[error("part {0} is damaged: its checksum differs")]
    PartDamaged(usize),
    /// Encrypted, and none of our identities opens it.
    #[error("the backup is encrypted for somebody else: none of the identities opens it")]
    ForeignRecipient,
    /// What was checked could not be decoded all the same.
    #[error("the backup's data cannot be decoded")]
    Decode(#[source] std::io::Error),
    /// The target is in use.
    #[error("the target is live: {0}")]
    TargetLive(String),
    /// The target holds something.
    #[error("the target is not empty: {0}")]
    TargetNotEmpty(String),
    /// The target is another sort of database, or an older one.
    #[error("{0}")]
    OtherDatabase(String),
    /// What was restored is not what was backed up.
    #[error("the restored database differs from the manifest: {}", .0.join("; "))]
    Differs(Vec<String>),
    /// `pg_dump` or `pg_restore`.
    #[error("{0}")]
    Tool(String),
    /// The server does not allow base backups, or its archive does not work; what to do about it.
    #[error("{0}")]
    Server(String),
    /// WAL of this name is in the archive, with other content.
    #[error(
        "{0} is in the archive already, with other content: two servers must not archive to one place under one identity"
    )]
    WalConflict(String),
    /// What is in the archive is not what was put there.
    #[error("{name} of the archive is damaged: {why}")]
    WalDamaged {
        /// Of the WAL file.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// It must have been there: later WAL is, or a timeline that began later.
    #[error("{0} is missing in the archive, although later WAL is there")]
    WalGap(String),
    /// An instant, or a timeline, to which a base cannot be recovered.
    #[error("{0}")]
    OutOfReach(String),
    /// A file of this machine.
    #[error("{what}")]
    File {
        /// What was tried.
        what: String,
        /// Why it did not work.
        #[source]
        source: std::io::Error,
    },
    /// A drill was not over in its time.
    #[error("the drill was not over within {0} s")]
    TooLong(u64),
    /// It was asked to stop.
    #[error("stopped before it was complete")]
    Stopped,
}

impl BackupError {
    /// Stable; for reports and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Store(_) => "store",
            Self::StoreDenied(_) => "store_denied",
            Self::Ledger(_) => "ledger",
            Self::Busy(_) => "busy",
            Self::NotFound(_) => "not_found",
            Self::BadManifest(_) => "bad_manifest",
            Self::ForeignKey { .. } => "foreign_key",
            Self::NewerFormat(_) => "newer_format",
            Self::OtherSchema { .. } => "other_schema",
            Self::MissingPart(_) => "missing_part",
            Self::PartSize { .. } => "part_size",
            Self::PartDamaged(_) => "part_damaged",
            Self::ForeignRecipient => "foreign_recipient",
            Self::Decode(_) => "decode",
            Self::TargetLive(_) => "target_live",
            Self::TargetNotEmpty(_) => "target_not_empty",
            Self::OtherDatabase(_) => "other_database",
            Self::Differs(_) => "differs",
            Self::Tool(_) => "tool",
            Self::Server(_) => "server",
            Self::WalConflict(_) => "wal_conflict",
            Self::WalDamaged { .. } => "wal_damaged",
            Self::WalGap(_) => "wal_gap",
            Self::OutOfReach(_) => "out_of_reach",
            Self::File { .. } => "file",
            Self::TooLong(_) => "timeout",
            Self::Stopped => "stopped",
        }
    }

    /// Whether it says nothing of a backup: the same may go well the next time.
    pub fn is_passing(&self) -> bool {
        match self {
            // What does not fit or is damaged is so the next time, too.
            Self::Ledger(LedgerError::Unfit(_) | LedgerError::Schema(_)) => false,
            Self::Store(_)
            | Self::StoreDenied(_)
            | Self::Ledger(_)
            | Self::Busy(_)
            | Self::File { .. }
            | Self::Stopped => true,
            _ => false,
        }
    }

    fn file(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::File { what, source }
    }
}

impl From<object_store::Error> for BackupError {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        match error {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::StoreDenied(error),
            error => Self::Store(error),
        }
    }
}

/// How far something long is, for people. Called at every part.
pub type Progress<'a> = &'a (dyn Fn(&str, u64) + Send + Sync);

/// Says nothing.
pub fn silent(_what: &str, _bytes: u64) {}
