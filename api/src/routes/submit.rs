//! `POST /v1/jobs/batch`: up to 10,000 jobs, one by one or all or nothing.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::ledger::{Accepted, Refused, Submission, SubmitOutcome};
use windlass_shared::limits;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{JobState, NewJob};
use windlass_shared::model::name::{Namespace, QueueName};

use super::jobs::{idempotency, key_reused, origin, refusal};
use crate::app::App;
use crate::auth::Caller;
use crate::claims;
use crate::error::{ApiError, Code, FieldError};
use crate::extract::{self, MANY, MediaType, Params, RawBody};
use crate::observe::RequestContext;
use crate::queue_cache::Known;
use crate::requests::job::{JobRequest, Names};
use crate::values;
use crate::views::submit::{BatchItem, BatchResult, ItemError};

/// Different queues in one batch.
const QUEUES_MAX: usize = 100;
/// Large payloads stored at once.
const STORES_AT_ONCE: usize = 8;
/// Jobs looked up at once for a repeated batch.
const LOOKUP_MAX: usize = 1_000;

/// A batch of jobs.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BatchRequest)]
#[expect(dead_code, reason = "describes what `BatchShape` reads")]
struct BatchDocs<'a> {
    /// 1 to 10,000 jobs.
    #[serde(borrow)]
    #[schema(min_items = 1, max_items = 10000)]
    jobs: Vec<JobRequest<'a>>,
}

/// The jobs stay unparsed, so that one bad job refuses itself alone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchShape<'a> {
    #[serde(borrow, default)]
    jobs: Option<Vec<&'a RawValue>>,
}

/// A job of the batch on its way: its place, and what became of it so far.
type Sorted = (Vec<NewJob>, Vec<usize>, Vec<(usize, ApiError)>);

/// Submit many jobs
///
/// Takes `{"jobs": [...]}`, or one job per line as `application/x-ndjson`. A bad job is refused alone; with
/// `atomic=true` the whole batch is. Large payloads count against the body's limit of 32 MiB. A batch may
/// name at most 100 different queues.
#[utoipa::path(
    post, path = "/v1/jobs/batch", tag = "jobs",
    params(
        ("atomic" = Option<bool>, Query, description = "All or nothing."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body(content((BatchDocs<'static> = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, description = "What became of each job; accepted ones are durable.", body = BatchResult),
        (status = 409, description = "An atomic batch was refused.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn submit_batch(
    State(app): State<App>,
    caller: Caller,
    context: RequestContext,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    mut params: Params,
    body: RawBody<MANY>,
) -> Result<Response, ApiError> {
    let atomic = params.flag("atomic");
    params.finish()?;
    let idempotency = idempotency(&headers, &Method::POST, &uri, &body.bytes)?;
    let (jobs, places, refused) = sort(&app, &caller, &context, &body).await?;
    let total = jobs.len() + refused.len();
    if atomic && !refused.is_empty() {
        return Err(refused_whole(&refused));
    }
    // A repeat must mean the same jobs, and whether a queue is full changes from one moment to the next.
    if idempotency.is_some()
        && let Some((_, full)) = refused.iter().find(|(_, error)| error.code() == Code::QueueFull)
    {
        return Err(full.clone());
    }
    let mut items: Vec<BatchItem> = (0..total).map(empty_item).collect();
    for (place, error) in &refused {
        items[*place].error = Some(ItemError::from(error));
    }
    // An idempotent repeat of a batch without a good job has nothing to look up.
    let replayed = if jobs.is_empty() {
        false
    } else {
        match app.life.submit(Submission { jobs, atomic, idempotency }).await? {
            SubmitOutcome::Done(results) => {
                settle(&app, &mut items, &places, results, atomic).await?;
                false
            }
            SubmitOutcome::Replayed(ids) => {
                replay(&app, &mut items, &places, &ids).await?;
                true
            }
            SubmitOutcome::KeyReused => return Err(key_reused()),
            SubmitOutcome::OverQuota(exceeded) => return Err(ApiError::quota(&exceeded)),
        }
    };
    let rejected = items.iter().filter(|item| item.error.is_some()).count();
    let result = BatchResult { accepted: total - rejected, rejected, results: items };
    let response = (StatusCode::OK, Json(result)).into_response();
    Ok(if replayed { claims::replayed(response) } else { response })
}

fn empty_item(index: usize) -> BatchItem {
    BatchItem { index, id: None, state: None, item: None, replaced: None, error: None }
}

/// Parses and checks every job; stores what is too large to travel.
async fn sort(
    app: &App,
    caller: &Caller,
    context: &RequestContext,
    body: &RawBody<MANY>,
) -> Result<Sorted, ApiError> {
    let texts = texts(body)?;
    if texts.is_empty() || texts.len() > limits::BATCH_JOBS_MAX {
        let message = format!("must hold 1 to {} jobs", limits::BATCH_JOBS_MAX);
        return Err(ApiError::invalid(vec![FieldError::at("/jobs", message)]));
    }
    let origin = origin(app, caller, context);
    let mut names = Names::default();
    let mut queues = Queues::default();
    let mut jobs = Vec::with_capacity(texts.len());
    let mut places = Vec::with_capacity(texts.len());
    let mut refused = Vec::new();
    let mut large: Vec<(usize, Bytes)> = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        let base = Base { lines: body.media_type == Some(MediaType::Lines), place };
        let parsed = parse(text, base, &mut names);
        let (request, queue) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                refused.push((place, error));
                continue;
            }
        };
        let known = match queues.get(app, &caller.namespace, &queue).await? {
            Ok(known) => known,
            Err(error) => {
                refused.push((place, error));
                continue;
            }
        };
        // The pointer is made only for a job that is refused; a million good ones must not pay for it.
        let checked = request
            .check("", &origin, queue, &known.settings, &mut names)
            .and_then(|checked| known.admit().map(|()| checked));
        match checked {
            Ok(checked) => {
                large.extend(checked.large.map(|bytes| (jobs.len(), bytes)));
                jobs.push(checked.job);
                places.push(place);
            }
            Err(error) => refused.push((place, base.add_to(error))),
        }
    }
    store_large(app, &caller.namespace, &mut jobs, large).await?;
    Ok((jobs, places, refused))
}

/// Where a job is in the body.
#[derive(Clone, Copy)]
struct Base {
    lines: bool,
    place: usize,
}

impl Base {
    fn pointer(self) -> String {
        if self.lines { format!("/{}", self.place) } else { format!("/jobs/{}", self.place) }
    }

    fn add_to(self, error: ApiError) -> ApiError {
        let base = self.pointer();
        let errors = error
            .errors()
            .iter()
            .map(|fault| FieldError {
                pointer: fault.pointer.as_ref().map(|pointer| format!("{base}{pointer}")),
                ..fault.clone()
            })
            .collect();
        error.with_errors(errors)
    }
}

fn parse<'a>(
    text: &'a str,
    base: Base,
    names: &mut Names,
) -> Result<(JobRequest<'a>, QueueName), ApiError> {
    let request: JobRequest<'a> = extract::parse(text, "").map_err(|error| base.add_to(error))?;
    let queue = request.queue_name("", names).map_err(|error| base.add_to(error))?;
    Ok((request, queue))
}

fn texts<const MAX: usize>(body: &RawBody<MAX>) -> Result<Vec<&str>, ApiError> {
    if body.media_type == Some(MediaType::Lines) {
        let lines = extract::text(&body.bytes)?.lines().filter(|line| !line.trim().is_empty());
        // One more than allowed is enough to know that there are too many.
        return Ok(lines.take(limits::BATCH_JOBS_MAX + 1).collect());
    }
    let shape: BatchShape<'_> = body.json()?;
    Ok(shape.jobs.unwrap_or_default().into_iter().map(RawValue::get).collect())
}

/// The queues of one batch: looked up once each.
#[derive(Default)]
struct Queues {
    known: HashMap<QueueName, Arc<Known>>,
    last: Option<(QueueName, Arc<Known>)>,
}

impl Queues {
    async fn get(
        &mut self,
        app: &App,
        namespace: &Namespace,
        queue: &QueueName,
    ) -> Result<Result<Arc<Known>, ApiError>, ApiError> {
        if let Some((name, known)) = &self.last
            && name == queue
        {
            return Ok(Ok(known.clone()));
        }
        let known = match self.known.get(queue) {
            Some(known) => known.clone(),
            None if self.known.len() >= QUEUES_MAX => {
                let message = format!("a batch may name at most {QUEUES_MAX} queues");
                return Ok(Err(ApiError::invalid(vec![FieldError::at("/queue", message)])));
            }
            None => {
                let known = app.queues.get(app, namespace, queue).await?;
                self.known.insert(queue.clone(), known.clone());
                known
            }
        };
        self.last = Some((queue.clone(), known.clone()));
        Ok(Ok(known))
    }
}

async fn store_large(
    app: &App,
    namespace: &Namespace,
    jobs: &mut [NewJob],
    large: Vec<(usize, Bytes)>,
) -> Result<(), ApiError> {
    if large.is_empty() {
        return Ok(());
    }
    let stored: Vec<_> = futures::stream::iter(large)
        .map(|(at, bytes)| async move {
            values::store(app, namespace, bytes).await.map(|value| (at, value))
        })
        .buffer_unordered(STORES_AT_ONCE)
        .try_collect()
        .await?;
    for (at, value) in stored {
        jobs[at].payload = value;
    }
    Ok(())
}

async fn settle(
    app: &App,
    items: &mut [BatchItem],
    places: &[usize],
    results: Vec<Result<Accepted, Refused>>,
    atomic: bool,
) -> Result<(), ApiError> {
    if atomic && results.iter().any(Result::is_err) {
        let causes: Vec<_> = places
            .iter()
            .zip(&results)
            .filter_map(|(place, result)| match result {
                Err(Refused::Batch) | Ok(_) => None,
                Err(refused) => Some((*place, refusal(refused))),
            })
            .collect();
        return Err(refused_whole(&causes));
    }
    let mut held = Vec::new();
    for (place, result) in places.iter().zip(results) {
        let item = &mut items[*place];
        match result {
            Ok(Accepted::Existing(id)) => held.push((*place, id)),
            Ok(accepted) => {
                item.id = Some(accepted.id().to_string());
                item.replaced = accepted.replaced().map(|id| id.to_string());
                item.state = accepted.state();
                if let Accepted::Collected(one) = &accepted {
                    item.item = Some(one.item);
                }
            }
            Err(refused) => item.error = Some(ItemError::from(&refusal(&refused))),
        }
    }
    fill(app, items, &held).await
}

async fn replay(
    app: &App,
    items: &mut [BatchItem],
    places: &[usize],
    ids: &[Option<JobId>],
) -> Result<(), ApiError> {
    if ids.len() != places.len() {
        return Err(ApiError::new(
            Code::KeyConflict,
            "other jobs of this batch were fit to be accepted the first time",
        ));
    }
    let mut known = Vec::with_capacity(ids.len());
    for (place, id) in places.iter().zip(ids) {
        match id {
            Some(id) => known.push((*place, *id)),
            None => {
                let error = ApiError::new(Code::KeyConflict, "it was refused the first time");
                items[*place].error = Some(ItemError::from(&error));
            }
        }
    }
    fill(app, items, &known).await
}

/// Adds ids and recorded states.
async fn fill(
    app: &App,
    items: &mut [BatchItem],
    known: &[(usize, JobId)],
) -> Result<(), ApiError> {
    let mut states: HashMap<JobId, JobState> = HashMap::with_capacity(known.len());
    for chunk in known.chunks(LOOKUP_MAX) {
        let ids: Vec<JobId> = chunk.iter().map(|(_, id)| *id).collect();
        let jobs = app.life.ledger().jobs(&ids).await?;
        states.extend(jobs.into_iter().map(|job| (job.id, job.state)));
    }
    for (place, id) in known {
        items[*place].id = Some(id.to_string());
        items[*place].state = states.get(id).copied();
    }
    Ok(())
}

/// One answer for an atomic batch: the gravest status of its causes, and every cause by pointer.
fn refused_whole(causes: &[(usize, ApiError)]) -> ApiError {
    let errors: Vec<FieldError> = causes
        .iter()
        .take(50)
        .flat_map(|(place, error)| {
            if error.errors().is_empty() {
                vec![FieldError::at(format!("/jobs/{place}"), error.detail())]
            } else {
                error.errors().to_vec()
            }
        })
        .collect();
    let detail = format!("{} of the jobs cannot be accepted; nothing was stored", causes.len());
    let all_wrong = causes.iter().all(|(_, error)| error.code() == Code::Invalid);
    let code = if all_wrong { Code::Invalid } else { Code::BatchRefused };
    ApiError::new(code, detail).with_errors(errors)
}
