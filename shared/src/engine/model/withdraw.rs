//! withdraw: jobs whose outcomes are to be recorded past the engine.

use super::adopt::has_ended;
use super::*;

impl Shard {
    /// Takes jobs out; see the module's rules.
    pub fn withdraw(&mut self, now: Timestamp, leases: &[Withdrawal]) -> WithdrawReply {
        self.tombstones.turn(now);
        let leases = leases.iter().map(|lease| self.withdraw_one(lease)).collect();
        WithdrawReply { leases, position: self.position() }
    }

    fn withdraw_one(&mut self, lease: &Withdrawal) -> Withdrawn {
        let Withdrawal { id, fence, lease_id, attempt, crashes, .. } = *lease;
        if let Some(entry) = self.entries.get(&id) {
            let is_stolen = match entry.status {
                Status::Finishing => return Withdrawn::Finishing,
                Status::Leased { .. } => {
                    let is_other = lease_id.is_some() && entry.lease_id != lease_id;
                    entry.fence > fence || (entry.fence == fence && is_other)
                }
                Status::Ready | Status::Delayed => {
                    has_ended(entry, fence, (attempt, crashes), lease_id)
                }
            };
            if is_stolen {
                let has_counted = entry.fence > fence && entry.attempt > attempt;
                let is_known_retry = has_counted && lease.then == Then::Retry;
                return if is_known_retry { Withdrawn::Counted } else { Withdrawn::Stolen };
            }
            self.unplace(id);
            self.forget(id);
        }
        self.tombstones.raise(id, lease.tombstone());
        Withdrawn::Out
    }
}
