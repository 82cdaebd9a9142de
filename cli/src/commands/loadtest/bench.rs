//! `windlass loadtest bench`: single parts on this machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use windlass_loadtest::cpu::Watched;
use windlass_loadtest::engine::{EngineBench, Work};
use windlass_loadtest::fleet::Fleet;
use windlass_loadtest::ledger::{LedgerBench, Part};
use windlass_loadtest::path::PathBench;
use windlass_loadtest::report::Report;
use windlass_loadtest::start::StartBench;
use windlass_loadtest::submit::SubmitBench;
use windlass_loadtest::workflow::WorkflowBench;
use windlass_shared::config::{EngineSettings, LedgerSettings};
use windlass_shared::model::time::Span;

use crate::exit::Outcome;
use crate::output::{self, Output};

const EXAMPLES: &str = "\
`scripts/bench.sh` runs all of it against private servers. One part alone, on loopback only:
  windlass loadtest bench engine --engine-url redis://127.0.0.1:6379 --jobs 200000
  windlass loadtest bench ledger --ledger-url sqlite:///tmp/bench/ledger.db --part insert --batch 100
  windlass loadtest bench path --url http://127.0.0.1:8080 --ledger-url postgres://... --pid api=123
  windlass loadtest bench submit --url http://127.0.0.1:8080 --ledger-url postgres://... --in-flight 50
  windlass loadtest bench start --url http://127.0.0.1:8080 --rate 100
`bench/peers/run.sh` runs submit, path --waiting and start beside other queues.

The engine benchmark leaves keys behind, the ledger benchmark jobs: give them stores that may be thrown away.";

/// Jobs per second, CPU per job, latencies of single parts on this machine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The engine alone: push, claim, settle, and what the recorder does
    Engine(EngineArgs),
    /// The real worker runtime on an engine, with a handler that does nothing
    Worker(WorkerArgs),
    /// The ledger alone: submissions, or outcomes, until they are committed
    Ledger(LedgerArgs),
    /// Submissions over HTTP, one by one or in batches, until they are answered
    Submit(SubmitArgs),
    /// The whole path: HTTP, ledger, engine, worker, recorded
    Path(PathArgs),
    /// Idle: from before the submission to the job's start
    Start(StartArgs),
    /// One large workflow over HTTP, until its run has ended: steps per second
    Workflow(WorkflowArgs),
}

/// What all benchmarks take.
#[derive(Debug, Args)]
struct Common {
    /// Runs; the medians are shown too
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// A run that takes longer has failed
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    limit: Span,
    /// What to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Write the report as JSON to this file too
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
}

impl Common {
    fn limit(&self) -> Duration {
        self.limit.0.min(Duration::from_secs(3600))
    }
}

#[derive(Debug, Args)]
struct EngineArgs {
    /// The engine: redis://127.0.0.1:6379 or embedded
    #[arg(long, value_name = "URL")]
    engine_url: String,
    /// Jobs per run
    #[arg(long, default_value_t = 200_000)]
    jobs: u64,
    /// Tasks that claim and settle
    #[arg(long, default_value_t = 8)]
    claimers: u32,
    /// Leave the recorder's part (outcomes, confirm) out
    #[arg(long)]
    unrecorded: bool,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct WorkerArgs {
    /// The engine: redis://127.0.0.1:6379 or embedded
    #[arg(long, value_name = "URL")]
    engine_url: String,
    /// Jobs per run
    #[arg(long, default_value_t = 200_000)]
    jobs: u64,
    /// Slots of the worker
    #[arg(long, default_value_t = 200)]
    concurrency: u32,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    common: Common,
}

/// What is pushed into an engine.
#[derive(Debug, Args)]
struct Load {
    /// Tasks that push
    #[arg(long, default_value_t = 2)]
    pushers: u32,
    /// Jobs per call, at most 200
    #[arg(long, default_value_t = 200)]
    batch: u32,
    /// Size of a payload, in bytes
    #[arg(long, default_value_t = 64)]
    payload_bytes: usize,
}

/// Where a running installation is.
#[derive(Debug, Args)]
struct Target {
    /// Address of the API
    #[arg(long, env = "WINDLASS_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// API key, where it wants one
    #[arg(long, env = "WINDLASS_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Queue to use
    #[arg(long, default_value = "default")]
    queue: String,
    /// Kind of the jobs
    #[arg(long, default_value = "noop")]
    kind: String,
    /// Size of a payload as JSON, in bytes
    #[arg(long, default_value_t = 200)]
    payload_bytes: usize,
    /// Show the CPU of this process and its descendants; repeat for several
    #[arg(long = "pid", value_name = "NAME=PID")]
    watched: Vec<Watched>,
}

impl Target {
    fn fleet(&self) -> Fleet {
        Fleet {
            url: self.url.clone(),
            api_key: self.api_key.clone(),
            queue: self.queue.clone(),
            kind: self.kind.clone(),
            payload_bytes: self.payload_bytes,
            watched: self.watched.clone(),
        }
    }
}

#[derive(Debug, Args)]
struct LedgerArgs {
    /// The ledger: postgres://... on loopback or sqlite:///path; it is migrated
    #[arg(long, hide_env_values = true, value_name = "URL")]
    ledger_url: String,
    /// What is timed
    #[arg(long, value_enum, default_value = "insert")]
    part: LedgerPart,
    /// Jobs per run
    #[arg(long, default_value_t = 100_000)]
    jobs: u64,
    /// Jobs per submission, or outcomes per record
    #[arg(long, default_value_t = 100)]
    batch: u32,
    /// Callers at once
    #[arg(long, default_value_t = 16)]
    clients: u32,
    /// Show the CPU of this process and its descendants; repeat for several
    #[arg(long = "pid", value_name = "NAME=PID")]
    watched: Vec<Watched>,
    #[command(flatten)]
    common: Common,
}

/// What of the ledger is timed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LedgerPart {
    /// Submissions
    Insert,
    /// Outcomes
    Record,
}

#[derive(Debug, Args)]
struct SubmitArgs {
    #[command(flatten)]
    target: Target,
    /// The ledger behind the API, where every job must be in the end
    #[arg(long, env = "WINDLASS_LEDGER__URL", hide_env_values = true, value_name = "URL")]
    ledger_url: String,
    /// Jobs per run
    #[arg(long, default_value_t = 100_000)]
    jobs: u64,
    /// Jobs per call
    #[arg(long, default_value_t = 1)]
    batch: u32,
    /// Calls under way at a time
    #[arg(long, default_value_t = 50)]
    in_flight: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct PathArgs {
    #[command(flatten)]
    target: Target,
    /// The ledger behind the API
    #[arg(long, env = "WINDLASS_LEDGER__URL", hide_env_values = true, value_name = "URL")]
    ledger_url: String,
    /// Jobs per run
    #[arg(long, default_value_t = 100_000)]
    jobs: u64,
    /// Give the jobs one of so many keys in turn, for concurrency and rate
    #[arg(long, default_value_t = 0)]
    keys: u32,
    /// Connections that submit
    #[arg(long, default_value_t = 4)]
    connections: u32,
    /// Jobs per batch
    #[arg(long, default_value_t = 500)]
    batch: u32,
    /// Submit all while the queue is paused, and count from when it is resumed on
    #[arg(long)]
    waiting: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct StartArgs {
    #[command(flatten)]
    target: Target,
    /// The ledger behind the API (PostgreSQL), for times in microseconds
    #[arg(long, hide_env_values = true, value_name = "URL")]
    ledger_url: Option<String>,
    /// Take the times of this file, where the bodies of the jobs leave how late they began (see bench/peers)
    #[arg(long, value_name = "FILE")]
    body_times: Option<PathBuf>,
    /// Jobs per second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Jobs per run
    #[arg(long, default_value_t = 2_000)]
    jobs: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct WorkflowArgs {
    #[command(flatten)]
    target: Target,
    /// The ledger behind the API
    #[arg(long, env = "WINDLASS_LEDGER__URL", hide_env_values = true, value_name = "URL")]
    ledger_url: String,
    /// Steps side by side between the first and the one that needs them all
    #[arg(long, default_value_t = 5_000)]
    wide: u32,
    /// Diamonds of four steps after those
    #[arg(long, default_value_t = 1_000)]
    diamonds: u32,
    /// Rows that the diamonds stand in, one after the other
    #[arg(long, default_value_t = 10)]
    lanes: u32,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub(super) async fn run(args: BenchArgs) -> Outcome {
    let (report, common) = match args.bench {
        Bench::Engine(args) => (engine(&args).await?, args.common),
        Bench::Worker(args) => (worker(&args).await?, args.common),
        Bench::Ledger(args) => (ledger(&args).await?, args.common),
        Bench::Submit(args) => (submit(&args).await?, args.common),
        Bench::Path(args) => (path(&args).await?, args.common),
        Bench::Start(args) => (start(&args).await?, args.common),
        Bench::Workflow(args) => (workflow(&args).await?, args.common),
    };
    if let Some(file) = &common.json_file {
        let text = serde_json::to_vec_pretty(&report).context("a report is always JSON")?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    show(&report, common.output)
}

async fn engine(args: &EngineArgs) -> Outcome<Report> {
    let work = Work::Claimers { tasks: args.claimers, recorded: !args.unrecorded };
    on_engine(&args.engine_url, args.jobs, work, &args.load, &args.common).await
}

async fn worker(args: &WorkerArgs) -> Outcome<Report> {
    let work = Work::Worker { concurrency: args.concurrency };
    on_engine(&args.engine_url, args.jobs, work, &args.load, &args.common).await
}

async fn on_engine(
    url: &str,
    jobs: u64,
    work: Work,
    load: &Load,
    common: &Common,
) -> Outcome<Report> {
    let bench = EngineBench {
        engine: EngineSettings::new(url),
        jobs,
        work,
        pushers: load.pushers,
        batch: load.batch,
        payload_bytes: load.payload_bytes,
        runs: common.runs,
        limit: common.limit(),
    };
    Ok(windlass_loadtest::engine::run(&bench).await?)
}

async fn ledger(args: &LedgerArgs) -> Outcome<Report> {
    let part = match args.part {
        LedgerPart::Insert => Part::Insert,
        LedgerPart::Record => Part::Record,
    };
    let bench = LedgerBench {
        ledger: LedgerSettings::new(args.ledger_url.as_str()),
        part,
        jobs: args.jobs,
        batch: args.batch,
        clients: args.clients,
        watched: args.watched.clone(),
        runs: args.common.runs,
        limit: args.common.limit(),
    };
    Ok(windlass_loadtest::ledger::run(&bench).await?)
}

async fn submit(args: &SubmitArgs) -> Outcome<Report> {
    let bench = SubmitBench {
        fleet: args.target.fleet(),
        ledger: LedgerSettings::new(args.ledger_url.as_str()),
        jobs: args.jobs,
        batch: args.batch,
        in_flight: args.in_flight,
        runs: args.common.runs,
        limit: args.common.limit(),
    };
    Ok(windlass_loadtest::submit::run(&bench).await?)
}

async fn path(args: &PathArgs) -> Outcome<Report> {
    let bench = PathBench {
        fleet: args.target.fleet(),
        ledger: LedgerSettings::new(args.ledger_url.as_str()),
        jobs: args.jobs,
        connections: args.connections,
        batch: args.batch,
        keys: args.keys,
        waiting: args.waiting,
        runs: args.common.runs,
        limit: args.common.limit(),
    };
    Ok(windlass_loadtest::path::run(&bench).await?)
}

async fn start(args: &StartArgs) -> Outcome<Report> {
    let bench = StartBench {
        fleet: args.target.fleet(),
        ledger: args.ledger_url.as_deref().map(LedgerSettings::new),
        body_times: args.body_times.clone(),
        rate: args.rate,
        jobs: args.jobs,
        runs: args.common.runs,
        limit: args.common.limit(),
    };
    Ok(windlass_loadtest::start::run(&bench).await?)
}

async fn workflow(args: &WorkflowArgs) -> Outcome<Report> {
    let bench = WorkflowBench {
        fleet: args.target.fleet(),
        ledger: LedgerSettings::new(args.ledger_url.as_str()),
        wide: args.wide,
        diamonds: args.diamonds,
        lanes: args.lanes,
        runs: args.common.runs,
        limit: args.common.limit(),
    };
    Ok(windlass_loadtest::workflow::run(&bench).await?)
}

fn show(report: &Report, output: Output) -> Outcome {
    if output == Output::Json {
        let value = serde_json::to_value(report).context("a report is always JSON")?;
        return output::json(&value);
    }
    output::line(&format!("{} (latency: {})", report.benchmark, report.latency))?;
    let headings = report.headings();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    output::table(&headings, report.rows())?;
    for note in &report.notes {
        output::line(&format!("note: {note}"))?;
    }
    output::line("")
}
