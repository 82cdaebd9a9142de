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

/// All that is known of one circuit. A closed one without failures is not kept.
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
    /// When it opened, in µs.
    pub since: i64,
    /// When the next probe may start, in µs.
    pub probe_at: i64,
}

impl Circuit {
    /// Counts a call; whether the circuit is to open.
    fn count(&mut self, now_ms: u64, setting: &CircuitSetting, told: Dependency) -> bool {
        if now_ms.saturating_sub(self.from_ms) >= setting.window_ms || now_ms < self.from_ms {
            (self.from_ms, self.calls, self.failed, self.row) = (now_ms, 0, 0, 0);
        }
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
        match self.flow.circuits.get(&key).map(|known| (known.state, known.probe_at)) {
            Some((CircuitState::Open, probe_at)) if probe_at > now.micros() => {
                Permit::Until(probe_at)
            }
            Some((CircuitState::HalfOpen { .. }, _)) => Permit::Full,
            Some(_) | None => Permit::Free,
        }
    }

    /// A job of the circuit starts: the probe, if it is open.
    pub(super) fn start_probe(&mut self, key: FlowKey, id: JobId, fence: Fence) {
        if self.circuit_setting(key).mode != CircuitMode::Auto {
            return;
        }
        if let Some(known) = self.flow.circuits.get_mut(&key)
            && known.state == CircuitState::Open
        {
            known.state = CircuitState::HalfOpen { id, fence };
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
                Some(Dependency::Answered) => self.close(now, key),
                Some(Dependency::Failed) => self.open_again(key, now.micros() + us(setting)),
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
        if known.count(now_ms, &setting, told) {
            known.state = CircuitState::Open;
            known.since = now.micros();
            known.probe_at = now.micros() + us(setting);
            self.set_timer(Scope(ScopeKind::Circuit, key), known.probe_at);
        }
        self.flow.circuits.insert(key, known);
    }

    /// A lease has ended and nobody says how: a probe is tried again after a while.
    pub(super) fn lose_probe(&mut self, now: Timestamp, flow: &Flow, id: JobId, fence: Fence) {
        if self.is_probe(flow, id, fence) {
            let probe_at = now.micros() + us(self.circuit_setting(flow.circuit));
            self.open_again(flow.circuit, probe_at);
        }
    }

    fn open_again(&mut self, key: FlowKey, probe_at: i64) {
        let known = self.flow.circuits.entry(key).or_default();
        (known.state, known.probe_at) = (CircuitState::Open, probe_at);
        self.set_timer(Scope(ScopeKind::Circuit, key), probe_at);
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

fn us(setting: CircuitSetting) -> i64 {
    i64::try_from(setting.probe_us).unwrap_or(i64::MAX / 4)
}
