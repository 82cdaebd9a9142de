//! `windlass loadtest run`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use tokio_util::sync::CancellationToken;
use windlass_loadtest::cpu::Watched;
use windlass_loadtest::is_loopback;
use windlass_loadtest::profile::threshold::short;
use windlass_loadtest::profile::{Profile, shipped};
use windlass_loadtest::result::LoadResult;
use windlass_loadtest::run::{self as load, Options};
use windlass_shared::model::name::QueueName;

use super::list::unknown;
use super::live::Live;
use crate::client::ClientArgs;
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output};

const EXAMPLES: &str = "\
Examples:
  windlass loadtest run smoke
  windlass loadtest run service --pid api=4711 --pid redis=4712 --html service.html
  windlass loadtest run service --scale 0.2
  windlass loadtest run trace --traces montage.json --traces blast.json --time-factor 0.01
  windlass loadtest run ./mine.toml --queue bulk --json-file result.json

The load goes to the fleet at --url, over HTTP. Its jobs are no-ops and sleeps (kinds `noop` and `loadtest.job`), which \
every worker knows, in the queue that the profile names, with a tag of their own. Afterwards each job that was accepted is \
looked at: it must have ended once, as planned, and not early. Ctrl-C ends the load early; what came by then is checked.

Exit code 3: a threshold did not hold.";

/// Carry a profile out against a running fleet
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// One of `windlass loadtest list`, or a file whose name ends in .toml
    profile: String,
    /// A process to watch, by a name for it and its id; may be given more than once
    #[arg(long = "pid", value_name = "NAME=PID")]
    watched: Vec<Watched>,
    /// Make every stage so many times as long
    #[arg(long, default_value_t = 1.0, value_name = "F")]
    scale: f64,
    /// Into this queue instead of the profile's
    #[arg(long)]
    queue: Option<QueueName>,
    /// Of what is drawn: the same one makes the same load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Submit these workflows: traces in WfFormat; may be given more than once
    #[arg(long, value_name = "FILE")]
    traces: Vec<PathBuf>,
    /// Recorded run times of traces are multiplied by this
    #[arg(long, default_value_t = 0.01, value_name = "F")]
    time_factor: f64,
    /// The fleet is on other machines: load it all the same
    #[arg(long)]
    allow_remote: bool,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
    /// Write a report with plots, one page of HTML without anything from elsewhere, to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Do not show how far it is
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub(super) async fn run(args: RunArgs) -> Outcome {
    let (name, profile) = profile(&args)?;
    let traces = traces(&args, &profile)?;
    let mut target = args.client.target();
    target.watched.clone_from(&args.watched);
    if !is_loopback(&target.url) && !args.allow_remote {
        return Err(Failure::Usage(format!(
            "{} is not this machine: a load may hurt who else uses it; --allow-remote if it is yours to load",
            target.url
        )));
    }
    let live = Live::new(args.quiet);
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let _signal = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            asked.cancel();
        }
    }));
    let options = Options { seed: args.seed, traces };
    let tell = |progress: &load::Progress<'_>| live.show(progress);
    let ran = load::run(&name, &profile, &target, options, &tell, stop).await;
    live.end();
    let result = ran?;
    if let Some(file) = &args.json_file {
        let text = serde_json::to_vec_pretty(&result).context("a result is always JSON")?;
        write(file, &text)?;
    }
    if let Some(file) = &args.html {
        write(file, windlass_loadtest::html::page(&result).as_bytes())?;
    }
    match args.client.output {
        Output::Json => output::json(&serde_json::to_value(&result).context("it is JSON")?)?,
        Output::Table => show(&result)?,
    }
    verdict(&result)
}

fn write(file: &Path, bytes: &[u8]) -> Outcome {
    std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}

fn profile(args: &RunArgs) -> Outcome<(String, Profile)> {
    let path = Path::new(&args.profile);
    let is_file = path.extension().is_some_and(|extension| extension == "toml");
    let (name, mut profile) = if is_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", args.profile)))?;
        let profile = Profile::parse(&text)
            .map_err(|why| Failure::Usage(format!("{}:\n{why}", args.profile)))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        (name, profile)
    } else {
        let profile = shipped(&args.profile).ok_or_else(|| unknown(&args.profile))?;
        (args.profile.clone(), profile)
    };
    if !(args.scale > 0.0 && args.scale <= 100.0) {
        return Err(Failure::Usage("--scale must be over 0 and at most 100".into()));
    }
    if !profile.faults.is_empty() {
        return Err(Failure::Usage(format!(
            "the profile {name} breaks things, which needs a fleet of its own: `windlass-rig load` has one"
        )));
    }
    if let Some(queue) = &args.queue {
        profile.jobs.queue = queue.clone();
    }
    Ok((name, profile.scaled(args.scale)))
}

fn traces(args: &RunArgs, profile: &Profile) -> Outcome<Vec<serde_json::Value>> {
    let uses = profile.stages.iter().any(|stage| profile.mix_of(stage).workflow > 0.0);
    if !args.traces.is_empty() && !uses {
        return Err(Failure::Usage("--traces: the profile submits no workflows".into()));
    }
    if !(args.time_factor >= 0.0 && args.time_factor.is_finite()) {
        return Err(Failure::Usage("--time-factor must be 0 or more".into()));
    }
    let read = |file: &PathBuf| {
        let wrong = |what: String| Failure::Usage(format!("{}: {what}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        load::trace(&text, args.time_factor).map_err(|fault| wrong(fault.to_string()))
    };
    args.traces.iter().map(read).collect()
}

fn show(result: &LoadResult) -> Outcome {
    let rows = result.thresholds.iter().map(|held| {
        let measured = held.measured();
        let verdict = if held.holds { "holds" } else { "FAILS" };
        vec![held.name.clone(), measured, held.bound.clone(), verdict.to_owned()]
    });
    output::table(&["figure", "measured", "threshold", ""], rows)?;
    output::line("")?;
    let figure = |name: &str| result.figures.get(name).map(short).unwrap_or_default();
    let times = |of: &str| {
        let quantiles = ["p50", "p95", "p99", "max"].map(|q| figure(&format!("{of}_{q}_ms")));
        if quantiles[0].is_empty() {
            String::new()
        } else {
            format!("{} ms", quantiles.join(" / "))
        }
    };
    output::fields(&[
        ("calls", format!("{}, {} per second", figure("calls"), figure("calls_per_second"))),
        (
            "jobs",
            format!("{}, {} per second ended", figure("accepted"), figure("ended_per_second")),
        ),
        ("answers p50/p95/p99/max", times("answer")),
        ("starts p50/p95/p99/max", times("start")),
        ("ends p50/p95/p99/max", times("end")),
        ("errors", errors(result)),
        ("CPU us per job", of_processes(result, "cpu_us_per_job")),
        ("memory MB", of_processes(result, "memory_mb")),
        ("jobs of this load", format!("tag {}", result.tag)),
    ])?;
    for text in result.notes.iter().chain(&result.examples) {
        output::line(&format!("note: {}", output::clean(text)))?;
    }
    Ok(())
}

fn errors(result: &LoadResult) -> String {
    let codes: Vec<String> =
        result.codes.iter().map(|(code, count)| format!("{count} {code}")).collect();
    codes.join(", ")
}

fn of_processes(result: &LoadResult, figure: &str) -> String {
    let of = |process: &String| {
        let value = result.figures.get(&format!("{process}_{figure}"))?;
        Some(format!("{process} {}", short(value)))
    };
    result.processes.iter().filter_map(of).collect::<Vec<_>>().join(", ")
}

/// Exit code 3 names every threshold that does not hold.
fn verdict(result: &LoadResult) -> Outcome {
    if result.passed {
        return Ok(());
    }
    Err(Failure::Check(format!("{} failed: {}", result.profile, result.reasons().join("; "))))
}
