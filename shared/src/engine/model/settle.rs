//! extend and settle: what the holder of a lease does with it.

use super::*;
use crate::engine::flow::Dependency;

impl Shard {
    /// Moves the end of leases; see the module's rules.
    pub fn extend(&mut self, now: Timestamp, held: &[Held], lease: Duration) -> ExtendReply {
        let until_ms = until_ms(now, lease);
        let leases: Vec<Extended> =
            held.iter().map(|held| self.extend_one(held, until_ms)).collect();
        if leases.iter().any(|lease| matches!(lease, Extended::Held { .. })) {
            self.note_seen(now);
        }
        ExtendReply { leases, position: self.position() }
    }

    pub(super) fn extend_one(&mut self, held: &Held, wanted_ms: i64) -> Extended {
        let Some(entry) = self.entries.get_mut(&held.id) else { return Extended::Gone };
        let Status::Leased { until_ms } = entry.status else { return Extended::Gone };
        if entry.fence < held.fence {
            return Extended::Gone;
        }
        if entry.fence != held.fence || entry.lease_id != Some(held.lease_id) {
            return Extended::Stolen;
        }
        let new_ms = until_ms.max(wanted_ms);
        if new_ms > until_ms {
            entry.status = Status::Leased { until_ms: new_ms };
            self.leases.remove(&(until_ms, held.id));
            self.leases.insert((new_ms, held.id));
        }
        Extended::Held { expires_at: Timestamp::from_millis(new_ms), cancel: entry.cancel }
    }

    /// Ends attempts; see the module's rules.
    pub fn settle(&mut self, now: Timestamp, settles: &[Settle]) -> SettleReply {
        let settles = settles.iter().map(|settle| self.settle_one(now, settle)).collect();
        SettleReply { settles, position: self.position() }
    }

    fn settle_one(&mut self, now: Timestamp, settle: &Settle) -> Settled {
        let held = &settle.held;
        let Some(entry) = self.entries.get(&held.id) else { return Settled::Gone };
        if entry.fence < held.fence {
            return Settled::Gone;
        }
        if entry.fence > held.fence {
            return Settled::Stolen;
        }
        match entry.lease_id {
            None => return Settled::Gone,
            Some(token) if token != held.lease_id => return Settled::Stolen,
            Some(_) => {}
        }
        if !matches!(entry.status, Status::Leased { .. }) {
            return Settled::Repeated;
        }
        let verdict = if entry.cancel { stopped(settle.verdict) } else { settle.verdict };
        let verdict = self.note_call(now, settle, verdict);
        self.end_attempt(now, held.id, verdict, &settle.detail);
        Settled::Settled
    }

    /// Tells the job's circuit; what the verdict becomes. A probe that finds its dependency still failing is none of the
    /// job's attempts.
    fn note_call(&mut self, now: Timestamp, settle: &Settle, verdict: Verdict) -> Verdict {
        let entry = &self.entries[&settle.held.id];
        let (Some(flow), is_stopped) = (entry.flow, entry.cancel) else { return verdict };
        let lease = (settle.held.id, settle.held.fence);
        let is_spared = self.is_spared(now, &flow, lease) && !is_stopped;
        self.note_dependency(now, &flow, lease, settle.dependency);
        match (verdict, settle.dependency) {
            (Verdict::Retry { delay }, Some(Dependency::Failed | Dependency::Exhausted))
                if is_spared =>
            {
                Verdict::Snooze { delay }
            }
            (Verdict::Dead, Some(Dependency::Exhausted)) if is_spared => {
                Verdict::Snooze { delay: Duration::ZERO }
            }
            (verdict, _) => verdict,
        }
    }

    fn end_attempt(&mut self, now: Timestamp, id: JobId, verdict: Verdict, detail: &Bytes) {
        self.unplace(now, id);
        let ended = match verdict {
            Verdict::Succeeded => self.finish(id, 1, Ended::Succeeded),
            Verdict::Dead => self.finish(id, 1, Ended::Dead),
            Verdict::Cancelled => self.finish(id, 0, Ended::Cancelled),
            Verdict::Retry { delay } => {
                let entry = self.entries.get_mut(&id).expect("leased jobs have entries");
                entry.attempt = entry.attempt.saturating_add(1);
                Ended::Retry(self.postpone(now, id, now.plus(delay), delay.is_zero()))
            }
            Verdict::Snooze { delay } => {
                Ended::Snoozed(self.postpone(now, id, now.plus(delay), false))
            }
            Verdict::Release => {
                self.make_ready(now, id);
                Ended::Released
            }
        };
        self.report(now, id, ended, true, detail.clone());
    }

    /// Counts `attempts` and leaves the entry to wait for its confirmation.
    fn finish(&mut self, id: JobId, attempts: u32, ended: Ended) -> Ended {
        let entry = self.entries.get_mut(&id).expect("leased jobs have entries");
        entry.attempt = entry.attempt.saturating_add(attempts);
        entry.status = Status::Finishing;
        ended
    }

    /// Lets the job run again from then on; `at_once`: it is a retry without a delay.
    fn postpone(
        &mut self,
        now: Timestamp,
        id: JobId,
        run_at: Timestamp,
        at_once: bool,
    ) -> Timestamp {
        let score = self.score(run_at, self.entries[&id].priority);
        let entry = self.entries.get_mut(&id).expect("leased jobs have entries");
        entry.run_at = run_at;
        entry.score = score;
        if !(at_once && self.put_behind(now, id, true)) {
            self.place(now, id);
        }
        run_at
    }
}

/// What a verdict becomes when somebody asked to stop the job: it does not start again.
fn stopped(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Retry { .. } | Verdict::Snooze { .. } | Verdict::Release => Verdict::Cancelled,
        Verdict::Succeeded | Verdict::Dead | Verdict::Cancelled => verdict,
    }
}
