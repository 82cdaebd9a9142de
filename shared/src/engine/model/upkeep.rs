//! promote and reap: what time does to a shard.

use super::flow::Permit;
use super::*;
use crate::engine::flow::RETRY_LOOK_US;

impl Shard {
    /// Makes due delayed jobs ready; see the module's rules.
    pub fn promote(&mut self, now: Timestamp, max: u32) -> u32 {
        self.check_timers(now);
        self.move_due(now, max)
    }

    /// The same as a part of another verb.
    pub(super) fn move_due(&mut self, now: Timestamp, max: u32) -> u32 {
        let (mut moved, mut put_off) = (0, 0);
        self.fire_timers(now, self.bounds.move_max);
        while moved + put_off < max.min(self.bounds.move_max) {
            let Some((due_ms, id)) = self.delayed.first().copied() else { break };
            if due_ms > now.millis() {
                break;
            }
            self.unplace(now, id);
            match self.retry_waits(now, id, put_off) {
                Some(until) => {
                    self.entries.get_mut(&id).expect("delayed jobs have entries").run_at = until;
                    self.delayed.insert((ceil_ms(until), id));
                    put_off += 1;
                }
                None => {
                    self.make_ready(now, id);
                    moved += 1;
                }
            }
        }
        moved
    }

    /// Until when a retry has to wait for the queue's budget, if it has to; what need not is paid for. Those of one call
    /// are looked at again one by one, as the floor of the budget has room for them.
    pub(super) fn retry_waits(&mut self, now: Timestamp, id: JobId, before: u32) -> Option<Timestamp> {
        if self.entries[&id].attempt == 0 {
            return None;
        }
        let Permit::Until(until) = self.permit(now, Scope::RETRIES, 1) else {
            self.spend(now, Scope::RETRIES, 1);
            return None;
        };
        let interval_us = self.settings.as_ref()?.flow.retries?.floor.interval_us;
        let apart = u64::from(before) * interval_us % RETRY_LOOK_US;
        let until = until.min(now.micros() + RETRY_LOOK_US as i64) + apart as i64;
        Some(Timestamp::from_micros(until))
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
