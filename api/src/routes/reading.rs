//! Reading jobs: one, many, waiting for one, its attempts, and what holds it back.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Span;

use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Id, NoParams, Params};
use crate::requests::filter::{self, FilterParams};
use crate::resume;
use crate::values::Large;
use crate::views::Page;
use crate::views::job::{AttemptView, ExplanationView, JobView};

/// Longest `wait`.
const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(60);
const WAIT_DEFAULT: std::time::Duration = std::time::Duration::from_secs(30);

/// List jobs
///
/// Newest first, as recorded: a job's running state appears here a second or two after it began. Payloads
/// and outputs over 16 KiB are left out; `payload_ref` and `output_ref` say where they are.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs",
    params(
        FilterParams,
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page. It may hold few jobs and still have a next one.", body = Page<JobView>)),
)]
pub async fn list_jobs(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<JobView>>, ApiError> {
    let filter = filter::from_query(&mut params);
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let scope = filter::scope(&filter);
    let before = match cursor {
        Some(text) => {
            Some(JobId::from_bytes(app.cursors.open_bytes(&caller.namespace, &scope, &text)?))
        }
        None => None,
    };
    let page = app.life.ledger().list(&caller.namespace, &filter, before, limit).await?;
    let next_cursor =
        page.next.map(|id| app.cursors.seal(&caller.namespace, &scope, id.as_bytes()));
    Ok(Json(Page { items: page.jobs.into_iter().map(JobView::recorded).collect(), next_cursor }))
}

/// Get a job
///
/// With its live state, and with its payload and output whatever their size. A job is shown as ended only
/// once that is recorded. One that has not succeeded shows the latest partial result that its handler stored.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The job.", body = JobView)),
)]
pub async fn get_job(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
) -> Result<Json<JobView>, ApiError> {
    let seen = app.life.get(&caller.namespace, id).await?.ok_or_else(ApiError::not_found)?;
    let (large, fence) = (Large::of(&seen.job), seen.job.fence);
    let mut view = JobView::live(seen.job, seen.live);
    large.fill(&app, &caller.namespace, &mut view).await?;
    resume::show(&app, &caller.namespace, (id, fence), &mut view).await?;
    Ok(Json(view))
}

/// Wait for a job to end
///
/// A long poll: answers as soon as the job has ended, or 204 when it has not within `timeout`.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/wait", tag = "jobs",
    params(
        ("id" = String, Path, format = Uuid),
        ("timeout" = inline(Option<crate::requests::docs::WaitText>), Query, description = "At most 60 s; 30 s if not given."),
    ),
    responses(
        (status = 200, description = "The job has ended.", body = JobView),
        (status = 204, description = "It has not, yet."),
    ),
)]
pub async fn wait_for_job(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<JobId>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let timeout = params.parsed("timeout", duration).map_or(WAIT_DEFAULT, |span| span.0);
    if timeout > WAIT_MAX {
        params.wrong("timeout", "must be at most 60s");
    }
    params.finish()?;
    let waited = tokio::select! {
        biased;
        // A drain must not wait for callers who wait; they ask again, elsewhere.
        () = app.shutdown.cancelled() => Some(None),
        waited = app.life.wait(&caller.namespace, id, timeout) => waited?,
    };
    match waited {
        None => Err(ApiError::not_found()),
        Some(None) => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(Some(job)) => {
            let (large, fence) = (Large::of(&job), job.fence);
            let mut view = JobView::recorded(job);
            large.fill(&app, &caller.namespace, &mut view).await?;
            resume::show(&app, &caller.namespace, (id, fence), &mut view).await?;
            Ok(Json(view).into_response())
        }
    }
}

/// `"1m30s"`, or a number of seconds.
fn duration(text: &str) -> Result<Span, &'static str> {
    const WRONG: &str = "must be a duration such as 30s, or a number of seconds";
    if let Ok(span) = text.parse::<Span>() {
        return Ok(span);
    }
    let seconds: f64 = text.parse().map_err(|_| WRONG)?;
    std::time::Duration::try_from_secs_f64(seconds).map(Span).map_err(|_| WRONG)
}

/// List a job's attempts
///
/// Oldest first. A job that succeeded at its first attempt has that one.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/attempts", tag = "jobs",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The attempts on record.", body = Page<AttemptView>)),
)]
pub async fn list_attempts(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
) -> Result<Json<Page<AttemptView>>, ApiError> {
    let attempts =
        app.life.ledger().attempts(&caller.namespace, id).await?.ok_or_else(ApiError::not_found)?;
    let items = attempts.into_iter().map(AttemptView::from).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// Explain what holds a job back
///
/// The ordered list of reasons why the job does not run, each with its evidence.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/explain", tag = "jobs",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The reasons.", body = ExplanationView)),
)]
pub async fn explain_job(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
) -> Result<Json<ExplanationView>, ApiError> {
    let explanation =
        app.life.explain(&caller.namespace, id).await?.ok_or_else(ApiError::not_found)?;
    Ok(Json(explanation.into()))
}
