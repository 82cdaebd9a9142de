//! One look: what the stores say of the installation, in bounded time and without reading jobs.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use windlass_shared::config::{BackupAges, OverwatchSettings};
use windlass_shared::engine::{EngineError, ShardId, ShardStats};
use windlass_shared::ledger::alerts::ScheduleTroubles;
use windlass_shared::ledger::duties::DutyRow;
use windlass_shared::ledger::upkeep::LastUpkeep;
use windlass_shared::ledger::{LedgerError, Queue, WorkerBeat};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::alert::Receiver;
use windlass_shared::model::health::Sums;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;

use super::rules::{Coverage, Finding, Judged, Judgement, Subject};

/// Queues of one look; of more, each look takes the next.
pub(super) const QUEUES_MAX: u32 = 20_000;
/// Queues that are asked about at once.
const AT_ONCE: usize = 16;
/// Longest time for the queues of one look: those that were not reached are not judged.
const QUEUES_TIME: Duration = Duration::from_secs(8);
/// Queues with a depth that are counted in one look, and shut ones that are looked up.
const COUNTED_MAX: usize = 100;
/// Most queues that are known to have been open.
const OPENED_MAX: usize = 100_000;
/// The rates of rules are over this time.
const RECENT: Duration = Duration::from_secs(600);
/// Six beats: a worker that was not heard of for so long is silent.
const SILENT: Duration = Duration::from_secs(60);
/// A silent worker is news for so long.
const SILENT_SEEN: Duration = Duration::from_secs(900);
/// A schedule that is looked at later than this is late.
const LATE: Duration = Duration::from_secs(30);
/// Schedules of each trouble.
const SCHEDULES_MAX: u32 = 1_000;

/// What a look has seen. A part that could not be had says why.
pub(crate) struct Seen {
    /// Ledger time.
    pub(crate) now: Timestamp,
    /// The ledger's answer took.
    pub(crate) ledger: Duration,
    /// The engine's, or why there was none.
    pub(crate) engine: Result<Duration, String>,
    /// Why the engine must not be trusted.
    pub(crate) unfit: Option<String>,
    pub(crate) queues: Vec<QueueSeen>,
    /// Every queue on record is among them.
    pub(crate) listed_all: bool,
    pub(crate) workers: Result<Vec<WorkerBeat>, String>,
    /// Of the last ten minutes.
    pub(crate) recent: Result<HashMap<(Namespace, QueueName), Sums>, String>,
    pub(crate) troubles: Result<ScheduleTroubles, String>,
    pub(crate) receivers: Result<Vec<Receiver>, String>,
    pub(crate) duties: Result<Vec<DutyRow>, String>,
    pub(crate) upkeep: Result<LastUpkeep, String>,
    /// How old backups and drills may be; `None`: none are wanted.
    pub(crate) backups: Option<BackupAges>,
    /// A ready job that waits longer is late.
    pub(crate) objective: Duration,
}

/// A queue of a look.
pub(crate) struct QueueSeen {
    pub(crate) queue: Queue,
    /// `None`: the engine did not say.
    pub(crate) stats: Option<ShardStats>,
    /// Its waiting jobs, where it has a depth; counted to that.
    pub(crate) waiting: Option<u64>,
    /// Its shard was opened once; `None`: nobody has looked it up yet.
    pub(crate) was_opened: Option<bool>,
}

impl QueueSeen {
    pub(crate) fn name(&self) -> &str {
        self.queue.name.as_str()
    }

    pub(crate) fn subject(&self) -> Subject {
        (Some(self.queue.namespace.clone()), self.name().to_owned())
    }
}

impl Seen {
    pub(crate) fn is_alive(&self, worker: &WorkerBeat) -> bool {
        self.now.since(worker.seen_at) <= SILENT
    }

    /// Judges each queue that the engine spoke of.
    pub(crate) fn judge_queues(
        &self,
        judge: impl Fn(&QueueSeen, &ShardStats) -> Option<Finding>,
    ) -> Judged {
        let known = self.queues.iter().filter_map(|queue| Some((queue, queue.stats.as_ref()?)));
        self.judge_each(known, |(queue, _)| queue.subject(), |(queue, stats)| judge(queue, stats))
    }

    /// Judges the gate of each queue of which it is known whether it was ever opened; `true`: it was, and is shut.
    pub(crate) fn judge_gates(
        &self,
        judge: impl Fn(&QueueSeen, bool) -> Option<Finding>,
    ) -> Judged {
        let known = self.queues.iter().filter_map(|queue| {
            let is_open = queue.stats.as_ref()?.open;
            Some((queue, !is_open && queue.was_opened?))
        });
        self.judge_each(known, |(queue, _)| queue.subject(), |(queue, shut)| judge(queue, shut))
    }

    /// Judges each queue that has a depth and was counted.
    pub(crate) fn judge_depths(
        &self,
        judge: impl Fn(&QueueSeen, u64, u64) -> Option<Finding>,
    ) -> Judged {
        // One without a depth is judged as well: it cannot be full.
        let known = self.queues.iter().filter_map(|queue| match queue.queue.settings.max_depth {
            Some(most) => queue.waiting.map(|waiting| (queue, Some((waiting, most)))),
            None => Some((queue, None)),
        });
        self.judge_each(
            known,
            |(queue, _)| queue.subject(),
            |(queue, depth)| depth.and_then(|(waiting, most)| judge(queue, waiting, most)),
        )
    }

    fn judge_each<T: Copy>(
        &self,
        known: impl Iterator<Item = T>,
        subject: impl Fn(T) -> Subject,
        judge: impl Fn(T) -> Option<Finding>,
    ) -> Judged {
        let (mut held, mut subjects) = (Vec::new(), HashSet::new());
        for item in known {
            subjects.insert(subject(item));
            held.extend(judge(item));
        }
        if self.engine.is_err() {
            // That it is away is a rule of its own; of its queues nobody knows.
            return Ok(Judgement { held, judged: Coverage::Only(subjects) });
        }
        if subjects.is_empty() && !self.queues.is_empty() {
            return Err("the engine says nothing of any queue".into());
        }
        let all = self.listed_all && subjects.len() == self.queues.len();
        let judged = if all { Coverage::All } else { Coverage::Only(subjects) };
        Ok(Judgement { held, judged })
    }

    /// Judges each queue of which something ended lately. One of which nothing did is well.
    pub(crate) fn judge_recent(&self, judge: impl Fn(Subject, &Sums) -> Option<Finding>) -> Judged {
        let recent = self.recent.as_ref().map_err(Clone::clone)?;
        Ok(Judgement::of_all(recent.iter().filter_map(|((namespace, queue), sums)| {
            judge((Some(namespace.clone()), queue.to_string()), sums)
        })))
    }

    /// Judges schedules by one of the lists of those in trouble.
    pub(crate) fn judge_schedules<T>(
        &self,
        list: impl Fn(&ScheduleTroubles) -> &Vec<T>,
        judge: impl Fn(&T) -> Option<Finding>,
    ) -> Judged {
        let listed = list(self.troubles.as_ref().map_err(Clone::clone)?);
        let held: Vec<Finding> = listed.iter().filter_map(judge).collect();
        // A list that is full may have left some out.
        let judged = if listed.len() < SCHEDULES_MAX as usize {
            Coverage::All
        } else {
            Coverage::Only(held.iter().map(|finding| finding.subject.clone()).collect())
        };
        Ok(Judgement { held, judged })
    }
}

/// Looks, again and again.
pub(crate) struct Looker {
    objective: Duration,
    backups: Option<BackupAges>,
    /// Where the next look begins, of more queues than one look takes.
    from: usize,
    /// The same of shut queues that are looked up.
    shut_from: usize,
    /// Queues whose shard was open once, which stays so.
    opened: HashSet<(Namespace, QueueName)>,
}

impl Looker {
    pub(crate) fn new(settings: &OverwatchSettings) -> Self {
        let (objective, backups) = (settings.latency_objective, settings.backups);
        Self { objective, backups, from: 0, shut_from: 0, opened: HashSet::new() }
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
        let (workers, recent, troubles, receivers, duties, upkeep) = tokio::join!(
            ledger.all_workers(SILENT_SEEN),
            ledger.outcome_sums(now.minus(RECENT)),
            ledger.schedule_troubles(now.minus(LATE), now.minus(RECENT), SCHEDULES_MAX),
            ledger.receivers(),
            ledger.duties(),
            ledger.last_upkeep(),
        );
        let by_queue = |sum: windlass_shared::ledger::alerts::OutcomeSum| {
            ((sum.namespace, sum.queue), sum.sums)
        };
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
            objective: self.objective,
        })
    }

    async fn queues(
        &mut self,
        life: &Lifecycle,
        engine_answers: bool,
    ) -> Result<(Vec<QueueSeen>, bool), LedgerError> {
        let mut all = life.ledger().queues(None).await?;
        let listed_all = all.len() <= QUEUES_MAX as usize;
        if !listed_all {
            let start = self.from % all.len();
            all.rotate_left(start);
            all.truncate(QUEUES_MAX as usize);
            self.from = start + QUEUES_MAX as usize;
        }
        let until = tokio::time::Instant::now() + QUEUES_TIME;
        let asked = futures::stream::iter(all).map(|queue| async move {
            let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
            // Dropped half-way it has changed nothing.
            let stats = match engine_answers {
                true => tokio::time::timeout_at(until, life.engine().stats(&shard)).await,
                false => return QueueSeen { queue, stats: None, waiting: None, was_opened: None },
            };
            let stats = stats.ok().and_then(Result::ok);
            QueueSeen { queue, stats, waiting: None, was_opened: None }
        });
        let mut seen: Vec<QueueSeen> = asked.buffer_unordered(AT_ONCE).collect().await;
        self.look_closer(life, &mut seen).await;
        Ok((seen, listed_all))
    }

    /// Looks up what is asked of few queues only.
    async fn look_closer(&mut self, life: &Lifecycle, seen: &mut [QueueSeen]) {
        let ledger = life.ledger();
        let with_depth = seen.iter_mut().filter(|seen| seen.queue.settings.max_depth.is_some());
        for seen in with_depth.take(COUNTED_MAX) {
            let (queue, most) = (&seen.queue, seen.queue.settings.max_depth.unwrap_or_default());
            // One that cannot be counted is not judged.
            seen.waiting = ledger.waiting(&queue.namespace, &queue.name, most).await.ok();
        }
        self.look_up_gates(life, seen).await;
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
        // In a fixed order, so that each has its turn.
        unknown.sort_by(|a, b| {
            let key = |seen: &QueueSeen| (seen.queue.namespace.clone(), seen.queue.name.clone());
            key(a).cmp(&key(b))
        });
        let start = self.shut_from % unknown.len().max(1);
        unknown.rotate_left(start);
        self.shut_from = start + COUNTED_MAX;
        for seen in unknown.into_iter().take(COUNTED_MAX) {
            let shard = ShardId::first(seen.queue.namespace.clone(), seen.queue.name.clone());
            // One that cannot be looked up is not judged.
            let record = life.ledger().shard(&shard).await.ok();
            seen.was_opened = record.map(|record| record.generation > 0);
            if seen.was_opened == Some(true) {
                self.opened.insert((shard.namespace, shard.queue));
            }
        }
    }
}

#[cfg(test)]
mod scenes;
