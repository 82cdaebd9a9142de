//! Fires of schedules: those that were, those to come, and those that callers ask for.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode};
use windlass_shared::ledger::schedules::FireRow;
use windlass_shared::lifecycle::schedule::BackfillError;
use windlass_shared::model::name::ScheduleName;
use windlass_shared::model::schedule::BACKFILL_MAX;
use windlass_shared::model::time::Timestamp;

use super::{found, known};
use crate::app::App;
use crate::auth::Caller;
use crate::claims::{self, Key};
use crate::error::{ApiError, Code, FieldError};
use crate::extract::{Id, NoParams, Params, RawBody, SMALL};
use crate::requests::schedule::BackfillRequest;
use crate::views::Page;
use crate::views::schedule::{BackfillView, FireView, NextView, NextsView, next_after};

/// Due times that one call of `next` shows.
const NEXT_MAX: u64 = 100;
const NEXT_DEFAULT: u64 = 5;

/// List what became of due times
///
/// Latest first: each due time of the schedule, whether it was fired, and why not.
#[utoipa::path(
    get, path = "/v1/schedules/{name}/runs", tag = "schedules",
    params(
        ("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$"),
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of fires.", body = Page<FireView>)),
)]
pub async fn list_fires(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id<ScheduleName>,
    mut params: Params,
) -> Result<Json<Page<FireView>>, ApiError> {
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let schedule = known(&app, &caller, &name).await?;
    let (namespace, scope) = (&caller.namespace, format!("fires\u{1f}{}", schedule.id));
    let before = match cursor {
        Some(text) => {
            let micros = app.cursors.open_bytes(namespace, &scope, &text)?;
            Some(Timestamp::from_micros(i64::from_be_bytes(micros)))
        }
        None => None,
    };
    let rows = app.life.ledger().fires(schedule.id, before, limit).await?;
    let last = rows.last().filter(|_| rows.len() >= limit as usize);
    let seal =
        |last: &FireRow| app.cursors.seal(namespace, &scope, &last.due.micros().to_be_bytes());
    let next_cursor = last.map(seal);
    Ok(Json(Page { items: rows.into_iter().map(FireView::from).collect(), next_cursor }))
}

/// Show the next due times
///
/// Those that are not decided over yet, without dates that are left out; as if the schedule were not paused, and without its jitter.
#[utoipa::path(
    get, path = "/v1/schedules/{name}/next", tag = "schedules",
    params(
        ("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$"),
        ("n" = Option<u32>, Query, description = "How many; 5 if not given.", minimum = 1, maximum = 100),
    ),
    responses((status = 200, description = "Due times; fewer where there are no more.", body = NextsView)),
)]
pub async fn list_next(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id<ScheduleName>,
    mut params: Params,
) -> Result<Json<NextsView>, ApiError> {
    let most = params.number("n", 1..=NEXT_MAX).unwrap_or(NEXT_DEFAULT);
    params.finish()?;
    let schedule = known(&app, &caller, &name).await?;
    let most = usize::try_from(most).unwrap_or_default();
    let next = next_after(&schedule.spec, schedule.cursor, most);
    let items = next.into_iter().map(|scheduled_at| NextView { scheduled_at }).collect();
    Ok(Json(NextsView { items }))
}

/// Fire a schedule now
///
/// Whatever runs, and whether it is paused. Its own due times stay as they are. With an `Idempotency-Key` the call may
/// be repeated: it is fired once.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/trigger", tag = "schedules",
    params(
        ("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    responses(
        (status = 201, description = "The fire; `skipped` with the reason where its work was not taken.", body = FireView,
            headers(("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
    ),
)]
pub async fn trigger_schedule(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<ScheduleName>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let namespace = &caller.namespace;
    let key = Key::of(namespace, &headers, &Method::POST, &uri, &body.bytes)?;
    let id = known(&app, &caller, &name).await?.id;
    let mut due = app.life.trigger_time().await?;
    let mut replayed = false;
    if let Some(key) = &key
        && let Some(first) = key.claim(&app, namespace, id.uuid(), due.micros()).await?
    {
        if first.subject != id.uuid() {
            let text = "the request was made before, to a schedule of this name that is gone";
            return Err(ApiError::new(Code::KeyConflict, text));
        }
        // The due time is the fire's name: whoever comes second finds it, or makes it.
        due = Timestamp::from_micros(first.mark);
        replayed = true;
    }
    let fire = found(app.life.trigger_schedule(namespace, &name, due).await?)?;
    tracing::info!(schedule = %name, by = %caller.name, "a schedule was triggered");
    let response = (StatusCode::CREATED, Json(FireView::from(fire))).into_response();
    Ok(if replayed { claims::replayed(response) } else { response })
}

/// Fire past due times
///
/// Those in the range that were skipped or missed, or that no schedule was there for, by the rules as they are now; at
/// most 1,000. They go one after the other, unless `overlap` is `allow`. May be repeated: what was fired is not fired
/// again.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/backfill", tag = "schedules",
    params(("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    request_body = BackfillRequest,
    responses((status = 202, description = "They will be fired.", body = BackfillView)),
)]
pub async fn backfill_schedule(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<ScheduleName>,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let (from, to) = body.json::<BackfillRequest>()?.range()?;
    let to = to.min(app.life.ledger().now().await?);
    let asked = app.life.backfill_schedule(&caller.namespace, &name, from, to).await?;
    let filled = found(asked)?.map_err(|error| {
        let text = match error {
            BackfillError::TooMany => {
                format!("the range has more than {BACKFILL_MAX} due times: ask for less at a time")
            }
            BackfillError::Forgotten { until } => format!(
                "what became of due times before {until} is not on record any more, and what was fired would be \
                 fired again: begin there, or make another schedule for what lies before"
            ),
        };
        ApiError::invalid(vec![FieldError::at("/from", text)])
    })?;
    tracing::info!(schedule = %name, by = %caller.name, fires = filled.fires, "a backfill was asked for");
    let view = BackfillView { due: filled.due, fires: filled.fires };
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}
