//! Circuits: what is known of dependencies, and operators' word on them.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, header};
use windlass_shared::engine::flow::{CircuitMode, FlowKey};
use windlass_shared::ledger::circuits::{
    CIRCUITS_KNOWN_MAX, CIRCUITS_SET_MAX, Circuit, CircuitSettings,
};
use windlass_shared::lifecycle::circuits::{Changed, Sight};
use windlass_shared::model::name::CircuitName;
use windlass_shared::model::time::Timestamp;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::extract::{Id, NoParams, Params, RawBody, SMALL};
use crate::if_match;
use crate::requests::circuit::CircuitPatch;
use crate::requests::queue::ReasonRequest;
use crate::views::Page;
use crate::views::circuit::CircuitView;

const SCOPE: &str = "circuits";

/// List circuits
///
/// By name: those that jobs were accepted with, and those that were set. Asks every queue of the namespace.
#[utoipa::path(
    get, path = "/v1/circuits", tag = "circuits",
    params(
        ("limit" = Option<u32>, Query, description = "Items of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before.", max_length = 512),
    ),
    responses((status = 200, description = "A page of circuits.", body = Page<CircuitView>)),
)]
pub async fn list_circuits(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<CircuitView>>, ApiError> {
    let limit = params.limit();
    let cursor = params.one("cursor");
    params.finish()?;
    let after = match cursor {
        Some(text) => app.cursors.open_name(&caller.namespace, SCOPE, &text)?,
        None => String::new(),
    };
    let page = app.life.ledger().circuits(&caller.namespace, &after, limit).await?;
    let seal = |next: String| app.cursors.seal(&caller.namespace, SCOPE, next.as_bytes());
    let next_cursor = page.next.map(seal);
    let sight = match page.circuits.is_empty() {
        true => Sight::default(),
        false => app.life.look_at_circuits(&caller.namespace).await?,
    };
    let items = page.circuits.into_iter().map(|circuit| view(&app, &caller, circuit, &sight));
    Ok(Json(Page { items: items.collect(), next_cursor }))
}

fn view(app: &App, caller: &Caller, circuit: Circuit, sight: &Sight) -> CircuitView {
    let known = sight.known.get(&FlowKey::of(circuit.name.as_str()));
    let known = known.map(Vec::as_slice).unwrap_or_default();
    CircuitView::new(&caller.namespace, circuit, known, sight.silent, app.life.clock().now())
}

/// Get a circuit
#[utoipa::path(
    get, path = "/v1/circuits/{name}", tag = "circuits",
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$")),
    responses((status = 200, description = "The circuit.", body = CircuitView,
        headers(("ETag" = String, description = "Its version, for `If-Match`.")))),
)]
pub async fn get_circuit(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<CircuitName>,
) -> Result<Response, ApiError> {
    let circuit = app.life.ledger().circuit(&caller.namespace, &name).await?;
    let sight = app.life.look_at_circuits(&caller.namespace).await?;
    // Its name may be on its way to the ledger still.
    let is_known = circuit.is_some() || sight.known.contains_key(&FlowKey::of(name.as_str()));
    let circuit = circuit.or_else(|| is_known.then(|| nothing_set(name)));
    let circuit = circuit.ok_or_else(ApiError::not_found)?;
    let version = circuit.version;
    Ok(tagged(version, view(&app, &caller, circuit, &sight)))
}

fn nothing_set(name: CircuitName) -> Circuit {
    let (settings, noted_at) = (CircuitSettings::default(), Timestamp::default());
    Circuit { name, settings, version: 0, noted_at }
}

fn tagged(version: u64, view: CircuitView) -> Response {
    let tag = HeaderValue::try_from(if_match::tag(version)).expect("digits in quotes");
    let mut response = Json(view).into_response();
    response.headers_mut().insert(header::ETAG, tag);
    response
}

/// Change a circuit's rule
///
/// Absent fields stay, `null` brings a default back. A circuit that is not known is made. It holds in every queue of the
/// namespace when this answers with `applied: true`. With `If-Match` nothing is changed unless the circuit still has that
/// version.
#[utoipa::path(
    patch, path = "/v1/circuits/{name}", tag = "circuits",
    params(
        ("name" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$"),
        ("If-Match" = Option<String>, Header, description = "The version that is to be changed, as in `ETag`; or `*`.", pattern = r#"^(\*|[0-9]{1,20}|"[0-9]{1,20}")$"#),
    ),
    request_body = CircuitPatch,
    responses(
        (status = 200, description = "The circuit as it is now.", body = CircuitView,
            headers(("ETag" = String, description = "Its version, for `If-Match`."))),
        (status = 412, description = "It has another version.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn patch_circuit(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<CircuitName>,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let condition = if_match::of(&headers)?;
    let patch: CircuitPatch = body.json()?;
    patch.check()?;
    let change = |version, mut settings: CircuitSettings| {
        let is_meant = condition.as_ref().is_none_or(|c| c.check(Some(version)).is_ok());
        patch.clone().apply(&mut settings);
        is_meant.then_some(settings)
    };
    let changed = app.life.change_circuit(&caller.namespace, &name, &change).await?;
    answer(&app, &caller, changed).await
}

/// Open a circuit
///
/// None of its jobs starts, not even a probe, until it is closed or reset. Jobs that run go on.
#[utoipa::path(
    post, path = "/v1/circuits/{name}/open", tag = "circuits",
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$")),
    request_body = Option<ReasonRequest>,
    responses((status = 200, description = "The circuit as it is now.", body = CircuitView,
        headers(("ETag" = String, description = "Its version, for `If-Match`.")))),
)]
pub async fn open_circuit(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<CircuitName>,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    force(&app, &caller, &name, CircuitMode::Open, &body).await
}

/// Close a circuit
///
/// Its jobs start whatever happens, until it is opened or reset.
#[utoipa::path(
    post, path = "/v1/circuits/{name}/close", tag = "circuits",
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$")),
    request_body = Option<ReasonRequest>,
    responses((status = 200, description = "The circuit as it is now.", body = CircuitView,
        headers(("ETag" = String, description = "Its version, for `If-Match`.")))),
)]
pub async fn close_circuit(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<CircuitName>,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    force(&app, &caller, &name, CircuitMode::Closed, &body).await
}

async fn force(
    app: &App,
    caller: &Caller,
    name: &CircuitName,
    mode: CircuitMode,
    body: &RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let reason = body.json_or_default::<ReasonRequest>()?.check()?;
    let (now, by) = (app.life.clock().now(), caller.name.to_string());
    let change =
        |_, settings: CircuitSettings| Some(settings.forced(mode, now, &by, reason.clone()));
    let changed = app.life.change_circuit(&caller.namespace, name, &change).await?;
    answer(app, caller, changed).await
}

/// Reset a circuit
///
/// Its calls decide again, and every queue forgets what it has seen of it: it is closed.
#[utoipa::path(
    post, path = "/v1/circuits/{name}/reset", tag = "circuits",
    params(("name" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$")),
    responses((status = 200, description = "The circuit as it is now.", body = CircuitView,
        headers(("ETag" = String, description = "Its version, for `If-Match`.")))),
)]
pub async fn reset_circuit(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Id(name): Id<CircuitName>,
) -> Result<Response, ApiError> {
    let changed = app.life.reset_circuit(&caller.namespace, &name).await?;
    answer(&app, &caller, changed).await
}

async fn answer(app: &App, caller: &Caller, changed: Changed) -> Result<Response, ApiError> {
    match changed {
        Changed::Done(circuit, applied) => {
            // It is on record: that nobody can tell now what the queues see is no failure of it.
            let blind = Sight { silent: 1, ..Sight::default() };
            let sight = app.life.look_at_circuits(&caller.namespace).await.unwrap_or(blind);
            let version = circuit.version;
            Ok(tagged(version, view(app, caller, circuit, &sight).applied(applied)))
        }
        Changed::OtherVersion(version) => {
            let detail = format!("the version is {version} now");
            Err(ApiError::new(Code::VersionConflict, detail))
        }
        Changed::Full => {
            let detail = format!(
                "the namespace has {CIRCUITS_KNOWN_MAX} circuits already, or {CIRCUITS_SET_MAX} that are set"
            );
            Err(ApiError::new(Code::TooManyCircuits, detail))
        }
        Changed::Busy => {
            let detail = "the circuit keeps changing; try again";
            Err(ApiError::new(Code::VersionConflict, detail))
        }
    }
}
