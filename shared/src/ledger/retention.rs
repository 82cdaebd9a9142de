//! The ledger's calls that delete what is past its time. Each deletes a bounded batch; whoever calls repeats it.

use futures::future::BoxFuture;

use super::{Epoch, Ledger, Result, dispatch};
use crate::limits::IDEMPOTENCY_TTL;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::JobState;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;
use crate::model::workflow::WorkflowState;

/// Whose jobs and runs a rule of retention is about.
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
    /// Only jobs with an id of before this are looked at. A little later than `before`, and none is missed whose id was
    /// drawn by a clock that was ahead; earlier, and those are left out that are likely to have ended too late.
    pub made_before: Timestamp,
}

impl Aged {
    /// No id from this one on is looked at.
    pub(super) fn end(&self) -> JobId {
        /// The last instant that an id can hold.
        const MILLIS_MAX: u64 = (1 << 48) - 1;
        let millis = u64::try_from(self.made_before.millis()).unwrap_or(0);
        JobId::first_at(millis.min(MILLIS_MAX))
    }
}

/// Runs that are past their time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgedRuns {
    /// Whose.
    pub whose: Whose,
    /// In these states; those that are not terminal are passed over.
    pub states: Vec<WorkflowState>,
    /// That ended before this (ledger time).
    pub before: Timestamp,
    /// Which of their jobs go with them: those that ended in that state before that. The others are kept, as jobs of a
    /// run that is not there any more, until [`Ledger::prune_jobs`] finds them.
    pub jobs: Vec<(JobState, Timestamp)>,
}

/// A place in the order in which runs ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunPlace {
    /// When this one did.
    pub finished_at: Timestamp,
    /// Which one.
    pub id: WorkflowId,
}

/// One step of a walk over jobs in the order of their ids, or over runs in the order of their ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned<P> {
    /// Jobs and runs that were deleted.
    pub deleted: u64,
    /// The last one that was looked at; the next step goes on behind it. `None`: there was none.
    pub last: Option<P>,
    /// None behind it can be old enough yet.
    pub at_end: bool,
}

/// What is past its time and neither a job nor a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tidy {
    /// The present (ledger time), as far as it is to be believed.
    pub now: Timestamp,
    /// What has no time of its own is past it when it ended before this.
    pub before: Timestamp,
}

impl Tidy {
    /// Idempotency keys of before this are past their time.
    pub(super) fn keys_before(&self) -> Timestamp {
        self.now.minus(IDEMPOTENCY_TTL)
    }

    /// What is known by an idempotency key is kept at least as long: a repeat of the call finds it by that.
    pub(super) fn keyed_before(&self) -> Timestamp {
        self.before.min(self.keys_before())
    }
}

impl Ledger {
    /// Looks at some thousand jobs behind `after` (from the first on: `None`) and deletes those that are past their
    /// time, at most `limit`, with their attempts, logs and values. A job of a run that is on record stays. `None`: there
    /// was something to delete, and the epoch leads no more. `lead` as of [`Self::prune`]. Safe to repeat.
    pub fn prune_jobs<'a>(
        &'a self,
        lead: Option<Epoch>,
        aged: &'a Aged,
        after: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Option<Pruned<JobId>>>> {
        Box::pin(async move { dispatch!(self, prune_jobs(lead, aged, after, limit)) })
    }

    /// Looks at some thousand runs behind `after` (from the first on: `None`) and deletes those that are past their time,
    /// of at most about `limit` steps, but at least one, and of their jobs those that are past theirs. A child is kept
    /// until its parent has ended: the parent's step looks at it. `None`: there was something to delete, and the epoch
    /// leads no more. `lead` as of [`Self::prune`]. Safe to repeat.
    pub fn prune_runs<'a>(
        &'a self,
        lead: Option<Epoch>,
        aged: &'a AgedRuns,
        after: Option<RunPlace>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Option<Pruned<RunPlace>>>> {
        Box::pin(async move { dispatch!(self, prune_runs(lead, aged, after, limit)) })
    }

    /// Deletes idempotency keys, unique keys, blobs that nothing names, workers, operations and roll-ups past their time;
    /// drops days without jobs (PostgreSQL). At most `limit` rows of each sort; how many. Repeat until 0. With `lead`
    /// nothing is written unless that epoch leads still. Safe to repeat.
    pub fn prune(&self, lead: Option<Epoch>, tidy: Tidy, limit: u32) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { dispatch!(self, prune(lead, tidy, limit)) })
    }
}
