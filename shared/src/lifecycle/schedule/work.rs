//! What a fire submits is made of what its schedule says.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use crate::expr::bounded::Unfinished;
use crate::expr::{Scope, template};
use crate::ledger::LedgerError;
use crate::ledger::schedules::{NewWork, Schedule};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::workflow::build::Origin;
use crate::lifecycle::workflow::{Order, release, submit};
use crate::limits::META_BYTES_MAX;
use crate::model::id::WorkflowId;
use crate::model::schedule::ScheduledWork;
use crate::model::schedule::decide::Fire;
use crate::model::time::Timestamp;
use crate::model::workflow::{ChildOf, ChildSpec, JobTemplate, WorkflowSpec};

/// Fills in the expressions of a value: they see `run.scheduled_at` and `run.schedule`.
fn filled(value: &Json, schedule: &str, due: Timestamp) -> Result<Json, String> {
    let run = json!({"scheduled_at": due, "schedule": schedule});
    let scope = Scope::new(&Json::Null, &run, HashMap::new());
    template::fill(value, &scope).map_err(|fault| fault.to_string())
}

/// Whether the expressions of a value can be filled in, tried with a due time of `now` and the longest name. To be called
/// on a thread with room for deep expressions, as [`crate::expr::bounded`] has.
///
/// # Errors
/// What the first that cannot says, or that the whole would be too large.
pub fn check_templates(value: &Json, now: Timestamp) -> Result<(), String> {
    let value = filled(value, &"n".repeat(64), now)?;
    release::stored(&value).map(drop).map_err(|error| error.message)
}

/// As [`filled`], on a thread of its own and bounded in time where there are expressions. `Err` inside: it cannot be
/// filled in, and why.
async fn filled_aside(
    life: &Lifecycle,
    value: &Json,
    schedule: &Schedule,
    due: Timestamp,
) -> Result<Result<Json, String>, LedgerError> {
    if template::count(value).0 == 0 {
        return Ok(Ok(value.clone()));
    }
    let (value, name) = (value.clone(), schedule.name.to_string());
    let work = move || filled(&value, &name, due);
    match life.inner.driver.expressions.run(work).await {
        Ok(filled) => Ok(filled),
        Err(Unfinished::Crowded) => {
            Err(LedgerError::Unavailable("too many expressions at once".into()))
        }
        Err(Unfinished::TooSlow) => Ok(Err("its expressions take too long".into())),
        Err(Unfinished::Broke) => Ok(Err("its expressions cannot be evaluated".into())),
    }
}

/// Makes the work of a fire and stores its large values. `Err` inside: it cannot be made, and why.
pub(super) async fn make(
    life: &Lifecycle,
    schedule: &Schedule,
    fire: &Fire,
) -> Result<Result<NewWork, String>, LedgerError> {
    let value = match &schedule.spec.work {
        ScheduledWork::Job(template) => &template.payload,
        ScheduledWork::Workflow(child) => &child.input,
    };
    let value = match filled_aside(life, value, schedule, fire.due).await? {
        Ok(value) => value,
        Err(why) => return Ok(Err(why)),
    };
    let request_id = format!("schedule:{}:{}", schedule.name, fire.due);
    match &schedule.spec.work {
        ScheduledWork::Job(template) => {
            job(life, schedule, fire, template, &value, &request_id).await
        }
        ScheduledWork::Workflow(child) => run(life, schedule, child, value, request_id).await,
    }
}

async fn job(
    life: &Lifecycle,
    schedule: &Schedule,
    fire: &Fire,
    template: &JobTemplate,
    payload: &Json,
    request_id: &str,
) -> Result<Result<NewWork, String>, LedgerError> {
    let (payload, blob) = match release::stored(payload) {
        Ok(stored) => stored,
        Err(error) => return Ok(Err(error.message)),
    };
    if let Some((id, bytes)) = blob {
        life.inner.ledger.put_blob(&schedule.namespace, id, bytes).await?;
    }
    let origin =
        Origin { namespace: &schedule.namespace, request_id: Some(request_id), traceparent: None };
    let mut job = template.job(&origin);
    job.payload = payload;
    job.delay = template.delay.map(|delay| delay.0);
    job.ttl = template.ttl.map(|ttl| ttl.0);
    job.meta = meta(template, schedule, fire);
    Ok(Ok(NewWork::Job(Box::new(job))))
}

/// The caller's object, with the schedule and the due time under `schedule`; unless it would be too large.
fn meta(template: &JobTemplate, schedule: &Schedule, fire: &Fire) -> Option<bytes::Bytes> {
    let mut meta = match &template.meta {
        Some(Json::Object(meta)) => meta.clone(),
        _ => serde_json::Map::new(),
    };
    meta.entry("schedule").or_insert_with(
        || json!({"name": schedule.name, "scheduled_at": fire.due, "source": fire.source}),
    );
    let text = Json::Object(meta).to_string();
    let own = || template.meta.as_ref().map(Json::to_string);
    let text = if text.len() <= META_BYTES_MAX { Some(text) } else { own() };
    text.map(bytes::Bytes::from)
}

async fn run(
    life: &Lifecycle,
    schedule: &Schedule,
    child: &ChildSpec,
    input: Json,
    request_id: String,
) -> Result<Result<NewWork, String>, LedgerError> {
    let (spec, definition) = match &child.of {
        ChildOf::Inline(spec) => (spec.as_ref().clone(), None),
        ChildOf::Definition { name, version } => {
            let found = life.inner.ledger.definition(&schedule.namespace, name, *version).await?;
            let Some(found) = found else {
                return Ok(Err(match version {
                    Some(version) => {
                        format!("there is no version {version} of the definition {name}")
                    }
                    None => format!("there is no definition {name}"),
                }));
            };
            let Ok(spec) = serde_json::from_str::<WorkflowSpec>(&found.document) else {
                return Ok(Err(format!("the definition {name} is of a newer build")));
            };
            (spec, Some((found.name, found.version)))
        }
    };
    if release::stored(&input).is_err() {
        return Ok(Err("the input is larger than 1 MiB".to_owned()));
    }
    let order = Order {
        id: WorkflowId::generate(),
        namespace: schedule.namespace.clone(),
        spec,
        definition,
        input,
        deadline: None,
        tags: Vec::new(),
        rerun_of: None,
        request_id: Some(request_id),
        traceparent: None,
        idempotency: None,
    };
    let new = submit::prepare(life, order, None).await?;
    Ok(Ok(NewWork::Run(Box::new(new))))
}
