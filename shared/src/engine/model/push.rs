//! push.

use super::*;

impl Shard {
    /// Makes jobs claimable; see the module's rules.
    pub fn push(&mut self, now: Timestamp, jobs: &[Push], valid: &Validity) -> PushReply {
        if self.gate.is_some_and(|state| state.gate.ledger != valid.ledger) {
            let pushed = vec![Pushed::Late; jobs.len()];
            return PushReply { pushed, open: false, generation: 0, now };
        }
        let is_older = self.generation() > valid.generation.max(1);
        let pushed = if now > valid.not_after || is_older {
            vec![Pushed::Late; jobs.len()]
        } else {
            self.tombstones.turn(now);
            jobs.iter().map(|job| self.push_one(now, job, valid.origin)).collect()
        };
        let open = self.gate.is_some_and(|state| state.gate.process.is_some());
        let generation = self.generation();
        PushReply { pushed, open, generation, now }
    }

    fn push_one(&mut self, now: Timestamp, job: &Push, origin: PushOrigin) -> Pushed {
        let present = self.entries.get(&job.id);
        if present.is_some_and(|entry| entry.fence >= job.fence) {
            return Pushed::Present;
        }
        if self.tombstones.standing(job.id).is_some_and(|tomb| tomb.bars(job)) {
            return Pushed::Present;
        }
        let replaced_bytes = present.map(|entry| entry.envelope.len() as u64);
        if let Some(refusal) = self.refusal(now, job, origin, replaced_bytes) {
            if job.run_at <= now {
                self.refuse(now, Group::of(job.flow.as_ref()));
            }
            return refusal;
        }
        if replaced_bytes.is_some() {
            self.unplace(now, job.id);
            self.forget(job.id);
        }
        self.tombstones.remove(job.id);
        self.envelope_bytes += job.envelope.len() as u64;
        let score = self.score(job.run_at, job.priority);
        let entry = self.fresh(job, score);
        let flow = entry.flow;
        self.entries.insert(job.id, entry);
        self.place(now, job.id);
        let waits_in_lane = self.entries[&job.id].status == Status::Ready;
        if let (Some(flow), Some(_), true) = (flow, replaced_bytes, waits_in_lane) {
            self.mend_lane(now, &flow);
        }
        Pushed::Added
    }

    /// `None`: there is room.
    fn refusal(
        &self,
        now: Timestamp,
        job: &Push,
        origin: PushOrigin,
        replaced_bytes: Option<u64>,
    ) -> Option<Pushed> {
        let default = ShardSettings::default();
        let ShardSettings { jobs_max, bytes_max, .. } = self.settings.as_ref().unwrap_or(&default);
        let bytes = self.bytes() - replaced_bytes.unwrap_or(0) + job.envelope.len() as u64;
        if bytes > *bytes_max {
            return Some(Pushed::Full);
        }
        if replaced_bytes.is_some() {
            return None;
        }
        // Those that wait for their time, retries above all, must not keep out what could run now. What is
        // pushed ahead of its time has a bound of its own.
        if job.run_at > now {
            return (self.delayed.len() as u64 >= *jobs_max).then_some(Pushed::Full);
        }
        self.is_crowded(Group::of(job.flow.as_ref()), origin).then_some(Pushed::Crowded)
    }

    /// The entry of a job as it was pushed.
    pub(super) fn fresh(&self, job: &Push, score: i64) -> Entry {
        let of_kind = || self.is_limited(&job.kind).then(|| Flow::of_kind(&job.kind));
        Entry {
            status: Status::Ready,
            cancel: false,
            priority: job.priority,
            attempt: job.attempt,
            crashes: job.crashes,
            max_crashes: job.max_crashes,
            fence: job.fence,
            lease_id: None,
            worker: None,
            claimed_at: None,
            run_at: job.run_at,
            is_behind: false,
            expires_at: job.expires_at,
            score,
            kind: job.kind.clone(),
            flow: job.flow.or_else(of_kind),
            envelope: job.envelope.clone(),
        }
    }
}
