//! Whether writers get answers. While none does, a submission is refused at once: it would only wait behind those that
//! wait already, hold a connection and memory for that time, and then be refused.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::LedgerError;

/// A group that takes longer holds up what comes after it.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// After a group that found no ledger one submission in this time is let through, until a group has found it.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Of some writers.
pub(super) struct Pulse {
    writers: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Since when groups are being written.
    begun: Vec<(u64, Instant)>,
    next: u64,
    /// The latest group found no ledger: when the next submission is let through.
    again_at: Option<Instant>,
}

/// A group that is being written; to be ended with what came of it.
pub(super) struct Beat<'a> {
    pulse: &'a Pulse,
    id: u64,
}

impl Pulse {
    /// Of so many writers.
    pub(super) fn new(writers: usize) -> Self {
        Self { writers, state: Mutex::default() }
    }

    /// A writer begins with a group.
    pub(super) fn begin(&self) -> Beat<'_> {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.begun.push((id, Instant::now()));
        Beat { pulse: self, id }
    }

    /// Whether a submission has a chance of being written soon, or is to find that out for the others.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: every writer has been waiting for the ledger for long, or the latest group found
    /// none.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        let mut state = self.state();
        let all = state.begun.len() >= self.writers;
        let stuck = all && state.begun.iter().all(|(_, since)| since.elapsed() > STUCK_AFTER);
        let now = Instant::now();
        if stuck || state.again_at.is_some_and(|at| now < at) {
            return Err(LedgerError::Unavailable("the ledger does not answer its writers".into()));
        }
        if state.again_at.is_some() {
            state.again_at = Some(now + AGAIN_AFTER);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl Beat<'_> {
    /// The group found a ledger, or found none; that one of its rows was refused is an answer, too.
    pub(super) fn end(self, found: bool) {
        self.pulse.state().again_at = (!found).then(|| Instant::now() + AGAIN_AFTER);
    }
}

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        self.pulse.state().begun.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Pulse {
        /// Everything began, and failed, by this much earlier.
        fn age(&self, by: Duration) {
            let mut state = self.state();
            let earlier = |at: Instant| at.checked_sub(by).expect("the machine is up for longer");
            state.begun.iter_mut().for_each(|(_, since)| *since = earlier(*since));
            state.again_at = state.again_at.map(earlier);
        }
    }

    #[test]
    fn submissions_are_refused_while_every_writer_waits_for_long() {
        let pulse = Pulse::new(2);
        let first = pulse.begin();
        pulse.age(STUCK_AFTER * 2);
        assert!(pulse.check().is_ok(), "the other writer is free");
        let second = pulse.begin();
        assert!(pulse.check().is_ok(), "the other one has only begun");
        pulse.age(STUCK_AFTER * 2);
        assert!(pulse.check().is_err());
        second.end(true);
        assert!(pulse.check().is_ok());
        drop(first);
        assert!(pulse.state().begun.is_empty(), "a writer that panics leaves nothing");
    }

    #[test]
    fn after_a_group_that_found_no_ledger_one_at_a_time_is_let_through() {
        let pulse = Pulse::new(2);
        pulse.begin().end(false);
        assert!(pulse.check().is_err());
        pulse.age(AGAIN_AFTER);
        assert!(pulse.check().is_ok(), "one finds out");
        assert!(pulse.check().is_err(), "the others do not wait for it");
        pulse.age(AGAIN_AFTER);
        assert!(pulse.check().is_ok(), "if it came to nothing, another does");
        pulse.begin().end(true);
        assert!(pulse.check().is_ok() && pulse.check().is_ok(), "a group was written since");
    }
}
