//! The ledger's calls for overwatch. The words are those of [`super::alerts`].

use std::time::Duration;

use futures::future::BoxFuture;

use super::alerts::{Judged, LookNote, OutcomeSum, ScheduleTroubles, Space, TellNote, ToldRow};
use super::{Epoch, Ledger, Result, WorkerBeat, dispatch};
use crate::model::alert::{Alert, Receiver};
use crate::model::time::Timestamp;

impl Ledger {
    /// Writes what a look changed, in one statement under the leader's epoch. `false`: the epoch is not that of the
    /// leader any more, or its term is over, and nothing was written. Safe to repeat.
    pub fn note_look<'a>(&'a self, epoch: Epoch, note: LookNote) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, note_look(epoch, note)) })
    }

    /// Alerts that have not ended, pending ones among them, and those that ended at or after `ended_since`, oldest
    /// first; at most [`super::alerts::ALERTS_MAX`] of either, of ended ones the latest. One whose record this build
    /// cannot read comes as [`Alert::in_outline`].
    pub fn alerts<'a>(&'a self, ended_since: Timestamp) -> BoxFuture<'a, Result<Vec<Alert>>> {
        Box::pin(async move { dispatch!(self, alerts(ended_since)) })
    }

    /// The latest look; `None`: there was none.
    pub fn judged<'a>(&'a self) -> BoxFuture<'a, Result<Option<Judged>>> {
        Box::pin(async move { dispatch!(self, judged()) })
    }

    /// Receivers that a leader has known, by name; at most 1,000.
    pub fn receivers<'a>(&'a self) -> BoxFuture<'a, Result<Vec<Receiver>>> {
        Box::pin(async move { dispatch!(self, receivers()) })
    }

    /// What a receiver was told of the alerts on record.
    pub fn told<'a>(&'a self, receiver: &'a str) -> BoxFuture<'a, Result<Vec<ToldRow>>> {
        Box::pin(async move { dispatch!(self, told(receiver)) })
    }

    /// Notes how a receiver does and what it was told, in one statement under the leader's epoch; `false` as in
    /// [`Self::note_look`]. A stage never falls. Safe to repeat.
    pub fn note_told<'a>(&'a self, epoch: Epoch, note: TellNote) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, note_told(epoch, note)) })
    }

    /// Sums of the roll-ups from `since` on by queue, busiest first; bounded.
    pub fn outcome_sums<'a>(&'a self, since: Timestamp) -> BoxFuture<'a, Result<Vec<OutcomeSum>>> {
        Box::pin(async move { dispatch!(self, outcome_sums(since)) })
    }

    /// How much room the ledger takes, and how much is left to it. Cheap, but not free: PostgreSQL looks at each of its
    /// files.
    pub fn space<'a>(&'a self) -> BoxFuture<'a, Result<Space>> {
        Box::pin(async move { dispatch!(self, space()) })
    }

    /// Workers of every namespace seen within `within`, those that were seen last first; at most
    /// [`super::alerts::WORKERS_MAX`].
    pub fn all_workers<'a>(&'a self, within: Duration) -> BoxFuture<'a, Result<Vec<WorkerBeat>>> {
        Box::pin(async move { dispatch!(self, all_workers(within)) })
    }

    /// Schedules that their failures have paused, those that run and were to be looked at before `late_before`, and those of which due
    /// times were noted as missed at or after `missed_since`; at most `limit` of each.
    pub fn schedule_troubles<'a>(
        &'a self,
        late_before: Timestamp,
        missed_since: Timestamp,
        limit: u32,
    ) -> BoxFuture<'a, Result<ScheduleTroubles>> {
        Box::pin(
            async move { dispatch!(self, schedule_troubles(late_before, missed_since, limit)) },
        )
    }
}
