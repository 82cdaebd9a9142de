//! `windlass-rig peers`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::Peer;
use super::install::{self, Drivers};
use super::run::{self, Settings};
use super::sheet::{Sheet, cell};
use super::trial::Trial;
use crate::experiments::Form;

/// Packages whose versions are shown.
const PACKAGES: [&str; 3] = ["bullmq", "graphile-worker", "ioredis"];

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run faults against the peers and Windlass, and print the table
    Run(RunArgs),
    /// Print the table of what was measured before, in parts
    Table {
        /// Files of `peers run --out`
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Flags of `peers run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Such as E1; or `all`
    #[arg(required = true)]
    ids: Vec<String>,
    /// Only these
    #[arg(long = "peer", value_name = "PEER", value_delimiter = ',')]
    peers: Vec<Peer>,
    #[arg(long, default_value = "short")]
    form: Form,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write what was measured as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The `windlass` binary [default: beside this one]
    #[arg(long, env = "WINDLASS_BIN", value_name = "FILE")]
    windlass: Option<PathBuf>,
    /// Where the peers are installed [default: the user's folder for caches]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Where the fleets' folders are made [default: the folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    within: Option<PathBuf>,
    /// Keep logs and evidence
    #[arg(long)]
    keep: bool,
    /// Say nothing but the table
    #[arg(long)]
    quiet: bool,
}

/// Does it. Whether Windlass lost nothing.
///
/// # Errors
/// The rig failed.
pub async fn main(action: Action) -> anyhow::Result<bool> {
    match action {
        Action::Run(args) => measure(args).await,
        Action::Table { files } => show(&Sheet::read(&files)?),
    }
}

async fn measure(args: RunArgs) -> anyhow::Result<bool> {
    let trials = chosen(&args.ids)?;
    let peers = if args.peers.is_empty() { Peer::ALL.to_vec() } else { args.peers.clone() };
    let settings = settings(&args, &peers)?;
    let mut sheet = Sheet { versions: versions(settings.drivers.as_ref())?, ..Sheet::default() };
    for trial in trials {
        for peer in &peers {
            let Ok(variants) = trial.variants(*peer) else { continue };
            for variant in variants {
                if !args.quiet {
                    eprintln!("{} {} {variant}: {}", trial.id(), peer.name(), trial.title());
                }
                let outcome = run::run(trial, *peer, variant, &settings).await;
                let outcome =
                    outcome.with_context(|| format!("{} of {}", trial.id(), peer.name()))?;
                if !args.quiet {
                    eprintln!("{} {}: {}", trial.id(), peer.name(), cell(trial, &outcome));
                }
                sheet.add(outcome);
                // After each one: a run of an hour is not lost with its last part.
                args.out.as_deref().map_or(Ok(()), |path| sheet.write(path))?;
            }
        }
    }
    show(&sheet)
}

fn show(sheet: &Sheet) -> anyhow::Result<bool> {
    write!(std::io::stdout(), "{}", sheet.markdown())?;
    let ours = sheet.outcomes.iter().filter(|outcome| outcome.peer == Peer::Windlass);
    Ok(ours.into_iter().all(|outcome| outcome.measured.undone.is_empty()))
}

fn chosen(ids: &[String]) -> anyhow::Result<Vec<Trial>> {
    if ids.iter().any(|id| id.eq_ignore_ascii_case("all")) {
        return Ok(Trial::ALL.to_vec());
    }
    let known = || Trial::ALL.map(Trial::id).join(", ");
    let find = |id: &String| {
        Trial::find(id)
            .with_context(|| format!("{id} is not run for peers; these are: {}", known()))
    };
    ids.iter().map(find).collect()
}

fn settings(args: &RunArgs, peers: &[Peer]) -> anyhow::Result<Settings> {
    let rig = std::env::current_exe().context("where this program is")?;
    let windlass = args.windlass.clone().unwrap_or_else(|| rig.with_file_name("windlass"));
    let is_ours = peers.contains(&Peer::Windlass);
    anyhow::ensure!(!is_ours || windlass.is_file(), "{} is not there", windlass.display());
    let needs_drivers = peers.iter().any(|peer| peer.driver().is_some());
    let drivers = if needs_drivers {
        let folder = args.cache.clone().map_or_else(install::default_folder, Ok)?;
        Some(install::install(&std::path::absolute(folder)?)?)
    } else {
        None
    };
    Ok(Settings {
        windlass: std::path::absolute(windlass)?,
        rig,
        drivers,
        form: args.form,
        seed: args.seed,
        keep: args.keep,
        progress: !args.quiet,
        within: args.within.clone().unwrap_or_else(std::env::temp_dir),
    })
}

fn versions(
    drivers: Option<&Drivers>,
) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
    let own = env!("CARGO_PKG_VERSION").to_owned();
    let mut versions = std::collections::BTreeMap::from([("Windlass".to_owned(), own)]);
    let Some(drivers) = drivers else { return Ok(versions) };
    for package in PACKAGES {
        versions.insert(package.to_owned(), install::version(drivers, package)?);
    }
    let node = std::process::Command::new(&drivers.node).arg("--version").output()?;
    let node = String::from_utf8_lossy(&node.stdout).trim().trim_start_matches('v').to_owned();
    versions.insert("Node".to_owned(), node);
    Ok(versions)
}
