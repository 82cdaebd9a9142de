//! The ledger's calls that delete what is past its time. Each deletes a bounded batch; whoever calls repeats it.

use futures::future::BoxFuture;

use super::{Epoch, Ledger, Result, dispatch};
use crate::model::id::JobId;
use crate::model::job::JobState;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Whose jobs a rule of retention is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Those of one namespace.
    Only(Namespace),
    /// Those of all others.
    AllBut(Vec<Namespace>),
}

impl Whose {
    /// The namespaces that are named, and whether a job of one of them is meant.
    pub(super) fn parts(&self) -> (Vec<&str>, bool) {
        match self {
            Self::Only(namespace) => (vec![namespace.as_str()], true),
            Self::AllBut(others) => (others.iter().map(Namespace::as_str).collect(), false),
        }
    }

    /// Whether a job of that namespace is meant.
    pub fn includes(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Only(one) => one == namespace,
            Self::AllBut(others) => !others.contains(namespace),
        }
    }
}

/// Jobs that are past their time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aged {
    /// Whose.
    pub whose: Whose,
    /// In these states; those that are not terminal are passed over.
    pub states: Vec<JobState>,
    /// Whose end was recorded before this (ledger time, whatever the outcome's own time says).
    pub before: Timestamp,
}

/// One step of a walk over jobs in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Jobs that were deleted.
    pub deleted: u64,
    /// The last job that was looked at; the next step goes on behind it. `None`: there was none.
    pub last: Option<JobId>,
    /// No job behind it can be old enough yet.
    pub at_end: bool,
}

impl Ledger {
    /// Looks at some thousand jobs behind `after` (from the first on: `None`) and deletes those that are past their
    /// time, at most `limit`, with their attempts, logs and values. A job of a run that is on record stays. `lead` as of
    /// [`Self::prune`]. Safe to repeat.
    pub fn prune_jobs<'a>(
        &'a self,
        lead: Option<Epoch>,
        aged: &'a Aged,
        after: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Pruned>> {
        Box::pin(async move { dispatch!(self, prune_jobs(lead, aged, after, limit)) })
    }

    /// Deletes runs that ended before `before`, with their jobs, and idempotency keys, unique keys, blobs, workers,
    /// operations and roll-ups past their time; drops days without jobs (PostgreSQL). At most `limit` rows of each sort;
    /// how many. Repeat until 0. With `lead` nothing is written unless that epoch leads still. Safe to repeat.
    pub fn prune(
        &self,
        lead: Option<Epoch>,
        before: Timestamp,
        limit: u32,
    ) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { dispatch!(self, prune(lead, before, limit)) })
    }
}
