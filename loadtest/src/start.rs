//! An idle installation: how long from a submission to the job's start, at a modest steady rate.
//!
//! Open loop: submissions leave at their time whether or not earlier ones were answered, so that a stall
//! shows in every job that it delays. The start is the claim's instant in engine time; the clock of the
//! submission is this host's, so the engine must be on this host too.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;
use windlass_shared::clock::Clock;
use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::Ledger;
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Timestamp;

use crate::cpu::Watched;
use crate::http::Api;
use crate::report::{CpuPerJob, Report, Run, Times};
use crate::{RUNS_MAX, cpu, is_loopback};

/// Jobs that warm caches and connections up before the clock counts.
const WARM_UP: u32 = 50;

/// What to run, against processes that run already.
#[derive(Debug, Clone)]
pub struct StartBench {
    /// The API.
    pub url: String,
    /// A key for it, where it wants one.
    pub api_key: Option<String>,
    /// The ledger behind it, for times in microseconds. Without it times come over HTTP in whole
    /// milliseconds, and are counted as one more.
    pub ledger: Option<LedgerSettings>,
    /// Jobs per second.
    pub rate: u32,
    /// Jobs per run.
    pub jobs: u32,
    /// Into this queue.
    pub queue: String,
    /// Whose CPU to show.
    pub watched: Vec<Watched>,
    /// How often.
    pub runs: u32,
    /// A run that takes longer has failed.
    pub limit: Duration,
}

/// Runs it.
///
/// # Errors
/// Options out of bounds, a call that fails, a job that did not succeed, or a run over its limit.
pub async fn run(bench: &StartBench) -> Result<Report> {
    ensure!((1..=1_000).contains(&bench.rate), "rate must be 1 to 1000");
    ensure!((1..=100_000).contains(&bench.jobs), "jobs must be 1 to 100000");
    ensure!((1..=RUNS_MAX).contains(&bench.runs), "runs must be 1 to {RUNS_MAX}");
    let ledger = match &bench.ledger {
        Some(settings) => {
            let url = secrecy::ExposeSecret::expose_secret(&settings.url);
            ensure!(is_loopback(url), "the benchmark only reads ledgers on loopback");
            Some(Ledger::open(settings).await.context("cannot open the ledger")?)
        }
        None => None,
    };
    let mut runs = Vec::new();
    submit_all(bench, WARM_UP).await?;
    for _ in 0..bench.runs {
        let run = one(bench, ledger.as_ref());
        runs.push(tokio::time::timeout(bench.limit, run).await.context("the run took too long")??);
    }
    let name = format!("idle start: {} jobs/s, one per request", bench.rate);
    let mut report = Report::new(name, "before the POST to the job's start", runs);
    if ledger.is_none() {
        report.notes.push("started_at has whole milliseconds; each is counted as one later".into());
    }
    Ok(report)
}

async fn one(bench: &StartBench, ledger: Option<&Ledger>) -> Result<Run> {
    let before = cpu_of(bench)?;
    let started = Instant::now();
    let sent = submit_all(bench, bench.jobs).await?;
    let took = started.elapsed();
    let mut times = Times::default();
    let api = Api::new(&bench.url, bench.api_key.as_deref(), 1)?;
    // Before the results are read, job by job: that is not what a job costs.
    let (last, _) = sent.last().context("at least one job was submitted")?;
    api.finished(*last).await?;
    let after = cpu_of(bench)?;
    for (id, at) in &sent {
        let job = api.finished(*id).await?;
        ensure!(job["state"] == "succeeded", "job {id} ended as {}", job["state"]);
        times.add(started_at(ledger, *id, &job).await?.since(*at));
    }
    let jobs = u64::from(bench.jobs);
    let pairs = before.iter().zip(&after);
    let cpu =
        bench.watched.iter().zip(pairs).map(|(watched, (before, after))| {
            CpuPerJob::between(&watched.name, *before, *after, jobs)
        });
    Ok(Run::new(jobs, took, cpu.collect(), times.percentiles()))
}

fn cpu_of(bench: &StartBench) -> Result<Vec<Duration>> {
    bench.watched.iter().map(|watched| cpu::of_tree(watched.pid)).collect()
}

/// Each job with the instant before its submission.
async fn submit_all(bench: &StartBench, jobs: u32) -> Result<Vec<(Uuid, Timestamp)>> {
    let api = Api::new(&bench.url, bench.api_key.as_deref(), 16)?;
    let body: Bytes = json!({"kind": "noop", "queue": bench.queue}).to_string().into();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / bench.rate);
    let mut tasks: JoinSet<Result<(Uuid, Timestamp)>> = JoinSet::new();
    for _ in 0..jobs {
        ticks.tick().await;
        let (api, body) = (api.clone(), body.clone());
        tasks.spawn(async move {
            let at = Clock::System.now();
            Ok((api.submit(body).await?, at))
        });
    }
    let mut sent = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        sent.push(ended.context("a task of the benchmark panicked")??);
    }
    Ok(sent)
}

async fn started_at(ledger: Option<&Ledger>, id: Uuid, job: &Value) -> Result<Timestamp> {
    if let Some(ledger) = ledger {
        let job = ledger.jobs(&[JobId::from_uuid(id)]).await?.pop();
        return job.and_then(|job| job.started_at).context("a finished job has no start");
    }
    let text = job["started_at"].as_str().context("a finished job has no start")?;
    let at: Timestamp = text.parse().context("a finished job has no start")?;
    Ok(at.plus(Duration::from_millis(1)))
}
