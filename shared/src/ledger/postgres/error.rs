//! What a database error means for the caller of the ledger. Nothing of its text reaches users.

use super::LedgerError;
use super::connect::WrongLedger;

/// For reads, and for writes that are known to have changed nothing.
pub(super) fn unchanged(error: sqlx::Error) -> LedgerError {
    use sqlx::Error as E;
    match error {
        E::Configuration(ref cause) if cause.is::<WrongLedger>() => {
            LedgerError::Unfit(cause.to_string())
        }
        E::Configuration(_) | E::InvalidArgument(_) => {
            LedgerError::Unfit("the ledger's address or its options are wrong".into())
        }
        E::Io(_)
        | E::Tls(_)
        | E::Protocol(_)
        | E::PoolTimedOut
        | E::PoolClosed
        | E::WorkerCrashed
        | E::BeginFailed => LedgerError::Unavailable(error.into()),
        E::Database(ref cause) if passes(cause.code().as_deref()) => {
            LedgerError::Unavailable(error.into())
        }
        _ => LedgerError::Failed(error.into()),
    }
}

/// For writes whose statement may have been carried out.
pub(super) fn after_write(error: sqlx::Error) -> LedgerError {
    if is_lost(&error) { LedgerError::OutcomeUnknown } else { unchanged(error) }
}

/// Whether the same statement may work later: the server is going down or coming up (57P), is out of
/// something (53), was too slow (57014, 55P03), met another transaction (40), is a standby (25006), or
/// the connection broke (08). An I/O error or damage of the server (58, XX) is not among them.
fn passes(code: Option<&str>) -> bool {
    let Some(code) = code else { return false };
    matches!(code, "57014" | "55P03" | "25006" | "25P03")
        || ["08", "53", "57P", "40"].iter().any(|class| code.starts_with(class))
}

/// Whether the connection is gone, so that it is not known what became of a statement on it.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    match error {
        E::Io(_) | E::Tls(_) | E::Protocol(_) | E::WorkerCrashed => true,
        E::Database(cause) => cause.code().is_some_and(|code| {
            code.starts_with("08") || code.starts_with("57P") || code == "25P03"
        }),
        _ => false,
    }
}

/// Whether it is the row's fault: data (22), a constraint (23), or over a limit of the server (54).
pub(super) fn is_bad_data(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(cause) => cause
            .code()
            .is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class))),
        sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// Whether the server undid the statement because of another one: deadlock, serialization.
pub(super) fn is_collision(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(cause) => {
            cause.code().is_some_and(|code| code == "40P01" || code == "40001")
        }
        _ => false,
    }
}

/// Whether the statement waited too long for somebody else's lock (55P03). Nothing was changed.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(cause) if cause.code().as_deref() == Some("55P03"))
}

/// A stored value that this build does not understand.
#[derive(Debug, thiserror::Error)]
#[error("column {column} of the ledger holds what this build does not understand")]
pub(super) struct BadColumn {
    pub(super) column: &'static str,
}

impl From<BadColumn> for LedgerError {
    fn from(error: BadColumn) -> Self {
        Self::Failed(error.into())
    }
}
