//! Lanes: jobs that limits hold, in the order in which they may start.
//!
//! A lane stands at one *place*: that of its kind as long as nothing is known to hold it, else at the scope that does.
//! At each place the lanes are sorted by their shares, and the shares by what they have had: whoever is next is next
//! at a place of a kind, where a claim looks, as well as among those that wait for one permit.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::engine::flow::{Flow, FlowKey, FlowSettings, Group, Limits, Rate};

mod circuits;
mod due;
mod limits;
mod places;
mod retries;
mod shares;

pub use circuits::{Circuit, CircuitState};
pub use due::Due;
pub(super) use limits::Permit;
pub use limits::{Scope, ScopeKind};
pub use places::Turn;
pub(in crate::engine) use retries::BEHIND_MS;
pub use retries::Saved;
pub use shares::Share;

/// All of a shard that is about flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowState {
    /// The jobs that wait in lanes: (lane, score, id).
    pub lanes: BTreeSet<(FlowKey, i64, JobId)>,
    /// How many of each group they are.
    groups: BTreeMap<Group, u64>,
    /// Where lanes stand.
    pub turns: BTreeSet<Turn>,
    /// The shares with lanes at a place, by their tag when it was last reckoned.
    pub fair: BTreeSet<(Scope, u64, FlowKey)>,
    /// The tags in `fair`.
    tags: BTreeMap<(FlowKey, Scope), u64>,
    /// The scopes of lanes that a limit holds.
    pub blocked: BTreeMap<FlowKey, Scope>,
    /// What shares have had.
    pub shares: BTreeMap<FlowKey, Share>,
    /// The greatest tag of a share when it was chosen.
    pub virtual_ms: u64,
    /// Leases by what they count for.
    pub running: BTreeMap<Scope, BTreeSet<JobId>>,
    /// When the next unit of a rate is due, in µs.
    pub rates: Due<Scope>,
    /// What is in the bucket of the retry budget; `None`: as at first.
    pub retries: Option<Saved>,
    /// What is known of circuits.
    pub circuits: BTreeMap<FlowKey, Circuit>,
    /// When to look again at a scope, in µs.
    pub timers: Due<Scope>,
    /// When timers were looked at, in µs, to within a second.
    pub looked_at: i64,
    /// When shares that neither wait nor run are forgotten, in µs.
    pub idle: Due<FlowKey>,
}

impl FlowState {
    /// The first job of a lane.
    pub(in crate::engine) fn first(&self, lane: FlowKey) -> Option<(i64, JobId)> {
        let from = (lane, i64::MIN, JobId::from_bytes([0; 16]));
        let (of, score, id) = self.lanes.range(from..).next()?;
        (*of == lane).then_some((*score, *id))
    }

    /// How many are before this job in its lane.
    pub(super) fn ahead(&self, lane: FlowKey, (score, id): (i64, JobId)) -> usize {
        let from = (lane, i64::MIN, JobId::from_bytes([0; 16]));
        self.lanes.range(from..(lane, score, id)).count()
    }

    /// A job waits in a lane.
    pub(in crate::engine) fn wait(&mut self, lane: FlowKey, score: i64, id: JobId) {
        if self.lanes.insert((lane, score, id)) {
            *self.groups.entry(lane.group()).or_default() += 1;
        }
    }

    /// It waits there no longer; whether it did.
    fn wait_no_longer(&mut self, lane: FlowKey, score: i64, id: JobId) -> bool {
        if !self.lanes.remove(&(lane, score, id)) {
            return false;
        }
        let group = lane.group();
        match self.groups.get_mut(&group) {
            Some(waiting) if *waiting > 1 => *waiting -= 1,
            _ => {
                self.groups.remove(&group);
            }
        }
        true
    }

    /// How many of a group wait in lanes.
    pub(super) fn waiting_of(&self, group: Group) -> u64 {
        self.groups.get(&group).copied().unwrap_or(0)
    }

    /// How many wait in lanes.
    pub(super) fn waiting(&self) -> u64 {
        self.lanes.len() as u64
    }
}

impl Shard {
    /// Puts a job that is in no order into its lane. A lane that was empty may be chosen.
    pub(super) fn enter_lane(&mut self, now: Timestamp, id: JobId, flow: &Flow, score: i64) {
        let before = self.flow.first(flow.lane);
        self.flow.wait(flow.lane, score, id);
        let place = self.flow.place(flow);
        match before {
            None => self.stand(now, Turn::of(flow, place, score)),
            Some(first) if (score, id) < first => self.flow.move_turn(flow, place, first.0, score),
            Some(_) => {}
        }
        if place.is_free() {
            self.wake_ready();
        }
    }

    /// Takes a job out of its lane; whether it was there. A lane that is empty then passes on what it was next for.
    pub(super) fn leave_lane(
        &mut self,
        now: Timestamp,
        id: JobId,
        flow: &Flow,
        score: i64,
    ) -> bool {
        if !self.flow.wait_no_longer(flow.lane, score, id) {
            return false;
        }
        let place = self.flow.place(flow);
        match self.flow.first(flow.lane) {
            None => {
                self.flow.unstand(Turn::of(flow, place, score));
                self.flow.blocked.remove(&flow.lane);
                self.pass_on(now, flow, None);
            }
            Some(next) if (score, id) < next => self.flow.move_turn(flow, place, score, next.0),
            Some(_) => {}
        }
        self.let_go(now, flow.share);
        true
    }

    /// A job of a lane was replaced: heals what a store may have lost, and is nothing else.
    pub(super) fn mend_lane(&mut self, now: Timestamp, flow: &Flow) {
        let place = self.flow.place(flow);
        if !place.is_free() && self.flow.timers.get(place).is_none() {
            self.flow.timers.set(place, now.micros());
        }
    }

    /// Counts a lease for its limits and its share.
    pub(in crate::engine::model) fn start_flow(
        &mut self,
        now: Timestamp,
        (id, fence): (JobId, Fence),
        flow: Option<&Flow>,
    ) {
        let Some(flow) = flow else { return self.start_unkeyed(now) };
        self.start_probe(now, flow.circuit, id, fence);
        for scope in [Scope(ScopeKind::Kind, flow.kind), Scope(ScopeKind::Key, flow.concurrency)] {
            if self.counts(scope) {
                self.flow.running.entry(scope).or_default().insert(id);
            }
        }
        self.take_slots(now, flow.share, flow.weight);
        self.refresh(now, flow.share, flow.kind);
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
        self.refresh(now, flow.share, flow.kind);
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
}
