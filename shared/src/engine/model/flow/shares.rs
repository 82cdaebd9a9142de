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
    /// Jobs that wait in its lanes.
    pub waiting: u64,
}

/// What a start of a share is taken to cost of which nothing is known.
const COST_UNKNOWN: u64 = 1_000;
/// A share is remembered for at least this long after its last job.
const IDLE_MS: u64 = 10_000;

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

impl FlowState {
    /// Where a share is among those that may be chosen, if it is one.
    pub(in crate::engine) fn set_tag(&mut self, share: FlowKey, tag: Option<u64>) {
        if let Some(before) = self.tags.remove(&share) {
            self.fair.remove(&(before, share));
        }
        if let Some(tag) = tag {
            self.tags.insert(share, tag);
            self.fair.insert((tag, share));
        }
    }
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

    /// A share has turns again: it is not owed for the time in which it had none.
    pub(super) fn enter_fair(&mut self, now: Timestamp, share: FlowKey) {
        let missing = self.flow.virtual_ms.saturating_sub(self.tag(now, share));
        let weight = self.share_weight(share);
        self.share(share).had += missing * weight;
        let tag = self.tag(now, share);
        self.flow.set_tag(share, Some(tag));
    }

    /// A share without turns is not chosen.
    pub(super) fn drop_fair(&mut self, share: FlowKey) {
        if !self.flow.has_turns(share) {
            self.flow.set_tag(share, None);
        }
    }

    /// Puts a share that may be chosen where its tag is now.
    pub(super) fn refresh_fair(&mut self, now: Timestamp, share: FlowKey) {
        if self.flow.tags.contains_key(&share) {
            let tag = self.tag(now, share);
            self.flow.set_tag(share, Some(tag));
        }
    }

    /// The share with the smallest tag but for those put aside. Tags grow as jobs run: those before it are reckoned anew.
    pub(in crate::engine::model) fn first_share(
        &mut self,
        now: Timestamp,
        aside: &BTreeSet<FlowKey>,
    ) -> Option<(u64, FlowKey)> {
        loop {
            let found = self.flow.fair.iter().find(|(_, share)| !aside.contains(share)).copied()?;
            let tag = self.tag(now, found.1);
            if tag == found.0 {
                return Some(found);
            }
            self.flow.set_tag(found.1, Some(tag));
        }
    }

    pub(super) fn take_slots(&mut self, now: Timestamp, share: FlowKey, weight: u32) {
        let now_ms = ms(now);
        let known = self.share(share);
        known.run_to(now_ms);
        known.slots += u64::from(weight);
        self.refresh_fair(now, share);
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
        self.refresh_fair(now, share);
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
        if known.waiting > 0 || known.slots > 0 {
            return;
        }
        let ahead = self.tag(now, share).saturating_sub(self.flow.virtual_ms).max(IDLE_MS);
        self.flow.idle.insert(share, now.plus(Duration::from_millis(ahead)).micros());
    }

    /// Forgets shares that are idle for long enough, at most so many.
    pub(super) fn forget_shares(&mut self, now: Timestamp, max: u32) {
        let mut due: Vec<(i64, FlowKey)> =
            self.flow.idle.iter().map(|(share, at)| (*at, *share)).collect();
        due.sort_unstable();
        due.retain(|(at, _)| *at <= now.micros());
        for (_, share) in due.into_iter().take(max as usize) {
            self.flow.idle.remove(&share);
            let is_idle = |known: &Share| known.waiting == 0 && known.slots == 0;
            if self.flow.shares.get(&share).is_some_and(is_idle) {
                self.flow.shares.remove(&share);
            }
        }
        if self.flow.shares.is_empty() {
            self.flow.virtual_ms = 0;
        }
    }
}
