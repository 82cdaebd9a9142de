//! Queues as callers see them.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::engine::ShardStats;
use windlass_shared::ledger::{Paused, Queue, QueueSettings, Rollup};
use windlass_shared::model::time::Timestamp;

/// A queue.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Queue)]
pub struct QueueView {
    name: String,
    namespace: String,
    paused: bool,
    /// Who paused it, when and why.
    #[schema(value_type = Option<PausedDocs>, required = true)]
    pause: Option<Paused>,
    /// `null` while the queue store does not answer.
    #[schema(required = true)]
    depth: Option<Depth>,
    /// When the job that waits longest became ready.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    oldest_ready_at: Option<Timestamp>,
    /// Ends of attempts per second over the last five minutes.
    rates: Rates,
    /// What an operator has set; absent settings have their defaults.
    #[schema(value_type = Object)]
    settings: QueueSettings,
    /// Rises with every change of settings or pause.
    version: u64,
    /// Whether the queue store knows of the latest change. `false`: it will, as soon as it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    applied: Option<bool>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// An operator's pause.
#[derive(Serialize, ToSchema)]
#[schema(as = Pause)]
pub struct PausedDocs {
    #[schema(format = DateTime)]
    since: String,
    /// A key's name, or `local`.
    by: String,
    reason: Option<String>,
}

/// Jobs of a queue by what they are doing, as the queue store has them. Jobs beyond its head, and jobs
/// scheduled far ahead, wait in the ledger and are not counted here.
#[derive(Debug, Serialize, ToSchema)]
pub struct Depth {
    ready: u64,
    /// Scheduled or retrying.
    delayed: u64,
    running: u64,
    /// Ended, and not yet recorded.
    finishing: u64,
}

/// Ends of attempts per second.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Rates {
    succeeded: f64,
    /// Failed, timed out or lost.
    failed: f64,
    /// Mean run time of an attempt, in milliseconds.
    run_ms_mean: f64,
}

/// The past that rates are made from, in seconds.
pub const RATE_WINDOW_SECS: u64 = 300;

impl QueueView {
    /// Puts the parts together.
    pub fn new(
        queue: Queue,
        stats: Option<ShardStats>,
        rollups: &[Rollup],
        applied: Option<bool>,
    ) -> Self {
        let rates = rates(&queue, rollups);
        Self {
            name: queue.name.to_string(),
            namespace: queue.namespace.to_string(),
            paused: queue.paused.is_some(),
            pause: queue.paused,
            oldest_ready_at: stats.as_ref().and_then(|stats| stats.oldest_ready),
            depth: stats.map(|stats| Depth {
                ready: stats.ready,
                delayed: stats.delayed,
                running: stats.leased,
                finishing: stats.outbox,
            }),
            rates,
            settings: queue.settings,
            version: queue.version,
            applied,
            created_at: queue.created_at,
        }
    }
}

fn rates(queue: &Queue, rollups: &[Rollup]) -> Rates {
    let (mut succeeded, mut failed, mut run_ms) = (0, 0, 0);
    for rollup in rollups.iter().filter(|rollup| rollup.queue == queue.name) {
        match rollup.outcome.as_str() {
            "succeeded" => succeeded += rollup.count,
            "failed" | "timed_out" | "lease_lost" => failed += rollup.count,
            _ => continue,
        }
        run_ms += rollup.run_ms;
    }
    let per_second = |n: u64| n as f64 / RATE_WINDOW_SECS as f64;
    let ended = succeeded + failed;
    Rates {
        succeeded: per_second(succeeded),
        failed: per_second(failed),
        run_ms_mean: if ended == 0 { 0.0 } else { run_ms as f64 / ended as f64 },
    }
}
