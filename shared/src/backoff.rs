//! Delays between attempts: pure functions of the policy, the attempt and a random number.
//!
//! The random number is passed in, in `[0, 1)`, so that a test can pin it and every caller can choose
//! its generator.

use std::time::Duration;

use crate::engine::Verdict;
use crate::limits::HORIZON_MAX;
use crate::model::job::{JobError, JobSpec};
use crate::model::retry::{Backoff, Jitter, RetryPolicy, RetryRule};

/// A dependency may ask for no longer a pause than this (`Retry-After`).
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// [`Backoff::Poly4`] never waits less than this, before jitter.
const POLY4_BASE_SECS: f64 = 15.0;

/// The pause after the failed attempt number `attempt` (from 1), jitter included.
///
/// Never longer than the policy's `max`. `random` outside `[0, 1)` is clamped.
pub fn delay(policy: &RetryPolicy, attempt: u32, random: f64) -> Duration {
    spread(grow(policy, attempt), policy.jitter, random)
}

/// What happens to a job after an attempt that failed with `error`.
///
/// `attempt` is the number of attempts that counted, this one included. The policy's first rule that
/// matches the error's code decides whether there is another; without one the error itself does.
/// `retry_after` is a lower bound on the delay, and is cut at [`RETRY_AFTER_MAX`].
pub fn decide(
    spec: &JobSpec,
    error: &JobError,
    attempt: u32,
    retry_after: Option<Duration>,
    random: f64,
) -> Verdict {
    let rule = rule(spec, error);
    let allowed = rule
        .and_then(|rule| rule.max_attempts)
        .map_or(spec.max_attempts, |max| max.min(spec.max_attempts));
    if !is_wanted(spec, error) || attempt >= allowed {
        return Verdict::Dead;
    }
    let delay = match rule.and_then(|rule| rule.delay) {
        Some(fixed) => spread(fixed.0.min(HORIZON_MAX), spec.retry.jitter, random),
        None => delay(&spec.retry, attempt, random),
    };
    let bound = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    Verdict::Retry { delay: delay.max(bound) }
}

/// Whether there is to be another attempt after this error, as long as the job has any left.
pub fn is_wanted(spec: &JobSpec, error: &JobError) -> bool {
    rule(spec, error).and_then(|rule| rule.retry).unwrap_or(error.retryable)
}

fn rule<'a>(spec: &'a JobSpec, error: &JobError) -> Option<&'a RetryRule> {
    spec.retry.rules.iter().find(|rule| matches(rule, &error.code))
}

/// Whether the rule speaks of this error code.
fn matches(rule: &RetryRule, code: &str) -> bool {
    match rule.code.strip_suffix('*') {
        Some(prefix) => code.starts_with(prefix),
        None => rule.code == code,
    }
}

/// The delay before jitter.
fn grow(policy: &RetryPolicy, attempt: u32) -> Duration {
    let n = f64::from(attempt.max(1));
    let initial = policy.initial.0.as_secs_f64();
    let secs = match policy.backoff {
        Backoff::Exponential => initial * policy.multiplier.clamp(1.0, 100.0).powf(n - 1.0),
        Backoff::Linear => initial * n,
        Backoff::Fixed => initial,
        Backoff::Poly4 => n.powi(4) + POLY4_BASE_SECS,
    };
    let max = policy.max.0.min(HORIZON_MAX);
    // `powf` overflows to infinity for late attempts, and 0 × infinity is not a number.
    if secs.is_finite() && secs < max.as_secs_f64() { Duration::from_secs_f64(secs) } else { max }
}

fn spread(delay: Duration, jitter: Jitter, random: f64) -> Duration {
    let random = random.clamp(0.0, 1.0);
    match jitter {
        Jitter::Full => delay.mul_f64(random),
        Jitter::Equal => delay / 2 + (delay / 2).mul_f64(random),
        Jitter::None => delay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Span;

    fn policy(backoff: Backoff, jitter: Jitter) -> RetryPolicy {
        let max = Span(Duration::from_secs(100));
        RetryPolicy { backoff, jitter, max, ..RetryPolicy::default() }
    }

    fn error(code: &str, retryable: bool) -> JobError {
        JobError { code: code.into(), message: String::new(), retryable }
    }

    /// Evenly spread numbers in place of random ones: the mean is then exact.
    fn samples() -> impl Iterator<Item = f64> {
        (0..1_000).map(|i| (f64::from(i) + 0.5) / 1_000.0)
    }

    #[test]
    fn delays_grow_by_their_rule_up_to_the_maximum() {
        let secs = |backoff, attempt| delay(&policy(backoff, Jitter::None), attempt, 0.5).as_secs();
        let series = |backoff| [1, 2, 3, 4].map(|n| secs(backoff, n));
        assert_eq!(series(Backoff::Exponential), [1, 2, 4, 8]);
        assert_eq!(series(Backoff::Linear), [1, 2, 3, 4]);
        assert_eq!(series(Backoff::Fixed), [1, 1, 1, 1]);
        assert_eq!(series(Backoff::Poly4), [16, 31, 96, 100]);
        for backoff in [Backoff::Exponential, Backoff::Linear, Backoff::Poly4] {
            assert_eq!(secs(backoff, u32::MAX), 100, "{backoff:?}");
        }
    }

    #[test]
    fn a_zero_initial_delay_stays_zero_while_it_can_be_computed() {
        let mut p = policy(Backoff::Exponential, Jitter::None);
        p.initial = Span(Duration::ZERO);
        assert_eq!(delay(&p, 3, 0.0), Duration::ZERO);
        assert!(delay(&p, u32::MAX, 0.0) <= p.max.0);
    }

    #[test]
    fn jitter_keeps_its_bounds_and_its_mean() {
        for (jitter, low, mean) in
            [(Jitter::Full, 0.0, 4.0), (Jitter::Equal, 4.0, 6.0), (Jitter::None, 8.0, 8.0)]
        {
            let p = policy(Backoff::Exponential, jitter);
            let all: Vec<f64> = samples().map(|r| delay(&p, 4, r).as_secs_f64()).collect();
            assert!(all.iter().all(|d| (low..=8.0).contains(d)), "{jitter:?}");
            let got = all.iter().sum::<f64>() / 1_000.0;
            assert!((got - mean).abs() < 0.01, "{jitter:?}: mean {got}");
            // Spread evenly: each quarter of the range holds a quarter of the samples.
            if jitter != Jitter::None {
                let quarter = (8.0 - low) / 4.0;
                let first = all.iter().filter(|d| **d < low + quarter).count();
                assert!((240..=260).contains(&first), "{jitter:?}: {first}");
            }
        }
    }

    #[test]
    fn a_random_number_out_of_range_does_no_harm() {
        let p = policy(Backoff::Fixed, Jitter::Full);
        assert_eq!(delay(&p, 1, -3.0), Duration::ZERO);
        assert_eq!(delay(&p, 1, 7.0), Duration::from_secs(1));
    }

    fn rule(code: &str) -> RetryRule {
        RetryRule { code: code.into(), retry: None, delay: None, max_attempts: None }
    }

    fn spec_with_rules() -> JobSpec {
        let mut spec = JobSpec::default();
        spec.retry.jitter = Jitter::None;
        spec.retry.rules = vec![
            RetryRule { retry: Some(false), ..rule("bad_input") },
            RetryRule {
                retry: Some(true),
                delay: Some(Span(Duration::from_secs(7))),
                ..rule("odd")
            },
            RetryRule { max_attempts: Some(2), ..rule("http_status_5*") },
            RetryRule { max_attempts: Some(99), ..rule("many") },
            RetryRule { retry: Some(false), ..rule("http_*") },
        ];
        spec
    }

    #[test]
    fn rules_are_tried_in_order_and_the_first_match_decides() {
        let spec = spec_with_rules();
        let retry = |s| Verdict::Retry { delay: Duration::from_secs(s) };
        for (code, retryable, attempt, want) in [
            ("other", true, 1, retry(1)),
            ("other", true, 4, retry(8)),
            ("other", true, 5, Verdict::Dead),
            ("other", false, 1, Verdict::Dead),
            ("bad_input", true, 1, Verdict::Dead),
            ("bad_input_2", true, 1, retry(1)),
            ("odd", false, 1, retry(7)),
            ("odd", false, 4, retry(7)),
            ("odd", false, 5, Verdict::Dead),
            ("http_status_503", true, 1, retry(1)),
            ("http_status_503", true, 2, Verdict::Dead),
            ("http_status_503", false, 1, Verdict::Dead),
            ("http_status_404", true, 1, Verdict::Dead),
            ("many", true, 5, Verdict::Dead),
        ] {
            let got = decide(&spec, &error(code, retryable), attempt, None, 0.0);
            assert_eq!(got, want, "{code} {retryable} {attempt}");
        }
    }

    #[test]
    fn retry_after_is_a_lower_bound_cut_at_a_day() {
        let mut spec = JobSpec::default();
        spec.retry.jitter = Jitter::None;
        let after = |secs| {
            let asked = Some(Duration::from_secs(secs));
            decide(&spec, &error("e", true), 3, asked, 0.0)
        };
        assert_eq!(after(60), Verdict::Retry { delay: Duration::from_secs(60) });
        assert_eq!(after(1), Verdict::Retry { delay: Duration::from_secs(4) });
        assert_eq!(after(u64::MAX), Verdict::Retry { delay: RETRY_AFTER_MAX });
    }
}
