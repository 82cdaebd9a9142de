//! Worker processes: who is there, and draining one.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use windlass_shared::model::id::WorkerId;

use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Id, NoParams};
use crate::views::Page;
use crate::views::worker::{Draining, WorkerView};

/// Six beats: a worker that was not heard of for so long is gone.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// List workers
///
/// Those heard of within the last minute.
#[utoipa::path(
    get, path = "/v1/workers", tag = "workers",
    responses((status = 200, description = "All of them.", body = Page<WorkerView>)),
)]
pub async fn list_workers(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
) -> Result<Json<Page<WorkerView>>, ApiError> {
    let workers = app.life.ledger().workers(&caller.namespace, SEEN_WITHIN).await?;
    let items = workers.into_iter().map(WorkerView::from).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// Drain a worker
///
/// It finishes what it has and takes nothing new, from its next beat on.
#[utoipa::path(
    post, path = "/v1/workers/{id}/drain", tag = "workers",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "It was asked.", body = Draining)),
)]
pub async fn drain_worker(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<WorkerId>,
) -> Result<Json<Draining>, ApiError> {
    if app.life.ledger().drain_worker(&caller.namespace, id).await? {
        Ok(Json(Draining { id: id.to_string(), draining: true }))
    } else {
        Err(ApiError::not_found())
    }
}
