//! What a look of overwatch came to, as the ledger keeps it for those who ask.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::{Namespace, QueueName};

/// Most queues, and most namespaces, that a summary tells apart.
pub const SUMMARY_ROWS_MAX: usize = 100;

/// Sums over jobs that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Jobs that ended.
    pub ended: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that are dead or quarantined.
    pub dead: u64,
    /// Attempts that ended.
    pub attempts: u64,
    /// Those whose lease was lost.
    pub lost: u64,
    /// Run time of all attempts, in ms.
    pub run_ms: u64,
    /// From being due to the last claim, in ms.
    pub wait_ms: u64,
    /// From acceptance to the end, in ms.
    pub total_ms: u64,
}

impl Sums {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.ended += other.ended;
        self.succeeded += other.succeeded;
        self.dead += other.dead;
        self.attempts += other.attempts;
        self.lost += other.lost;
        self.run_ms += other.run_ms;
        self.wait_ms += other.wait_ms;
        self.total_ms += other.total_ms;
    }

    /// Share of ended jobs that succeeded, cancelled and expired ones left out; `None`: none ended.
    pub fn success_rate(&self) -> Option<f64> {
        let judged = self.succeeded + self.dead;
        (judged > 0).then(|| self.succeeded as f64 / judged as f64)
    }
}

/// Sums over a stretch of time up to the look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// How long, in hours.
    pub hours: u32,
    /// All together.
    pub overall: Sums,
    /// By namespace, busiest first; at most [`SUMMARY_ROWS_MAX`].
    pub namespaces: Vec<(Namespace, Sums)>,
    /// By queue, busiest first; at most [`SUMMARY_ROWS_MAX`].
    pub queues: Vec<(Namespace, QueueName, Sums)>,
}

/// Looks that may fall out before what they wrote counts as old.
const LOOKS_MISSED_MAX: u32 = 4;
/// What is not older than this is never old: a change of leader takes a term.
const FRESH: Duration = Duration::from_secs(30);

/// What a look came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How often the leader looks, in ms.
    #[serde(default)]
    pub every_ms: u64,
    /// How long the look took, in ms.
    pub took_ms: u64,
    /// Queues on record that were looked at.
    pub queues_judged: u64,
    /// Queues on record that could not be.
    pub queues_unjudged: u64,
    /// Workers heard of within a minute.
    pub workers: u64,
    /// The ledger's answer took, in microseconds.
    pub ledger_us: u64,
    /// The engine's; `None`: it did not answer.
    pub engine_us: Option<u64>,
    /// Over an hour, and over a day.
    pub windows: Vec<Window>,
}

impl Summary {
    /// As a look has written it; nothing where a newer build wrote it in another form.
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// When the look is older than this, nobody looks any more.
    pub fn fresh_for(&self) -> Duration {
        FRESH.max(Duration::from_millis(self.every_ms).saturating_mul(LOOKS_MISSED_MAX))
    }
}
