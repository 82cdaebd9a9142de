//! A schedule: when something is due, what is submitted then, and what becomes of every due time.

use std::time::Duration;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::job::JobState;
use super::time::{Span, Timestamp};
use super::workflow::{ChildSpec, JobTemplate, WorkflowState};

pub mod cron;
pub mod decide;
pub mod times;

use times::{Timing, Zone};

/// A checked schedule, as it is stored: nothing in it can be refused any more but by the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// When it is due.
    pub timing: Timing,
    /// Where civil times and dates are meant.
    #[serde(default)]
    pub zone: Zone,
    /// What happens when the work of an earlier fire has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens to due times that nobody was there for.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// Each fire comes up to this much later, by a length that is the same whenever it is reckoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Span>,
    /// Not due before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// Not due after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<Timestamp>,
    /// Dates of the zone on which nothing is fired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Dates>,
    /// So many fires in a row that failed pause the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_on_failure: Option<u32>,
    /// What a fire submits.
    pub work: ScheduledWork,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl ScheduleSpec {
    /// The first due time after `after`, within `start_at` and `end_at`; excluded ones too. `None`: none any more.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        // One before the start, so that the start itself may be due.
        let before_start = self.start_at.map(|at| Timestamp::from_micros(at.micros() - 1));
        let after = before_start.map_or(after, |start| start.max(after));
        let next = self.timing.next_after(&self.zone, after)?;
        (self.end_at.is_none_or(|end| next <= end)).then_some(next)
    }

    /// As [`Self::next_after`], without those that are left out. A date that is left out costs one step, however often
    /// it is due.
    pub fn next_kept(&self, after: Timestamp) -> Option<Timestamp> {
        let mut after = after;
        // Each step passes one entry for good; one more finds what is kept.
        for _ in 0..=self.exclude.len() {
            let due = self.next_after(after)?;
            let date = self.zone.civil(due).date();
            let passed =
                self.exclude.iter().filter(|dates| (dates.from..=dates.to).contains(&date));
            let Some(last) = passed.map(|dates| dates.to).max() else { return Some(due) };
            let next = self.zone.start_of(last.tomorrow().ok()?)?;
            after = Timestamp::from_micros(next.micros() - 1).max(due);
        }
        None
    }

    /// Whether a due time falls on a date that is left out.
    pub fn is_excluded(&self, due: Timestamp) -> bool {
        if self.exclude.is_empty() {
            return false;
        }
        let date = self.zone.civil(due).date();
        self.exclude.iter().any(|dates| (dates.from..=dates.to).contains(&date))
    }
}

/// What a fire submits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly all are jobs, the largest variant")]
pub enum ScheduledWork {
    /// A job.
    Job(JobTemplate),
    /// A run of a stored definition (the latest version at that time, unless one is given) or of one written in place.
    Workflow(ChildSpec),
}

/// What happens to a due time while the work of an earlier fire has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Both run.
    Allow,
    /// The later one is skipped.
    #[default]
    Skip,
    /// The later one waits; at most [`QUEUED_MAX`] do.
    Queue,
    /// The earlier one is cancelled; the later one starts when it has ended.
    Replace,
}

/// Which of the due times that nobody was there for are made good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUpPolicy {
    /// None.
    None,
    /// The latest.
    #[default]
    One,
    /// The latest `max`, in order.
    All,
}

/// What happens to due times that nobody was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUp {
    /// Which are made good.
    pub policy: CatchUpPolicy,
    /// With [`CatchUpPolicy::All`], at most so many at once.
    pub max: u32,
    /// No later than this is not missed, but late, and is fired whatever the policy: the time that a change of
    /// leaders or a restart may take.
    pub grace: Span,
}

impl Default for CatchUp {
    /// The latest one, with a minute's grace.
    fn default() -> Self {
        Self { policy: CatchUpPolicy::One, max: 100, grace: Span(Duration::from_secs(60)) }
    }
}

/// Dates from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dates {
    /// The first.
    pub from: Date,
    /// The last; never before `from`.
    pub to: Date,
}

impl std::fmt::Display for Dates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.from)?;
        if self.to == self.from { Ok(()) } else { write!(f, "/{}", self.to) }
    }
}

impl std::str::FromStr for Dates {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "not a date such as \"2026-12-25\" or \"2026-12-24/2027-01-01\"";
        let date = |text: &str| match text.len() {
            10 => text.parse::<Date>().map_err(|_| WRONG),
            _ => Err(WRONG),
        };
        let (from, to) = text.split_once('/').unwrap_or((text, text));
        let (from, to) = (date(from)?, date(to)?);
        if from <= to { Ok(Self { from, to }) } else { Err("ends before it begins") }
    }
}

impl Serialize for Dates {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Dates {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What has become of a due time. The ledger stores the number; never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum FireOutcome {
    /// It will be fired when what runs has ended.
    Waiting = 0,
    /// Its work is submitted.
    Fired = 1,
    /// It was decided not to fire it.
    Skipped = 2,
    /// Nobody was there in time.
    Missed = 3,
}

impl FireOutcome {
    /// Every outcome, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Fired, Self::Skipped, Self::Missed];

    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Fired => "fired",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }

    /// From the ledger's number; `None` for a number that this build does not know.
    pub fn from_number(n: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|o| *o as i16 == n)
    }
}

/// How the work of a fire ended. The ledger stores the number; never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum FireResult {
    /// Well.
    Succeeded = 1,
    /// Not well.
    Failed = 2,
    /// Stopped on request.
    Cancelled = 3,
    /// Its record was gone before anybody looked.
    Forgotten = 4,
}

impl FireResult {
    /// How a job of this state ended; `None`: it has not.
    pub const fn of_job(state: JobState) -> Option<Self> {
        match state {
            JobState::Succeeded => Some(Self::Succeeded),
            JobState::Cancelled => Some(Self::Cancelled),
            JobState::Dead | JobState::Expired | JobState::Quarantined => Some(Self::Failed),
            JobState::Blocked
            | JobState::Scheduled
            | JobState::Ready
            | JobState::Running
            | JobState::Retrying => None,
        }
    }

    /// How a run of this state ended; `None`: it has not.
    pub const fn of_run(state: WorkflowState) -> Option<Self> {
        match state {
            WorkflowState::Succeeded => Some(Self::Succeeded),
            WorkflowState::Cancelled => Some(Self::Cancelled),
            WorkflowState::Failed | WorkflowState::Compensated => Some(Self::Failed),
            WorkflowState::Running | WorkflowState::Waiting | WorkflowState::Compensating => None,
        }
    }

    /// Every result, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Succeeded, Self::Failed, Self::Cancelled, Self::Forgotten];

    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Forgotten => "forgotten",
        }
    }

    /// From the ledger's number; `None` for a number that this build does not know.
    pub fn from_number(n: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|o| *o as i16 == n)
    }
}

/// Where a fire comes from. The ledger stores the number; never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum FireSource {
    /// The schedule's own times.
    Schedule = 0,
    /// `POST …/trigger`.
    Trigger = 1,
    /// `POST …/backfill`.
    Backfill = 2,
}

impl FireSource {
    /// Every source, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Schedule, Self::Trigger, Self::Backfill];

    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Trigger => "trigger",
            Self::Backfill => "backfill",
        }
    }

    /// From the ledger's number; `None` for a number that this build does not know.
    pub fn from_number(n: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|o| *o as i16 == n)
    }
}

/// Most fires of a schedule that wait for one that runs.
pub const QUEUED_MAX: usize = 100;
/// Most schedules of a namespace.
pub const SCHEDULES_MAX: u64 = 10_000;
/// Most due times that one backfill may cover.
pub const BACKFILL_MAX: usize = 1_000;
/// Most `exclude` entries.
pub const EXCLUDES_MAX: usize = 400;
/// Shortest and longest `every`.
pub const EVERY_MIN: Duration = Duration::from_secs(1);
/// Longest `every`.
pub const EVERY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Longest jitter.
pub const JITTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Shortest grace of a catch-up: a change of leaders takes as long.
pub const GRACE_MIN: Duration = Duration::from_secs(15);
/// Longest grace of a catch-up.
pub const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_strictly() {
        let dates: Dates = "2026-12-24/2027-01-01".parse().unwrap();
        assert_eq!(dates.to_string(), "2026-12-24/2027-01-01");
        assert_eq!("2026-12-25/2026-12-25".parse::<Dates>().unwrap().to_string(), "2026-12-25");
        for text in [
            "",
            "2026-13-01",
            "2026-12-25T00:00",
            "2027-01-01/2026-12-24",
            "2026-12-25/",
            "20261225",
        ] {
            assert!(text.parse::<Dates>().is_err(), "{text}");
        }
    }
}
