//! Queues: depth, settings, pause, purge.

use std::time::Duration;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, header};
use windlass_shared::engine::ShardId;
use windlass_shared::ledger::{JobFilter, Paused, Queue, QueueCursor, Rollup};
use windlass_shared::lifecycle::Action;
use windlass_shared::model::name::QueueName;

use super::actions;
use crate::app::App;
use crate::auth::Caller;
use crate::claims::Key;
use crate::error::{ApiError, Code};
use crate::extract::{Id, NoParams, Params, RawBody, SMALL};
use crate::if_match;
use crate::requests::queue::{PurgeRequest, QueuePatch, ReasonRequest};
use crate::views::Page;
use crate::views::job::OperationView;
use crate::views::queue::{QueueView, RATE_WINDOW_SECS};

/// Tries of a change that meets others.
const CHANGE_TRIES: usize = 10;

/// Shards asked for their counts at once.
const STATS_AT_ONCE: usize = 16;
const SCOPE: &str = "queues";

/// List queues
///
/// By name, with their depths as the queue store has them.
#[utoipa::path(
    get, path = "/v1/queues", tag = "queues",
    params(
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of queues.", body = Page<QueueView>)),
)]
pub async fn list_queues(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<QueueView>>, ApiError> {
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let after = match cursor {
        Some(text) => {
            let name = app.cursors.open_name(&caller.namespace, SCOPE, &text)?;
            Some(QueueCursor::behind(&caller.namespace, &name))
        }
        None => None,
    };
    let page = app.life.ledger().queue_page(Some(&caller.namespace), after.as_ref(), limit).await?;
    let seal =
        |next: QueueCursor| app.cursors.seal(&caller.namespace, SCOPE, next.name().as_bytes());
    let next_cursor = page.next.map(seal);
    let rollups = rollups(&app, &caller).await?;
    let items = futures::stream::iter(page.queues)
        .map(|queue| view(&app, queue, &rollups, None))
        .buffered(STATS_AT_ONCE)
        .collect()
        .await;
    Ok(Json(Page { items, next_cursor }))
}

async fn rollups(app: &App, caller: &Caller) -> Result<Vec<Rollup>, ApiError> {
    let since = app.life.clock().now().minus(Duration::from_secs(RATE_WINDOW_SECS));
    Ok(app.life.ledger().rollups(&caller.namespace, since).await?)
}

/// An engine that does not answer takes only the depth away.
async fn view(app: &App, queue: Queue, rollups: &[Rollup], applied: Option<bool>) -> QueueView {
    let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
    let stats = app.life.engine().stats(&shard).await.ok();
    QueueView::new(queue, stats, rollups, applied)
}

/// Get a queue
#[utoipa::path(
    get, path = "/v1/queues/{queue}", tag = "queues",
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$")),
    responses((status = 200, description = "The queue.", body = QueueView,
        headers(("ETag" = String, description = "Its version, for `If-Match`.")))),
)]
pub async fn get_queue(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<QueueName>,
) -> Result<Response, ApiError> {
    let queue =
        app.life.ledger().queue(&caller.namespace, &name).await?.ok_or_else(ApiError::not_found)?;
    answer(&app, &caller, queue, None).await
}

/// One queue, with its version as the `ETag`.
async fn answer(
    app: &App,
    caller: &Caller,
    queue: Queue,
    applied: Option<bool>,
) -> Result<Response, ApiError> {
    let tag = HeaderValue::try_from(if_match::tag(queue.version)).expect("digits in quotes");
    let rollups = rollups(app, caller).await?;
    let mut response = Json(view(app, queue, &rollups, applied).await).into_response();
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

/// Change a queue's settings
///
/// Absent fields stay, `null` removes a setting. An unknown queue is made. `applied` is false when the
/// queue store could not be told yet. With `If-Match` nothing is changed unless the queue still has that
/// version.
#[utoipa::path(
    patch, path = "/v1/queues/{queue}", tag = "queues",
    params(
        ("queue" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$"),
        ("If-Match" = Option<String>, Header, description = "The version that is to be changed, as in `ETag`; or `*` for a queue that exists.", pattern = r#"^(\*|[0-9]{1,20}|"[0-9]{1,20}")$"#),
    ),
    request_body = QueuePatch,
    responses(
        (status = 200, description = "The queue as it is now.", body = QueueView,
            headers(("ETag" = String, description = "Its version, for `If-Match`."))),
        (status = 412, description = "It has another version.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn patch_queue(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<QueueName>,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let condition = if_match::of(&headers)?;
    let patch: QueuePatch = body.json()?;
    patch.check()?;
    for _ in 0..CHANGE_TRIES {
        let known = app.life.ledger().queue(&caller.namespace, &name).await?;
        let seen = known.as_ref().map(|queue| queue.version);
        if let Some(condition) = &condition {
            condition.check(seen)?;
        }
        let mut settings = known.map(|queue| queue.settings).unwrap_or_default();
        patch.clone().apply(&mut settings);
        let seen = seen.unwrap_or_default();
        // Somebody else may change it between the two: then their change is read, too.
        let set = app.life.set_queue(&caller.namespace, &name, seen, &settings).await?;
        let Some((queue, applied)) = set else { continue };
        app.queues.forget(&caller.namespace, &name);
        return answer(&app, &caller, queue, Some(applied)).await;
    }
    Err(ApiError::new(Code::VersionConflict, "the queue keeps changing; try again"))
}

/// Pause a queue
///
/// It takes jobs and starts none. When this answers with `applied: true`, no job of it starts until it is
/// resumed.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/pause", tag = "queues",
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$")),
    request_body = Option<ReasonRequest>,
    responses((status = 200, description = "The queue as it is now.", body = QueueView,
        headers(("ETag" = String, description = "Its version, for `If-Match`.")))),
)]
pub async fn pause_queue(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<QueueName>,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let reason = body.json_or_default::<ReasonRequest>()?.check()?;
    let paused = Paused { since: app.life.clock().now(), by: caller.name.to_string(), reason };
    set_paused(&app, &caller, &name, Some(paused)).await
}

/// Resume a queue
#[utoipa::path(
    post, path = "/v1/queues/{queue}/resume", tag = "queues",
    params(("queue" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$")),
    responses((status = 200, description = "The queue as it is now.", body = QueueView,
        headers(("ETag" = String, description = "Its version, for `If-Match`.")))),
)]
pub async fn resume_queue(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<QueueName>,
) -> Result<Response, ApiError> {
    set_paused(&app, &caller, &name, None).await
}

async fn set_paused(
    app: &App,
    caller: &Caller,
    name: &QueueName,
    paused: Option<Paused>,
) -> Result<Response, ApiError> {
    let (queue, applied) = app.life.set_paused(&caller.namespace, name, paused).await?;
    answer(app, caller, queue, Some(applied)).await
}

/// Purge a queue
///
/// Cancels its waiting jobs in the background: those that are ready, or those in `states`. With an
/// `Idempotency-Key` the call may be repeated: the first operation is the answer again.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/purge", tag = "queues",
    params(
        ("queue" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body = Option<PurgeRequest>,
    responses(
        (status = 202, description = "The operation that does it.", body = OperationView,
            headers(("Location" = String, description = "The operation."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "The first request with this key is under way.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn purge_queue(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<QueueName>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let key = Key::of(&caller.namespace, &headers, &Method::POST, &uri, &body.bytes)?;
    let states = body.json_or_default::<PurgeRequest>()?.states()?;
    let known = app.life.ledger().queue(&caller.namespace, &name).await?;
    if known.is_none() {
        return Err(ApiError::not_found());
    }
    let filter = JobFilter { states, queue: Some(name), ..JobFilter::default() };
    actions::start(&app, &caller, key, Action::Cancel, filter).await
}
