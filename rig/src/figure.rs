//! What an experiment measures, and what it is to be.

use serde::{Deserialize, Serialize};

/// A measured figure, with its bound if it has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What.
    pub name: String,
    /// `None`: there was nothing to measure, which no bound allows.
    pub value: Option<f64>,
    /// `s`, `KiB`, or empty for a count.
    pub unit: String,
    /// What it is to be; `None`: for information.
    pub limit: Option<Limit>,
}

/// What a figure is to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// So much or less.
    AtMost(f64),
    /// So much or more.
    AtLeast(f64),
}

impl Figure {
    /// For information.
    pub fn told(name: &str, value: impl Into<Option<f64>>, unit: &str) -> Self {
        Self { name: name.into(), value: value.into(), unit: unit.into(), limit: None }
    }

    /// At most `limit`.
    pub fn at_most(name: &str, value: impl Into<Option<f64>>, unit: &str, limit: f64) -> Self {
        Self { limit: Some(Limit::AtMost(limit)), ..Self::told(name, value, unit) }
    }

    /// At least `limit`.
    pub fn at_least(name: &str, value: impl Into<Option<f64>>, unit: &str, limit: f64) -> Self {
        Self { limit: Some(Limit::AtLeast(limit)), ..Self::told(name, value, unit) }
    }

    /// Whether it is as it is to be.
    pub fn holds(&self) -> bool {
        match (self.limit, self.value) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(Limit::AtMost(limit)), Some(value)) => value <= limit,
            (Some(Limit::AtLeast(limit)), Some(value)) => value >= limit,
        }
    }

    /// Such as `rerun after 3.4 s (≤ 4)`.
    pub fn text(&self) -> String {
        let value = self.value.map_or_else(|| "not measured".to_owned(), short);
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let limit = match self.limit {
            None => String::new(),
            Some(Limit::AtMost(limit)) => format!(" (≤ {})", short(limit)),
            Some(Limit::AtLeast(limit)) => format!(" (≥ {})", short(limit)),
        };
        let mark = if self.holds() { "" } else { " ✗" };
        format!("{} {value}{unit}{limit}{mark}", self.name)
    }
}

/// Whole numbers as such, others with two digits.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// A count as a value.
pub fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_only_for_what_was_measured() {
        assert!(Figure::at_most("a", 4.0, "s", 4.0).holds());
        assert!(!Figure::at_most("a", 4.01, "s", 4.0).holds());
        assert!(!Figure::at_most("a", None, "s", 4.0).holds());
        assert!(!Figure::at_least("a", 0.0, "", 1.0).holds());
        assert!(Figure::told("a", None, "").holds());
        assert_eq!(Figure::at_most("a", 4.5, "s", 4.0).text(), "a 4.50 s (≤ 4) ✗");
    }
}
