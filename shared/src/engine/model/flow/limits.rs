//! Permits: what a scope allows now, who waits for it, and when to look again.

use std::ops::RangeInclusive;

use super::*;

/// How old the note of when timers were looked at may get.
const LOOK_NOTED_EVERY_US: i64 = 1_000_000;

/// Of which sort a scope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ScopeKind {
    /// A concurrency key.
    Key = b'c',
    /// A rate limit key.
    KeyRate = b'd',
    /// No limit: where lanes of a kind stand that nothing is known to hold.
    Free = b'f',
    /// A kind's concurrency.
    Kind = b'k',
    /// A kind's rate.
    KindRate = b'l',
    /// The queue's rate.
    QueueRate = b'q',
    /// A circuit.
    Circuit = b'x',
}

/// What a limit is about. A lane waits for one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(pub ScopeKind, pub FlowKey);

impl Scope {
    /// As it is told.
    pub(in crate::engine) const fn limit(self) -> Limit {
        match self.0 {
            ScopeKind::Free => unreachable!(),
            ScopeKind::Key => Limit::KeyConcurrency,
            ScopeKind::KeyRate => Limit::KeyRate,
            ScopeKind::Kind => Limit::KindConcurrency,
            ScopeKind::KindRate => Limit::KindRate,
            ScopeKind::QueueRate => Limit::QueueRate,
            ScopeKind::Circuit => Limit::Circuit,
        }
    }

    /// Of the queue's rate.
    pub const QUEUE_RATE: Self = Self(ScopeKind::QueueRate, FlowKey::NONE);

    /// Where lanes of a kind stand that nothing is known to hold.
    pub const fn free(kind: FlowKey) -> Self {
        Self(ScopeKind::Free, kind)
    }

    /// Whether lanes that stand there may be chosen.
    pub fn is_free(self) -> bool {
        self.0 == ScopeKind::Free
    }

    /// Where shares wait to be next for jobs of one kind.
    pub(super) fn of_kind(kind: FlowKey) -> [Self; 3] {
        [ScopeKind::Free, ScopeKind::Kind, ScopeKind::KindRate].map(|sort| Self(sort, kind))
    }

    pub(super) fn is_of_kind(self) -> bool {
        matches!(self.0, ScopeKind::Free | ScopeKind::Kind | ScopeKind::KindRate)
    }

    /// Whether time alone may free it, so that there is a timer.
    pub(super) fn is_timed(self) -> bool {
        matches!(self.0, ScopeKind::KeyRate | ScopeKind::KindRate | ScopeKind::Circuit)
    }

    /// From the first to the last share at places of one sort.
    pub(super) fn range(sort: ScopeKind) -> RangeInclusive<(Self, u64, FlowKey)> {
        let last = FlowKey::from_bytes([0xff; 8]);
        (Self(sort, FlowKey::NONE), 0, FlowKey::NONE)..=(Self(sort, last), u64::MAX, last)
    }

    /// All that a job's lane may wait for, in the order in which they are asked.
    pub(in crate::engine::model) fn of(flow: &Flow) -> impl Iterator<Item = Self> {
        let scopes = [
            Self(ScopeKind::Kind, flow.kind),
            Self(ScopeKind::KindRate, flow.kind),
            Self(ScopeKind::Key, flow.concurrency),
            Self(ScopeKind::KeyRate, flow.rate),
            Self(ScopeKind::Circuit, flow.circuit),
        ];
        scopes.into_iter().filter(|scope| !scope.1.is_none())
    }
}

/// What a scope says to a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::model) enum Permit {
    Free,
    /// Until something of it ends.
    Full,
    /// Until this instant, µs.
    Until(i64),
}

impl Shard {
    /// The limits of a kind.
    fn kind_limits(&self, key: FlowKey) -> Limits {
        self.kind_limits.get(&key).copied().unwrap_or_default()
    }

    /// Most running of a kind, if there is such a limit.
    pub(super) fn kind_concurrency(&self, key: FlowKey) -> Option<u32> {
        self.kind_limits(key).concurrency
    }

    /// Whether jobs of this kind wait in lanes though they have no keys.
    pub(in crate::engine::model) fn is_limited(&self, kind: &Kind) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.flow.kinds.contains_key(kind))
    }

    /// What the scope says to a start that costs so many units.
    pub(in crate::engine::model) fn permit(
        &self,
        now: Timestamp,
        scope: Scope,
        units: u32,
    ) -> Permit {
        let Some(settings) = &self.settings else { return Permit::Free };
        let flow = &settings.flow;
        let full = |limit: Option<u32>| match limit {
            Some(limit) if self.flow_running(scope) >= u64::from(limit) => Permit::Full,
            _ => Permit::Free,
        };
        let late =
            |rate: Option<Rate>| match rate.and_then(|rate| self.wait(now, scope, rate, units)) {
                Some(until) => Permit::Until(until),
                None => Permit::Free,
            };
        match scope.0 {
            ScopeKind::Key => full(flow.keys.concurrency),
            ScopeKind::KeyRate => late(flow.keys.rate),
            ScopeKind::Kind => full(self.kind_limits(scope.1).concurrency),
            ScopeKind::KindRate => late(self.kind_limits(scope.1).rate),
            ScopeKind::QueueRate => late(flow.queue.rate),
            ScopeKind::Circuit => self.circuit_permit(now, scope.1),
            ScopeKind::Free => Permit::Free,
        }
    }

    fn flow_running(&self, scope: Scope) -> u64 {
        self.flow.running.get(&scope).map_or(0, |ids| ids.len() as u64)
    }

    /// Most at once, where that is what the scope limits.
    pub(in crate::engine::model) fn most(&self, scope: Scope) -> Option<u32> {
        match scope.0 {
            ScopeKind::Key => self.settings.as_ref()?.flow.keys.concurrency,
            ScopeKind::Kind => self.kind_concurrency(scope.1),
            ScopeKind::KeyRate
            | ScopeKind::KindRate
            | ScopeKind::QueueRate
            | ScopeKind::Circuit
            | ScopeKind::Free => None,
        }
    }

    /// When the next unit of a rate is due: not before `now`, and no later than a burst used up says. A shard that was
    /// opened with a ramp, after a loss that is, has used up its bursts: what it still knows may be old.
    fn due(&self, now: Timestamp, scope: Scope, rate: Rate) -> i64 {
        let burst_us = i64::try_from(rate.interval_us * u64::from(rate.burst)).unwrap_or(i64::MAX);
        let reopened = self.gate.filter(|state| !state.ramp.is_zero());
        let least = reopened.map_or(0, |state| state.ramp_from.micros().saturating_add(burst_us));
        let due = self.flow.rates.get(scope).unwrap_or(0).max(least);
        due.clamp(now.micros(), now.micros().saturating_add(burst_us))
    }

    /// Until when a start has to wait, if it has to.
    fn wait(&self, now: Timestamp, scope: Scope, rate: Rate, units: u32) -> Option<i64> {
        let spare = u64::from(rate.burst - units.min(rate.burst)) * rate.interval_us;
        let until = self.due(now, scope, rate) - i64::try_from(spare).unwrap_or(i64::MAX);
        (until > now.micros()).then_some(until)
    }

    /// The first scope that has no permit for a start.
    pub(in crate::engine::model) fn held_by(
        &self,
        now: Timestamp,
        flow: &Flow,
    ) -> Option<(Scope, Permit)> {
        let asked = Scope::of(flow).map(|scope| (scope, self.permit(now, scope, flow.units)));
        asked.into_iter().find(|(_, permit)| *permit != Permit::Free)
    }

    /// Notes a start of so many units.
    pub(in crate::engine::model) fn spend(&mut self, now: Timestamp, scope: Scope, units: u32) {
        let Some(settings) = &self.settings else { return };
        let rate = match scope.0 {
            ScopeKind::KeyRate => settings.flow.keys.rate,
            ScopeKind::KindRate => self.kind_limits(scope.1).rate,
            ScopeKind::QueueRate => settings.flow.queue.rate,
            _ => None,
        };
        let Some(rate) = rate else { return };
        let cost = u64::from(units.min(rate.burst)) * rate.interval_us;
        let due =
            self.due(now, scope, rate).saturating_add(i64::try_from(cost).unwrap_or(i64::MAX));
        self.flow.rates.set(scope, due);
    }

    pub(super) fn set_timer(&mut self, scope: Scope, at: i64) {
        self.flow.timers.set_earlier(scope, at);
    }

    /// Puts a lane that may be chosen aside until the scope has a permit.
    pub(in crate::engine::model) fn block(
        &mut self,
        now: Timestamp,
        scope: Scope,
        permit: Permit,
        flow: &Flow,
        score: i64,
    ) {
        // First: among those that compete it is no newcomer.
        self.stand(now, Turn::of(flow, scope, score));
        self.flow.unstand(Turn::of(flow, Scope::free(flow.kind), score));
        self.flow.blocked.insert(flow.lane, scope);
        if let Permit::Until(until) = permit {
            self.set_timer(scope, until);
        }
    }

    /// Lets the lane be chosen that is next among those that wait for the scope, if the scope has a permit.
    pub(super) fn wake_lane(&mut self, now: Timestamp, scope: Scope) {
        if self.flow.first_tag(scope).is_none() {
            return;
        }
        match self.permit(now, scope, 1) {
            Permit::Free => {}
            Permit::Full => return,
            Permit::Until(until) => return self.set_timer(scope, until),
        }
        let Some((_, share)) = self.head(now, scope) else { return };
        let turn = self.flow.first_turn(scope, share).expect("who stands there has a lane there");
        self.flow.blocked.remove(&turn.lane);
        self.stand(now, Turn { place: Scope::free(turn.kind), ..turn });
        self.flow.unstand(turn);
        self.wake_ready();
    }

    /// A lane was looked at, or is gone: those behind it at its scopes get their chance. Not at the one that holds it,
    /// where it is next again.
    pub(in crate::engine::model) fn pass_on(
        &mut self,
        now: Timestamp,
        flow: &Flow,
        holds: Option<Scope>,
    ) {
        for scope in Scope::of(flow).filter(|scope| holds != Some(*scope)) {
            self.wake_lane(now, scope);
        }
    }

    /// Looks for timers that a store has lost, and for permits that are free though somebody waits for them, among the first
    /// of those that are waited for.
    pub(in crate::engine::model) fn check_timers(&mut self, now: Timestamp) {
        let (mut scopes, others): (Vec<Scope>, Vec<Scope>) =
            self.flow.waited_for().into_iter().partition(|scope| scope.is_timed());
        scopes.extend(others);
        for scope in scopes.into_iter().take(self.bounds.move_max as usize) {
            if self.flow.timers.get(scope).is_none() {
                match self.permit(now, scope, 1) {
                    Permit::Free => self.set_timer(scope, now.micros()),
                    Permit::Until(at) => self.set_timer(scope, at),
                    Permit::Full => {}
                }
            }
        }
    }

    /// Does what is due: at most so much of each sort.
    pub(in crate::engine::model) fn fire_timers(&mut self, now: Timestamp, max: u32) {
        // Forgotten: rates that are as if nothing had ever started.
        self.flow.rates.take_due(now.micros(), u32::MAX);
        self.forget_shares(now, max);
        if self.flow.timers.first().is_none() {
            return;
        }
        let since = now.micros() - self.flow.looked_at;
        if since < 0 {
            // The clock was set back: who waits for an instant that is far off now is looked at.
            self.flow.timers.set_all(now.micros());
        }
        if !(0..LOOK_NOTED_EVERY_US).contains(&since) {
            self.flow.looked_at = now.micros();
        }
        for scope in self.flow.timers.take_due(now.micros(), max) {
            if scope.0 == ScopeKind::Circuit && self.flow.first_tag(scope).is_none() {
                self.tend_circuit(now, scope.1);
            } else {
                self.wake_lane(now, scope);
            }
        }
    }

    /// Other settings hold: leases are counted for the kinds that had no limit, and who waits for a limit that is
    /// another now is looked at again.
    pub(in crate::engine::model) fn limit_flow(&mut self, now: Timestamp, before: &FlowSettings) {
        let limits = self.settings.iter().flat_map(|settings| &settings.flow.kinds);
        let limits = limits.map(|(kind, limits)| (FlowKey::of(kind.as_str()), *limits)).collect();
        let had = std::mem::replace(&mut self.kind_limits, limits);
        self.weigh_anew(&before.weights);
        self.count_kinds(&had);
        let Some(after) = self.settings.as_ref().map(|settings| settings.flow.clone()) else {
            return;
        };
        for scope in self.flow.waited_for() {
            let key = scope.1;
            let is_same = match scope.0 {
                ScopeKind::Key => before.keys.concurrency == after.keys.concurrency,
                ScopeKind::KeyRate => before.keys.rate == after.keys.rate,
                ScopeKind::Kind | ScopeKind::KindRate => {
                    had.get(&key) == self.kind_limits.get(&key)
                }
                ScopeKind::Circuit => before.circuits.get(&key) == after.circuits.get(&key),
                ScopeKind::QueueRate | ScopeKind::Free => true,
            };
            if !is_same {
                self.set_timer(scope, now.micros());
                self.wake_ready();
            }
        }
    }

    fn count_kinds(&mut self, had: &BTreeMap<FlowKey, Limits>) {
        let limits = &self.kind_limits;
        let is_limited =
            |key: &FlowKey| limits.get(key).is_some_and(|limits| limits.concurrency.is_some());
        self.flow.running.retain(|scope, _| scope.0 != ScopeKind::Kind || is_limited(&scope.1));
        let is_new = |(key, limits): (&FlowKey, &Limits)| {
            limits.concurrency.is_some() && had.get(key).is_none_or(|had| had.concurrency.is_none())
        };
        let fresh: BTreeSet<FlowKey> =
            self.kind_limits.iter().filter(|of| is_new(*of)).map(|(key, _)| *key).collect();
        if fresh.is_empty() {
            return;
        }
        for (_, id) in &self.leases {
            let entry = self.entries.get_mut(id).expect("leased jobs have entries");
            let key = FlowKey::of(entry.kind.as_str());
            if fresh.contains(&key) {
                entry.flow.get_or_insert_with(|| Flow::of_kind(&entry.kind));
                self.flow.running.entry(Scope(ScopeKind::Kind, key)).or_default().insert(*id);
            }
        }
    }
}
