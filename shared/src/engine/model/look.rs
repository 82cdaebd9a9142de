//! exists, peek, leased and stats: verbs that change nothing.

use std::ops::Bound;

use crate::engine::flow::FlowSettings;

use super::*;

impl Shard {
    /// Which of these jobs are entries or standing tombstones.
    pub fn exists(&mut self, now: Timestamp, ids: &[JobId]) -> Vec<bool> {
        self.tombstones.turn(now);
        let known =
            |id: &JobId| self.entries.contains_key(id) || self.tombstones.standing(*id).is_some();
        ids.iter().map(known).collect()
    }

    /// One job's live state. The rank of a ready job costs a walk over those before it.
    pub fn peek(&self, id: JobId) -> Option<Live> {
        let entry = self.entries.get(&id)?;
        let state = match entry.status {
            Status::Ready => LiveState::Ready { ahead: self.ahead(entry, id) },
            Status::Delayed => LiveState::Delayed,
            Status::Leased { until_ms } => LiveState::Leased {
                worker: entry.worker.expect("a leased entry has a worker"),
                claimed_at: entry.claimed_at.expect("a leased entry was claimed"),
                expires_at: Timestamp::from_millis(until_ms),
                cancel: entry.cancel,
            },
            Status::Finishing => LiveState::Finishing,
        };
        Some(Live {
            state,
            fence: entry.fence,
            attempt: entry.attempt,
            crashes: entry.crashes,
            run_at: entry.run_at,
        })
    }

    /// How many are before a ready job: in its lane, if it is in one.
    fn ahead(&self, entry: &Entry, id: JobId) -> u64 {
        let before = match entry.flow {
            Some(flow) => self.flow.ahead(flow.lane, (entry.score, id)),
            None => self.ready.range(..(entry.score, id)).count(),
        };
        before as u64
    }

    /// Leases by (`claimed_at`, id), after `after` and up to `claimed_by`.
    pub fn leased(
        &self,
        after: Option<(Timestamp, JobId)>,
        claimed_by: Timestamp,
        max: u32,
    ) -> Vec<Running> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.claims
            .range((from, Bound::Unbounded))
            .take_while(|(claimed_at, _)| *claimed_at <= claimed_by)
            .take(max as usize)
            .map(|(claimed_at, id)| {
                let entry = &self.entries[id];
                Running {
                    id: *id,
                    fence: entry.fence,
                    attempt: entry.attempt,
                    worker: entry.worker.expect("a leased entry has a worker"),
                    claimed_at: *claimed_at,
                }
            })
            .collect()
    }

    /// Since when the first of the ready and the lane that is next for the first kind wait, whichever is longer.
    fn oldest_ready(&self) -> Option<Timestamp> {
        let ready = self.ready.first().map(|(_, id)| *id);
        let lane = self.flow.next_lane().and_then(|lane| self.flow.first(lane)).map(|(_, id)| id);
        ready.into_iter().chain(lane).map(|id| self.entries[&id].run_at).min()
    }

    /// Counts of the shard.
    pub fn stats(&self, now: Timestamp) -> ShardStats {
        ShardStats {
            ready: self.ready.len() as u64 + self.flow.waiting(),
            delayed: self.delayed.len() as u64,
            leased: self.leases.len() as u64,
            outbox: self.outbox.len(),
            bytes: self.bytes(),
            refused: self.refused.len() as u64,
            oldest_ready: self.oldest_ready(),
            settings: self.settings.as_ref().map(without_kinds),
            open: self.is_verified(),
            now,
        }
    }
}

/// Settings as they are told in constant time.
fn without_kinds(settings: &ShardSettings) -> ShardSettings {
    let flow = FlowSettings {
        queue: settings.flow.queue,
        keys: settings.flow.keys,
        retries: settings.flow.retries,
        ..FlowSettings::default()
    };
    ShardSettings { flow, ..*settings }
}
