//! Results of load tests: kept, listed and read. Whoever makes the load keeps them (`windlass loadtest run`).

use axum::Json;
use axum::extract::State;
use uuid::Uuid;
use windlass_shared::ledger::load_results::{ResultFilter, StoredResult};
use windlass_shared::model::name::Namespace;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, FieldError};
use crate::extract::{Id, NoParams, Params, RawBody};
use crate::views::Page;
use crate::views::load_result::{LoadResultRequest, LoadResultView};

/// Largest result.
const BODY_MAX: usize = 512 << 10;
const MACHINE_MAX: usize = 256;
const PROFILE_MAX: usize = 128;
const NAME_RULE: &str = "must be 1 to 128 of A-Z a-z 0-9 . _ : -";
const MACHINE_RULE: &str = "must be 1 to 256 bytes of text";
const SCOPE: &str = "load-results";

/// Keep the result of a load test
///
/// Under an id that the caller has made. What is on record stays as it is, so the call may be repeated. Of each profile on each
/// machine the latest 100 are kept.
#[utoipa::path(
    put, path = "/v1/load-results/{id}", tag = "operations",
    params(("id" = String, Path, format = Uuid)),
    request_body = LoadResultRequest<'static>,
    responses((status = 200, description = "It is on record.", body = LoadResultView)),
)]
pub async fn put_load_result(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(id): Id<Uuid>,
    body: RawBody<BODY_MAX>,
) -> Result<Json<LoadResultView>, ApiError> {
    let request: LoadResultRequest<'_> = body.json()?;
    let mut faults = Vec::new();
    let mut want = |holds: bool, pointer: &str, text: String| {
        if !holds {
            faults.push(FieldError::at(pointer, text));
        }
    };
    want(is_name(&request.profile), "/profile", NAME_RULE.into());
    want(is_machine(&request.machine), "/machine", MACHINE_RULE.into());
    want(request.result.get().starts_with('{'), "/result", "must be an object".into());
    if !faults.is_empty() {
        return Err(ApiError::invalid(faults));
    }
    let new = StoredResult {
        id,
        profile: request.profile,
        machine: request.machine,
        passed: request.passed,
        began_at: request.began_at,
        result: request.result.get().to_owned(),
    };
    app.life.ledger().add_load_result(&new).await?;
    tracing::info!(result = %id, by = %caller.name, profile = new.profile, "a result was kept");
    Ok(Json(LoadResultView::brief(&new)))
}

fn is_name(text: &str) -> bool {
    (1..=PROFILE_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

fn is_machine(text: &str) -> bool {
    (1..=MACHINE_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// List results of load tests
///
/// Latest first, without what is not shown in lists.
#[utoipa::path(
    get, path = "/v1/load-results", tag = "operations",
    params(
        ("profile" = Option<String>, Query, description = "Of this profile.", pattern = "^[A-Za-z0-9._:-]{1,128}$"),
        ("machine" = Option<String>, Query, description = "Made on this machine.", min_length = 1, max_length = 256),
        ("passed" = Option<bool>, Query, description = "Only those that passed, or only those that did not."),
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of results.", body = Page<LoadResultView>)),
)]
pub async fn list_load_results(
    State(app): State<App>,
    _caller: Caller,
    mut params: Params,
) -> Result<Json<Page<LoadResultView>>, ApiError> {
    let limit = params.limit();
    let cursor = params.one("cursor");
    let mut filter = ResultFilter {
        profile: params
            .parsed("profile", |text| is_name(text).then(|| text.to_owned()).ok_or(NAME_RULE)),
        machine: params.parsed("machine", |text| {
            is_machine(text).then(|| text.to_owned()).ok_or(MACHINE_RULE)
        }),
        passed: params.parsed("passed", str::parse::<bool>),
        before: None,
    };
    params.finish()?;
    let namespace = Namespace::system();
    if let Some(text) = cursor {
        filter.before = Some(Uuid::from_bytes(app.cursors.open_bytes(&namespace, SCOPE, &text)?));
    }
    let found = app.life.ledger().load_results(&filter, limit).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|len| len >= limit);
    let seal = |id: Uuid| app.cursors.seal(&namespace, SCOPE, id.as_bytes());
    let next_cursor = found.last().filter(|_| is_full).map(|last| seal(last.id));
    Ok(Json(Page { items: found.iter().map(LoadResultView::brief).collect(), next_cursor }))
}

/// Get the result of a load test
#[utoipa::path(
    get, path = "/v1/load-results/{id}", tag = "operations",
    params(("id" = String, Path, format = Uuid)),
    responses((status = 200, description = "The result, whole.", body = LoadResultView)),
)]
pub async fn get_load_result(
    State(app): State<App>,
    _caller: Caller,
    _: NoParams,
    Id(id): Id<Uuid>,
) -> Result<Json<LoadResultView>, ApiError> {
    let found = app.life.ledger().load_result(id).await?;
    found.map(LoadResultView::whole).map(Json).ok_or_else(ApiError::not_found)
}
