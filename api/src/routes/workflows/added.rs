//! `POST /v1/workflows/{id}/steps`: steps that come into a run that is under way.

use std::collections::{HashMap, HashSet};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use windlass_shared::ledger::Role;
use windlass_shared::ledger::runs::Step;
use windlass_shared::lifecycle::workflow::AddedSteps as Outcome;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::workflow::{StepState, limits};

use super::{documents, known, reading};
use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code, FieldError};
use crate::extract::{self, DOCUMENT, Id, NoParams, RawBody};
use crate::requests::workflow::added::{self, Added, AddedRequest};
use crate::views::workflow::AddedSteps;

/// Add steps to a run
///
/// They run after the step `after`, and what needs that one waits for the last of them too; so a job that runs can
/// decide what comes next. Workers may call this for steps of their namespace that run: their keys name no run, so that the job is not
/// compared. A repeat is refused: the ids
/// are taken.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/steps", tag = "workflows",
    params(("id" = String, Path, format = Uuid)),
    request_body(content((AddedRequest<'static> = "application/json"), (String = "application/yaml"))),
    responses(
        (status = 201, description = "They are in.", body = AddedSteps),
        (status = 409, description = "The run has ended, nothing waits for the step any more, or an id is taken.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn add_steps(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<WorkflowId>,
    body: RawBody<DOCUMENT>,
) -> Result<Response, ApiError> {
    let json = documents::json_text(&app, &body).await?;
    let context = documents::context(&app, &caller.namespace, extract::text(&json)?).await?;
    let added =
        documents::bounded(&app, move || added::check(extract::text(&json)?, &context)).await?;
    let run = known(&app, &caller, id).await?;
    if caller.role == Role::Worker {
        ensure_running(&app, run.id, &added.after).await?;
    }
    if !added.outside.is_empty() {
        check_outside(&added, &reading::all_steps(&app, id).await?)?;
    }
    let ids: Vec<String> = added.steps.iter().map(|step| step.id.clone()).collect();
    let after = &added.after;
    let outcome = app.life.add_steps(&caller.namespace, id, after, added.steps).await?;
    refused(outcome, after)?;
    let count = ids.len();
    tracing::info!(workflow.id = %id, after, count, by = %caller.name, "steps were added");
    Ok((StatusCode::CREATED, Json(AddedSteps { added: ids })).into_response())
}

/// Workers' keys name no run: what they may add to is a step whose job is under way.
async fn ensure_running(app: &App, id: WorkflowId, after: &str) -> Result<(), ApiError> {
    let steps = app.life.ledger().steps_named(id, &[after.to_owned()]).await?;
    if steps.iter().any(|step| step.state == StepState::Released) {
        return Ok(());
    }
    let text = format!("a worker adds steps after one that runs, and {after:?} does not");
    Err(ApiError::new(Code::Forbidden, text))
}

/// Whether what is read of the run has surely ended when the added steps run.
fn check_outside(added: &Added, steps: &[Step]) -> Result<(), ApiError> {
    let by_id: HashMap<&str, &Step> = steps.iter().map(|step| (step.id.as_str(), step)).collect();
    let by_ord: HashMap<i32, &Step> = steps.iter().map(|step| (step.ord, step)).collect();
    let mut ended: HashSet<i32> = HashSet::new();
    let mut open: Vec<i32> = by_id.get(added.after.as_str()).map(|s| s.ord).into_iter().collect();
    while let Some(ord) = open.pop() {
        if let Some(step) = by_ord.get(&ord)
            && ended.insert(ord)
        {
            open.extend(&step.needs);
        }
    }
    let wrong = added.outside.iter().filter_map(|(pointer, name)| {
        let text = match by_id.get(name.as_str()) {
            Some(step) if ended.contains(&step.ord) => return None,
            Some(_) => format!(
                "reads the step {name:?}, which is not among the steps it needs, directly or indirectly"
            ),
            None => format!("reads the step {name:?}, which is no step of this workflow"),
        };
        Some(FieldError::at(pointer.as_str(), text))
    });
    let wrong: Vec<FieldError> = wrong.take(50).collect();
    if wrong.is_empty() { Ok(()) } else { Err(ApiError::invalid(wrong)) }
}

fn refused(outcome: Outcome, after: &str) -> Result<(), ApiError> {
    let conflict = |text: String| Err(ApiError::new(Code::StateConflict, text));
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::Unknown => Err(ApiError::not_found()),
        Outcome::Ended => conflict("the workflow has ended, or is ending".into()),
        Outcome::NoSuchStep => conflict(format!(
            "the step {after:?} is not there, or has ended so that nothing waits for it any more"
        )),
        Outcome::Taken(id) => {
            conflict(format!("the id {id:?} is taken by a step of the workflow already"))
        }
        Outcome::TooMany => {
            let text = format!("the workflow would have more than {} steps", limits::STEPS_MAX);
            Err(ApiError::invalid(vec![FieldError::at("/steps", text)]))
        }
    }
}
