//! Stored definitions: documents under a name, each version for good.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use windlass_shared::ledger::runs::Definition;
use windlass_shared::model::time::Timestamp;

use super::workflows::documents;
use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code, FieldError};
use crate::extract::{self, DOCUMENT, Id, Ids, NoParams, Params, RawBody};
use crate::requests::workflow::shape::WorkflowRequest;
use crate::requests::workflow::step::IdText;
use crate::views::Page;
use crate::views::definition::DefinitionView;

const SCOPE: &str = "definitions";
/// Definitions of one page at most: each may be 16 MiB.
const PAGE_MAX: u32 = 20;

/// Store a definition
///
/// As a new version under its name (201), or, where the latest version says the same, as that one (200). Runs keep the
/// version that they started with. A document without a name is called as the definition is.
#[utoipa::path(
    put, path = "/v1/definitions/{name}", tag = "workflows",
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,128}$")),
    request_body(content((WorkflowRequest<'static> = "application/json"), (String = "application/yaml"))),
    responses(
        (status = 200, description = "The latest version says the same.", body = DefinitionView),
        (status = 201, description = "A new version.", body = DefinitionView),
    ),
)]
pub async fn put_definition(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(IdText(name)): Id<IdText>,
    body: RawBody<DOCUMENT>,
) -> Result<Response, ApiError> {
    let json = documents::json_text(&app, &body).await?;
    refuse_input(extract::text(&json)?)?;
    let named = Some(name.clone());
    let document = documents::check(&app, &caller.namespace, json, named).await?;
    let definition = Definition {
        namespace: caller.namespace.clone(),
        name: name.clone(),
        version: 0,
        created_at: Timestamp::default(),
        by: caller.name.to_string(),
        document: serde_json::to_string(&document.checked.spec)
            .map_err(|_| ApiError::new(Code::Internal, "a definition cannot be written"))?,
        source: extract::text(&body.bytes)?.to_owned(),
    };
    let (version, is_new) = app.life.ledger().put_definition(&definition).await?;
    if is_new {
        tracing::info!(definition = name, version, by = %caller.name, "a definition was stored");
    }
    let stored = find(&app, &caller, &name, Some(version)).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(DefinitionView::full(stored))).into_response())
}

/// What is wrong with the rest is found by the check.
fn refuse_input(json: &str) -> Result<(), ApiError> {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(default)]
        input: Option<serde::de::IgnoredAny>,
    }
    if serde_json::from_str::<Head>(json).is_ok_and(|head| head.input.is_some()) {
        let text = "is given with each run, not with the definition";
        return Err(ApiError::invalid(vec![FieldError::at("/input", text)]));
    }
    Ok(())
}

async fn find(
    app: &App,
    caller: &Caller,
    name: &str,
    version: Option<u32>,
) -> Result<Definition, ApiError> {
    let found = app.life.ledger().definition(&caller.namespace, name, version).await?;
    found.ok_or_else(ApiError::not_found)
}

/// List definitions
///
/// The latest version of each, by name.
#[utoipa::path(
    get, path = "/v1/definitions", tag = "workflows",
    params(
        ("limit" = Option<u32>, Query, description = "Items of a page, of which there are at most 20.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of definitions.", body = Page<DefinitionView>)),
)]
pub async fn list_definitions(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<DefinitionView>>, ApiError> {
    // A definition may be large: a page has few, whatever is asked for.
    let limit = params.limit().min(PAGE_MAX);
    let cursor = params.one("cursor");
    params.finish()?;
    let after = match cursor {
        Some(text) => Some(app.cursors.open_name(&caller.namespace, SCOPE, &text)?),
        None => None,
    };
    let namespace = &caller.namespace;
    let found = app.life.ledger().definitions(namespace, after.as_deref(), limit).await?;
    let last = found.last().filter(|_| found.len() >= limit as usize);
    let next_cursor = last.map(|last| app.cursors.seal(namespace, SCOPE, last.name.as_bytes()));
    let items = found.into_iter().map(DefinitionView::listed).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Get a definition
///
/// Its latest version.
#[utoipa::path(
    get, path = "/v1/definitions/{name}", tag = "workflows",
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,128}$")),
    responses((status = 200, description = "The definition.", body = DefinitionView)),
)]
pub async fn get_definition(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(IdText(name)): Id<IdText>,
) -> Result<Json<DefinitionView>, ApiError> {
    Ok(Json(DefinitionView::full(find(&app, &caller, &name, None).await?)))
}

/// List the versions of a definition
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/definitions/{name}/versions", tag = "workflows",
    params(
        ("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,128}$"),
        ("limit" = Option<u32>, Query, description = "Items of a page, of which there are at most 20.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of versions.", body = Page<DefinitionView>)),
)]
pub async fn list_versions(
    State(app): State<App>,
    caller: Caller,
    Id(IdText(name)): Id<IdText>,
    mut params: Params,
) -> Result<Json<Page<DefinitionView>>, ApiError> {
    let limit = params.limit().min(PAGE_MAX);
    let cursor = params.one("cursor");
    params.finish()?;
    let scope = format!("{SCOPE}\u{1f}{name}");
    let before = match cursor {
        Some(text) => {
            Some(u32::from_be_bytes(app.cursors.open_bytes(&caller.namespace, &scope, &text)?))
        }
        None => None,
    };
    let namespace = &caller.namespace;
    let found = app.life.ledger().definition_versions(namespace, &name, before, limit).await?;
    if found.is_empty() && before.is_none() {
        return Err(ApiError::not_found());
    }
    let last = found.last().filter(|_| found.len() >= limit as usize);
    let next_cursor =
        last.map(|last| app.cursors.seal(namespace, &scope, &last.version.to_be_bytes()));
    let items = found.into_iter().map(DefinitionView::listed).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Get one version of a definition
#[utoipa::path(
    get, path = "/v1/definitions/{name}/versions/{version}", tag = "workflows",
    params(
        ("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,128}$"),
        ("version" = u32, Path, minimum = 1),
    ),
    responses((status = 200, description = "The version.", body = DefinitionView)),
)]
pub async fn get_version(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Ids(IdText(name), version): Ids<IdText, u32>,
) -> Result<Json<DefinitionView>, ApiError> {
    Ok(Json(DefinitionView::full(find(&app, &caller, &name, Some(version)).await?)))
}
