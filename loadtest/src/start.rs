//! An idle installation: how long from a submission to the job's start, at a modest steady rate.
//!
//! Open loop: submissions leave at their time whether or not earlier ones were answered, so that a stall
//! shows in every job that it delays. The start is the claim's instant in engine time, or what the jobs' bodies
//! say themselves; the clock of the submission is this host's, so engine and worker must be on this host too.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::task::JoinSet;
use uuid::Uuid;
use windlass_shared::clock::Clock;
use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::Ledger;
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Timestamp;

use crate::RUNS_MAX;
use crate::fleet::{self, Fleet};
use crate::http::Client;
use crate::report::{Report, Run, Times};

/// Jobs that warm caches and connections up before the clock counts.
const WARM_UP: u32 = 50;

/// What to run, against processes that run already.
#[derive(Debug, Clone)]
pub struct StartBench {
    /// Where, and what.
    pub fleet: Fleet,
    /// The ledger behind it, for times in microseconds. Without it times come over HTTP in whole
    /// milliseconds, and are counted as one more.
    pub ledger: Option<LedgerSettings>,
    /// Jobs per second.
    pub rate: u32,
    /// Jobs per run.
    pub jobs: u32,
    /// Where the bodies of the jobs leave, 8 bytes each, the µs from `at` of their payload until they began
    /// (u64, little endian). Then those are the times.
    pub body_times: Option<PathBuf>,
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
    let client = bench.fleet.client()?;
    let ledger = match &bench.ledger {
        Some(settings) => Some(fleet::open_ledger(settings).await?),
        None => None,
    };
    let mut runs = Vec::new();
    finish_all(&client, &submit_all(bench, &client, WARM_UP).await?).await?;
    for _ in 0..bench.runs {
        let run = one(bench, &client, ledger.as_ref());
        runs.push(tokio::time::timeout(bench.limit, run).await.context("the run took too long")??);
    }
    let name = format!("idle start: {} jobs/s, one per request", bench.rate);
    let mut report = Report::new(name, latency(bench), runs);
    if ledger.is_none() && bench.body_times.is_none() {
        report.notes.push("started_at has whole milliseconds; each is counted as one later".into());
    }
    Ok(report)
}

fn latency(bench: &StartBench) -> &'static str {
    match bench.body_times {
        Some(_) => "before the POST to the start of the job's body",
        None => "before the POST to the job's start",
    }
}

async fn one(bench: &StartBench, client: &Client, ledger: Option<&Ledger>) -> Result<Run> {
    let written = bench.body_times.as_deref().map(size_of).transpose()?;
    let before = bench.fleet.cpu()?;
    let started = Instant::now();
    let sent = submit_all(bench, client, bench.jobs).await?;
    let took = started.elapsed();
    // Before the results are read, job by job: that is not what a job costs.
    let (last, _) = sent.last().context("at least one job was submitted")?;
    finished(client, *last).await?;
    let after = bench.fleet.cpu()?;
    let jobs = finish_all(client, &sent).await?;
    let mut times = Times::default();
    if let Some((file, from)) = bench.body_times.as_deref().zip(written) {
        let all = read_times(file, from)?;
        ensure!(all.len() == sent.len(), "{} bodies for {} jobs", all.len(), sent.len());
        all.into_iter().for_each(|time| times.add(time));
    } else {
        for ((id, at), job) in sent.iter().zip(&jobs) {
            times.add(started_at(ledger, *id, job).await?.since(*at));
        }
    }
    let jobs = u64::from(bench.jobs);
    let cpu = bench.fleet.cpu_between(&before, &after, jobs);
    Ok(Run::new(jobs, took, cpu, times.percentiles()))
}

fn size_of(file: &Path) -> Result<usize> {
    let size = std::fs::metadata(file).with_context(|| format!("there is no {}", file.display()));
    Ok(usize::try_from(size?.len())?)
}

/// What the bodies left in a file from a place on.
fn read_times(file: &Path, from: usize) -> Result<Vec<Duration>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (times, rest) = bytes[from..].as_chunks::<8>();
    ensure!(rest.is_empty(), "{} does not consist of times", file.display());
    Ok(times.iter().map(|time| Duration::from_micros(u64::from_le_bytes(*time))).collect())
}

/// A finished job; waits for it.
async fn finished(client: &Client, id: Uuid) -> Result<Value> {
    let job: Value = client.read(&format!("/v1/jobs/{id}/wait?timeout=30s")).await?;
    ensure!(job["state"] == "succeeded", "job {id} ended as {}", job["state"]);
    Ok(job)
}

async fn finish_all(client: &Client, sent: &[(Uuid, Timestamp)]) -> Result<Vec<Value>> {
    let mut jobs = Vec::with_capacity(sent.len());
    for (id, _) in sent {
        jobs.push(finished(client, *id).await?);
    }
    Ok(jobs)
}

/// Each job with the instant before its submission.
async fn submit_all(
    bench: &StartBench,
    client: &Client,
    jobs: u32,
) -> Result<Vec<(Uuid, Timestamp)>> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / bench.rate);
    let mut tasks: JoinSet<Result<(Uuid, Timestamp)>> = JoinSet::new();
    for _ in 0..jobs {
        ticks.tick().await;
        let (client, fleet) = (client.clone(), bench.fleet.clone());
        tasks.spawn(async move {
            let at = Clock::System.now();
            let body = fleet.job(at.micros()).to_string();
            let mut refused = 0;
            let id = fleet::submit(&client, "/v1/jobs", body.into(), &mut refused).await?;
            ensure!(refused == 0, "the API is overloaded");
            Ok((id, at))
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
