//! `windlass-rig load`: a load profile against a fleet of its own, which is hurt meanwhile as the profile says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_loadtest::cpu::Watched;
use windlass_loadtest::profile::{Fault, FaultKind, Profile, shipped};
use windlass_loadtest::result::LoadResult;
use windlass_loadtest::run::{self as load, Options, Target};

use crate::experiments::{Form, Setup};
use crate::fleet::Fleet;
use crate::fleet::links::Ways;
use crate::tools::proxy::{Faults, Flow};

/// A worker that was killed is started again after this, where the profile does not say.
const DEAD: Duration = Duration::from_secs(1);
/// The worker that is killed or cut off.
const VICTIM: usize = 0;

/// Flags of `windlass-rig load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// A profile that Windlass ships with (`chaos`, say), or a file whose name ends in .toml
    pub profile: String,
    /// Worker processes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub workers: u16,
    /// Slots of each
    #[arg(long, default_value_t = 32)]
    pub slots: u32,
    /// Of what is drawn
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json_file: Option<PathBuf>,
    /// Write a report with plots to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The `windlass` binary [default: beside this one]
    #[arg(long, env = "WINDLASS_BIN", value_name = "FILE")]
    pub windlass: Option<PathBuf>,
    /// Where the fleet's folder is made [default: the folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    pub within: Option<PathBuf>,
}

/// Carries it out; whether every threshold held.
///
/// # Errors
/// There is no such profile, the fleet does not start, or the load cannot be carried through.
pub async fn main(args: LoadArgs) -> anyhow::Result<bool> {
    let profile = profile(&args.profile)?;
    let result = run(&args, &profile).await?;
    if let Some(file) = &args.json_file {
        std::fs::write(file, serde_json::to_vec_pretty(&result)?)
            .with_context(|| file.display().to_string())?;
    }
    if let Some(file) = &args.html {
        std::fs::write(file, windlass_loadtest::html::page(&result))
            .with_context(|| file.display().to_string())?;
    }
    for held in &result.thresholds {
        println!("{held}");
    }
    for reason in result.reasons() {
        eprintln!("{}: {reason}", args.profile);
    }
    Ok(result.passed)
}

fn profile(name: &str) -> anyhow::Result<Profile> {
    if Path::new(name).extension().is_some_and(|extension| extension == "toml") {
        let text = std::fs::read_to_string(name).with_context(|| name.to_owned())?;
        return Profile::parse(&text).map_err(|why| anyhow::anyhow!("{name}:\n{why}"));
    }
    shipped(name)
        .with_context(|| format!("there is no profile {name:?}; see `windlass loadtest list`"))
}

/// Starts a fleet and puts the load of the profile on it.
///
/// # Errors
/// As [`main`].
pub async fn run(args: &LoadArgs, profile: &Profile) -> anyhow::Result<LoadResult> {
    let own = std::env::current_exe().context("where this program is")?;
    let windlass = args.windlass.clone().unwrap_or_else(|| own.with_file_name("windlass"));
    anyhow::ensure!(windlass.is_file(), "{} is not there: build it", windlass.display());
    let within = args.within.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("windlass-rig-load-").tempdir_in(within)?;
    let mut options = Setup::standard(Form::Short).fleet;
    (options.windlass, options.rig) = (std::path::absolute(windlass)?, own);
    (options.workers, options.slots) = (args.workers.into(), args.slots);
    options.queues.push(profile.jobs.queue.to_string());
    options.ways = Ways::ProxyPerWorker;
    let mut fleet = Fleet::start(folder.path(), options).await?;
    fleet.ready().await?;
    let target = Target {
        url: fleet.urls[0].clone(),
        api_key: Some(fleet.key.clone()),
        namespace: None,
        watched: watched(&mut fleet),
    };
    let options = Options { seed: args.seed, traces: Vec::new() };
    let tell = |progress: &load::Progress<'_>| {
        if progress.second.is_some_and(|second| second.at % 5.0 < 1.0) {
            eprintln!("{}: {:.0} %", progress.doing, progress.part * 100.0);
        }
    };
    let stop = CancellationToken::new();
    let name = &args.profile;
    let loaded = load::run(name, profile, &target, options, &tell, stop);
    let (result, hurt) = tokio::join!(loaded, hurt(&mut fleet, &profile.faults));
    hurt.context("a fault of the profile")?;
    result
}

/// Everything but the worker that is hurt.
fn watched(fleet: &mut Fleet) -> Vec<Watched> {
    let servers =
        [("redis", fleet.redis.process().pid()), ("postgres", fleet.postgres.process().pid())];
    let servers = servers.into_iter().map(|(name, pid)| (name.to_owned(), pid));
    let roles =
        [("api", &fleet.apis), ("scheduler", &fleet.schedulers), ("worker", &fleet.workers)];
    let roles = roles.into_iter().flat_map(|(role, processes)| {
        let numbered = processes.iter().enumerate();
        numbered.map(move |(n, process)| (format!("{role}-{n}"), process.pid()))
    });
    let all = servers.chain(roles).filter(|(name, _)| *name != format!("worker-{VICTIM}"));
    all.filter_map(|(name, pid)| Some(Watched { name, pid: pid? })).collect()
}

/// Breaks and mends, each at its time from now on.
async fn hurt(fleet: &mut Fleet, faults: &[Fault]) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut steps: Vec<(Duration, FaultKind, bool)> = Vec::new();
    for fault in faults {
        let length = fault.length.map_or(DEAD, |length| length.0);
        steps.push((fault.at.0, fault.what, true));
        steps.push((fault.at.0 + length, fault.what, false));
    }
    steps.sort_by_key(|(at, ..)| *at);
    for (at, what, breaks) in steps {
        tokio::time::sleep_until(began + at).await;
        eprintln!(
            "{:>6.1} s  {what:?} {}",
            at.as_secs_f64(),
            if breaks { "begins" } else { "ends" }
        );
        match (what, breaks) {
            (FaultKind::KillWorker, true) => fleet.workers[VICTIM].kill_9(),
            (FaultKind::KillWorker, false) => drop(fleet.replace_worker(VICTIM)?),
            (FaultKind::StallRedis, true) => fleet.redis.process().freeze()?,
            (FaultKind::StallRedis, false) => fleet.redis.process().thaw()?,
            (FaultKind::CutLink, breaks) => {
                let link = fleet.links.of_worker(VICTIM).context("the worker has no proxy")?;
                if breaks {
                    link.set(Faults::flow(Flow::BlackHole)).await?;
                } else {
                    link.heal().await?;
                }
            }
        }
    }
    Ok(())
}
