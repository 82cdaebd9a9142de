//! Retry policies as data. The delays are computed in [`crate::backoff`].

use serde::{Deserialize, Serialize};

use super::time::Span;

/// How the delay grows from one failed attempt to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// `initial × multiplier^(n−1)`.
    #[default]
    Exponential,
    /// `initial × n`.
    Linear,
    /// `initial`, always.
    Fixed,
    /// `n⁴ + 15 s`, as Sidekiq's and Faktory's users know it.
    Poly4,
}

/// How chance spreads the delays, so that jobs that failed together do not return together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Uniform in `0..=delay`.
    #[default]
    Full,
    /// Half of the delay, plus uniform in `0..=delay/2`.
    Equal,
    /// None.
    None,
}

/// When a failed attempt is followed by another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Growth of the delay.
    pub backoff: Backoff,
    /// The first delay.
    pub initial: Span,
    /// No delay is longer, before jitter.
    pub max: Span,
    /// Growth factor of [`Backoff::Exponential`], 1.0 to 100.0.
    pub multiplier: f64,
    /// Spread.
    pub jitter: Jitter,
    /// Rules for single error codes; the first that matches decides. At most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RetryRule>,
}

/// What to do after an attempt that failed with a given error code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryRule {
    /// The error code, or a prefix ending in `*`.
    pub code: String,
    /// `false`: the job is dead at once. `true`: it is retried even where the handler said that the
    /// error is permanent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<bool>,
    /// A delay for this code in place of the policy's, before jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// A lower bound on attempts for this code: dead after that many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
}

impl Default for RetryPolicy {
    /// Exponential from 1 s, doubling, at most 1 h, full jitter.
    fn default() -> Self {
        Self {
            backoff: Backoff::Exponential,
            initial: Span(std::time::Duration::from_secs(1)),
            max: Span(std::time::Duration::from_secs(3600)),
            multiplier: 2.0,
            jitter: Jitter::Full,
            rules: Vec::new(),
        }
    }
}
