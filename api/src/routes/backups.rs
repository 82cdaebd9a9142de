//! Backups: listed from the ledger; made, proven and restored by jobs of the installation's own.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::json;
use windlass_shared::ledger::{Accepted, Submission, SubmitOutcome};
use windlass_shared::model::backup::{CREATE, DRILL, RESTORE, job_spec};
use windlass_shared::model::id::{BackupId, JobId};
use windlass_shared::model::job::{NewJob, OnConflict, Unique, Value};
use windlass_shared::model::name::{Namespace, QueueName};

use super::jobs::{idempotency, key_reused, refusal};
use super::located;
use crate::app::App;
use crate::auth::Caller;
use crate::claims;
use crate::error::{ApiError, Code};
use crate::extract::{Id, NoParams, Params, RawBody, SMALL};
use crate::views::Page;
use crate::views::backup::{BackupView, NothingSent};
use crate::views::job::JobView;

const SCOPE: &str = "backups";

/// A call that starts a job.
struct Asked<'a> {
    app: &'a App,
    caller: &'a Caller,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    body: &'a RawBody<SMALL>,
}

/// Make a backup
///
/// Answers with the job `backup.create` that makes it, in the namespace `system`; once that has succeeded, its output
/// names the backup. One waits or runs at a time. With an `Idempotency-Key` the call may be repeated.
#[utoipa::path(
    post, path = "/v1/backups", tag = "operations",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = Option<NothingSent>,
    responses(
        (status = 201, description = "The job is durable.", body = JobView,
            headers(("Location" = String, description = "The job."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "One that was asked for has not ended: `holder` is its job.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn create_backup(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let asked = Asked { app: &app, caller: &caller, uri: &uri, headers: &headers, body: &body };
    start(&asked, CREATE, None).await
}

/// Prove a backup
///
/// Answers with the job `backup.drill`, which restores the backup into a scratch database, compares, and runs a workflow
/// on it; it fails where the backup is not good, or is not in the store. One waits or runs at a time.
#[utoipa::path(
    post, path = "/v1/backups/{id}/verify", tag = "operations",
    params(("id" = String, Path, format = Uuid), ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = Option<NothingSent>,
    responses(
        (status = 201, description = "The job is durable.", body = JobView,
            headers(("Location" = String, description = "The job."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "One that was asked for has not ended: `holder` is its job.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn verify_backup(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<BackupId>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let asked = Asked { app: &app, caller: &caller, uri: &uri, headers: &headers, body: &body };
    start(&asked, DRILL, Some(id)).await
}

/// Restore a backup
///
/// Answers with the job `backup.restore`, which restores it into the database of the setting `backup.restore_url`: that
/// must be set, empty, and not the ledger in use. One waits or runs at a time.
#[utoipa::path(
    post, path = "/v1/backups/{id}/restore", tag = "operations",
    params(("id" = String, Path, format = Uuid), ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = Option<NothingSent>,
    responses(
        (status = 201, description = "The job is durable.", body = JobView,
            headers(("Location" = String, description = "The job."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "One that was asked for has not ended: `holder` is its job.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn restore_backup(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<BackupId>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    if !app.settings.can_restore {
        let text = "the setting backup.restore_url, the empty database to restore into, is not set";
        return Err(ApiError::new(Code::Invalid, text));
    }
    let asked = Asked { app: &app, caller: &caller, uri: &uri, headers: &headers, body: &body };
    start(&asked, RESTORE, Some(id)).await
}

/// Whether there is such a backup the job finds out: the store knows, and the ledger's list may lag behind it.
async fn start(
    asked: &Asked<'_>,
    kind: &'static str,
    backup: Option<BackupId>,
) -> Result<Response, ApiError> {
    let Asked { app, caller, uri, headers, body } = asked;
    let idempotency = idempotency(headers, &Method::POST, uri, &body.bytes)?;
    let NothingSent {} = body.json_or_default()?;
    let job = job_of(kind, backup);
    let submission = Submission { jobs: vec![job], atomic: false, idempotency };
    match app.life.submit(submission).await? {
        SubmitOutcome::Done(results) => match results.into_iter().next() {
            Some(Ok(Accepted::New(job))) => {
                tracing::info!(job = %job.id, kind, by = %caller.name, "a job of backups was asked for");
                Ok(created(JobView::recorded(job)))
            }
            Some(Err(refused)) => Err(refusal(&refused)),
            Some(Ok(_)) | None => {
                Err(ApiError::new(Code::Internal, "the ledger gave no answer for the job"))
            }
        },
        SubmitOutcome::Replayed(ids) => match ids.first() {
            Some(Some(id)) => Ok(claims::replayed(created(known_job(app, *id).await?))),
            Some(None) | None => Err(gone()),
        },
        SubmitOutcome::KeyReused => Err(key_reused()),
        SubmitOutcome::OverQuota(exceeded) => Err(ApiError::quota(&exceeded)),
    }
}

fn job_of(kind: &str, backup: Option<BackupId>) -> NewJob {
    let payload = match backup {
        Some(id) => json!({ "backup": id }),
        None => json!({}),
    };
    let payload = Value::Inline(payload.to_string().into_bytes().into());
    let name = kind.parse().expect("a legal kind");
    let mut job = NewJob::new(Namespace::system(), QueueName::system(), name, payload);
    job.spec = job_spec();
    let key = kind.to_owned();
    job.unique = Some(Unique { key, window: None, on_conflict: OnConflict::Reject });
    job
}

async fn known_job(app: &App, id: JobId) -> Result<JobView, ApiError> {
    let seen = app.life.get(&Namespace::system(), id).await?.ok_or_else(gone)?;
    Ok(JobView::live(seen.job, seen.live))
}

fn gone() -> ApiError {
    let text = "the request was made before; its job was refused then, or has been forgotten since";
    ApiError::new(Code::KeyConflict, text)
}

fn created(view: JobView) -> Response {
    let location = format!("/v1/jobs/{}", view.id());
    located(StatusCode::CREATED, &location, view)
}

/// List backups
///
/// Newest first, each with the latest drill by a job. What the command line makes is here once a job has made the next
/// backup; what it proves of backups that are here already is not.
#[utoipa::path(
    get, path = "/v1/backups", tag = "operations",
    params(
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of backups.", body = Page<BackupView>)),
)]
pub async fn list_backups(
    State(app): State<App>,
    _caller: Caller,
    mut params: Params,
) -> Result<Json<Page<BackupView>>, ApiError> {
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let namespace = Namespace::system();
    let before = match cursor {
        Some(text) => Some(BackupId::from_bytes(app.cursors.open_bytes(&namespace, SCOPE, &text)?)),
        None => None,
    };
    let found = app.life.ledger().backups(before, limit).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|len| len >= limit);
    let seal = |id: BackupId| app.cursors.seal(&namespace, SCOPE, id.as_bytes());
    let next_cursor = found.last().filter(|_| is_full).map(|last| seal(last.made.id));
    let items = found.into_iter().map(BackupView::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Get a backup
///
/// As it was made, and what drills found.
#[utoipa::path(
    get, path = "/v1/backups/{id}", tag = "operations",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The backup.", body = BackupView)),
)]
pub async fn get_backup(
    State(app): State<App>,
    _caller: Caller,
    _: NoParams,
    Id(id): Id<BackupId>,
) -> Result<Json<BackupView>, ApiError> {
    let found = app.life.ledger().backup(id).await?;
    Ok(Json(found.ok_or_else(ApiError::not_found)?.into()))
}
