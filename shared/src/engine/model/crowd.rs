//! Who may put more into the head: every group of jobs may have as many waiting as a multiple of what is free.
//!
//! One that has a backlog leaves room for the others, however many have one, and one that has none always gets in; nothing is
//! set aside for anybody. (Dynamic thresholds: A. K. Choudhury, E. L. Hahne, "Dynamic queue length thresholds for
//! shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998.)

use super::*;

/// Jobs of a group that may wait for each place that is free: one group alone has four fifths of the room.
pub(in crate::engine) const PART: u64 = 4;
/// A group with fewer than so many for each free place is worth filling up.
pub(in crate::engine) const REFILL: u64 = 3;
/// Most groups that are noted as refused. Of more the ledger's sweep takes care.
pub(crate) const REFUSED_MAX: usize = 2_000;

impl Shard {
    /// Places that are free among those of jobs that could run, run, or have just ended.
    fn free(&self) -> u64 {
        let jobs_max =
            self.settings.as_ref().map_or(ShardSettings::default().jobs_max, |it| it.jobs_max);
        let used = self.entries.len() - self.delayed.len();
        jobs_max.saturating_sub(used as u64)
    }

    fn waiting_of(&self, group: Group) -> u64 {
        let unkeyed = if group == Group::UNKEYED { self.ready.len() as u64 } else { 0 };
        unkeyed + self.flow.waiting_of(group)
    }

    /// Whether a group has as many waiting as are left to it, or fresh jobs would pass those of it that wait in the ledger.
    pub(super) fn is_crowded(&self, group: Group, origin: PushOrigin) -> bool {
        let would_pass = origin == PushOrigin::Fresh && self.refused.get(group).is_some();
        would_pass || self.waiting_of(group) >= PART * self.free()
    }

    /// Notes that a group was refused room.
    pub(super) fn refuse(&mut self, now: Timestamp, group: Group) {
        if self.refused.get(group).is_some() || self.refused.len() < REFUSED_MAX {
            self.refused.set(group, now.micros());
        }
    }

    /// Groups that were refused room; see the module's rules.
    pub fn refused(&self, max: u32) -> Vec<Refused> {
        let most = REFILL * self.free();
        let first = self.refused.iter().take(max as usize);
        let told =
            first.map(|(_, group)| Refused { group, has_room: self.waiting_of(group) < most });
        told.collect()
    }

    /// Takes fresh jobs of these groups again; see the module's rules.
    pub fn refilled(&mut self, groups: &[Group]) {
        for group in groups {
            self.refused.remove(*group);
        }
    }
}
