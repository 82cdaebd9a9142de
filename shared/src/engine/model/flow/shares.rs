//! Shares: who of those that wait is next, by what each has had.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over slots × time: the share with the smallest tag is
//! next, a tag is what the share has had by its weight, and one that comes anew starts where the others are. What
//! runs counts as it runs, and from its start on for what such a job took last: neither many starts at one instant nor a
//! job that goes on and on are free.

use super::*;

/// What one share has had. Costs are slots × ms; each start costs at least 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Of what has ended.
    pub had: u64,
    /// Slots that it has now.
    pub slots: u64,
    /// Of what runs, up to `at`.
    pub accrued: u64,
    /// Engine time in ms.
    pub at: u64,
    /// What one slot of a start cost of late, in ms: a moving average by eighths; 0: nothing is known.
    pub cost: u64,
}

/// What a start of a share is taken to cost of which nothing is known.
const COST_UNKNOWN: u64 = 1_000;
/// A share is remembered for at least this long after its last job.
const IDLE_MS: u64 = 10_000;
/// And for no longer than this, however much more than others it has had.
const DEBT_MS: u64 = 3_600_000;

impl Share {
    fn run_to(&mut self, now_ms: u64) {
        self.accrued += self.slots * now_ms.saturating_sub(self.at);
        self.at = now_ms;
    }

    fn tag(&self, now_ms: u64, weight: u64) -> u64 {
        let cost = if self.cost == 0 { COST_UNKNOWN } else { self.cost };
        let runs = self.accrued + self.slots * now_ms.saturating_sub(self.at);
        (self.had + runs.max(self.slots * cost)) / weight
    }
}

fn ms(at: Timestamp) -> u64 {
    u64::try_from(at.millis()).unwrap_or(0)
}

impl Shard {
    fn share_weight(&self, share: FlowKey) -> u64 {
        let weights = self.settings.as_ref().map(|settings| &settings.flow.weights);
        u64::from(weights.and_then(|weights| weights.get(&share)).copied().unwrap_or(1).max(1))
    }

    /// A share as it is, or as it begins.
    pub(super) fn share(&mut self, share: FlowKey) -> &mut Share {
        let had = self.flow.virtual_ms * self.share_weight(share);
        self.flow.shares.entry(share).or_insert(Share { had, ..Share::default() })
    }

    /// What a share has had by its weight; of one that is not known, where it would begin.
    pub(in crate::engine::model) fn tag(&self, now: Timestamp, share: FlowKey) -> u64 {
        let known = self.flow.shares.get(&share);
        known.map_or(self.flow.virtual_ms, |known| known.tag(ms(now), self.share_weight(share)))
    }

    /// Makes a share begin no earlier than this tag.
    pub(super) fn lift(&mut self, now: Timestamp, share: FlowKey, level: u64) {
        let weight = self.share_weight(share);
        let tag = self.tag(now, share);
        match self.flow.shares.get_mut(&share) {
            Some(known) => known.had += level.saturating_sub(tag) * weight,
            None => {
                let fresh = Share { had: level * weight, ..Share::default() };
                self.flow.shares.insert(share, fresh);
            }
        }
    }

    /// Those without keys are owed nothing for the time in which none of them waited.
    pub(in crate::engine::model) fn lift_unkeyed(&mut self, now: Timestamp) {
        let share = FlowKey::NONE;
        if self.flow.shares.contains_key(&share) && !self.flow.stands_somewhere(share) {
            self.lift(now, share, self.flow.virtual_ms);
        }
    }

    /// What shares have had is worth as much by their weights as before these changed.
    pub(super) fn weigh_anew(&mut self, before: &BTreeMap<FlowKey, u32>) {
        let none = BTreeMap::new();
        let after = self.settings.as_ref().map_or(&none, |settings| &settings.flow.weights);
        let weight = |of: &BTreeMap<FlowKey, u32>, share| {
            u64::from(of.get(share).copied().unwrap_or(1).max(1))
        };
        for (share, known) in &mut self.flow.shares {
            let (old, new) = (weight(before, share), weight(after, share));
            known.had = known.had / old * new + known.had % old * new / old;
        }
    }

    pub(super) fn take_slots(&mut self, now: Timestamp, share: FlowKey, weight: u32) {
        let now_ms = ms(now);
        let known = self.share(share);
        known.run_to(now_ms);
        known.slots += u64::from(weight);
    }

    pub(super) fn charge(
        &mut self,
        now: Timestamp,
        share: FlowKey,
        weight: u32,
        claimed_at: Timestamp,
    ) {
        let (now_ms, weight) = (ms(now), u64::from(weight));
        let ran = now_ms.saturating_sub(ms(claimed_at));
        let known = self.share(share);
        known.run_to(now_ms);
        known.slots = known.slots.saturating_sub(weight);
        known.accrued =
            if known.slots == 0 { 0 } else { known.accrued.saturating_sub(ran * weight) };
        let ran = ran.max(1);
        known.had += ran * weight;
        known.cost = if known.cost == 0 { ran } else { ((known.cost * 7 + ran) / 8).max(1) };
        self.let_go(now, share);
    }

    /// Jobs without keys are a share of their own where there are others.
    pub(super) fn start_unkeyed(&mut self, now: Timestamp) {
        if !self.flow.shares.is_empty() {
            self.take_slots(now, FlowKey::NONE, 1);
        }
    }

    pub(super) fn end_unkeyed(&mut self, now: Timestamp, claimed_at: Timestamp) {
        if self.flow.shares.contains_key(&FlowKey::NONE) {
            self.charge(now, FlowKey::NONE, 1, claimed_at);
        }
    }

    /// A share that neither waits nor runs is forgotten when the others have had as much, and not at once: what its jobs
    /// cost is worth knowing.
    pub(super) fn let_go(&mut self, now: Timestamp, share: FlowKey) {
        let Some(known) = self.flow.shares.get(&share) else { return };
        if known.slots == 0 {
            self.flow.idle.set(share, now.plus(Duration::from_millis(IDLE_MS)).micros());
        }
    }

    /// Forgets shares that are idle for long enough, at most so many.
    pub(super) fn forget_shares(&mut self, now: Timestamp, max: u32) {
        for share in self.flow.idle.take_due(now.micros(), max) {
            let Some(known) = self.flow.shares.get(&share).copied() else { continue };
            if known.slots > 0 || self.flow.stands_somewhere(share) {
                continue;
            }
            let debt = self.tag(now, share).saturating_sub(self.flow.virtual_ms);
            let rested = ms(now).saturating_sub(known.at);
            let is_alone = self.flow.turns.is_empty() && self.ready.is_empty();
            if debt == 0 || rested >= DEBT_MS || is_alone {
                self.flow.shares.remove(&share);
            } else {
                let wait = debt.clamp(IDLE_MS, DEBT_MS);
                self.flow.idle.set(share, now.plus(Duration::from_millis(wait)).micros());
            }
        }
        if self.flow.shares.is_empty() {
            self.flow.virtual_ms = 0;
        }
    }
}
