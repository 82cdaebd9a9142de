//! The direct path: results that go to the ledger past the engine.

use crate::checks::{Broken, Check};
use crate::moves::Moves;
use crate::rules::Rule;
use crate::shard::{Ended, Outcome};
use crate::state::{Hand, State};
use crate::workers::{GONE, line};
use crate::{engine, ledger};

/// What the direct path does before it commits.
pub fn withdraw(s: &State, at: usize, moves: &mut Moves<'_>) {
    if !moves.rules.keep(Rule::DirectWithdraws) {
        commit(s, at, moves);
        return;
    }
    // What the engine already has to say about this job goes first.
    let goes_first = |outcome: &Outcome| match outcome.ended {
        Ended::Nothing | Ended::Other => false,
        Ended::Succeeded | Ended::Lost => moves.rules.keep(Rule::DirectAfterOutbox),
        Ended::Retry => {
            moves.rules.keep(Rule::DirectAfterOutbox) && moves.rules.keep(Rule::DirectKnown)
        }
    };
    let knows = engine::knows(s, at, moves.rules);
    if !knows && s.live.outbox.waiting.iter().any(goes_first) {
        return;
    }
    let mut to = *s;
    let text = if engine::withdraw(&mut to, at, moves.rules) {
        to.leases[at].hand = Hand::Withdrawn;
        to.leases[at].generation = s.live.gate.generation;
        to.leases[at].withdrew = true;
        to.leases[at].in_window = s.ledger.window;
        "the direct path takes the job out of the engine"
    } else {
        to.leases[at] = GONE;
        "the direct path finds another holder and refuses"
    };
    moves.add(line(text, at), to, Broken::default());
}

/// The direct path's transaction.
pub fn commit(s: &State, at: usize, moves: &mut Moves<'_>) {
    let (mut to, mut broken) = (*s, Broken::default());
    let lease = s.leases[at];
    let ended = lease.in_window && !s.ledger.window && moves.rules.keep(Rule::DirectInWindow);
    let moved_on = lease.generation != s.ledger.generation || ended;
    if lease.hand == Hand::Withdrawn && moves.rules.keep(Rule::DirectInGeneration) && moved_on {
        to.leases[at].hand = Hand::Direct;
        to.leases[at].in_window = false;
        moves.add(line("the direct path finds another generation and starts over", at), to, broken);
        return;
    }
    if lease.hand == Hand::Withdrawn {
        to.leases[at].hand = Hand::Direct;
        to.leases[at].in_window = false;
        moves.add(line("the direct path fails before it commits", at), to, broken);
        to = *s;
    }
    let outcome = engine::outcome_of(&lease);
    if ledger::record(&mut to.ledger, outcome, moves.rules, &mut broken) {
        if outcome.ended == Ended::Succeeded {
            ledger::release_child(&mut to.ledger, &mut broken);
        }
        // The commit came well within the life of the tombstone.
        engine::age_pushes(&mut to);
        if lease.reaped {
            broken.add(Check::ReclaimedRecorded);
        }
    }
    to.leases[at] = GONE;
    moves.add(line("the direct path commits", at), to, broken);
}
