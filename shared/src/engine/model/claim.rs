//! claim.

use std::ops::Bound;

use super::flow::Permit;
use super::*;

/// What one claim has done so far, and may do yet.
struct Walk<'a> {
    request: &'a ClaimRequest,
    /// The keys of the kinds asked for; empty: any.
    kinds: Vec<FlowKey>,
    leases_max: u32,
    looked: u32,
    expired: u32,
    jobs: Vec<Claimed>,
    /// How many of the ready were passed over, those before the offset included.
    rank: u32,
    /// The last of the ready that was passed over.
    passed: Option<(i64, JobId)>,
    /// The queue's rate allows the next start at this instant, in µs.
    until: Option<i64>,
}

/// What a claim looks at next.
enum Next {
    Ready(JobId),
    Lane(Turn),
}

impl Walk<'_> {
    fn is_over(&self, bounds: &Bounds) -> bool {
        self.jobs.len() as u32 == self.leases_max || self.is_stopped(bounds)
    }

    fn is_stopped(&self, bounds: &Bounds) -> bool {
        self.looked == bounds.scan_max || self.expired == bounds.move_max
    }

    fn is_filtered(&self) -> bool {
        !self.kinds.is_empty()
    }

    fn fits(&self, kind: &Kind) -> bool {
        !self.is_filtered() || self.request.kinds.contains(kind)
    }
}

impl Shard {
    /// Leases ready jobs; see the module's rules.
    pub fn claim(&mut self, now: Timestamp, request: &ClaimRequest) -> ClaimReply {
        let woken_before = std::mem::take(&mut self.wake.ready);
        let moved = self.move_due(now, u32::MAX, false) + self.reap(now, u32::MAX);
        let (ramp, limit) = (self.ramp_leaves(now), self.limit_leaves());
        let mut state = self.claim_state(request.ledger, ramp);
        self.wake.unverified |= state == ClaimState::Unverified;
        let left = u32::try_from(ramp.min(limit)).unwrap_or(u32::MAX);
        let mut walk = Walk {
            request,
            kinds: request.kinds.iter().map(|kind| FlowKey::of(kind.as_str())).collect(),
            leases_max: request.max.min(limits::ENGINE_BATCH_MAX as u32).min(left),
            looked: 0,
            expired: 0,
            jobs: Vec::new(),
            rank: 0,
            passed: None,
            until: None,
        };
        if walk.is_filtered() && request.offset > 0 {
            walk.rank = request.offset;
            walk.passed = self.ready.iter().nth(request.offset as usize - 1).copied();
            if walk.passed.is_none() {
                walk.passed = self.ready.last().copied();
            }
        }
        let mut next_offset = 0;
        let mut again = None;
        if state == ClaimState::Open {
            self.walk(now, &mut walk);
            let stopped =
                (walk.jobs.len() as u32) < walk.leases_max && walk.is_stopped(&self.bounds);
            if stopped && walk.is_filtered() && u64::from(walk.rank) < self.ready.len() as u64 {
                next_offset = walk.rank;
            }
            let is_ready_left = !walk.is_filtered() && !self.ready.is_empty();
            if stopped && (is_ready_left || self.next_head(now, &walk).is_some()) {
                again = Some(now.millis());
            }
            if walk.jobs.is_empty() && (limit == 0 || walk.until.is_some()) {
                state = ClaimState::Limited;
            }
        }
        if self.ready.is_empty() {
            self.lift_unkeyed(now);
        }
        // The claimer itself is awake: others are woken only for what it left.
        self.has_room_again = false;
        let moved = moved > 0 || self.wake.ready;
        self.wake.ready = woken_before || (moved && self.is_open() && self.has_ready());
        if !walk.jobs.is_empty() {
            self.seen = now;
        }
        let next_due = self.next_due(now, walk.until).into_iter().chain(again).min();
        let next_due = next_due.map(Timestamp::from_millis);
        let position = self.position();
        ClaimReply { state, jobs: walk.jobs, next_due, next_offset, now, position }
    }

    /// How many leases the queue's own concurrency allows.
    fn limit_leaves(&self) -> u64 {
        let limit = self.queue_concurrency();
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.leases.len() as u64))
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

    /// In whole ms, rounded up.
    fn next_due(&self, now: Timestamp, until: Option<i64>) -> Option<i64> {
        let up = |us: i64| ceil_ms(Timestamp::from_micros(us));
        let delayed = self.delayed.first().map(|(due_ms, _)| *due_ms).filter(|it| *it < BEHIND_MS);
        let retry = self.next_retry(now).map(up);
        let timer = self.flow.timers.first().map(|(at, _)| up(at));
        [delayed, timer, retry, until.map(up)].into_iter().flatten().min()
    }

    fn walk(&mut self, now: Timestamp, walk: &mut Walk<'_>) {
        while !walk.is_over(&self.bounds) {
            let goes_on = match self.choose(now, walk) {
                Some(Next::Ready(id)) => self.visit_ready(now, id, walk),
                Some(Next::Lane(turn)) => self.visit_lane(now, turn, walk),
                None => false,
            };
            if !goes_on {
                break;
            }
        }
    }

    /// The first of the ready that was not passed over.
    fn next_ready(&self, walk: &Walk<'_>) -> Option<(i64, JobId)> {
        let from = walk.passed.map_or(Bound::Unbounded, Bound::Excluded);
        self.ready.range((from, Bound::Unbounded)).next().copied()
    }

    /// Of the shares with lanes of the kinds asked for the one with the smallest tag, and of that the kind whose first job is
    /// first in ready order: (tag, share, kind).
    fn next_head(&mut self, now: Timestamp, walk: &Walk<'_>) -> Option<(u64, FlowKey, FlowKey)> {
        let of_any;
        let kinds = if walk.is_filtered() {
            &walk.kinds
        } else {
            of_any = self.flow.free_kinds();
            &of_any
        };
        let mut next = None;
        for kind in kinds {
            let Some((tag, share)) = self.head(now, Scope::free(*kind)) else { continue };
            let turn = self.flow.first_turn(Scope::free(*kind), share);
            let score = turn.map_or(i64::MAX, |turn| turn.score);
            let found = (tag, share, score, *kind);
            if next.is_none_or(|next| found < next) {
                next = Some(found);
            }
        }
        next.map(|(tag, share, _, kind)| (tag, share, kind))
    }

    /// Who is next: the share with the smallest tag, and of that the lane whose first job is first in ready order. Those
    /// without keys are one share.
    fn choose(&mut self, now: Timestamp, walk: &Walk<'_>) -> Option<Next> {
        let ready = self.next_ready(walk);
        let Some((tag, share, kind)) = self.next_head(now, walk) else {
            return ready.map(|(_, id)| Next::Ready(id));
        };
        if let Some((_, id)) = ready {
            let unkeyed = self.tag(now, FlowKey::NONE);
            if (unkeyed, FlowKey::NONE) < (tag, share) {
                self.flow.virtual_ms = self.flow.virtual_ms.max(unkeyed);
                return Some(Next::Ready(id));
            }
        }
        self.flow.virtual_ms = self.flow.virtual_ms.max(tag);
        let turn = self.flow.first_turn(Scope::free(kind), share);
        let turn = turn.expect("who stands there has a lane there");
        match ready.filter(|(first, _)| share.is_none() && *first <= turn.score) {
            Some((_, id)) => Some(Next::Ready(id)),
            None => Some(Next::Lane(turn)),
        }
    }

    /// Looks at a job that waits in no lane; whether the walk goes on.
    fn visit_ready(&mut self, now: Timestamp, id: JobId, walk: &mut Walk<'_>) -> bool {
        let entry = &self.entries[&id];
        if entry.expires_at.is_some_and(|at| at <= now) {
            walk.expired += 1;
            self.expire(now, id);
        } else if self.is_limited(&entry.kind) {
            let flow = Flow::of_kind(&entry.kind);
            self.unplace(now, id);
            self.entries.get_mut(&id).expect("it was looked at").flow = Some(flow);
            self.make_ready(now, id);
        } else if !walk.fits(&entry.kind) {
            walk.rank += 1;
            walk.passed = Some((entry.score, id));
        } else if let Permit::Until(until) = self.permit(now, Scope::QUEUE_RATE, 1) {
            walk.until = Some(until);
            return false;
        } else {
            self.spend(now, Scope::QUEUE_RATE, 1);
            let claimed = self.lease(now, id, walk.request);
            walk.jobs.push(claimed);
        }
        walk.looked += 1;
        true
    }

    /// Looks at the first job of a lane; whether the walk goes on.
    fn visit_lane(&mut self, now: Timestamp, turn: Turn, walk: &mut Walk<'_>) -> bool {
        let (score, id) = self.flow.first(turn.lane).expect("lanes that stand have jobs");
        let entry = &self.entries[&id];
        let flow = entry.flow.expect("what waits in a lane has a flow");
        let mut holds = None;
        if entry.expires_at.is_some_and(|at| at <= now) {
            walk.expired += 1;
            self.expire(now, id);
        } else if let Some((scope, permit)) = self.held_by(now, &flow) {
            self.block(now, scope, permit, &flow, score);
            holds = Some(scope);
        } else if let Permit::Until(until) = self.permit(now, Scope::QUEUE_RATE, flow.units) {
            walk.until = Some(until);
            return false;
        } else {
            for scope in Scope::of(&flow) {
                self.spend(now, scope, flow.units);
            }
            self.spend(now, Scope::QUEUE_RATE, flow.units);
            let claimed = self.lease(now, id, walk.request);
            walk.jobs.push(claimed);
        }
        self.pass_on(now, &flow, holds);
        walk.looked += 1;
        true
    }

    fn lease(&mut self, now: Timestamp, id: JobId, request: &ClaimRequest) -> Claimed {
        let Entry { attempt, crashes, claimed_at, .. } = self.entries[&id];
        if attempt == 0 && crashes == 0 && claimed_at.is_none() {
            self.credit_retries(now);
        }
        // First: whoever is woken by what follows sees that it runs.
        let flow = self.entries[&id].flow;
        let now_us = u64::try_from(now.micros()).unwrap_or(0);
        let fence = Fence(now_us.max(self.entries[&id].fence.0 + 1));
        self.start_flow(now, (id, fence), flow.as_ref());
        let probe = flow.is_some_and(|flow| self.is_probe(&flow, id, fence));
        self.unplace(now, id);
        let until_ms = until_ms(now, request.lease);
        let entry = self.entries.get_mut(&id).expect("ready jobs have entries");
        entry.fence = fence;
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
            probe,
            envelope: entry.envelope.clone(),
        }
    }

    fn expire(&mut self, now: Timestamp, id: JobId) {
        self.unplace(now, id);
        let entry = self.entries.get_mut(&id).expect("ready jobs have entries");
        entry.fence = Fence(entry.fence.0 + 1);
        entry.status = Status::Finishing;
        self.report(now, id, Ended::Expired, false, Bytes::new());
    }
}
