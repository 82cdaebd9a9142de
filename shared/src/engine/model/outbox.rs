//! Outcomes that the ledger has not confirmed: their list, outcomes and confirm.

use std::collections::VecDeque;

use super::*;

/// What an outcome costs in a shard's budget of bytes, beside its detail.
pub const OUTCOME_BYTES: u64 = 64;

/// Outcomes in the order of their `seq`, which has no gaps.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Outcome>,
    last_seq: u64,
    recorded_seq: u64,
    bytes: u64,
}

impl Outbox {
    /// Appends an outcome and gives it the next `seq`. The first ever has engine time in µs: numbers of a wiped
    /// engine and of the new one differ.
    pub(super) fn push(&mut self, outcome: Outcome) {
        self.last_seq = match self.last_seq {
            0 => u64::try_from(outcome.at.micros()).unwrap_or(0).max(1),
            last => last + 1,
        };
        self.bytes += cost(&outcome);
        self.waiting.push_back(Outcome { seq: self.last_seq, ..outcome });
    }

    /// Where the outcome with this mark is.
    fn place(&self, mark: &Mark) -> Option<usize> {
        self.waiting.iter().position(|outcome| outcome.mark() == *mark)
    }

    fn pop(&mut self) -> Option<Outcome> {
        let outcome = self.waiting.pop_front()?;
        self.bytes -= cost(&outcome);
        self.recorded_seq = outcome.seq;
        Some(outcome)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Outcome> {
        self.waiting.iter()
    }

    pub(super) fn len(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(super) fn recorded_seq(&self) -> u64 {
        self.recorded_seq
    }
}

fn cost(outcome: &Outcome) -> u64 {
    outcome.detail.len() as u64 + OUTCOME_BYTES
}

impl Shard {
    /// The oldest unconfirmed outcomes but for the first `skip`, up to `max`.
    pub fn outcomes(&self, skip: u32, max: u32) -> Vec<Outcome> {
        self.outbox.iter().skip(skip as usize).take(max as usize).cloned().collect()
    }

    /// Forgets recorded outcomes; see the module's rules.
    pub fn confirm(&mut self, now: Timestamp, last: &Mark) {
        let Some(place) = self.outbox.place(last) else { return };
        self.tombstones.turn(now);
        let was_braked = self.is_braked();
        for _ in 0..=place {
            let Some(outcome) = self.outbox.pop() else { break };
            let ends_entry = self.entries.get(&outcome.id).is_some_and(|entry| {
                entry.status == Status::Finishing && entry.fence == outcome.fence
            });
            if outcome.ended.is_terminal() && ends_entry {
                self.forget(outcome.id);
                self.tombstones.raise(outcome.id, Tombstone::whole(outcome.fence));
            }
        }
        if was_braked && !self.is_braked() && !self.ready.is_empty() {
            self.wake_ready();
        }
    }
}
