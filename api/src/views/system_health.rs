//! The installation as overwatch sees it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::model::alert::Alert;
use windlass_shared::model::alert::catalogue::{entry_of, runbook};
use windlass_shared::model::health::Sums;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

/// How the installation does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SystemHealth)]
pub struct SystemHealthView {
    /// `healthy`, `degraded` or `critical`: the worst of components and alerts.
    pub status: &'static str,
    /// The latest look of the leading scheduler; `null`: none is known.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub judged_at: Option<Timestamp>,
    /// Nobody has looked for too long: alerts and figures are old.
    pub stale: bool,
    /// The ledger does not answer: this is what the process that answers remembers.
    pub from_memory: bool,
    /// Each part of the installation.
    pub components: Vec<SystemComponent>,
    /// Active alerts, the worst first. A key of one namespace sees those of its namespace.
    pub alerts: Vec<AlertView>,
    /// What to do, the most urgent first, each once.
    pub recommendations: Vec<String>,
    /// Figures of the last hour and of the last day.
    pub windows: Vec<WindowView>,
}

/// One part of the installation.
#[derive(Debug, Serialize, ToSchema)]
pub struct SystemComponent {
    /// `ledger`, `engine`, `recorder`, `scheduler`, `workers`, `jobs`, `schedules` or `notifier`.
    pub name: &'static str,
    /// `healthy`, `degraded` or `critical`.
    pub status: &'static str,
    /// Why, in words.
    pub detail: String,
    /// Since when it is not healthy; `null`: it is, or nobody knows.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub since: Option<Timestamp>,
    /// Time to its answer, of those that were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub latency_ms: Option<f64>,
}

/// An active alert.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Alert)]
pub struct AlertView {
    /// The rule.
    pub code: String,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// Whose; `null`: the installation's.
    #[schema(required = true)]
    pub namespace: Option<String>,
    /// A queue, schedule, worker or receiver; empty: the rule has one subject, or stands for many.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The latest look that saw it.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// Figures by name.
    pub evidence: BTreeMap<String, String>,
    /// What to do about it, in the documentation.
    pub runbook: String,
}

/// Figures of a stretch of time up to the latest look.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HealthWindow)]
pub struct WindowView {
    /// How long.
    pub hours: u32,
    /// All together.
    pub overall: FiguresView,
    /// The busiest queues.
    pub queues: Vec<QueueFigures>,
}

/// Figures of jobs that ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HealthFigures)]
pub struct FiguresView {
    /// Jobs that ended.
    pub ended: u64,
    /// Share of jobs that succeeded among those that succeeded, died or were quarantined; `null`: there were none.
    #[schema(required = true)]
    pub success_rate: Option<f64>,
    /// Mean time of an attempt.
    #[schema(required = true)]
    pub run_ms_mean: Option<f64>,
    /// Mean time of a job from being due to its last claim.
    #[schema(required = true)]
    pub wait_ms_mean: Option<f64>,
    /// Mean time of a job from acceptance to its end.
    #[schema(required = true)]
    pub total_ms_mean: Option<f64>,
}

/// Figures of one queue.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueFigures {
    pub namespace: String,
    pub queue: String,
    #[serde(flatten)]
    pub figures: FiguresView,
}

impl From<&Sums> for FiguresView {
    fn from(sums: &Sums) -> Self {
        let mean =
            |sum: u64, n: u64| (n > 0).then(|| (sum as f64 / n as f64 * 10.0).round() / 10.0);
        Self {
            ended: sums.ended,
            success_rate: sums.success_rate(),
            run_ms_mean: mean(sums.run_ms, sums.attempts),
            wait_ms_mean: mean(sums.wait_ms, sums.ended),
            total_ms_mean: mean(sums.total_ms, sums.ended),
        }
    }
}

impl AlertView {
    /// As a caller who is bound to `bound_to` may see it; `None`: not at all.
    pub fn seen_by(alert: &Alert, bound_to: Option<&Namespace>) -> Option<Self> {
        let view = Self {
            code: alert.key.code.clone(),
            severity: alert.severity.as_str(),
            namespace: alert.key.namespace.as_ref().map(ToString::to_string),
            subject: alert.key.subject.clone(),
            message: alert.message.clone(),
            since: alert.since,
            last_seen: alert.last_seen,
            evidence: alert.evidence.clone(),
            runbook: runbook(&alert.key.code),
        };
        let Some(bound_to) = bound_to else { return Some(view) };
        if alert.key.namespace.as_ref() == Some(bound_to) {
            return Some(view);
        }
        // Of one over many namespaces only the caller's share.
        let share = alert.of_namespaces.get(bound_to)?;
        Some(Self {
            namespace: Some(bound_to.to_string()),
            message: format!("{} holds for {share} subjects of this namespace", view.code),
            evidence: BTreeMap::from([("subjects".to_owned(), share.to_string())]),
            ..view
        })
    }

    /// One of this process' own, which is on nobody's record.
    pub fn own(
        code: &str,
        severity: &'static str,
        message: String,
        since: Timestamp,
        now: Timestamp,
    ) -> Self {
        Self {
            code: code.to_owned(),
            severity,
            namespace: None,
            subject: String::new(),
            message,
            since,
            last_seen: now,
            evidence: BTreeMap::new(),
            runbook: runbook(code),
        }
    }

    /// What it is part of.
    pub fn component(&self) -> &'static str {
        entry_of(&self.code).map_or("scheduler", |entry| entry.component)
    }
}
