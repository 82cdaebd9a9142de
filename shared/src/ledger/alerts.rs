//! What the ledger keeps of alerts, and the cheap looks that rules judge from.
//!
//! Only the leader writes: each write names its epoch in the same statement, and is refused whole once somebody else
//! leads, or the term is over.

use std::time::Duration;

use super::Epoch;
use super::schedules::PAUSED_BY;
use crate::model::alert::{Alert, Receiver, Severity, Stage};
use crate::model::health::Sums;
use crate::model::id::AlertId;
use crate::model::name::{Namespace, QueueName, ScheduleName};
use crate::model::time::Timestamp;

/// Most live alerts, and most ended ones, of one answer.
pub const ALERTS_MAX: u32 = 5_000;
/// Most rows of [`super::Ledger::all_workers`].
pub const WORKERS_MAX: usize = 10_000;
/// How far behind the time may be at which a receiver was seen in the settings: it is not written with every look.
pub(super) const RECEIVER_SEEN_EVERY: Duration = Duration::from_secs(3600);
/// Most ended alerts that one look forgets.
pub(super) const FORGET_MAX: i64 = 1_000;
/// Most rows of [`super::Ledger::outcome_sums`].
pub(super) const SUMS_MAX: i64 = 50_000;

/// What a look changes.
#[derive(Debug, Clone)]
pub struct LookNote {
    /// Alerts as they are now, new ones and known ones.
    pub alerts: Vec<Alert>,
    /// Pending ones that came to nothing.
    pub dropped: Vec<AlertId>,
    /// [`crate::model::health::Summary`] as JSON.
    pub summary: String,
    /// Names of the leader's settings. Those that were not among them for long are forgotten.
    pub receivers: Vec<String>,
    /// Alerts that ended before are forgotten, some at a time; and receivers that were seen last before.
    pub forget_before: Timestamp,
}

/// The latest look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Of the leader that looked.
    pub epoch: Epoch,
    /// When (ledger time).
    pub at: Timestamp,
    /// As JSON; see [`LookNote::summary`].
    pub summary: String,
}

/// What a receiver was told of one alert last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldRow {
    /// Of which.
    pub alert: AlertId,
    /// What.
    pub stage: Stage,
    /// How bad it was said to be.
    pub severity: Severity,
    /// When (ledger time of the caller's look).
    pub at: Timestamp,
}

/// How much room a ledger takes, and how much is left to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the database with its indexes; on SQLite with the log of writes beside it.
    pub used: u64,
    /// Bytes that this process may still write on the volume of a SQLite ledger. `None` on PostgreSQL, which does not
    /// say what is free on the volumes of its server.
    pub free: Option<u64>,
}

/// Jobs and attempts that ended in a stretch of time, of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeSum {
    /// Whose.
    pub namespace: Namespace,
    /// Which queue.
    pub queue: QueueName,
    /// How they ended.
    pub sums: Sums,
}

/// What stands in the pause of a schedule that `pause_on_failure` has paused, and in no other: quotes within the texts
/// of a pause are escaped.
pub(super) fn paused_by_failures() -> String {
    format!("\"by\":\"{PAUSED_BY}\"")
}

/// What may be wrong with schedules. Each list is bounded by the caller's limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduleTroubles {
    /// Paused by failures of theirs, since when, and failures in a row.
    pub paused: Vec<(Namespace, ScheduleName, Timestamp, u32)>,
    /// Those that run and should have been looked at, and when.
    pub late: Vec<(Namespace, ScheduleName, Timestamp)>,
    /// Those with missed due times, and how many.
    pub missed: Vec<(Namespace, ScheduleName, u64)>,
}

/// A receiver, and what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TellNote {
    /// As it is now.
    pub receiver: Receiver,
    /// What it was told.
    pub told: Vec<ToldRow>,
}
