//! `POST /v1/worker/reports`: what workers tell beside the engine.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use windlass_shared::engine::Ended;
use windlass_shared::ledger::{LogLine, Record, Recorded, WorkerBeat};
use windlass_shared::limits;
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::{Progress, Value};

use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{MANY, NoParams, RawBody};
use crate::requests::Faults;
use crate::requests::job::checked_value;
use crate::requests::lease::cut;
use crate::requests::report::{
    BeatRequest, OutcomeRequest, OutcomeWord, ProgressRequest, ReportRequest,
};
use crate::values;
use crate::views::worker::ReportResult;

/// Report as a worker
///
/// Logs, progress, a heartbeat, and outcomes whose engine was lost. Every part may be absent. Logs of jobs
/// that are not known are dropped; progress of older leases changes nothing. The answer says whether an
/// operator wants this worker to drain.
#[utoipa::path(
    post, path = "/v1/worker/reports", tag = "workers",
    request_body = ReportRequest<'static>,
    responses((status = 200, description = "Taken.", body = ReportResult)),
)]
pub async fn report(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    body: RawBody<MANY>,
) -> Result<Json<ReportResult>, ApiError> {
    let request: ReportRequest<'_> = body.json()?;
    let mut faults = Faults::default();
    if let Some(beat) = &request.worker {
        beat.check(&mut faults);
    }
    for (i, line) in request.logs.iter().enumerate() {
        check_count(line.attempt, &format!("/logs/{i}/attempt"), &mut faults);
    }
    for (i, item) in request.progress.iter().enumerate() {
        if !(0.0..=100.0).contains(&item.percent) {
            faults.wrong(&format!("/progress/{i}/percent"), "must be from 0 to 100");
        }
        check_fence(item.fence, &format!("/progress/{i}"), &mut faults);
    }
    let worker =
        request.worker.as_ref().map(|beat| format!("{} ({})", beat.name.as_str(), beat.id));
    let records: Vec<Record> = request
        .outcomes
        .iter()
        .enumerate()
        .map(|(i, item)| {
            record(&caller, item, worker.as_deref(), &format!("/outcomes/{i}"), &mut faults)
        })
        .collect();
    faults.finish()?;

    let outcomes = record_all(&app, &caller, records).await?;
    append_logs(&app, &caller, &request).await?;
    for item in &request.progress {
        note_progress(&app, &caller, item).await?;
    }
    let drain = match &request.worker {
        Some(beat) => app.life.ledger().beat(&beat_of(&app, &caller, beat)).await?,
        None => false,
    };
    Ok(Json(ReportResult { drain, outcomes }))
}

fn beat_of(app: &App, caller: &Caller, beat: &BeatRequest<'_>) -> WorkerBeat {
    WorkerBeat {
        id: beat.id,
        name: beat.name.as_str().to_owned(),
        namespace: caller.namespace.clone(),
        host: beat.host.as_str().to_owned(),
        version: beat.version.as_str().to_owned(),
        queues: beat.queues.iter().map(ToString::to_string).collect(),
        kinds: beat.kinds.iter().map(ToString::to_string).collect(),
        concurrency: beat.concurrency,
        running: beat.running,
        draining: false,
        started_at: beat.started_at,
        seen_at: app.life.clock().now(),
    }
}

async fn append_logs(
    app: &App,
    caller: &Caller,
    request: &ReportRequest<'_>,
) -> Result<(), ApiError> {
    let mut by_job: HashMap<JobId, Vec<LogLine>> = HashMap::new();
    for line in &request.logs {
        by_job.entry(line.job_id).or_default().push(LogLine {
            seq: 0,
            at: line.at,
            attempt: line.attempt,
            level: line.level.as_str().to_owned(),
            message: cut(line.message.as_str(), limits::LOG_LINE_BYTES_MAX),
        });
    }
    for (id, lines) in by_job {
        // `false`: the job was forgotten; so is its log.
        app.life.ledger().append_logs(&caller.namespace, id, &lines).await?;
    }
    Ok(())
}

async fn note_progress(
    app: &App,
    caller: &Caller,
    item: &ProgressRequest<'_>,
) -> Result<(), ApiError> {
    let progress = Progress { percent: item.percent, message: item.text() };
    let ledger = app.life.ledger();
    Ok(ledger.set_progress(&caller.namespace, item.job_id, item.fence, &progress).await?)
}

fn check_fence(fence: Fence, base: &str, faults: &mut Faults) {
    if fence.0 >= 1 << 53 {
        faults.wrong(&format!("{base}/fence"), "must be below 2^53");
    }
}

fn check_count(count: u32, pointer: &str, faults: &mut Faults) {
    if count > 1_000_000 {
        faults.wrong(pointer, "must be at most 1000000");
    }
}

fn record(
    caller: &Caller,
    item: &OutcomeRequest<'_>,
    worker: Option<&str>,
    base: &str,
    faults: &mut Faults,
) -> Record {
    let delay = item.delay.map_or(std::time::Duration::ZERO, |span| span.0);
    if delay > limits::HORIZON_MAX {
        faults.wrong(&format!("{base}/delay"), "must be at most 10 years");
    }
    check_fence(item.fence, base, faults);
    for (name, count) in [("attempt", item.attempt), ("crashes", item.crashes)] {
        check_count(count, &format!("{base}/{name}"), faults);
    }
    let again = item.at.plus(delay);
    let ended = match item.outcome {
        OutcomeWord::Succeeded => Ended::Succeeded,
        OutcomeWord::Retry => Ended::Retry(again),
        OutcomeWord::Dead => Ended::Dead,
        OutcomeWord::Snoozed => Ended::Snoozed(again),
        OutcomeWord::Released => Ended::Released,
        OutcomeWord::Cancelled => Ended::Cancelled,
    };
    let output = item
        .output
        .and_then(|raw| checked_value(raw.get(), &format!("{base}/output"), faults))
        .map(Value::Inline);
    let error = item.error.as_ref().map(|error| error.check(&format!("{base}/error"), faults));
    Record {
        namespace: caller.namespace.clone(),
        id: item.job_id,
        fence: item.fence,
        ended,
        at: item.at,
        claimed_at: item.claimed_at,
        attempt: item.attempt,
        crashes: item.crashes,
        worker: worker.map(str::to_owned),
        output,
        timed_out: error.as_ref().is_some_and(|error| error.code == "timeout"),
        error,
        usage: None,
    }
}

async fn record_all(
    app: &App,
    caller: &Caller,
    mut records: Vec<Record>,
) -> Result<Vec<&'static str>, ApiError> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    for record in &mut records {
        if let Some(Value::Inline(bytes)) = record.output.take() {
            record.output = Some(values::store(app, &caller.namespace, bytes).await?);
        }
    }
    let recorded = app.life.ledger().record(records).await?;
    Ok(recorded
        .into_iter()
        .map(|recorded| match recorded {
            Recorded::Applied => "applied",
            Recorded::Stale => "stale",
            Recorded::Unknown => "unknown",
        })
        .collect())
}
