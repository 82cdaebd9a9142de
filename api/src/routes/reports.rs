//! `POST /v1/worker/reports`: what workers tell beside the engine.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use tokio::time::Instant;
use windlass_shared::engine::Ended;
use windlass_shared::ledger::{JobLines, JobProgress, LogLine, Record, Recorded, WorkerBeat};
use windlass_shared::lifecycle::record::Direct;
use windlass_shared::limits;
use windlass_shared::model::id::{Fence, JobId, LedgerId};
use windlass_shared::model::job::{Progress, Value};
use windlass_shared::model::time::Timestamp;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::extract::{MANY, NoParams, RawBody};
use crate::requests::job::checked_value;
use crate::requests::lease::cut;
use crate::requests::report::{
    BeatRequest, OutcomeRequest, OutcomeWord, ReportRequest, ResumeRequest,
};
use crate::requests::{Faults, Text};
use crate::resume::{self, Left};
use crate::values;
use crate::views::worker::{LeftView, ReportResult};

/// Longest name of who ran an attempt.
const WORKER_BYTES_MAX: usize = 255;
/// Large outputs stored at once.
const STORES_AT_ONCE: usize = 8;
/// Longest wait, of one report, for outcomes of attempts before to be recorded.
const PREVIOUS_WAIT: Duration = Duration::from_secs(2);

/// Report as a worker
///
/// Logs, progress, a heartbeat, partial results, and outcomes whose engine was lost. Every part may be absent. Logs of jobs
/// that are not known are dropped; progress of older leases changes nothing. The answer says whether an
/// operator wants this worker to drain, which partial results are stored, and, of jobs named in `resume`, what earlier
/// attempts left.
#[utoipa::path(
    post, path = "/v1/worker/reports", tag = "workers",
    request_body = ReportRequest<'static>,
    responses(
        (status = 200, description = "Taken.", body = ReportResult),
        (status = 409, description = "The outcomes belong to another ledger; nothing was taken.", body = crate::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn report(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    body: RawBody<MANY>,
) -> Result<Json<ReportResult>, ApiError> {
    let request: ReportRequest<'_> = body.json()?;
    let now = app.life.clock().now();
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
        check_fence(item.fence, now, &format!("/progress/{i}"), &mut faults);
    }
    let worker =
        request.worker.as_ref().map(|beat| format!("{} ({})", beat.name.as_str(), beat.id));
    let reported: Vec<Direct> = request
        .outcomes
        .iter()
        .enumerate()
        .map(|(i, item)| {
            check_outcome(item, now, &format!("/outcomes/{i}"), &mut faults);
            let (worker, base) = (worker.as_deref(), format!("/outcomes/{i}"));
            let record = record(&caller, item, worker, &base, &mut faults);
            Direct { record, lease_id: item.lease_id }
        })
        .collect();
    let checkpoints: Vec<(JobId, Fence, Bytes)> = request
        .checkpoints
        .iter()
        .enumerate()
        .filter_map(|(i, item)| {
            check_fence(item.fence, now, &format!("/checkpoints/{i}"), &mut faults);
            let data =
                checked_value(item.data.get(), &format!("/checkpoints/{i}/data"), &mut faults)?;
            Some((item.job_id, item.fence, data))
        })
        .collect();
    for (i, item) in request.resume.iter().enumerate() {
        check_count(item.attempt, &format!("/resume/{i}/attempt"), &mut faults);
    }
    faults.finish()?;
    check_ledger(&app, request.ledger)?;

    // First: an outcome in the same report ends the job, and what has ended takes no partial result.
    let checkpoints = store_checkpoints(&app, &caller, checkpoints).await?;
    let outcomes = record_all(&app, &caller, reported).await?;
    append_logs(&app, &caller, &request).await?;
    note_progress(&app, &caller, &request).await?;
    let drain = match &request.worker {
        Some(beat) => app.life.ledger().beat(&beat_of(&app, &caller, beat)).await?,
        None => false,
    };
    let resume = look_back(&app, &caller, &request.resume).await?;
    let ledger = app.life.ledger().id().to_string();
    Ok(Json(ReportResult { drain, ledger, outcomes, checkpoints, resume }))
}

async fn store_checkpoints(
    app: &App,
    caller: &Caller,
    checkpoints: Vec<(JobId, Fence, Bytes)>,
) -> Result<Vec<&'static str>, ApiError> {
    let mut words = Vec::with_capacity(checkpoints.len());
    for (id, fence, data) in checkpoints {
        let stored = app.life.put_checkpoint(&caller.namespace, id, fence, data).await?;
        words.push(if stored { "stored" } else { "stale" });
    }
    Ok(words)
}

async fn look_back(
    app: &App,
    caller: &Caller,
    asked: &[ResumeRequest],
) -> Result<Vec<LeftView>, ApiError> {
    let patience = Instant::now() + PREVIOUS_WAIT;
    let mut found = Vec::with_capacity(asked.len());
    for ResumeRequest { job_id, fence, attempt } in asked {
        let lease = (*job_id, *attempt, *fence);
        let left = resume::of_attempt(app, &caller.namespace, lease, patience).await?;
        let Left { checkpoint, previous } = left;
        found.push(LeftView { job_id: job_id.to_string(), checkpoint, previous });
    }
    Ok(found)
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
    if by_job.is_empty() {
        return Ok(());
    }
    let logs = by_job.into_iter().map(|(id, lines)| JobLines { id, lines }).collect();
    // Those that are not among the answer were forgotten; so is their log.
    app.life.ledger().append_all_logs(&caller.namespace, logs).await?;
    Ok(())
}

async fn note_progress(
    app: &App,
    caller: &Caller,
    request: &ReportRequest<'_>,
) -> Result<(), ApiError> {
    if request.progress.is_empty() {
        return Ok(());
    }
    let progress = request.progress.iter().map(|item| JobProgress {
        id: item.job_id,
        fence: item.fence,
        progress: Progress { percent: item.percent, message: item.text() },
    });
    Ok(app.life.ledger().set_all_progress(&caller.namespace, progress.collect()).await?)
}

/// The id in what a restored or copied ledger tells is a new one: what its predecessor's workers have to say of jobs
/// is about others.
fn check_ledger(app: &App, ledger: Option<LedgerId>) -> Result<(), ApiError> {
    if ledger.is_some_and(|ledger| ledger != app.life.ledger().id()) {
        let detail = "the outcomes are of jobs that the engine had from another ledger";
        return Err(ApiError::new(Code::WrongLedger, detail));
    }
    Ok(())
}

/// A fence is engine time in µs, or little more. One from far ahead would shut every later lease out.
fn check_fence(fence: Fence, now: Timestamp, base: &str, faults: &mut Faults) {
    let most = now.plus(limits::CLOCK_MARGIN).micros();
    if u64::try_from(most).is_ok_and(|most| fence.0 > most) {
        let message =
            "must be a lease's number, which is at most an hour ahead of the clock (in µs)";
        faults.wrong(&format!("{base}/fence"), message);
    }
}

/// What a worker says of time is kept as it says it, so it must be of this job's life.
fn check_outcome(item: &OutcomeRequest<'_>, now: Timestamp, base: &str, faults: &mut Faults) {
    check_fence(item.fence, now, base, faults);
    // A job's id holds the time at which it was drawn, shortly before the job was accepted.
    let created_at = item.job_id.drawn_at().unwrap_or(Timestamp::from_micros(0));
    let sane = created_at.minus(limits::CLOCK_MARGIN)..=now.plus(limits::CLOCK_MARGIN);
    for (name, at) in [("at", Some(item.at)), ("claimed_at", item.claimed_at)] {
        if at.is_some_and(|at| !sane.contains(&at)) {
            let message = "must be within the job's life: from an hour before its creation to an hour from now";
            faults.wrong(&format!("{base}/{name}"), message);
        }
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
    if item.output.is_some() && item.output_blob.is_some() {
        faults.wrong(&format!("{base}/output_blob"), "must not come with `output`");
    }
    let error = item.error.as_ref().map(|error| error.check(&format!("{base}/error"), faults));
    let is_timeout = error.as_ref().is_some_and(|error| error.code == "timeout");
    if let Some(name) = &item.worker {
        faults.indexed(&format!("{base}/worker"), name.as_str(), WORKER_BYTES_MAX);
    }
    Record {
        namespace: caller.namespace.clone(),
        id: item.job_id,
        fence: item.fence,
        ended,
        at: item.at,
        claimed_at: item.claimed_at,
        attempt: item.attempt,
        crashes: item.crashes,
        worker: item.worker.as_ref().map(Text::as_str).or(worker).map(str::to_owned),
        output: output.or(item.output_blob.map(Value::Blob)),
        timed_out: item.timed_out.unwrap_or(is_timeout),
        error,
        usage: usage(item, base, faults),
    }
}

fn usage(item: &OutcomeRequest<'_>, base: &str, faults: &mut Faults) -> Option<Bytes> {
    let (raw, pointer) = (item.usage?.get(), format!("{base}/usage"));
    if !raw.starts_with('{') || raw.len() > limits::META_BYTES_MAX {
        faults.wrong(&pointer, "must be an object of at most 16 KiB");
        return None;
    }
    checked_value(raw, &pointer, faults)
}

async fn record_all(
    app: &App,
    caller: &Caller,
    mut reported: Vec<Direct>,
) -> Result<Vec<&'static str>, ApiError> {
    if reported.is_empty() {
        return Ok(Vec::new());
    }
    let large: Vec<(usize, Bytes)> = reported
        .iter()
        .enumerate()
        .filter_map(|(place, direct)| match &direct.record.output {
            Some(Value::Inline(bytes)) if bytes.len() > limits::INLINE_BYTES_MAX => {
                Some((place, bytes.clone()))
            }
            _ => None,
        })
        .collect();
    for chunk in large.chunks(STORES_AT_ONCE) {
        let stores =
            chunk.iter().map(|(_, bytes)| values::store(app, &caller.namespace, bytes.clone()));
        let stored = futures::future::try_join_all(stores).await?;
        for ((place, _), value) in chunk.iter().zip(stored) {
            reported[*place].record.output = Some(value);
        }
    }
    let recorded = app.life.record_direct(reported).await?;
    Ok(recorded
        .into_iter()
        .map(|recorded| match recorded {
            Recorded::Applied => "applied",
            Recorded::Stale => "stale",
            Recorded::Unknown => "unknown",
        })
        .collect())
}
