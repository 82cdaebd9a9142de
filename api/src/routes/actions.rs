//! Bulk actions, and the operations that carry them out.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use windlass_shared::ledger::Operation;
use windlass_shared::model::id::OperationId;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, FieldError};
use crate::extract::{Id, NoParams, RawBody, SMALL};
use crate::requests::filter::ActionRequest;
use crate::views::job::{DryRun, OperationView};

/// Change many jobs
///
/// Runs in the background as an operation. With `dry_run` it only counts.
#[utoipa::path(
    post, path = "/v1/jobs/actions", tag = "jobs",
    request_body = ActionRequest,
    responses(
        (status = 200, description = "With `dry_run`: how many jobs match now.", body = DryRun),
        (status = 202, description = "The operation that does it.", body = OperationView,
            headers(("Location" = String, description = "The operation."))),
    ),
)]
pub async fn start_action(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let request: ActionRequest = body.json()?;
    let missing =
        |field: &str| ApiError::invalid(vec![FieldError::at(format!("/{field}"), "is required")]);
    let action = request.action.ok_or_else(|| missing("action"))?.into();
    let filter = request.filter.ok_or_else(|| missing("filter"))?.check()?;
    if request.dry_run {
        let matched = app.life.count(&caller.namespace, action, &filter).await?;
        return Ok(Json(DryRun { dry_run: true, matched }).into_response());
    }
    let operation = app.life.start_action(&caller.namespace, action, filter, &caller.name).await?;
    Ok(accepted(operation))
}

/// 202 with where to follow it.
pub fn accepted(operation: Operation) -> Response {
    let location = format!("/v1/operations/{}", operation.id);
    let mut response = (StatusCode::ACCEPTED, Json(OperationView::from(operation))).into_response();
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
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
