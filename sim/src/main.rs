//! Worker, scheduler and lifecycle, the real code, in worlds that are simulated from a seed: clock, network,
//! randomness, engine and every fault. A seed that breaks a promise breaks it again, event by event.
//!
//! See `docs/simulation.md`.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod below;
mod checker;
mod client;
mod crew;
mod faults;
mod fleet;
mod machine;
mod orders;
mod scene;
mod story;
mod wires;
mod world;

use faults::Faults;
use fleet::Seeds;

/// Run the product in simulated worlds
#[derive(Debug, Parser)]
#[command(name = "windlass-sim")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Live through many worlds, each in a process of its own
    Run(RunArgs),
    /// Live through one world, telling everything that happens
    Replay(ReplayArgs),
    /// Live through one world in this process
    #[command(hide = true)]
    One(ReplayArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Seeds, both ends included: `1..2000`, or one
    #[arg(long, value_name = "FROM..TO", default_value = "1..200")]
    seeds: Seeds,
    /// What may go wrong
    #[arg(long, value_enum, default_value_t = Faults::Some)]
    faults: Faults,
    /// Live through every world twice, and compare event by event
    #[arg(long)]
    twice: bool,
    /// Worlds at once [default: as many as processors]
    #[arg(long)]
    at_once: Option<usize>,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// Which world
    seed: u64,
    /// What may go wrong
    #[arg(long, value_enum, default_value_t = Faults::Some)]
    faults: Faults,
    /// Only the end of it
    #[arg(long)]
    quiet: bool,
    /// What the product logs, among what happens: `info`, `windlass_shared=debug`
    #[arg(long, value_name = "LEVEL", default_value = "off")]
    log: String,
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => fleet::run(&args.seeds, args.faults, args.twice, args.at_once),
        Command::Replay(args) | Command::One(args) => one(&args),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every promise was kept.
fn one(args: &ReplayArgs) -> anyhow::Result<bool> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&args.log)?)
        .without_time()
        .with_ansi(false)
        .init();
    // On a thread that has drawn and counted nothing yet.
    let (seed, faults, print) = (args.seed, args.faults, !args.quiet);
    let world = std::thread::Builder::new().name("world".into());
    let world = world.spawn(move || scene::live(seed, faults, print))?;
    let outcome = world.join().map_err(|_| anyhow::anyhow!("the simulator panicked"))??;
    for what in &outcome.broken {
        println!("broken: {what}");
    }
    println!("seed {} {:016x} {}", args.seed, outcome.hash, outcome.summary);
    Ok(outcome.broken.is_empty())
}
