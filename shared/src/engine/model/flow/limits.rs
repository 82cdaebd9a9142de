//! Permits: what a scope allows now, who waits for it, and when to look again.

use super::*;

/// Of which sort a scope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ScopeKind {
    /// A concurrency key.
    Key = b'c',
    /// A rate limit key.
    KeyRate = b'd',
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
            | ScopeKind::Circuit => None,
        }
    }

    /// When the next unit of a rate is due: not before `now`, and no later than a burst used up says.
    fn due(&self, now: Timestamp, scope: Scope, rate: Rate) -> i64 {
        let burst_us = i64::try_from(rate.interval_us * u64::from(rate.burst)).unwrap_or(i64::MAX);
        let opened = self.gate.map_or(0, |state| state.ramp_from.micros());
        let noted = self.flow.rates.get(&scope).copied();
        let due = noted.unwrap_or_else(|| opened.saturating_add(burst_us));
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
        self.flow.rates.insert(scope, due);
    }

    /// Forgets rates that are as if nothing had ever started.
    pub(in crate::engine::model) fn forget_rates(&mut self, now: Timestamp) {
        self.flow.rates.retain(|_, due| *due > now.micros());
    }

    pub(super) fn set_timer(&mut self, scope: Scope, at: i64) {
        let timer = self.flow.timers.entry(scope).or_insert(at);
        *timer = at.min(*timer);
    }

    /// Puts a lane aside until the scope has a permit.
    pub(in crate::engine::model) fn block(
        &mut self,
        scope: Scope,
        permit: Permit,
        flow: &Flow,
        score: i64,
    ) {
        self.flow.turns.remove(&(flow.share, score, flow.lane));
        self.flow.blocked.insert((scope, score, flow.lane, flow.share));
        if let Permit::Until(until) = permit {
            self.set_timer(scope, until);
        }
        self.drop_fair(flow.share);
    }

    /// Lets the first lane that waits for the scope be chosen, if the scope has a permit; whether there was one.
    pub(super) fn wake_lane(&mut self, now: Timestamp, scope: Scope) -> bool {
        let from = (scope, i64::MIN, FlowKey::NONE, FlowKey::NONE);
        let Some(next) = self.flow.blocked.range(from..).next().copied() else { return false };
        let (of, score, lane, share) = next;
        if of != scope {
            return false;
        }
        match self.permit(now, scope, 1) {
            Permit::Free => {}
            Permit::Full => return false,
            Permit::Until(until) => {
                self.set_timer(scope, until);
                return false;
            }
        }
        self.flow.blocked.remove(&next);
        self.give_turn(now, share, score, lane);
        self.wake_ready();
        true
    }

    /// A lane was looked at, or is gone: those behind it at its scopes get their chance. Not at the one that holds it,
    /// where it is first again.
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

    /// Does what is due: at most so much.
    pub(in crate::engine::model) fn fire_timers(&mut self, now: Timestamp, max: u32) {
        self.forget_shares(now, max);
        let mut due: Vec<(i64, Scope)> =
            self.flow.timers.iter().map(|(scope, at)| (*at, *scope)).collect();
        due.sort_unstable();
        for (at, scope) in due.into_iter().take(max as usize) {
            if at > now.micros() {
                break;
            }
            self.flow.timers.remove(&scope);
            self.wake_lane(now, scope);
        }
    }

    /// Other limits hold: leases are counted for the kinds that have none so far, and every lane that waited is looked at
    /// again.
    pub(in crate::engine::model) fn limit_flow(&mut self, now: Timestamp) {
        let limits = self.settings.iter().flat_map(|settings| &settings.flow.kinds);
        let limits = limits.map(|(kind, limits)| (FlowKey::of(kind.as_str()), *limits)).collect();
        let before = std::mem::replace(&mut self.kind_limits, limits);
        let had = |key: &FlowKey| before.get(key).is_some_and(|l| l.concurrency.is_some());
        for (_, id) in &self.leases {
            let entry = self.entries.get_mut(id).expect("leased jobs have entries");
            let key = FlowKey::of(entry.kind.as_str());
            let limit = self.kind_limits.get(&key).and_then(|limits| limits.concurrency);
            if limit.is_some() && !had(&key) {
                entry.flow.get_or_insert_with(|| Flow::of_kind(&entry.kind));
                self.flow.running.entry(Scope(ScopeKind::Kind, key)).or_default().insert(*id);
            }
        }
        for (_, score, lane, share) in std::mem::take(&mut self.flow.blocked) {
            self.give_turn(now, share, score, lane);
        }
    }
}
