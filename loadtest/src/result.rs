//! What a load test found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use windlass_shared::model::time::Timestamp;

use crate::profile::threshold::Held;
use crate::report::Times;
use crate::run::figures::Figures;
use crate::run::watch::Sample;

/// Of one run of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadResult {
    /// UUIDv7.
    pub id: Uuid,
    /// Its name.
    pub profile: String,
    /// What it shows.
    pub about: String,
    /// By the clock of the host that made the load.
    pub began_at: Timestamp,
    /// Until all jobs had ended.
    pub seconds: f64,
    /// The API.
    pub url: String,
    /// What `/health` says.
    pub fleet_version: String,
    /// Where the load was made.
    pub machine: Machine,
    /// Of what was drawn.
    pub seed: u64,
    /// Somebody stopped it: it has not passed.
    pub was_stopped: bool,
    /// Whether everything had ended when it was checked.
    pub has_settled: bool,
    /// Whether every threshold holds.
    pub passed: bool,
    /// Each.
    pub thresholds: Vec<Held>,
    /// Everything that was measured.
    pub figures: Figures,
    /// In order.
    pub stages: Vec<StageTimes>,
    /// Refused and failed calls, by what was said.
    pub codes: BTreeMap<String, u64>,
    /// Names of the watched processes.
    pub processes: Vec<String>,
    /// Of them, once a second.
    pub samples: Vec<Sample>,
    /// Once a second.
    pub series: Vec<Second>,
    /// From intended (and due) to recorded, of all jobs: (percentile, ms).
    pub ends: Vec<(f64, f64)>,
    /// Some of the jobs that broke a promise.
    pub examples: Vec<String>,
    /// What else a reader must know.
    pub notes: Vec<String>,
    /// All jobs of the load have it.
    pub tag: String,
    /// Against the last run of the same profile on the same machine that passed; `None`: there is none on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
}

/// What has changed since another run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The other one.
    pub id: Uuid,
    /// When that was.
    pub began_at: Timestamp,
    /// Of each figure that tells how fast and how dear it is.
    pub changes: Vec<Change>,
}

/// A figure then and now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub name: String,
    /// Of the other run.
    pub then: f64,
    /// Of this one.
    pub now: f64,
}

/// Figures that are compared, of the whole and of stages.
const COMPARED: [&str; 9] = [
    "calls_per_second",
    "ended_per_second",
    "answer_p50_ms",
    "answer_p99_ms",
    "start_p99_ms",
    "end_p50_ms",
    "end_p99_ms",
    "cpu_us_per_job",
    "memory_mb",
];

impl Change {
    /// By how many percent it rose; `None` where it was 0.
    pub fn percent(&self) -> Option<f64> {
        (self.then != 0.0).then(|| (self.now - self.then) * 100.0 / self.then)
    }
}

impl Compared {
    /// Of the figures that both have.
    pub fn with(id: Uuid, began_at: Timestamp, then: &Figures, now: &Figures) -> Self {
        let is_compared = |name: &str| COMPARED.iter().any(|compared| name.ends_with(compared));
        let changes = now.iter().filter(|(name, _)| is_compared(name)).filter_map(|(name, now)| {
            Some(Change { name: name.to_owned(), then: then.get(name)?, now })
        });
        Self { id, began_at, changes: changes.collect() }
    }
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTimes {
    /// Its name.
    pub name: String,
    /// Seconds from the beginning of the load.
    pub from: f64,
    /// To its last answer.
    pub to: f64,
    /// No call was made.
    #[serde(default)]
    pub is_idle: bool,
    /// From when calls were due to their answers: (percentile, ms).
    pub answers: Vec<(f64, f64)>,
    /// From when jobs were due to their recorded ends.
    pub ends: Vec<(f64, f64)>,
}

/// A second of a load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Its end, from the beginning of the load.
    pub at: f64,
    /// Good answers.
    pub answered: u64,
    /// Refusals and failures.
    pub errors: u64,
    /// Jobs.
    pub accepted: u64,
    /// Of the good answers.
    pub answer_p50_ms: f64,
    /// Of the good answers.
    pub answer_p99_ms: f64,
    /// Jobs in the queue's engine.
    pub depth: Option<u64>,
    /// Jobs that ended in it.
    pub ended: u64,
    /// Of the jobs that ended: since they were due.
    pub end_p50_ms: f64,
    /// Of the jobs that ended.
    pub end_p99_ms: f64,
}

/// Where a load was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// Processors.
    pub cores: usize,
    /// What they are called.
    pub processor: String,
    /// Bytes.
    pub memory: u64,
}

/// Percentiles of a curve: closer to 100 % step by step, for that is where they matter.
const CURVE: [f64; 14] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0];

/// Seconds that are kept on record; of more, every so many is left out.
const KEPT_POINTS: usize = 300;

impl LoadResult {
    /// As it is kept on record: with fewer points of its curves.
    pub(crate) fn brief(&self) -> Self {
        fn thinned<T: Clone>(all: &[T]) -> Vec<T> {
            let step = all.len().div_ceil(KEPT_POINTS).max(1);
            all.iter().step_by(step).cloned().collect()
        }
        Self { samples: thinned(&self.samples), series: thinned(&self.series), ..self.clone() }
    }

    /// Why it has not passed; empty where it has.
    pub fn reasons(&self) -> Vec<String> {
        let stopped = self.was_stopped.then(|| "it was stopped".to_owned());
        let failed = self.thresholds.iter().filter(|held| !held.holds).map(|held| {
            format!("{} is {}, and must be {}", held.name, held.measured(), held.bound)
        });
        let gone = self.samples.last().map(|sample| sample.gone.as_slice()).unwrap_or_default();
        let unsettled = (!self.has_settled)
            .then(|| "jobs were still under way when the time to settle was over".to_owned());
        let idle = self
            .stages
            .iter()
            .filter(|stage| stage.is_idle)
            .map(|stage| format!("stage {} made no calls", stage.name));
        let gone = gone.iter().map(|name| format!("the process {name} ended during the load"));
        stopped.into_iter().chain(unsettled).chain(idle).chain(failed).chain(gone).collect()
    }
}

impl StageTimes {
    pub(crate) fn new(
        name: &str,
        from: f64,
        to: f64,
        answers: &Times,
        ends: &crate::run::Ends,
    ) -> Self {
        Self {
            name: name.to_owned(),
            from,
            to,
            is_idle: answers.count() == 0,
            answers: Self::curve(answers),
            ends: Self::curve(&ends.ends),
        }
    }

    /// A curve of percentiles; empty where nothing was measured.
    pub(crate) fn curve(times: &Times) -> Vec<(f64, f64)> {
        if times.count() == 0 {
            return Vec::new();
        }
        CURVE.map(|p| (p, times.at(p / 100.0).as_secs_f64() * 1e3)).into()
    }
}

impl Machine {
    /// In a line; two that differ in it are not compared.
    pub fn text(&self) -> String {
        let text = format!("{}, {} x {}", self.host, self.cores, self.processor);
        text.chars().filter(|c| !c.is_control()).take(128).collect()
    }

    /// This one.
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib = memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        Self {
            host: read("/proc/sys/kernel/hostname").trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory: kib.unwrap_or(0) * 1024,
        }
    }
}
