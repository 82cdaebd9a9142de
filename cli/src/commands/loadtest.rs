//! `windlass loadtest`: loads that are made on purpose, and what they showed.

use clap::{Args, Subcommand};

use crate::exit::Outcome;

mod bench;
mod list;
mod live;
mod results;
mod run;

const EXAMPLES: &str = "\
Examples:
  windlass loadtest list                          the profiles that there are
  windlass loadtest run smoke                     a short load; exit 3 if a threshold does not hold
  windlass loadtest run soak5m --pid api=$(pidof windlass) --html soak.html
  windlass loadtest show smoke >mine.toml         the start of a profile of your own
  windlass loadtest run ./mine.toml --json-file result.json
  windlass loadtest bench --help                  single parts: engine, ledger, whole path";

/// Put load on a fleet, and check what became of every job
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LoadtestArgs {
    #[command(subcommand)]
    command: LoadtestCommand,
}

#[derive(Debug, Subcommand)]
enum LoadtestCommand {
    Run(Box<run::RunArgs>),
    List(list::ListArgs),
    Show(list::ShowArgs),
    Results(results::ResultsArgs),
    Result(results::ResultArgs),
    Bench(bench::BenchArgs),
}

/// Runs the command.
pub async fn run(args: LoadtestArgs) -> Outcome {
    match args.command {
        LoadtestCommand::Run(args) => Box::pin(run::run(*args)).await,
        LoadtestCommand::List(args) => list::list(&args),
        LoadtestCommand::Show(args) => list::show(&args),
        LoadtestCommand::Results(args) => results::list(args).await,
        LoadtestCommand::Result(args) => results::show(args).await,
        LoadtestCommand::Bench(args) => bench::run(args).await,
    }
}
