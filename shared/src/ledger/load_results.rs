//! What the ledger keeps of load tests: their results, whoever made the load, so that a run can be held against the last one of
//! the same profile on the same machine that passed.

use futures::future::BoxFuture;
use uuid::Uuid;

use super::{Ledger, Result, dispatch};
use crate::model::time::Timestamp;

/// Results of one profile on one machine; older ones are forgotten.
pub const KEPT: u32 = 100;
/// Most results of one answer.
pub const PAGE_MAX: u32 = 500;

/// A result on record.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredResult {
    /// UUIDv7; made with the load.
    pub id: Uuid,
    /// The profile's name.
    pub profile: String,
    /// Where the load was made.
    pub machine: String,
    /// Whether every threshold held.
    pub passed: bool,
    /// By the clock of that machine.
    pub began_at: Timestamp,
    /// All of it, as JSON.
    pub result: String,
}

/// Which results are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultFilter {
    /// Of this profile.
    pub profile: Option<String>,
    /// Of this machine.
    pub machine: Option<String>,
    /// Only those that passed, or only those that did not.
    pub passed: Option<bool>,
    /// Older than this one.
    pub before: Option<Uuid>,
}

impl Ledger {
    /// Keeps a result, and forgets all but the latest [`KEPT`] of its profile on its machine. Safe to repeat: what is on
    /// record stays as it is.
    pub fn add_load_result<'a>(&'a self, new: &'a StoredResult) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, add_load_result(new)) })
    }

    /// One result.
    pub fn load_result(&self, id: Uuid) -> BoxFuture<'_, Result<Option<StoredResult>>> {
        Box::pin(async move { dispatch!(self, load_result(id)) })
    }

    /// Results, latest first; at most [`PAGE_MAX`].
    pub fn load_results<'a>(
        &'a self,
        filter: &'a ResultFilter,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<StoredResult>>> {
        Box::pin(async move { dispatch!(self, load_results(filter, limit)) })
    }
}
