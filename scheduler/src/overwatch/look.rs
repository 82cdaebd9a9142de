//! What one look has seen, and how rules judge parts of it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use windlass_shared::config::BackupAges;
use windlass_shared::engine::ShardStats;
use windlass_shared::ledger::alerts::{ScheduleTroubles, Space, WORKERS_MAX};
use windlass_shared::ledger::duties::DutyRow;
use windlass_shared::ledger::upkeep::LastUpkeep;
use windlass_shared::ledger::{Queue, WorkerBeat};
use windlass_shared::model::alert::Receiver;
use windlass_shared::model::health::Sums;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;

use super::rules::{Coverage, Finding, Judged, Judgement, Subject};

mod looker;
mod turn;

pub(super) use looker::{Looker, QUEUES_MAX};

/// Six beats: a worker that was not heard of for so long is silent.
const SILENT: Duration = Duration::from_secs(60);
/// Schedules of each trouble.
pub(super) const SCHEDULES_MAX: u32 = 1_000;

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
    /// Those of the settings.
    pub(crate) receivers: Result<Vec<Receiver>, String>,
    pub(crate) duties: Result<Vec<DutyRow>, String>,
    pub(crate) upkeep: Result<LastUpkeep, String>,
    /// How old backups and drills may be; `None`: none are wanted.
    pub(crate) backups: Option<BackupAges>,
    pub(crate) space: Result<Space, String>,
    /// Less free space is too little, in bytes.
    pub(crate) free_min: u64,
    /// A larger ledger is too large, in bytes.
    pub(crate) size_max: Option<u64>,
    /// A ready job that waits longer is late, where its queue says nothing.
    pub(crate) objective: Duration,
}

/// A queue of a look.
pub(crate) struct QueueSeen {
    pub(crate) queue: Queue,
    /// `None`: the engine did not say.
    pub(crate) stats: Option<ShardStats>,
    /// Its circuits that are open by what their calls came to; `None`: the engine did not say.
    pub(crate) circuits: Option<Vec<OpenCircuit>>,
    /// Its waiting jobs, where it has a depth, told apart up to that; `None`: not known.
    pub(crate) waiting: Option<u64>,
    /// Its shard was opened once; `None`: nobody has looked it up yet.
    pub(crate) was_opened: Option<bool>,
}

/// A circuit of a queue that is open, or waits for its probe.
pub(crate) struct OpenCircuit {
    /// Its name, or its key where the name is not known.
    pub(crate) name: String,
    pub(crate) since: Timestamp,
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

    /// Whether workers were left out of the list.
    pub(crate) fn lacks_workers(&self) -> bool {
        self.workers.as_ref().is_ok_and(|workers| workers.len() >= WORKERS_MAX)
    }

    /// Judges each queue that the engine spoke of.
    pub(crate) fn judge_queues(
        &self,
        judge: impl Fn(&QueueSeen, &ShardStats) -> Option<Finding>,
    ) -> Judged {
        let known = self.queues.iter().filter_map(|queue| Some((queue, queue.stats.as_ref()?)));
        self.judge_each(known, |(queue, _)| queue.subject(), |(queue, stats)| judge(queue, stats))
    }

    /// Judges the open circuits of each queue that the engine spoke of.
    pub(crate) fn judge_circuits(
        &self,
        judge: impl Fn(&QueueSeen, &[OpenCircuit]) -> Option<Finding>,
    ) -> Judged {
        let known = self.queues.iter().filter_map(|queue| Some((queue, queue.circuits.as_ref()?)));
        self.judge_each(known, |(queue, _)| queue.subject(), |(queue, open)| judge(queue, open))
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

#[cfg(test)]
mod scenes;
