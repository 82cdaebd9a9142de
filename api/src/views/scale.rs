//! How many workers a queue needs, as callers see it.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::ledger::WorkerBeat;
use windlass_shared::model::name::QueueName;
use windlass_shared::model::scale::{Need, Objective, Seen};
use windlass_shared::model::time::{Span, Timestamp};

/// Slots of a worker, where none is there to say.
const SLOTS_DEFAULT: u32 = 16;
/// Most workers named for scale-in.
const DRAIN_MAX: usize = 1_000;

/// How many workers a queue needs. Autoscalers read `replicas`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Scale)]
pub struct ScaleView {
    namespace: String,
    queue: String,
    /// Workers that 95 % of jobs need to start within the objective; at least one while work waits or runs.
    replicas: u64,
    /// Slots that they need.
    slots_needed: u64,
    /// `measured`, or `default`: too few attempts have ended within the last hour to know the time of one.
    basis: &'static str,
    #[schema(value_type = String)]
    objective: Span,
    /// Attempts per second.
    arrival_rate: f64,
    /// Mean time of an attempt, in seconds.
    service_time_mean: f64,
    /// How much burstier than chance the ends of the last hour were; 1 is as chance is.
    peakedness: f64,
    /// Jobs that may start and wait, as the queue store has them.
    backlog: u64,
    running: u64,
    /// It starts nothing, and needs no more than what it runs.
    paused: bool,
    /// Workers that claim from the queue and are not draining.
    workers: u64,
    /// Slots of one of them, in the mean; what `slots_per_worker` says, or 16, where there is none.
    slots_per_worker: f64,
    /// Workers in the order in which they are best stopped: those that drain, then those with the least running work,
    /// the youngest first.
    #[schema(value_type = Vec<String>)]
    drain_order: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// Whose need it is.
pub struct Of<'a> {
    pub namespace: &'a str,
    pub queue: &'a QueueName,
    pub at: Timestamp,
    /// Given for where no worker is there.
    pub slots: Option<u32>,
}

impl ScaleView {
    /// Puts the parts together.
    pub fn new(
        of: &Of<'_>,
        need: Need,
        seen: &Seen,
        objective: Objective,
        mut workers: Vec<WorkerBeat>,
    ) -> Self {
        workers.retain(|worker| worker.queues.iter().any(|queue| queue == of.queue.as_str()));
        let staying: Vec<&WorkerBeat> = workers.iter().filter(|worker| !worker.draining).collect();
        let slots: u64 = staying.iter().map(|worker| u64::from(worker.concurrency)).sum();
        let slots_per_worker = match slots {
            0 => f64::from(of.slots.unwrap_or(SLOTS_DEFAULT)),
            slots => slots as f64 / staying.len() as f64,
        };
        let staying = staying.len() as u64;
        workers.sort_by_key(|worker| {
            (!worker.draining, worker.running, std::cmp::Reverse(worker.started_at), worker.id)
        });
        Self {
            namespace: of.namespace.to_owned(),
            queue: of.queue.to_string(),
            replicas: (need.slots as f64 / slots_per_worker).ceil() as u64,
            slots_needed: need.slots,
            basis: need.basis.as_str(),
            objective: Span(objective.start_within),
            arrival_rate: need.arrival_rate,
            service_time_mean: need.service.as_secs_f64(),
            peakedness: need.peakedness,
            backlog: seen.waiting,
            running: seen.running,
            paused: seen.paused,
            workers: staying,
            slots_per_worker,
            drain_order: workers.iter().take(DRAIN_MAX).map(|w| w.id.to_string()).collect(),
            at: of.at,
        }
    }
}
