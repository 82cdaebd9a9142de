//! From the ledger to the engine and back: pushes, the sweep, the recorder.

use crate::checks::Broken;
use crate::moves::{Line, Moves};
use crate::rules::Rule;
use crate::shard::{Ended, Place};
use crate::state::{Ledger, Push, Recorder, State};
use crate::{engine, ledger};

pub fn steps(s: &State, moves: &mut Moves<'_>) {
    api_push(s, moves);
    sweep(s, moves);
    record(s, moves);
    note_running(s, moves);
}

fn api_push(s: &State, moves: &mut Moves<'_>) {
    if !s.api.pending {
        return;
    }
    let (mut to, mut broken) = (*s, Broken::default());
    to.api = Push::default();
    moves.step("the API's push is lost, or comes too late", to);
    engine::push(&mut to, s.api, moves.rules, &mut broken);
    moves.add(Line { text: "the API's push arrives", lease: 0 }, to, broken);
}

fn sweep(s: &State, moves: &mut Moves<'_>) {
    let mut to = *s;
    if s.sweeper.pending {
        to.sweeper = Push::default();
        moves.step("the sweep's push is lost, or comes too late", to);
        let mut broken = Broken::default();
        engine::push(&mut to, s.sweeper, moves.rules, &mut broken);
        moves.add(Line { text: "the sweep's push arrives", lease: 0 }, to, broken);
    } else if !s.ledger.succeeded && moves.rules.keep(Rule::Sweep) {
        let generation = s.live.gate.generation;
        let Ledger { fence, attempts, .. } = s.ledger;
        to.sweeper = Push { pending: true, fence, attempts, generation, old: false };
        moves.step("the sweep reads in the ledger that the job has not ended", to);
    }
}

fn record(s: &State, moves: &mut Moves<'_>) {
    if s.recorder.busy {
        second_half(s, moves);
        return;
    }
    let Some((seq, outcome)) = s.live.outbox.head() else { return };
    let (mut to, mut broken) = (*s, Broken::default());
    to.recorder = Recorder { busy: true, seq, outcome, owes_child: false };
    let text = if moves.rules.keep(Rule::CommitFirst) {
        commit(&mut to, moves, &mut broken);
        match outcome.ended {
            Ended::Succeeded => "the recorder commits a success",
            Ended::Retry => "the recorder commits a retry",
            Ended::Lost => "the recorder commits a lost lease",
            Ended::Other | Ended::Nothing => "the recorder commits another job's outcome",
        }
    } else {
        engine::confirm(&mut to, moves.rules);
        "the recorder confirms, and has not committed yet"
    };
    moves.add(Line { text, lease: 0 }, to, broken);
}

fn second_half(s: &State, moves: &mut Moves<'_>) {
    let (mut to, mut broken) = (*s, Broken::default());
    to.recorder = Recorder::default();
    moves.step("the recorder dies in between", to);
    if s.recorder.owes_child {
        to.recorder = Recorder { owes_child: false, ..s.recorder };
        ledger::release_child(&mut to.ledger, &mut broken);
        moves.add(Line { text: "the recorder releases the child", lease: 0 }, to, broken);
    } else if moves.rules.keep(Rule::CommitFirst) {
        to.recorder = s.recorder;
        engine::confirm(&mut to, moves.rules);
        to.recorder = Recorder::default();
        moves.step("the recorder confirms", to);
    } else {
        to.recorder = s.recorder;
        commit(&mut to, moves, &mut broken);
        to.recorder = Recorder::default();
        moves.add(Line { text: "the recorder commits", lease: 0 }, to, broken);
    }
}

/// The recorder's transaction, over what it has read into `to.recorder`.
fn commit(to: &mut State, moves: &Moves<'_>, broken: &mut Broken) {
    let outcome = to.recorder.outcome;
    let success = outcome.ended == Ended::Succeeded;
    let inside = moves.rules.keep(Rule::ReleaseInside);
    if success && !inside && !moves.rules.keep(Rule::ReleaseAfter) {
        ledger::release_child(&mut to.ledger, broken);
    }
    let applied = ledger::record(&mut to.ledger, outcome, moves.rules, broken);
    if applied && success && inside {
        ledger::release_child(&mut to.ledger, broken);
    }
    if success && !inside && moves.rules.keep(Rule::ReleaseAfter) {
        to.recorder.owes_child = applied || !moves.rules.keep(Rule::ReleaseOnce);
    }
}

fn note_running(s: &State, moves: &mut Moves<'_>) {
    let entry = s.live.entry;
    if moves.scope.notes
        && entry.place == Place::Leased
        && entry.fence > s.ledger.fence
        && !s.ledger.succeeded
    {
        let mut to = *s;
        to.ledger.fence = entry.fence;
        to.ledger.started = true;
        to.ledger.attempts = entry.attempts;
        moves.step("the recorder notes the lease as running", to);
    }
}
