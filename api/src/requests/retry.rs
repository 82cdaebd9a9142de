//! Checks of retry policies. Their shape is the domain's own.

use serde::Deserialize;
use utoipa::ToSchema;
use windlass_shared::limits;
use windlass_shared::model::retry::RetryPolicy;

use super::Faults;
use super::docs::DurationText;

/// When a failed attempt is followed by another. For the documentation; the domain's type is read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetryPolicy)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct RetryDocs {
    /// Growth of the delay. `poly4` is `attempt⁴ + 15 s`.
    #[schema(value_type = BackoffDocs, required = false)]
    backoff: (),
    /// The first delay. Default 1 s.
    #[schema(value_type = DurationText, required = false)]
    initial: (),
    /// No delay is longer, before jitter. Default 1 h.
    #[schema(value_type = DurationText, required = false)]
    max: (),
    /// Growth factor of `exponential`. Default 2.
    #[schema(value_type = f64, minimum = 1, maximum = 100, required = false)]
    multiplier: (),
    /// Spread of the delays. Default `full`.
    #[schema(value_type = JitterDocs, required = false)]
    jitter: (),
    /// Rules for single error codes; the first that matches decides.
    #[schema(value_type = Vec<RetryRuleDocs>, max_items = 32, required = false)]
    rules: (),
}

/// Growth of the delay.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Backoff)]
pub enum BackoffDocs {
    Exponential,
    Linear,
    Fixed,
    Poly4,
}

/// Spread of the delays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Jitter)]
pub enum JitterDocs {
    Full,
    Equal,
    None,
}

/// What to do after an attempt that failed with a given error code.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetryRule)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct RetryRuleDocs {
    /// The error code, or a prefix ending in `*`.
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]+$")]
    code: String,
    /// `false`: dead at once. `true`: retried even where the handler said that the error is permanent.
    retry: Option<bool>,
    /// A delay for this code in place of the policy's.
    #[schema(value_type = Option<DurationText>)]
    delay: (),
    /// Dead after that many attempts.
    #[schema(minimum = 1, maximum = 1000)]
    max_attempts: Option<u32>,
}

const RULES_MAX: usize = 32;
const CODE_BYTES_MAX: usize = 128;

/// Notes what is out of range.
pub fn check(policy: &RetryPolicy, pointer: &str, faults: &mut Faults) {
    let horizon = limits::HORIZON_MAX;
    for (name, span) in [("initial", policy.initial), ("max", policy.max)] {
        if span.0 > horizon {
            faults.wrong(&format!("{pointer}/{name}"), "must be at most 10 years");
        }
    }
    // Written so that NaN fails too.
    if !(1.0..=100.0).contains(&policy.multiplier) {
        faults.wrong(&format!("{pointer}/multiplier"), "must be from 1 to 100");
    }
    if policy.rules.len() > RULES_MAX {
        faults.wrong(&format!("{pointer}/rules"), format!("must be at most {RULES_MAX}"));
    }
    for (i, rule) in policy.rules.iter().take(RULES_MAX).enumerate() {
        let at = |field: &str| format!("{pointer}/rules/{i}/{field}");
        let printable = rule.code.bytes().all(|b| b.is_ascii_graphic());
        if rule.code.is_empty() || rule.code.len() > CODE_BYTES_MAX || !printable {
            faults.wrong(&at("code"), "must be 1 to 128 printable ASCII characters without spaces");
        }
        if rule.delay.is_some_and(|delay| delay.0 > horizon) {
            faults.wrong(&at("delay"), "must be at most 10 years");
        }
        if rule.max_attempts.is_some_and(|n| !(1..=limits::ATTEMPTS_MAX).contains(&n)) {
            faults.wrong(&at("max_attempts"), "must be from 1 to 1000");
        }
    }
}
