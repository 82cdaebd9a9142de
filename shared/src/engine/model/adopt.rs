//! adopt: leases that the shard has lost and their holders have not.

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
        if self.tombstones.standing(id).is_some_and(|standing| standing.fence >= fence) {
            return Adopted::Over;
        }
        if let Some(refused) = self.refuse_adoption(adoption) {
            return refused;
        }
        let held = Held { id, fence, lease_id: adoption.lease_id };
        let wanted_ms = until_ms(now, lease);
        if let Extended::Held { expires_at, .. } = self.extend_one(&held, wanted_ms) {
            self.note_seen(now);
            return Adopted::Held { expires_at };
        }
        self.put_lease(now, wanted_ms, worker, adoption);
        self.note_seen(now);
        Adopted::Held { expires_at: Timestamp::from_millis(wanted_ms) }
    }

    fn refuse_adoption(&self, adoption: &Adoption) -> Option<Adopted> {
        let (fence, is_bound) = (adoption.job.fence, self.is_bound());
        let Some(entry) = self.entries.get(&adoption.job.id) else {
            return is_bound.then_some(Adopted::Over);
        };
        match entry.status {
            Status::Finishing => (entry.fence >= fence || is_bound).then_some(Adopted::Over),
            Status::Leased { .. } => {
                let is_own = entry.fence == fence && entry.lease_id == Some(adoption.lease_id);
                let is_later = entry.fence >= fence || is_bound;
                (!is_own && is_later).then_some(Adopted::Stolen)
            }
            Status::Ready | Status::Delayed => {
                let has_ended = has_ended(
                    entry,
                    fence,
                    (adoption.job.attempt, adoption.job.crashes),
                    Some(adoption.lease_id),
                );
                has_ended.then_some(Adopted::Stolen)
            }
        }
    }

    /// Writes the entry as leased, in place of what is there.
    fn put_lease(&mut self, now: Timestamp, until_ms: i64, worker: WorkerId, adoption: &Adoption) {
        let id = adoption.job.id;
        if self.entries.contains_key(&id) {
            self.unplace(now, id);
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
            ..self.fresh(&adoption.job, score)
        };
        let flow = entry.flow;
        self.entries.insert(id, entry);
        self.start_flow(now, (id, adoption.job.fence), flow.as_ref());
        self.leases.insert((until_ms, id));
        self.claims.insert((adoption.claimed_at, id));
    }
}

/// Whether the lease `fence` of a waiting job is over: it has a later fence, or that lease has counted already, or was
/// settled (a push and a reap leave no token). `tally`: attempts and crashes before it.
pub(super) fn has_ended(
    entry: &Entry,
    fence: Fence,
    tally: (u32, u32),
    lease_id: Option<LeaseId>,
) -> bool {
    // A lower one is no sign of it: the ledger may have noted the lease without what was lost before.
    let has_counted = entry.attempt > tally.0 || entry.crashes > tally.1;
    let is_settled = lease_id.is_some() && entry.lease_id == lease_id;
    entry.fence > fence || (entry.fence == fence && (has_counted || is_settled))
}
