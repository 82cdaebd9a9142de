//! Lanes: jobs that limits hold, in the order in which they may start.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::engine::flow::{Flow, FlowKey, Limits, Rate};

mod circuits;
mod limits;
mod shares;

pub use circuits::{Circuit, CircuitState};
pub(super) use limits::Permit;
pub use limits::{Scope, ScopeKind};
pub use shares::Share;

/// All of a shard that is about flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowState {
    /// The jobs that wait in lanes: (lane, score, id).
    pub lanes: BTreeSet<(FlowKey, i64, JobId)>,
    /// Lanes that nothing is known to hold: (share, score of the first job, lane).
    pub turns: BTreeSet<(FlowKey, i64, FlowKey)>,
    /// Lanes that a limit holds: (its scope, score of the first job, lane, share).
    pub blocked: BTreeSet<(Scope, i64, FlowKey, FlowKey)>,
    /// Shares that have turns, by their tag when it was last reckoned.
    pub fair: BTreeSet<(u64, FlowKey)>,
    /// The tags in `fair`.
    tags: BTreeMap<FlowKey, u64>,
    /// What shares have had.
    pub shares: BTreeMap<FlowKey, Share>,
    /// The greatest tag of a share when it was chosen.
    pub virtual_ms: u64,
    /// Leases by what they count for.
    pub running: BTreeMap<Scope, BTreeSet<JobId>>,
    /// When the next unit of a rate is due, in µs.
    pub rates: BTreeMap<Scope, i64>,
    /// What is known of circuits.
    pub circuits: BTreeMap<FlowKey, Circuit>,
    /// When to look again at a scope, in µs.
    pub timers: BTreeMap<Scope, i64>,
    /// When shares that neither wait nor run are forgotten, in µs.
    pub idle: BTreeMap<FlowKey, i64>,
}

impl FlowState {
    /// The first job of a lane.
    pub(super) fn first(&self, lane: FlowKey) -> Option<(i64, JobId)> {
        let from = (lane, i64::MIN, JobId::from_bytes([0; 16]));
        let (of, score, id) = self.lanes.range(from..).next()?;
        (*of == lane).then_some((*score, *id))
    }

    /// How many are before this job in its lane.
    pub(super) fn ahead(&self, lane: FlowKey, (score, id): (i64, JobId)) -> usize {
        let from = (lane, i64::MIN, JobId::from_bytes([0; 16]));
        self.lanes.range(from..(lane, score, id)).count()
    }

    /// How many wait in lanes.
    pub(super) fn waiting(&self) -> u64 {
        self.lanes.len() as u64
    }

    /// The first lane of a share that is not put aside.
    pub(super) fn first_lane(
        &self,
        share: FlowKey,
        aside: &BTreeSet<FlowKey>,
    ) -> Option<(i64, FlowKey)> {
        let from = (share, i64::MIN, FlowKey::NONE);
        let of_share = self.turns.range(from..).take_while(|(of, ..)| *of == share);
        let mut lanes = of_share.map(|(_, score, lane)| (*score, *lane));
        lanes.find(|(_, lane)| !aside.contains(lane))
    }

    /// When something is to be looked at again, µs.
    pub(super) fn next_timer(&self) -> Option<i64> {
        self.timers.values().min().copied()
    }

    /// Whether any lane may be chosen.
    pub(super) fn has_any_turn(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whether a share has turns.
    fn has_turns(&self, share: FlowKey) -> bool {
        let from = (share, i64::MIN, FlowKey::NONE);
        self.turns.range(from..).next().is_some_and(|(of, ..)| *of == share)
    }

    /// Where a lane with this first job stands, if it stands anywhere.
    fn leave(&mut self, flow: &Flow, score: i64) -> Option<Place> {
        if self.turns.remove(&(flow.share, score, flow.lane)) {
            return Some(Place::Turns);
        }
        for scope in Scope::of(flow) {
            if self.blocked.remove(&(scope, score, flow.lane, flow.share)) {
                return Some(Place::Blocked(scope));
            }
        }
        None
    }
}

/// Where a lane stands.
#[derive(Debug, Clone, Copy)]
enum Place {
    Turns,
    Blocked(Scope),
}

impl Shard {
    /// Puts a job that is in no order into its lane. A lane that was empty gets a turn.
    pub(super) fn enter_lane(&mut self, now: Timestamp, id: JobId, flow: &Flow, score: i64) {
        let before = self.flow.first(flow.lane);
        self.flow.lanes.insert((flow.lane, score, id));
        self.share(flow.share).waiting += 1;
        match before {
            None => self.give_turn(now, flow.share, score, flow.lane),
            Some(first) if (score, id) < first => self.move_lane(now, flow, first.0, Some(score)),
            Some(_) => {}
        }
        self.wake_ready();
    }

    /// Takes a job out of its lane, wherever that stands; whether it was there.
    pub(super) fn leave_lane(
        &mut self,
        now: Timestamp,
        id: JobId,
        flow: &Flow,
        score: i64,
    ) -> bool {
        let first = self.flow.first(flow.lane);
        if !self.flow.lanes.remove(&(flow.lane, score, id)) {
            return false;
        }
        if first == Some((score, id)) {
            let next = self.flow.first(flow.lane).map(|(score, _)| score);
            self.move_lane(now, flow, score, next);
            if next.is_none() {
                self.pass_on(now, flow, None);
            }
        }
        let share = self.share(flow.share);
        share.waiting = share.waiting.saturating_sub(1);
        self.let_go(now, flow.share);
        true
    }

    /// A lane has another first job, or none.
    fn move_lane(&mut self, now: Timestamp, flow: &Flow, from: i64, to: Option<i64>) {
        let place = self.flow.leave(flow, from);
        if let Some(score) = to {
            match place {
                Some(Place::Blocked(scope)) => {
                    self.flow.blocked.insert((scope, score, flow.lane, flow.share));
                }
                Some(Place::Turns) | None => self.give_turn(now, flow.share, score, flow.lane),
            }
        }
        self.drop_fair(flow.share);
    }

    /// Counts a lease for its limits and its share.
    pub(in crate::engine::model) fn start_flow(
        &mut self,
        now: Timestamp,
        (id, fence): (JobId, Fence),
        flow: Option<&Flow>,
    ) {
        let Some(flow) = flow else { return self.start_unkeyed(now) };
        self.start_probe(flow.circuit, id, fence);
        for scope in [Scope(ScopeKind::Kind, flow.kind), Scope(ScopeKind::Key, flow.concurrency)] {
            if self.counts(scope) {
                self.flow.running.entry(scope).or_default().insert(id);
            }
        }
        self.take_slots(now, flow.share, flow.weight);
    }

    /// A lease has ended that was given at `claimed_at`: its share is charged, and those who waited get their chance.
    pub(super) fn end_flow(
        &mut self,
        now: Timestamp,
        (id, fence): (JobId, Fence),
        flow: Option<&Flow>,
        claimed_at: Timestamp,
    ) {
        let Some(flow) = flow else { return self.end_unkeyed(now, claimed_at) };
        self.lose_probe(now, flow, id, fence);
        self.charge(now, flow.share, flow.weight, claimed_at);
        for scope in [Scope(ScopeKind::Kind, flow.kind), Scope(ScopeKind::Key, flow.concurrency)] {
            let Some(ids) = self.flow.running.get_mut(&scope) else { continue };
            if !ids.remove(&id) {
                continue;
            }
            if ids.is_empty() {
                self.flow.running.remove(&scope);
            }
            self.wake_lane(now, scope);
        }
    }

    /// Whether leases are counted for this scope. Kinds only while they are limited: all jobs have one.
    fn counts(&self, scope: Scope) -> bool {
        match scope.0 {
            ScopeKind::Kind => self.kind_concurrency(scope.1).is_some(),
            _ => !scope.1.is_none(),
        }
    }

    /// Lets a lane be chosen.
    fn give_turn(&mut self, now: Timestamp, share: FlowKey, score: i64, lane: FlowKey) {
        let is_back = !self.flow.has_turns(share);
        self.flow.turns.insert((share, score, lane));
        if is_back {
            self.enter_fair(now, share);
        }
    }
}
