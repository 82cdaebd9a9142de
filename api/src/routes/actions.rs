//! Bulk actions, and the operations that carry them out.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode};
use windlass_shared::ledger::{JobFilter, Operation};
use windlass_shared::lifecycle::Action;
use windlass_shared::model::id::OperationId;

use super::located;
use crate::app::App;
use crate::auth::Caller;
use crate::claims::{self, Key};
use crate::error::ApiError;
use crate::extract::{Id, NoParams, RawBody, SMALL};
use crate::requests::filter::ActionRequest;
use crate::views::job::{DryRun, OperationView};

/// Change many jobs
///
/// Runs in the background as an operation. A retry is metered (`rate`), so that what has just recovered is not knocked
/// over. With `dry_run` it only counts. With an `Idempotency-Key` the call may be repeated: the first operation is the
/// answer again.
#[utoipa::path(
    post, path = "/v1/jobs/actions", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = ActionRequest,
    responses(
        (status = 200, description = "With `dry_run`: how many jobs match now.", body = DryRun),
        (status = 202, description = "The operation that does it.", body = OperationView,
            headers(("Location" = String, description = "The operation."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "The first request with this key is under way.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn start_action(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let key = Key::of(&caller.namespace, &headers, &Method::POST, &uri, &body.bytes)?;
    let (action, filter, dry_run) = body.json::<ActionRequest>()?.check()?;
    if dry_run {
        let matched = app.life.count(&caller.namespace, action, &filter).await?;
        return Ok(Json(DryRun { dry_run: true, matched }).into_response());
    }
    start(&app, &caller, key, action, filter).await
}

/// Starts an operation, once for each idempotency key.
///
/// # Errors
/// 409 or 422 because of the key; the ledger does not answer.
pub async fn start(
    app: &App,
    caller: &Caller,
    key: Option<Key>,
    action: Action,
    filter: JobFilter,
) -> Result<Response, ApiError> {
    let namespace = &caller.namespace;
    let mut id = OperationId::generate();
    if let Some(key) = key
        && let Some(first) = key.claim(app, namespace, id.uuid(), 0).await?
    {
        id = OperationId::from_uuid(first.subject);
        if let Some(operation) = app.life.ledger().operation(namespace, id).await? {
            return Ok(claims::replayed(accepted(operation)));
        }
        first.ensure_abandoned(app).await?;
    }
    let operation = app.life.start_action_as(id, namespace, action, filter, &caller.name).await?;
    Ok(accepted(operation))
}

/// 202 with where to follow it.
fn accepted(operation: Operation) -> Response {
    let location = format!("/v1/operations/{}", operation.id);
    located(StatusCode::ACCEPTED, &location, OperationView::from(operation))
}

/// Get an operation
///
/// How far a bulk action is.
#[utoipa::path(
    get, path = "/v1/operations/{id}", tag = "jobs",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The operation.", body = OperationView)),
)]
pub async fn get_operation(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<OperationId>,
) -> Result<Json<OperationView>, ApiError> {
    let operation = app
        .life
        .ledger()
        .operation(&caller.namespace, id)
        .await?
        .ok_or_else(ApiError::not_found)?;
    Ok(Json(operation.into()))
}
