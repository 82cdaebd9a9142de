//! `windlass-rig`: runs fault experiments against a private fleet.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use windlass_rig::check::{self, Evidence, Verdict};
use windlass_rig::dev;
use windlass_rig::dump::Dump;
use windlass_rig::experiments::{self, Experiment, Form};
use windlass_rig::history::Recorder;
use windlass_rig::load::client::Client;
use windlass_rig::plot::{self, PlotArgs};
use windlass_rig::report::Report;
use windlass_rig::runner::{self, Settings};
use windlass_rig::target::Target;
use windlass_rig::tools::command::Tool;
use windlass_rig::{effects, history, loadtest, peers, table, worker};

/// A promise or a figure did not hold.
const EXIT_BROKEN: u8 = 3;
/// Seeds of the long form, where none is given: part 3A.
const SEEDS: u64 = 5;

#[derive(Debug, Parser)]
#[command(
    name = "windlass-rig",
    version,
    about = "Fault experiments against a private fleet",
    after_help = "Exit codes: 0 all held, 1 the rig failed, 2 bad usage, 3 a promise or a figure did not hold."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name the experiments
    List,
    /// Run experiments: start a fleet, load it, hurt it, check
    Run(RunArgs),
    /// Check evidence again
    Check(CheckArgs),
    /// Print reports of `run --out` as a table: of every figure the worst of all seeds
    Table {
        /// The reports
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Draw what the evidence of a run shows
    Plot(PlotArgs),
    /// Run the worker that leaves evidence (a fleet starts it)
    Worker(worker::WorkerArgs),
    /// Put the load of a profile on a private fleet, which is hurt meanwhile as the profile says
    Load(Box<loadtest::LoadArgs>),
    /// The same faults for BullMQ and graphile-worker, beside Windlass
    #[command(subcommand)]
    Peers(peers::command::Action),
    #[command(flatten)]
    Tool(Tool),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Such as E1; or `all`
    #[arg(required = true)]
    ids: Vec<String>,
    /// What is hurt
    #[arg(long, default_value = "fleet")]
    on: On,
    #[arg(long, default_value = "short")]
    form: Form,
    /// One seed; else 1 in the short form, and 1 to 5 in the long form
    #[arg(long)]
    seed: Option<u64>,
    /// Write the reports as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The `windlass` binary [default: beside this one]
    #[arg(long, env = "WINDLASS_BIN", value_name = "FILE")]
    windlass: Option<PathBuf>,
    /// Where the fleet's folder is made [default: the folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    within: Option<PathBuf>,
    /// Keep logs and evidence also when everything held
    #[arg(long)]
    keep: bool,
    /// Say nothing but the rows
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum On {
    /// API, worker and scheduler processes on Redis and PostgreSQL
    Fleet,
    /// `windlass dev`: all in one process, on SQLite
    Dev,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// What the clients saw (`history.jsonl`)
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
    /// What the handlers did (`effects.jsonl`)
    #[arg(long, value_name = "FILE")]
    effects: PathBuf,
    /// What the ledger held (`ledger.json`)
    #[arg(long, value_name = "FILE", conflicts_with = "url", required_unless_present = "url")]
    ledger: Option<PathBuf>,
    /// Or ask this API what it holds; with WINDLASS_API_KEY
    #[arg(long)]
    url: Option<String>,
}

fn main() -> ExitCode {
    // Chosen once for the process; nothing else chooses.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = match Arguments::parse().command {
        Command::List => list(),
        Command::Run(args) => match args.on {
            On::Fleet => block_on(interruptible(run(args, experiments::all()))),
            On::Dev => block_on(interruptible(run(args, dev::experiments::all()))),
        },
        Command::Check(args) => block_on(check(args)),
        Command::Table { files } => print_table(&files),
        Command::Plot(args) => plot::plot(&args).map(|()| true),
        Command::Worker(args) => block_on(worker::run(args)).map(|()| true),
        Command::Load(args) => block_on(interruptible(loadtest::main(*args))),
        Command::Peers(action) => block_on(interruptible(peers::command::main(action))),
        Command::Tool(tool) => tool.run().map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_BROKEN),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// On a runtime of as many threads as there are cores, as every role of the product has.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// Until it is done, or until the first SIGINT or SIGTERM: then the fleet ends with its handle.
async fn interruptible(work: impl Future<Output = anyhow::Result<bool>>) -> anyhow::Result<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    }
}

fn list() -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    for experiment in experiments::all() {
        writeln!(out, "{:4} {}", experiment.id(), experiment.title())?;
    }
    writeln!(out, "\nwith --on dev:")?;
    for experiment in dev::experiments::all() {
        writeln!(out, "{:4} {}", experiment.id(), experiment.title())?;
    }
    Ok(true)
}

async fn run<T: Target>(
    args: RunArgs,
    experiments: Vec<&'static dyn Experiment<T>>,
) -> anyhow::Result<bool> {
    let all = args.ids.iter().any(|id| id.eq_ignore_ascii_case("all"));
    let mut chosen = Vec::new();
    if all {
        chosen = experiments;
    } else {
        for id in &args.ids {
            let found = experiments::find(&experiments, id);
            chosen.push(found.with_context(|| format!("{id} is none; see `windlass-rig list`"))?);
        }
    }
    let own = std::env::current_exe().context("where this program is")?;
    let windlass = args.windlass.clone().unwrap_or_else(|| own.with_file_name("windlass"));
    anyhow::ensure!(windlass.is_file(), "{} is not there: build it", windlass.display());
    let windlass = std::path::absolute(windlass)?;
    let seeds: Vec<u64> = match (args.seed, args.form) {
        (Some(seed), _) => vec![seed],
        (None, Form::Short) => vec![1],
        (None, Form::Long) => (1..=SEEDS).collect(),
    };
    let mut reports: Vec<Report> = Vec::new();
    for experiment in chosen {
        for seed in &seeds {
            let settings = Settings {
                windlass: windlass.clone(),
                rig: own.clone(),
                form: args.form,
                seed: *seed,
                keep: args.keep,
                progress: !args.quiet,
                within: args.within.clone().unwrap_or_else(std::env::temp_dir),
            };
            if !args.quiet {
                eprintln!("{} seed {seed}: {}", experiment.id(), experiment.title());
            }
            let report = runner::run(experiment, &settings).await?;
            writeln!(std::io::stdout(), "{}", report.row())?;
            if !report.passed {
                eprintln!("{}", report.faults());
            }
            reports.push(report);
            // After each one: a run of hours is not lost with its last part.
            write(args.out.as_deref(), &reports)?;
        }
    }
    Ok(reports.iter().all(|report| report.passed))
}

fn write(out: Option<&Path>, reports: &[Report]) -> anyhow::Result<()> {
    let Some(path) = out else { return Ok(()) };
    let text = serde_json::to_vec_pretty(reports)?;
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

fn print_table(files: &[PathBuf]) -> anyhow::Result<bool> {
    let reports = table::read(files)?;
    writeln!(std::io::stdout(), "{}", table::of(&reports))?;
    Ok(true)
}

async fn check(args: CheckArgs) -> anyhow::Result<bool> {
    let ledger = match (&args.ledger, args.url) {
        (Some(path), _) => Dump::read(path)?,
        (None, Some(url)) => {
            let key = std::env::var("WINDLASS_API_KEY").unwrap_or_default();
            // Nothing of what a dump asks for goes on record.
            let history = Arc::new(Recorder::create(Path::new("/dev/null"))?);
            Dump::take(&Client::new(&[url], &key, history)?).await?
        }
        (None, None) => anyhow::bail!("either --ledger or --url"),
    };
    let history = history::read(&args.history)?;
    let effects = effects::read(&args.effects)?;
    let verdict: Verdict = check::check(&Evidence { history, effects, ledger });
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&verdict)?)?;
    Ok(verdict.violations.is_empty())
}
