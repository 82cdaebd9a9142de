//! What the ledger keeps of schedules.
//!
//! A schedule has a version that rises with every change. Whoever changes it (a scheduler that decides over due times,
//! a caller who pauses it) names the version that it saw, and finds out when somebody was faster: so every due time is
//! decided once, whoever tries, and its work is submitted in the transaction that makes its row.

use crate::ledger::runs::NewRun;
use crate::ledger::{Paused, Refused};
use crate::model::id::ScheduleId;
use crate::model::job::{Job, NewJob};
use crate::model::name::{Namespace, ScheduleName};
use crate::model::schedule::decide::{Decision, Fire, Open, Submitted, Waiting};
use crate::model::schedule::{FireOutcome, FireResult, FireSource, ScheduleSpec};
use crate::model::time::Timestamp;

/// Who pauses a schedule whose fires fail.
pub const PAUSED_BY: &str = "windlass";

/// A schedule on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its id; one of the same name made later has another.
    pub id: ScheduleId,
    /// Whose.
    pub namespace: Namespace,
    /// Its name.
    pub name: ScheduleName,
    /// Its rules.
    pub spec: ScheduleSpec,
    /// Rises with every change.
    pub version: u64,
    /// Who paused it, when and why; `None` while it runs.
    pub paused: Option<Paused>,
    /// Fires in a row that failed.
    pub failures: u32,
    /// Every due time up to here has its row.
    pub cursor: Timestamp,
    /// When there is something to decide; `None`: when something changes.
    pub look_at: Option<Timestamp>,
    /// Rows of fires with an earlier due time may be gone: what they were is not known any more.
    pub fires_from: Timestamp,
    /// Made at.
    pub created_at: Timestamp,
    /// Latest change by a caller.
    pub changed_at: Timestamp,
}

/// A schedule with what a decision needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSeen {
    /// As it is.
    pub schedule: Schedule,
    /// Fires whose end is not noted, oldest first: of the oldest [`OPEN_LOOK_MAX`] those that have ended, at most
    /// [`OPEN_MAX`], and as many of those that have not.
    pub open: Vec<Open>,
    /// Fires that wait, the schedule's own before those of backfills, oldest first; at most [`WAITING_MAX`].
    pub waiting: Vec<Waiting>,
    /// Ledger time.
    pub now: Timestamp,
}

/// See [`ScheduleSeen::open`].
pub const OPEN_LOOK_MAX: u32 = 2_000;
/// See [`ScheduleSeen::open`].
pub const OPEN_MAX: usize = 200;
/// See [`ScheduleSeen::waiting`].
pub const WAITING_MAX: u32 = 200;

/// What a fire submits. Ids are drawn, so that its row can name them.
#[derive(Debug, Clone)]
pub enum NewWork {
    /// A job.
    Job(Box<NewJob>),
    /// A run.
    Run(Box<NewRun>),
}

impl NewWork {
    /// Its id.
    pub fn submitted(&self) -> Submitted {
        match self {
            Self::Job(job) => Submitted::Job(job.id),
            Self::Run(run) => Submitted::Workflow(run.id),
        }
    }
}

/// What became of a due time, on its way into the ledger.
#[derive(Debug, Clone)]
pub struct NewFire {
    /// What.
    pub fire: Fire,
    /// Why, in words.
    pub detail: Option<String>,
    /// What it submits, of a fired one.
    pub work: Option<NewWork>,
}

/// One change of a schedule, in one transaction.
#[derive(Debug, Clone)]
pub struct ScheduleChange {
    /// Which.
    pub id: ScheduleId,
    /// The version that it was made from.
    pub seen: u64,
    /// New rules.
    pub spec: Option<ScheduleSpec>,
    /// A pause, or its end; `None` leaves it.
    pub paused: Option<Option<Paused>>,
    /// A caller asked for it: `changed_at` is now.
    pub by_caller: bool,
    /// See [`Schedule::cursor`].
    pub cursor: Timestamp,
    /// See [`Schedule::look_at`].
    pub look_at: Option<Timestamp>,
    /// See [`Schedule::failures`].
    pub failures: u32,
    /// Fires whose work has ended, and how.
    pub ends: Vec<(Timestamp, FireResult)>,
    /// What became of due times.
    pub fires: Vec<NewFire>,
    /// Due times to be fired later that were skipped, missed, or never were: of a backfill.
    pub backfill: Vec<Timestamp>,
}

impl ScheduleChange {
    /// Nothing but a rise of the version.
    pub fn of(schedule: &Schedule) -> Self {
        Self {
            id: schedule.id,
            seen: schedule.version,
            spec: None,
            paused: None,
            by_caller: false,
            cursor: schedule.cursor,
            look_at: schedule.look_at,
            failures: schedule.failures,
            ends: Vec::new(),
            fires: Vec::new(),
            backfill: Vec::new(),
        }
    }

    /// What a decision says, without the work of its fires.
    pub fn deciding(schedule: &Schedule, decision: &Decision) -> Self {
        Self {
            cursor: decision.cursor,
            look_at: decision.look_at,
            failures: decision.failures,
            ends: decision.ends.clone(),
            ..Self::of(schedule)
        }
    }
}

/// What became of a [`ScheduleChange`].
#[derive(Debug, Clone, PartialEq)]
pub enum ScheduleChanged {
    /// Committed.
    Done {
        /// Jobs that may run now, to be pushed.
        jobs: Vec<Job>,
        /// Fires whose work was not submitted, and why: the ledger did not take it, and they are recorded as skipped;
        /// or there was a fire at the same instant already.
        refused: Vec<(Timestamp, String)>,
        /// Due times of a backfill that will be fired.
        backfilled: u32,
    },
    /// Somebody was faster, or the schedule is gone: nothing was changed; look again.
    Moved,
}

/// A due time and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FireRow {
    /// When it was due.
    pub due: Timestamp,
    /// Where it comes from.
    pub source: FireSource,
    /// What became of it.
    pub outcome: FireOutcome,
    /// Why, as a code of [`crate::model::schedule::decide::reason`].
    pub reason: Option<String>,
    /// Why, in words.
    pub detail: Option<String>,
    /// When that was decided.
    pub decided_at: Timestamp,
    /// How much later than planned.
    pub late: std::time::Duration,
    /// Its work.
    pub work: Option<Submitted>,
    /// How that ended.
    pub result: Option<FireResult>,
}

/// Schedules that have something to be decided.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulesDue {
    /// Those, longest due first, and since when.
    pub due: Vec<(Namespace, ScheduleName, Timestamp)>,
    /// When the next one will; may be earlier than it must.
    pub next: Option<Timestamp>,
    /// Ledger time.
    pub now: Timestamp,
}

/// A page of schedules, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulePage {
    /// At most the asked number; those that this build cannot read are passed over.
    pub items: Vec<Schedule>,
    /// The name behind which the next page starts; `None` at the end.
    pub next: Option<ScheduleName>,
}

/// Where a walk over open fires stands.
pub type OpenCursor = (ScheduleId, Timestamp);

/// Why a fire's work was not submitted: there was a fire of the same instant.
pub(super) const DOUBLED: &str = "there is a fire at this instant already";
/// Why a fire's work was not submitted: see [`Refused::TooManyQueues`].
pub(super) const TOO_MANY_QUEUES: &str = "its queue does not exist, and the namespace has too many";

/// Why a fire's job was refused, in words.
pub(super) fn refusal(refused: &Refused) -> String {
    match refused {
        Refused::UniqueKeyHeld { holder } => format!("job {holder} holds its unique key"),
        Refused::Throttled { .. } => "its throttle is used up".to_owned(),
        Refused::BadData(why) => why.clone(),
        Refused::TooManyQueues => TOO_MANY_QUEUES.to_owned(),
        Refused::Batch | Refused::Unavailable | Refused::OutcomeUnknown => {
            "the ledger did not take it".to_owned()
        }
    }
}
