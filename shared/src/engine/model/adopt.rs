//! adopt: leases that the shard has lost and their holders have not.

use super::push::fresh;
use super::*;

impl Shard {
    /// Puts leases back; see the module's rules.
    pub fn adopt(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        lease: Duration,
        leases: &[Adoption],
    ) -> Vec<Adopted> {
        self.tombstones.turn(now);
        leases.iter().map(|adoption| self.adopt_one(now, worker, lease, adoption)).collect()
    }

    fn adopt_one(
        &mut self,
        now: Timestamp,
        worker: WorkerId,
        lease: Duration,
        adoption: &Adoption,
    ) -> Adopted {
        let (id, fence) = (adoption.job.id, adoption.job.fence);
        if self.tombstones.standing(id).is_some_and(|standing| standing >= fence) {
            return Adopted::Over;
        }
        if let Some(entry) = self.entries.get(&id) {
            let same_job =
                (entry.attempt, entry.crashes) == (adoption.job.attempt, adoption.job.crashes);
            match entry.status {
                Status::Finishing => return Adopted::Over,
                Status::Leased { .. } => {
                    let same_token = entry.lease_id == Some(adoption.lease_id);
                    if entry.fence >= fence && !(entry.fence == fence && same_token) {
                        return Adopted::Stolen;
                    }
                }
                Status::Ready | Status::Delayed => {
                    if entry.fence > fence || (entry.fence == fence && !same_job) {
                        return Adopted::Stolen;
                    }
                }
            }
        }
        let held = Held { id, fence, lease_id: adoption.lease_id };
        let wanted_ms = until_ms(now, lease);
        if let Extended::Held { expires_at, .. } = self.extend_one(&held, wanted_ms) {
            self.seen = now;
            return Adopted::Held { expires_at };
        }
        self.put_lease(wanted_ms, worker, adoption);
        self.seen = now;
        Adopted::Held { expires_at: Timestamp::from_millis(wanted_ms) }
    }

    /// Writes the entry as leased, in place of what is there.
    fn put_lease(&mut self, until_ms: i64, worker: WorkerId, adoption: &Adoption) {
        let id = adoption.job.id;
        if self.entries.contains_key(&id) {
            self.unplace(id);
            self.forget(id);
        }
        self.tombstones.remove(id);
        self.envelope_bytes += adoption.job.envelope.len() as u64;
        let score = self.score(adoption.job.run_at, adoption.job.priority);
        let entry = Entry {
            status: Status::Leased { until_ms },
            lease_id: Some(adoption.lease_id),
            worker: Some(worker),
            claimed_at: Some(adoption.claimed_at),
            ..fresh(&adoption.job, score)
        };
        self.entries.insert(id, entry);
        self.leases.insert((until_ms, id));
        self.claims.insert((adoption.claimed_at, id));
    }
}
