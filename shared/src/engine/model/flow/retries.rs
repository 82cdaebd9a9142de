//! The retry budget of a queue: what is saved up of it, and the retries that wait for more.
//!
//! A retry that is due and has no unit goes behind all other delayed jobs, once, and stands there in the order in which they
//! became due. Units are spent on the first of them, as they come.

use super::*;
use crate::engine::flow::RetryBudget;

/// How far behind the other delayed jobs retries stand that wait for the budget, in ms.
pub(in crate::engine) const BEHIND_MS: i64 = 1 << 50;

/// What is in a budget's bucket, in µs of the floor: a retry costs its interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// So much.
    pub us: u64,
    /// At this instant, µs.
    pub at: i64,
}

impl Shard {
    fn retry_budget(&self) -> Option<RetryBudget> {
        self.settings.as_ref()?.flow.retries
    }

    /// What is in the bucket now. It is full at first; of a shard that was opened with a ramp, after a loss that is, it was
    /// empty then.
    fn saved(&self, now: Timestamp, budget: &RetryBudget) -> u64 {
        let full = budget.full_us();
        let mut saved = self.flow.retries.unwrap_or(Saved { us: full, at: now.micros() });
        let reopened = self.gate.filter(|state| !state.ramp.is_zero());
        if let Some(from) = reopened.map(|state| state.ramp_from.micros())
            && self.flow.retries.is_none_or(|saved| saved.at < from)
        {
            saved = Saved { us: 0, at: from };
        }
        if saved.us < full {
            let since = u64::try_from(now.micros() - saved.at).unwrap_or(0);
            saved.us = (saved.us + since).min(full);
        }
        saved.us.min(budget.most_us())
    }

    /// A job starts for the first time.
    pub(in crate::engine::model) fn credit_retries(&mut self, now: Timestamp) {
        let Some(budget) = self.retry_budget() else { return };
        let saved = self.saved(now, &budget);
        let us = (saved + budget.credit_us()).min(budget.most_us());
        if us > saved {
            self.flow.retries = Some(Saved { us, at: now.micros() });
        }
    }

    /// Spends a unit, if there is one.
    fn take_retry(&mut self, now: Timestamp, budget: &RetryBudget) -> bool {
        let saved = self.saved(now, budget);
        let Some(us) = saved.checked_sub(budget.floor.interval_us) else { return false };
        self.flow.retries = Some(Saved { us, at: now.micros() });
        true
    }

    /// Retries that wait for the budget.
    fn behind(&self) -> Option<JobId> {
        let from = (BEHIND_MS, JobId::from_bytes([0; 16]));
        self.delayed.range(from..).next().map(|(_, id)| *id)
    }

    /// Puts a retry that is due and in no order behind the other delayed jobs, if it has to wait for the budget; whether it
    /// has. One that comes again at once need not where there is a unit and nobody before it.
    pub(in crate::engine::model) fn put_behind(
        &mut self,
        now: Timestamp,
        id: JobId,
        at_once: bool,
    ) -> bool {
        let Some(budget) = self.retry_budget() else { return false };
        if self.entries[&id].attempt == 0 {
            return false;
        }
        if at_once && self.behind().is_none() && self.take_retry(now, &budget) {
            return false;
        }
        if self.flow.retries.is_none() {
            // It says also that somebody may wait.
            self.flow.retries = Some(Saved { us: self.saved(now, &budget), at: now.micros() });
        }
        let entry = self.entries.get_mut(&id).expect("delayed jobs have entries");
        (entry.status, entry.is_behind) = (Status::Delayed, true);
        self.delayed.insert((ceil_ms(entry.run_at) + BEHIND_MS, id));
        true
    }

    /// Whether any may wait for the budget, also for one that is gone.
    fn may_be_behind(&self) -> bool {
        self.retry_budget().is_some() || self.flow.retries.is_some()
    }

    /// Makes the first of the retries ready that wait for the budget, as many as there are units for; how many. `heal`: also
    /// where a store has lost that any wait.
    pub(in crate::engine::model) fn move_retries(
        &mut self,
        now: Timestamp,
        max: u32,
        heal: bool,
    ) -> u32 {
        if !heal && !self.may_be_behind() {
            return 0;
        }
        let mut moved = 0;
        while moved < max {
            let next = self.behind();
            let has_unit = |shard: &mut Self| match shard.retry_budget() {
                Some(budget) => shard.take_retry(now, &budget),
                None => true,
            };
            let Some(id) = next.filter(|_| has_unit(self)) else { break };
            self.unplace(now, id);
            self.make_ready(now, id);
            moved += 1;
        }
        if moved < max && self.retry_budget().is_none() {
            // Nobody waits any more for a budget that is gone.
            self.flow.retries = None;
        }
        moved
    }

    /// When the first of the retries that wait may run, µs.
    pub(in crate::engine::model) fn next_retry(&self, now: Timestamp) -> Option<i64> {
        if !self.may_be_behind() {
            return None;
        }
        self.behind()?;
        let Some(budget) = self.retry_budget() else { return Some(now.micros()) };
        let missing = budget.floor.interval_us.saturating_sub(self.saved(now, &budget));
        Some(now.micros().saturating_add(i64::try_from(missing).unwrap_or(i64::MAX)))
    }
}
