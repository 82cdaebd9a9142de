//! Submissions alone, over HTTP: one by one or in batches, so many under way at a time, each durable when it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinSet;
use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::Ledger;
use windlass_shared::model::id::JobId;

use crate::fleet::{self, Fleet};
use crate::http::Client;
use crate::report::{CpuPerJob, Report, Run, Times};
use crate::{BATCH_MAX, JOBS_MAX, RUNS_MAX, cpu};

/// Calls under way at most.
const IN_FLIGHT_MAX: u32 = 256;
/// Jobs read at once when all are checked in the end.
const CHECK_MAX: usize = 1_000;

/// What to run, against processes that run already.
#[derive(Debug, Clone)]
pub struct SubmitBench {
    /// Where, and what.
    pub fleet: Fleet,
    /// The ledger behind it, where every job must be in the end.
    pub ledger: LedgerSettings,
    /// Jobs per run.
    pub jobs: u64,
    /// Jobs per call.
    pub batch: u32,
    /// Calls under way at a time.
    pub in_flight: u32,
    /// How often.
    pub runs: u32,
    /// A run that takes longer has failed.
    pub limit: Duration,
}

/// Runs it.
///
/// # Errors
/// Options out of bounds, a call that fails, a job that the ledger does not have, or a run over its limit.
pub async fn run(bench: &SubmitBench) -> Result<Report> {
    ensure!((1..=JOBS_MAX).contains(&bench.jobs), "jobs must be 1 to {JOBS_MAX}");
    ensure!((1..=RUNS_MAX).contains(&bench.runs), "runs must be 1 to {RUNS_MAX}");
    ensure!(
        (1..=IN_FLIGHT_MAX).contains(&bench.in_flight),
        "calls under way must be 1 to {IN_FLIGHT_MAX}"
    );
    ensure!((1..=BATCH_MAX).contains(&bench.batch), "a batch must have 1 to {BATCH_MAX} jobs");
    let client = bench.fleet.client()?;
    let ledger = fleet::open_ledger(&bench.ledger).await?;
    let (mut runs, mut refused) = (Vec::new(), 0);
    for _ in 0..bench.runs {
        let run = one(bench, &client, &ledger, &mut refused);
        runs.push(tokio::time::timeout(bench.limit, run).await.context("the run took too long")??);
    }
    ledger.close().await;
    let name = match bench.batch {
        1 => format!("submissions one by one, {} under way", bench.in_flight),
        batch => format!("submissions of {batch}, {} under way", bench.in_flight),
    };
    let mut report = Report::new(name, "a call", runs);
    if refused > 0 {
        report.notes.push(format!("{refused} calls were refused for overload and sent again"));
    }
    Ok(report)
}

/// What one of those that submit has done.
#[derive(Default)]
struct Done {
    ids: Vec<JobId>,
    times: Times,
    refused: u64,
}

async fn one(
    bench: &SubmitBench,
    client: &Client,
    ledger: &Ledger,
    refused: &mut u64,
) -> Result<Run> {
    let left = Arc::new(AtomicU64::new(bench.jobs));
    let before = bench.fleet.cpu()?;
    let (own_before, started) = (cpu::own(), Instant::now());
    let mut tasks: JoinSet<Result<Done>> = JoinSet::new();
    for _ in 0..bench.in_flight {
        let (bench, client, left) = (bench.clone(), client.clone(), Arc::clone(&left));
        tasks.spawn(async move { submit_some(&bench, &client, &left).await });
    }
    let mut all = Done::default();
    while let Some(ended) = tasks.join_next().await {
        let done = ended.context("a task of the benchmark panicked")??;
        all.ids.extend(done.ids);
        all.times.add_all(&done.times);
        *refused += done.refused;
    }
    let (took, own_after, after) = (started.elapsed(), cpu::own(), bench.fleet.cpu()?);

    all.ids.sort_unstable();
    all.ids.dedup();
    ensure!(all.ids.len() as u64 == bench.jobs, "the API gave {} ids", all.ids.len());
    for chunk in all.ids.chunks(CHECK_MAX) {
        let found = ledger.jobs(chunk).await?.len();
        ensure!(found == chunk.len(), "the ledger has {found} of {} jobs", chunk.len());
    }
    let mut cpu = bench.fleet.cpu_between(&before, &after, bench.jobs);
    cpu.push(CpuPerJob::between("client", own_before, own_after, bench.jobs));
    Ok(Run::new(bench.jobs, took, cpu, all.times.percentiles()))
}

/// Submits until nothing is left, one call after the other.
async fn submit_some(bench: &SubmitBench, client: &Client, left: &AtomicU64) -> Result<Done> {
    let mut done = Done::default();
    let job = bench.fleet.job(0);
    let body = |size: u64| -> Bytes {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        match bench.batch {
            1 => job.to_string().into(),
            _ => json!({ "jobs": vec![&job; size] }).to_string().into(),
        }
    };
    let full = body(bench.batch.into());
    loop {
        let take = |left: u64| Some(left.saturating_sub(bench.batch.into()));
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
        let size = before.min(bench.batch.into());
        if size == 0 {
            return Ok(done);
        }
        let body = if size == u64::from(bench.batch) { full.clone() } else { body(size) };
        let sent = Instant::now();
        if bench.batch == 1 {
            let id = fleet::submit(client, "/v1/jobs", body, &mut done.refused).await?;
            done.ids.push(JobId::from_uuid(id));
        } else {
            let size = usize::try_from(size)?;
            let ids = fleet::submit_batch(client, body, size, &mut done.refused).await?;
            done.ids.extend(ids.into_iter().map(JobId::from_uuid));
        }
        done.times.add(sent.elapsed());
    }
}
