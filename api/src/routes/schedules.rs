//! Schedules: made, read, changed, deleted.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use windlass_shared::ledger::Paused;
use windlass_shared::ledger::schedules::Schedule;
use windlass_shared::lifecycle::schedule::{NewSchedule, Scheduled};
use windlass_shared::model::id::ScheduleId;
use windlass_shared::model::name::{Namespace, ScheduleName};
use windlass_shared::model::time::Timestamp;

use super::located;
use super::workflows::documents::bounded;
use crate::app::App;
use crate::auth::Caller;
use crate::claims::{self, Key};
use crate::error::{ApiError, Code, FieldError};
use crate::extract::{self, DOCUMENT, Id, NoParams, Params, RawBody, SMALL};
use crate::requests::queue::ReasonRequest;
use crate::requests::schedule::{self, Checked, ScheduleRequest};
use crate::requests::workflow::Context;
use crate::views::Page;
use crate::views::schedule::ScheduleView;

pub mod fires;

const SCOPE: &str = "schedules";

/// Make a schedule
///
/// It is due from now on, or from `start_at`. Every due time leaves a row in `…/runs`, whether it was fired or not.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = ScheduleRequest<'static>,
    responses(
        (status = 201, description = "The schedule.", body = ScheduleView,
            headers(("Location" = String, description = "The schedule."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "The name is taken, or the namespace has 10,000 schedules.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn create_schedule(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<DOCUMENT>,
) -> Result<Response, ApiError> {
    let key = Key::of(&caller.namespace, &headers, &Method::POST, &uri, &body.bytes)?;
    let (checked, head) = check(&app, &caller.namespace, body.json_bytes()?).await?;
    let name = named(head.name)?;
    let namespace = &caller.namespace;
    let (id, before) = claimed(&app, &caller, key.as_ref(), &name).await?;
    let replayed = before.is_some();
    let made = match before {
        Some(made) => made,
        None => {
            let spec = checked.new_spec(app.life.ledger().now().await?)?;
            let paused = head.paused.then(|| by(&caller, app.life.clock().now(), None));
            let namespace = namespace.clone();
            let new = NewSchedule { id, namespace, name: name.clone(), spec, paused };
            app.life.create_schedule(new).await?.ok_or_else(|| taken(&name))?
        }
    };
    if let Some(key) = &key {
        key.note_done(&app, namespace).await;
    }
    tracing::info!(schedule = %name, by = %caller.name, replayed, "a schedule was made");
    let view = ScheduleView::from(made);
    let response = located(StatusCode::CREATED, &format!("/v1/schedules/{name}"), view);
    Ok(if replayed { claims::replayed(response) } else { response })
}

/// The id of the schedule to make, once for each idempotency key; and the schedule, if it was made.
async fn claimed(
    app: &App,
    caller: &Caller,
    key: Option<&Key>,
    name: &ScheduleName,
) -> Result<(ScheduleId, Option<Schedule>), ApiError> {
    let (namespace, id) = (&caller.namespace, ScheduleId::generate());
    let Some(key) = key else { return Ok((id, None)) };
    let Some(first) = key.claim(app, namespace, id.uuid(), 0).await? else {
        return Ok((id, None));
    };
    let id = ScheduleId::from_uuid(first.subject);
    let found = app.life.ledger().schedule(namespace, name).await?;
    let found = found.filter(|found| found.id == id);
    if found.is_none() {
        if key.is_done(app, namespace).await? {
            let text = "the request was made before; its schedule has been deleted since";
            return Err(ApiError::new(Code::KeyConflict, text));
        }
        first.ensure_abandoned(app).await?;
    }
    Ok((id, found))
}

fn taken(name: &ScheduleName) -> ApiError {
    let text = format!(
        "there is a schedule {name} already (PATCH changes it), or the namespace has 10,000 schedules"
    );
    ApiError::new(Code::ScheduleExists, text)
}

fn by(caller: &Caller, since: Timestamp, reason: Option<String>) -> Paused {
    Paused { since, by: caller.name.to_string(), reason }
}

/// What the route itself wants of a request.
struct Head {
    name: Option<String>,
    paused: bool,
    says_paused: bool,
}

fn named(name: Option<String>) -> Result<ScheduleName, ApiError> {
    let wrong = |text: String| ApiError::invalid(vec![FieldError::at("/name", text)]);
    let name = name.ok_or_else(|| wrong("is required".into()))?;
    name.parse::<ScheduleName>().map_err(|error| wrong(error.to_string()))
}

/// Checks a body on a thread of its own, bounded in time: it may hold a workflow.
async fn check(app: &App, namespace: &Namespace, body: Bytes) -> Result<(Checked, Head), ApiError> {
    let mut queues = HashMap::new();
    for name in schedule::queues(extract::text(&body)?)? {
        let known = app.queues.get(app, namespace, &name).await?;
        queues.insert(name, known);
    }
    let context = Context { queues, now: app.life.clock().now() };
    bounded(app, move || {
        let request: ScheduleRequest<'_> = extract::parse(extract::text(&body)?, "")?;
        let head = Head {
            name: request.name.as_ref().map(|name| name.as_str().to_owned()),
            paused: request.paused.unwrap_or(false),
            says_paused: request.paused.is_some(),
        };
        Ok((request.check(&context)?, head))
    })
    .await
}

/// List schedules
///
/// By name.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules",
    params(
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of schedules.", body = Page<ScheduleView>)),
)]
pub async fn list_schedules(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<ScheduleView>>, ApiError> {
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let namespace = &caller.namespace;
    let after = match cursor {
        Some(text) => {
            let name = app.cursors.open_name(namespace, SCOPE, &text)?;
            Some(name.parse::<ScheduleName>().map_err(|_| crate::cursor::not_one())?)
        }
        None => None,
    };
    let page = app.life.ledger().schedules(namespace, after.as_ref(), limit).await?;
    let seal = |next: ScheduleName| app.cursors.seal(namespace, SCOPE, next.as_str().as_bytes());
    let next_cursor = page.next.map(seal);
    let items = page.items.into_iter().map(ScheduleView::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// A schedule of the caller's namespace.
///
/// # Errors
/// 404.
pub(super) async fn known(
    app: &App,
    caller: &Caller,
    name: &ScheduleName,
) -> Result<Schedule, ApiError> {
    app.life.ledger().schedule(&caller.namespace, name).await?.ok_or_else(ApiError::not_found)
}

/// Get a schedule
#[utoipa::path(
    get, path = "/v1/schedules/{name}", tag = "schedules",
    params(("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    responses((status = 200, description = "The schedule.", body = ScheduleView)),
)]
pub async fn get_schedule(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<ScheduleName>,
) -> Result<Json<ScheduleView>, ApiError> {
    Ok(Json(known(&app, &caller, &name).await?.into()))
}

/// Change a schedule
///
/// Absent fields stay, `null` is the default again. What was due before is decided by the rules as they were; the new
/// ones hold from now on. What runs goes on.
#[utoipa::path(
    patch, path = "/v1/schedules/{name}", tag = "schedules",
    params(("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    request_body = ScheduleRequest<'static>,
    responses((status = 200, description = "The schedule as it is now.", body = ScheduleView)),
)]
pub async fn patch_schedule(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<ScheduleName>,
    body: RawBody<DOCUMENT>,
) -> Result<Json<ScheduleView>, ApiError> {
    let (checked, head) = check(&app, &caller.namespace, body.json_bytes()?).await?;
    let mut errors = Vec::new();
    if head.name.is_some_and(|other| other != name.as_str()) {
        errors.push(FieldError::at("/name", "cannot be changed: make another schedule"));
    }
    if head.says_paused {
        errors.push(FieldError::at("/paused", "is changed by POST …/pause and …/resume"));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(errors));
    }
    let now = app.life.ledger().now().await?;
    let make = |schedule: &Schedule| checked.apply(&schedule.spec, now);
    let changed = found(app.life.patch_schedule(&caller.namespace, &name, make).await?)??;
    tracing::info!(schedule = %name, by = %caller.name, "a schedule was changed");
    Ok(Json(changed.into()))
}

/// What was done to a schedule.
///
/// # Errors
/// 404.
pub(super) fn found<T>(scheduled: Scheduled<T>) -> Result<T, ApiError> {
    match scheduled {
        Scheduled::Done(done) => Ok(done),
        Scheduled::Unknown => Err(ApiError::not_found()),
    }
}

/// Delete a schedule
///
/// With the rows of its fires. What it has submitted goes on.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}", tag = "schedules",
    params(("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    responses((status = 204, description = "Deleted.")),
)]
pub async fn delete_schedule(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<ScheduleName>,
) -> Result<StatusCode, ApiError> {
    found(app.life.delete_schedule(&caller.namespace, &name).await?)?;
    tracing::info!(schedule = %name, by = %caller.name, "a schedule was deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a schedule
///
/// Its due times are skipped until it is resumed; each leaves a row that says so.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/pause", tag = "schedules",
    params(("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    request_body = Option<ReasonRequest>,
    responses((status = 200, description = "The schedule as it is now.", body = ScheduleView)),
)]
pub async fn pause_schedule(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<ScheduleName>,
    body: RawBody<SMALL>,
) -> Result<Json<ScheduleView>, ApiError> {
    let reason = body.json_or_default::<ReasonRequest>()?.check()?;
    let paused = Some(by(&caller, app.life.clock().now(), reason));
    let schedule = found(app.life.pause_schedule(&caller.namespace, &name, paused).await?)?;
    tracing::info!(schedule = %name, by = %caller.name, "a schedule was paused");
    Ok(Json(schedule.into()))
}

/// Resume a schedule
///
/// It is due from now on: what was skipped meanwhile stays so (a backfill makes it good).
#[utoipa::path(
    post, path = "/v1/schedules/{name}/resume", tag = "schedules",
    params(("name" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    responses((status = 200, description = "The schedule as it is now.", body = ScheduleView)),
)]
pub async fn resume_schedule(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<ScheduleName>,
) -> Result<Json<ScheduleView>, ApiError> {
    let schedule = found(app.life.pause_schedule(&caller.namespace, &name, None).await?)?;
    tracing::info!(schedule = %name, by = %caller.name, "a schedule was resumed");
    Ok(Json(schedule.into()))
}
