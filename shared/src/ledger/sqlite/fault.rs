//! What SQLite's errors mean for the ledger: which pass, which are the caller's, and which end acceptance
//! for the rest of this process's life.

use std::sync::{Arc, OnceLock};

use super::LedgerError;

/// An error of the database, sorted. Cheap to clone: one failed commit answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{source}")]
pub(super) struct Fault {
    class: Class,
    source: Arc<dyn std::error::Error + Send + Sync>,
}

/// What is to be done about a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Passes: the disk is full, or somebody else holds the database's lock.
    Passing,
    /// The file or its disk is damaged. Nothing may be accepted any more (I30).
    Broken,
    /// This row's data alone is refused.
    Data,
    /// The namespace has too many queues for another.
    TooManyQueues,
    /// A statement of ours was refused, or an answer is not understood.
    Failed,
}

impl Fault {
    /// A text stored by another build, or edited by hand, that does not read.
    pub(super) fn unreadable(what: impl std::fmt::Display) -> Self {
        Self { class: Class::Failed, source: Arc::new(Said(format!("cannot read {what}"))) }
    }

    /// Data of a caller's that no ledger takes.
    pub(super) fn refused(why: &str) -> Self {
        Self { class: Class::Data, source: Arc::new(Said(why.to_owned())) }
    }

    /// Another queue would be one too many.
    pub(super) fn too_many_queues() -> Self {
        let said = Said("the namespace has too many queues".into());
        Self { class: Class::TooManyQueues, source: Arc::new(said) }
    }

    /// Queues had changed whenever their circuits were read.
    pub(super) fn restless() -> Self {
        let said = Said("queues change faster than they can be read".into());
        Self { class: Class::Passing, source: Arc::new(said) }
    }

    /// The writer or its connection is gone.
    pub(super) fn closed() -> Self {
        Self { class: Class::Passing, source: Arc::new(Said("the ledger is closed".into())) }
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// Whether the rest of the transaction can go on without the statement that failed.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.class, Class::Data | Class::TooManyQueues | Class::Failed)
    }
}

/// A plain sentence as an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self { class: class_of(&error), source: Arc::new(error) }
    }
}

impl From<Fault> for LedgerError {
    fn from(fault: Fault) -> Self {
        match fault.class {
            Class::Passing | Class::Broken => Self::Unavailable(Box::new(fault)),
            Class::TooManyQueues => Self::TooManyQueues,
            Class::Data | Class::Failed => Self::Failed(Box::new(fault)),
        }
    }
}

fn class_of(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
            class_of_code(code)
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Class::Passing,
        // The driver's thread is gone, and with it the only writing connection.
        sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => Class::Broken,
        _ => Class::Failed,
    }
}

/// Sorts an extended result code; the lowest byte is the primary one (sqlite.org/rescode.html).
fn class_of_code(code: i32) -> Class {
    match code & 0xff {
        // BUSY, LOCKED, NOMEM, INTERRUPT, FULL, PROTOCOL.
        5 | 6 | 7 | 9 | 13 | 15 => Class::Passing,
        // PERM, READONLY (also: the file was moved away), IOERR, CORRUPT, CANTOPEN, NOTADB.
        3 | 8 | 10 | 11 | 14 | 26 => Class::Broken,
        // TOOBIG, CONSTRAINT, MISMATCH.
        18..=20 => Class::Data,
        _ => Class::Failed,
    }
}

/// Whether this process may still write. Once it may not, only a restart, which reads and checks the file
/// anew, makes it so again.
#[derive(Debug, Default)]
pub(super) struct Health {
    broken: OnceLock<Fault>,
}

impl Health {
    /// Notes what a fault says about the file, and passes it on.
    pub(super) fn note(&self, fault: Fault) -> Fault {
        if fault.class == Class::Broken && self.broken.set(fault.clone()).is_ok() {
            tracing::error!(error = %fault, "the ledger's file or disk is damaged; nothing is accepted until a restart");
        }
        fault
    }

    /// # Errors
    /// The first fault that broke the ledger.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.broken.get().map_or(Ok(()), |fault| Err(fault.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_stops_the_ledger_and_a_full_disk_does_not() {
        // FULL, BUSY_SNAPSHOT.
        for code in [13, 517] {
            assert_eq!(class_of_code(code), Class::Passing, "{code}");
        }
        // IOERR_FSYNC, IOERR_WRITE, CORRUPT, NOTADB, READONLY_DBMOVED.
        for code in [1034, 778, 11, 26, 1032] {
            assert_eq!(class_of_code(code), Class::Broken, "{code}");
        }
        // CONSTRAINT_UNIQUE, TOOBIG; ERROR.
        assert_eq!(class_of_code(2067), Class::Data);
        assert_eq!(class_of_code(18), Class::Data);
        assert_eq!(class_of_code(1), Class::Failed);
    }

    #[test]
    fn the_first_damage_is_remembered() {
        let health = Health::default();
        let fault = |class| Fault { class, source: Arc::new(Said(format!("{class:?}"))) };
        health.note(fault(Class::Passing));
        health.check().unwrap();
        health.note(fault(Class::Broken));
        health.note(fault(Class::Failed));
        assert_eq!(health.check().unwrap_err().class(), Class::Broken);
        assert!(matches!(LedgerError::from(fault(Class::Broken)), LedgerError::Unavailable(_)));
    }
}
