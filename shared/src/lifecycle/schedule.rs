//! The life of a schedule: what is due is decided ([`crate::model::schedule::decide`]) and committed with its work in
//! one transaction, then the engine is told.
//!
//! Any process may look at any schedule at any time: of two that decide over the same due time one is refused by the
//! ledger, and looks again.

use futures::future::BoxFuture;

use super::Lifecycle;
use crate::ledger::schedules::{FireRow, Schedule, ScheduleSeen};
use crate::ledger::{LedgerError, Paused};
use crate::model::id::ScheduleId;
use crate::model::name::{Namespace, ScheduleName};
use crate::model::schedule::ScheduleSpec;
use crate::model::time::Timestamp;

mod change;
mod look;
mod work;

pub use work::check_templates;

/// A schedule as it is asked for.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Drawn by the maker, so that making it may be repeated.
    pub id: ScheduleId,
    /// Whose.
    pub namespace: Namespace,
    /// Its name.
    pub name: ScheduleName,
    /// Its rules; of an `every` without a start the anchor is set to the time of making.
    pub spec: ScheduleSpec,
    /// Made paused.
    pub paused: Option<Paused>,
}

/// What became of a change to a schedule.
#[derive(Debug, Clone, PartialEq)]
pub enum Scheduled<T> {
    /// Done.
    Done(T),
    /// There is no such schedule.
    Unknown,
}

/// What a backfill came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backfilled {
    /// Due times in the range, without those that are left out.
    pub due: u32,
    /// Those that will be fired: they were skipped, missed, or have never been.
    pub fires: u32,
}

/// Why a backfill is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackfillError {
    /// The range has more than [`crate::model::schedule::BACKFILL_MAX`] due times.
    TooMany,
    /// The range begins where rows of fires are gone: what was fired there would be fired again.
    Forgotten {
        /// From here on they are on record.
        until: Timestamp,
    },
}

impl Lifecycle {
    /// Keeps a schedule, due from now on. `None`: the name is taken, or there are too many.
    ///
    /// # Errors
    /// The ledger did not answer; repeat with the same id.
    pub fn create_schedule(
        &self,
        new: NewSchedule,
    ) -> BoxFuture<'_, Result<Option<Schedule>, LedgerError>> {
        Box::pin(async move { change::create(self, new).await })
    }

    /// Decides over everything of a schedule that is due, and submits it; how many due times were decided over. Safe to
    /// repeat, to drop, and to do in many processes at once.
    ///
    /// # Errors
    /// The ledger did not answer. What is due stays so.
    pub fn look_at_schedule<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
    ) -> BoxFuture<'a, Result<u64, LedgerError>> {
        Box::pin(async move { look::look(self, namespace, name).await })
    }

    /// Pauses (`Some`) or resumes a schedule. What was due before is decided over as it was then. Safe to repeat.
    ///
    /// # Errors
    /// The ledger did not answer, or the schedule is far behind.
    pub fn pause_schedule<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
        paused: Option<Paused>,
    ) -> BoxFuture<'a, Result<Scheduled<Schedule>, LedgerError>> {
        Box::pin(async move { change::pause(self, namespace, name, paused).await })
    }

    /// Gives a schedule other rules from now on. `make` makes them of what the schedule is, and may be called again
    /// where somebody else changes it at the same time; its refusal is passed on.
    ///
    /// # Errors
    /// As [`Self::pause_schedule`].
    pub fn patch_schedule<'a, E: Send + 'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
        make: impl Fn(&Schedule) -> Result<ScheduleSpec, E> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<Scheduled<Result<Schedule, E>>, LedgerError>> {
        Box::pin(async move { change::patch(self, namespace, name, make).await })
    }

    /// Fires a schedule at once, whatever runs and whether it is paused, as of `due` ([`Self::trigger_time`]). Safe to
    /// repeat with the same due time: the fire that is there is the answer.
    ///
    /// # Errors
    /// The ledger did not answer.
    pub fn trigger_schedule<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
        due: Timestamp,
    ) -> BoxFuture<'a, Result<Scheduled<FireRow>, LedgerError>> {
        Box::pin(async move { change::trigger(self, namespace, name, due).await })
    }

    /// A due time for a trigger now: no time that a schedule could be due at by itself.
    ///
    /// # Errors
    /// The ledger did not answer.
    pub fn trigger_time(&self) -> BoxFuture<'_, Result<Timestamp, LedgerError>> {
        Box::pin(async move { Ok(change::between_due_times(self.inner.ledger.now().await?)) })
    }

    /// Has the due times from one to another (both included, and none after now) fired that were not. They go one after
    /// the other, unless the schedule lets its work overlap. Safe to repeat: what was fired is not fired again.
    ///
    /// # Errors
    /// As [`Self::pause_schedule`].
    pub fn backfill_schedule<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
        from: Timestamp,
        to: Timestamp,
    ) -> BoxFuture<'a, Result<Scheduled<Result<Backfilled, BackfillError>>, LedgerError>> {
        Box::pin(async move { change::backfill(self, namespace, name, from, to).await })
    }

    /// Deletes a schedule and its fires. What it has submitted goes on.
    ///
    /// # Errors
    /// The ledger did not answer; repeat.
    pub fn delete_schedule<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a ScheduleName,
    ) -> BoxFuture<'a, Result<Scheduled<()>, LedgerError>> {
        Box::pin(async move { change::delete(self, namespace, name).await })
    }
}

/// Reads a schedule with what a decision needs.
async fn seen(
    life: &Lifecycle,
    namespace: &Namespace,
    name: &ScheduleName,
) -> Result<Option<ScheduleSeen>, LedgerError> {
    life.inner.ledger.schedule_seen(namespace, name).await
}
