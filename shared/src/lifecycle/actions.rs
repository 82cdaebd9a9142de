//! Bulk actions by filter, as tracked operations.

use crate::ledger::{JobFilter, LedgerError, Operation};
use crate::lifecycle::Lifecycle;
use crate::model::name::Namespace;

/// What a bulk action does to every job that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Redrive the terminal ones that did not succeed.
    Retry,
    /// Cancel those that are not terminal.
    Cancel,
    /// Forget the terminal ones.
    Delete,
}

pub(super) async fn count(life: &Lifecycle, namespace: &Namespace, action: Action, filter: &JobFilter) -> Result<u64, LedgerError> {
    let _ = (life, namespace, action, filter);
    todo!()
}
pub(super) async fn start(life: &Lifecycle, namespace: &Namespace, action: Action, filter: JobFilter, by: &str) -> Result<Operation, LedgerError> {
    let _ = (life, namespace, action, filter, by);
    todo!()
}
