//! Circuits as callers see them.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::engine::flow::CircuitMode;
use windlass_shared::engine::model::{Circuit as Known, CircuitState};
use windlass_shared::ledger::circuits::Circuit;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::{Span, Timestamp};

/// A circuit: what is known of a dependency, and whether its jobs start.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Circuit)]
pub struct CircuitView {
    name: String,
    namespace: String,
    /// Over all queues, the worst of them: of a circuit that is open in one, the others find out for themselves. `null`
    /// where a queue's shard does not answer and no other says `open`.
    #[schema(required = true)]
    state: Option<StateView>,
    mode: ModeView,
    /// Who forces it open or closed, since when and why.
    #[schema(required = true)]
    forced: Option<ForcedView>,
    rule: RuleView,
    /// Failures one after the other, in the queue that has the most.
    failures_in_row: u32,
    /// Calls in the window, of all queues.
    calls: u64,
    /// Those that failed.
    failed: u64,
    /// When it opened first, of the queues where it is open.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    opened_at: Option<Timestamp>,
    /// When the next probe may start; `null` where none is to, or one is under way.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    next_probe_at: Option<Timestamp>,
    /// The queues whose shard has seen something of it lately.
    queues: Vec<CircuitQueueView>,
    /// Queues whose shard does not answer.
    silent_queues: u64,
    /// Rises with every change of rule or mode; 0: there was none.
    version: u64,
    /// Whether every shard knows of the latest change. `false`: those that do not, will as soon as they answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    applied: Option<bool>,
}

/// What a circuit is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CircuitState)]
pub enum StateView {
    /// Its jobs start.
    Closed,
    /// They wait.
    Open,
    /// They wait for what the probe finds.
    HalfOpen,
}

/// Who decides over a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CircuitMode)]
pub enum ModeView {
    /// Its calls.
    Auto,
    /// An operator: none of its jobs starts.
    Open,
    /// An operator: its jobs start whatever happens.
    Closed,
}

/// An operator's word.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CircuitForced)]
pub struct ForcedView {
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    since: Option<Timestamp>,
    /// A key's name, or `local`.
    #[schema(required = true)]
    by: Option<String>,
    #[schema(required = true)]
    reason: Option<String>,
}

/// When a circuit opens, and how it is tried again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CircuitRule)]
pub struct RuleView {
    /// So many failures one after the other open it; 0: they do not.
    failures: u32,
    /// Counts begin anew after this long.
    #[schema(value_type = String)]
    window: Span,
    /// So many failures among a hundred calls of a window open it; 0: they do not.
    percent: u32,
    /// … from so many calls on.
    calls_min: u32,
    /// While it is open one job starts after each such time.
    #[schema(value_type = String)]
    probe: Span,
}

/// A circuit in one queue.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CircuitQueue)]
pub struct CircuitQueueView {
    queue: String,
    state: StateView,
    failures_in_row: u32,
    calls: u32,
    failed: u32,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    opened_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    next_probe_at: Option<Timestamp>,
}

impl CircuitView {
    /// Puts the parts together: the record, what each queue's shard has seen, and how many shards said nothing.
    pub fn new(
        namespace: &Namespace,
        circuit: Circuit,
        known: &[(QueueName, Known)],
        silent: u64,
        now: Timestamp,
    ) -> Self {
        let Circuit { name, settings, version, .. } = circuit;
        let rule = settings.shard();
        let window = Duration::from_millis(rule.window_ms);
        let queues: Vec<_> = known
            .iter()
            .map(|(queue, known)| CircuitQueueView::new(queue, known, window, now))
            .collect();
        let mode = match settings.mode {
            CircuitMode::Auto => ModeView::Auto,
            CircuitMode::Open => ModeView::Open,
            CircuitMode::Closed => ModeView::Closed,
        };
        let any = |state| queues.iter().any(|queue| queue.state == state);
        let state = match mode {
            ModeView::Open => Some(StateView::Open),
            ModeView::Closed => Some(StateView::Closed),
            ModeView::Auto if any(StateView::Open) => Some(StateView::Open),
            ModeView::Auto if silent > 0 => None,
            ModeView::Auto if any(StateView::HalfOpen) => Some(StateView::HalfOpen),
            ModeView::Auto => Some(StateView::Closed),
        };
        let probes = queues.iter().filter_map(|queue| queue.next_probe_at);
        Self {
            name: name.to_string(),
            namespace: namespace.to_string(),
            state,
            mode,
            forced: (mode != ModeView::Auto).then_some(ForcedView {
                since: settings.since,
                by: settings.by,
                reason: settings.reason,
            }),
            rule: RuleView {
                failures: rule.failures,
                window: Span(window),
                percent: rule.percent,
                calls_min: rule.calls_min,
                probe: Span(Duration::from_micros(rule.probe_us)),
            },
            failures_in_row: queues.iter().map(|queue| queue.failures_in_row).max().unwrap_or(0),
            calls: queues.iter().map(|queue| u64::from(queue.calls)).sum(),
            failed: queues.iter().map(|queue| u64::from(queue.failed)).sum(),
            opened_at: queues.iter().filter_map(|queue| queue.opened_at).min(),
            next_probe_at: probes.min().filter(|_| mode == ModeView::Auto),
            queues,
            silent_queues: silent,
            version,
            applied: None,
        }
    }

    /// With whether every shard was told.
    #[must_use]
    pub fn applied(self, applied: bool) -> Self {
        Self { applied: Some(applied), ..self }
    }
}

impl CircuitQueueView {
    fn new(queue: &QueueName, known: &Known, window: Duration, now: Timestamp) -> Self {
        let state = match known.state {
            CircuitState::Closed => StateView::Closed,
            CircuitState::Open => StateView::Open,
            CircuitState::HalfOpen { .. } => StateView::HalfOpen,
        };
        // Counts of a window that is over would begin anew with the next call.
        let from = Timestamp::from_millis(i64::try_from(known.from_ms).unwrap_or(i64::MAX));
        let is_over = state == StateView::Closed && now.since(from) >= window;
        let count = |n: u32| if is_over { 0 } else { n };
        let is_open = state != StateView::Closed;
        let waits = state == StateView::Open;
        Self {
            queue: queue.to_string(),
            state,
            failures_in_row: count(known.row),
            calls: count(known.calls),
            failed: count(known.failed),
            opened_at: is_open.then(|| Timestamp::from_micros(known.since)),
            next_probe_at: waits.then(|| Timestamp::from_micros(known.probe_at)),
        }
    }
}
