//! Queue depth and age as metrics, for the first [`QUEUES_MAX`] queues by name, and the latest load check.

use std::time::Duration;

use windlass_shared::engine::model::CircuitState;
use windlass_shared::engine::{EngineError, ShardId};
use windlass_shared::ledger::duties::Who;
use windlass_shared::ledger::upkeep::Upkeep;
use windlass_shared::ledger::{LedgerError, Queue};
use windlass_shared::lifecycle::Lifecycle;

use super::Tally;
use crate::board::Duty;
use crate::ticker::{Ticks, every};

const INTERVAL: Duration = Duration::from_secs(5);
/// A bound on label values: a metric per queue is only useful while there are few.
const QUEUES_MAX: u32 = 200;

pub(super) static DUTY: Duty = Duty {
    name: "gauges",
    what: "tells depth and age of queues as metrics",
    interval: INTERVAL,
    batch: QUEUES_MAX,
    longest: Duration::from_secs(60),
    who: Who::Every,
};

pub(super) async fn run(life: Lifecycle, ticks: Ticks) {
    every(&DUTY, &ticks, || tick(&life)).await;
}

async fn tick(life: &Lifecycle) -> anyhow::Result<u64> {
    let mut shown = Tally::default();
    for queue in life.ledger().queue_page(None, None, QUEUES_MAX).await?.queues {
        // Each check would leave its labels behind for ever.
        if !queue.namespace.is_shadow() {
            shown.add(show(life, queue).await);
        }
    }
    shown.add(super::shadows::show(life).await.map(|()| 0));
    shown.add(show_upkeep(life).await.map(|()| 0));
    shown.end().map(|_| 0)
}

async fn show_upkeep(life: &Lifecycle) -> Result<(), LedgerError> {
    let (last, now) = (life.ledger().last_upkeep().await?, life.ledger().now().await?);
    let age = |what| last.get(&what).map(|at| now.since(*at).as_secs_f64());
    if let Some(age) = age(Upkeep::Backup) {
        metrics::gauge!("windlass_backup_age_seconds").set(age);
    }
    if let Some(age) = age(Upkeep::Drill) {
        metrics::gauge!("windlass_drill_age_seconds").set(age);
    }
    Ok(())
}

async fn show(life: &Lifecycle, queue: Queue) -> Result<u64, EngineError> {
    let labels = [("namespace", queue.namespace.to_string()), ("queue", queue.name.to_string())];
    let shard = ShardId::first(queue.namespace, queue.name);
    let stats = life.engine().stats(&shard).await?;
    for (state, count) in
        [("ready", stats.ready), ("delayed", stats.delayed), ("running", stats.leased)]
    {
        let mut labels = labels.to_vec();
        labels.push(("state", state.to_owned()));
        metrics::gauge!("windlass_queue_jobs", &labels).set(count as f64);
    }
    let age = stats.oldest_ready.map_or(Duration::ZERO, |at| stats.now.since(at));
    metrics::gauge!("windlass_queue_oldest_ready_seconds", &labels).set(age.as_secs_f64());
    metrics::gauge!("windlass_queue_outbox_jobs", &labels).set(stats.outbox as f64);
    metrics::gauge!("windlass_queue_bytes", &labels).set(stats.bytes as f64);
    let circuits = life.engine().circuits(&shard).await?;
    let tried = |state| matches!(state, CircuitState::HalfOpen { .. });
    let half_open = circuits.iter().filter(|(_, known)| tried(known.state)).count();
    let open = circuits.iter().filter(|(_, known)| known.state == CircuitState::Open).count();
    for (state, count) in [("open", open), ("half_open", half_open)] {
        let mut labels = labels.to_vec();
        labels.push(("state", state.to_owned()));
        metrics::gauge!("windlass_queue_circuits", &labels).set(count as f64);
    }
    Ok(1)
}
