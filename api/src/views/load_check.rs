//! Load checks as callers see them, and what callers send to start one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use windlass_shared::ledger::load_checks::LoadCheck;
use windlass_shared::model::job::{Job, JobState};
use windlass_shared::model::load_check::{CheckState, Plan};
use windlass_shared::model::time::Timestamp;

use crate::requests::docs::DurationText;

/// What a check is to do; every field may be left out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LoadCheckRequest)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct PlanDocs {
    /// Jobs per minute. Default 1,000.
    #[schema(minimum = 1, maximum = 60_000, nullable = false)]
    rate_per_minute: Option<u32>,
    /// How long jobs are submitted, 1 s to 1 h. Default 5 min. At most 200,000 jobs.
    #[schema(value_type = DurationText, required = false)]
    duration: (),
    /// Bytes of each payload. Default 256.
    #[schema(minimum = 0, maximum = 16_320, nullable = false)]
    payload_bytes: Option<u32>,
    /// Of 100 jobs so many are delayed. Default 10.
    #[schema(minimum = 0, maximum = 100, nullable = false)]
    delayed_percent: Option<u32>,
    /// By this much; at most 1 min. Default 2 s.
    #[schema(value_type = DurationText, required = false)]
    delay: (),
    /// Jobs that run at once. Default 16.
    #[schema(minimum = 1, maximum = 256, nullable = false)]
    slots: Option<u32>,
    /// 99 of 100 jobs start this soon after their intended time; at most 1 min. Default 1 s.
    #[schema(value_type = DurationText, required = false)]
    start_p99_max: (),
    /// 99 of 100 jobs are recorded as ended this soon after it; at most 1 min. Default 2 s.
    #[schema(value_type = DurationText, required = false)]
    end_p99_max: (),
}

/// One promise, held against what was measured.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Verdict)]
pub struct VerdictView {
    /// Of what, with its unit.
    name: String,
    /// The most that is allowed; of `rate_percent` the least.
    limit: f64,
    measured: f64,
    holds: bool,
}

/// How a check stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = LoadCheckState)]
pub enum StateView {
    /// It has not begun.
    Waiting,
    Running,
    Passed,
    Failed,
    Aborted,
}

/// A load check.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LoadCheck)]
pub struct LoadCheckView {
    /// That of the job in the namespace `system` that carries it out, too.
    #[schema(format = Uuid)]
    id: String,
    state: StateView,
    /// What it does; `null` of one that has not begun.
    #[schema(value_type = Option<Object>, required = true)]
    plan: Option<Plan>,
    /// Each promise, once it has ended.
    verdicts: Vec<VerdictView>,
    /// Why it did not pass.
    reasons: Vec<String>,
    /// Up to ten jobs that broke a promise.
    examples: Vec<String>,
    /// Jobs that the ledger accepted; `null` until it has ended.
    #[schema(required = true)]
    accepted: Option<u64>,
    /// Submissions that were refused; `null` until it has ended.
    #[schema(required = true)]
    refused: Option<u64>,
    /// From the first intended submission to the last answer; `null` until it has ended.
    #[schema(required = true)]
    load_seconds: Option<f64>,
    /// How often a process that was stopped gave it back, and it began anew.
    restarts: u32,
    /// The namespace in which its load runs; `null` of one that has not begun.
    #[schema(required = true)]
    shadow: Option<String>,
    /// Whether nothing is left of its load.
    is_clean: bool,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    ended_at: Option<Timestamp>,
}

impl From<LoadCheck> for LoadCheckView {
    fn from(check: LoadCheck) -> Self {
        let report = check.report.unwrap_or_default();
        let is_measured = !report.verdicts.is_empty();
        let verdicts = report.verdicts.into_iter().map(|verdict| VerdictView {
            name: verdict.name,
            limit: verdict.limit,
            measured: verdict.measured,
            holds: verdict.holds,
        });
        Self {
            id: check.id.to_string(),
            state: match check.state {
                CheckState::Running => StateView::Running,
                CheckState::Passed => StateView::Passed,
                CheckState::Failed => StateView::Failed,
                CheckState::Aborted => StateView::Aborted,
            },
            plan: Some(check.plan),
            verdicts: verdicts.collect(),
            reasons: check.reasons,
            examples: report.examples,
            accepted: is_measured.then_some(report.accepted),
            refused: is_measured.then_some(report.refused),
            load_seconds: is_measured.then_some(report.load_seconds),
            restarts: check.restarts,
            shadow: Some(check.shadow.to_string()),
            is_clean: check.is_clean,
            started_at: Some(check.started_at),
            ended_at: check.ended_at,
        }
    }
}

impl LoadCheckView {
    /// Its id, as text.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Of a check that has not begun: all there is of it is its job.
    pub fn of_job(job: Job) -> Self {
        let state = match job.state {
            JobState::Cancelled => StateView::Aborted,
            state if state.is_terminal() => StateView::Failed,
            _ => StateView::Waiting,
        };
        Self {
            id: job.id.to_string(),
            state,
            plan: None,
            verdicts: Vec::new(),
            reasons: job.error.map(|error| error.message).into_iter().collect(),
            examples: Vec::new(),
            accepted: None,
            refused: None,
            load_seconds: None,
            restarts: 0,
            shadow: None,
            is_clean: true,
            started_at: None,
            ended_at: job.finished_at,
        }
    }
}
