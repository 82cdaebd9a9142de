//! What workers do: claim, run, settle, keep, adopt, replay.

use crate::checks::{Broken, Check};
use crate::engine::Settled;
use crate::moves::{Line, Moves};
use crate::rules::Rule;
use crate::shard::Place;
use crate::state::{Hand, LEASES_MAX, Lease, State};
use crate::{direct, engine};

pub const GONE: Lease = Lease {
    hand: Hand::Gone,
    worker: 0,
    fence: 0,
    attempts: 0,
    fails: false,
    generation: 0,
    seq: 0,
    reaped: false,
    withdrew: false,
    in_window: false,
};

pub fn steps(s: &State, moves: &mut Moves<'_>) {
    claim(s, moves);
    reap(s, moves);
    for at in 0..usize::from(s.given) {
        match s.leases[at].hand {
            Hand::None | Hand::Gone => {}
            Hand::Running => {
                finish(s, at, moves);
                beat(s, at, moves);
                adopt(s, at, moves);
            }
            Hand::Done => {
                beat(s, at, moves);
                settle(s, at, moves);
            }
            Hand::Kept => {
                forget(s, at, moves);
                replay(s, at, moves);
            }
            Hand::Direct => {
                beat(s, at, moves);
                direct::withdraw(s, at, moves);
            }
            Hand::Withdrawn => direct::commit(s, at, moves),
        }
    }
}

pub fn line(text: &'static str, at: usize) -> Line {
    Line { text, lease: at as u8 + 1 }
}

/// What hands jobs out or takes them back works only behind a verified gate.
fn gate_lets(s: &State, moves: &Moves<'_>) -> bool {
    s.verified() || !moves.rules.keep(Rule::Gate)
}

fn claim(s: &State, moves: &mut Moves<'_>) {
    if s.live.entry.place != Place::Ready || !gate_lets(s, moves) {
        return;
    }
    let mut broken = Broken::default();
    if usize::from(s.given) == LEASES_MAX {
        broken.add(Check::OutOfLeases);
        moves.add(Line { text: "a claim finds no place in the model", lease: 0 }, *s, broken);
        return;
    }
    if s.ledger.succeeded {
        broken.add(Check::LateStart);
    }
    if s.starts_left == 0 {
        let full = moves.scope.left;
        let none_lost = s.left.crashes == full.crashes
            && s.left.expiries == full.expiries
            && s.left.misses == full.misses;
        let clean = s.lost_data && none_lost;
        broken.add(if clean { Check::CleanLossRepeats } else { Check::StartsAdded });
    }
    // The two workers are alike until one of them has something in hand.
    let workers = if s.leases.iter().any(Lease::is_alive) { 2 } else { 1 };
    for worker in 0..workers {
        let mut to = *s;
        to.starts_left = s.starts_left.saturating_sub(1);
        engine::claim(&mut to, worker);
        let text = ["worker A claims the job", "worker B claims the job"][usize::from(worker)];
        moves.add(line(text, usize::from(s.given)), to, broken);
    }
}

/// Leases run out because nobody extends them, or because the world holds their worker up.
fn reap(s: &State, moves: &mut Moves<'_>) {
    let entry = s.live.entry;
    if entry.place != Place::Leased
        || !gate_lets(s, moves)
        || s.live.grace
        || !s.live.outbox.has_room()
    {
        return;
    }
    let at = usize::from(entry.token) - 1;
    let mut to = *s;
    // A worker extends its lease until somebody has taken its result.
    let extended = matches!(s.leases[at].hand, Hand::Running | Hand::Done | Hand::Direct);
    let text = if !extended {
        "the lease that nobody extends is reaped"
    } else if entry.overdue {
        "the lease that could not be extended is reaped"
    } else if s.left.expiries > 0 {
        to.left.expiries -= 1;
        to.starts_left += 1;
        "the worker is slow; its lease runs out and is reaped"
    } else {
        return;
    };
    engine::reap(&mut to);
    moves.add(line(text, at), to, Broken::default());
}

fn finish(s: &State, at: usize, moves: &mut Moves<'_>) {
    let mut to = *s;
    to.leases[at].hand = Hand::Done;
    moves.add(line("the handler succeeds", at), to, Broken::default());
    if moves.scope.fails && s.leases[at].attempts == 0 {
        to.leases[at].fails = true;
        // However often the first attempt is made: one more is planned.
        to.starts_left += u8::from(!s.retry_planned);
        to.retry_planned = true;
        moves.add(
            line("the handler fails; the job is to be tried again", at),
            to,
            Broken::default(),
        );
    }
}

/// A beat that gets through gives the lease its full length again.
fn beat(s: &State, at: usize, moves: &mut Moves<'_>) {
    let entry = s.live.entry;
    if entry.overdue && usize::from(entry.token) == at + 1 {
        let mut to = *s;
        to.live.entry.overdue = false;
        moves.add(line("the lease is extended", at), to, Broken::default());
    }
}

/// The worker sees a gate that is not verified, or of another generation than its lease.
fn sees_change(s: &State, at: usize) -> bool {
    !s.verified() || s.live.gate.generation != s.leases[at].generation
}

fn adopt(s: &State, at: usize, moves: &mut Moves<'_>) {
    if !moves.rules.keep(Rule::Adopt) {
        // Without adoption the worker only takes note of the generation.
        if s.leases[at].generation != s.live.gate.generation {
            let mut to = *s;
            to.leases[at].generation = s.live.gate.generation;
            moves.add(line("the worker reports", at), to, Broken::default());
        }
        return;
    }
    if !sees_change(s, at) {
        return;
    }
    let (mut to, mut broken) = (*s, Broken::default());
    let text = if engine::adopt(&mut to, at, moves.rules, &mut broken) {
        "the worker reports; its running job is adopted"
    } else {
        to.leases[at] = GONE;
        "the worker reports; its job is over or another's, it stops"
    };
    moves.add(line(text, at), to, broken);
}

fn settle(s: &State, at: usize, moves: &mut Moves<'_>) {
    let mut to = *s;
    to.leases[at].hand = Hand::Direct;
    moves.add(line("the engine does not answer the worker for 2 s", at), to, Broken::default());
    if !s.live.outbox.has_room() {
        return;
    }
    let (mut to, mut broken) = (*s, Broken::default());
    match engine::settle(&mut to, at, moves.rules, &mut broken) {
        Settled::Accepted { seq } => {
            to.leases[at].hand = Hand::Direct;
            moves.add(line("the engine accepts the settle, its reply is lost", at), to, broken);
            let lease = &mut to.leases[at];
            lease.hand = Hand::Kept;
            lease.seq = seq;
            lease.generation = s.live.gate.generation;
            moves.add(line("the engine accepts the settle", at), to, broken);
        }
        Settled::Gone => {
            to.leases[at].hand = Hand::Direct;
            moves.add(line("the engine answers the settle: gone", at), to, broken);
        }
        Settled::Stolen => {
            to.leases[at] = GONE;
            moves.add(line("the engine answers the settle: stolen", at), to, broken);
        }
    }
}

fn forget(s: &State, at: usize, moves: &mut Moves<'_>) {
    let recorded = s.live.outbox.recorded >= s.leases[at].seq;
    let known = !moves.rules.keep(Rule::ForgetInGeneration) || !sees_change(s, at);
    if recorded && known {
        let mut to = *s;
        to.leases[at] = GONE;
        moves.add(
            line("the worker sees its settle recorded and forgets it", at),
            to,
            Broken::default(),
        );
    }
}

fn replay(s: &State, at: usize, moves: &mut Moves<'_>) {
    if !sees_change(s, at) {
        return;
    }
    let mut to = *s;
    if moves.rules.keep(Rule::Replay) {
        to.leases[at].hand = Hand::Direct;
        moves.add(line("the worker replays its settle", at), to, Broken::default());
    } else {
        to.leases[at] = GONE;
        moves.add(line("the worker reports, and replays nothing", at), to, Broken::default());
    }
}

/// What a dead worker leaves of its lease.
pub fn dead() -> Lease {
    GONE
}
