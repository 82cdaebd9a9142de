//! What comes out of a run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check::{Verdict, Violation};
use crate::experiments::Form;
use crate::figure::Figure;

/// Findings shown of one run; the rest is in the evidence.
const SHOWN: usize = 20;

/// One run of one experiment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// `E1`; of `dev`: `E2 dev`.
    pub id: String,
    /// What was done.
    pub title: String,
    /// How long and how large.
    pub form: Form,
    /// What it was drawn from.
    pub seed: u64,
    /// Every promise and every figure held.
    pub passed: bool,
    /// How long it took, fleet included.
    pub seconds: f64,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What the checker says.
    pub verdict: Verdict,
    /// Processes that ended by themselves, with the ends of their logs.
    pub dead: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        (id, title, on, form, seed): (&str, &str, &str, Form, u64),
        verdict: Verdict,
        figures: Vec<Figure>,
        dead: Vec<String>,
        took: Duration,
    ) -> Self {
        let passed = verdict.violations.is_empty() && figures.iter().all(Figure::holds);
        Self {
            id: if on.is_empty() { id.to_owned() } else { format!("{id} {on}") },
            title: title.into(),
            form,
            seed,
            passed,
            seconds: took.as_secs_f64(),
            figures,
            verdict,
            dead,
        }
    }

    /// One row of a table in Markdown.
    pub fn row(&self) -> String {
        let figures: Vec<String> = self.figures.iter().map(Figure::text).collect();
        let word = if self.passed { "pass" } else { "FAIL" };
        let (id, form, seed) = (&self.id, self.form.word(), self.seed);
        format!("| {id} | {form} | {seed} | {word} | {} |", figures.join(", "))
    }

    /// What did not hold, in words; empty where all held.
    pub fn faults(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        let broken = self.figures.iter().filter(|figure| !figure.holds());
        lines.extend(broken.map(|figure| format!("  figure: {}", figure.text())));
        lines.extend(self.verdict.counts().iter().map(|(kind, n)| format!("  {kind:?}: {n}")));
        let line = |v: &Violation| format!("    {:?} {}: {}", v.kind, v.subject, v.detail);
        lines.extend(self.verdict.violations.iter().take(SHOWN).map(line));
        lines.extend(self.dead.iter().map(|dead| format!("  ended by itself: {dead}")));
        lines.join("\n")
    }
}
