//! Sustained-load checks: started, listed, stopped. Each is a job of the installation's own.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode};
use windlass_shared::ledger::{Accepted, Changed, Refused, Submission, SubmitOutcome};
use windlass_shared::lifecycle::Cancelled;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{Job, NewJob, OnConflict, Unique, Value};
use windlass_shared::model::load_check::{CheckState, KIND, Plan};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Span;

use super::jobs::{idempotency, key_reused, refusal};
use super::located;
use crate::app::App;
use crate::auth::Caller;
use crate::claims;
use crate::error::{ApiError, Code, FieldError};
use crate::extract::{Id, NoParams, Params, RawBody, SMALL};
use crate::views::Page;
use crate::views::load_check::{LoadCheckView, PlanDocs};

const SCOPE: &str = "load-checks";
/// Held by the job of a check from its submission to its end: one at a time.
const UNIQUE_KEY: &str = "load_check";
/// Among so many of the latest checks is the one that runs.
const LATEST: u32 = 20;

/// Start a load check
///
/// One runs at a time. It submits jobs into a namespace of its own at a rate for a time, and holds what became of them
/// against what is promised. With an `Idempotency-Key` the call may be repeated.
#[utoipa::path(
    post, path = "/v1/load-checks", tag = "operations",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = Option<PlanDocs>,
    responses(
        (status = 201, description = "It waits for its turn, or has begun.", body = LoadCheckView,
            headers(("Location" = String, description = "The check."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "Another one runs: `holder` is its id.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn start_load_check(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let idempotency = idempotency(&headers, &Method::POST, &uri, &body.bytes)?;
    let plan: Plan = body.json_or_default()?;
    let faults = plan.faults();
    if !faults.is_empty() {
        let fault = |(field, text)| FieldError::at(format!("/{field}"), text);
        return Err(ApiError::invalid(faults.into_iter().map(fault).collect()));
    }
    let running = running(&app).await?;
    if let (Some(running), None) = (running, &idempotency) {
        return Err(busy(running));
    }
    let job = job_of(&plan)?;
    let submission = Submission { jobs: vec![job], atomic: false, idempotency };
    match app.life.submit(submission).await? {
        SubmitOutcome::Done(results) => match results.into_iter().next() {
            // A schedule's check holds no unique key. It was asked for under a key, or it would not be here.
            Some(Ok(Accepted::New(job))) if running.is_some_and(|running| running != job.id) => {
                let reason = "another load check runs";
                app.life.cancel(&Namespace::system(), job.id, reason).await?;
                Err(busy(running.unwrap_or(job.id)))
            }
            Some(Ok(Accepted::New(job))) => {
                tracing::info!(check = %job.id, by = %caller.name, "a load check was asked for");
                Ok(created(LoadCheckView::of_job(job)))
            }
            Some(Err(Refused::UniqueKeyHeld { holder })) => Err(busy(holder)),
            Some(Err(refused)) => Err(refusal(&refused)),
            Some(Ok(_)) | None => {
                Err(ApiError::new(Code::Internal, "the ledger gave no answer for the check"))
            }
        },
        SubmitOutcome::Replayed(ids) => match ids.first() {
            Some(Some(id)) => Ok(claims::replayed(created(view(&app, *id).await?))),
            Some(None) | None => {
                let text = "the request was made before; its check was refused then";
                Err(ApiError::new(Code::KeyConflict, text))
            }
        },
        SubmitOutcome::KeyReused => Err(key_reused()),
        SubmitOutcome::OverQuota(exceeded) => Err(ApiError::quota(&exceeded)),
    }
}

/// The check that runs, whoever has submitted it.
async fn running(app: &App) -> Result<Option<JobId>, ApiError> {
    let latest = app.life.ledger().load_checks(None, LATEST).await?;
    let mut running = latest.into_iter().filter(|check| check.state == CheckState::Running);
    let Some(check) = running.next() else { return Ok(None) };
    // One whose job is gone is judged when the next begins.
    let job = app.life.ledger().job(&Namespace::system(), check.id).await?;
    Ok(job.filter(|job| !job.state.is_terminal()).map(|job| job.id))
}

fn busy(holder: JobId) -> ApiError {
    ApiError::new(Code::CheckRunning, format!("check {holder} runs, or waits for its turn"))
        .with_holder(holder.to_string())
}

fn job_of(plan: &Plan) -> Result<NewJob, ApiError> {
    let unwritable = |_| ApiError::new(Code::Internal, "a plan cannot be written");
    let payload = Value::Inline(serde_json::to_vec(plan).map_err(unwritable)?.into());
    let kind = KIND.parse().expect("a legal kind");
    let mut job = NewJob::new(Namespace::system(), QueueName::system(), kind, payload);
    job.spec.timeout = Span(plan.timeout());
    let key = UNIQUE_KEY.to_owned();
    job.unique = Some(Unique { key, window: None, on_conflict: OnConflict::Reject });
    Ok(job)
}

fn created(view: LoadCheckView) -> Response {
    let location = format!("/v1/load-checks/{}", view.id());
    located(StatusCode::CREATED, &location, view)
}

/// The job of a check.
async fn job(app: &App, id: JobId) -> Result<Job, ApiError> {
    let job = app.life.ledger().job(&Namespace::system(), id).await?;
    job.filter(|job| job.kind.as_str() == KIND).ok_or_else(ApiError::not_found)
}

async fn view(app: &App, id: JobId) -> Result<LoadCheckView, ApiError> {
    match app.life.ledger().load_check(id).await? {
        Some(check) => Ok(check.into()),
        None => Ok(LoadCheckView::of_job(job(app, id).await?)),
    }
}

/// List load checks
///
/// Latest first; the last 100, of the last 90 days. One that has not begun is not among them yet.
#[utoipa::path(
    get, path = "/v1/load-checks", tag = "operations",
    params(
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of checks.", body = Page<LoadCheckView>)),
)]
pub async fn list_load_checks(
    State(app): State<App>,
    _caller: Caller,
    mut params: Params,
) -> Result<Json<Page<LoadCheckView>>, ApiError> {
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let namespace = Namespace::system();
    let before = match cursor {
        Some(text) => Some(JobId::from_bytes(app.cursors.open_bytes(&namespace, SCOPE, &text)?)),
        None => None,
    };
    let found = app.life.ledger().load_checks(before, limit).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|len| len >= limit);
    let seal = |id: JobId| app.cursors.seal(&namespace, SCOPE, id.as_bytes());
    let next_cursor = found.last().filter(|_| is_full).map(|last| seal(last.id));
    let items = found.into_iter().map(LoadCheckView::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Get a load check
///
/// How it stands, and once it has ended, each verdict with its limit and what was measured.
#[utoipa::path(
    get, path = "/v1/load-checks/{id}", tag = "operations",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The check.", body = LoadCheckView)),
)]
pub async fn get_load_check(
    State(app): State<App>,
    _caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
) -> Result<Json<LoadCheckView>, ApiError> {
    Ok(Json(view(&app, id).await?))
}

/// Stop a load check
///
/// 200: it had not begun. 202: it runs, is told at once, and ends as `aborted` within seconds. Safe to repeat.
#[utoipa::path(
    post, path = "/v1/load-checks/{id}/abort", tag = "operations",
    params(("id" = String, Path, format = Uuid)),
    responses(
        (status = 200, description = "It never begins.", body = LoadCheckView),
        (status = 202, description = "Asked to stop.", body = LoadCheckView),
        (status = 409, description = "It has ended.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn abort_load_check(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<JobId>,
) -> Result<Response, ApiError> {
    job(&app, id).await?;
    let reason = format!("aborted by {}", caller.name);
    let status = match app.life.cancel(&Namespace::system(), id, &reason).await? {
        Changed::Done(Cancelled::Now(_)) => StatusCode::OK,
        Changed::Done(Cancelled::Requested(_)) => StatusCode::ACCEPTED,
        Changed::Refused(state) => {
            return Err(ApiError::state(state.as_str(), "the check has ended"));
        }
        Changed::Unknown => return Err(ApiError::not_found()),
    };
    tracing::info!(check = %id, by = %caller.name, "a load check was aborted");
    Ok((status, Json(view(&app, id).await?)).into_response())
}
