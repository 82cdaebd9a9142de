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
    (
        "errors_percent",
        "of 100 calls and jobs: refused or failed calls, and jobs that did not end as planned",
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
    ("cpu_us_per_job", "processor time of all watched processes per accepted job"),
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
    let known = NAMES.iter().any(|(known, _)| *known == figure)
        || is_latency(figure)
        || OF_PROCESS.iter().any(|(of, _)| {
            figure
                .strip_suffix(of)
                .and_then(|rest| rest.strip_suffix('_'))
                .is_some_and(|p| !p.is_empty())
        });
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
        for name in ["losts", "other.lost", "end_p98_ms", "p99_ms", "_memory_mb", "think_p99_ms"] {
            assert!(check_name(name, &["burst"]).is_err(), "{name}");
        }
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
