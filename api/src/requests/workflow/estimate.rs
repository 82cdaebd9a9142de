//! How long a workflow would take, by the past of its kinds.

use std::collections::HashMap;

use windlass_shared::ledger::Rollup;
use windlass_shared::model::workflow::graph::Graph;
use windlass_shared::model::workflow::{ChildOf, StepSpec, TimerSpec, Work, WorkflowSpec};

/// What a job takes whose kind has no past.
const UNKNOWN_SECONDS: f64 = 1.0;

/// Mean run times.
#[derive(Debug, Clone, Default)]
pub struct History {
    seconds: HashMap<String, f64>,
}

impl History {
    /// Of the successful attempts among these.
    pub fn of(rollups: &[Rollup]) -> Self {
        let mut sums: HashMap<&str, (u64, u64)> = HashMap::new();
        for rollup in rollups.iter().filter(|rollup| rollup.outcome == "succeeded") {
            let (count, ms) = sums.entry(rollup.kind.as_str()).or_default();
            *count = count.saturating_add(rollup.count);
            *ms = ms.saturating_add(rollup.run_ms);
        }
        let seconds = sums
            .into_iter()
            .filter(|(_, (count, _))| *count > 0)
            .map(|(kind, (count, ms))| (kind.to_owned(), ms as f64 / 1e3 / count as f64))
            .collect();
        Self { seconds }
    }

    /// Whether a kind has a past.
    pub fn knows(&self, kind: &str) -> bool {
        self.seconds.contains_key(kind)
    }

    /// What a step takes once it may run, in seconds; of a `for_each` one item. Nobody knows how long people and
    /// signals take: nothing.
    pub fn step(&self, step: &StepSpec) -> f64 {
        match &step.work {
            Work::Job(job) => {
                let known = self.seconds.get(job.kind.as_str()).copied();
                let delay = job.delay.map_or(0.0, |delay| delay.0.as_secs_f64());
                delay + known.unwrap_or(UNKNOWN_SECONDS)
            }
            Work::Timer(TimerSpec::For(span)) => span.0.as_secs_f64(),
            Work::Timer(_) | Work::Signal { .. } | Work::Approval(_) => 0.0,
            Work::Child(child) => match &child.of {
                ChildOf::Definition { .. } => UNKNOWN_SECONDS,
                ChildOf::Inline(spec) => self.inline(spec),
            },
        }
    }

    /// At most as deep as runs may nest.
    fn inline(&self, spec: &WorkflowSpec) -> f64 {
        let ids: Vec<&str> = spec.steps.iter().map(|step| step.id.as_str()).collect();
        let steps: Vec<(&str, Vec<&str>)> = spec
            .steps
            .iter()
            .map(|step| {
                (step.id.as_str(), step.needs.iter().map(|need| ids[*need as usize]).collect())
            })
            .collect();
        match Graph::new(&steps) {
            Ok(graph) => Estimate::of(spec, &graph, self).seconds,
            Err(_) => UNKNOWN_SECONDS,
        }
    }
}

/// How long a run takes with workers enough.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Positions of the steps that decide it, in order.
    pub path: Vec<u32>,
    /// What they take together.
    pub seconds: f64,
    /// What all steps take together.
    pub total: f64,
}

impl Estimate {
    /// Of a checked document. Linear in it.
    pub fn of(spec: &WorkflowSpec, graph: &Graph, history: &History) -> Self {
        let weights: Vec<f64> = spec.steps.iter().map(|step| history.step(step)).collect();
        let (path, seconds) = graph.critical_path(|step| weights[step as usize]);
        Self { path, seconds, total: weights.iter().sum() }
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::time::Timestamp;

    use super::*;

    fn rollup(kind: &str, outcome: &str, count: u64, run_ms: u64) -> Rollup {
        Rollup {
            minute: Timestamp::default(),
            queue: "q".parse().unwrap(),
            kind: kind.parse().unwrap(),
            outcome: outcome.into(),
            count,
            run_ms,
        }
    }

    #[test]
    fn means_are_of_what_succeeded() {
        let history = History::of(&[
            rollup("a", "succeeded", 1, 1_000),
            rollup("a", "succeeded", 3, 5_000),
            rollup("a", "failed", 100, 1),
            rollup("b", "failed", 1, 9_000),
            rollup("c", "succeeded", 0, 7),
        ]);
        assert_eq!(history.seconds.get("a"), Some(&1.5));
        assert!(history.knows("a") && !history.knows("b") && !history.knows("c"));
    }
}
