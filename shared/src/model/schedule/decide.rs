//! What becomes of the due times of a schedule: decided over what is known of it at one instant. No I/O, no clock.
//!
//! The ledger carries a decision out only where nobody else has changed the schedule since it was seen, so that each
//! due time is decided once, whoever tries.

use std::collections::VecDeque;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{
    CatchUpPolicy, FireOutcome, FireResult, FireSource, Overlap, QUEUED_MAX, ScheduleSpec,
};
use crate::model::id::{JobId, ScheduleId, WorkflowId};
use crate::model::time::Timestamp;

/// Most rows that one decision writes; the rest is decided next.
pub const ROWS_MAX: usize = 200;
/// Most fires with work in one decision.
pub const FIRES_MAX: usize = 20;
/// So many ends in one sight: there may be more.
const ENDS_FULL: usize = 200;
/// What is to be cancelled is asked for again after this long.
const CANCEL_AGAIN: Duration = Duration::from_secs(5);

/// What a fire has submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// A job.
    Job(JobId),
    /// A run.
    Workflow(WorkflowId),
}

/// A fire whose end is not noted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Its due time.
    pub due: Timestamp,
    /// Where it comes from.
    pub source: FireSource,
    /// Its work.
    pub work: Submitted,
    /// How that ended, if it has.
    pub result: Option<FireResult>,
}

/// A fire that waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its due time.
    pub due: Timestamp,
    /// Where it comes from.
    pub source: FireSource,
}

/// A schedule as it is seen at one instant.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Its id; jitter is drawn from it.
    pub id: ScheduleId,
    /// Its rules.
    pub spec: &'a ScheduleSpec,
    /// Whether somebody has paused it.
    pub is_paused: bool,
    /// Fires in a row that failed.
    pub failures: u32,
    /// Every due time up to here has its row.
    pub cursor: Timestamp,
    /// Fires whose end is not noted, oldest first; perhaps not all of very many.
    pub open: &'a [Open],
    /// Fires that wait, the schedule's own first, oldest first; perhaps not all of very many.
    pub waiting: &'a [Waiting],
    /// The ledger's time.
    pub now: Timestamp,
    /// Due times whose jitter has not passed are decided over too: the rules change after this.
    pub without_jitter: bool,
}

/// What becomes of one due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fire {
    /// Which.
    pub due: Timestamp,
    /// Where it comes from.
    pub source: FireSource,
    /// What.
    pub outcome: FireOutcome,
    /// Why, in a word; see [`reason`].
    pub reason: Option<&'static str>,
    /// How much later than planned (its jitter counted in).
    pub late: Duration,
    /// Its row is there already, waiting.
    pub has_waited: bool,
}

/// Why a due time was not fired, or not at its time.
pub mod reason {
    /// The schedule is paused.
    pub const PAUSED: &str = "paused";
    /// The date is left out.
    pub const EXCLUDED: &str = "excluded";
    /// Nobody was there, and the policy does not make it good.
    pub const CATCH_UP: &str = "catch_up";
    /// An earlier fire's work has not ended.
    pub const OVERLAP: &str = "overlap";
    /// Too many wait already.
    pub const QUEUE_FULL: &str = "queue_full";
    /// A later fire took its place.
    pub const REPLACED: &str = "replaced";
    /// The ledger did not take its work.
    pub const REFUSED: &str = "refused";
    /// Fired although late: nobody was there at its time.
    pub const CAUGHT_UP: &str = "caught_up";
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Fires whose work has ended, and how.
    pub ends: Vec<(Timestamp, FireResult)>,
    /// Due times, in order.
    pub fires: Vec<Fire>,
    /// Work to be cancelled, so that a later fire may start.
    pub cancel: Vec<Submitted>,
    /// Every due time up to here has its row after this.
    pub cursor: Timestamp,
    /// When to look again; `None`: when somebody changes it, or the work of a fire ends.
    pub look_at: Option<Timestamp>,
    /// Fires in a row that failed.
    pub failures: u32,
    /// It is to be paused for them.
    pub pause: bool,
}

/// How much later than due a fire comes: from nothing to `jitter`, but never past the next due time, so that fires stay
/// in order; the same whenever it is reckoned.
pub fn jitter(spec: &ScheduleSpec, id: ScheduleId, due: Timestamp) -> Duration {
    let Some(jitter) = spec.jitter.filter(|jitter| !jitter.0.is_zero()) else {
        return Duration::ZERO;
    };
    let room = spec.next_after(due).map_or(jitter.0, |next| next.since(due));
    let most = jitter.0.min(room).as_millis();
    let mut hash = Sha256::new();
    hash.update(id.as_bytes());
    hash.update(due.micros().to_be_bytes());
    let digest = hash.finalize();
    let drawn = u64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"));
    let ms = u128::from(drawn) % (most + 1);
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// Decides. The same sight gives the same decision.
pub fn decide(sight: &Sight<'_>) -> Decision {
    let mut deciding = Deciding::new(sight);
    deciding.note_ends();
    deciding.release();
    deciding.walk();
    deciding.end()
}

struct Deciding<'a> {
    sight: &'a Sight<'a>,
    out: Decision,
    is_paused: bool,
    running: Vec<Open>,
    waiting: VecDeque<Waiting>,
    fired: usize,
    is_full: bool,
}

impl<'a> Deciding<'a> {
    fn new(sight: &'a Sight<'a>) -> Self {
        let out =
            Decision { cursor: sight.cursor, failures: sight.failures, ..Decision::default() };
        Self {
            sight,
            out,
            is_paused: sight.is_paused,
            running: Vec::new(),
            waiting: sight.waiting.iter().copied().collect(),
            fired: 0,
            is_full: false,
        }
    }

    fn note_ends(&mut self) {
        for open in self.sight.open {
            let Some(result) = open.result else {
                self.running.push(*open);
                continue;
            };
            self.out.ends.push((open.due, result));
            match result {
                FireResult::Succeeded => self.out.failures = 0,
                FireResult::Failed => self.out.failures = self.out.failures.saturating_add(1),
                FireResult::Cancelled | FireResult::Forgotten => {}
            }
        }
        // There may be more than were read.
        self.is_full = self.out.ends.len() >= ENDS_FULL;
        let most = self.sight.spec.pause_on_failure;
        if !self.is_paused && most.is_some_and(|most| self.out.failures >= most) {
            self.out.pause = true;
            self.is_paused = true;
        }
    }

    fn planned(&self, due: Timestamp) -> Timestamp {
        due.plus(jitter(self.sight.spec, self.sight.id, due))
    }

    fn put(&mut self, due: Timestamp, outcome: FireOutcome, reason: Option<&'static str>) {
        let late = self.sight.now.since(self.planned(due));
        let source = FireSource::Schedule;
        self.out.fires.push(Fire { due, source, outcome, reason, late, has_waited: false });
    }

    /// Fires of those that wait what may be fired now.
    fn release(&mut self) {
        while !self.is_paused
            && let Some(first) = self.waiting.front().copied()
        {
            if self.sight.spec.overlap != Overlap::Allow && self.is_busy() {
                return;
            }
            if self.fired >= FIRES_MAX {
                self.is_full = true;
                return;
            }
            self.waiting.pop_front();
            self.settle_waiting(first, FireOutcome::Fired, None);
            self.fired += 1;
        }
    }

    fn settle_waiting(
        &mut self,
        waiting: Waiting,
        outcome: FireOutcome,
        reason: Option<&'static str>,
    ) {
        let Waiting { due, source } = waiting;
        let late = self.sight.now.since(self.planned(due));
        self.out.fires.push(Fire { due, source, outcome, reason, late, has_waited: true });
    }

    /// Whether the work of an earlier fire has not ended, or was fired just now.
    fn is_busy(&self) -> bool {
        !self.running.is_empty() || self.fired > 0
    }

    /// Goes through the due times in order.
    fn walk(&mut self) {
        let catch_up = self.sight.spec.catch_up;
        let most = match catch_up.policy {
            CatchUpPolicy::None => 0,
            CatchUpPolicy::One => 1,
            CatchUpPolicy::All => usize::try_from(catch_up.max).unwrap_or(usize::MAX),
        };
        let mut upcoming = Upcoming::new(self.sight, most.max(1));
        while let Some(due) = upcoming.next() {
            if self.out.fires.len() >= ROWS_MAX || self.fired >= FIRES_MAX {
                self.is_full = true;
                return;
            }
            self.out.cursor = due;
            if self.sight.spec.is_excluded(due) {
                self.put(due, FireOutcome::Skipped, Some(reason::EXCLUDED));
                continue;
            }
            if self.is_paused {
                self.put(due, FireOutcome::Skipped, Some(reason::PAUSED));
                continue;
            }
            let late = self.sight.now.since(self.planned(due));
            let is_missed = late > catch_up.grace.0;
            if is_missed && upcoming.later() >= most {
                self.put(due, FireOutcome::Missed, Some(reason::CATCH_UP));
                continue;
            }
            self.fire(due, is_missed.then_some(reason::CAUGHT_UP));
        }
    }

    /// Those of the schedule itself that wait. A backfill holds back nothing but while its work runs.
    fn own_waiting(&self) -> usize {
        self.waiting.iter().filter(|waiting| waiting.source == FireSource::Schedule).count()
    }

    fn fire(&mut self, due: Timestamp, why: Option<&'static str>) {
        let is_held = self.is_busy() || self.own_waiting() > 0;
        match self.sight.spec.overlap {
            Overlap::Skip if is_held => {
                self.put(due, FireOutcome::Skipped, Some(reason::OVERLAP));
            }
            Overlap::Queue if is_held => self.queue(due),
            Overlap::Replace if is_held => self.replace(due, why),
            _ => {
                self.put(due, FireOutcome::Fired, why);
                self.fired += 1;
            }
        }
    }

    fn queue(&mut self, due: Timestamp) {
        if self.own_waiting() >= QUEUED_MAX {
            self.put(due, FireOutcome::Skipped, Some(reason::QUEUE_FULL));
            return;
        }
        self.put(due, FireOutcome::Waiting, Some(reason::OVERLAP));
        let place = self.own_waiting();
        self.waiting.insert(place, Waiting { due, source: FireSource::Schedule });
    }

    /// The later takes the place of the schedule's own fires that wait, and of one that was decided to be fired just now.
    fn replace(&mut self, due: Timestamp, why: Option<&'static str>) {
        let is_own = |fire: &&mut Fire| {
            fire.outcome == FireOutcome::Fired && fire.source == FireSource::Schedule
        };
        if let Some(last) = self.out.fires.iter_mut().rfind(is_own) {
            // Not submitted yet: as if it had never been.
            last.outcome = FireOutcome::Skipped;
            last.reason = Some(reason::REPLACED);
            self.put(due, FireOutcome::Fired, why);
            return;
        }
        let (own, others) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|waiting| waiting.source == FireSource::Schedule);
        self.waiting = others;
        for earlier in own {
            // One of this very decision has no row yet.
            let fresh = self.out.fires.iter_mut().find(|f| f.due == earlier.due && !f.has_waited);
            match fresh {
                Some(fire) => {
                    fire.outcome = FireOutcome::Skipped;
                    fire.reason = Some(reason::REPLACED);
                }
                None => {
                    self.settle_waiting(earlier, FireOutcome::Skipped, Some(reason::REPLACED));
                }
            }
        }
        self.put(due, FireOutcome::Waiting, Some(reason::OVERLAP));
        self.waiting.push_front(Waiting { due, source: FireSource::Schedule });
    }

    /// What has to go so that the schedule's own fire that waits may start: its own earlier work. A trigger and a backfill
    /// are waited for.
    fn to_cancel(&self) -> Vec<Submitted> {
        let own = self.waiting.iter().filter(|waiting| waiting.source == FireSource::Schedule);
        let Some(latest) = own.map(|waiting| waiting.due).max() else { return Vec::new() };
        if self.sight.spec.overlap != Overlap::Replace || self.is_paused {
            return Vec::new();
        }
        let goes = |open: &&Open| open.source == FireSource::Schedule && open.due < latest;
        self.running.iter().filter(goes).map(|open| open.work).collect()
    }

    fn end(mut self) -> Decision {
        let now = self.sight.now;
        let mut look_at = self.sight.spec.next_after(self.out.cursor).map(|due| self.planned(due));
        let mut sooner = |at: Timestamp| {
            look_at = Some(look_at.map_or(at, |look: Timestamp| look.min(at)));
        };
        if self.is_full {
            sooner(now);
        }
        let cancel = self.to_cancel();
        if !cancel.is_empty() {
            sooner(now.plus(CANCEL_AGAIN));
        }
        self.out.cancel = cancel;
        self.out.look_at = look_at;
        self.out
    }
}

/// The due times up to now, with a look at how many come after one.
struct Upcoming<'a> {
    sight: &'a Sight<'a>,
    last: Option<Timestamp>,
    /// Those after the one that was given last that are not left out, as far as was looked.
    good: VecDeque<Timestamp>,
    good_last: Option<Timestamp>,
    /// How many of them to look for.
    reach: usize,
}

impl<'a> Upcoming<'a> {
    fn new(sight: &'a Sight<'a>, reach: usize) -> Self {
        let last = Some(sight.cursor);
        Self { sight, last, good: VecDeque::new(), good_last: last, reach }
    }

    fn is_come(&self, due: Timestamp) -> bool {
        let sight = self.sight;
        let wait = match sight.without_jitter {
            true => Duration::ZERO,
            false => jitter(sight.spec, sight.id, due),
        };
        due.plus(wait) <= sight.now
    }

    fn next(&mut self) -> Option<Timestamp> {
        let due = self.sight.spec.next_after(self.last?).filter(|due| self.is_come(*due));
        self.last = due;
        due
    }

    /// How many of those that may be made good come after the one that was given last; at most `reach`.
    fn later(&mut self) -> usize {
        let given = self.last.unwrap_or(self.sight.now);
        while self.good.front().is_some_and(|due| *due <= given) {
            self.good.pop_front();
        }
        while self.good.len() < self.reach
            && let Some(last) = self.good_last
        {
            let due = self.sight.spec.next_kept(last.max(given));
            let due = due.filter(|due| self.is_come(*due));
            self.good.extend(due);
            self.good_last = due;
        }
        self.good.len()
    }
}

#[cfg(test)]
mod tests;
