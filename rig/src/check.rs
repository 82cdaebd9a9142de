//! The checker: a pure function from evidence to a verdict.
//!
//! It holds what the clients saw (history), what the handlers did (effect log) and what the ledger says against the
//! promises of `docs/rig.md`. It knows nothing of the experiment but the faults that the history names, which allow for
//! some extra executions and for nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dump::Dump;
use crate::effects::Effect;
use crate::history::Event;

mod answers;
mod chain;
mod executions;
mod index;
mod starts;
mod steps;
#[cfg(test)]
mod tests;

pub use index::{Execution, Index};

/// All that is known of one experiment.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What clients saw, and what the rig did.
    pub history: Vec<Event>,
    /// What handlers did.
    pub effects: Vec<Effect>,
    /// What the ledger holds, after everything was drained.
    pub ledger: Dump,
}

/// A promise that did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An accepted job or run is not in the ledger, or has not ended. I1
    Lost,
    /// It ended otherwise than its payload says. I1
    WrongEnd,
    /// A job or run that nobody submitted, or that was refused. I8
    Unexpected,
    /// One key, several ids; or a changed body taken, or an unchanged one refused. I6
    Idempotency,
    /// A submission whose outcome stayed unknown: the evidence is not whole.
    Unresolved,
    /// What was shown as ended was shown otherwise later, or as not there. I5
    TakenBack,
    /// An execution beyond the planned ones that no fault explains. I9
    Duplicate,
    /// Two executions of a job at one time that no fault explains. I10
    Overlap,
    /// A start after the job's end. I11
    StartAfterEnd,
    /// A start before the job's time. I16
    Early,
    /// A start in a paused queue. I15
    StartedWhilePaused,
    /// Attempts on record that contradict each other, or the effect log. I2, I3, I4
    Chain,
    /// A step before what it needs, twice, or missing. I20
    StepOrder,
    /// The engine and the ledger do not agree that all is done. I31
    Drift,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which promise.
    pub kind: Kind,
    /// Of which job, run, key or queue.
    pub subject: String,
    /// In words, with the figures.
    pub detail: String,
}

/// Why a job was executed more often than planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its worker was killed during the execution, or so soon after that the outcome was not sent yet.
    Killed,
    /// Its worker was stopped past its lease.
    Frozen,
    /// Its worker could not reach the engine past its lease.
    CutOff,
    /// Redis lost what it had acknowledged.
    EngineLost,
    /// Its worker handed it back as it stopped.
    Released,
    /// Nothing that the history names.
    Unexplained,
}

/// What the checker found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Every finding; empty: all promises held.
    pub violations: Vec<Violation>,
    /// Accepted submissions.
    pub accepted: u64,
    /// Submissions that were refused for good.
    pub refused: u64,
    /// Jobs in the ledger.
    pub jobs: u64,
    /// Executions that were begun.
    pub executions: u64,
    /// Executions beyond the planned ones, by cause.
    pub extra: BTreeMap<Cause, u64>,
}

impl Verdict {
    /// Executions beyond the planned ones.
    pub fn extra_total(&self) -> u64 {
        self.extra.values().sum()
    }

    /// Findings by kind.
    pub fn counts(&self) -> BTreeMap<Kind, u64> {
        let mut counts = BTreeMap::new();
        for violation in &self.violations {
            *counts.entry(violation.kind).or_insert(0) += 1;
        }
        counts
    }

    fn add(&mut self, kind: Kind, subject: &str, detail: impl Into<String>) {
        self.violations.push(Violation {
            kind,
            subject: subject.to_owned(),
            detail: detail.into(),
        });
    }
}

/// Checks all promises. Pure: the same evidence gives the same verdict.
pub fn check(evidence: &Evidence) -> Verdict {
    let index = Index::new(evidence);
    let mut verdict = Verdict {
        jobs: evidence.ledger.jobs.len() as u64,
        executions: index.executions.len() as u64,
        ..Verdict::default()
    };
    answers::check(&index, &mut verdict);
    executions::check(&index, &mut verdict);
    starts::check(&index, &mut verdict);
    chain::check(&index, &mut verdict);
    steps::check(&index, &mut verdict);
    drift(&index, &mut verdict);
    verdict
}

/// Whether a state is an end.
pub fn is_terminal(state: &str) -> bool {
    matches!(state, "succeeded" | "dead" | "cancelled" | "expired" | "quarantined")
}

/// Whether a state of a run is an end.
pub fn is_run_terminal(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "cancelled" | "compensated")
}

fn drift(index: &Index<'_>, verdict: &mut Verdict) {
    for (queue, depth) in &index.evidence.ledger.depths {
        if !depth.is_empty() {
            verdict.add(Kind::Drift, queue, format!("the engine still has {depth:?}"));
        }
    }
}
