//! A shard's whole state in one canonical, comparable value.

use std::collections::BTreeMap;

use super::*;

/// Everything that a shard knows at one instant. Two shards with equal dumps answer alike for ever.
///
/// The Redis engine builds the same value from its keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShardDump {
    /// None until it was shut for the first time.
    pub gate: Option<GateState>,
    /// Since the gate was shut, ascending.
    pub reported: Vec<WorkerId>,
    /// In order.
    pub present: Vec<WorkerId>,
    /// The last sign of life while leases were held.
    pub seen: Timestamp,
    /// Nothing is reaped before.
    pub no_reap_until: Timestamp,
    /// None until configured.
    pub settings: Option<ShardSettings>,
    /// By id.
    pub entries: BTreeMap<JobId, Entry>,
    /// (score, id), ascending.
    pub ready: Vec<(i64, JobId)>,
    /// (due ms, id), ascending; those behind 2^50 ms later.
    pub delayed: Vec<(i64, JobId)>,
    /// (until ms, id), ascending.
    pub leases: Vec<(i64, JobId)>,
    /// (claimed at, id), ascending.
    pub claims: Vec<(Timestamp, JobId)>,
    /// By `seq`.
    pub outbox: Vec<Outcome>,
    /// The last `seq` ever given; 0 before the first.
    pub last_seq: u64,
    /// Of the last outcome confirmed; 0 before the first.
    pub recorded_seq: u64,
    /// Σ detail length + [`OUTCOME_BYTES`] over the outbox.
    pub outbox_bytes: u64,
    /// Σ envelope lengths + `outbox_bytes`.
    pub bytes: u64,
    /// (window, id, tombstone) of those that stand, ascending. An id may be in both windows.
    pub tombstones: Vec<(i64, JobId, Tombstone)>,
    /// Lanes, limits and shares.
    pub flow: FlowState,
    /// Groups that were refused room, and when, in µs.
    pub refused: Due<Group>,
}

impl Shard {
    /// The whole state as it stands at `now`.
    pub fn dump(&self, now: Timestamp) -> ShardDump {
        ShardDump {
            gate: self.gate,
            reported: self.reported.iter().copied().collect(),
            present: self.present.iter().copied().collect(),
            seen: self.seen,
            no_reap_until: self.no_reap_until,
            settings: self.settings.clone(),
            entries: self.entries.iter().map(|(id, entry)| (*id, entry.clone())).collect(),
            ready: self.ready.iter().copied().collect(),
            delayed: self.delayed.iter().copied().collect(),
            leases: self.leases.iter().copied().collect(),
            claims: self.claims.iter().copied().collect(),
            outbox: self.outbox.iter().cloned().collect(),
            last_seq: self.outbox.last_seq(),
            recorded_seq: self.outbox.recorded_seq(),
            outbox_bytes: self.outbox.bytes(),
            bytes: self.bytes(),
            tombstones: self.tombstones.list(now),
            flow: self.flow.clone(),
            refused: self.refused.clone(),
        }
    }
}
