//! The ledger's calls for load checks. The words are those of [`super::load_checks`].

use futures::future::BoxFuture;

use super::load_checks::{CheckBegun, CheckEnd, Cleaned, LoadCheck, NewCheck};
use super::{Ledger, Result, dispatch};
use crate::model::id::{Fence, JobId};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

impl Ledger {
    /// Begins a check, or begins it anew after it was given back, unless another one runs. One that an earlier attempt
    /// left running is judged as failed, and so is another one whose job has ended without a verdict. Safe to repeat.
    pub fn begin_check<'a>(&'a self, new: &'a NewCheck) -> BoxFuture<'a, Result<CheckBegun>> {
        Box::pin(async move { dispatch!(self, begin_check(new)) })
    }

    /// Gives a check its verdict; `false`: it has one, or a later attempt has it. Safe to repeat.
    pub fn end_check<'a>(&'a self, end: &'a CheckEnd) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, end_check(end)) })
    }

    /// Notes that a process that stops gives a check back, so that the next attempt begins it anew; `false` as in
    /// [`Self::end_check`]. Safe to repeat.
    pub fn give_back_check(&self, id: JobId, run: Fence) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move { dispatch!(self, give_back_check(id, run)) })
    }

    /// One check.
    pub fn load_check(&self, id: JobId) -> BoxFuture<'_, Result<Option<LoadCheck>>> {
        Box::pin(async move { dispatch!(self, load_check(id)) })
    }

    /// Checks, latest first, before `before` (exclusive); at most 500.
    pub fn load_checks(
        &self,
        before: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LoadCheck>>> {
        Box::pin(async move { dispatch!(self, load_checks(before, limit)) })
    }

    /// Shadows of which something may be left and whose check does not run in them any more, oldest first.
    pub fn unclean_shadows(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Namespace>>> {
        Box::pin(async move { dispatch!(self, unclean_shadows(limit)) })
    }

    /// Forgets at most `limit` ended jobs of a shadow, and once there is no job left, all else that is kept of it. `None`:
    /// nothing was touched, for it is no shadow, is clean, or is one in which a check runs. Safe to repeat.
    pub fn clean_shadow<'a>(
        &'a self,
        shadow: &'a Namespace,
        limit: u32,
    ) -> BoxFuture<'a, Result<Option<Cleaned>>> {
        Box::pin(async move { dispatch!(self, clean_shadow(shadow, limit)) })
    }

    /// Forgets checks that ended before `before`, and all but the latest `keep`; how many. Those that are not clean stay.
    pub fn prune_checks(&self, before: Timestamp, keep: u32) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { dispatch!(self, prune_checks(before, keep)) })
    }
}
