//! withdraw: jobs whose outcomes are to be recorded past the engine.

use std::collections::HashSet;

use super::adopt::has_ended;
use super::*;

impl Shard {
    /// Takes jobs out; see the module's rules.
    pub fn withdraw(
        &mut self,
        now: Timestamp,
        leases: &[Withdrawal],
        looked: Option<Looked>,
    ) -> WithdrawReply {
        let Position { generation, last_seq, .. } = self.position();
        let looked = looked.filter(|looked| looked.generation == generation);
        let all = self.outbox.len();
        let before = last_seq.saturating_sub(all);
        let skip = looked.map_or(0, |looked| looked.seq.saturating_sub(before));
        let last = all.min(skip.saturating_add(self.bounds.move_max.into()));
        let look = self.outbox.iter().skip(skip as usize).take(self.bounds.move_max as usize);
        let waiting = look.map(|outcome| outcome.id).collect();
        self.tombstones.turn(now);
        let answer = |lease: &Withdrawal| self.withdraw_one(now, lease, &waiting, last == all);
        WithdrawReply {
            leases: leases.iter().map(answer).collect(),
            looked: Looked { generation, seq: before + last },
        }
    }

    fn withdraw_one(
        &mut self,
        now: Timestamp,
        lease: &Withdrawal,
        waiting: &HashSet<JobId>,
        is_end: bool,
    ) -> Withdrawn {
        let entry = self.entries.get(&lease.id);
        if entry.is_some_and(|entry| is_settled(entry, lease)) {
            return Withdrawn::Known;
        }
        if waiting.contains(&lease.id) {
            return Withdrawn::Waits;
        }
        if !is_end {
            return Withdrawn::Behind;
        }
        if let Some(entry) = entry {
            if let Some(refused) = refuse(entry, lease) {
                return refused;
            }
            self.unplace(now, lease.id);
            self.forget(lease.id);
        }
        self.tombstones.raise(lease.id, lease.tombstone());
        Withdrawn::Out
    }
}

/// Whether an entry is what the settle of this very lease has left.
fn is_settled(entry: &Entry, lease: &Withdrawal) -> bool {
    let is_own = lease.lease_id.is_some() && entry.lease_id == lease.lease_id;
    let is_over = lease.then == Then::Over;
    let is_left = match entry.status {
        Status::Finishing => is_over,
        Status::Ready | Status::Delayed => !is_over,
        Status::Leased { .. } => false,
    };
    is_own && entry.fence == lease.fence && is_left
}

/// Why an entry stays, if it does. No outcome of its job waits.
fn refuse(entry: &Entry, lease: &Withdrawal) -> Option<Withdrawn> {
    let Withdrawal { fence, lease_id, attempt, crashes, then, .. } = *lease;
    if entry.fence > fence {
        let has_counted = then == Then::Retry && entry.attempt > attempt;
        return Some(if has_counted { Withdrawn::Known } else { Withdrawn::Stolen });
    }
    let is_stolen = match entry.status {
        // The outcome of what has ended here is lost.
        Status::Leased { .. } | Status::Finishing => {
            entry.fence == fence && lease_id.is_some() && entry.lease_id != lease_id
        }
        Status::Ready | Status::Delayed => has_ended(entry, fence, (attempt, crashes), lease_id),
    };
    is_stolen.then_some(Withdrawn::Stolen)
}
