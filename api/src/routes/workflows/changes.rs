//! Changing a run as a whole: cancel, retry, rerun.

use std::collections::HashSet;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::ledger::runs::{Run, RunChanged};
use windlass_shared::lifecycle::workflow::Order;
use windlass_shared::lifecycle::workflow::decide::Options;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::workflow::{WorkflowSpec, WorkflowState};

use super::{known, order, reading, start, stored};
use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::extract::{Id, NoParams, ONE_JOB, RawBody, SMALL};
use crate::observe::RequestContext;
use crate::requests::queue::ReasonRequest;
use crate::requests::workflow::check_input;
use crate::routes::jobs::idempotency;
use crate::views::workflow::{RetryView, RunView};

/// 409 because of a run's state.
pub(super) fn conflict(state: WorkflowState, rule: &str) -> ApiError {
    let word = state.as_str();
    ApiError::state(word, format!("the workflow is {word}; {rule}"))
}

/// 409 for one signal or vote too many.
pub(super) fn full() -> ApiError {
    ApiError::new(Code::StateConflict, "the workflow has 10,000 signals and votes already")
}

/// Cancel a run
///
/// What has not started never does, what runs is told to stop, child runs are stopped; then it ends as cancelled.
/// 202: it is stopping. 200: it had ended as cancelled already. Safe to repeat.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/cancel", tag = "workflows",
    params(("id" = String, Path, format = Uuid)),
    request_body = Option<ReasonRequest>,
    responses(
        (status = 200, description = "It is cancelled.", body = RunView),
        (status = 202, description = "It is stopping.", body = RunView),
        (status = 409, description = "It has ended otherwise, or undoes its steps.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn cancel_workflow(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<WorkflowId>,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let reason = body.json_or_default::<ReasonRequest>()?.check()?;
    let reason = reason.unwrap_or_else(|| format!("cancelled by {}", caller.name));
    let run = match app.life.cancel_run(&caller.namespace, id, &reason).await? {
        RunChanged::Done(run) => run,
        RunChanged::Refused(WorkflowState::Cancelled) => known(&app, &caller, id).await?,
        RunChanged::Refused(state @ WorkflowState::Compensating) => {
            return Err(conflict(state, "what it undoes is not left half undone"));
        }
        RunChanged::Refused(state) => {
            return Err(conflict(state, "only workflows that have not ended can be cancelled"));
        }
        RunChanged::Unknown => return Err(ApiError::not_found()),
        RunChanged::Full => return Err(full()),
    };
    tracing::info!(workflow.id = %id, by = %caller.name, "a workflow was cancelled");
    let status = match run.state.is_terminal() {
        true => StatusCode::OK,
        false => StatusCode::ACCEPTED,
    };
    Ok((status, Json(reading::view(&app, run).await?)).into_response())
}

/// Run a workflow on from what failed
///
/// A failed or cancelled run goes on: steps that succeeded keep their results, the others run (again) with a fresh
/// budget of attempts.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/retry", tag = "workflows",
    params(("id" = String, Path, format = Uuid)),
    responses(
        (status = 200, description = "It runs again.", body = RetryView),
        (status = 409, description = "It has not ended, has succeeded, or has undone steps.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn retry_workflow(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<WorkflowId>,
) -> Result<Json<RetryView>, ApiError> {
    let retried = match app.life.retry_run(&caller.namespace, id).await? {
        RunChanged::Done(retried) => retried,
        RunChanged::Refused(state) => {
            let rule = "only failed and cancelled workflows that have undone nothing can run on";
            return Err(conflict(state, rule));
        }
        RunChanged::Unknown => return Err(ApiError::not_found()),
        RunChanged::Full => return Err(full()),
    };
    tracing::info!(workflow.id = %id, by = %caller.name, "a workflow was retried");
    let workflow = reading::view(&app, retried.run).await?;
    Ok(Json(RetryView { workflow, reused: retried.reused, again: retried.again }))
}

/// A run anew.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RerunRequest<'a> {
    /// In place of the input of the first run.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>)]
    input: Option<&'a RawValue>,
}

/// Run a workflow anew
///
/// Another run of the same document, or of the same version of its definition; with the same input unless another is
/// given.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/rerun", tag = "workflows",
    params(
        ("id" = String, Path, format = Uuid),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body = Option<RerunRequest<'static>>,
    responses(
        (status = 201, description = "The new run is durable.", body = RunView,
            headers(("Location" = String, description = "The run."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "The first run of this idempotency key is gone.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn rerun_workflow(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<WorkflowId>,
    context: RequestContext,
    target: (OriginalUri, HeaderMap),
    body: RawBody<ONE_JOB>,
) -> Result<Response, ApiError> {
    let (OriginalUri(uri), headers) = target;
    let idempotency = idempotency(&headers, &Method::POST, &uri, &body.bytes)?;
    let request: RerunRequest<'_> = body.json_or_default()?;
    let given = request.input.map(|raw| check_input(Some(raw))).transpose()?;
    let run = known(&app, &caller, id).await?;
    let input = match given {
        Some(input) => input,
        None => reading::value(&app, &caller.namespace, &run.input).await?,
    };
    let spec = document_of(&app, &run).await?;
    let of_spec: HashSet<&String> = spec.tags.iter().collect();
    let tags = run.tags.iter().filter(|tag| !of_spec.contains(tag)).cloned().collect();
    let options: Options = stored(&run.options)?;
    let order = Order {
        definition: run.definition,
        input,
        deadline: options.deadline,
        tags,
        rerun_of: Some(id),
        idempotency,
        ..order(&caller, &context, spec)
    };
    start(&app, &caller, order).await
}

/// What a run runs, as it was when it started.
async fn document_of(app: &App, run: &Run) -> Result<WorkflowSpec, ApiError> {
    if let Some(document) = &run.document {
        return stored(document);
    }
    let found = match &run.definition {
        Some((name, version)) => {
            app.life.ledger().definition(&run.namespace, name, Some(*version)).await?
        }
        None => None,
    };
    let gone = || ApiError::new(Code::StateConflict, "what the workflow ran is no longer stored");
    stored(&found.ok_or_else(gone)?.document)
}
