//! holds: which limits hold a job back.

use super::flow::Permit;
use super::*;

impl Shard {
    /// The limits that have no permit for a waiting job now, from the queue's to its keys'; `None`: it does not wait here.
    pub fn holds(&self, now: Timestamp, id: JobId) -> Option<Vec<Hold>> {
        let entry = self.entries.get(&id)?;
        if !matches!(entry.status, Status::Ready | Status::Delayed) {
            return None;
        }
        let mut holds = Vec::new();
        let queue = self.settings.as_ref().and_then(|settings| settings.flow.queue.concurrency);
        let running = self.leases.len() as u64;
        if let Some(most) = queue.filter(|most| running >= u64::from(*most)) {
            let by = self.leases.iter().map(|(_, id)| *id).take(HOLDERS_MAX).collect();
            let limit = Limit::QueueConcurrency;
            holds.push(Hold { limit, most: Some(most), running, by, until: None });
        }
        let of_kind = || self.is_limited(&entry.kind).then(|| Flow::of_kind(&entry.kind));
        let flow = entry.flow.or_else(of_kind);
        let units = flow.map_or(1, |flow| flow.units);
        let scopes = flow.iter().flat_map(Scope::of);
        for scope in std::iter::once(Scope::QUEUE_RATE).chain(scopes) {
            holds.extend(self.hold(now, scope, units));
        }
        Some(holds)
    }

    fn hold(&self, now: Timestamp, scope: Scope, units: u32) -> Option<Hold> {
        let limit = scope.limit();
        match self.permit(now, scope, units) {
            Permit::Free => None,
            Permit::Until(until) => {
                let until = Some(Timestamp::from_micros(until));
                Some(Hold { limit, most: None, running: 0, by: Vec::new(), until })
            }
            Permit::Full => {
                let ids = self.flow.running.get(&scope);
                let by = ids.into_iter().flatten().copied().take(HOLDERS_MAX).collect();
                let running = ids.map_or(0, |ids| ids.len() as u64);
                Some(Hold { limit, most: self.most(scope), running, by, until: None })
            }
        }
    }
}
