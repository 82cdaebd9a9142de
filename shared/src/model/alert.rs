//! An alert: something that is wrong with a subject, from the first look that saw it to its end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::AlertId;
use super::name::Namespace;
use super::time::Timestamp;

pub mod catalogue;

/// Longest message of an alert, in characters.
pub const MESSAGE_CHARS_MAX: usize = 500;
/// Most entries of an alert's evidence.
pub const EVIDENCE_MAX: usize = 20;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info = 0,
    /// Somebody should look today.
    Warning = 1,
    /// Somebody must look now.
    Critical = 2,
}

impl Severity {
    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// From the ledger's number; `None` for a number that this build does not know.
    pub const fn from_number(n: i16) -> Option<Self> {
        match n {
            0 => Some(Self::Info),
            1 => Some(Self::Warning),
            2 => Some(Self::Critical),
            _ => None,
        }
    }
}

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Its rule holds, but not for long enough yet. Told to nobody.
    Pending = 0,
    /// It counts.
    Active = 1,
    /// It is over.
    Ended = 2,
}

impl AlertState {
    /// From the ledger's number; `None` for a number that this build does not know.
    pub const fn from_number(n: i16) -> Option<Self> {
        match n {
            0 => Some(Self::Pending),
            1 => Some(Self::Active),
            2 => Some(Self::Ended),
            _ => None,
        }
    }
}

/// Why an alert is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its subject was judged, and is well.
    Cleared,
    /// Its subject could not be judged for too long: nobody knows.
    Unknown,
    /// It goes on within one alert over all subjects of its rule.
    Grouped,
}

impl EndReason {
    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Unknown => "unknown",
            Self::Grouped => "grouped",
        }
    }
}

/// What an alert is about. At most one live alert has a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AlertKey {
    /// The rule, by its code.
    pub code: String,
    /// Whose; `None`: the whole installation's.
    pub namespace: Option<Namespace>,
    /// A queue, schedule, worker or receiver by name; empty: the rule has one subject, or stands for all of them.
    pub subject: String,
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its id.
    pub id: AlertId,
    /// What it is about.
    pub key: AlertKey,
    /// The worst since it opened.
    pub severity: Severity,
    /// Where it stands.
    pub state: AlertState,
    /// What is wrong, with figures.
    pub message: String,
    /// The figures by name.
    #[serde(default)]
    pub evidence: BTreeMap<String, String>,
    /// Of one that stands for many subjects: how many of each namespace, the most first cut.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub of_namespaces: BTreeMap<Namespace, u64>,
    /// The first look at which its rule held.
    pub since: Timestamp,
    /// When it became active.
    pub opened_at: Option<Timestamp>,
    /// The latest look at which its rule held.
    pub last_seen: Timestamp,
    /// The latest look at which its subject was judged, either way.
    pub judged_at: Timestamp,
    /// Since when its rule has not held.
    pub clear_since: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    pub end_reason: Option<EndReason>,
    /// How often the same subject has come back shortly before.
    #[serde(default)]
    pub flaps: u32,
}

impl Alert {
    /// What can be said of one whose record this build cannot read, because another one wrote it: that it is there. So
    /// its key stays taken, and the next look that judges its subject writes it anew, or ends it.
    pub fn in_outline(
        id: AlertId,
        key: AlertKey,
        state: AlertState,
        ended_at: Option<Timestamp>,
    ) -> Self {
        let since = id.drawn_at().unwrap_or_default();
        Self {
            id,
            key,
            severity: Severity::Warning,
            state,
            message: "on record in a form that this build cannot read".to_owned(),
            evidence: BTreeMap::new(),
            of_namespaces: BTreeMap::new(),
            since,
            opened_at: (state != AlertState::Pending).then_some(since),
            last_seen: since,
            judged_at: since,
            clear_since: None,
            ended_at,
            end_reason: None,
            flaps: 0,
        }
    }
}

/// What a receiver was told of an alert last. Later stages are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It is there.
    Opened = 1,
    /// It is over.
    Ended = 2,
}

impl Stage {
    /// From the ledger's number; `None` for a number that this build does not know.
    pub const fn from_number(n: i16) -> Option<Self> {
        match n {
            1 => Some(Self::Opened),
            2 => Some(Self::Ended),
            _ => None,
        }
    }
}

/// A receiver of notifications, as the leaders know it. Its address and secrets are settings, and are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// Its name in the settings.
    pub name: String,
    /// When a leader first knew of it: what had ended before is not told.
    pub since: Timestamp,
    /// Sends in a row that failed.
    pub failures: u32,
    /// Since when.
    pub failing_since: Option<Timestamp>,
    /// Not tried again before.
    pub next_try: Option<Timestamp>,
    /// Why the latest failed; no secrets.
    pub last_error: Option<String>,
    /// The latest that was taken.
    pub last_sent: Option<Timestamp>,
}

impl Receiver {
    /// One that was first known at `now`.
    pub fn new(name: &str, now: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            since: now,
            failures: 0,
            failing_since: None,
            next_try: None,
            last_error: None,
            last_sent: None,
        }
    }
}
