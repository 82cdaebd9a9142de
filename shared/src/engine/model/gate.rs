//! gate, shut, open_gate and report, and what the gate holds back.

use super::*;

/// How old the last sign of life may get before it is written anew.
pub(in crate::engine) const SEEN_EVERY: Duration = Duration::from_millis(500);

/// All that a shard keeps of its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateState {
    /// As it is told.
    pub gate: Gate,
    /// As opened; zero while shut.
    pub grace: Duration,
    /// As opened; 0 while shut.
    pub slots: u32,
    /// As opened; zero while shut.
    pub ramp: Duration,
    /// When it was opened.
    pub ramp_from: Timestamp,
}

impl GateState {
    fn shut(ledger: LedgerId, generation: u64) -> Self {
        Self {
            gate: Gate { ledger, generation, process: None, sealed: false },
            grace: Duration::ZERO,
            slots: 0,
            ramp: Duration::ZERO,
            ramp_from: Timestamp::default(),
        }
    }
}

impl Shard {
    /// The gate as it stands.
    pub fn gate(&self) -> GateView {
        GateView {
            process: self.process,
            gate: self.gate.map(|state| state.gate),
            reported: self.reported.iter().copied().collect(),
            present: self.present.iter().copied().collect(),
        }
    }

    /// Shuts the gate; see the module's rules.
    pub fn shut(
        &mut self,
        now: Timestamp,
        ledger: LedgerId,
        generation: u64,
        not_after: Timestamp,
    ) -> Shut {
        if now > not_after {
            return Shut::Late;
        }
        let mut wiped = false;
        if let Some(GateState { gate, .. }) = self.gate {
            if gate.ledger != ledger {
                wiped = true;
                let wake = std::mem::take(&mut self.wake);
                *self = Self { wake, ..Self::new(self.bounds, self.process) };
            } else if gate.generation > generation
                || (gate.generation == generation && gate.process.is_some())
            {
                return Shut::Newer;
            } else if gate.generation == generation {
                return Shut::Shut { process: self.process, wiped };
            }
        }
        self.gate = Some(GateState::shut(ledger, generation));
        self.reported.clear();
        self.present.clear();
        self.wake.shut = true;
        Shut::Shut { process: self.process, wiped }
    }

    /// Ends the free adoption; see the module's rules.
    pub fn seal(&mut self, ledger: LedgerId, generation: u64) -> bool {
        let Some(GateState { gate, .. }) = &mut self.gate else { return false };
        let ours = gate.ledger == ledger && gate.generation == generation;
        if !ours || gate.process.is_some() {
            return false;
        }
        gate.sealed = true;
        true
    }

    /// Opens the gate; see the module's rules.
    pub fn open_gate(&mut self, now: Timestamp, opening: &Opening) -> Opened {
        let Some(GateState { gate, .. }) = self.gate else { return Opened::Moved };
        if gate.ledger != opening.ledger || gate.generation > opening.generation {
            return Opened::Newer;
        }
        if gate.generation < opening.generation || opening.process != self.process {
            return Opened::Moved;
        }
        if self.is_verified() {
            return Opened::Open;
        }
        self.configure(now, &opening.settings);
        self.gate = Some(GateState {
            gate: Gate { process: Some(opening.process), sealed: true, ..gate },
            grace: opening.grace,
            slots: opening.slots,
            ramp: opening.ramp,
            ramp_from: now,
        });
        self.seen = now;
        if !self.leases.is_empty() {
            self.no_reap_until = now.plus(opening.grace);
        }
        if self.has_ready() {
            self.wake_ready();
        }
        Opened::Open
    }

    /// Notes that a worker has reported; see the module's rules.
    pub fn report_worker(
        &mut self,
        ledger: LedgerId,
        generation: u64,
        worker: WorkerId,
        report: Report,
    ) {
        let Some(GateState { gate, .. }) = self.gate else { return };
        if (gate.ledger, gate.generation, gate.process) == (ledger, generation, None) {
            match report {
                Report::Present => self.present.insert(worker),
                Report::Done => self.reported.insert(worker),
            };
        }
    }

    /// Whether the process that serves the shard is the one that was compared with the ledger.
    pub(super) fn is_verified(&self) -> bool {
        self.gate.is_some_and(|state| state.gate.process == Some(self.process))
    }

    /// Whether adoptions are bound to what is there.
    pub(super) fn is_bound(&self) -> bool {
        let is_sealed = |state: GateState| state.gate.process.is_none() && state.gate.sealed;
        self.is_verified() || self.gate.is_some_and(is_sealed)
    }

    /// Of the gate, open or shut; 0 without one.
    pub(super) fn generation(&self) -> u64 {
        self.gate.map_or(0, |state| state.gate.generation)
    }

    /// How far outcomes are recorded.
    pub(super) fn position(&self) -> Position {
        let generation =
            self.gate.filter(|_| self.is_verified()).map(|state| state.gate.generation);
        Position {
            generation,
            last_seq: self.outbox.last_seq(),
            recorded_seq: self.outbox.recorded_seq(),
        }
    }

    /// How many more leases the ramp allows.
    pub(super) fn ramp_leaves(&self, now: Timestamp) -> u64 {
        let Some(state) = self.gate else { return u64::MAX };
        let ramp_us = state.ramp.as_micros();
        let elapsed_us = now.since(state.ramp_from).as_micros();
        if elapsed_us >= ramp_us {
            return u64::MAX;
        }
        let cap = u128::from(state.slots) * (ramp_us + 9 * elapsed_us) / (10 * ramp_us);
        let cap = u64::try_from(cap).unwrap_or(u64::MAX).max(1);
        cap.saturating_sub(self.leases.len() as u64)
    }

    /// Moves the last sign of life on, unless it is fresh. After a jump of engine time nothing is reaped for a grace.
    pub(super) fn note_seen(&mut self, now: Timestamp) {
        let grace = self.gate.map_or(Duration::ZERO, |state| state.grace);
        let jumped = now > self.seen.plus(limits::CLOCK_STEP_MIN);
        // Whoever comes first after a silence: else it would hide the silence from the others.
        if jumped && now >= self.no_reap_until.plus(grace) {
            self.no_reap_until = now.plus(grace);
        }
        if now < self.seen || now.since(self.seen) >= SEEN_EVERY {
            self.seen = now;
        }
    }

    /// Whether leases that ran out may be taken back now. Notes jumps of engine time.
    pub(super) fn may_reap(&mut self, now: Timestamp) -> bool {
        if self.leases.is_empty() {
            return false;
        }
        self.note_seen(now);
        self.is_verified() && now >= self.no_reap_until
    }
}
