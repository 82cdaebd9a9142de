//! The figures of a load test, by name, and the names that there are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::profile::CallKind;
use crate::report::Times;

/// What was measured. A name is `figure` (of the whole load) or `stage.figure`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, f64>);

/// Figures of a stage and of the whole, with what they mean.
pub const NAMES: &[(&str, &str)] = &[
    ("seconds", "from the first intended call to the last answer"),
    ("calls", "calls that were due"),
    ("calls_per_second", "answered calls per second"),
    ("refused_percent", "of 100 calls: answered with 429 or 503"),
    ("failed_percent", "of 100 calls: answered wrongly, or not at all"),
    (
        "errors_percent",
        "of 100 calls those that were refused, failed or not made, or of 100 jobs those that did not end as planned: whichever is more",
    ),
    ("unsent", "calls that were due and not made, because too many were under way"),
    ("accepted", "jobs that were accepted"),
    ("accepted_per_second", "accepted jobs over the seconds of the load"),
    ("ended_per_second", "ended jobs over the time from the first intended call to the last end"),
    ("drain_seconds", "from the last answer to the last end of a job"),
    ("lost", "accepted jobs that did not end"),
    ("wrong", "jobs that ended otherwise than planned"),
    ("repeated", "attempts beyond the planned ones: work that was done again"),
    ("early", "jobs that started before they were due, or before what they need had ended"),
    ("ghosts", "jobs of this load that nobody was told of, beyond those whose answer was lost"),
    (
        "cpu_us_per_job",
        "processor time of all watched processes per accepted job; of a stage, until its last answer",
    ),
    (
        "memory_growth_percent",
        "of the watched process that grew most: the memory of the last tenth of the load over that of the second",
    ),
];
/// What a latency is of: a call by its kind, or of all of them; or of a job, from when it was intended (and due).
const LATENCIES: [&str; 3] = ["answer", "start", "end"];
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];
/// Figures of one watched process: its name, `_`, and one of these.
pub const OF_PROCESS: &[(&str, &str)] = &[
    ("cpu_us_per_job", "its processor time per accepted job"),
    ("memory_mb", "the most memory that it had, in MB"),
    ("memory_growth_percent", "by how much it grew under the load"),
];

/// Not of single stages.
const OF_ALL: [&str; 2] = ["ghosts", "memory_growth_percent"];

/// The process that a figure is of, if it is this one of a process.
fn process_of<'a>(figure: &'a str, of: &str) -> Option<&'a str> {
    figure.strip_suffix(of)?.strip_suffix('_').filter(|process| !process.is_empty())
}

/// Why a figure cannot be measured when only these processes are watched; `None`: it can.
pub fn wants_process(name: &str, watched: &[&str]) -> Option<String> {
    let figure = name.split_once('.').map_or(name, |(_, figure)| figure);
    if matches!(figure, "cpu_us_per_job" | "memory_growth_percent") {
        return watched
            .is_empty()
            .then(|| format!("{name} needs a process to watch: --pid NAME=PID"));
    }
    let process = OF_PROCESS.iter().find_map(|(of, _)| process_of(figure, of))?;
    let is_watched = watched.contains(&process) || process == super::CLIENT;
    (!is_watched).then(|| format!("{name} needs --pid {process}=PID"))
}

/// Whether there may be a figure of this name.
///
/// # Errors
/// What is wrong with the name.
pub fn check_name(name: &str, stages: &[&str]) -> Result<(), String> {
    let (stage, figure) = match name.split_once('.') {
        Some((stage, figure)) => (Some(stage), figure),
        None => (None, name),
    };
    if let Some(stage) = stage.filter(|stage| !stages.contains(stage)) {
        return Err(format!("there is no stage {stage:?}"));
    }
    let is_of_process = OF_PROCESS.iter().any(|(of, _)| {
        // Memory is looked at over the whole load.
        let is_measured = stage.is_none() || *of == "cpu_us_per_job";
        is_measured && process_of(figure, of).is_some()
    });
    let is_named = NAMES.iter().any(|(known, _)| *known == figure)
        && !(stage.is_some() && OF_ALL.contains(&figure));
    let known = is_named || is_latency(figure) || is_of_process;
    if known {
        return Ok(());
    }
    let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
    Err(format!(
        "there is no figure {figure:?}: figures are {}, answer_p99_ms, start_p99_ms, end_p99_ms, submit_p99_ms (any call; p50, p95, p99, p999 or max) and PROCESS_memory_mb and the like",
        names.join(", ")
    ))
}

fn is_latency(figure: &str) -> bool {
    let Some(rest) = figure.strip_suffix("_ms") else { return false };
    let Some((of, quantile)) = rest.rsplit_once('_') else { return false };
    let is_known = LATENCIES.contains(&of) || CallKind::ALL.iter().any(|kind| kind.name() == of);
    is_known && QUANTILES.iter().any(|(name, _)| *name == quantile)
}

impl Figures {
    /// What was measured under a name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Notes a figure of a stage, or of the whole. One that is no number was not measured.
    pub fn note(&mut self, stage: Option<&str>, figure: &str, value: f64) {
        if value.is_finite() {
            self.0.insert(full_name(stage, figure), value);
        }
    }

    /// Notes the percentiles of a latency; none, where there were none.
    pub fn note_times(&mut self, stage: Option<&str>, of: &str, times: &Times) {
        if times.count() == 0 {
            return;
        }
        for (name, quantile) in QUANTILES {
            let ms = times.at(quantile).as_secs_f64() * 1_000.0;
            self.note(stage, &format!("{of}_{name}_ms"), ms);
        }
    }
}

fn full_name(stage: Option<&str>, figure: &str) -> String {
    match stage {
        Some(stage) => format!("{stage}.{figure}"),
        None => figure.to_owned(),
    }
}

/// So many a second; nothing where no time passed.
pub fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { f64::NAN } else { count as f64 / time.as_secs_f64() }
}

/// So many of a hundred; 0 of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_figures_that_are_measured_have_names() {
        for name in [
            "lost",
            "burst.end_p99_ms",
            "answer_max_ms",
            "search_p95_ms",
            "api_memory_mb",
            "worker-2_memory_growth_percent",
            "cpu_us_per_job",
        ] {
            assert_eq!(check_name(name, &["burst"]), Ok(()), "{name}");
        }
        for name in [
            "losts",
            "other.lost",
            "end_p98_ms",
            "p99_ms",
            "_memory_mb",
            "think_p99_ms",
            "burst.ghosts",
            "burst.api_memory_mb",
        ] {
            assert!(check_name(name, &["burst"]).is_err(), "{name}");
        }
    }

    #[test]
    fn a_figure_of_a_process_wants_it_to_be_watched() {
        for name in ["cpu_us_per_job", "burst.cpu_us_per_job", "memory_growth_percent"] {
            assert!(wants_process(name, &[]).is_some(), "{name}");
            assert!(wants_process(name, &["api"]).is_none(), "{name}");
        }
        assert!(wants_process("redis_memory_mb", &["api"]).unwrap().contains("--pid redis=PID"));
        assert!(wants_process("burst.api_cpu_us_per_job", &["api"]).is_none());
        assert!(wants_process("client_memory_mb", &[]).is_none());
        assert!(wants_process("lost", &[]).is_none());
    }

    #[test]
    fn what_was_not_measured_is_no_figure() {
        let mut figures = Figures::default();
        figures.note(Some("a"), "calls_per_second", per_second(5, Duration::ZERO));
        figures.note_times(None, "end", &Times::default());
        assert_eq!(figures, Figures::default());
        figures.note(Some("a"), "calls_per_second", per_second(5, Duration::from_secs(2)));
        assert_eq!(figures.get("a.calls_per_second"), Some(2.5));
        assert_eq!(percent(1, 0), 0.0);
    }
}
