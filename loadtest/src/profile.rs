//! Load profiles: what a load test does, and what must hold.
//!
//! A profile is TOML. Those that Windlass ships with are in `loadtest/profiles`; anybody may write others.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use windlass_shared::limits::INLINE_BYTES_MAX;
use windlass_shared::model::name::QueueName;
use windlass_shared::model::time::Span;

pub mod curve;
mod shipped;
pub mod threshold;

pub use shipped::{SHIPPED, shipped};

use curve::Curve;
use threshold::Threshold;

/// Most jobs of one batch.
pub const BATCH_MAX: u32 = 10_000;
/// Most calls under way, users, or calls at once.
pub const AT_ONCE_MAX: u32 = 10_000;
/// Most calls per second that may be planned.
pub const RATE_MAX: f64 = 200_000.0;
/// Most users that join per second: all at once.
const JOINING_MAX: f64 = 1e6;
/// Longest stage.
pub const STAGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A load test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it shows, in a line.
    pub about: String,
    /// What the jobs are like.
    #[serde(default)]
    pub jobs: Jobs,
    /// How often each call is made, relative to the others.
    #[serde(default)]
    pub mix: Mix,
    /// One after the other.
    pub stages: Vec<Stage>,
    /// Jobs may take this long to end after the last stage; what has not ended by then counts as lost.
    #[serde(default = "minute")]
    pub settle: Span,
    /// What must hold, by the name of a figure: see `docs/load-tests.md`.
    #[serde(default)]
    pub thresholds: BTreeMap<String, Threshold>,
    /// What is broken meanwhile. Only where the fleet is private: `windlass-rig load`.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

const fn minute() -> Span {
    Span(Duration::from_secs(60))
}

/// What jobs are like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jobs {
    /// Where they go. Workers must serve it.
    pub queue: QueueName,
    /// How long each sleeps: one length, or two between which it is drawn evenly.
    pub sleep: Range<Span>,
    /// How long each keeps a processor busy.
    pub burn: Range<Span>,
    /// Bytes of the payload.
    pub payload_bytes: Range<u32>,
    /// Of 100 jobs so many fail at first.
    pub failing_percent: f64,
    /// At so many attempts; at the next one they succeed.
    pub fails: u32,
    /// Of 100 jobs so many are delayed.
    pub delayed_percent: f64,
    /// By this much.
    pub delay: Range<Span>,
    /// Jobs have one of so many keys (fairness, concurrency, rate) in turn; 0: none.
    pub keys: u32,
    /// Jobs of one `batch`.
    pub batch: u32,
    /// What a `workflow` is.
    pub graph: Graph,
}

impl Default for Jobs {
    /// No-ops with a payload of 200 bytes.
    fn default() -> Self {
        let zero = Range::One(Span(Duration::ZERO));
        Self {
            queue: QueueName::default(),
            sleep: zero,
            burn: zero,
            payload_bytes: Range::One(200),
            failing_percent: 0.0,
            fails: 1,
            delayed_percent: 0.0,
            delay: Range::One(Span(Duration::from_secs(1))),
            keys: 0,
            batch: 500,
            graph: Graph::default(),
        }
    }
}

/// A value, or two between which one is drawn evenly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Range<T> {
    /// Always this.
    One(T),
    /// From the first to the second.
    Between([T; 2]),
}

impl<T: Copy> Range<T> {
    /// Its ends.
    pub const fn ends(self) -> [T; 2] {
        match self {
            Self::One(value) => [value, value],
            Self::Between(ends) => ends,
        }
    }
}

/// A workflow whose steps do nothing but what jobs do: diamonds (1, `wide`, 1), one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Graph {
    /// How many.
    pub diamonds: u32,
    /// Steps side by side in each.
    pub wide: u32,
}

impl Default for Graph {
    fn default() -> Self {
        Self { diamonds: 1, wide: 2 }
    }
}

impl Graph {
    /// How many steps it has.
    pub const fn steps(self) -> u32 {
        self.diamonds.saturating_mul(self.wide.saturating_add(2))
    }
}

/// Calls, and how often each is made relative to the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// `POST /v1/jobs`.
    #[serde(default)]
    pub submit: f64,
    /// `POST /v1/jobs/batch`.
    #[serde(default)]
    pub batch: f64,
    /// `POST /v1/workflows`.
    #[serde(default)]
    pub workflow: f64,
    /// `GET /health`.
    #[serde(default)]
    pub health: f64,
    /// `GET /v1/jobs/{id}` of a job of this load.
    #[serde(default)]
    pub status: f64,
    /// `GET /v1/jobs/{id}/attempts`.
    #[serde(default)]
    pub detail: f64,
    /// `GET /v1/jobs?tag=…`.
    #[serde(default)]
    pub search: f64,
}

impl Default for Mix {
    /// Submissions alone.
    fn default() -> Self {
        Self {
            submit: 1.0,
            batch: 0.0,
            workflow: 0.0,
            health: 0.0,
            status: 0.0,
            detail: 0.0,
            search: 0.0,
        }
    }
}

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// One job.
    Submit,
    /// Many jobs.
    Batch,
    /// A graph of jobs.
    Workflow,
    /// How the API and what it stands on are.
    Health,
    /// One job.
    Status,
    /// The attempts of one job.
    Detail,
    /// A list of jobs.
    Search,
}

impl CallKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Submit,
        Self::Batch,
        Self::Workflow,
        Self::Health,
        Self::Status,
        Self::Detail,
        Self::Search,
    ];

    /// As figures name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Batch => "batch",
            Self::Workflow => "workflow",
            Self::Health => "health",
            Self::Status => "status",
            Self::Detail => "detail",
            Self::Search => "search",
        }
    }
}

impl Mix {
    /// Calls with their weights; none with a weight of 0.
    pub fn weights(&self) -> Vec<(CallKind, f64)> {
        self.all().into_iter().filter(|(_, weight)| *weight > 0.0).collect()
    }

    fn all(&self) -> [(CallKind, f64); 7] {
        let of = |kind| match kind {
            CallKind::Submit => self.submit,
            CallKind::Batch => self.batch,
            CallKind::Workflow => self.workflow,
            CallKind::Health => self.health,
            CallKind::Status => self.status,
            CallKind::Detail => self.detail,
            CallKind::Search => self.search,
        };
        CallKind::ALL.map(|kind| (kind, of(kind)))
    }
}

/// A part of the load. One of `rate`, `times_peak`, `burst`, `in_flight` and `users` says how calls come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Figures of the stage are named after it.
    pub name: String,
    /// How long; a burst needs none.
    #[serde(default, rename = "for")]
    pub length: Option<Span>,
    /// Open loop: so many calls per second, or from the first to the second evenly, whether or not earlier ones were answered.
    #[serde(default)]
    pub rate: Option<Range<f64>>,
    /// Open loop: so many times the calls per second that were accepted in the last stage with `in_flight`.
    #[serde(default)]
    pub times_peak: Option<f64>,
    /// So many calls at the same moment.
    #[serde(default)]
    pub burst: Option<u32>,
    /// As fast as it goes: so many calls are under way all the time.
    #[serde(default)]
    pub in_flight: Option<u32>,
    /// With `in_flight`: callers wait while more jobs than this are in the queue, so that it goes as fast as jobs end.
    #[serde(default)]
    pub depth_max: Option<u32>,
    /// So many users, each of whom waits for the answer, thinks, and calls again.
    #[serde(default)]
    pub users: Option<u32>,
    /// Users that join per second; all at once where nothing is said.
    #[serde(default)]
    pub joining: Option<f64>,
    /// How long a user thinks.
    #[serde(default)]
    pub think: Option<Range<Span>>,
    /// So many jobs are made wait before it begins: the queue is paused, filled and resumed. They are no part of its figures.
    #[serde(default)]
    pub backlog: Option<u32>,
    /// Meanwhile the queue starts at most so many jobs per second, by a rate limit that is taken back in the end.
    #[serde(default)]
    pub hold: Option<u32>,
    /// Of this stage alone.
    #[serde(default)]
    pub mix: Option<Mix>,
    /// Leave it out of the figures of the whole.
    #[serde(default)]
    pub warm_up: bool,
}

/// How the calls of a stage come.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// At these times.
    Open(Curve),
    /// At a rate that is known only when an earlier stage has ended.
    TimesPeak(f64, Duration),
    /// So many under way for so long, and at most so many jobs in the queue.
    InFlight(u32, Duration, Option<u32>),
    /// So many users, joining at so many per second, thinking this long.
    Users {
        /// How many.
        count: u32,
        /// Per second.
        joining: f64,
        /// Between an answer and the next call.
        think: [Duration; 2],
        /// How long calls begin.
        length: Duration,
    },
}

/// Something that is broken during the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// From the beginning of the load.
    pub at: Span,
    /// What.
    pub what: FaultKind,
    /// How long, where it lasts.
    #[serde(default, rename = "for")]
    pub length: Option<Span>,
}

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// `kill -9` of a worker, which is started again, after a second where nothing else is said.
    KillWorker,
    /// Redis stands still (SIGSTOP).
    StallRedis,
    /// What a worker and Redis send each other is swallowed, without a word.
    CutLink,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// It is not TOML, has unknown fields, or says something that cannot be done; every fault is named.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str::<Self>(text).map_err(|error| error.to_string())?.checked()
    }

    /// Itself, if it can be carried out.
    ///
    /// # Errors
    /// What it says cannot be done; every fault is named.
    pub fn checked(self) -> Result<Self, String> {
        let faults = self.faults_of_form();
        if faults.is_empty() { Ok(self) } else { Err(faults.join("\n")) }
    }

    /// With stages so many times as long.
    pub fn scaled(mut self, factor: f64) -> Self {
        let scale = |span: &mut Span| *span = Span(span.0.mul_f64(factor));
        self.stages.iter_mut().filter_map(|stage| stage.length.as_mut()).for_each(scale);
        self
    }

    /// A name that tells it from others, and from itself where it was changed: results are compared by it.
    pub fn named(&self, name: &str) -> String {
        if shipped(name).as_ref() == Some(self) {
            return name.to_owned();
        }
        let text = serde_json::to_vec(self).expect("a profile is made of what JSON has");
        let hash = Sha256::digest(&text);
        format!("{name}-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
    }

    /// The planned length of all stages.
    pub fn length(&self) -> Duration {
        self.stages.iter().filter_map(|stage| stage.length).map(|length| length.0).sum()
    }

    /// The mix of a stage.
    pub fn mix_of<'a>(&'a self, stage: &'a Stage) -> &'a Mix {
        stage.mix.as_ref().unwrap_or(&self.mix)
    }

    fn faults_of_form(&self) -> Vec<String> {
        let mut faults = self.jobs.faults_of_form();
        if self.stages.is_empty() {
            faults.push("stages: there must be at least one".into());
        }
        let mut names = std::collections::BTreeSet::new();
        let mut has_peak = false;
        for (n, stage) in self.stages.iter().enumerate() {
            let mut wrong = |what: String| faults.push(format!("stages[{n}]: {what}"));
            if !is_name(&stage.name) {
                wrong("name: must be 1 to 32 letters, digits and `_`".into());
            } else if !names.insert(stage.name.as_str()) {
                wrong(format!("name: there is another stage {:?}", stage.name));
            }
            match stage.load() {
                Ok(Load::TimesPeak(..)) if !has_peak => {
                    wrong("times_peak: no stage before it has `in_flight`".into());
                }
                Ok(Load::InFlight(..)) => has_peak = true,
                Ok(_) => {}
                Err(what) => wrong(what),
            }
            if self.mix_of(stage).weights().is_empty() {
                wrong("mix: no call has a weight over 0".into());
            }
        }
        for mix in self.stages.iter().filter_map(|stage| stage.mix.as_ref()).chain([&self.mix]) {
            if !mix.all().iter().all(|(_, weight)| (0.0..=1e6).contains(weight)) {
                faults.push("mix: weights must be 0 to 1000000".into());
            }
        }
        if self.length() > STAGE_MAX {
            faults.push(format!("stages: together longer than {}", Span(STAGE_MAX)));
        }
        for (n, fault) in self.faults.iter().enumerate() {
            if fault.length.is_none() && fault.what != FaultKind::KillWorker {
                faults.push(format!("faults[{n}]: for: how long is needed"));
            }
        }
        let stages: Vec<&str> = self.stages.iter().map(|stage| stage.name.as_str()).collect();
        for (name, threshold) in &self.thresholds {
            let found = threshold.faults_of_form(name, &stages);
            faults.extend(found.into_iter().map(|what| format!("thresholds.{name}: {what}")));
        }
        faults
    }
}

/// Whether a stage may be called so.
fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Jobs {
    fn faults_of_form(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut want = |holds: bool, what: &str| {
            if !holds {
                faults.push(format!("jobs.{what}"));
            }
        };
        let percent = |value: f64| (0.0..=100.0).contains(&value);
        let ordered = |range: Range<Span>| range.ends()[0] <= range.ends()[1];
        let [least, most] = self.payload_bytes.ends();
        want(least <= most, "payload_bytes: the first must not be more than the second");
        want(
            most as usize <= INLINE_BYTES_MAX - 256,
            &format!("payload_bytes: must be at most {}", INLINE_BYTES_MAX - 256),
        );
        want(ordered(self.sleep), "sleep: the first must not be more than the second");
        want(ordered(self.burn), "burn: the first must not be more than the second");
        want(ordered(self.delay), "delay: the first must not be more than the second");
        want(percent(self.failing_percent), "failing_percent: must be 0 to 100");
        want(percent(self.delayed_percent), "delayed_percent: must be 0 to 100");
        want((1..=4).contains(&self.fails), "fails: must be 1 to 4; jobs have 5 attempts");
        want((1..=BATCH_MAX).contains(&self.batch), "batch: must be 1 to 10000");
        let steps = self.graph.steps();
        want(
            self.graph.diamonds > 0 && self.graph.wide > 0 && steps <= 10_000,
            "graph: must have 1 to 10000 steps",
        );
        faults
    }
}

impl Stage {
    /// How its calls come.
    ///
    /// # Errors
    /// Not exactly one way is given, or one is out of its bounds.
    pub fn load(&self) -> Result<Load, String> {
        let ways = [
            self.rate.is_some(),
            self.times_peak.is_some(),
            self.burst.is_some(),
            self.in_flight.is_some(),
            self.users.is_some(),
        ];
        if ways.iter().filter(|given| **given).count() != 1 {
            return Err(
                "exactly one of `rate`, `times_peak`, `burst`, `in_flight` and `users` is needed"
                    .into(),
            );
        }
        if (self.joining.is_some() || self.think.is_some()) && self.users.is_none() {
            return Err("`joining` and `think` are for `users`".into());
        }
        if self.hold == Some(0) || self.backlog == Some(0) {
            return Err("`hold` and `backlog` must be over 0".into());
        }
        if self.depth_max.is_some() && self.in_flight.is_none() {
            return Err("`depth_max` is for `in_flight`".into());
        }
        let length = self.length.map(|length| length.0);
        let long = || match length {
            Some(length) if length > Duration::ZERO => Ok(length),
            _ => Err("for: a length over 0 is needed".to_owned()),
        };
        let at_once = |field: &str, n: u32| match n {
            1..=AT_ONCE_MAX => Ok(n),
            _ => Err(format!("{field}: must be 1 to {AT_ONCE_MAX}")),
        };
        if let Some(rate) = self.rate {
            let [from, to] = rate.ends();
            let legal = |rate: f64| (0.0..=RATE_MAX).contains(&rate);
            if !legal(from) || !legal(to) || from + to == 0.0 {
                return Err(format!("rate: must be 0 to {RATE_MAX} and not 0 throughout"));
            }
            let curve = Curve::ramp(from, to, long()?);
            if curve.calls() == 0 {
                return Err("for: no call is due in it".into());
            }
            return Ok(Load::Open(curve));
        }
        if let Some(times) = self.times_peak {
            if !(times > 0.0 && times <= 100.0) {
                return Err("times_peak: must be over 0 and at most 100".into());
            }
            return Ok(Load::TimesPeak(times, long()?));
        }
        if let Some(burst) = self.burst {
            return Ok(Load::Open(Curve::burst(at_once("burst", burst)?)));
        }
        if let Some(in_flight) = self.in_flight {
            let count = at_once("in_flight", in_flight)?;
            return Ok(Load::InFlight(count, long()?, self.depth_max));
        }
        let count = at_once("users", self.users.unwrap_or(0))?;
        let joining = self.joining.unwrap_or(JOINING_MAX);
        if !(0.01..=JOINING_MAX).contains(&joining) {
            return Err(format!("joining: must be 0.01 to {JOINING_MAX}"));
        }
        if f64::from(count) / joining >= long()?.as_secs_f64() {
            return Err("for: all users must have joined before it is over".into());
        }
        let second = Span(Duration::from_secs(1));
        let [least, most] = self.think.unwrap_or(Range::One(second)).ends();
        if least > most {
            return Err("think: the first must not be more than the second".into());
        }
        Ok(Load::Users { count, joining, think: [least.0, most.0], length: long()? })
    }
}

#[cfg(test)]
mod tests;
