//! Changing one job: cancel, retry, patch, delete.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use windlass_shared::ledger::{Changed, JobPatch};
use windlass_shared::lifecycle::Cancelled;
use windlass_shared::lifecycle::order::stays_in_order;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{Job, JobState};
use windlass_shared::model::time::Timestamp;

use crate::app::App;
use crate::auth::Caller;
use crate::claims::{self, Key};
use crate::error::ApiError;
use crate::extract::{Id, NoParams, RawBody, SMALL};
use crate::requests::Faults;
use crate::requests::job::{check_instant, check_max_attempts, check_tags};
use crate::requests::queue::{JobPatchRequest, ReasonRequest};
use crate::values::Large;
use crate::views::job::JobView;

/// Cancel a job
///
/// 200: it is cancelled and never starts. 202: it runs; its worker is told, and it ends as cancelled unless
/// a result is recorded first. Safe to repeat.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, format = Uuid)),
    request_body = Option<ReasonRequest>,
    responses(
        (status = 200, description = "Cancelled.", body = JobView),
        (status = 202, description = "Asked to stop.", body = JobView),
        (status = 409, description = "It has ended otherwise.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn cancel_job(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let reason = body.json_or_default::<ReasonRequest>()?.check()?;
    let reason = reason.unwrap_or_else(|| format!("cancelled by {}", caller.name));
    let (status, job) = match app.life.cancel(&caller.namespace, id, &reason).await? {
        Changed::Done(Cancelled::Now(job)) => (StatusCode::OK, job),
        Changed::Done(Cancelled::Requested(job)) => (StatusCode::ACCEPTED, job),
        Changed::Refused(state) => {
            return Err(conflict(state, "only jobs that have not ended can be cancelled"));
        }
        Changed::Unknown => return Err(ApiError::not_found()),
    };
    let large = Large::of(&job);
    let mut view = JobView::recorded(job);
    large.fill(&app, &caller.namespace, &mut view).await?;
    Ok((status, Json(view)).into_response())
}

/// Run a job again
///
/// A dead, cancelled, expired or quarantined job gets a fresh budget of attempts. With an `Idempotency-Key`
/// the call may be repeated: it takes effect once, even where the job has ended again meanwhile.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs",
    params(
        ("id" = String, Path, format = Uuid),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    responses(
        (status = 200, description = "It may run again, `blocked` where others of its order are before it.", body = JobView,
            headers(("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "It has not ended, or has succeeded, another job holds its unique key, or it is a step of a workflow.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn retry_job(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let key = Key::of(&caller.namespace, &headers, &Method::POST, &uri, &Bytes::new())?;
    refuse_step(&app, &caller, id, "retry the workflow instead", |_| true).await?;
    if let Some(key) = &key
        && let Some(job) = redriven_before(&app, &caller, key, id).await?
    {
        return Ok(claims::replayed(job_answer(&app, &caller, job).await?));
    }
    let job = match app.life.redrive(&caller.namespace, id).await? {
        Changed::Done(job) => job,
        // It could a moment ago: a request with the same key was a little faster.
        Changed::Refused(state) if key.is_some() && !state.can_redrive() => {
            let seen = app.life.get(&caller.namespace, id).await?;
            let job = seen.ok_or_else(ApiError::not_found)?.job;
            return Ok(claims::replayed(job_answer(&app, &caller, job).await?));
        }
        Changed::Refused(state) => return Err(not_redriven(state)),
        Changed::Unknown => return Err(ApiError::not_found()),
    };
    job_answer(&app, &caller, job).await
}

fn not_redriven(state: JobState) -> ApiError {
    let rule = if state.can_redrive() {
        "another job holds its unique key"
    } else {
        "only dead, cancelled, expired and quarantined jobs can run again"
    };
    conflict(state, rule)
}

/// The job, if a request with this key has run it again before; else the key is claimed for doing so. A
/// claim whose request died before it did anything leaves the job as it was: that is seen by its end, whose
/// time no other end of the job has.
async fn redriven_before(
    app: &App,
    caller: &Caller,
    key: &Key,
    id: JobId,
) -> Result<Option<Job>, ApiError> {
    let namespace = &caller.namespace;
    let seen = app.life.get(namespace, id).await?.ok_or_else(ApiError::not_found)?;
    let end_of = |job: &Job| job.finished_at.map_or(0, Timestamp::micros);
    let first = match key.claimed(app, namespace).await? {
        Some(first) => Some(first),
        // Refused as without a key, which stays free.
        None if !seen.job.state.can_redrive() => return Err(not_redriven(seen.job.state)),
        None => key.claim(app, namespace, id.uuid(), end_of(&seen.job)).await?,
    };
    let undone =
        |first: &claims::Claim| seen.job.state.can_redrive() && end_of(&seen.job) == first.mark;
    Ok(first.filter(|first| !undone(first)).map(|_| seen.job.clone()))
}

async fn job_answer(app: &App, caller: &Caller, job: Job) -> Result<Response, ApiError> {
    let large = Large::of(&job);
    let mut view = JobView::recorded(job);
    large.fill(app, &caller.namespace, &mut view).await?;
    Ok(Json(view).into_response())
}

/// Change a waiting job
///
/// Only jobs that have not ended and do not run. Absent fields stay as they are.
#[utoipa::path(
    patch, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, format = Uuid)),
    request_body = JobPatchRequest<'static>,
    responses(
        (status = 200, description = "The job as it is now.", body = JobView),
        (status = 409, description = "It has ended, or runs, or waits for others of its order or its workflow, or has an `order_key` and would come to another queue.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn patch_job(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
    body: RawBody<SMALL>,
) -> Result<Json<JobView>, ApiError> {
    let request: JobPatchRequest<'_> = body.json()?;
    let mut faults = Faults::default();
    check_instant(request.run_at, app.life.clock().now(), "/run_at", &mut faults);
    if let Some(n) = request.max_attempts {
        check_max_attempts(n, &mut faults);
    }
    let tags = request.tags.as_deref().map(|tags| check_tags(Some(tags), &mut faults));
    faults.finish()?;
    let rule = "it can be changed once its step is released";
    refuse_step(&app, &caller, id, rule, |state| state == JobState::Blocked).await?;
    let patch = JobPatch {
        priority: request.priority,
        run_at: request.run_at,
        queue: request.queue,
        max_attempts: request.max_attempts,
        tags,
    };
    if patch.queue.is_some()
        && let Some(job) = app.life.ledger().job(&caller.namespace, id).await?
        && stays_in_order(&job, &patch)
    {
        return Err(conflict(job.state, "a job with an order key keeps its queue"));
    }
    let job = match app.life.patch(&caller.namespace, id, &patch).await? {
        Changed::Done(job) => job,
        Changed::Refused(state) => {
            return Err(conflict(state, "only jobs that wait can be changed"));
        }
        Changed::Unknown => return Err(ApiError::not_found()),
    };
    let large = Large::of(&job);
    let mut view = JobView::recorded(job);
    large.fill(&app, &caller.namespace, &mut view).await?;
    Ok(Json(view))
}

/// Forget a finished job
///
/// With its attempts and its log.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, format = Uuid)),
    responses(
        (status = 204, description = "Forgotten."),
        (status = 409, description = "It has not ended, or is a step of a workflow.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn delete_job(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
) -> Result<StatusCode, ApiError> {
    let rule = "it is forgotten together with the workflow";
    refuse_step(&app, &caller, id, rule, JobState::is_terminal).await?;
    match app.life.delete(&caller.namespace, id).await? {
        Changed::Done(()) => Ok(StatusCode::NO_CONTENT),
        Changed::Refused(state) => Err(conflict(state, "only jobs that have ended can be deleted")),
        Changed::Unknown => Err(ApiError::not_found()),
    }
}

/// What would leave a run with a step that is not what its job is.
///
/// # Errors
/// 409 for the job of a step in such a state. Of which run a job is never changes.
async fn refuse_step(
    app: &App,
    caller: &Caller,
    id: JobId,
    rule: &str,
    in_state: impl Fn(JobState) -> bool,
) -> Result<(), ApiError> {
    let Some(job) = app.life.ledger().job(&caller.namespace, id).await? else { return Ok(()) };
    let Some(of) = job.workflow.filter(|_| in_state(job.state)) else { return Ok(()) };
    let text = format!("the job is the step {:?} of the workflow {}; {rule}", of.step, of.id);
    Err(ApiError::state(job.state.as_str(), text))
}

fn conflict(state: JobState, rule: &str) -> ApiError {
    ApiError::state(state.as_str(), format!("the job is {state}; {rule}"))
}
