//! What a shard keeps of one job.

use super::*;

/// Which order a job is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Claimable.
    Ready,
    /// Waits for its time.
    Delayed,
    /// Somebody runs it.
    Leased {
        /// Reaped when engine time in ms is past this.
        until_ms: i64,
    },
    /// Ended; its terminal outcome is in the outbox.
    Finishing,
}

/// One job in the shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Which order it is in.
    pub status: Status,
    /// Somebody asked to stop it. Set only while leased; stays as it was when the lease ended it.
    pub cancel: bool,
    /// As pushed.
    pub priority: Priority,
    /// Attempts that counted.
    pub attempt: u32,
    /// Leases lost.
    pub crashes: u32,
    /// As pushed.
    pub max_crashes: u32,
    /// Of the last lease, or as pushed; one more than that when expired.
    pub fence: Fence,
    /// Of the last lease; none since the push, or after it was reaped.
    pub lease_id: Option<LeaseId>,
    /// Of the last lease since the push.
    pub worker: Option<WorkerId>,
    /// Of the last lease since the push.
    pub claimed_at: Option<Timestamp>,
    /// Not before; exact.
    pub run_at: Timestamp,
    /// Delayed: a retry that is due and waits for the queue's budget.
    pub is_behind: bool,
    /// As pushed.
    pub expires_at: Option<Timestamp>,
    /// Its place in `ready`, there or to come.
    pub score: i64,
    /// As pushed.
    pub kind: Kind,
    /// What its start is held to; of a job without keys when its kind is, or was, limited.
    pub flow: Option<Flow>,
    /// As pushed.
    pub envelope: Bytes,
}
