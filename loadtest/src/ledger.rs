//! The ledger alone, through its contract: submissions of one size by several callers at once, or outcomes in
//! batches as the recorder's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use secrecy::ExposeSecret as _;
use tokio::task::JoinSet;
use windlass_shared::clock::Clock;
use windlass_shared::config::LedgerSettings;
use windlass_shared::engine::Ended;
use windlass_shared::ledger::{Ledger, LedgerError, Record, Recorded, Submission, SubmitOutcome};
use windlass_shared::limits::BATCH_JOBS_MAX;
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::{Kind, Namespace, QueueName};

use crate::cpu::Watched;
use crate::report::{CpuPerJob, Report, Run, Times};
use crate::{JOBS_MAX, RUNS_MAX, cpu, is_loopback};

/// Size of a payload and of an output, in bytes.
const VALUE_BYTES: usize = 300;
/// Jobs of one submission when outcomes are measured, which is not timed.
const PREPARED: usize = 500;

/// What to run.
#[derive(Debug, Clone)]
pub struct LedgerBench {
    /// Which ledger. It is migrated, and the jobs are left in it: use one that may be thrown away.
    pub ledger: LedgerSettings,
    /// What is timed.
    pub part: Part,
    /// Jobs per run.
    pub jobs: u64,
    /// Jobs per submission, or outcomes per record.
    pub batch: u32,
    /// Callers at once.
    pub clients: u32,
    /// Whose CPU to show.
    pub watched: Vec<Watched>,
    /// How often.
    pub runs: u32,
    /// A run that takes longer has failed.
    pub limit: Duration,
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Submissions, until they are committed.
    Insert,
    /// Outcomes of jobs that are there, until they are committed.
    Record,
}

/// Runs it.
///
/// # Errors
/// Options out of bounds, a ledger that fails, a job that is refused, or a run over its limit.
pub async fn run(bench: &LedgerBench) -> Result<Report> {
    let url = bench.ledger.url.expose_secret();
    let local = bench.ledger.is_sqlite() || is_loopback(url);
    ensure!(local, "the benchmark only loads ledgers on loopback");
    ensure!((1..=JOBS_MAX).contains(&bench.jobs), "jobs must be 1 to {JOBS_MAX}");
    ensure!((1..=RUNS_MAX).contains(&bench.runs), "runs must be 1 to {RUNS_MAX}");
    ensure!((1..=1_000).contains(&bench.clients), "clients must be 1 to 1000");
    let batch = usize::try_from(bench.batch)?;
    ensure!((1..=BATCH_JOBS_MAX).contains(&batch), "batch must be 1 to {BATCH_JOBS_MAX}");
    Ledger::migrate(&bench.ledger).await.context("cannot migrate the ledger")?;
    let ledger = Ledger::open(&bench.ledger).await.context("cannot open the ledger")?;
    // Connections, plans and the queue are there before the clock counts.
    let warm = insert(&ledger, jobs(64), 1, 16).await?.0;
    record(&ledger, warm, 64, 1).await?;
    let mut runs = Vec::new();
    for _ in 0..bench.runs {
        let run = one(&ledger, bench);
        runs.push(tokio::time::timeout(bench.limit, run).await.context("the run took too long")??);
    }
    ledger.close().await;
    let store = if bench.ledger.is_sqlite() { "SQLite" } else { "PostgreSQL" };
    let (what, latency) = match bench.part {
        Part::Insert => ("submissions", "submit calls"),
        Part::Record => ("records", "record calls"),
    };
    let name = format!("ledger, {store}: {what} of {}, {} callers", bench.batch, bench.clients);
    Ok(Report::new(name, latency, runs))
}

async fn one(ledger: &Ledger, bench: &LedgerBench) -> Result<Run> {
    let (batch, clients) = (usize::try_from(bench.batch)?, usize::try_from(bench.clients)?);
    let fresh = jobs(usize::try_from(bench.jobs)?);
    let prepared = match bench.part {
        Part::Insert => None,
        Part::Record => Some(insert(ledger, fresh.clone(), PREPARED, 4).await?.0),
    };
    let before = cpu_of(bench)?;
    let (own_before, started) = (cpu::own(), Instant::now());
    let times = match prepared {
        None => insert(ledger, fresh, batch, clients).await?.1,
        Some(ids) => record(ledger, ids, batch, clients).await?,
    };
    let (took, own_after) = (started.elapsed(), cpu::own());
    let after = cpu_of(bench)?;
    let mut cpu: Vec<CpuPerJob> = bench
        .watched
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(watched, (before, after))| {
            CpuPerJob::between(&watched.name, *before, *after, bench.jobs)
        })
        .collect();
    cpu.push(CpuPerJob::between("client", own_before, own_after, bench.jobs));
    Ok(Run::new(bench.jobs, took, cpu, times.percentiles()))
}

fn cpu_of(bench: &LedgerBench) -> Result<Vec<Duration>> {
    bench.watched.iter().map(|watched| cpu::of_tree(watched.pid)).collect()
}

/// Submits jobs in parts of `batch`, `clients` at once; their ids, and the time of each call.
async fn insert(
    ledger: &Ledger,
    jobs: Vec<NewJob>,
    batch: usize,
    clients: usize,
) -> Result<(Vec<JobId>, Times)> {
    let ids = jobs.iter().map(|job| job.id).collect();
    let times = in_parts(ledger, jobs, batch, clients, submit).await?;
    Ok((ids, times))
}

/// Records a success of each job, as [`insert`].
async fn record(ledger: &Ledger, ids: Vec<JobId>, batch: usize, clients: usize) -> Result<Times> {
    in_parts(ledger, ids, batch, clients, record_part).await
}

/// Cuts `items` into parts and lets `clients` tasks take one after the other; the time of each.
async fn in_parts<T, F>(
    ledger: &Ledger,
    items: Vec<T>,
    batch: usize,
    clients: usize,
    work: fn(Ledger, Vec<T>) -> F,
) -> Result<Times>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (items, next) = (Arc::new(items), Arc::new(AtomicU64::new(0)));
    let mut tasks: JoinSet<Result<Times>> = JoinSet::new();
    for _ in 0..clients {
        let (ledger, items, next) = (ledger.clone(), items.clone(), next.clone());
        tasks.spawn(async move {
            let mut times = Times::default();
            loop {
                let part = usize::try_from(next.fetch_add(1, Ordering::Relaxed))?;
                let Some(part) = items.chunks(batch).nth(part) else { return Ok(times) };
                let part = part.to_vec();
                let started = Instant::now();
                work(ledger.clone(), part).await?;
                times.add(started.elapsed());
            }
        });
    }
    let mut times = Times::default();
    while let Some(ended) = tasks.join_next().await {
        times.add_all(&ended.context("a task of the benchmark panicked")??);
    }
    Ok(times)
}

async fn submit(ledger: Ledger, jobs: Vec<NewJob>) -> Result<()> {
    let expected = jobs.len();
    let submission = Submission { jobs, atomic: false, idempotency: None };
    loop {
        match ledger.submit(submission.clone()).await {
            Ok(SubmitOutcome::Done(results)) => {
                let accepted = results.iter().filter(|result| result.is_ok()).count();
                ensure!(accepted == expected, "the ledger accepted {accepted} of {expected} jobs");
                return Ok(());
            }
            Ok(other) => bail!("a submission without a key or quota was answered {other:?}"),
            // Its wait counts: a client would wait too.
            Err(LedgerError::Overloaded) => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn record_part(ledger: Ledger, ids: Vec<JobId>) -> Result<()> {
    let replies = ledger.record(ids.into_iter().map(success).collect()).await?.replies;
    ensure!(replies.iter().all(|r| *r == Recorded::Applied), "an outcome was not applied");
    Ok(())
}

fn jobs(n: usize) -> Vec<NewJob> {
    let (namespace, queue) = (Namespace::default(), QueueName::default());
    let kind: Kind = "noop".parse().expect("a legal kind");
    let job = || NewJob::new(namespace.clone(), queue.clone(), kind.clone(), value());
    (0..n).map(|_| job()).collect()
}

fn value() -> Value {
    let text = "x".repeat(VALUE_BYTES - "{\"text\":\"\"}".len());
    Value::Inline(format!("{{\"text\":\"{text}\"}}").into())
}

fn success(id: JobId) -> Record {
    let at = Clock::System.now();
    Record {
        namespace: Namespace::default(),
        id,
        fence: Fence(u64::try_from(at.micros()).unwrap_or(1)),
        ended: Ended::Succeeded,
        at,
        claimed_at: Some(at.minus(Duration::from_millis(5))),
        attempt: 1,
        crashes: 0,
        worker: Some("bench".into()),
        output: Some(value()),
        error: None,
        timed_out: false,
        usage: None,
    }
}
