//! Schedules and their fires as callers see them.

use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use utoipa::ToSchema;
use windlass_shared::ledger::Paused;
use windlass_shared::ledger::schedules::{FireRow, Schedule};
use windlass_shared::model::schedule::decide::Submitted;
use windlass_shared::model::schedule::times::{Gap, Repeat, Timing};
use windlass_shared::model::schedule::{
    CatchUp, Dates, FireOutcome, FireResult, FireSource, Overlap, ScheduleSpec, ScheduledWork,
};
use windlass_shared::model::time::{Span, Timestamp};
use windlass_shared::model::workflow::{ChildOf, ChildSpec, JobTemplate};

use super::queue::PausedDocs;
use crate::requests::schedule::{CatchUpPolicyDocs, GapDocs, OverlapDocs, RepeatDocs};

/// A schedule.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Schedule)]
pub struct ScheduleView {
    name: String,
    namespace: String,
    /// The pattern; `null` of an interval.
    #[schema(required = true)]
    cron: Option<String>,
    /// The interval; `null` of a pattern.
    #[schema(value_type = Option<String>, required = true)]
    every: Option<Span>,
    timezone: String,
    /// `null` of an interval.
    #[schema(required = true)]
    dst: Option<DstView>,
    #[schema(value_type = OverlapDocs)]
    overlap: Overlap,
    #[schema(value_type = CatchUpView)]
    catch_up: CatchUp,
    #[schema(value_type = Option<String>, required = true)]
    jitter: Option<Span>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    start_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    end_at: Option<Timestamp>,
    #[schema(value_type = Vec<String>)]
    exclude: Vec<Dates>,
    #[schema(required = true)]
    pause_on_failure: Option<u32>,
    description: String,
    /// What a fire submits; `null` of a workflow.
    #[schema(value_type = Option<Object>, required = true)]
    job: Option<Json>,
    /// `{"definition", "version", "input"}`, or of one written in place `{"name", "steps": [ids], "input"}`; `null` of
    /// a job.
    #[schema(value_type = Option<Object>, required = true)]
    workflow: Option<Json>,
    paused: bool,
    /// Who paused it, when and why.
    #[schema(value_type = Option<PausedDocs>, required = true)]
    pause: Option<Paused>,
    /// Fires in a row that failed.
    failures: u32,
    /// The first due time that is not decided over, paused or not; `null`: no more.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    next_at: Option<Timestamp>,
    /// What its maker should know.
    warnings: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Latest change by a caller.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// What happens to times of `cron` where clocks are put forward or back.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DstRules)]
pub struct DstView {
    #[schema(value_type = GapDocs)]
    gap: Gap,
    #[schema(value_type = RepeatDocs)]
    repeat: Repeat,
}

/// What happens to due times that nobody was there for.
#[derive(Serialize, ToSchema)]
#[schema(as = CatchUpRules)]
pub struct CatchUpView {
    policy: CatchUpPolicyDocs,
    max: u32,
    grace: String,
}

impl Serialize for CatchUpPolicyDocs {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(match self {
            Self::None => "none",
            Self::One => "one",
            Self::All => "all",
        })
    }
}

impl From<Schedule> for ScheduleView {
    fn from(schedule: Schedule) -> Self {
        let spec = schedule.spec;
        // Without a time to look at there is none, which would take long to find out for some patterns.
        let next_at = schedule.look_at.and_then(|_| spec.next_kept(schedule.cursor));
        let (cron, every, dst) = match &spec.timing {
            Timing::Cron { pattern, gap, repeat } => {
                let repeat = repeat.unwrap_or_else(|| pattern.usual_repeat());
                (Some(pattern.to_string()), None, Some(DstView { gap: *gap, repeat }))
            }
            Timing::Every { every, .. } => (None, Some(*every), None),
        };
        let (job, workflow) = match spec.work {
            ScheduledWork::Job(template) => (Some(job(template)), None),
            ScheduledWork::Workflow(child) => (None, Some(workflow(child))),
        };
        let never = "it is never due: no date matches, or all that do are outside of its bounds";
        Self {
            name: schedule.name.to_string(),
            namespace: schedule.namespace.to_string(),
            cron,
            every,
            timezone: spec.zone.name().to_owned(),
            dst,
            overlap: spec.overlap,
            catch_up: spec.catch_up,
            jitter: spec.jitter,
            start_at: spec.start_at,
            end_at: spec.end_at,
            exclude: spec.exclude,
            pause_on_failure: spec.pause_on_failure,
            description: spec.description,
            job,
            workflow,
            paused: schedule.paused.is_some(),
            pause: schedule.paused,
            failures: schedule.failures,
            next_at,
            warnings: next_at.is_none().then(|| never.to_owned()).into_iter().collect(),
            created_at: schedule.created_at,
            updated_at: schedule.changed_at,
        }
    }
}

/// The next `most` due times after one, without those that are left out.
pub fn next_after(spec: &ScheduleSpec, after: Timestamp, most: usize) -> Vec<Timestamp> {
    let first = spec.next_kept(after);
    std::iter::successors(first, |due| spec.next_kept(*due)).take(most).collect()
}

/// As it would be submitted.
fn job(template: JobTemplate) -> Json {
    let mut fields = match serde_json::to_value(&template.spec) {
        Ok(Json::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.insert("kind".into(), json!(template.kind));
    fields.insert("queue".into(), json!(template.queue));
    fields.insert("priority".into(), json!(template.priority));
    fields.insert("payload".into(), template.payload);
    fields.insert("tags".into(), json!(template.tags));
    for (name, span) in [("delay", template.delay), ("ttl", template.ttl)] {
        fields.extend(span.map(|span| (name.to_owned(), json!(span))));
    }
    fields.extend(template.meta.map(|meta| ("meta".to_owned(), meta)));
    Json::Object(fields)
}

fn workflow(child: ChildSpec) -> Json {
    match child.of {
        ChildOf::Definition { name, version } => {
            json!({"definition": name, "version": version, "input": child.input})
        }
        ChildOf::Inline(spec) => {
            let steps: Vec<&str> = spec.steps.iter().map(|step| step.id.as_str()).collect();
            json!({"name": spec.name, "steps": steps, "input": child.input})
        }
    }
}

/// A due time and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fire)]
pub struct FireView {
    /// When it was due.
    #[schema(value_type = String, format = DateTime)]
    scheduled_at: Timestamp,
    #[schema(value_type = FireOutcomeDocs)]
    outcome: FireOutcome,
    #[schema(value_type = FireSourceDocs)]
    source: FireSource,
    /// `paused`, `excluded`, `catch_up`, `caught_up`, `overlap`, `queue_full`, `replaced` or `refused`.
    #[schema(required = true)]
    reason: Option<String>,
    /// The reason in words, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<String>,
    /// How much later than planned that was decided.
    #[schema(value_type = String)]
    late: Span,
    #[schema(value_type = String, format = DateTime)]
    decided_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid, nullable = false)]
    job_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid, nullable = false)]
    workflow_id: Option<String>,
    /// How its work ended; `null` while it has not.
    #[schema(value_type = Option<FireResultDocs>, required = true)]
    result: Option<FireResult>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident as $schema:ident { $($word:ident),+ }) => {
        $(#[$doc])*
        #[derive(Serialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[schema(as = $schema)]
        #[expect(dead_code, reason = "describes a type of another crate")]
        pub enum $name { $($word),+ }
    };
}

words!(
    /// What became of a due time.
    FireOutcomeDocs as FireOutcome { Waiting, Fired, Skipped, Missed }
);
words!(
    /// Where a fire comes from.
    FireSourceDocs as FireSource { Schedule, Trigger, Backfill }
);
words!(
    /// How the work of a fire ended.
    FireResultDocs as FireResult { Succeeded, Failed, Cancelled, Forgotten }
);

impl From<FireRow> for FireView {
    fn from(row: FireRow) -> Self {
        let (job_id, workflow_id) = match row.work {
            Some(Submitted::Job(id)) => (Some(id.to_string()), None),
            Some(Submitted::Workflow(id)) => (None, Some(id.to_string())),
            None => (None, None),
        };
        Self {
            scheduled_at: row.due,
            outcome: row.outcome,
            source: row.source,
            reason: row.reason,
            detail: row.detail,
            late: Span(row.late),
            decided_at: row.decided_at,
            job_id,
            workflow_id,
            result: row.result,
        }
    }
}

/// A due time to come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NextFire)]
pub struct NextView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub scheduled_at: Timestamp,
}

/// Due times to come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NextFires)]
pub struct NextsView {
    /// In order.
    pub items: Vec<NextView>,
}

/// What a backfill came to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Backfill)]
pub struct BackfillView {
    /// Due times in the range, without those that are left out.
    pub due: u32,
    /// Those that will be fired: they were skipped, missed, or have never been.
    pub fires: u32,
}
