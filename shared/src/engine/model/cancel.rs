//! cancel.

use super::*;

impl Shard {
    /// Keeps jobs from starting; see the module's rules. The fences are the ledger's.
    pub fn cancel(
        &mut self,
        now: Timestamp,
        jobs: &[(JobId, Fence)],
        how: Withdraw,
    ) -> Vec<CancelReply> {
        self.tombstones.turn(now);
        jobs.iter().map(|(id, fence)| self.cancel_one(now, *id, *fence, how)).collect()
    }

    fn cancel_one(
        &mut self,
        now: Timestamp,
        id: JobId,
        fence: Fence,
        how: Withdraw,
    ) -> CancelReply {
        let Some(entry) = self.entries.get_mut(&id) else {
            self.tombstones.raise(id, Tombstone::whole(fence));
            return CancelReply::Absent;
        };
        match entry.status {
            Status::Ready | Status::Delayed => {
                let fence = fence.max(entry.fence);
                self.unplace(now, id);
                self.forget(id);
                self.tombstones.raise(id, Tombstone::whole(fence));
                CancelReply::Removed
            }
            Status::Leased { .. } => {
                match how {
                    Withdraw::StopRunning => {
                        entry.cancel = true;
                        self.wake.cancels.push(id);
                    }
                    Withdraw::WaitingOnly => {}
                }
                CancelReply::Running
            }
            Status::Finishing => CancelReply::Finishing,
        }
    }
}
