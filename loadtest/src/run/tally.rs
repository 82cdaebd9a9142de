//! Counts and times of answers, while a load runs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use crate::http::Answer;
use crate::profile::CallKind;
use crate::report::Times;

/// Kinds of errors that are told apart; more count as `others`.
const CODES_MAX: usize = 50;

/// Of one stage.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

/// What was counted.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    /// Calls that were due, answered or not.
    pub(super) calls: u64,
    /// Of them: never made, because too many were under way.
    pub(super) unsent: u64,
    pub(super) refused: u64,
    /// Answered wrongly, or not at all.
    pub(super) failed: u64,
    /// Jobs.
    pub(super) accepted: u64,
    /// Refusals and failures, by what was said.
    pub(super) codes: BTreeMap<String, u64>,
    /// From when a call was due to its answer; of good answers alone.
    pub(super) times: BTreeMap<CallKind, Times>,
    /// Since [`Tally::lap`] was asked last.
    lap: Lap,
}

/// A second of a load.
#[derive(Debug, Default, Clone)]
pub(super) struct Lap {
    pub(super) answered: u64,
    pub(super) errors: u64,
    pub(super) accepted: u64,
    pub(super) times: Times,
}

impl Tally {
    /// A call of this kind, due so long ago, was answered so, with which so many jobs were accepted.
    pub(super) fn answer(&self, kind: CallKind, answer: &Answer, took: Duration, accepted: u64) {
        let mut counts = self.lock();
        counts.calls += 1;
        match answer {
            Answer::Good(_) => {
                counts.times.entry(kind).or_default().add(took);
                counts.accepted += accepted;
                counts.lap.answered += 1;
                counts.lap.accepted += accepted;
                counts.lap.times.add(took);
                return;
            }
            Answer::Refused(_) => counts.refused += 1,
            Answer::Bad(..) | Answer::Unknown(_) | Answer::Unsent(_) => counts.failed += 1,
        }
        let code = format!("{}: {}", kind.name(), answer.why());
        let has_room = counts.codes.len() < CODES_MAX || counts.codes.contains_key(&code);
        let code = if has_room { code } else { "others".into() };
        *counts.codes.entry(code).or_default() += 1;
        counts.lap.errors += 1;
    }

    /// A call was due and could not be made.
    pub(super) fn unsent(&self) {
        let mut counts = self.lock();
        counts.calls += 1;
        counts.unsent += 1;
        counts.lap.errors += 1;
    }

    /// What came since it was asked last.
    pub(super) fn lap(&self) -> Lap {
        std::mem::take(&mut self.lock().lap)
    }

    /// Everything so far.
    pub(super) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Lap {
    /// Adds what came after it.
    pub(super) fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.errors += other.errors;
        self.accepted += other.accepted;
        self.times.add_all(&other.times);
    }
}

impl Counts {
    /// Of all calls together.
    pub(super) fn all_times(&self) -> Times {
        let mut all = Times::default();
        self.times.values().for_each(|times| all.add_all(times));
        all
    }

    /// Adds those of another stage.
    pub(super) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.unsent += other.unsent;
        self.refused += other.refused;
        self.failed += other.failed;
        self.accepted += other.accepted;
        for (code, count) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += count;
        }
        for (kind, times) in &other.times {
            self.times.entry(*kind).or_default().add_all(times);
        }
    }

    /// Calls that came to nothing.
    pub(super) const fn errors(&self) -> u64 {
        self.unsent + self.refused + self.failed
    }
}
