//! Quotas of namespaces: read by whom they concern, set by admins of the installation.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use windlass_shared::model::name::Namespace;

use crate::app::App;
use crate::auth::Caller;
use crate::cursor;
use crate::error::ApiError;
use crate::extract::{Id, NoParams, Params, RawBody, SMALL};
use crate::requests::quota::QuotasRequest;
use crate::views::Page;
use crate::views::quota::QuotaView;

/// What is older is counted anew for who asks for one namespace.
const COUNT_OLD: Duration = Duration::from_secs(1);
const SCOPE: &str = "quotas";

/// List quotas
///
/// By namespace. Namespaces that may bring in what they like are not among them.
#[utoipa::path(
    get, path = "/v1/quotas", tag = "quotas",
    params(
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of quotas.", body = Page<QuotaView>)),
)]
pub async fn list_quotas(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<QuotaView>>, ApiError> {
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let after = match cursor {
        Some(text) => {
            let name = app.cursors.open_name(&caller.namespace, SCOPE, &text)?;
            Some(name.parse().map_err(|_| cursor::not_one())?)
        }
        None => None,
    };
    let found = app.life.ledger().all_quotas(after.as_ref(), limit).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|len| len >= limit);
    let last = found.last().filter(|_| is_full);
    let next_cursor = last
        .map(|last| app.cursors.seal(&caller.namespace, SCOPE, last.namespace.as_str().as_bytes()));
    Ok(Json(Page { items: found.into_iter().map(QuotaView::from).collect(), next_cursor }))
}

/// Get a namespace's quotas
///
/// With what is used of them. 404 for a namespace that may bring in what it likes. A key that is bound to a namespace sees
/// that one's.
#[utoipa::path(
    get, path = "/v1/quotas/{namespace}", tag = "quotas",
    params(("namespace" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    responses((status = 200, description = "The quotas.", body = QuotaView)),
)]
pub async fn get_quotas(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(namespace): Id<Namespace>,
) -> Result<Json<QuotaView>, ApiError> {
    let own = |bound: &Namespace| *bound == namespace || *bound == Namespace::system();
    if !caller.bound_to.as_ref().is_none_or(own) {
        return Err(ApiError::not_found());
    }
    let ledger = app.life.ledger();
    let Some(record) = ledger.quotas(&namespace).await? else { return Err(ApiError::not_found()) };
    let now = app.life.clock().now();
    let is_old = record.counted_at.is_none_or(|at| now.since(at) >= COUNT_OLD);
    if !record.quotas.count_jobs() || !is_old {
        return Ok(Json(record.into()));
    }
    ledger.count_quotas(&namespace).await?;
    shown(&app, &namespace).await
}

async fn shown(app: &App, namespace: &Namespace) -> Result<Json<QuotaView>, ApiError> {
    let record = app.life.ledger().quotas(namespace).await?;
    Ok(Json(record.ok_or_else(ApiError::not_found)?.into()))
}

/// Set a namespace's quotas
///
/// All of them anew: what is absent is not limited. What is there already is counted. Every API holds submissions to them
/// within a second; what is unfinished stays, however much it is.
#[utoipa::path(
    put, path = "/v1/quotas/{namespace}", tag = "quotas",
    params(("namespace" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    request_body = QuotasRequest,
    responses((status = 200, description = "The quotas as they are now.", body = QuotaView)),
)]
pub async fn put_quotas(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(namespace): Id<Namespace>,
    body: RawBody<SMALL>,
) -> Result<Json<QuotaView>, ApiError> {
    if namespace.is_own() {
        let text = "the namespace is the installation's own, whose jobs must not be kept out";
        return Err(ApiError::parameter("namespace", text));
    }
    let quotas = body.json::<QuotasRequest>()?.check()?;
    app.life.ledger().set_quotas(&namespace, Some(&quotas), &caller.name).await?;
    tracing::info!(%namespace, ?quotas, by = %caller.name, "quotas were set");
    shown(&app, &namespace).await
}

/// Take a namespace's quotas away
///
/// It may bring in what it likes, within a second at every API.
#[utoipa::path(
    delete, path = "/v1/quotas/{namespace}", tag = "quotas",
    params(("namespace" = String, Path, pattern = "^[a-z0-9._-]{1,64}$")),
    responses((status = 204, description = "It has none.")),
)]
pub async fn delete_quotas(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(namespace): Id<Namespace>,
) -> Result<StatusCode, ApiError> {
    if !app.life.ledger().set_quotas(&namespace, None, &caller.name).await? {
        return Err(ApiError::not_found());
    }
    tracing::info!(%namespace, by = %caller.name, "quotas were taken away");
    Ok(StatusCode::NO_CONTENT)
}
