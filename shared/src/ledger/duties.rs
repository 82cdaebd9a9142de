//! What schedulers do by themselves, as they tell it: one row for each duty of each process. Only a view of the past
//! few seconds; a row that was not written costs nothing but that.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Epoch, Ledger, Result, dispatch};
use crate::model::id::WorkerId;
use crate::model::time::Timestamp;

/// A process that has not written for so long is gone, and its work is shared among the others.
pub const GONE_AFTER: Duration = Duration::from_secs(20);
/// Rows of processes that are gone are kept this long, for who looks into what happened.
pub const KEPT_FOR: Duration = Duration::from_secs(600);
/// How often a process writes its rows.
pub const WRITTEN_EVERY: Duration = Duration::from_secs(5);
/// Longest error kept, in bytes.
pub const ERROR_BYTES_MAX: usize = 500;
/// Most rows of one answer.
pub const ROWS_MAX: u32 = 5_000;
/// A duty is late when it has not ended for this many intervals, its longest time and [`WRITTEN_EVERY`] (twice).
const LATE_INTERVALS: u32 = 3;

/// Who carries a duty out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Every scheduler.
    Every,
    /// Every scheduler, each its own shards first.
    ByShard,
    /// The leader.
    Leader,
}

impl Who {
    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::ByShard => "by_shard",
            Self::Leader => "leader",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        [Self::Every, Self::ByShard, Self::Leader].into_iter().find(|who| who.as_str() == word)
    }
}

/// How the latest tick of a duty ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// None has ended yet.
    Never,
    /// Well.
    Ok,
    /// With an error.
    Failed,
    /// It took longer than it may, and was given up.
    GivenUp,
    /// It is the leader's, and this process does not lead.
    Standby,
}

impl Ended {
    const ALL: [Self; 5] = [Self::Never, Self::Ok, Self::Failed, Self::GivenUp, Self::Standby];

    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
            Self::Standby => "standby",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ended| ended.as_str() == word)
    }
}

/// What a duty is, as its file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub duty: String,
    /// What it does, in a line.
    pub what: String,
    /// Time from one tick to the next.
    pub interval: Duration,
    /// Most things of one step.
    pub batch: u32,
    /// Longest time of a tick.
    pub longest: Duration,
    /// Who carries it out.
    pub who: Who,
}

/// How a duty goes in one process. Times are told as ages, so that clocks need not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DutyNote {
    /// What it is.
    pub declared: Declared,
    /// Since the latest tick began.
    pub started: Option<Duration>,
    /// Since the latest tick ended.
    pub ended: Option<Duration>,
    /// How it ended.
    pub outcome: Ended,
    /// How long it took.
    pub took: Duration,
    /// What it did: how many things.
    pub done: u64,
    /// Ticks that have ended since the start of the process.
    pub ticks: u64,
    /// Of these, how many failed since the latest that did not.
    pub failures: u64,
    /// Why the latest failed.
    pub error: Option<String>,
    /// In whose turn, of the leader.
    pub epoch: Option<Epoch>,
}

/// A [`DutyNote`] as it is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DutyRow {
    /// The process.
    pub replica: WorkerId,
    /// Its label.
    pub name: String,
    /// What it wrote; its ages are as of [`Self::seen_at`].
    pub declared: Declared,
    /// When the latest tick began.
    pub started_at: Option<Timestamp>,
    /// When the latest tick ended.
    pub ended_at: Option<Timestamp>,
    /// See [`DutyNote`].
    pub outcome: Ended,
    /// See [`DutyNote`].
    pub took: Duration,
    /// See [`DutyNote`].
    pub done: u64,
    /// See [`DutyNote`].
    pub ticks: u64,
    /// See [`DutyNote`].
    pub failures: u64,
    /// See [`DutyNote`].
    pub error: Option<String>,
    /// See [`DutyNote`].
    pub epoch: Option<Epoch>,
    /// When it was written (ledger time).
    pub seen_at: Timestamp,
}

impl DutyRow {
    /// Whether its process still writes.
    pub fn lives(&self, now: Timestamp) -> bool {
        now.since(self.seen_at) < GONE_AFTER
    }

    /// Whether the duty should have ended since.
    pub fn is_late(&self, now: Timestamp) -> bool {
        let declared = &self.declared;
        let most = declared.interval * LATE_INTERVALS + declared.longest + WRITTEN_EVERY * 2;
        // One that never ended is counted from its beginning; before that its process has only just started.
        let since = self.ended_at.or(self.started_at).unwrap_or(self.seen_at);
        now.since(since) > most
    }
}

/// Whether a duty is late: that of the leader, where nobody has carried it out for too long; others, where a living
/// process has not, or none lives.
pub fn is_late<'a>(rows: impl IntoIterator<Item = &'a DutyRow>, now: Timestamp) -> bool {
    let rows: Vec<&DutyRow> = rows.into_iter().collect();
    let of_leader = rows.iter().any(|row| row.declared.who == Who::Leader);
    if of_leader {
        // Who stands by ends no tick.
        return !rows.iter().any(|row| row.outcome != Ended::Standby && !row.is_late(now));
    }
    let mut living = rows.iter().filter(|row| row.lives(now)).peekable();
    living.peek().is_none() || living.any(|row| row.is_late(now))
}

impl Ledger {
    /// Writes how the duties of a process go, forgets those of processes that are long gone, and answers which processes
    /// write (this one included). One statement. Safe to repeat, and to drop.
    pub fn note_duties<'a>(
        &'a self,
        replica: WorkerId,
        name: &'a str,
        notes: &'a [DutyNote],
    ) -> BoxFuture<'a, Result<Vec<WorkerId>>> {
        Box::pin(async move { dispatch!(self, note_duties(replica, name, notes)) })
    }

    /// How every duty goes in every process, by duty and process; at most [`ROWS_MAX`]. And the ledger's time.
    pub fn duties(&self) -> BoxFuture<'_, Result<(Vec<DutyRow>, Timestamp)>> {
        Box::pin(async move { dispatch!(self, duties()) })
    }
}

/// A time as the stores keep it.
pub(super) fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Text within a bound, cut between characters.
pub(super) fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(ERROR_BYTES_MAX.min(text.len()));
    super::fit_text(&text[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(who: Who, outcome: Ended, ended: u64, seen: u64) -> DutyRow {
        let at = |secs: u64| Timestamp::from_millis(0).plus(Duration::from_secs(1_000 - secs));
        DutyRow {
            replica: WorkerId::generate(),
            name: "s".into(),
            declared: Declared {
                duty: "d".into(),
                what: "does".into(),
                interval: Duration::from_secs(10),
                batch: 1,
                longest: Duration::from_secs(20),
                who,
            },
            started_at: Some(at(ended)),
            ended_at: Some(at(ended)),
            outcome,
            took: Duration::ZERO,
            done: 0,
            ticks: 1,
            failures: 0,
            error: None,
            epoch: None,
            seen_at: at(seen),
        }
    }

    /// Late is more than 3 × 10 s + 20 s + 2 × 5 s ago.
    #[test]
    fn a_duty_is_late_after_its_intervals_and_bounds() {
        let now = Timestamp::from_millis(0).plus(Duration::from_secs(1_000));
        let every = |ended, seen| row(Who::Every, Ended::Ok, ended, seen);
        assert!(!is_late(&[every(60, 0)], now));
        assert!(is_late(&[every(61, 0)], now));
        assert!(is_late(&[every(1, 0), every(61, 0)], now), "one of two");
        assert!(
            !is_late(&[every(1, 0), every(61, 30)], now),
            "a process that is gone is no longer waited for"
        );
        assert!(is_late(&[every(61, 30)], now), "unless it was the last");
        let leads = |outcome, ended| row(Who::Leader, outcome, ended, 0);
        assert!(!is_late(&[leads(Ended::Failed, 1), leads(Ended::Standby, 900)], now));
        assert!(is_late(&[leads(Ended::Ok, 61), leads(Ended::Standby, 1)], now), "nobody does it");
    }
}
