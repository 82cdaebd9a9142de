//! What holds starts back inside a shard: limits of concurrency and rate, of the queue, of kinds and of keys; and who
//! is next among those that share it.
//!
//! Keys are known to the engine by hash only ([`FlowKey`]).

use std::collections::BTreeMap;

use sha2::Digest as _;

use crate::model::name::Kind;

/// Longest a rate of one start takes, in µs: 366 days.
pub const INTERVAL_MAX_US: u64 = 366 * 24 * 3600 * 1_000_000;
/// Most units that one start costs.
pub const UNITS_MAX: u32 = 1_000_000;
/// Largest weight of a share.
pub const SHARE_WEIGHT_MAX: u32 = 1_000;
/// Most kinds of a queue with limits of their own.
pub const KINDS_MAX: usize = 100;

/// The hash of a key, as far as a shard tells keys apart: the first 64 bits of SHA-256. Among a million keys of a
/// queue two are the same with a probability of 3 × 10⁻⁸, and then share a limit.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey([u8; 8]);

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FlowKey {
    /// No key at all.
    pub const NONE: Self = Self([0; 8]);

    /// Of this text.
    pub fn of(text: &str) -> Self {
        Self::digest([text.as_bytes()])
    }

    /// From what [`Self::as_bytes`] gave.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Whether it is no key.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Of a lane's key: the group of its jobs.
    pub fn group(self) -> Group {
        let [a, b, c, ..] = self.0;
        Group::from_bytes([a, b, c])
    }

    /// Of a lane: its group, and this to tell it from others of the group.
    fn lane(group: Group, rest: Self) -> Self {
        let ([a, b, c], [_, _, _, rest @ ..]) = (group.as_bytes(), rest.0);
        let [d, e, f, g, h] = rest;
        Self([a, b, c, d, e, f, g, h])
    }

    fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = sha2::Sha256::new();
        for part in parts {
            hash.update(part);
        }
        let mut key = [0; 8];
        key.copy_from_slice(&hash.finalize()[..8]);
        // Zeros mean none.
        if key == [0; 8] { Self([0xff; 8]) } else { Self(key) }
    }
}

/// Jobs that have one part of a shard's room together: those of one fairness key, or of one lane where there is no such
/// key; all without keys are one group. The first 24 bits of a key: groups that are the same by chance (among ten thousand
/// some three pairs) share their part, and nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u32);

impl Group {
    /// Of the jobs without keys.
    pub const UNKEYED: Self = Self(0);

    /// Of a job with this flow.
    pub fn of(flow: Option<&Flow>) -> Self {
        flow.map_or(Self::UNKEYED, |flow| flow.lane.group())
    }

    /// From what [`Self::number`] gave; other bits are lost.
    pub const fn from_number(number: u32) -> Self {
        Self(number & 0xff_ffff)
    }

    /// Below 2^24.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// As keys of lanes begin.
    pub fn as_bytes(self) -> [u8; 3] {
        let [_, bytes @ ..] = self.0.to_be_bytes();
        bytes
    }

    /// From what [`Self::as_bytes`] gave.
    pub const fn from_bytes([a, b, c]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, a, b, c]))
    }
}

/// What a job's start is held to. All jobs with the same one are held by the same limits: they wait in one *lane*, of
/// which only the first is ever looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Which lane it waits in; begins with its [`Group`].
    pub lane: FlowKey,
    /// Of its kind, for limits of kinds.
    pub kind: FlowKey,
    /// With whom it shares what it gets: those of one fairness key together get one share. None: with all that have
    /// none.
    pub share: FlowKey,
    /// Jobs of one key share the queue's concurrency per key.
    pub concurrency: FlowKey,
    /// Jobs of one key share the queue's rate per key.
    pub rate: FlowKey,
    /// The dependency whose circuit holds it.
    pub circuit: FlowKey,
    /// What its start costs of rates; at least 1, at most [`UNITS_MAX`]. What is more than a rate's burst counts as the
    /// burst.
    pub units: u32,
    /// Slots that it takes, which is what its run time costs its share in; at least 1.
    pub weight: u32,
}

impl Flow {
    /// Of a job without keys, when its kind is limited.
    pub fn of_kind(kind: &Kind) -> Self {
        let kind = FlowKey::of(kind.as_str());
        Self {
            lane: FlowKey::lane(Group::UNKEYED, kind),
            kind,
            share: FlowKey::NONE,
            concurrency: FlowKey::NONE,
            rate: FlowKey::NONE,
            circuit: FlowKey::NONE,
            units: 1,
            weight: 1,
        }
    }

    /// Of a job with these keys; `None` if it has none, and nothing else by which it needs a lane.
    pub fn new(kind: &Kind, keys: Keys<'_>) -> Option<Self> {
        if keys == Keys::default() {
            return None;
        }
        let key = |text: Option<&str>| text.map_or(FlowKey::NONE, FlowKey::of);
        let (share, concurrency, rate) = (key(keys.share), key(keys.concurrency), key(keys.rate));
        let circuit = key(keys.circuit);
        let flow = Self { share, concurrency, rate, circuit, ..Self::of_kind(kind) };
        let parts = [share, concurrency, rate, circuit, flow.kind];
        let parts = parts.iter().map(|part| part.0.as_slice());
        let whole = FlowKey::digest(parts);
        let group = if share.is_none() { whole.group() } else { share.group() };
        // That of those without keys is not for others.
        let lane = FlowKey::lane(Group(group.0.max(1)), whole);
        let units = keys.units.clamp(1, UNITS_MAX);
        Some(Self { lane, units, weight: keys.weight.max(1), ..flow })
    }
}

/// What [`Flow::new`] is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys<'a> {
    /// Fairness key.
    pub share: Option<&'a str>,
    /// Concurrency key.
    pub concurrency: Option<&'a str>,
    /// Rate limit key.
    pub rate: Option<&'a str>,
    /// Dependency.
    pub circuit: Option<&'a str>,
    /// What a start costs of rates.
    pub units: u32,
    /// Slots.
    pub weight: u32,
}

impl Default for Keys<'_> {
    fn default() -> Self {
        Self { share: None, concurrency: None, rate: None, circuit: None, units: 1, weight: 1 }
    }
}

/// A rate: in any span of time `w` at most `w / interval + burst` units start (GCRA, the virtual scheduling algorithm of
/// ITU-T I.371, with a tolerance of `burst − 1` intervals). A shard that was opened a moment ago has used up its burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// µs per unit; 1 to [`INTERVAL_MAX_US`].
    pub interval_us: u64,
    /// Units at once; at least 1.
    pub burst: u32,
}

impl Rate {
    /// Bounded to what shards can reckon with exactly: a burst lasts at most 2^52 µs, which is 142 years.
    pub fn new(interval_us: u64, burst: u32) -> Self {
        let interval_us = interval_us.clamp(1, INTERVAL_MAX_US);
        let most = u32::try_from((1 << 52) / interval_us).unwrap_or(u32::MAX);
        Self { interval_us, burst: burst.clamp(1, most) }
    }
}

/// Most retries of a budget for every hundred first starts.
pub const RETRY_PERCENT_MAX: u32 = 1_000;
/// First starts save up no more retries than this, beyond what the floor lets run at once.
pub(in crate::engine) const RETRIES_SAVED_MAX: u64 = 1_000;

/// How many retries may come to run, so that they do not multiply the load on what fails: in any span of time what the
/// floor allows, and a share of the jobs that start for the first time in it. (After Finagle's `RetryBudget`: a bucket that
/// fills with time, and with first starts.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries for every hundred first starts; at most [`RETRY_PERCENT_MAX`].
    pub percent: u32,
    /// Those that may run whatever starts, and how many at once.
    pub floor: Rate,
}

impl RetryBudget {
    /// Bounded: one retry takes no longer than an hour.
    pub fn new(percent: u32, floor: Rate) -> Self {
        let interval_us = floor.interval_us.min(3_600_000_000);
        Self { percent: percent.min(RETRY_PERCENT_MAX), floor: Rate { interval_us, ..floor } }
    }

    /// What a first start is worth, in µs of the floor.
    pub(in crate::engine) fn credit_us(&self) -> u64 {
        self.floor.interval_us * u64::from(self.percent) / 100
    }

    /// What time alone fills the bucket up to, in µs of the floor.
    pub(in crate::engine) fn full_us(&self) -> u64 {
        self.floor.interval_us * u64::from(self.floor.burst)
    }

    /// What first starts fill it up to.
    pub(in crate::engine) fn most_us(&self) -> u64 {
        self.full_us() + self.floor.interval_us * RETRIES_SAVED_MAX
    }
}

/// Limits of what runs or starts; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most jobs running at once.
    pub concurrency: Option<u32>,
    /// Starts per time.
    pub rate: Option<Rate>,
}

/// How the dependency of an attempt was, as far as its holder can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    /// It answered, with success or with an error that is not its own.
    Answered,
    /// It failed, or did not answer in time.
    Failed,
    /// The same, and the job dies of it only because its attempts are used up: where this was a probe, it does not.
    Exhausted,
}

/// Who decides over a circuit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitMode {
    /// Its calls.
    #[default]
    Auto,
    /// An operator: no job of it starts, not even a probe.
    Open,
    /// An operator: its jobs start whatever happens.
    Closed,
}

/// Most between two probes, µs, where the setting says no more.
const PROBE_WAIT_MAX_US: u64 = 60_000_000;
/// A circuit that is open for so many times as long as it takes to the next probe has the next one later.
const PROBE_WAITS: u64 = 64;

/// When a circuit opens, and how it closes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitSetting {
    /// Who decides.
    pub mode: CircuitMode,
    /// So many failures one after the other open it; 0: they do not.
    pub failures: u32,
    /// Counts begin anew after this long.
    pub window_ms: u64,
    /// So many failures among a hundred calls open it; 0: they do not.
    pub percent: u32,
    /// From so many calls in a window on.
    pub calls_min: u32,
    /// While it is open one job may start after each such time, µs; see [`Self::probe_wait_us`].
    pub probe_us: u64,
}

impl CircuitSetting {
    /// While a circuit is open for less than this, µs, the failure of a probe is none of its job's attempts: jobs sit
    /// out what is mended, and die of what is not.
    pub const SPARED_US: u64 = 3_600_000_000;

    /// From one probe to the next, µs, of a circuit that is open for so long: longer as time passes, and a minute at
    /// most unless the setting says more.
    pub fn probe_wait_us(&self, open_for_us: u64) -> u64 {
        (open_for_us / PROBE_WAITS).clamp(self.probe_us, self.probe_us.max(PROBE_WAIT_MAX_US))
    }
}

impl Default for CircuitSetting {
    /// 5 failures, or half of at least 20 calls, within 60 s; a probe every 5 s.
    fn default() -> Self {
        Self {
            mode: CircuitMode::Auto,
            failures: 5,
            window_ms: 60_000,
            percent: 50,
            calls_min: 20,
            probe_us: 5_000_000,
        }
    }
}

/// The limits of a queue and the weights of its shares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowSettings {
    /// Of the queue as a whole.
    pub queue: Limits,
    /// Of each concurrency key, and of each rate limit key.
    pub keys: Limits,
    /// How many retries may come to run; `None`: all.
    pub retries: Option<RetryBudget>,
    /// Of these kinds; at most [`KINDS_MAX`].
    pub kinds: BTreeMap<Kind, Limits>,
    /// Shares that count for more than 1; at most [`SHARE_WEIGHT_MAX`] each.
    pub weights: BTreeMap<FlowKey, u32>,
    /// Circuits that are not as [`CircuitSetting::default`] says.
    pub circuits: BTreeMap<FlowKey, CircuitSetting>,
}
