//! The ledger's calls for schedules. The words are those of [`super::schedules`].

use futures::future::BoxFuture;

use super::schedules::{
    FireRow, OpenCursor, Schedule, ScheduleChange, ScheduleChanged, SchedulePage, ScheduleSeen,
    SchedulesDue,
};
use super::{Epoch, Ledger, Result, dispatch};
use crate::model::id::ScheduleId;
use crate::model::name::{Namespace, ScheduleName};
use crate::model::time::Timestamp;

impl Ledger {
    /// Keeps a new schedule as it is given, but for its times of making and change; `None`: the name is taken, or the
    /// namespace has [`crate::model::schedule::SCHEDULES_MAX`]. Repeat with the same id.
    pub fn create_schedule<'a>(
        &'a self,
        schedule: &'a Schedule,
    ) -> BoxFuture<'a, Result<Option<Schedule>>> {
        Box::pin(async move { dispatch!(self, create_schedule(schedule)) })
    }

    /// One schedule of a namespace.
    pub fn schedule<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
    ) -> BoxFuture<'a, Result<Option<Schedule>>> {
        Box::pin(async move { dispatch!(self, schedule(namespace, name)) })
    }

    /// Schedules of a namespace by name, from behind `after`; at most 500.
    pub fn schedules<'a>(
        &'a self,
        namespace: &'a Namespace,
        after: Option<&'a ScheduleName>,
        limit: u32,
    ) -> BoxFuture<'a, Result<SchedulePage>> {
        Box::pin(async move { dispatch!(self, schedules(namespace, after, limit)) })
    }

    /// One schedule with its open and waiting fires.
    pub fn schedule_seen<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
    ) -> BoxFuture<'a, Result<Option<ScheduleSeen>>> {
        Box::pin(async move { dispatch!(self, schedule_seen(namespace, name)) })
    }

    /// Changes a schedule where nobody has since it was seen, and submits the work of its fires, in one transaction.
    /// Not cancelled by dropping. May be repeated: what was committed is [`ScheduleChanged::Moved`] then.
    pub fn change_schedule<'a>(
        &'a self,
        change: ScheduleChange,
    ) -> BoxFuture<'a, Result<ScheduleChanged>> {
        Box::pin(async move { dispatch!(self, change_schedule(change)) })
    }

    /// Deletes a schedule, whether this build can read it or not; its id, or `None`: there is none of this name. Its
    /// fires stay until [`Self::delete_fires`]; what it has submitted goes on.
    pub fn delete_schedule<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
    ) -> BoxFuture<'a, Result<Option<ScheduleId>>> {
        Box::pin(async move { dispatch!(self, delete_schedule(namespace, name)) })
    }

    /// Deletes at most `limit` fires of a schedule; how many.
    pub fn delete_fires(&self, id: ScheduleId, limit: u32) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { dispatch!(self, delete_fires(id, limit)) })
    }

    /// Schedules with something to decide by now, at most `limit`, and when the next will have.
    pub fn schedules_due(&self, limit: u32) -> BoxFuture<'_, Result<SchedulesDue>> {
        Box::pin(async move { dispatch!(self, schedules_due(limit)) })
    }

    /// Looks at open fires after `after` (from the beginning: `None`), at most `limit`: schedules of those whose work
    /// has ended have something to decide from now on. Where to go on; `None` at the end. Safe to repeat. `lead` as of
    /// [`Self::prune`].
    pub fn note_ended_fires(
        &self,
        lead: Option<Epoch>,
        after: Option<OpenCursor>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Option<OpenCursor>>> {
        Box::pin(async move { dispatch!(self, note_ended_fires(lead, after, limit)) })
    }

    /// Fires of a schedule, latest due time first, before `before` (exclusive); at most 500.
    pub fn fires(
        &self,
        id: ScheduleId,
        before: Option<Timestamp>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<FireRow>>> {
        Box::pin(async move { dispatch!(self, fires(id, before, limit)) })
    }

    /// Due times of a schedule from one to another (both included) that were fired or wait; at most `limit`.
    pub fn fired_between(
        &self,
        id: ScheduleId,
        from: Timestamp,
        to: Timestamp,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Timestamp>>> {
        Box::pin(async move { dispatch!(self, fired_between(id, from, to, limit)) })
    }

    /// Forgets fires that were decided before `before` and are over, at most `limit`; how many. Their schedules note it
    /// ([`super::schedules::Schedule::fires_from`]). Safe to repeat. `lead` as of [`Self::prune`].
    pub fn prune_fires(
        &self,
        lead: Option<Epoch>,
        before: Timestamp,
        limit: u32,
    ) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { dispatch!(self, prune_fires(lead, before, limit)) })
    }
}
