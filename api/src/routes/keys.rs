//! API keys: make, list, revoke. For admins; one who is bound to a namespace sees that one's keys only.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use utoipa::ToSchema;
use windlass_shared::ledger::{ApiKey, Role};
use windlass_shared::limits;
use windlass_shared::model::id::KeyId;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::{Span, Timestamp};

use crate::app::App;
use crate::auth::Caller;
use crate::claims::Key;
use crate::error::{ApiError, Code};
use crate::extract::{Id, NoParams, Params, RawBody, SMALL};
use crate::keys;
use crate::requests::Faults;
use crate::requests::docs::DurationText;
use crate::views::Page;
use crate::views::key::{KeyView, NewKeyView, RoleDocs};

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    /// For people.
    #[serde(default)]
    #[schema(value_type = String, required = true, min_length = 1, max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    name: Option<String>,
    /// What it may do.
    #[serde(default)]
    #[schema(value_type = RoleDocs, required = true)]
    role: Option<Role>,
    /// Where; `null` is everywhere, which only an admin of everywhere can give.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[a-z0-9._-]{1,64}$")]
    namespace: Option<Namespace>,
    /// Refused from then on.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Refused after this time from now.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    ttl: Option<Span>,
}

/// Make a key
///
/// The key is in the answer and never shown again. With an `Idempotency-Key` a repeat makes no second key:
/// it answers 409 with the id of the first, whose text is not kept.
#[utoipa::path(
    post, path = "/v1/api-keys", tag = "keys",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat makes no second key; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = KeyRequest,
    responses(
        (status = 201, description = "The key.", body = NewKeyView),
        (status = 409, description = "The key was made by the first request with this idempotency key, or that one is under way.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn create_key(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let idempotency = Key::of(&caller.namespace, &headers, &Method::POST, &uri, &body.bytes)?;
    let request: KeyRequest = body.json()?;
    let now = app.life.clock().now();
    let mut faults = Faults::default();
    match &request.name {
        Some(name) => faults.indexed("/name", name, 128),
        None => faults.wrong("/name", "is required"),
    }
    if request.role.is_none() {
        faults.wrong("/role", "is required");
    }
    if request.expires_at.is_some() && request.ttl.is_some() {
        faults.wrong("/ttl", "cannot be given together with expires_at");
    }
    let expires_at = request.ttl.map(|ttl| now.plus(ttl.0)).or(request.expires_at);
    if expires_at.is_some_and(|at| at <= now || at > now.plus(limits::HORIZON_MAX)) {
        let pointer = if request.ttl.is_some() { "/ttl" } else { "/expires_at" };
        faults.wrong(pointer, "must be in the future, at most 10 years from now");
    }
    faults.finish()?;
    let (Some(name), Some(role)) = (request.name, request.role) else {
        return Err(ApiError::new(Code::Internal, "a checked request lacks a field"));
    };
    let namespace = match (&caller.bound_to, request.namespace) {
        (Some(bound), Some(asked)) if *bound != asked => {
            return Err(ApiError::new(
                Code::NamespaceDenied,
                "an admin of one namespace makes keys for that one only",
            ));
        }
        (Some(bound), _) => Some(bound.clone()),
        (None, asked) => asked,
    };
    let id = claimed_id(&app, &caller, idempotency).await?;
    let fresh = keys::generate(&app.environment);
    let record = ApiKey {
        id,
        public: fresh.public,
        secret_hash: fresh.secret_hash,
        name,
        role,
        namespace,
        created_at: now,
        expires_at,
        revoked_at: None,
    };
    app.life.ledger().create_key(&record).await?;
    tracing::info!(key.id = %record.id, by = %caller.name, "an API key was made");
    let key = fresh.text.expose_secret().to_owned();
    Ok((StatusCode::CREATED, Json(NewKeyView { record: record.into(), key })).into_response())
}

/// The id of the key to make: once for each idempotency key.
async fn claimed_id(
    app: &App,
    caller: &Caller,
    idempotency: Option<Key>,
) -> Result<KeyId, ApiError> {
    let id = KeyId::generate();
    let Some(idempotency) = idempotency else {
        return Ok(id);
    };
    let Some(first) = idempotency.claim(app, &caller.namespace, id.uuid(), 0).await? else {
        return Ok(id);
    };
    let id = KeyId::from_uuid(first.subject);
    if app.life.ledger().keys().await?.iter().any(|key| key.id == id) {
        let detail = format!("key {id} was made before and its text is not kept: revoke it");
        return Err(ApiError::new(Code::KeyConflict, detail));
    }
    first.ensure_abandoned(app).await?;
    Ok(id)
}

const SCOPE: &str = "api-keys";

/// List keys
///
/// Newest first, revoked ones included. Secrets are not kept and not shown.
#[utoipa::path(
    get, path = "/v1/api-keys", tag = "keys",
    params(
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of keys.", body = Page<KeyView>)),
)]
pub async fn list_keys(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<KeyView>>, ApiError> {
    let limit = params.limit() as usize;
    let cursor = params.one("cursor");
    params.finish()?;
    let after = match cursor {
        Some(text) => {
            Some(KeyId::from_bytes(app.cursors.open_bytes(&caller.namespace, SCOPE, &text)?))
        }
        None => None,
    };
    let mut keys = visible(&app, &caller).await?;
    keys.sort_by_key(|key| std::cmp::Reverse(key.id));
    let mut rest = keys.into_iter().filter(|key| after.is_none_or(|after| key.id < after));
    let page: Vec<ApiKey> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next_cursor = page
        .last()
        .filter(|_| more)
        .map(|last| app.cursors.seal(&caller.namespace, SCOPE, last.id.as_bytes()));
    Ok(Json(Page { items: page.into_iter().map(KeyView::from).collect(), next_cursor }))
}

async fn visible(app: &App, caller: &Caller) -> Result<Vec<ApiKey>, ApiError> {
    let mut keys = app.life.ledger().keys().await?;
    if let Some(bound) = &caller.bound_to {
        keys.retain(|key| key.namespace.as_ref() == Some(bound));
    }
    Ok(keys)
}

/// Revoke a key
///
/// Refused everywhere within 5 s; open streams of it end.
#[utoipa::path(
    delete, path = "/v1/api-keys/{id}", tag = "keys",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 204, description = "Revoked.")),
)]
pub async fn delete_key(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<KeyId>,
) -> Result<StatusCode, ApiError> {
    if caller.bound_to.is_some() && !visible(&app, &caller).await?.iter().any(|key| key.id == id) {
        return Err(ApiError::not_found());
    }
    if !app.life.ledger().revoke_key(id).await? {
        return Err(ApiError::not_found());
    }
    app.keys.forget();
    tracing::info!(key.id = %id, by = %caller.name, "an API key was revoked");
    Ok(StatusCode::NO_CONTENT)
}
