//! claim.

use super::*;

/// What a walk over the ready jobs decided, before anything is changed.
struct Walk {
    /// To be leased or expired, in ready order.
    taken: Vec<(JobId, Take)>,
    /// Rank among the ready that remain where the next walk goes on; 0: from the start.
    next_offset: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    Lease,
    Expire,
}

impl Shard {
    /// Leases ready jobs; see the module's rules.
    pub fn claim(&mut self, now: Timestamp, request: &ClaimRequest) -> ClaimReply {
        let woken_before = self.wake.ready;
        let moved = self.promote(now, u32::MAX) + self.reap(now, u32::MAX);
        let left = self.ramp_leaves(now);
        let state = self.claim_state(request.ledger, left);
        self.wake.unverified |= state == ClaimState::Unverified;
        let mut jobs = Vec::new();
        let mut next_offset = 0;
        if state == ClaimState::Open {
            let walk = self.walk(now, request, left);
            next_offset = walk.next_offset;
            for (id, take) in walk.taken {
                match take {
                    Take::Lease => jobs.push(self.lease(now, id, request)),
                    Take::Expire => self.expire(now, id),
                }
            }
        }
        // The claimer itself is awake: others are woken only for what it left.
        self.wake.ready = woken_before || (moved > 0 && self.is_open() && !self.ready.is_empty());
        if !jobs.is_empty() {
            self.seen = now;
        }
        let next_due = self.delayed.first().map(|(due_ms, _)| Timestamp::from_millis(*due_ms));
        ClaimReply { state, jobs, next_due, next_offset, now, position: self.position() }
    }

    /// `left`: how many leases the ramp allows.
    fn claim_state(&self, ledger: Option<LedgerId>, left: u64) -> ClaimState {
        let is_foreign = |state: GateState| ledger.is_some_and(|id| id != state.gate.ledger);
        match &self.settings {
            _ if !self.is_verified() => ClaimState::Unverified,
            _ if self.gate.is_some_and(is_foreign) => ClaimState::Foreign,
            Some(settings) if settings.paused => ClaimState::Paused,
            _ if self.is_braked() => ClaimState::Braked,
            _ if left == 0 => ClaimState::Warming,
            _ => ClaimState::Open,
        }
    }

    fn walk(&self, now: Timestamp, request: &ClaimRequest, left: u64) -> Walk {
        let filtered = !request.kinds.is_empty();
        let offset = if filtered { request.offset } else { 0 };
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let leases_max = request.max.min(limits::ENGINE_BATCH_MAX as u32).min(left);
        let (mut looked, mut leased, mut expired) = (0, 0, 0);
        let mut taken = Vec::new();
        for (_, id) in self.ready.iter().skip(offset as usize) {
            if leased == leases_max
                || looked == self.bounds.scan_max
                || expired == self.bounds.move_max
            {
                break;
            }
            looked += 1;
            let entry = &self.entries[id];
            if entry.expires_at.is_some_and(|at| at <= now) {
                expired += 1;
                taken.push((*id, Take::Expire));
            } else if !filtered || request.kinds.contains(&entry.kind) {
                leased += 1;
                taken.push((*id, Take::Lease));
            }
        }
        let stopped = leased < leases_max
            && (looked == self.bounds.scan_max || expired == self.bounds.move_max);
        let next = offset.saturating_add(looked - leased - expired);
        let remain = self.ready.len() as u64 - u64::from(leased + expired);
        let goes_on = filtered && stopped && u64::from(next) < remain;
        Walk { taken, next_offset: if goes_on { next } else { 0 } }
    }

    fn lease(&mut self, now: Timestamp, id: JobId, request: &ClaimRequest) -> Claimed {
        self.unplace(id);
        let until_ms = until_ms(now, request.lease);
        let entry = self.entries.get_mut(&id).expect("ready jobs have entries");
        let now_us = u64::try_from(now.micros()).unwrap_or(0);
        entry.fence = Fence(now_us.max(entry.fence.0 + 1));
        entry.status = Status::Leased { until_ms };
        entry.lease_id = Some(request.lease_id);
        entry.worker = Some(request.worker);
        entry.claimed_at = Some(now);
        self.leases.insert((until_ms, id));
        self.claims.insert((now, id));
        Claimed {
            id,
            fence: entry.fence,
            attempt: entry.attempt,
            crashes: entry.crashes,
            expires_at: Timestamp::from_millis(until_ms),
            envelope: entry.envelope.clone(),
        }
    }

    fn expire(&mut self, now: Timestamp, id: JobId) {
        self.unplace(id);
        let entry = self.entries.get_mut(&id).expect("ready jobs have entries");
        entry.fence = Fence(entry.fence.0 + 1);
        entry.status = Status::Finishing;
        self.report(now, id, Ended::Expired, false, Bytes::new());
    }
}
