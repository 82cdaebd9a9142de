//! scan and drop_jobs: comparing the shard with the ledger.

use super::*;

impl Shard {
    /// Everything that is here, in one page.
    pub fn scan(&self) -> ScanPage {
        let mut entries: Vec<LiveEntry> = self
            .entries
            .iter()
            .map(|(id, entry)| LiveEntry {
                id: *id,
                fence: entry.fence,
                attempt: entry.attempt,
                crashes: entry.crashes,
                run_at: entry.run_at,
                finishing: entry.status == Status::Finishing,
                leased: matches!(entry.status, Status::Leased { .. }),
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        ScanPage { entries, next: 0, position: self.position() }
    }

    /// Takes jobs out; see the module's rules.
    pub fn drop_jobs(&mut self, now: Timestamp, jobs: &[(JobId, Fence)], bury: bool) -> Vec<bool> {
        self.tombstones.turn(now);
        jobs.iter().map(|(id, fence)| self.drop_one(now, *id, *fence, bury)).collect()
    }

    fn drop_one(&mut self, now: Timestamp, id: JobId, fence: Fence, bury: bool) -> bool {
        if self.entries.get(&id).is_none_or(|entry| entry.fence != fence) {
            return false;
        }
        self.unplace(now, id);
        self.forget(id);
        if bury {
            self.tombstones.raise(id, Tombstone::whole(fence));
        }
        true
    }
}
