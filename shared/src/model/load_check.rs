//! Load checks: what one is to do, and what it found. The seam between whoever asks for a check, whoever carries it out
//! (`windlass-loadtest`), and whoever keeps and shows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::INLINE_BYTES_MAX;
use crate::model::time::Span;

/// The kind of the job that carries a check out.
pub const KIND: &str = "load_check.run";
/// The queue of a shadow namespace.
pub const SHADOW_QUEUE: &str = "check";
/// Most jobs per minute.
pub const RATE_MAX: u32 = 60_000;
/// Most jobs of one check.
pub const JOBS_MAX: u64 = 200_000;
/// Longest load.
pub const DURATION_MAX: Duration = Duration::from_secs(3600);
/// Most jobs that a check runs at once.
pub const SLOTS_MAX: u32 = 256;
/// Longest delay of a delayed job.
pub const DELAY_MAX: Duration = Duration::from_secs(60);
/// Jobs may take this long after the last submission to end; what has not ended by then counts as lost.
pub const SETTLE_MAX: Duration = Duration::from_secs(60);
/// What a check's job is given beyond its load: settling, a wait for doubles, writing and cleaning, and a margin.
pub const OVERHEAD: Duration = Duration::from_secs(240);

/// What a check does: so many jobs per minute for so long, at intended times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Jobs per minute, 1 to [`RATE_MAX`].
    pub rate_per_minute: u32,
    /// How long jobs are submitted, 1 s to [`DURATION_MAX`].
    pub duration: Span,
    /// Bytes of each payload, up to what travels inline.
    pub payload_bytes: u32,
    /// Of 100 jobs so many are delayed.
    pub delayed_percent: u32,
    /// By this much.
    pub delay: Span,
    /// Jobs that run at once, 1 to [`SLOTS_MAX`].
    pub slots: u32,
    /// 99 of 100 jobs start this soon after their intended time.
    pub start_p99_max: Span,
    /// 99 of 100 jobs are recorded as ended this soon after it.
    pub end_p99_max: Span,
}

impl Default for Plan {
    /// 1,000 a minute for five minutes; one in ten delayed.
    fn default() -> Self {
        Self {
            rate_per_minute: 1_000,
            duration: Span(Duration::from_secs(300)),
            payload_bytes: 256,
            delayed_percent: 10,
            delay: Span(Duration::from_secs(2)),
            slots: 16,
            start_p99_max: Span(Duration::from_secs(1)),
            end_p99_max: Span(Duration::from_secs(2)),
        }
    }
}

impl Plan {
    /// Every field that is out of its bounds, and what is wrong with it.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut want = |holds: bool, field, text: String| {
            if !holds {
                faults.push((field, text));
            }
        };
        let (second, long) = (Duration::from_secs(1), Span(DURATION_MAX));
        want(
            (1..=RATE_MAX).contains(&self.rate_per_minute),
            "rate_per_minute",
            format!("must be from 1 to {RATE_MAX}"),
        );
        want(
            (second..=DURATION_MAX).contains(&self.duration.0),
            "duration",
            format!("must be from 1s to {long}"),
        );
        want(
            self.payload_bytes as usize <= INLINE_BYTES_MAX - 64,
            "payload_bytes",
            format!("must be at most {}", INLINE_BYTES_MAX - 64),
        );
        want(self.delayed_percent <= 100, "delayed_percent", "must be at most 100".into());
        want(self.delay.0 <= DELAY_MAX, "delay", format!("must be at most {}", Span(DELAY_MAX)));
        want(
            (1..=SLOTS_MAX).contains(&self.slots),
            "slots",
            format!("must be from 1 to {SLOTS_MAX}"),
        );
        for (limit, field) in
            [(self.start_p99_max, "start_p99_max"), (self.end_p99_max, "end_p99_max")]
        {
            want(
                limit.0 > Duration::ZERO && limit.0 <= SETTLE_MAX,
                field,
                format!("must be more than 0 and at most {}", Span(SETTLE_MAX)),
            );
        }
        let jobs = self.jobs();
        want(
            (1..=JOBS_MAX).contains(&jobs),
            "rate_per_minute",
            format!("with this duration makes {jobs} jobs; a check has 1 to {JOBS_MAX}"),
        );
        faults
    }

    /// How many jobs it submits.
    pub fn jobs(&self) -> u64 {
        let ms = u64::try_from(self.duration.0.as_millis()).unwrap_or(u64::MAX);
        u64::from(self.rate_per_minute).saturating_mul(ms) / 60_000
    }

    /// When job `n` is due, from the beginning of the load.
    pub fn intended(&self, n: u64) -> Duration {
        let micros = n.saturating_mul(60_000_000) / u64::from(self.rate_per_minute.max(1));
        Duration::from_micros(micros)
    }

    /// Whether job `n` is delayed. Spread evenly.
    pub fn is_delayed(&self, n: u64) -> bool {
        let percent = u64::from(self.delayed_percent);
        (n + 1) * percent / 100 > n * percent / 100
    }

    /// The least time-out of its job.
    pub fn timeout(&self) -> Duration {
        self.duration.0 + self.delay.0 + OVERHEAD
    }
}

/// How a check stands. The numbers are those of the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// Under way, or given back and about to begin anew.
    Running = 0,
    /// Every verdict holds.
    Passed = 10,
    /// One does not, or it could not be carried through.
    Failed = 11,
    /// Somebody stopped it.
    Aborted = 12,
}

impl CheckState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Running, Self::Passed, Self::Failed, Self::Aborted];

    /// From the stores' number.
    pub fn from_number(n: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i16 == n)
    }

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// One promise, held against what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Of what, with its unit.
    pub name: String,
    /// What is allowed: the most, or of `rate_percent` the least.
    pub limit: f64,
    /// What was found.
    pub measured: f64,
    /// Whether that is allowed.
    pub holds: bool,
}

impl Verdict {
    /// Holds when no more than the limit was found.
    pub fn at_most(name: &str, limit: f64, measured: f64) -> Self {
        Self { name: name.to_owned(), limit, measured, holds: measured <= limit }
    }

    /// Holds when no less than the limit was found.
    pub fn at_least(name: &str, limit: f64, measured: f64) -> Self {
        Self { name: name.to_owned(), limit, measured, holds: measured >= limit }
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Each promise.
    pub verdicts: Vec<Verdict>,
    /// Jobs that the ledger accepted.
    pub accepted: u64,
    /// Submissions that it refused, or of which it is not known.
    pub refused: u64,
    /// From the first intended time to the last answer.
    pub load_seconds: f64,
    /// Up to ten jobs that broke a promise, and which.
    pub examples: Vec<String>,
}

impl Report {
    /// Of a check whose process died: how often.
    pub fn interrupted() -> Self {
        Self { verdicts: vec![Verdict::at_most("interrupted", 0.0, 1.0)], ..Self::default() }
    }

    /// One sentence for each verdict that does not hold.
    pub fn reasons(&self) -> Vec<String> {
        let broken = self.verdicts.iter().filter(|verdict| !verdict.holds);
        broken
            .map(|v| format!("{} is {:.3}, the limit is {}", v.name, v.measured, v.limit))
            .collect()
    }

    /// What was measured under a name.
    pub fn measured(&self, name: &str) -> Option<f64> {
        self.verdicts.iter().find(|verdict| verdict.name == name).map(|verdict| verdict.measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_is_wrong_with_it() {
        assert_eq!(Plan::default().faults(), []);
        assert_eq!(Plan::default().jobs(), 5_000);
        let wrong = Plan { rate_per_minute: 0, slots: 0, delayed_percent: 101, ..Plan::default() };
        let fields: Vec<_> = wrong.faults().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["rate_per_minute", "delayed_percent", "slots", "rate_per_minute"]);
        let hour = Span(DURATION_MAX);
        let large = Plan { rate_per_minute: RATE_MAX, duration: hour, ..Plan::default() };
        assert_eq!(large.faults().len(), 1, "too many jobs");
        assert!(serde_json::from_str::<Plan>(r#"{"rate": 5}"#).is_err(), "a misspelt field");
    }

    #[test]
    fn jobs_are_spread_evenly_and_so_are_the_delayed_ones() {
        let plan = Plan::default();
        assert_eq!(plan.intended(1_000), Duration::from_secs(60));
        assert_eq!((0..1_000).filter(|n| plan.is_delayed(*n)).count(), 100);
        assert!(
            (0..990).step_by(10).all(|n| (n..n + 10).filter(|n| plan.is_delayed(*n)).count() == 1)
        );
    }

    #[test]
    fn a_verdict_at_its_limit_holds() {
        assert!(
            Verdict::at_most("lost", 0.0, 0.0).holds && !Verdict::at_most("lost", 0.0, 1.0).holds
        );
        let rate = |measured| Verdict::at_least("rate_percent", 99.0, measured);
        assert!(rate(99.0).holds && !rate(98.9).holds && !rate(f64::NAN).holds);
        let report = Report::interrupted();
        assert_eq!(report.reasons(), ["interrupted is 1.000, the limit is 0"]);
    }
}
