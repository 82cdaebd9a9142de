//! What the shard does: each function is one script.

use crate::checks::{Broken, Check};
use crate::rules::{Rule, Rules};
use crate::shard::{Door, Ended, Entry, Gate, Outcome, Place};
use crate::state::{Hand, Lease, Push, Stage, State, Verifier};

/// Creates the job where it is absent, and replaces what has a lower fence. The tombstone of a retry lets in its own fence,
/// if the attempt has counted.
pub fn push(s: &mut State, push: Push, rules: Rules, broken: &mut Broken) {
    if rules.keep(Rule::PushNamesGeneration) && push.generation < s.live.gate.generation {
        return;
    }
    let entry = s.live.entry;
    let replaces = match entry.place {
        Place::Absent => true,
        Place::Tombstone if entry.fence == push.fence => {
            entry.attempts > 0 && push.attempts >= entry.attempts
        }
        Place::Ready | Place::Leased | Place::Finishing | Place::Tombstone => {
            entry.fence < push.fence
        }
    };
    if replaces {
        note_taken(s, broken);
        let Push { fence, attempts, .. } = push;
        s.live.entry = Entry { place: Place::Ready, fence, attempts, ..Entry::default() };
    }
}

/// Gives the job to the next lease of `worker`.
pub fn claim(s: &mut State, worker: u8) {
    let fence = s.clock.max(s.live.entry.fence + 1);
    s.clock = fence + 1;
    s.given += 1;
    let attempts = s.live.entry.attempts;
    s.live.entry = Entry { place: Place::Leased, fence, attempts, token: s.given, overdue: false };
    let lease = &mut s.leases[usize::from(s.given) - 1];
    lease.hand = Hand::Running;
    lease.worker = worker;
    lease.fence = fence;
    lease.attempts = attempts;
    lease.generation = s.live.gate.generation;
}

/// Takes back a lease that ran out.
pub fn reap(s: &mut State) {
    let holder = usize::from(s.live.entry.token) - 1;
    s.leases[holder].reaped = s.leases[holder].is_alive();
    let Entry { fence, attempts, .. } = s.live.entry;
    s.live.entry = Entry { place: Place::Ready, fence, attempts, ..Entry::default() };
    s.live.outbox.push(Outcome { ended: Ended::Lost, fence, attempts });
}

pub enum Settled {
    Accepted { seq: u8 },
    Gone,
    Stolen,
}

/// Ends the attempt of lease `at`: the job ends with it, or waits for the next one with the fence that it has.
pub fn settle(s: &mut State, at: usize, rules: Rules, broken: &mut Broken) -> Settled {
    let (fence, token) = (s.leases[at].fence, at as u8 + 1);
    let entry = &mut s.live.entry;
    match entry.place {
        Place::Absent | Place::Tombstone => return Settled::Gone,
        Place::Ready | Place::Leased | Place::Finishing => {}
    }
    if entry.fence < fence {
        return Settled::Gone;
    }
    if entry.fence > fence {
        return Settled::Stolen;
    }
    if entry.token == 0 {
        return Settled::Gone;
    }
    if entry.token != token {
        if rules.keep(Rule::Token) {
            return Settled::Stolen;
        }
        if entry.place == Place::Leased {
            broken.add(Check::StaleSettle);
        }
    }
    if entry.place != Place::Leased {
        return Settled::Accepted { seq: s.live.outbox.last };
    }
    let outcome = outcome_of(&s.leases[at]);
    entry.place = if outcome.ended == Ended::Retry { Place::Ready } else { Place::Finishing };
    entry.attempts = outcome.attempts;
    entry.overdue = false;
    Settled::Accepted { seq: s.live.outbox.push(outcome) }
}

/// What is to be recorded of a lease whose handler has ended. Only failures are counted: after a success nobody asks.
pub fn outcome_of(lease: &Lease) -> Outcome {
    let ended = if lease.fails { Ended::Retry } else { Ended::Succeeded };
    Outcome { ended, fence: lease.fence, attempts: lease.attempts + u8::from(lease.fails) }
}

/// Whether the job waits because this lease, or a later one, has ended: its attempt has counted.
fn has_ended(entry: Entry, lease: Lease, token: u8) -> bool {
    let counted = entry.attempts > lease.attempts || entry.token == token;
    entry.fence > lease.fence || (entry.fence == lease.fence && counted)
}

/// Gives a running job back to the lease that runs it; whether its worker should go on.
pub fn adopt(s: &mut State, at: usize, rules: Rules, broken: &mut Broken) -> bool {
    let (fence, token) = (s.leases[at].fence, at as u8 + 1);
    let generation = s.live.gate.generation;
    let entry = s.live.entry;
    let in_time = s.may_adopt() || !rules.keep(Rule::LateAdopt);
    let free = match entry.place {
        Place::Finishing if entry.fence >= fence || !rules.keep(Rule::AdoptOverOlder) => {
            return false;
        }
        Place::Finishing => in_time,
        Place::Tombstone if entry.fence >= fence => return false,
        Place::Tombstone | Place::Absent => in_time,
        Place::Ready if has_ended(entry, s.leases[at], token) => return false,
        Place::Ready => true,
        Place::Leased if entry.token == token => true,
        // Another lease of the same fence came first; one of a higher fence came later.
        Place::Leased if entry.fence >= fence || !in_time => return false,
        Place::Leased => true,
    };
    if free {
        if entry.token != token {
            note_taken(s, broken);
        }
        let attempts = s.leases[at].attempts;
        s.live.entry = Entry { place: Place::Leased, fence, attempts, token, overdue: false };
    }
    // Where the entry is not there any more, the result goes by the direct path.
    s.leases[at].generation = generation;
    true
}

/// Takes the job out of the engine for an outcome that goes by the direct path; whether it may be recorded.
pub fn withdraw(s: &mut State, at: usize, rules: Rules) -> bool {
    let (lease, token) = (s.leases[at], at as u8 + 1);
    let entry = s.live.entry;
    if knows(s, at, rules) {
        return true;
    }
    let own = entry.token == token;
    let goes_on = match entry.place {
        // A tombstone is no holder: a later lease that is about to commit does not undo this one's end.
        Place::Absent | Place::Tombstone => true,
        // Equal fences in one verified generation: this lease was reclaimed. Else it may be a push that knows its fence.
        Place::Ready => {
            let same = s.verified() && lease.generation == s.live.gate.generation;
            !has_ended(entry, lease, token) && (entry.fence < lease.fence || !same)
        }
        // A lower fence is what an older image remembers.
        Place::Leased | Place::Finishing => own || entry.fence < lease.fence,
    };
    if goes_on && !(own && entry.place == Place::Finishing) {
        put_tombstone_of(s, lease, rules);
    }
    goes_on
}

/// Whether the engine shows that this very lease was settled, or a later one that has counted its retry. Its outcome may be
/// recorded as it is.
pub fn knows(s: &State, at: usize, rules: Rules) -> bool {
    let (lease, entry, token) = (s.leases[at], s.live.entry, at as u8 + 1);
    let own = entry.token == token && entry.fence == lease.fence && rules.keep(Rule::DirectKnown);
    let later = lease.fails && entry.fence > lease.fence && entry.attempts > lease.attempts;
    match entry.place {
        Place::Finishing => own && !lease.fails,
        Place::Ready if own && lease.fails => true,
        Place::Ready | Place::Leased => later && rules.keep(Rule::DirectCounted),
        Place::Absent | Place::Tombstone => false,
    }
}

/// Leaves the tombstone of a lease whose outcome is about to be committed, unless a later one stands.
fn put_tombstone_of(s: &mut State, lease: Lease, rules: Rules) {
    let entry = s.live.entry;
    let counted = rules.keep(Rule::RetryTombstone);
    // The push of a retry has this very fence, and is let in.
    let fence = lease.fence - u8::from(lease.fails && !counted);
    let attempts = if lease.fails && counted { outcome_of(&lease).attempts } else { 0 };
    if entry.place != Place::Tombstone || entry.fence <= fence {
        s.live.entry = Entry { place: Place::Tombstone, fence, attempts, ..Entry::default() };
    }
    age_pushes(s);
}

/// Forgets the oldest outcome, if it is the recorded one, and the job with it.
pub fn confirm(s: &mut State, rules: Rules) {
    let Some((seq, outcome)) = s.live.outbox.head() else { return };
    let named = seq == s.recorder.seq && outcome == s.recorder.outcome;
    let by_number = !rules.keep(Rule::ConfirmByHead) && seq <= s.recorder.seq;
    if !named && !by_number {
        return;
    }
    s.live.outbox.pop();
    s.live.outbox.recorded = seq;
    let entry = s.live.entry;
    let ends = outcome.ended == Ended::Succeeded
        && entry.place == Place::Finishing
        && entry.fence == outcome.fence;
    if ends && rules.keep(Rule::Tombstone) {
        bury(s, outcome.fence);
    } else if ends {
        s.live.entry = Entry::default();
    }
}

/// Removes a job that the ledger calls ended.
pub fn drop_ended(s: &mut State, fence: u8) {
    let entry = s.live.entry;
    if matches!(entry.place, Place::Ready | Place::Leased | Place::Finishing) {
        bury(s, fence.max(entry.fence));
    }
}

/// Removes what has this fence, without a tombstone: its push, which has the same fence, is to be let in.
pub fn drop_lease(s: &mut State, fence: u8, broken: &mut Broken) {
    let entry = s.live.entry;
    let there = matches!(entry.place, Place::Ready | Place::Leased | Place::Finishing);
    if there && entry.fence == fence {
        note_taken(s, broken);
        s.live.entry = Entry::default();
    }
}

/// Leaves a tombstone in the job's place.
fn bury(s: &mut State, fence: u8) {
    s.live.entry = Entry { place: Place::Tombstone, fence, ..Entry::default() };
    age_pushes(s);
}

/// Pushes that were fixed before now come too late once a tombstone of now has gone.
pub fn age_pushes(s: &mut State) {
    s.api.old = s.api.pending;
    s.sweeper.old = s.sweeper.pending;
    for verifier in [&mut s.leader, &mut s.deposed] {
        verifier.old = verifier.stage == Stage::Read && !verifier.ended;
    }
}

/// Shuts the gate for a generation; not for a lower one than it has.
pub fn shut(s: &mut State, generation: u8) -> bool {
    if s.live.gate.generation > generation {
        return false;
    }
    s.live.gate = Gate { door: Door::Shut, generation, process: s.process };
    true
}

/// Opens the gate, if it may.
pub fn open(s: &mut State, by: Verifier, rules: Rules) {
    let gate = s.live.gate;
    let shut = matches!(gate.door, Door::Shut | Door::Comparing);
    let same = gate.generation == by.generation || !rules.keep(Rule::OpenComparesGeneration);
    if gate.generation > by.generation && !same {
        return;
    }
    if rules.keep(Rule::OpenNeedsShut) && !(shut && same) {
        return;
    }
    let process = if rules.keep(Rule::OpenNamesProcess) { by.process } else { s.process };
    s.live.gate = Gate { door: Door::Open, generation: by.generation, process };
    s.live.grace = rules.keep(Rule::Grace);
}

/// A lease that is overwritten although its holder lives and holds it in this very generation.
fn note_taken(s: &State, broken: &mut Broken) {
    let entry = s.live.entry;
    if entry.place != Place::Leased || s.ledger.succeeded {
        return;
    }
    let holder = s.leases[usize::from(entry.token) - 1];
    let runs = matches!(holder.hand, Hand::Running | Hand::Done);
    if runs && holder.generation == s.live.gate.generation && s.verified() {
        broken.add(Check::LeaseTaken);
    }
}
