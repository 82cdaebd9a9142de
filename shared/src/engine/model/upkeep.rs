//! promote and reap: what time does to a shard.

use super::*;

impl Shard {
    /// Makes due delayed jobs ready; see the module's rules.
    pub fn promote(&mut self, now: Timestamp, max: u32) -> u32 {
        self.check_timers(now);
        self.move_due(now, max, true)
    }

    /// The same as a part of another verb.
    pub(super) fn move_due(&mut self, now: Timestamp, max: u32, heal: bool) -> u32 {
        let max = max.min(self.bounds.move_max);
        let (mut looked, mut moved) = (0, 0);
        self.fire_timers(now, self.bounds.move_max);
        while looked < max {
            let Some((due_ms, id)) = self.delayed.first().copied() else { break };
            if due_ms > now.millis() {
                break;
            }
            looked += 1;
            self.unplace(now, id);
            if !self.put_behind(now, id, false) {
                self.make_ready(now, id);
                moved += 1;
            }
        }
        moved + self.move_retries(now, max - looked, heal)
    }

    /// Takes back jobs whose lease ran out; see the module's rules.
    pub fn reap(&mut self, now: Timestamp, max: u32) -> u32 {
        if !self.may_reap(now) {
            return 0;
        }
        let mut moved = 0;
        while moved < max.min(self.bounds.move_max) {
            let Some((until_ms, id)) = self.leases.first().copied() else { break };
            if until_ms >= now.millis() {
                break;
            }
            self.reap_one(now, id);
            moved += 1;
        }
        moved
    }

    fn reap_one(&mut self, now: Timestamp, id: JobId) {
        self.unplace(now, id);
        let entry = self.entries.get_mut(&id).expect("leased jobs have entries");
        // A settle that comes too late must not look like a repeated one.
        entry.lease_id = None;
        entry.status = Status::Finishing;
        let ended = if entry.cancel {
            Ended::Cancelled
        } else {
            entry.crashes = entry.crashes.saturating_add(1);
            if entry.crashes >= entry.max_crashes { Ended::Quarantined } else { Ended::Lost }
        };
        if ended == Ended::Lost {
            self.make_ready(now, id);
        }
        self.report(now, id, ended, true, Bytes::new());
    }
}
