//! What runs wait for: signals, and votes on approvals.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::ledger::Role;
use windlass_shared::ledger::runs::{NewGiven, RunChanged, Step};
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::workflow::{ApprovalSpec, StepState, Work};

use super::changes::{conflict, full};
use super::{known, reading};
use crate::app::App;
use crate::auth::{Caller, roles};
use crate::claims::{self, Key};
use crate::error::{ApiError, Code};
use crate::extract::{Ids, NoParams, RawBody, SMALL};
use crate::requests::Faults;
use crate::requests::job::checked_value;
use crate::requests::workflow::step::IdText;
use crate::views::Page;
use crate::views::workflow::VoteView;

/// A signal that was taken in.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignalTaken {
    /// The run.
    #[schema(format = Uuid)]
    id: String,
    /// The signal's name.
    signal: String,
}

/// Send a signal
///
/// To a run whose `wait.signal` step of this name waits for it, or will: a signal that comes early is kept. The body,
/// any JSON of at most 64 KiB, is the step's output. Each call is one signal, and each signal ends one step; with an
/// `Idempotency-Key` the call may be repeated.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/signals/{name}", tag = "workflows",
    params(
        ("id" = String, Path, format = Uuid),
        ("name" = String, Path, pattern = "^[A-Za-z0-9._-]{1,128}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating safe; kept 24 h.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body = Option<serde_json::Value>,
    responses(
        (status = 202, description = "The run has it.", body = SignalTaken,
            headers(("Idempotency-Replayed" = String, description = "`true` where the answer was given before."))),
        (status = 409, description = "The run has ended, or has 10,000 signals and votes already.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn send_signal(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Ids(id, IdText(name)): Ids<WorkflowId, IdText>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let key = Key::of(&caller.namespace, &headers, &Method::POST, &uri, &body.bytes)?;
    let bytes = if body.bytes.is_empty() {
        Bytes::from_static(b"null")
    } else {
        let raw: &RawValue = body.json()?;
        let mut faults = Faults::default();
        let bytes = checked_value(raw.get(), "", &mut faults);
        faults.finish()?;
        bytes.unwrap_or_default()
    };
    let given = NewGiven {
        name: name.clone(),
        by: caller.name.to_string(),
        role: Some(roles::name(caller.role).to_owned()),
        approved: None,
        reason: None,
        body: Some(bytes),
    };
    let taken = SignalTaken { id: id.to_string(), signal: name.clone() };
    let answer = (StatusCode::ACCEPTED, Json(taken)).into_response();
    if let Some(key) = &key
        && sent_before(&app, &caller, id, key).await?
    {
        return Ok(claims::replayed(answer));
    }
    give(&app, &caller, id, &given).await?;
    if let Some(key) = &key {
        key.note_done(&app, &caller.namespace).await;
    }
    tracing::info!(workflow.id = %id, signal = name, by = %caller.name, "a signal was sent");
    Ok(answer)
}

/// Whether a request with this key has sent its signal; else the key is claimed for doing so.
async fn sent_before(
    app: &App,
    caller: &Caller,
    id: WorkflowId,
    key: &Key,
) -> Result<bool, ApiError> {
    let namespace = &caller.namespace;
    if key.claimed(app, namespace).await?.is_none() {
        // Refused as without a key, which stays free.
        let state = known(app, caller, id).await?.state;
        if state.is_terminal() {
            return Err(conflict(state, ONLY_LIVE));
        }
    }
    let Some(first) = key.claim(app, namespace, id.uuid(), 0).await? else { return Ok(false) };
    if key.is_done(app, namespace).await? {
        return Ok(true);
    }
    first.ensure_abandoned(app).await?;
    Ok(false)
}

const ONLY_LIVE: &str = "only workflows that have not ended take signals and votes";

async fn give(
    app: &App,
    caller: &Caller,
    id: WorkflowId,
    given: &NewGiven,
) -> Result<(), ApiError> {
    match app.life.give(&caller.namespace, id, given).await? {
        RunChanged::Done(()) => Ok(()),
        RunChanged::Refused(state) => Err(conflict(state, ONLY_LIVE)),
        RunChanged::Unknown => Err(ApiError::not_found()),
        RunChanged::Full => Err(full()),
    }
}

/// A vote.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VoteRequest {
    /// `false` rejects, and one such vote decides.
    #[serde(default)]
    #[schema(value_type = bool, required = true)]
    approve: Option<bool>,
    /// In words, at most 1,000 bytes.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$"
    )]
    reason: Option<String>,
    /// Who votes; only where no API keys are needed. Default `local`. With keys it is the key's name.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$"
    )]
    by: Option<String>,
}

impl VoteRequest {
    fn check(&self, caller: &Caller) -> Result<bool, ApiError> {
        let mut faults = Faults::default();
        if self.approve.is_none() {
            faults.wrong("/approve", "is required");
        }
        if let Some(reason) = &self.reason {
            faults.indexed("/reason", reason, 1_000);
        }
        if let Some(by) = &self.by {
            faults.indexed("/by", by, 128);
            if caller.key.is_some() {
                faults.wrong("/by", "is the name of the API key and cannot be given");
            }
        }
        faults.finish()?;
        Ok(self.approve.unwrap_or(false))
    }
}

/// Vote on an approval
///
/// Approves or rejects a `wait.approval` step that waits, in the name of the API key. The latest vote of each counts;
/// one rejection decides. Answers all votes on the step.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/approvals/{step}", tag = "workflows",
    params(("id" = String, Path, format = Uuid), ("step" = String, Path, pattern = "^[A-Za-z0-9._-]{1,128}$")),
    request_body = VoteRequest,
    responses(
        (status = 202, description = "The vote is noted.", body = Page<VoteView>),
        (status = 409, description = "The step does not wait for votes.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn vote(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Ids(id, IdText(step)): Ids<WorkflowId, IdText>,
    body: RawBody<SMALL>,
) -> Result<Response, ApiError> {
    let request: VoteRequest = body.json()?;
    let approve = request.check(&caller)?;
    let found = approval_step(&app, &caller, id, &step).await?;
    let Some(approval) = approval_of(&found) else {
        let text = format!("the step {step:?} is not an approval: there is nothing to vote on");
        return Err(ApiError::new(Code::StateConflict, text));
    };
    if found.state != StepState::Waiting {
        let state = found.state.as_str();
        let text = format!("the step {step:?} is {state}; only a step that waits takes votes");
        return Err(ApiError::state(state, text));
    }
    let by = request.by.unwrap_or_else(|| caller.name.to_string());
    if !counts(&approval, caller.role, &by) {
        let wanted = match approval.roles.is_empty() {
            true => "operators and admins".to_owned(),
            false => approval.roles.join(", "),
        };
        let text = format!("the votes of {by:?} do not count on this step; those of {wanted} do");
        return Err(ApiError::new(Code::Forbidden, text));
    }
    let role = roles::name(caller.role);
    let given = NewGiven {
        name: step.clone(),
        by: by.clone(),
        role: Some(role.to_owned()),
        approved: Some(approve),
        reason: request.reason,
        body: None,
    };
    give(&app, &caller, id, &given).await?;
    tracing::info!(workflow.id = %id, step, by, role, approve, "a vote was cast");
    let votes = votes(&app, id, &step).await?;
    Ok((StatusCode::ACCEPTED, Json(votes)).into_response())
}

/// Whether a vote counts: by the names of roles or keys that the step lists, or for anyone who operates runs.
fn counts(approval: &ApprovalSpec, role: Role, by: &str) -> bool {
    if approval.roles.is_empty() {
        return matches!(role, Role::Admin | Role::Operator);
    }
    approval.names(Some(roles::name(role)), by)
}

/// List the votes on an approval
///
/// Oldest first: who, in which role, when and why.
#[utoipa::path(
    get, path = "/v1/workflows/{id}/approvals/{step}", tag = "workflows",
    params(("id" = String, Path, format = Uuid), ("step" = String, Path, pattern = "^[A-Za-z0-9._-]{1,128}$")),
    responses((status = 200, description = "The votes.", body = Page<VoteView>)),
)]
pub async fn list_votes(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    Ids(id, IdText(step)): Ids<WorkflowId, IdText>,
) -> Result<Json<Page<VoteView>>, ApiError> {
    let found = approval_step(&app, &caller, id, &step).await?;
    if approval_of(&found).is_none() {
        return Err(ApiError::not_found());
    }
    Ok(Json(votes(&app, id, &step).await?))
}

async fn approval_step(
    app: &App,
    caller: &Caller,
    id: WorkflowId,
    step: &str,
) -> Result<Step, ApiError> {
    let run = known(app, caller, id).await?;
    let steps = app.life.ledger().steps_named(run.id, &[step.to_owned()]).await?;
    steps.into_iter().next().ok_or_else(ApiError::not_found)
}

fn approval_of(step: &Step) -> Option<ApprovalSpec> {
    match reading::spec_of(step)?.work {
        Work::Approval(approval) => Some(approval),
        _ => None,
    }
}

async fn votes(app: &App, id: WorkflowId, step: &str) -> Result<Page<VoteView>, ApiError> {
    let given = app.life.ledger().given(id).await?;
    let of_step = given.into_iter().filter(|g| g.approved.is_some() && g.name == step);
    Ok(Page { items: of_step.map(VoteView::from).collect(), next_cursor: None })
}
