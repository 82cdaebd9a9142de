//! What goes wrong: losses of data, silence, crashes, and the passing of time.

use crate::moves::Moves;
use crate::rules::{Loss, Rule};
use crate::shard::{Ended, Entry, Outbox, Outcome, Place, SEQ_AFTER_WIPE, Shard};
use crate::state::{Hand, Lease, Push, Stage, State};
use crate::workers;

pub fn steps(s: &State, moves: &mut Moves<'_>) {
    lose(s, moves);
    fall_silent(s, moves);
    crash(s, moves);
    other_outcome(s, moves);
    end_grace(s, moves);
    end_tombstone(s, moves);
}

fn can_roll_back(moves: &Moves<'_>) -> bool {
    moves.scope.losses.iter().any(|loss| matches!(loss, Loss::Rollback | Loss::RollbackInPlace))
}

fn lose(s: &State, moves: &mut Moves<'_>) {
    if s.left.losses == 0 {
        return;
    }
    if can_roll_back(moves) && s.image != s.live {
        let to = State { image: s.live, ..*s };
        moves.step("the store's image catches up", to);
    }
    for loss in moves.scope.losses {
        let mut to = *s;
        to.left.losses -= 1;
        to.lost_data = true;
        to.live = match loss {
            Loss::Rollback | Loss::RollbackInPlace => s.image,
            Loss::Wipe | Loss::Flush => Shard {
                outbox: Outbox { last: SEQ_AFTER_WIPE, ..Outbox::default() },
                ..Shard::default()
            },
        };
        if matches!(loss, Loss::Rollback | Loss::Wipe) {
            to.process += 1;
        }
        if moves.scope.clock_back {
            to.clock = 1;
        }
        to.live.entry.overdue = to.live.entry.place == Place::Leased;
        for lease in &mut to.leases {
            lease.reaped = false;
        }
        to.api.old = false;
        to.sweeper.old = false;
        to.leader.old = false;
        to.deposed.old = false;
        if to.left.losses == 0 {
            to.image = Shard::default();
        }
        let text = match loss {
            Loss::Rollback => "the store is lost; a new process starts from the image",
            Loss::RollbackInPlace => "the same store process goes back to the image",
            Loss::Wipe => "the store is lost; a new process starts empty",
            Loss::Flush => "the store is flushed; its process goes on",
        };
        moves.step(text, to);
    }
}

/// The store answers nobody for longer than a lease, and then goes on with all its data.
fn fall_silent(s: &State, moves: &mut Moves<'_>) {
    if s.left.outages == 0 || s.live.entry.place != Place::Leased {
        return;
    }
    let mut to = *s;
    to.left.outages -= 1;
    to.live.entry.overdue = true;
    to.live.grace = moves.rules.keep(Rule::Amnesty);
    moves.step("the store is silent for longer than a lease", to);
}

fn crash(s: &State, moves: &mut Moves<'_>) {
    if s.left.crashes == 0 {
        return;
    }
    for worker in 0..2 {
        let hit = |lease: &Lease| lease.is_alive() && lease.worker == worker;
        if !s.leases.iter().any(hit) {
            continue;
        }
        let mut to = *s;
        to.left.crashes -= 1;
        for lease in to.leases.iter_mut().filter(|lease| hit(lease)) {
            to.starts_left += u8::from(!lease.reaped);
            *lease = workers::dead();
        }
        let text = ["worker A dies", "worker B dies"][usize::from(worker)];
        moves.step(text, to);
    }
}

fn other_outcome(s: &State, moves: &mut Moves<'_>) {
    if s.left.others == 0 || !s.live.outbox.has_room() {
        return;
    }
    let mut to = *s;
    to.left.others -= 1;
    to.live.outbox.push(Outcome { ended: Ended::Other, ..Outcome::default() });
    moves.step("another job of the shard is settled", to);
}

/// Grace lasts long enough for every worker that lives to extend its lease, or to replay what it had settled.
fn end_grace(s: &State, moves: &mut Moves<'_>) {
    let entry = s.live.entry;
    let waits = entry.place == Place::Leased
        && entry.overdue
        && s.leases[usize::from(entry.token) - 1].is_alive();
    if s.live.grace && !waits {
        let mut to = *s;
        to.live.grace = false;
        moves.step("the grace is over", to);
    }
}

/// A tombstone outlives every push that was fixed before the job's end was on record, and every commit of the direct path.
fn end_tombstone(s: &State, moves: &mut Moves<'_>) {
    if s.live.entry.place != Place::Tombstone
        || s.leases.iter().any(|lease| lease.hand == Hand::Withdrawn)
    {
        return;
    }
    let mut to = *s;
    to.live.entry = Entry::default();
    // A worker that does not come back to the direct path while its tombstone stands has lost its lease.
    let held = s.leases.iter().position(|lease| lease.hand == Hand::Direct && lease.withdrew);
    if let Some(at) = held {
        if s.left.expiries == 0 {
            return;
        }
        to.left.expiries -= 1;
        to.starts_left += 1;
        to.leases[at].withdrew = false;
    }
    if moves.rules.keep(Rule::NotAfter) {
        drop_old_pushes(&mut to);
    }
    moves.step("the tombstone's time is over", to);
}

fn drop_old_pushes(to: &mut State) {
    for push in [&mut to.api, &mut to.sweeper] {
        if push.old {
            *push = Push::default();
        }
    }
    for verifier in [&mut to.leader, &mut to.deposed] {
        if verifier.old {
            verifier.stage = Stage::Compared;
            verifier.old = false;
        }
    }
}
