//! Values over 16 KiB, kept by reference.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::value::RawValue;
use windlass_shared::limits;
use windlass_shared::model::id::BlobId;

use crate::app::App;
use crate::auth::Caller;
use crate::claims;
use crate::error::{ApiError, Code};
use crate::extract::{Id, NoParams, RawBody};
use crate::requests::Faults;
use crate::requests::job::checked_value;

/// Keep a value
///
/// Any JSON of at most 1 MiB. Repeating with the same id changes nothing. Ids are UUIDs of any version but 8.
#[utoipa::path(
    put, path = "/v1/blobs/{id}", tag = "blobs",
    params(("id" = String, Path, format = Uuid)),
    request_body = serde_json::Value,
    responses((status = 204, description = "Kept.")),
)]
pub async fn put_blob(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<BlobId>,
    body: RawBody<{ limits::VALUE_BYTES_MAX }>,
) -> Result<StatusCode, ApiError> {
    if claims::is_reserved(id) {
        let detail = "UUIDs of version 8 are reserved; name values by UUIDs of version 7 or 4";
        return Err(ApiError::new(Code::Invalid, detail));
    }
    let raw: &RawValue = body.json()?;
    let mut faults = Faults::default();
    let bytes = checked_value(raw.get(), "", &mut faults);
    faults.finish()?;
    if let Some(bytes) = bytes {
        app.life.ledger().put_blob(&caller.namespace, id, bytes).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Get a kept value
#[utoipa::path(
    get, path = "/v1/blobs/{id}", tag = "blobs",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "As it was stored.", body = serde_json::Value)),
)]
pub async fn get_blob(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<BlobId>,
) -> Result<Response, ApiError> {
    let bytes =
        app.life.ledger().blob(&caller.namespace, id).await?.ok_or_else(ApiError::not_found)?;
    let kind = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, kind)], bytes).into_response())
}
