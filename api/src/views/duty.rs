//! What schedulers do by themselves, as callers see it.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::ledger::Leader;
use windlass_shared::ledger::duties::{DutyRow, is_late};
use windlass_shared::model::time::{Span, Timestamp};

/// Duties and who leads.
#[derive(Debug, Serialize, ToSchema)]
pub struct Duties {
    /// By name.
    pub items: Vec<DutyView>,
    /// The scheduler that leads; `null`: none does now.
    #[schema(required = true)]
    pub leader: Option<LeaderView>,
    /// The ledger's time.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
}

/// The scheduler that leads.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Leader)]
pub struct LeaderView {
    /// The process, as in `replicas`.
    #[schema(format = Uuid)]
    replica: String,
    /// Its label.
    name: String,
    /// Rises with every turn of anybody.
    epoch: u64,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

impl LeaderView {
    /// Of a leader whose term runs.
    pub fn of(leader: Leader, now: Timestamp) -> Option<Self> {
        (leader.expires_at > now).then(|| Self {
            replica: leader.holder.to_string(),
            name: leader.name,
            epoch: leader.epoch.0,
            expires_at: leader.expires_at,
        })
    }
}

/// What schedulers do by themselves.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Duty)]
pub struct DutyView {
    name: String,
    description: String,
    /// `every` scheduler; `by_shard`: every one, each its own shards first; `leader`: the one that leads.
    who: &'static str,
    /// Time from one pass to the next.
    #[schema(value_type = String)]
    interval: Span,
    /// Most things of one step.
    batch: u32,
    /// A pass that takes longer is given up.
    #[schema(value_type = String)]
    longest: Span,
    /// No pass has ended for three intervals and the longest time of one.
    late: bool,
    /// Of each scheduler; those that are gone stay for ten minutes.
    replicas: Vec<DutyReplica>,
}

/// How a duty goes in one scheduler.
#[derive(Debug, Serialize, ToSchema)]
pub struct DutyReplica {
    /// The process, by an id drawn at its start.
    #[schema(format = Uuid)]
    replica: String,
    /// Its label.
    name: String,
    /// How the latest pass ended: `ok`, `failed`, `given_up`, `never`, or `standby`: this one does not lead.
    outcome: &'static str,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    ended_at: Option<Timestamp>,
    /// How long the latest pass took.
    took_ms: f64,
    /// How many things it did.
    done: u64,
    /// Passes since the start of the process.
    passes: u64,
    /// Passes that failed since the latest that did not.
    failures: u64,
    /// Why the latest failed.
    #[schema(required = true)]
    error: Option<String>,
    /// In whose turn, of the leader.
    #[schema(required = true)]
    epoch: Option<u64>,
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    seen_at: Timestamp,
}

impl DutyView {
    /// Of rows in the order of their duties.
    pub fn all(rows: &[DutyRow], now: Timestamp) -> Vec<Self> {
        let same = |a: &DutyRow, b: &DutyRow| a.declared.duty == b.declared.duty;
        rows.chunk_by(same).map(|rows| Self::of(rows, now)).collect()
    }

    fn of(rows: &[DutyRow], now: Timestamp) -> Self {
        // Builds may differ while they are rolled out: what the latest says holds.
        let latest = rows.iter().max_by_key(|row| row.seen_at).expect("a chunk has a row");
        let declared = &latest.declared;
        Self {
            name: declared.duty.clone(),
            description: declared.what.clone(),
            who: declared.who.as_str(),
            interval: Span(declared.interval),
            batch: declared.batch,
            longest: Span(declared.longest),
            late: is_late(rows, now),
            replicas: rows.iter().map(DutyReplica::of).collect(),
        }
    }
}

impl DutyReplica {
    fn of(row: &DutyRow) -> Self {
        Self {
            replica: row.replica.to_string(),
            name: row.name.clone(),
            outcome: row.outcome.as_str(),
            started_at: row.started_at,
            ended_at: row.ended_at,
            took_ms: row.took.as_secs_f64() * 1_000.0,
            done: row.done,
            passes: row.ticks,
            failures: row.failures,
            error: row.error.clone(),
            epoch: row.epoch.map(|epoch| epoch.0),
            seen_at: row.seen_at,
        }
    }
}
