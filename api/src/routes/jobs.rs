//! `POST /v1/jobs`: one job.

use axum::extract::{OriginalUri, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use sha2::{Digest, Sha256};
use windlass_shared::ledger::shaping::Collected;
use windlass_shared::ledger::{Accepted, Idempotency, Refused, Submission, SubmitOutcome};
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::Job;
use windlass_shared::model::shaping::Shaping;

use super::located;
use crate::app::App;
use crate::auth::Caller;
use crate::claims;
use crate::error::{ApiError, Code};
use crate::extract::{self, NoParams, ONE_JOB, RawBody};
use crate::observe::RequestContext;
use crate::requests::job::{JobRequest, Names, Origin};
use crate::values::{self, Large};
use crate::views::job::JobView;
use crate::views::submit::CollectedItem;

/// Marks an answer that was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Submit a job
///
/// Answers once the job is durable in the ledger. With an `Idempotency-Key` the call may be repeated: the
/// same key with the same body gives the first answer again, with the header `Idempotency-Replayed: true`.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = JobRequest<'static>,
    responses(
        (status = 201, description = "The job is durable.", body = JobView,
            headers(("Location" = String, description = "The job."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 202, description = "The payload is durable, as an item of a job that collects (`collect`).", body = CollectedItem,
            headers(("Location" = String, description = "The job that collects."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "Its unique key is held.", body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 429, description = "Its throttle or a quota of its namespace is used up, or its queue is full.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn submit_job(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    context: RequestContext,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<ONE_JOB>,
) -> Result<Response, ApiError> {
    let idempotency = idempotency(&headers, &Method::POST, &uri, &body.bytes)?;
    let request: JobRequest<'_> = body.json()?;
    let mut names = Names::default();
    let queue = request.queue_name("", &mut names)?;
    let known = app.queues.get(&app, &caller.namespace, &queue).await?;
    let origin = origin(&app, &caller, &context);
    let mut checked = request.check("", &origin, queue, &known.settings, &mut names)?;
    known.admit()?;
    let large = checked.large.take();
    if let Some(bytes) = large.clone() {
        checked.job.payload = values::store(&app, &caller.namespace, bytes).await?;
    }
    let collects = matches!(checked.job.shaping.as_deref(), Some(Shaping::Collect(_)));
    let submission = Submission { jobs: vec![checked.job], atomic: false, idempotency };
    match app.life.submit(submission).await? {
        SubmitOutcome::Done(results) => match results.into_iter().next() {
            Some(Ok(Accepted::New(job))) => Ok(created(view_of(job, large), false)),
            Some(Ok(Accepted::Replaced(job, old))) => {
                Ok(created(view_of(job, large).replacing(Some(old)), false))
            }
            Some(Ok(Accepted::Debounced(one))) => {
                Ok(created(view_of(one.job, large).replacing(one.superseded), false))
            }
            Some(Ok(Accepted::Collected(one))) => Ok(collected(&one)),
            Some(Ok(Accepted::Existing(id))) => existing(&app, &caller, id, false).await,
            Some(Err(refused)) => Err(refusal(&refused)),
            None => Err(ApiError::new(Code::Internal, "the ledger gave no answer for the job")),
        },
        SubmitOutcome::Replayed(ids) => match ids.first() {
            Some(Some(id)) if collects => collected_before(&app, &caller, *id).await,
            Some(Some(id)) => existing(&app, &caller, *id, true).await,
            Some(None) | None => Err(gone()),
        },
        SubmitOutcome::KeyReused => Err(key_reused()),
        SubmitOutcome::OverQuota(exceeded) => Err(ApiError::quota(&exceeded)),
    }
}

/// 202 for an item of a job.
fn collected(one: &Collected) -> Response {
    let (id, item, run_at) = (one.job.to_string(), Some(one.item), one.until);
    accepted(CollectedItem { id, item, state: one.state(), run_at })
}

/// The same once more: the number of the item is not kept.
async fn collected_before(app: &App, caller: &Caller, id: JobId) -> Result<Response, ApiError> {
    let Some(job) = app.life.ledger().job(&caller.namespace, id).await? else {
        return Err(gone());
    };
    let (id, state, run_at) = (id.to_string(), job.state, job.run_at);
    Ok(claims::replayed(accepted(CollectedItem { id, item: None, state, run_at })))
}

fn accepted(item: CollectedItem) -> Response {
    let location = format!("/v1/jobs/{}", item.id);
    located(StatusCode::ACCEPTED, &location, item)
}

/// What the jobs of a request have in common.
pub fn origin<'a>(app: &App, caller: &'a Caller, context: &'a RequestContext) -> Origin<'a> {
    Origin {
        namespace: &caller.namespace,
        now: app.life.clock().now(),
        request_id: &context.id,
        traceparent: context.traceparent.as_deref(),
    }
}

/// The caller's idempotency key with the hash of what it is for.
///
/// # Errors
/// 400 for a key that is not one.
pub fn idempotency(
    headers: &HeaderMap,
    method: &Method,
    uri: &http::Uri,
    body: &Bytes,
) -> Result<Option<Idempotency>, ApiError> {
    Ok(extract::idempotency_key(headers)?.map(|key| {
        let target = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        let mut hash = Sha256::new();
        for part in [method.as_str().as_bytes(), target.as_bytes(), body] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Idempotency { key, body_hash: hash.finalize().into() }
    }))
}

fn view_of(job: Job, large: Option<Bytes>) -> JobView {
    let mut view = JobView::recorded(job);
    if let Some(bytes) = large {
        view.set_payload(bytes);
    }
    view
}

fn created(view: JobView, replayed: bool) -> Response {
    let location = format!("/v1/jobs/{}", view.id());
    let response = located(StatusCode::CREATED, &location, view);
    if replayed { claims::replayed(response) } else { response }
}

async fn existing(
    app: &App,
    caller: &Caller,
    id: JobId,
    replayed: bool,
) -> Result<Response, ApiError> {
    let Some(seen) = app.life.get(&caller.namespace, id).await? else {
        return Err(gone());
    };
    let large = Large::of(&seen.job);
    let mut view = JobView::live(seen.job, seen.live);
    large.fill(app, &caller.namespace, &mut view).await?;
    Ok(created(view, replayed))
}

fn gone() -> ApiError {
    ApiError::new(
        Code::KeyConflict,
        "the request was made before; its job was refused then, or has been forgotten since",
    )
}

/// 422 `idempotency_key_reused`.
pub fn key_reused() -> ApiError {
    ApiError::new(
        Code::IdempotencyKeyReused,
        "the idempotency key was used for a request with another body",
    )
}

/// Why the ledger refused a job.
pub fn refusal(refused: &Refused) -> ApiError {
    match refused {
        Refused::UniqueKeyHeld { holder } => {
            ApiError::new(Code::UniqueKeyHeld, format!("job {holder} holds the unique key"))
                .with_holder(holder.to_string())
        }
        Refused::Throttled { last, wait } => {
            let text = format!("its throttle is used up; job {last} was the last one accepted");
            ApiError::new(Code::Throttled, text).with_holder(last.to_string()).retry_after(*wait)
        }
        // The ledger's words may name columns and constraints.
        Refused::BadData(reason) => {
            tracing::warn!(reason, "the ledger does not take a job's data");
            ApiError::new(Code::Invalid, "the ledger does not take this job's data")
        }
        Refused::Batch => {
            ApiError::new(Code::BatchRefused, "another job of the same batch was refused")
        }
        Refused::TooManyQueues => ApiError::too_many_queues(),
        Refused::Unavailable => ApiError::new(
            Code::Unavailable,
            "the ledger could not take this job now; nothing of it is stored, submit it again",
        ),
        Refused::OutcomeUnknown => ApiError::new(
            Code::OutcomeUnknown,
            "the ledger did not say whether it stored this job; others of the batch are stored",
        ),
    }
}
