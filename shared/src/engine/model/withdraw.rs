//! withdraw: jobs whose outcomes are to be recorded past the engine.

use super::adopt::has_ended;
use super::*;

impl Shard {
    /// Takes jobs out; see the module's rules.
    pub fn withdraw(&mut self, now: Timestamp, leases: &[Withdrawal]) -> Vec<Withdrawn> {
        self.tombstones.turn(now);
        leases.iter().map(|lease| self.withdraw_one(lease)).collect()
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
                return Withdrawn::Stolen;
            }
            self.unplace(id);
            self.forget(id);
        }
        self.tombstones.raise(id, lease.tombstone());
        Withdrawn::Out
    }
}
