//! The whole path: batches over HTTP, committed to the ledger, pushed to the engine, run by a worker,
//! recorded; or, of jobs that wait already, from where the engine delivers them. A run ends when every job is terminal in the ledger.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;
use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::Ledger;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::JobState;

use crate::fleet::{self, Fleet};
use crate::http::{Answer, Client};
use crate::report::{CpuPerJob, Report, Run, Times};
use crate::{BATCH_MAX, JOBS_MAX, RUNS_MAX, cpu};

/// Ids asked of the ledger at once.
const ASK_MAX: usize = 10_000;
/// Jobs that are looked at while most of them are under way.
const PROBES: usize = 50;
/// Jobs read at once when all are checked in the end.
const CHECK_MAX: usize = 1_000;
/// Pause between two looks at the ledger.
const LOOK: Duration = Duration::from_millis(25);

/// What to run, against processes that run already.
#[derive(Debug, Clone)]
pub struct PathBench {
    /// Where, and what.
    pub fleet: Fleet,
    /// The ledger behind it: to see when every job is recorded without loading the API.
    pub ledger: LedgerSettings,
    /// Jobs per run.
    pub jobs: u64,
    /// Connections that submit.
    pub connections: u32,
    /// Jobs per batch.
    pub batch: u32,
    /// So many keys, of which the jobs have one in turn, for concurrency and rate; 0: none.
    pub keys: u32,
    /// Submit all while the queue is paused; the run is from when it is resumed on.
    pub waiting: bool,
    /// How often.
    pub runs: u32,
    /// A run that takes longer has failed.
    pub limit: Duration,
}

/// Runs it.
///
/// # Errors
/// Options out of bounds, a call that fails, a job that did not succeed, or a run over its limit.
pub async fn run(bench: &PathBench) -> Result<Report> {
    ensure!((1..=JOBS_MAX).contains(&bench.jobs), "jobs must be 1 to {JOBS_MAX}");
    ensure!((1..=RUNS_MAX).contains(&bench.runs), "runs must be 1 to {RUNS_MAX}");
    ensure!((1..=256).contains(&bench.connections), "connections must be 1 to 256");
    ensure!((1..=BATCH_MAX).contains(&bench.batch), "batch must be 1 to {BATCH_MAX}");
    let client = bench.fleet.client()?;
    let ledger = fleet::open_ledger(&bench.ledger).await?;
    let mut runs = Vec::new();
    let mut refused = 0;
    for _ in 0..bench.runs {
        let run = one(bench, &client, &ledger, &mut refused);
        runs.push(tokio::time::timeout(bench.limit, run).await.context("the run took too long")??);
    }
    ledger.close().await;
    let name = if bench.waiting {
        "jobs that wait: from the queue's resumption until the last is recorded".to_owned()
    } else {
        format!("whole path: {} connections, batches of {}", bench.connections, bench.batch)
    };
    let mut report = Report::new(name, "accepted to finished, a sample of 1000 jobs", runs);
    if refused > 0 {
        report.notes.push(format!("{refused} batches were refused for overload and sent again"));
    }
    Ok(report)
}

async fn one(
    bench: &PathBench,
    client: &Client,
    ledger: &Ledger,
    refused: &mut u64,
) -> Result<Run> {
    let mut waiting = None;
    if bench.waiting {
        set_queue(client, &bench.fleet.queue, "pause").await?;
        waiting = Some(submit_all(bench, client, refused).await?);
    }
    let before = bench.fleet.cpu()?;
    let (own_before, started) = (cpu::own(), Instant::now());
    let ids = match waiting {
        Some(ids) => {
            set_queue(client, &bench.fleet.queue, "resume").await?;
            ids
        }
        None => submit_all(bench, client, refused).await?,
    };
    wait_for_all(ledger, &ids).await?;
    let (took, own_after, after) = (started.elapsed(), cpu::own(), bench.fleet.cpu()?);

    let jobs = ids.len() as u64;
    let mut cpu = bench.fleet.cpu_between(&before, &after, jobs);
    cpu.push(CpuPerJob::between("client", own_before, own_after, jobs));
    let latency = check_all(ledger, &ids).await?;
    Ok(Run::new(jobs, took, cpu, latency.percentiles()))
}

/// Pauses or resumes a queue.
async fn set_queue(client: &Client, queue: &str, how: &str) -> Result<()> {
    match client.post(&format!("/v1/queues/{queue}/{how}"), Bytes::new(), 200).await {
        Answer::Good(_) => Ok(()),
        other => bail!("the queue cannot be changed ({how}): {}", other.why()),
    }
}

async fn submit_all(bench: &PathBench, client: &Client, refused: &mut u64) -> Result<Vec<JobId>> {
    let shares = u64::from(bench.connections);
    let mut tasks: JoinSet<Result<(Vec<Uuid>, u64)>> = JoinSet::new();
    for n in 0..shares {
        // The first ones take what does not divide evenly.
        let share = bench.jobs / shares + u64::from(n < bench.jobs % shares);
        let (bench, client) = (bench.clone(), client.clone());
        tasks.spawn(async move { submit_share(&bench, &client, share).await });
    }
    let mut ids = Vec::with_capacity(usize::try_from(bench.jobs)?);
    while let Some(ended) = tasks.join_next().await {
        let (share, refusals) = ended.context("a task of the benchmark panicked")??;
        ids.extend(share.into_iter().map(JobId::from_uuid));
        *refused += refusals;
    }
    ids.sort_unstable();
    ensure!(ids.len() as u64 == bench.jobs, "the API accepted {} jobs", ids.len());
    Ok(ids)
}

async fn submit_share(bench: &PathBench, client: &Client, share: u64) -> Result<(Vec<Uuid>, u64)> {
    let (mut ids, mut refused) = (Vec::new(), 0);
    let full = body_of(bench, bench.batch.into());
    let mut left = share;
    while left > 0 {
        let size = left.min(bench.batch.into());
        let body = if size == u64::from(bench.batch) { full.clone() } else { body_of(bench, size) };
        let jobs = usize::try_from(size)?;
        ids.extend(fleet::submit_batch(client, body, jobs, &mut refused).await?);
        left -= size;
    }
    Ok((ids, refused))
}

fn body_of(bench: &PathBench, jobs: u64) -> Bytes {
    let job = |n: u64| {
        let mut job = bench.fleet.job(0);
        if bench.keys > 0 {
            let key = format!("key-{}", n % u64::from(bench.keys));
            job["concurrency_key"] = key.clone().into();
            job["rate_limit_key"] = key.into();
        }
        job
    };
    let jobs: Vec<_> = (0..jobs).map(job).collect();
    json!({ "jobs": jobs }).to_string().into()
}

/// Until every job is terminal. Looks at a few jobs, spread over all, until those are; only then at each,
/// so that looking does not become part of the load.
async fn wait_for_all(ledger: &Ledger, ids: &[JobId]) -> Result<()> {
    let step = (ids.len() / PROBES).max(1);
    let spread: Vec<JobId> = ids.iter().rev().step_by(step).copied().collect();
    wait_for(ledger, spread).await?;
    for chunk in ids.chunks(ASK_MAX) {
        wait_for(ledger, chunk.to_vec()).await?;
    }
    Ok(())
}

async fn wait_for(ledger: &Ledger, mut open: Vec<JobId>) -> Result<()> {
    loop {
        let ended: HashSet<JobId> = ledger.terminal_among(&open).await?.into_iter().collect();
        open.retain(|id| !ended.contains(id));
        if open.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads every job, refuses the run if one did not succeed, and gathers the times of about 1,000.
async fn check_all(ledger: &Ledger, ids: &[JobId]) -> Result<Times> {
    let mut times = Times::default();
    let step = (ids.len() / 1_000).max(1);
    let mut seen = 0;
    for chunk in ids.chunks(CHECK_MAX) {
        for job in ledger.jobs(chunk).await? {
            ensure!(job.state == JobState::Succeeded, "job {} ended as {}", job.id, job.state);
            if seen % step == 0
                && let Some(finished) = job.finished_at
            {
                times.add(finished.since(job.created_at));
            }
            seen += 1;
        }
    }
    ensure!(seen == ids.len(), "the ledger has {seen} of {} jobs", ids.len());
    Ok(times)
}
