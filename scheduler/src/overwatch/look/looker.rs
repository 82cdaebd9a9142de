//! Looks: what the stores say of the installation, in bounded time. No row of a job is read; of queues with a depth of
//! which the engine's head is nearly full, waiting jobs are counted.
//!
//! Where there is more than one look has time for, the next one goes on where this one got to, so that everyone has
//! their turn.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::time::timeout;
use windlass_shared::config::{BackupAges, OverwatchSettings};
use windlass_shared::engine::flow::FlowKey;
use windlass_shared::engine::model::CircuitState;
use windlass_shared::engine::{EngineError, ShardId};
use windlass_shared::ledger::alerts::{OutcomeSum, Space};
use windlass_shared::ledger::{LedgerError, Queue};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::depth::Depth;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;

use super::turn::Turn;
use super::{OpenCircuit, QueueSeen, SCHEDULES_MAX, Seen};

/// Queues of one look.
pub(in crate::overwatch) const QUEUES_MAX: u32 = 20_000;
/// Queues that are asked about at once.
const AT_ONCE: usize = 16;
/// Longest wait for one answer about a queue.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Waiting jobs of a queue are counted no further: of a larger depth with more of them nothing is known.
const WAITING_MAX: u64 = 1_000_000;
/// Most queues that are known to have been open.
const OPENED_MAX: usize = 100_000;
/// How often the ledger is asked how large it is.
const SPACE_EVERY: Duration = Duration::from_secs(60);
/// Names of circuits that are read of a namespace in which one is open.
const CIRCUITS_READ_MAX: u32 = 1_000;
/// The rates of rules are over this time.
const RECENT: Duration = Duration::from_secs(600);
/// A silent worker is news for so long.
const SILENT_SEEN: Duration = Duration::from_secs(900);

/// A schedule that is looked at later than this is late.
const LATE: Duration = Duration::from_secs(30);

/// How much one look takes.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    queues: usize,
    /// No queue is asked about later; those that were not reached are not judged.
    queues_time: Duration,
    /// Queues with a depth that are counted, and shut ones that are looked up.
    counted: usize,
    /// No queue is counted, or looked up, later.
    counted_time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            queues: QUEUES_MAX as usize,
            queues_time: Duration::from_secs(8),
            counted: 100,
            counted_time: Duration::from_secs(5),
        }
    }
}

/// Looks, again and again.
pub(crate) struct Looker {
    bounds: Bounds,
    objective: Duration,
    backups: Option<BackupAges>,
    receivers: Vec<String>,
    free_min: u64,
    size_max: Option<u64>,
    asked: Turn,
    counted: Turn,
    looked_up: Turn,
    /// Queues whose shard was open once, which stays so.
    opened: HashSet<(Namespace, QueueName)>,
    space: Option<(Instant, Space)>,
}

impl Looker {
    pub(crate) fn new(settings: &OverwatchSettings) -> Self {
        let names = settings.receivers.iter().map(|receiver| receiver.name.clone());
        Self {
            bounds: Bounds::default(),
            objective: settings.latency_objective,
            backups: settings.backups,
            receivers: names.collect(),
            free_min: settings.ledger_free_min,
            size_max: settings.ledger_size_max,
            asked: Turn::default(),
            counted: Turn::default(),
            looked_up: Turn::default(),
            opened: HashSet::new(),
            space: None,
        }
    }

    /// One look.
    ///
    /// # Errors
    /// The ledger does not answer: nothing can be judged, nor written.
    pub(crate) async fn look(&mut self, life: &Lifecycle) -> Result<Seen, LedgerError> {
        let ledger = life.ledger();
        let asked = Instant::now();
        let now = ledger.now().await?;
        let took = asked.elapsed();
        let asked = Instant::now();
        let (engine, fit) = tokio::join!(life.engine().now(), life.engine().check());
        let engine = engine.map(|_| asked.elapsed()).map_err(|error| error.to_string());
        let unfit = match fit {
            Err(EngineError::Unfit(why)) => Some(why),
            Ok(()) | Err(_) => None,
        };
        let (queues, listed_all) = self.queues(life, engine.is_ok()).await?;
        let said = |error: LedgerError| error.to_string();
        let space = self.space(life).await.map_err(said);
        let (workers, recent, troubles, receivers, duties, upkeep) = tokio::join!(
            ledger.all_workers(SILENT_SEEN),
            ledger.outcome_sums(now.minus(RECENT)),
            ledger.schedule_troubles(now.minus(LATE), now.minus(RECENT), SCHEDULES_MAX),
            ledger.receivers(),
            ledger.duties(),
            ledger.last_upkeep(),
        );
        let by_queue = |sum: OutcomeSum| ((sum.namespace, sum.queue), sum.sums);
        let receivers = receivers.map(|mut known| {
            // Nobody sends to one that is not in the settings any more: it does not do better or worse.
            known.retain(|receiver| self.receivers.contains(&receiver.name));
            known
        });
        Ok(Seen {
            now,
            ledger: took,
            engine,
            unfit,
            queues,
            listed_all,
            workers: workers.map_err(said),
            recent: recent.map(|sums| sums.into_iter().map(by_queue).collect()).map_err(said),
            troubles: troubles.map_err(said),
            receivers: receivers.map_err(said),
            duties: duties.map(|(rows, _)| rows).map_err(said),
            upkeep: upkeep.map_err(said),
            backups: self.backups,
            space,
            free_min: self.free_min,
            size_max: self.size_max,
            objective: self.objective,
        })
    }

    async fn space(&mut self, life: &Lifecycle) -> Result<Space, LedgerError> {
        if let Some((_, space)) = self.space.filter(|(at, _)| at.elapsed() < SPACE_EVERY) {
            return Ok(space);
        }
        let space = life.ledger().space().await?;
        self.space = Some((Instant::now(), space));
        metrics::gauge!("windlass_ledger_bytes").set(space.used as f64);
        if let Some(free) = space.free {
            metrics::gauge!("windlass_ledger_free_bytes").set(free as f64);
        }
        Ok(space)
    }

    async fn queues(
        &mut self,
        life: &Lifecycle,
        engine_answers: bool,
    ) -> Result<(Vec<QueueSeen>, bool), LedgerError> {
        let mut all = life.ledger().queues(None).await?;
        let listed_all = all.len() <= self.bounds.queues;
        self.asked.sort(&mut all, |queue| queue);
        all.truncate(self.bounds.queues);
        let until = Instant::now() + self.bounds.queues_time;
        let asked =
            futures::stream::iter(all.into_iter().enumerate()).map(|(n, queue)| async move {
                let reached = engine_answers && Instant::now() < until;
                let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
                let (stats, circuits) = match reached {
                    true => tokio::join!(
                        answer(life.engine().stats(&shard)),
                        answer(open_circuits(life, &shard)),
                    ),
                    false => (None, None),
                };
                let seen = QueueSeen { queue, stats, circuits, waiting: None, was_opened: None };
                (reached.then_some(n), seen)
            });
        let asked: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        if let Some((_, last)) = asked.iter().max_by_key(|(n, _)| *n).filter(|(n, _)| n.is_some()) {
            self.asked.took(&last.queue);
        }
        let mut seen: Vec<QueueSeen> = asked.into_iter().map(|(_, seen)| seen).collect();
        self.count(life, &mut seen).await;
        self.look_up_gates(life, &mut seen).await;
        Ok((seen, listed_all))
    }

    /// Finds out how many jobs wait in queues with a depth: mostly the engine has said so.
    async fn count(&mut self, life: &Lifecycle, seen: &mut [QueueSeen]) {
        let mut unknown = Vec::new();
        for seen in seen.iter_mut() {
            let (Some(stats), Some(most)) = (&seen.stats, seen.queue.settings.max_depth) else {
                continue;
            };
            let depth = Depth::of(stats);
            if depth.here >= most || !depth.may_be_more {
                seen.waiting = Some(depth.here);
            } else {
                unknown.push((seen, depth, most));
            }
        }
        self.counted.sort(&mut unknown, |(seen, ..)| &seen.queue);
        let until = Instant::now() + self.bounds.counted_time;
        for (seen, depth, most) in unknown.into_iter().take(self.bounds.counted) {
            if Instant::now() >= until {
                break;
            }
            let Queue { namespace, name, .. } = &seen.queue;
            let counting = depth.recorded(life.ledger(), namespace, name, most.min(WAITING_MAX));
            // One that cannot be counted is not judged.
            let waiting = timeout(ANSWER_MAX, counting).await.ok().and_then(Result::ok);
            seen.waiting = waiting.filter(|n| *n < WAITING_MAX || *n >= most);
            self.counted.took(&seen.queue);
        }
    }

    /// Finds out which of the shut queues were open once: by what was seen before, and for some by the ledger.
    async fn look_up_gates(&mut self, life: &Lifecycle, seen: &mut [QueueSeen]) {
        if self.opened.len() > OPENED_MAX {
            self.opened.clear();
        }
        let mut unknown = Vec::new();
        for seen in seen.iter_mut() {
            let Some(stats) = &seen.stats else { continue };
            let key = (seen.queue.namespace.clone(), seen.queue.name.clone());
            if stats.open || self.opened.contains(&key) {
                self.opened.insert(key);
                seen.was_opened = Some(true);
            } else {
                unknown.push(seen);
            }
        }
        self.looked_up.sort(&mut unknown, |seen| &seen.queue);
        let until = Instant::now() + self.bounds.counted_time;
        for seen in unknown.into_iter().take(self.bounds.counted) {
            if Instant::now() >= until {
                break;
            }
            let shard = ShardId::first(seen.queue.namespace.clone(), seen.queue.name.clone());
            // One that cannot be looked up is not judged.
            let record = timeout(ANSWER_MAX, life.ledger().shard(&shard)).await;
            seen.was_opened = record.ok().and_then(Result::ok).map(|found| found.generation > 0);
            self.looked_up.took(&seen.queue);
            if seen.was_opened == Some(true) {
                self.opened.insert((shard.namespace, shard.queue));
            }
        }
    }
}

/// An answer about a queue, if there is one in time. Dropped half-way such a call has changed nothing.
async fn answer<T, E>(call: impl Future<Output = Result<T, E>>) -> Option<T> {
    timeout(ANSWER_MAX, call).await.ok().and_then(Result::ok)
}

/// Circuits that are open by what their calls came to. Names are looked up where there are any.
async fn open_circuits(
    life: &Lifecycle,
    shard: &ShardId,
) -> Result<Vec<OpenCircuit>, anyhow::Error> {
    let mut open = life.engine().circuits(shard).await?;
    open.retain(|(_, known)| known.state != CircuitState::Closed);
    if open.is_empty() {
        return Ok(Vec::new());
    }
    let page = life.ledger().circuits(&shard.namespace, "", CIRCUITS_READ_MAX).await?;
    let names: HashMap<FlowKey, String> = page
        .circuits
        .iter()
        .map(|circuit| (FlowKey::of(circuit.name.as_str()), circuit.name.to_string()))
        .collect();
    let named = open.into_iter().map(|(key, known)| OpenCircuit {
        name: names.get(&key).cloned().unwrap_or_else(|| format!("{key:?}")),
        since: Timestamp::from_micros(known.since),
    });
    Ok(named.collect())
}

#[cfg(test)]
mod tests;
