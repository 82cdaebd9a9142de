//! What must hold of a figure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::run::figures::Figures;

/// A bound of a figure. One of `max`, `min` and `max_times` with `of`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// No more than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// No less than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// No more than so many times the figure `of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_times: Option<f64>,
    /// No less than so many times the figure `of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_times: Option<f64>,
    /// The other figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

/// A threshold, held against what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The figure.
    pub name: String,
    /// In words, such as `at most 500`.
    pub bound: String,
    /// What was measured; `None`: nothing that this figure could be reckoned from.
    pub measured: Option<f64>,
    /// Whether it holds. What was not measured does not.
    pub holds: bool,
}

impl Held {
    /// As people read it.
    pub fn measured(&self) -> String {
        self.measured.map_or_else(|| "not measured".to_owned(), short)
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds { "holds" } else { "FAILS" };
        write!(f, "{verdict}  {} is {}, must be {}", self.name, self.measured(), self.bound)
    }
}

impl Threshold {
    /// No more than this.
    pub const fn at_most(max: f64) -> Self {
        Self { max: Some(max), min: None, max_times: None, min_times: None, of: None }
    }

    /// What is wrong with it. `stages` are the names that a figure may begin with.
    pub(super) fn faults_of_form(&self, name: &str, stages: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        let bounds = [self.max, self.min, self.max_times, self.min_times];
        let given: Vec<f64> = bounds.into_iter().flatten().collect();
        if given.len() != 1 {
            faults
                .push("exactly one of `max`, `min`, `max_times` and `min_times` is needed".into());
        }
        if !given.iter().all(|bound| bound.is_finite()) {
            faults.push("must be finite".into());
        }
        if self.of.is_some() != (self.max_times.is_some() || self.min_times.is_some()) {
            faults.push("`of` goes with `max_times` and `min_times`".into());
        }
        for name in [Some(name), self.of.as_deref()].into_iter().flatten() {
            if let Err(what) = crate::run::figures::check_name(name, stages) {
                faults.push(what);
            }
        }
        faults
    }

    /// Holds it against the figures of a run.
    pub fn hold(&self, name: &str, figures: &Figures) -> Held {
        let measured = figures.get(name);
        let of = self.of.as_deref().and_then(|of| figures.get(of));
        let named = |times: f64| {
            let what = self.of.as_deref().unwrap_or_default();
            match of {
                Some(of) => format!("{times} times {what}, {}", short(of)),
                None => format!("{times} times {what}, which was not measured"),
            }
        };
        let (bound, limit, is_most) = match (self.max, self.min, self.max_times, self.min_times) {
            (Some(max), ..) => (format!("at most {}", short(max)), Some(max), true),
            (_, Some(min), ..) => (format!("at least {}", short(min)), Some(min), false),
            (_, _, Some(times), _) => {
                (format!("at most {}", named(times)), of.map(|of| of * times), true)
            }
            (.., times) => {
                let times = times.unwrap_or_default();
                (format!("at least {}", named(times)), of.map(|of| of * times), false)
            }
        };
        let holds = match (measured, limit) {
            (Some(measured), Some(limit)) if is_most => measured <= limit,
            (Some(measured), Some(limit)) => measured >= limit,
            _ => false,
        };
        Held { name: name.to_owned(), bound, measured, holds }
    }
}

/// As people read it: three digits behind the point at most.
pub fn short(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => text,
    }
}
