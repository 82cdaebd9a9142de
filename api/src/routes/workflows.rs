//! Runs of workflows: submit, list, get.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use windlass_shared::ledger::runs::{CreateOutcome, Run};
use windlass_shared::lifecycle::workflow::Order;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::workflow::WorkflowSpec;

use super::jobs::{idempotency, key_reused};
use super::located;
use crate::app::App;
use crate::auth::Caller;
use crate::claims;
use crate::error::{ApiError, Code, FieldError};
use crate::extract::{self, DOCUMENT, Id, NoParams, Params, RawBody};
use crate::observe::RequestContext;
use crate::requests::Faults;
use crate::requests::job::check_tags;
use crate::requests::workflow::filter::{self, RunFilterParams};
use crate::requests::workflow::shape::WorkflowRequest;
use crate::requests::workflow::step::{ID_RULE, is_id};
use crate::requests::workflow::{check_deadline, check_input};
use crate::views::Page;
use crate::views::workflow::{RunDetail, RunView, visible_state};

pub mod added;
pub mod changes;
pub mod documents;
pub mod given;
pub mod graph;
pub mod plan;
pub mod reading;

/// Runs of a list whose steps are counted at once.
const COUNTS_AT_ONCE: usize = 8;

/// Submit a workflow
///
/// Its steps, as JSON or YAML, or a stored definition by name. Answers once the run is durable in the ledger. With an
/// `Idempotency-Key` the call may be repeated: the same key with the same body gives the first answer again, with the
/// header `Idempotency-Replayed: true`.
#[utoipa::path(
    post, path = "/v1/workflows", tag = "workflows",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body(content((WorkflowRequest<'static> = "application/json"), (String = "application/yaml"))),
    responses(
        (status = 201, description = "The run is durable.", body = RunView,
            headers(("Location" = String, description = "The run."),
                ("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "The first run of this idempotency key is gone.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn submit_workflow(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    context: RequestContext,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<DOCUMENT>,
) -> Result<Response, ApiError> {
    let idempotency = idempotency(&headers, &Method::POST, &uri, &body.bytes)?;
    let json = documents::json_text(&app, &body).await?;
    let mut order = if documents::names_definition(extract::text(&json)?) {
        of_definition(&app, &caller, &context, &json).await?
    } else {
        let document = documents::check(&app, &caller.namespace, json, None).await?;
        Order { input: document.input, ..order(&caller, &context, document.checked.spec) }
    };
    order.idempotency = idempotency;
    start(&app, &caller, order).await
}

/// An order with nothing but a document.
fn order(caller: &Caller, context: &RequestContext, spec: WorkflowSpec) -> Order {
    Order {
        id: WorkflowId::generate(),
        namespace: caller.namespace.clone(),
        spec,
        definition: None,
        input: Value::Null,
        deadline: None,
        tags: Vec::new(),
        rerun_of: None,
        request_id: Some(context.id.to_string()),
        traceparent: context.traceparent.as_deref().map(str::to_owned),
        idempotency: None,
    }
}

/// `{"definition", "version", "input", "deadline", "tags"}`.
async fn of_definition(
    app: &App,
    caller: &Caller,
    context: &RequestContext,
    json: &Bytes,
) -> Result<Order, ApiError> {
    let request: WorkflowRequest<'_> = extract::parse(extract::text(json)?, "")?;
    let mut faults = Faults::default();
    let name = request.definition.as_ref().map_or("", |name| name.as_str());
    if !is_id(name) {
        faults.wrong("/definition", ID_RULE);
    }
    if request.version == Some(0) {
        faults.wrong("/version", "must be at least 1");
    }
    for (pointer, given) in [
        ("/name", request.name.is_some()),
        ("/on_failure", request.on_failure.is_some()),
        ("/output", request.output.is_some()),
    ] {
        if given {
            faults.wrong(pointer, "is part of the definition and cannot be given beside it");
        }
    }
    let deadline = check_deadline(request.deadline, &mut faults);
    let tags = check_tags(request.tags.as_deref(), &mut faults);
    faults.finish()?;
    let input = check_input(request.input)?;
    let found = app.life.ledger().definition(&caller.namespace, name, request.version).await?;
    let Some(found) = found else {
        let (pointer, text) = match request.version {
            Some(version) => ("/version", format!("there is no version {version} of {name:?}")),
            None => ("/definition", format!("there is no definition {name:?}")),
        };
        return Err(ApiError::invalid(vec![FieldError::at(pointer, text)]));
    };
    let spec = stored(&found.document)?;
    let definition = Some((found.name, found.version));
    Ok(Order { definition, input, deadline, tags, ..order(caller, context, spec) })
}

/// A document from the ledger.
///
/// # Errors
/// 500: this build cannot read it.
pub fn stored<T: serde::de::DeserializeOwned>(document: &str) -> Result<T, ApiError> {
    serde_json::from_str(document).map_err(|error| {
        tracing::error!(%error, "a stored workflow cannot be read");
        ApiError::new(Code::Internal, "the stored workflow cannot be read by this version")
    })
}

/// Commits a run and answers it.
pub(super) async fn start(app: &App, caller: &Caller, order: Order) -> Result<Response, ApiError> {
    documents::admit(app, &caller.namespace, &order.spec).await?;
    let id = order.id;
    match app.life.submit_run(order).await? {
        CreateOutcome::Created(_) => existing(app, caller, id, false).await,
        CreateOutcome::Replayed(first) => existing(app, caller, first, true).await,
        CreateOutcome::KeyReused => Err(key_reused()),
        CreateOutcome::OverQuota(exceeded) => Err(ApiError::quota(&exceeded)),
        CreateOutcome::ParentGone => {
            Err(ApiError::new(Code::Internal, "a run without a parent was refused for its parent"))
        }
    }
}

async fn existing(
    app: &App,
    caller: &Caller,
    id: WorkflowId,
    replayed: bool,
) -> Result<Response, ApiError> {
    let run = app.life.ledger().run(&caller.namespace, id).await?.ok_or_else(|| {
        let text = "the request was made before; its run has been forgotten since";
        ApiError::new(Code::KeyConflict, text)
    })?;
    let view = reading::view(app, run).await?;
    let location = format!("/v1/workflows/{}", view.id());
    let response = located(StatusCode::CREATED, &location, view);
    Ok(if replayed { claims::replayed(response) } else { response })
}

/// List runs
///
/// Newest first. Inputs and outputs over 16 KiB are shown as `{"$blob": id}`.
#[utoipa::path(
    get, path = "/v1/workflows", tag = "workflows",
    params(
        RunFilterParams,
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page. It may hold few runs and still have a next one.", body = Page<RunView>)),
)]
pub async fn list_workflows(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<RunView>>, ApiError> {
    let query = filter::from_query(&mut params);
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let before = match cursor {
        Some(text) => {
            let id = app.cursors.open_bytes(&caller.namespace, &query.scope, &text)?;
            Some(WorkflowId::from_bytes(id))
        }
        None => None,
    };
    let runs = app.life.ledger().list_runs(&caller.namespace, &query.filter, before, limit).await?;
    let last = runs.last().map(|run| run.id).filter(|_| runs.len() >= limit as usize);
    let next_cursor =
        last.map(|id| app.cursors.seal(&caller.namespace, &query.scope, id.as_bytes()));
    let counted: Vec<_> = futures::stream::iter(runs)
        .map(|run| {
            let app = &app;
            async move {
                let counts = app.life.ledger().step_counts(run.id).await?;
                Ok::<_, ApiError>((run, counts))
            }
        })
        .buffered(COUNTS_AT_ONCE)
        .try_collect()
        .await?;
    let items = counted
        .into_iter()
        .filter(|(run, counts)| {
            query.states.is_empty() || query.states.contains(&visible_state(run.state, counts))
        })
        .map(|(run, counts)| RunView::new(run, &counts))
        .collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Get a run
///
/// With its steps. Outputs of steps over 16 KiB are shown as `{"$blob": id}` (`GET /v1/blobs/{id}`); of a run with
/// very many outputs the last ones are left out, and `output_omitted` says so.
#[utoipa::path(
    get, path = "/v1/workflows/{id}", tag = "workflows",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The run.", body = RunDetail)),
)]
pub async fn get_workflow(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<WorkflowId>,
) -> Result<Json<RunDetail>, ApiError> {
    let run = known(&app, &caller, id).await?;
    Ok(Json(reading::detail(&app, run).await?))
}

/// A run of the caller's namespace.
///
/// # Errors
/// 404.
pub(super) async fn known(app: &App, caller: &Caller, id: WorkflowId) -> Result<Run, ApiError> {
    app.life.ledger().run(&caller.namespace, id).await?.ok_or_else(ApiError::not_found)
}
