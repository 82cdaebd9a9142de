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
        seen: Option<Position>,
    ) -> WithdrawReply {
        let position = self.position();
        let has_come = |seen: Position| {
            seen.generation == position.generation && position.recorded_seq >= seen.last_seq
        };
        let all = self.outbox.len();
        let since = seen.filter(|seen| has_come(*seen));
        let fresh =
            since.map_or(all, |seen| all.min(position.last_seq.saturating_sub(seen.last_seq)));
        let is_long = fresh > u64::from(self.bounds.move_max);
        let late = self.outbox.iter().skip((all - fresh) as usize);
        let behind: HashSet<JobId> = late.map(|outcome| outcome.id).collect();
        self.tombstones.turn(now);
        let answer = |lease: &Withdrawal| match is_long || behind.contains(&lease.id) {
            true => Withdrawn::Behind,
            false => self.withdraw_one(lease),
        };
        WithdrawReply { leases: leases.iter().map(answer).collect(), position }
    }

    fn withdraw_one(&mut self, lease: &Withdrawal) -> Withdrawn {
        let Withdrawal { id, fence, lease_id, attempt, crashes, .. } = *lease;
        if let Some(entry) = self.entries.get(&id) {
            let is_stolen = match entry.status {
                // Of an outcome that is lost; else it would be among those behind.
                Status::Finishing => return Withdrawn::Behind,
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
