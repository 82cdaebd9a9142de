//! The engine alone, through its contract: push, claim, settle, and, as the recorder does, outcomes and
//! confirm; all at once, on one shard. Or with the real worker runtime in the place of the claims.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, WorkerSettings};
use windlass_shared::engine::envelope::{Envelope, EnvelopeHead};
use windlass_shared::engine::{
    ClaimRequest, Ended, Engine, Held, Opened, Opening, Push, PushOrigin, Pushed, Settle, Settled,
    ShardId, ShardSettings, Shut, Validity, Verdict,
};
use windlass_shared::limits::{ENGINE_BATCH_MAX, PUSH_WINDOW};
use windlass_shared::model::id::{Fence, JobId, LeaseId, LedgerId, WorkerId};
use windlass_shared::model::job::{JobSpec, Priority, Value};
use windlass_shared::model::name::{Kind, Namespace, QueueName};
use windlass_shared::model::time::Timestamp;
use windlass_worker::builder::EngineSource;
use windlass_worker::reporter::Nowhere;
use windlass_worker::worker::Worker;

use crate::report::{CpuPerJob, Report, Run, Times};
use crate::{JOBS_MAX, RUNS_MAX, cpu, is_loopback, redis_cpu};

/// Jobs in the shard at once; the pushers wait beyond it. Well below a shard's budget.
const BACKLOG_MAX: usize = 20_000;
/// Without a recorder nothing leaves the shard: more would reach its outbox brake.
const UNRECORDED_MAX: u64 = 400_000;
/// Outcomes read at once, as the recorder does.
const RECORD_MAX: u32 = 500;
/// Pause of a task that found nothing to do.
const IDLE: Duration = Duration::from_micros(500);

/// What to run.
#[derive(Debug, Clone)]
pub struct EngineBench {
    /// Which engine. Its keys get a prefix of their own, but are not removed: use one that may be thrown away.
    pub engine: EngineSettings,
    /// Jobs per run.
    pub jobs: u64,
    /// Who works on them.
    pub work: Work,
    /// Tasks that push.
    pub pushers: u32,
    /// Jobs per call.
    pub batch: u32,
    /// Size of a payload; the envelope adds what a real one does.
    pub payload_bytes: usize,
    /// How often.
    pub runs: u32,
    /// A run that takes longer has failed.
    pub limit: Duration,
}

/// Who works on the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Tasks that claim and settle, on one connection.
    Claimers {
        /// How many.
        tasks: u32,
        /// Whether outcomes are read and confirmed too.
        recorded: bool,
    },
    /// A worker as in production, in this process, with a handler that does nothing; outcomes are read and
    /// confirmed.
    Worker {
        /// Its slots.
        concurrency: u32,
    },
}

impl Work {
    fn recorded(self) -> bool {
        !matches!(self, Self::Claimers { recorded: false, .. })
    }
}

/// Runs it.
///
/// # Errors
/// Options out of bounds, an engine that fails, or a run over its limit.
pub async fn run(bench: &EngineBench) -> Result<Report> {
    ensure!(is_loopback(&bench.engine.url), "the benchmark only loads engines on loopback");
    ensure!((1..=JOBS_MAX).contains(&bench.jobs), "jobs must be 1 to {JOBS_MAX}");
    ensure!((1..=RUNS_MAX).contains(&bench.runs), "runs must be 1 to {RUNS_MAX}");
    let (Work::Claimers { tasks: width, .. } | Work::Worker { concurrency: width }) = bench.work;
    ensure!((1..=1_000).contains(&width), "claimers or slots must be 1 to 1000");
    ensure!((1..=64).contains(&bench.pushers), "pushers must be 1 to 64");
    let batch_max = u32::try_from(ENGINE_BATCH_MAX).unwrap_or(u32::MAX);
    ensure!((1..=batch_max).contains(&bench.batch), "batch must be 1 to {batch_max}");
    ensure!((2..=16 << 10).contains(&bench.payload_bytes), "payload bytes must be 2 to 16384");
    ensure!(
        bench.work.recorded() || bench.jobs <= UNRECORDED_MAX,
        "at most {UNRECORDED_MAX} jobs when outcomes are not confirmed"
    );
    let settings = EngineSettings {
        prefix: "wbench".into(),
        // A stall of the server's disk is to show in the latencies, not to end the run.
        response_timeout: Duration::from_secs(30),
        ..bench.engine.clone()
    };
    let engine = Engine::open(&settings).await.context("cannot open the engine")?;
    let mut runs = Vec::new();
    for _ in 0..bench.runs {
        let run = one(&engine, &settings, bench);
        runs.push(tokio::time::timeout(bench.limit, run).await.context("the run took too long")??);
    }
    let (name, latency) = match bench.work {
        Work::Claimers { tasks, recorded } => {
            let rest = if recorded { ", outcomes, confirm" } else { "" };
            (format!("engine: push, claim, settle{rest}; {tasks} claimers"), "claim calls")
        }
        Work::Worker { concurrency } => {
            (format!("worker runtime: {concurrency} slots"), "push to end of the attempt")
        }
    };
    let name = format!("{name}, {} pushers, batches of {}", bench.pushers, bench.batch);
    Ok(Report::new(name, latency, runs))
}

/// What the tasks of a run share.
struct Shared {
    engine: Engine,
    shard: ShardId,
    jobs: u64,
    batch: u32,
    pushed: AtomicU64,
    settled: AtomicU64,
    /// One permit per job that may enter the shard.
    room: Semaphore,
    envelope: Bytes,
}

async fn one(engine: &Engine, settings: &EngineSettings, bench: &EngineBench) -> Result<Run> {
    let shard = fresh_shard()?;
    let recorded = bench.work.recorded();
    let room = if recorded { BACKLOG_MAX } else { usize::try_from(bench.jobs)? };
    let jobs_max = room.max(BACKLOG_MAX) as u64 * 2;
    let budget =
        ShardSettings { version: 1, jobs_max, bytes_max: 4 << 30, ..ShardSettings::default() };
    open(engine, &shard, budget).await?;
    let shared = Arc::new(Shared {
        engine: engine.clone(),
        shard,
        jobs: bench.jobs,
        batch: bench.batch,
        pushed: AtomicU64::new(0),
        settled: AtomicU64::new(0),
        room: Semaphore::new(room),
        envelope: envelope(bench.payload_bytes)?,
    });
    let redis_before = redis_cpu::of(&bench.engine.url).await?;
    let (own_before, started) = (cpu::own(), Instant::now());
    let times = Box::pin(work(&shared, settings, bench)).await?;
    let (took, own_after) = (started.elapsed(), cpu::own());
    let mut cpu = vec![CpuPerJob::between("client", own_before, own_after, bench.jobs)];
    if let (Some(before), Some(after)) = (redis_before, redis_cpu::of(&bench.engine.url).await?) {
        cpu.insert(0, CpuPerJob::between("redis", before, after, bench.jobs));
    }
    Ok(Run::new(bench.jobs, took, cpu, times.percentiles()))
}

/// Pushes, works and records at once until the last job is through.
async fn work(
    shared: &Arc<Shared>,
    settings: &EngineSettings,
    bench: &EngineBench,
) -> Result<Times> {
    let mut tasks: JoinSet<Result<Times>> = JoinSet::new();
    for _ in 0..bench.pushers {
        let shared = Arc::clone(shared);
        tasks.spawn(async move { push(&shared).await.map(|()| Times::default()) });
    }
    let done = CancellationToken::new();
    match bench.work {
        Work::Claimers { tasks: claimers, .. } => {
            for _ in 0..claimers {
                let shared = Arc::clone(shared);
                tasks.spawn(async move { claim_and_settle(&shared).await });
            }
        }
        Work::Worker { concurrency } => {
            let worker = worker(shared, settings, concurrency)?;
            let done = done.clone();
            tasks.spawn(async move { Ok(worker.run(done).await.map(|()| Times::default())?) });
        }
    }
    if bench.work.recorded() {
        let (shared, of_jobs) = (Arc::clone(shared), matches!(bench.work, Work::Worker { .. }));
        tasks.spawn(async move {
            let times = record(&shared).await?;
            done.cancel();
            Ok(if of_jobs { times } else { Times::default() })
        });
    }
    let mut times = Times::default();
    while let Some(ended) = tasks.join_next().await {
        times.add_all(&ended.context("a task of the benchmark panicked")??);
    }
    Ok(times)
}

fn worker(shared: &Shared, settings: &EngineSettings, concurrency: u32) -> Result<Worker> {
    let worker = WorkerSettings {
        name: "bench".into(),
        queues: vec![(shared.shard.queue.clone(), 1)],
        concurrency,
        ..WorkerSettings::default()
    };
    let source = match &shared.engine {
        Engine::Redis(_) => EngineSource::from(settings.clone()),
        _ => EngineSource::from(shared.engine.clone()),
    };
    Ok(Worker::builder(worker).engine(source).reporter(Arc::new(Nowhere)).builtin().build()?)
}

/// What a job of kind `noop` carries.
fn envelope(payload_bytes: usize) -> Result<Bytes> {
    let head = EnvelopeHead {
        kind: "noop".parse()?,
        spec: JobSpec::default(),
        created_at: Clock::System.now(),
        priority: Priority::default(),
        traceparent: None,
        request_id: None,
        workflow: None,
        payload_blob: None,
    };
    let payload = format!("\"{}\"", "x".repeat(payload_bytes.saturating_sub(2)));
    Ok(Envelope { head, payload: Value::Inline(payload.into()) }.encode())
}

fn fresh_shard() -> Result<ShardId> {
    let queue: QueueName = format!("bench-{}", uuid::Uuid::now_v7().simple()).parse()?;
    Ok(ShardId::first(Namespace::default(), queue))
}

async fn push(shared: &Shared) -> Result<()> {
    let kind: Kind = "noop".parse()?;
    let mut now = shared.engine.now().await?;
    loop {
        let first = shared.pushed.fetch_add(shared.batch.into(), Ordering::Relaxed);
        let count = shared.jobs.saturating_sub(first).min(shared.batch.into());
        if count == 0 {
            return Ok(());
        }
        shared.room.acquire_many(u32::try_from(count)?).await?.forget();
        let jobs: Vec<Push> = (0..count).map(|_| new_push(shared, &kind, now)).collect();
        let reply = loop {
            let not_after = now.plus(PUSH_WINDOW);
            let valid =
                Validity { ledger: LEDGER, generation: 1, not_after, origin: PushOrigin::Fresh };
            let reply = shared.engine.push(&shared.shard, &jobs, &valid).await?;
            now = reply.now;
            // Late: this process was held up for long. The batch is safe to repeat.
            if !reply.pushed.contains(&Pushed::Late) {
                break reply;
            }
        };
        ensure!(
            reply.pushed.iter().all(|it| *it == Pushed::Added),
            "the engine has no room for the backlog"
        );
    }
}

fn new_push(shared: &Shared, kind: &Kind, now: Timestamp) -> Push {
    Push::new(Fence(0), kind.clone(), now, shared.envelope.clone())
}

/// Of the shards here, which have none.
const LEDGER: LedgerId = LedgerId::from_bytes([1; 16]);

/// Opens the gate of a fresh shard, which has no ledger to be compared with.
async fn open(engine: &Engine, shard: &ShardId, settings: ShardSettings) -> Result<()> {
    let not_after = engine.now().await?.plus(PUSH_WINDOW);
    let Shut::Shut { process, .. } = engine.shut(shard, LEDGER, 1, not_after).await? else {
        bail!("the shard {shard} is in use");
    };
    let (grace, ramp) = (Duration::ZERO, Duration::ZERO);
    let opening =
        Opening { settings, ledger: LEDGER, generation: 1, process, grace, slots: 0, ramp };
    ensure!(engine.open_gate(shard, &opening).await? == Opened::Open, "{shard} stays shut");
    Ok(())
}

/// Claims and settles until all jobs are settled; the times of the claims that gave something.
async fn claim_and_settle(shared: &Shared) -> Result<Times> {
    let worker = WorkerId::generate();
    let mut claims = Times::default();
    while shared.settled.load(Ordering::Relaxed) < shared.jobs {
        let lease_id = LeaseId::random();
        let request = ClaimRequest {
            worker,
            lease_id,
            max: shared.batch,
            lease: Duration::from_secs(60),
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        };
        let started = Instant::now();
        let claimed = shared.engine.claim(&shared.shard, &request).await?.jobs;
        if claimed.is_empty() {
            tokio::time::sleep(IDLE).await;
            continue;
        }
        claims.add(started.elapsed());
        let settles: Vec<Settle> = claimed
            .iter()
            .map(|job| Settle {
                dependency: None,
                held: Held { id: job.id, fence: job.fence, lease_id },
                verdict: Verdict::Succeeded,
                detail: Bytes::new(),
            })
            .collect();
        let settled = shared.engine.settle(&shared.shard, &settles).await?.settles;
        if let Some(odd) = settled.iter().find(|s| **s != Settled::Settled) {
            bail!("a settle was answered with {odd:?}");
        }
        shared.settled.fetch_add(settled.len() as u64, Ordering::Relaxed);
    }
    Ok(claims)
}

/// Reads and confirms every outcome, as the recorder does after its commit; the times from a job's push to
/// its end, in engine time.
async fn record(shared: &Shared) -> Result<Times> {
    let (mut recorded, mut times) = (0, Times::default());
    while recorded < shared.jobs {
        let outcomes = shared.engine.outcomes(&shared.shard, RECORD_MAX).await?;
        let Some(last) = outcomes.last() else {
            tokio::time::sleep(IDLE).await;
            continue;
        };
        for outcome in &outcomes {
            ensure!(outcome.ended == Ended::Succeeded, "a job ended as {:?}", outcome.ended);
            times.add(outcome.at.since(pushed_at(outcome.id)));
        }
        shared.engine.confirm(&shared.shard, &last.mark()).await?;
        recorded += outcomes.len() as u64;
        shared.room.add_permits(outcomes.len());
    }
    Ok(times)
}

/// The millisecond in which an id was made.
fn pushed_at(id: JobId) -> Timestamp {
    let mut ms = [0; 8];
    ms[2..].copy_from_slice(&id.as_bytes()[..6]);
    Timestamp::from_millis(i64::from_be_bytes(ms))
}
