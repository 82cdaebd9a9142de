//! Who opens the shard: the verification by a leader, a deposed leader, the first opening.

use crate::checks::Broken;
use crate::engine;
use crate::moves::{Line, Moves};
use crate::rules::Rule;
use crate::shard::{Door, Gate, Place};
use crate::state::{FirstOpening, Lease, Opener, Push, Stage, State, Verifier};

pub fn steps(s: &State, moves: &mut Moves<'_>) {
    start(s, moves);
    window(s, moves);
    read(s, moves);
    write(s, Who::Leader, moves);
    write(s, Who::Deposed, moves);
    take_over(s, moves);
    first_opening(s, moves);
}

/// A deposed leader does not know it, and goes on with whatever needs no word from the ledger.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Leader,
    Deposed,
}

impl Who {
    fn get(self, s: &State) -> Verifier {
        match self {
            Self::Leader => s.leader,
            Self::Deposed => s.deposed,
        }
    }

    fn set(self, s: &mut State, verifier: Verifier) {
        match self {
            Self::Leader => s.leader = verifier,
            Self::Deposed => s.deposed = verifier,
        }
    }

    fn pick(self, leader: &'static str, deposed: &'static str) -> &'static str {
        match self {
            Self::Leader => leader,
            Self::Deposed => deposed,
        }
    }
}

fn start(s: &State, moves: &mut Moves<'_>) {
    let mut to = *s;
    if s.leader.stage != Stage::Idle {
        let gate = s.live.gate;
        let shut = matches!(gate.door, Door::Shut | Door::Comparing);
        let lost = !shut || gate.generation != s.leader.generation;
        if s.leader.stage != Stage::Counted && lost {
            to.leader = Verifier::default();
            moves.step("the leader finds its shut gate gone", to);
        }
        return;
    }
    if s.ledger.generation == 0 {
        return;
    }
    let text = if !s.verified() {
        "the leader finds the shard unverified and counts the generation up"
    } else if s.left.doubts > 0 {
        to.left.doubts -= 1;
        "the leader verifies the shard without need and counts the generation up"
    } else {
        return;
    };
    to.ledger.generation += 1;
    to.ledger.window = true;
    to.leader =
        Verifier { stage: Stage::Counted, generation: to.ledger.generation, ..Verifier::default() };
    moves.step(text, to);
}

/// The window ends when every worker has reported and the outbox is empty, or when its time is over.
fn window(s: &State, moves: &mut Moves<'_>) {
    let gate = s.live.gate;
    if s.leader.stage != Stage::Window
        || s.live.outbox.len > 0
        || gate.door != Door::Shut
        || gate.generation != s.leader.generation
    {
        return;
    }
    let late = |lease: &&Lease| lease.is_alive() && lease.generation != s.leader.generation;
    // A lease that the store still remembers is not lost yet: grace gives its worker time to come back.
    let holder = if s.live.entry.place == Place::Leased { s.live.entry.token } else { 0 };
    let lost = |(at, lease): &(usize, &Lease)| {
        late(lease) && !lease.reaped && usize::from(holder) != at + 1
    };
    let missing = s.leases.iter().enumerate().filter(lost).count() as u8;
    let mut to = *s;
    to.leader.stage = Stage::Closed;
    to.live.gate.door = Door::Comparing;
    if !s.leases.iter().any(|lease| late(&lease)) {
        moves.step("every worker has reported, and the outbox is flushed", to);
    } else if s.left.misses > 0 {
        to.left.misses -= 1;
        to.starts_left += missing;
        moves.step("the window ends without every worker's report", to);
    }
}

fn read(s: &State, moves: &mut Moves<'_>) {
    let mut to = *s;
    if s.leader.stage == Stage::Closed {
        to.leader.stage = Stage::Flushed;
        to.ledger.window = false;
        moves.step("the ledger notes the end of the window", to);
    }
    if s.leader.stage == Stage::Flushed {
        to.leader.stage = Stage::Read;
        to.leader.fence = s.ledger.fence;
        to.leader.attempts = s.ledger.attempts;
        to.leader.ended = s.ledger.succeeded;
        to.leader.replaces = replaces(s, moves);
        let text = if s.ledger.succeeded {
            "the leader reads in the ledger that the job has ended"
        } else {
            "the leader reads in the ledger that the job has not ended"
        };
        moves.step(text, to);
    }
}

/// Whether the shard shows the job with the fence that the ledger has, and yet in an older form: the end of that lease is
/// on record. Its push has the same fence, and would be refused.
fn replaces(s: &State, moves: &Moves<'_>) -> bool {
    let entry = s.live.entry;
    let is_older = match entry.place {
        Place::Leased => moves.rules.keep(Rule::ReplaceEnded),
        Place::Ready => {
            entry.attempts < s.ledger.attempts && moves.rules.keep(Rule::ReplaceUncounted)
        }
        Place::Absent | Place::Finishing | Place::Tombstone => false,
    };
    is_older && entry.fence == s.ledger.fence && s.ledger.waits()
}

/// The steps of a verification that are written to the shard.
fn write(s: &State, who: Who, moves: &mut Moves<'_>) {
    let mut verifier = who.get(s);
    let (mut to, mut broken) = (*s, Broken::default());
    let text = match verifier.stage {
        Stage::Idle | Stage::Window | Stage::Closed | Stage::Flushed => return,
        Stage::Counted => {
            verifier.process = s.process;
            let shut = engine::shut(&mut to, verifier.generation);
            verifier.stage = if shut { Stage::Window } else { Stage::Idle };
            who.pick("the leader shuts the gate", "the deposed leader shuts the gate")
        }
        Stage::Read => {
            compare(&mut to, verifier, moves, &mut broken);
            verifier.stage = Stage::Compared;
            verifier.old = false;
            who.pick("the leader pushes or drops the job", "the deposed leader pushes or drops")
        }
        Stage::Compared => {
            engine::open(&mut to, verifier, moves.rules);
            verifier = Verifier::default();
            who.pick("the leader opens the gate", "the deposed leader opens the gate")
        }
    };
    // In the window a deposed leader asks the ledger for reports, and learns that it is deposed.
    if who == Who::Deposed && verifier.stage == Stage::Window || verifier.stage == Stage::Idle {
        verifier = Verifier::default();
    }
    who.set(&mut to, verifier);
    moves.add(Line { text, lease: 0 }, to, broken);
}

fn compare(to: &mut State, verifier: Verifier, moves: &Moves<'_>, broken: &mut Broken) {
    if !verifier.ended {
        if verifier.replaces {
            engine::drop_lease(to, verifier.fence, broken);
        }
        let push = Push {
            pending: true,
            fence: verifier.fence,
            attempts: verifier.attempts,
            generation: verifier.generation,
            old: false,
        };
        engine::push(to, push, moves.rules, broken);
    } else if moves.rules.keep(Rule::ReverseCompare) {
        engine::drop_ended(to, verifier.fence);
    }
}

fn take_over(s: &State, moves: &mut Moves<'_>) {
    if s.leader.stage == Stage::Idle || s.left.takeovers == 0 {
        return;
    }
    let mut to = *s;
    to.left.takeovers -= 1;
    to.leader = Verifier::default();
    to.deposed = match s.leader.stage {
        Stage::Counted | Stage::Read | Stage::Compared => s.leader,
        Stage::Idle | Stage::Window | Stage::Closed | Stage::Flushed => Verifier::default(),
    };
    moves.step("another leader takes over; the old one is frozen", to);
}

/// Whoever pushes the first job of a queue opens it: it marks the shard, wins the ledger's count from 0 to 1, and opens.
fn first_opening(s: &State, moves: &mut Moves<'_>) {
    let mut to = *s;
    let by = Verifier { generation: 1, process: s.opener.process, ..Verifier::default() };
    match s.opener.stage {
        FirstOpening::None if !moves.rules.keep(Rule::FirstOpening) => {
            if s.live.gate.door == Door::Missing && (s.api.pending || s.sweeper.pending) {
                let by = Verifier {
                    generation: s.ledger.generation.max(1),
                    process: s.process,
                    ..Verifier::default()
                };
                to.ledger.generation = by.generation;
                to.live.gate =
                    Gate { door: Door::Open, generation: by.generation, process: by.process };
                moves.step("a pusher finds a shard without a gate and opens it", to);
            }
        }
        FirstOpening::None => {
            if s.ledger.generation == 0 {
                to.opener = Opener { stage: FirstOpening::Read, process: s.process };
                moves.step("a pusher reads in the ledger that the queue was never open", to);
            }
        }
        FirstOpening::Read => {
            to.opener.stage = FirstOpening::Marked;
            to.opener.process = s.process;
            if moves.rules.keep(Rule::OpenNeedsShut) && s.live.gate.door == Door::Missing {
                engine::shut(&mut to, 1);
            }
            moves.step("the first opener shuts the gate of a shard that has none", to);
        }
        FirstOpening::Marked => {
            to.opener = Opener::default();
            if s.ledger.generation == 0 {
                to.ledger.generation = 1;
                to.opener = Opener { stage: FirstOpening::Won, ..s.opener };
                moves.step("the first opener counts the ledger from 0 to 1", to);
            } else {
                moves.step("the first opener finds the queue opened by another", to);
            }
        }
        FirstOpening::Won => {
            to.opener = Opener::default();
            moves.step("the first opener dies", to);
            engine::open(&mut to, by, moves.rules);
            moves.step("the first opener opens the gate", to);
        }
    }
}
