//! Changes of queues, and small bodies of calls on jobs.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;
use windlass_shared::engine::flow::{KINDS_MAX, RETRY_PERCENT_MAX, SHARE_WEIGHT_MAX};
use windlass_shared::ledger::{
    KindLimits, QueueSettings, RateLimit, RetryBudgetSettings, WEIGHTS_MAX,
};
use windlass_shared::limits;
use windlass_shared::model::job::{JobState, Priority};
use windlass_shared::model::name::Kind;
use windlass_shared::model::retry::RetryPolicy;
use windlass_shared::model::time::Span;

use super::docs::{DayText, LeaseText, ObjectiveText, Tag, TimeoutText};
use super::retry::RetryDocs;
use super::{Change, Faults, retry};
use crate::error::ApiError;

/// Changes of a queue's settings. Absent fields stay; `null` removes a setting.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueuePatch {
    /// Most jobs running at once over all workers.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    max_concurrency: Change<u32>,
    /// Starts per time over all workers.
    #[serde(default)]
    #[schema(value_type = Option<RateLimitDocs>)]
    rate_limit: Change<RateLimit>,
    /// Most running jobs of one `concurrency_key`.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    per_key_concurrency: Change<u32>,
    /// Starts per time of one `rate_limit_key`.
    #[serde(default)]
    #[schema(value_type = Option<RateLimitDocs>)]
    per_key_rate_limit: Change<RateLimit>,
    /// How many retries may run: a share of the first starts, and a floor.
    #[serde(default)]
    #[schema(value_type = Option<RetryBudgetDocs>)]
    retry_budget: Change<RetryBudgetSettings>,
    /// Limits of kinds, within those of the queue: all of them anew. At most 100.
    #[serde(default)]
    #[schema(value_type = Option<HashMap<String, KindLimitsDocs>>)]
    kinds: Change<BTreeMap<Kind, KindLimits>>,
    /// Fairness keys whose share counts more than 1: all of them anew. At most 1,000, each from 1 to 1,000.
    #[serde(default)]
    #[schema(value_type = Option<HashMap<String, u32>>)]
    fairness_weights: Change<BTreeMap<String, u32>>,
    /// Most waiting jobs; beyond it submissions answer 429.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 1_000_000_000)]
    max_depth: Change<u64>,
    /// A ready job that waits longer is late: an alert, and what `GET /v1/scale/{queue}` reckons with. 1 s to 1 day.
    #[serde(default)]
    #[schema(value_type = Option<ObjectiveText>)]
    latency_objective: Change<Span>,
    /// Lease of its jobs: 3 s to 1 h.
    #[serde(default)]
    #[schema(value_type = Option<LeaseText>)]
    lease: Change<Span>,
    /// What a level of priority is worth in waiting; at most 1 day.
    #[serde(default)]
    #[schema(value_type = Option<DayText>)]
    priority_unit: Change<Span>,
    /// `max_attempts` of jobs that don't say.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    default_max_attempts: Change<u32>,
    /// `timeout` of jobs that don't say; at most 7 days.
    #[serde(default)]
    #[schema(value_type = Option<TimeoutText>)]
    default_timeout: Change<Span>,
    /// `retry` of jobs that don't say.
    #[serde(default)]
    #[schema(value_type = Option<RetryDocs>)]
    default_retry: Change<RetryPolicy>,
    /// `priority` of jobs that don't say.
    #[serde(default)]
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 9)]
    default_priority: Change<Priority>,
}

/// A rate.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RateLimit)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct RateLimitDocs {
    /// Starts.
    #[schema(minimum = 1, maximum = 1_000_000)]
    limit: u32,
    /// Per this time; 1 ms to 1 day.
    #[schema(value_type = DayText)]
    per: (),
    /// At once.
    #[schema(minimum = 1, maximum = 1_000_000)]
    burst: Option<u32>,
}

/// How many retries may run: a share of the first starts, and a floor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetryBudget)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct RetryBudgetDocs {
    /// For every hundred first starts; 20 where nothing is said.
    #[schema(maximum = 1_000)]
    percent: Option<u32>,
    /// Beside those, at least one an hour; 10 a second where nothing is said.
    min: Option<RateLimitDocs>,
}

/// Limits of a kind.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KindLimits)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct KindLimitsDocs {
    /// Most jobs of the kind running at once over all workers.
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_concurrency: Option<u32>,
    /// Starts per time over all workers.
    rate_limit: Option<RateLimitDocs>,
}

const COUNT_MAX: u32 = 1_000_000;
const DEPTH_MAX: u64 = 1_000_000_000;
const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

impl QueuePatch {
    /// # Errors
    /// 422 that lists what is out of range.
    pub fn check(&self) -> Result<(), ApiError> {
        let mut faults = Faults::default();
        for (pointer, count) in [
            ("/max_concurrency", &self.max_concurrency),
            ("/per_key_concurrency", &self.per_key_concurrency),
        ] {
            if count.value().is_some_and(|n| !(1..=COUNT_MAX).contains(n)) {
                faults.wrong(pointer, "must be from 1 to 1000000");
            }
        }
        if self.max_depth.value().is_some_and(|n| !(1..=DEPTH_MAX).contains(n)) {
            faults.wrong("/max_depth", "must be from 1 to 1000000000");
        }
        let attempts = self.default_max_attempts.value();
        if attempts.is_some_and(|n| !(1..=limits::ATTEMPTS_MAX).contains(n)) {
            faults.wrong("/default_max_attempts", "must be from 1 to 1000");
        }
        if self.lease.value().is_some_and(|s| s.0 < limits::LEASE_MIN || s.0 > limits::LEASE_MAX) {
            faults.wrong("/lease", "must be from 3s to 1h");
        }
        let objective = limits::LATENCY_OBJECTIVE_MIN..=limits::LATENCY_OBJECTIVE_MAX;
        if self.latency_objective.value().is_some_and(|span| !objective.contains(&span.0)) {
            faults.wrong("/latency_objective", "must be from 1s to 1 day");
        }
        if self.priority_unit.value().is_some_and(|span| span.0.is_zero() || span.0 > DAY) {
            faults.wrong("/priority_unit", "must be longer than 0 and at most 1 day");
        }
        let over = |span: &Span| span.0.is_zero() || span.0 > limits::TIMEOUT_MAX;
        if self.default_timeout.value().is_some_and(over) {
            faults.wrong("/default_timeout", "must be longer than 0 and at most 7 days");
        }
        for (pointer, rate) in [
            ("/rate_limit", self.rate_limit.value()),
            ("/per_key_rate_limit", self.per_key_rate_limit.value()),
        ] {
            if let Some(rate) = rate {
                check_rate(pointer, rate, &mut faults);
            }
        }
        if let Some(budget) = self.retry_budget.value() {
            check_budget(budget, &mut faults);
        }
        if let Some(kinds) = self.kinds.value() {
            check_kinds(kinds, &mut faults);
        }
        if let Some(weights) = self.fairness_weights.value() {
            check_weights(weights, &mut faults);
        }
        if let Some(policy) = self.default_retry.value() {
            retry::check(policy, "/default_retry", &mut faults);
        }
        faults.finish()
    }

    /// Carries the changes out.
    pub fn apply(self, settings: &mut QueueSettings) {
        self.max_concurrency.apply(&mut settings.max_concurrency);
        self.rate_limit.apply(&mut settings.rate_limit);
        self.per_key_concurrency.apply(&mut settings.per_key_concurrency);
        self.per_key_rate_limit.apply(&mut settings.per_key_rate_limit);
        self.retry_budget.apply(&mut settings.retry_budget);
        self.kinds.apply(&mut settings.kinds);
        self.fairness_weights.apply(&mut settings.fairness_weights);
        self.max_depth.apply(&mut settings.max_depth);
        self.latency_objective.apply(&mut settings.latency_objective);
        self.lease.apply(&mut settings.lease);
        self.priority_unit.apply(&mut settings.priority_unit);
        self.default_max_attempts.apply(&mut settings.default_max_attempts);
        self.default_timeout.apply(&mut settings.default_timeout);
        self.default_retry.apply(&mut settings.default_retry);
        self.default_priority.apply(&mut settings.default_priority);
    }
}

/// Notes what of a rate is out of range; also of those of quotas and throttles.
pub fn check_rate(pointer: &str, rate: &RateLimit, faults: &mut Faults) {
    if !(1..=COUNT_MAX).contains(&rate.limit) {
        faults.wrong(&format!("{pointer}/limit"), "must be from 1 to 1000000");
    }
    if rate.per.0.is_zero() || rate.per.0 > DAY {
        faults.wrong(&format!("{pointer}/per"), "must be longer than 0 and at most 1 day");
    }
    if rate.burst.is_some_and(|n| !(1..=COUNT_MAX).contains(&n)) {
        faults.wrong(&format!("{pointer}/burst"), "must be from 1 to 1000000");
    }
}

fn check_budget(budget: &RetryBudgetSettings, faults: &mut Faults) {
    if budget.percent.is_some_and(|percent| percent > RETRY_PERCENT_MAX) {
        faults.wrong("/retry_budget/percent", "must be at most 1000");
    }
    if let Some(min) = &budget.min {
        check_rate("/retry_budget/min", min, faults);
        let hours = u64::from(min.limit) * 3_600;
        if min.per.0.as_secs() > hours {
            faults.wrong("/retry_budget/min", "must be at least one an hour");
        }
    }
}

fn check_kinds(kinds: &BTreeMap<Kind, KindLimits>, faults: &mut Faults) {
    if kinds.len() > KINDS_MAX {
        faults.wrong("/kinds", "must be at most 100");
    }
    for (kind, limits) in kinds {
        if limits.max_concurrency.is_some_and(|n| !(1..=COUNT_MAX).contains(&n)) {
            faults.wrong(&format!("/kinds/{kind}/max_concurrency"), "must be from 1 to 1000000");
        }
        if let Some(rate) = &limits.rate_limit {
            check_rate(&format!("/kinds/{kind}/rate_limit"), rate, faults);
        }
    }
}

fn check_weights(weights: &BTreeMap<String, u32>, faults: &mut Faults) {
    if weights.len() > WEIGHTS_MAX {
        faults.wrong("/fairness_weights", "must be at most 1000");
    }
    for (n, (key, weight)) in weights.iter().enumerate() {
        let pointer = format!("/fairness_weights/{n}");
        faults.indexed(&pointer, key, limits::KEY_BYTES_MAX);
        if !(1..=SHARE_WEIGHT_MAX).contains(weight) {
            faults.wrong(&pointer, "must be from 1 to 1000");
        }
    }
}

const REASON_BYTES_MAX: usize = 1_000;

/// Why, for people.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonRequest {
    /// At most 1,000 bytes.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$"
    )]
    pub reason: Option<String>,
}

impl ReasonRequest {
    /// # Errors
    /// 422 or 400.
    pub fn check(self) -> Result<Option<String>, ApiError> {
        let mut faults = Faults::default();
        if let Some(reason) = &self.reason {
            faults.indexed("/reason", reason, REASON_BYTES_MAX);
        }
        faults.finish()?;
        Ok(self.reason)
    }
}

/// Which jobs of a queue are removed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// Waiting states: `ready`, `scheduled`, `retrying`, `blocked`. Default `ready` alone.
    #[serde(default, deserialize_with = "super::bounded::<_, _, 4>")]
    #[schema(value_type = Vec<WaitingDocs>, max_items = 4)]
    states: Vec<JobState>,
}

/// A state in which a job waits.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WaitingState)]
pub enum WaitingDocs {
    Ready,
    Scheduled,
    Retrying,
    Blocked,
}

impl PurgeRequest {
    /// # Errors
    /// 422 for a state in which a job does not wait.
    pub fn states(self) -> Result<Vec<JobState>, ApiError> {
        if self.states.is_empty() {
            return Ok(vec![JobState::Ready]);
        }
        let mut faults = Faults::default();
        for (i, state) in self.states.iter().enumerate() {
            if state.is_terminal() || *state == JobState::Running {
                faults.wrong(&format!("/states/{i}"), "jobs in this state do not wait");
            }
        }
        faults.finish()?;
        Ok(self.states)
    }
}

/// Changes of a job that is neither finished nor running. Absent fields stay.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobPatchRequest<'a> {
    /// 9 runs first.
    #[serde(default)]
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 9)]
    pub priority: Option<Priority>,
    /// Not before.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<windlass_shared::model::time::Timestamp>,
    /// Where it waits.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub queue: Option<windlass_shared::model::name::QueueName>,
    /// Handler failures and time-outs allowed.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_attempts: Option<u32>,
    /// In place of the present ones.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Vec<Tag>>, max_items = 20)]
    pub tags: Option<Vec<super::Text<'a>>>,
}
