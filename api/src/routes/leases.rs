//! Jobs for remote workers: take, extend, settle.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;
use windlass_shared::engine::Held;
use windlass_shared::engine::flow::Dependency;
use windlass_shared::lifecycle::lease::{End, Landed, LeaseError, Shown, Take, Taken, Told};

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::extract::{MANY, NoParams, RawBody, SMALL};
use crate::requests::Faults;
use crate::requests::job::checked_value;
use crate::requests::lease::{
    DependencyTold, HeartbeatRequest, LeaseItem, LeaseRequest, SettleItem, SettleOutcome,
    SettleRequest, check_lease, check_worker, worker_id,
};
use crate::resume;
use crate::token::Token;
use crate::values::{self, Large};
use crate::views::job::JobView;
use crate::views::submit::ItemError;
use crate::views::worker::{
    HeartbeatItem, HeartbeatResult, LeaseView, LeasedJob, Leases, SettleResult, SettledItem,
};

/// Large values read or stored at once.
const VALUES_AT_ONCE: usize = 8;
/// Longest wait, of all jobs of a call together, for outcomes of attempts before to be recorded. Short: leases run.
const PREVIOUS_WAIT: Duration = Duration::from_millis(500);

/// Take jobs
///
/// Leases up to `max` ready jobs to a remote worker, waiting up to `wait` for the first one. A job is the
/// worker's until its lease ends; extend it with heartbeats, and settle it. With a job that was tried before come the partial
/// result that it left (`checkpoint`) and why it failed (`previous`).
#[utoipa::path(
    post, path = "/v1/leases", tag = "leases",
    request_body = LeaseRequest<'static>,
    responses((status = 200, description = "The jobs; none when none came in time.", body = Leases)),
)]
pub async fn take_leases(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    body: RawBody<SMALL>,
) -> Result<Json<Leases>, ApiError> {
    let call = body.json::<LeaseRequest<'_>>()?.check()?;
    drop(body);
    let worker = worker_id(&caller.namespace, caller.key, &call.worker);
    let take = Take {
        namespace: caller.namespace.clone(),
        worker,
        queues: call.queues,
        kinds: call.kinds,
        max: call.max,
        lease: call.lease,
        wait: call.wait,
    };
    let mut handout = tokio::select! {
        biased;
        () = app.shutdown.cancelled() => return Ok(Json(Leases { jobs: Vec::new() })),
        handout = app.life.hand_out(take) => handout.map_err(lease_error)?,
    };
    let taken = handout.jobs();
    taken.iter().for_each(|taken| app.gates.note(&taken.job));
    let name = format!("{} ({worker})", call.worker);
    // On an error, or when the caller hangs up meanwhile, the handout's drop hands the leases back.
    let patience = Instant::now() + PREVIOUS_WAIT;
    let jobs: Vec<LeasedJob> = futures::stream::iter(taken)
        .map(|taken| leased_job(&app, &caller, taken, name.clone(), patience))
        .buffered(VALUES_AT_ONCE)
        .try_collect()
        .await?;
    handout.keep();
    Ok(Json(Leases { jobs }))
}

async fn leased_job(
    app: &App,
    caller: &Caller,
    taken: Taken,
    worker: String,
    patience: Instant,
) -> Result<LeasedJob, ApiError> {
    let left = resume::of_taken(app, &caller.namespace, &taken, patience).await?;
    let Held { fence, lease_id, .. } = taken.held;
    let token = Token { lease_id, fence, queue: taken.job.queue.clone() };
    let large = Large::of(&taken.job);
    let mut job = JobView::leased(taken.job, taken.attempt, taken.claimed_at, worker);
    large.fill(app, &caller.namespace, &mut job).await?;
    let lease = LeaseView { token: token.encode(), fence: fence.0, expires_at: taken.expires_at };
    Ok(LeasedJob { job, lease, checkpoint: left.checkpoint, previous: left.previous })
}

fn lease_error(error: LeaseError) -> ApiError {
    match error {
        LeaseError::Engine(error) => error.into(),
        LeaseError::Ledger(error) => error.into(),
        LeaseError::Stopping => ApiError::new(Code::Unavailable, "this replica is stopping"),
    }
}

fn shown(item: &LeaseItem<'_>) -> Option<Shown> {
    let token = Token::decode(item.token.as_str())?;
    let held = Held { id: item.id, fence: token.fence, lease_id: token.lease_id };
    Some(Shown { queue: token.queue, held, told: Told::Nothing })
}

fn stale() -> ItemError {
    ItemError {
        code: "stale_lease",
        detail: "the lease has ended, or belongs to somebody else".into(),
        errors: Vec::new(),
    }
}

/// Extend leases
///
/// Each lease lasts `lease` from now on, never less than before. `cancel: true` asks the worker to stop
/// the job and settle it. A stale lease is refused alone.
#[utoipa::path(
    post, path = "/v1/leases/heartbeat", tag = "leases",
    request_body = HeartbeatRequest<'static>,
    responses((status = 200, description = "One result per item, in order.", body = HeartbeatResult)),
)]
pub async fn extend_leases(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    body: RawBody<{ 1 << 20 }>,
) -> Result<Json<HeartbeatResult>, ApiError> {
    let request: HeartbeatRequest<'_> = body.json()?;
    let mut faults = Faults::default();
    check_worker(request.worker, &mut faults);
    let lease = check_lease(request.lease, &mut faults);
    faults.finish()?;
    let known: Vec<Option<Shown>> = request.items.iter().map(shown).collect();
    let leases: Vec<Shown> = known.iter().flatten().cloned().collect();
    let extended =
        app.life.extend_taken(&caller.namespace, &leases, lease).await.map_err(lease_error)?;
    let mut extended = extended.into_iter();
    let results = request.items.iter().zip(&known).map(|(item, known)| {
        let held = known.as_ref().and_then(|_| extended.next().flatten());
        HeartbeatItem {
            id: item.id.to_string(),
            ok: held.is_some(),
            expires_at: held.map(|(expires_at, _)| expires_at),
            cancel: held.map(|(_, cancel)| cancel),
            error: held.is_none().then(stale),
        }
    });
    Ok(Json(HeartbeatResult { results: results.collect() }))
}

/// Settle leases
///
/// Ends attempts: `succeed` with an output, `fail` with an error (the job's rules decide whether it runs
/// again), `snooze` for a while, or `release` at once. A stale lease is refused alone; repeating a settle
/// that has landed is fine. Items that are wrong in themselves refuse the whole call.
#[utoipa::path(
    post, path = "/v1/leases/settle", tag = "leases",
    request_body = SettleRequest<'static>,
    responses((status = 200, description = "One result per item, in order.", body = SettleResult)),
)]
pub async fn settle_leases(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    body: RawBody<MANY>,
) -> Result<Json<SettleResult>, ApiError> {
    let request: SettleRequest<'_> = body.json()?;
    let mut faults = Faults::default();
    let worker = check_worker(request.worker, &mut faults);
    let ends: Vec<Option<End>> = request
        .items
        .iter()
        .enumerate()
        .map(|(i, item)| end_of(item, &format!("/items/{i}"), &mut faults))
        .collect();
    faults.finish()?;
    let known: Vec<Option<(Shown, End)>> = request
        .items
        .iter()
        .zip(ends)
        .map(|(item, end)| {
            let lease = LeaseItem { id: item.id, token: item.token.clone() };
            let told = match item.dependency {
                None => Told::Nothing,
                Some(DependencyTold::Unknown) => Told::Unknown,
                Some(DependencyTold::Answered) => Told::Was(Dependency::Answered),
                Some(DependencyTold::Failed) => Told::Was(Dependency::Failed),
            };
            shown(&lease).map(|shown| Shown { told, ..shown }).zip(end)
        })
        .collect();
    let is_known: Vec<bool> = known.iter().map(Option::is_some).collect();
    let mut ends: Vec<(Shown, End)> = known.into_iter().flatten().collect();
    let refusals = app.gates.pass(&app, &caller.namespace, &mut ends).await?;
    let ends: Vec<(Shown, End)> = futures::stream::iter(ends)
        .map(|(shown, end)| store_output(&app, &caller, shown, end))
        .buffered(VALUES_AT_ONCE)
        .try_collect()
        .await?;
    let landed =
        app.life.settle_taken(&caller.namespace, &worker, &ends).await.map_err(lease_error)?;
    let mut landed = landed.into_iter().zip(refusals);
    let results = request.items.iter().zip(is_known).map(|(item, known)| {
        let settled = if known { landed.next() } else { None };
        let (ok, rejected) = match settled {
            Some((Landed::Yes, refusal)) => (true, refusal),
            Some((Landed::Stale, _)) | None => (false, None),
        };
        SettledItem { id: item.id.to_string(), ok, rejected, error: (!ok).then(stale) }
    });
    Ok(Json(SettleResult { results: results.collect() }))
}

fn end_of(item: &SettleItem<'_>, base: &str, faults: &mut Faults) -> Option<End> {
    let horizon = windlass_shared::limits::HORIZON_MAX;
    if item.delay.is_some_and(|delay| delay.0 > horizon) {
        faults.wrong(&format!("{base}/delay"), "must be at most 10 years");
    }
    let delay = item.delay.map(|span| span.0);
    let only = |field: &str, given: bool, outcome: SettleOutcome, faults: &mut Faults| {
        if given && item.outcome != outcome {
            faults.wrong(&format!("{base}/{field}"), "does not belong to this outcome");
        }
    };
    only("output", item.output.is_some(), SettleOutcome::Succeed, faults);
    only("error", item.error.is_some(), SettleOutcome::Fail, faults);
    match item.outcome {
        SettleOutcome::Succeed => {
            let output = item
                .output
                .and_then(|raw| checked_value(raw.get(), &format!("{base}/output"), faults));
            Some(End::Succeed(output.map(windlass_shared::model::job::Value::Inline)))
        }
        SettleOutcome::Fail => match &item.error {
            Some(error) => Some(End::Fail(error.check(&format!("{base}/error"), faults), delay)),
            None => {
                faults.wrong(&format!("{base}/error"), "is required for this outcome");
                None
            }
        },
        SettleOutcome::Snooze => match delay {
            Some(delay) => Some(End::Snooze(delay)),
            None => {
                faults.wrong(&format!("{base}/delay"), "is required for this outcome");
                None
            }
        },
        SettleOutcome::Release => Some(End::Release),
    }
}

async fn store_output(
    app: &App,
    caller: &Caller,
    shown: Shown,
    end: End,
) -> Result<(Shown, End), ApiError> {
    let end = match end {
        End::Succeed(Some(windlass_shared::model::job::Value::Inline(bytes))) => {
            End::Succeed(Some(values::store(app, &caller.namespace, bytes).await?))
        }
        end => end,
    };
    Ok((shown, end))
}
