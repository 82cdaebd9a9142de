//! Runs: every step once, and after what it needs.

use std::collections::BTreeMap;

use super::index::Index;
use super::{Kind, Verdict};
use crate::effects::End;
use crate::load::plan::{DIAMOND, needs};

/// The jobs of one run, by step.
type Steps<'a> = BTreeMap<&'a str, Vec<&'a str>>;

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    let mut runs: BTreeMap<&str, Steps<'_>> = BTreeMap::new();
    for (id, job) in &index.evidence.ledger.jobs {
        if let Some((run, step)) = &job.step {
            runs.entry(run).or_default().entry(step).or_default().push(id);
        }
    }
    for (run, steps) in &runs {
        for (step, jobs) in steps.iter().filter(|(_, jobs)| jobs.len() > 1) {
            verdict.add(Kind::StepOrder, run, format!("step {step} is {} jobs", jobs.len()));
        }
        order(index, run, steps, verdict);
    }
    for (id, run) in &index.evidence.ledger.runs {
        let steps = runs.get(id.as_str()).map_or(0, BTreeMap::len);
        if run.state == "succeeded" && steps != DIAMOND as usize {
            verdict.add(Kind::StepOrder, id, format!("succeeded with {steps} steps"));
        }
    }
}

/// Every execution of a step began after a success of every step that it needs.
fn order(index: &Index<'_>, run: &str, steps: &Steps<'_>, verdict: &mut Verdict) {
    for (step, jobs) in steps {
        let starts = jobs.iter().flat_map(|job| index.of_job(job)).map(|e| e.started);
        let Some(first) = starts.min() else { continue };
        for parent in needs(step) {
            let executions = steps.get(parent).into_iter().flatten();
            let ends = executions.flat_map(|job| index.of_job(job)).filter_map(|e| e.end);
            let succeeded = ends.filter(|(_, end)| *end == End::Ok).map(|(at, _)| at).min();
            if succeeded.is_none_or(|at| at > first) {
                verdict.add(Kind::StepOrder, run, format!("{step} began before {parent} ended"));
            }
        }
    }
}
