//! Queues on record: their settings and pauses.

use std::collections::BTreeMap;
use std::time::Duration;

use super::circuits::SharedCircuits;
use crate::engine::ShardSettings;
use crate::engine::flow::{FlowKey, FlowSettings, INTERVAL_MAX_US, Limits, Rate, RetryBudget};
use crate::model::job::Priority;
use crate::model::name::{Kind, Namespace, QueueName};
use crate::model::retry::RetryPolicy;
use crate::model::time::{Span, Timestamp};

/// A queue on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Whose.
    pub namespace: Namespace,
    /// Its name.
    pub name: QueueName,
    /// Operator's settings.
    pub settings: QueueSettings,
    /// Rises with every change of settings or pause.
    pub version: u64,
    /// What is set of the circuits of its namespace.
    pub circuits: SharedCircuits,
    /// Who paused it, when and why; `None` while it runs.
    pub paused: Option<Paused>,
    /// First seen.
    pub created_at: Timestamp,
}

/// An operator's pause.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Paused {
    /// Since when.
    pub since: Timestamp,
    /// The key or `local`.
    pub by: String,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A queue that changes while its circuits are read is read so many times.
pub(super) const READS_MAX: usize = 10;

/// Most fairness keys of a queue with a weight of their own.
pub const WEIGHTS_MAX: usize = 1_000;

/// What an operator sets on a queue. Stored as JSON. Fields of a newer build are passed over: what this build
/// knows of a queue still holds. What callers send is read elsewhere, and strictly.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct QueueSettings {
    /// Most jobs running at once over all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Starts per time over all workers.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::settings_text::rate"
    )]
    pub rate_limit: Option<RateLimit>,
    /// Most running jobs of one `concurrency_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_key_concurrency: Option<u32>,
    /// Starts per time of one `rate_limit_key`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::settings_text::rate"
    )]
    pub per_key_rate_limit: Option<RateLimit>,
    /// How many retries may run.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::settings_text::retry_budget"
    )]
    pub retry_budget: Option<RetryBudgetSettings>,
    /// Limits of these kinds, within those of the queue; at most [`KINDS_MAX`](crate::engine::flow::KINDS_MAX).
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::settings_text::kinds"
    )]
    pub kinds: Option<BTreeMap<Kind, KindLimits>>,
    /// Fairness keys whose share counts more than 1; at most [`WEIGHTS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fairness_weights: Option<BTreeMap<String, u32>>,
    /// Most waiting jobs; beyond it submissions answer 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u64>,
    /// A ready job that waits longer is late; `None` is the installation's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_objective: Option<Span>,
    /// Lease of its jobs; `None` is the worker's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Span>,
    /// What a level of priority is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_unit: Option<Span>,
    /// `max_attempts` of jobs that don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_max_attempts: Option<u32>,
    /// `timeout` of jobs that don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_timeout: Option<Span>,
    /// `retry` of jobs that don't say.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::settings_text::retry"
    )]
    pub default_retry: Option<RetryPolicy>,
    /// `priority` of jobs that don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_priority: Option<Priority>,
}

/// Limits of one kind of a queue.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindLimits {
    /// Most jobs of it running at once over all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Starts per time over all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// How many retries may run: a share of the first starts, and a floor.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudgetSettings {
    /// For every hundred first starts; `None`: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Beside those; `None`: 10 a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<RateLimit>,
}

/// A rate.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Starts.
    pub limit: u32,
    /// Per this time.
    pub per: Span,
    /// At once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

impl Queue {
    /// The version of what its shards are to know: rises with every change of the queue, and of any circuit of its
    /// namespace.
    ///
    /// A queue and its circuits are always read as of one moment, so that this tells their states apart.
    pub fn shard_version(&self) -> u64 {
        self.version + self.circuits.revision
    }

    /// What its shards are to know.
    pub fn shard_settings(&self) -> ShardSettings {
        let defaults = ShardSettings::default();
        let circuits = self.circuits.set.iter().copied().collect();
        ShardSettings {
            version: self.shard_version(),
            paused: self.paused.is_some(),
            priority_unit: self.settings.priority_unit.map_or(defaults.priority_unit, |s| s.0),
            flow: FlowSettings { circuits, ..self.settings.flow() },
            ..defaults
        }
    }
}

impl QueueSettings {
    fn flow(&self) -> FlowSettings {
        let rate = |rate: &Option<RateLimit>| rate.as_ref().map(RateLimit::rate);
        let of_kind = |(kind, limits): (&Kind, &KindLimits)| {
            let (concurrency, rate) = (limits.max_concurrency, rate(&limits.rate_limit));
            (kind.clone(), Limits { concurrency, rate })
        };
        let weight = |(key, weight): (&String, &u32)| (FlowKey::of(key), *weight);
        FlowSettings {
            queue: Limits { concurrency: self.max_concurrency, rate: rate(&self.rate_limit) },
            keys: Limits {
                concurrency: self.per_key_concurrency,
                rate: rate(&self.per_key_rate_limit),
            },
            retries: self.retry_budget.as_ref().map(RetryBudgetSettings::budget),
            kinds: self.kinds.iter().flatten().map(of_kind).collect(),
            weights: self.fairness_weights.iter().flatten().map(weight).collect(),
            circuits: BTreeMap::new(),
        }
    }
}

impl RetryBudgetSettings {
    /// As the engine holds to it.
    fn budget(&self) -> RetryBudget {
        let ten = RateLimit { limit: 10, per: Span(Duration::from_secs(1)), burst: None };
        RetryBudget::new(self.percent.unwrap_or(20), self.min.as_ref().unwrap_or(&ten).rate())
    }
}

impl RateLimit {
    /// As the engine holds to it. `burst` is `limit` where nothing is said.
    pub fn rate(&self) -> Rate {
        let (limit, per) = (u128::from(self.limit.max(1)), self.per.0.as_micros());
        let interval = per.div_ceil(limit).clamp(1, INTERVAL_MAX_US.into());
        let interval_us = u64::try_from(interval).unwrap_or(INTERVAL_MAX_US);
        Rate::new(interval_us, self.burst.unwrap_or(self.limit))
    }
}
