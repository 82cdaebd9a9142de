//! Circuit breakers: what is known of a dependency, and whether its jobs may start.

use super::*;
use crate::engine::flow::{CircuitMode, CircuitSetting, Dependency};

/// What a circuit is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CircuitState {
    /// Its jobs start.
    #[default]
    Closed,
    /// They wait.
    Open,
    /// They wait for what the probe finds.
    HalfOpen {
        /// The job that is the probe.
        id: JobId,
        /// Its lease.
        fence: Fence,
    },
}

/// All that is known of one circuit. What has not failed within its window is not kept, nor an open one for which nobody
/// waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circuit {
    /// What it is doing.
    pub state: CircuitState,
    /// Failures one after the other.
    pub row: u32,
    /// When the window of the counts began, in ms.
    pub from_ms: u64,
    /// Calls in it that ended one way or the other.
    pub calls: u32,
    /// Those that failed.
    pub failed: u32,
    /// When it opened, in µs; of one that is closed when a probe closed it, else 0.
    pub since: i64,
    /// When the next probe may start, in µs, or the next job of one that was closed a moment ago.
    pub probe_at: i64,
}

/// After a probe has closed a circuit its jobs start slowly for this long, µs: what has just come back is not to be hit by
/// all that waited.
const EASE_US: i64 = 4_000_000;
/// First so far apart, µs, and a quarter of that after each second.
const EASE_APART_US: i64 = 1_000_000;

impl Circuit {
    /// Whether the window of the counts is over.
    fn is_over(&self, now_ms: u64, setting: &CircuitSetting) -> bool {
        now_ms.saturating_sub(self.from_ms) >= setting.window_ms || now_ms < self.from_ms
    }

    /// Counts a call; whether the circuit is to open.
    fn count(&mut self, setting: &CircuitSetting, told: Dependency) -> bool {
        self.calls = self.calls.saturating_add(1);
        if told == Dependency::Answered {
            self.row = 0;
            return false;
        }
        (self.row, self.failed) = (self.row.saturating_add(1), self.failed.saturating_add(1));
        let in_a_row = setting.failures > 0 && self.row >= setting.failures;
        let share =
            u64::from(self.failed) * 100 >= u64::from(setting.percent) * u64::from(self.calls);
        in_a_row || (setting.percent > 0 && self.calls >= setting.calls_min && share)
    }

    /// How far apart its jobs start, if it was closed a moment ago.
    fn ease(&self, now: Timestamp) -> Option<i64> {
        let closed_for = now.micros() - self.since;
        let eases = self.state == CircuitState::Closed && self.since > 0;
        (eases && (0..EASE_US).contains(&closed_for))
            .then(|| EASE_APART_US >> (2 * (closed_for / 1_000_000)))
    }

    fn open_for_us(&self, now: Timestamp) -> u64 {
        u64::try_from(now.micros() - self.since).unwrap_or(0)
    }
}

impl Shard {
    fn circuit_setting(&self, key: FlowKey) -> CircuitSetting {
        let settings = self.settings.as_ref().map(|settings| &settings.flow.circuits);
        settings.and_then(|circuits| circuits.get(&key)).copied().unwrap_or_default()
    }

    /// What a circuit says to a start.
    pub(super) fn circuit_permit(&self, now: Timestamp, key: FlowKey) -> Permit {
        match self.circuit_setting(key).mode {
            CircuitMode::Open => return Permit::Full,
            CircuitMode::Closed => return Permit::Free,
            CircuitMode::Auto => {}
        }
        let Some(known) = self.flow.circuits.get(&key) else { return Permit::Free };
        let waits = known.state == CircuitState::Open || known.ease(now).is_some();
        match known.state {
            CircuitState::HalfOpen { .. } => Permit::Full,
            _ if waits && known.probe_at > now.micros() => Permit::Until(known.probe_at),
            _ => Permit::Free,
        }
    }

    /// A job of the circuit starts: the probe, if it is open.
    pub(super) fn start_probe(&mut self, now: Timestamp, key: FlowKey, id: JobId, fence: Fence) {
        if self.circuit_setting(key).mode != CircuitMode::Auto {
            return;
        }
        let Some(known) = self.flow.circuits.get_mut(&key) else { return };
        if known.state == CircuitState::Open {
            known.state = CircuitState::HalfOpen { id, fence };
        } else if let Some(apart) = known.ease(now) {
            known.probe_at = known.probe_at.max(now.micros()) + apart;
        }
    }

    /// Whether this lease is the probe of its circuit.
    pub(in crate::engine::model) fn is_probe(&self, flow: &Flow, id: JobId, fence: Fence) -> bool {
        let known = self.flow.circuits.get(&flow.circuit);
        known.is_some_and(|known| known.state == CircuitState::HalfOpen { id, fence })
    }

    /// A lease has ended of which the holder says how its dependency was.
    pub(in crate::engine::model) fn note_dependency(
        &mut self,
        now: Timestamp,
        flow: &Flow,
        (id, fence): (JobId, Fence),
        told: Option<Dependency>,
    ) {
        let key = flow.circuit;
        let setting = self.circuit_setting(key);
        if key.is_none() || setting.mode != CircuitMode::Auto {
            return;
        }
        if self.is_probe(flow, id, fence) {
            return match told {
                Some(Dependency::Answered) => self.close_slowly(now, key, &setting),
                Some(Dependency::Failed | Dependency::Exhausted) => self.probe_later(now, key),
                // It says nothing: the next may start at once.
                None => self.open_again(key, now.micros()),
            };
        }
        let Some(told) = told else { return };
        let mut known = self.flow.circuits.get(&key).copied().unwrap_or_default();
        if known.state != CircuitState::Closed {
            return;
        }
        let now_ms = u64::try_from(now.millis()).unwrap_or(0);
        if known.is_over(now_ms, &setting) {
            if told == Dependency::Answered {
                self.flow.circuits.remove(&key);
                return;
            }
            known = Circuit { from_ms: now_ms, ..Circuit::default() };
            self.set_timer(Scope(ScopeKind::Circuit, key), window_end(now_ms, &setting));
        }
        if known.count(&setting, told) {
            known.state = CircuitState::Open;
            known.since = now.micros();
            known.probe_at = now.micros() + us(setting.probe_us);
            self.set_timer(Scope(ScopeKind::Circuit, key), known.probe_at);
        }
        self.flow.circuits.insert(key, known);
    }

    /// A lease has ended and nobody says how: a probe is tried again after a while.
    pub(super) fn lose_probe(&mut self, now: Timestamp, flow: &Flow, id: JobId, fence: Fence) {
        if self.is_probe(flow, id, fence) {
            self.probe_later(now, flow.circuit);
        }
    }

    /// Whether the failure of this lease is none of its job's attempts.
    pub(in crate::engine::model) fn is_spared(
        &self,
        now: Timestamp,
        flow: &Flow,
        (id, fence): (JobId, Fence),
    ) -> bool {
        let known = self.flow.circuits.get(&flow.circuit);
        self.is_probe(flow, id, fence)
            && known.is_some_and(|known| known.open_for_us(now) < CircuitSetting::SPARED_US)
    }

    /// Nobody waits for a circuit: it is forgotten a window after its failures, or after a probe might have started.
    pub(super) fn tend_circuit(&mut self, now: Timestamp, key: FlowKey) {
        let Some(known) = self.flow.circuits.get(&key) else { return };
        let setting = self.circuit_setting(key);
        let until = match known.state {
            CircuitState::Closed => window_end(known.from_ms, &setting),
            CircuitState::Open => known.probe_at + us(setting.window_ms.saturating_mul(1_000)),
            CircuitState::HalfOpen { .. } => return,
        };
        if until <= now.micros() {
            self.flow.circuits.remove(&key);
        } else {
            self.set_timer(Scope(ScopeKind::Circuit, key), until);
        }
    }

    fn probe_later(&mut self, now: Timestamp, key: FlowKey) {
        let open_for = self.flow.circuits.get(&key).map_or(0, |known| known.open_for_us(now));
        let wait = self.circuit_setting(key).probe_wait_us(open_for);
        self.open_again(key, now.micros() + us(wait));
    }

    fn open_again(&mut self, key: FlowKey, probe_at: i64) {
        let known = self.flow.circuits.entry(key).or_default();
        (known.state, known.probe_at) = (CircuitState::Open, probe_at);
        self.set_timer(Scope(ScopeKind::Circuit, key), probe_at);
    }

    fn close_slowly(&mut self, now: Timestamp, key: FlowKey, setting: &CircuitSetting) {
        let from_ms = u64::try_from(now.millis()).unwrap_or(0);
        let (since, probe_at) = (now.micros(), now.micros());
        let known = Circuit { from_ms, since, probe_at, ..Circuit::default() };
        self.flow.circuits.insert(key, known);
        self.set_timer(Scope(ScopeKind::Circuit, key), window_end(from_ms, setting));
        self.wake_lane(now, Scope(ScopeKind::Circuit, key));
    }

    fn close(&mut self, now: Timestamp, key: FlowKey) {
        self.flow.circuits.remove(&key);
        self.wake_lane(now, Scope(ScopeKind::Circuit, key));
    }

    /// Forgets what is known of a circuit: it is closed. `false`: nothing was.
    pub fn reset_circuit(&mut self, now: Timestamp, key: FlowKey) -> bool {
        let was_known = self.flow.circuits.contains_key(&key);
        self.close(now, key);
        was_known
    }

    /// Every circuit of which something is known.
    pub fn circuits(&self) -> Vec<(FlowKey, Circuit)> {
        self.flow.circuits.iter().map(|(key, known)| (*key, *known)).collect()
    }
}

/// When the window of counts that began then is over, in µs.
fn window_end(from_ms: u64, setting: &CircuitSetting) -> i64 {
    us(from_ms.saturating_add(setting.window_ms).saturating_mul(1_000))
}

fn us(length: u64) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX).min(1 << 52)
}
