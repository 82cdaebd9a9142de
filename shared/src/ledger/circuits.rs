//! Circuits on record: by what names they are known, and what operators have set of them.
//!
//! Shards know circuits by their hashes only. A queue read from the ledger carries what is set of all circuits of its
//! namespace to its shards ([`super::Queue::shard_settings`]).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Ledger, Result, dispatch};
use crate::engine::flow::{CircuitMode, CircuitSetting, FlowKey};
use crate::model::name::{CircuitName, Namespace};
use crate::model::time::{Span, Timestamp};

/// Most circuits of a namespace that are known by name. The circuits of others work all the same.
pub const CIRCUITS_KNOWN_MAX: u64 = 10_000;
/// Most circuits of a namespace that are not as they would be by default: all its shards carry them.
pub const CIRCUITS_SET_MAX: u64 = 1_000;

/// A circuit on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    /// Its name; unique in its namespace.
    pub name: CircuitName,
    /// What operators have set.
    pub settings: CircuitSettings,
    /// Rises with every change; 0: there was none.
    pub version: u64,
    /// When the first job of it was accepted, or it was first set.
    pub noted_at: Timestamp,
}

/// What operators set of a circuit; what is absent is as of [`CircuitSetting::default`]. Stored as JSON; fields of a
/// newer build are passed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CircuitSettings {
    /// Who decides.
    #[serde(default, skip_serializing_if = "is_auto")]
    pub mode: CircuitMode,
    /// Since when it is forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// By whom: a key, or `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// So many failures one after the other open it; 0: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// Counts begin anew after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// So many failures among a hundred calls open it; 0: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// … from so many calls in a window on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_min: Option<u32>,
    /// While it is open one job may start after each such time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Span>,
}

fn is_auto(mode: &CircuitMode) -> bool {
    *mode == CircuitMode::Auto
}

impl CircuitSettings {
    /// As shards hold to it.
    pub fn shard(&self) -> CircuitSetting {
        let default = CircuitSetting::default();
        let millis = |span: Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        let micros = |span: Span| u64::try_from(span.0.as_micros()).unwrap_or(u64::MAX);
        CircuitSetting {
            mode: self.mode,
            failures: self.failures.unwrap_or(default.failures),
            window_ms: self.window.map_or(default.window_ms, millis),
            percent: self.percent.unwrap_or(default.percent),
            calls_min: self.calls_min.unwrap_or(default.calls_min),
            probe_us: self.probe.map_or(default.probe_us, micros),
        }
    }

    /// From now on an operator decides; or, with [`CircuitMode::Auto`], nobody does any more.
    #[must_use]
    pub fn forced(
        self,
        mode: CircuitMode,
        at: Timestamp,
        by: &str,
        reason: Option<String>,
    ) -> Self {
        match mode {
            CircuitMode::Auto => Self { mode, since: None, by: None, reason: None, ..self },
            CircuitMode::Open | CircuitMode::Closed => {
                Self { mode, since: Some(at), by: Some(by.to_owned()), reason, ..self }
            }
        }
    }
}

/// What became of [`Ledger::set_circuit`].
#[derive(Debug, Clone, PartialEq)]
pub enum CircuitSet {
    /// This is on record now.
    Done(Circuit),
    /// Somebody has changed it since it was seen.
    Changed,
    /// The namespace has [`CIRCUITS_KNOWN_MAX`] others, or [`CIRCUITS_SET_MAX`] others that are set. Kept softly.
    Full,
}

/// What is set of the circuits of a namespace, as its shards are to know it.
#[derive(Debug, Default, PartialEq)]
pub struct ShardCircuits {
    /// Rises with every change of any of them.
    pub revision: u64,
    /// Those that are not as they would be by default.
    pub set: Vec<(FlowKey, CircuitSetting)>,
}

impl ShardCircuits {
    /// Takes in a circuit that was changed. `settings`: `None` where this build cannot read them.
    pub(super) fn add(&mut self, name: &str, settings: Option<&CircuitSettings>, version: u64) {
        self.revision += version;
        if let Some(setting) = settings.map(CircuitSettings::shard)
            && setting != CircuitSetting::default()
        {
            self.set.push((FlowKey::of(name), setting));
        }
    }
}

/// As queues share it.
pub type SharedCircuits = Arc<ShardCircuits>;

impl Ledger {
    /// Notes names of circuits, as far as there is room for them. Safe to repeat; what is there stays as it is.
    pub fn note_circuits<'a>(
        &'a self,
        namespace: &'a Namespace,
        names: &'a [CircuitName],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, note_circuits(namespace, names)) })
    }

    /// One circuit; `None`: it is not known by name.
    pub fn circuit<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a CircuitName,
    ) -> BoxFuture<'a, Result<Option<Circuit>>> {
        Box::pin(async move { dispatch!(self, circuit(namespace, name)) })
    }

    /// Circuits of a namespace by name, from behind `after`; and whether more may follow.
    pub fn circuits<'a>(
        &'a self,
        namespace: &'a Namespace,
        after: &'a str,
        limit: u32,
    ) -> BoxFuture<'a, Result<CircuitPage>> {
        Box::pin(async move { dispatch!(self, circuits(namespace, after, limit)) })
    }

    /// Replaces what is set of a circuit, noting it if need be; the version rises, and with it that of the settings of
    /// every shard of the namespace. Only where nobody changed it since version `seen` (0: nobody had).
    pub fn set_circuit<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a CircuitName,
        seen: u64,
        settings: &'a CircuitSettings,
    ) -> BoxFuture<'a, Result<CircuitSet>> {
        Box::pin(async move { dispatch!(self, set_circuit(namespace, name, seen, settings)) })
    }
}

/// A page of circuits, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitPage {
    /// At most the asked number; fewer where some cannot be read.
    pub circuits: Vec<Circuit>,
    /// The name behind which the next page starts; `None` at the end.
    pub next: Option<String>,
}
