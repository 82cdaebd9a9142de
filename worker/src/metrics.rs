//! The worker's metrics. Handles are looked up once per queue and kind, not per job.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use metrics::{Counter, Histogram};
use windlass_shared::model::name::{Kind, QueueName};

/// How an attempt ended, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutcomeLabel {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Snoozed,
    Released,
}

impl OutcomeLabel {
    const ALL: [Self; 6] = [
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Snoozed,
        Self::Released,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Snoozed => "snoozed",
            Self::Released => "released",
        }
    }
}

/// Handles for one queue and kind.
pub(crate) struct AttemptMetrics {
    outcomes: [Counter; 6],
    seconds: Histogram,
}

impl AttemptMetrics {
    fn new(queue: &QueueName, kind: &Kind) -> Self {
        let (queue, kind) = (queue.to_string(), kind.to_string());
        let counter = |outcome: OutcomeLabel| {
            metrics::counter!(
                "windlass_attempts_total",
                "queue" => queue.clone(), "kind" => kind.clone(), "outcome" => outcome.as_str()
            )
        };
        let outcomes = OutcomeLabel::ALL.map(counter);
        let seconds =
            metrics::histogram!("windlass_attempt_seconds", "queue" => queue, "kind" => kind);
        Self { outcomes, seconds }
    }

    pub(crate) fn ended(&self, outcome: OutcomeLabel, ran: Duration) {
        self.outcomes[outcome as usize].increment(1);
        self.seconds.record(ran);
    }
}

/// The handles by queue and kind. Bounded: by the worker's queues times its registered kinds.
#[derive(Default)]
pub(crate) struct MetricsByKind {
    known: RwLock<HashMap<QueueName, HashMap<Kind, Arc<AttemptMetrics>>>>,
}

impl MetricsByKind {
    pub(crate) fn get(&self, queue: &QueueName, kind: &Kind) -> Arc<AttemptMetrics> {
        let known = self.known.read().expect("nobody panics while holding the handles");
        if let Some(handles) = known.get(queue).and_then(|kinds| kinds.get(kind)) {
            return Arc::clone(handles);
        }
        drop(known);
        let mut known = self.known.write().expect("nobody panics while holding the handles");
        let kinds = known.entry(queue.clone()).or_default();
        let handles =
            kinds.entry(kind.clone()).or_insert_with(|| AttemptMetrics::new(queue, kind).into());
        Arc::clone(handles)
    }
}

/// Gives the metrics their help texts. Repeating it does no harm.
pub(crate) fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("windlass_worker_claims_total", "Claim calls by result");
    describe_counter!("windlass_attempts_total", "Attempts ended, by queue, kind and outcome");
    describe_counter!("windlass_settles_total", "Settles by the engine's reply");
    describe_counter!("windlass_lease_lost_total", "Leases that had passed on or were unknown");
    describe_counter!(
        "windlass_adoptions_total",
        "Leases that were put back into an engine that may have lost them, by its reply"
    );
    describe_counter!(
        "windlass_direct_outcomes_total",
        "Outcomes sent to the ledger past the engine, by what became of them"
    );
    describe_gauge!(
        "windlass_worker_ring_settles",
        "Settles that are kept because they are not known to be recorded"
    );
    describe_counter!(
        "windlass_worker_log_lines_dropped_total",
        "Log lines of jobs that were dropped"
    );
    describe_gauge!("windlass_worker_slots", "Slots of this worker, free and busy");
    describe_histogram!("windlass_attempt_seconds", "Time from start to end of a handler");
    describe_histogram!("windlass_claim_seconds", "Time of a claim call");
}
