//! `windlass system`: the installation as a whole.

use clap::{Args, Subcommand};

use crate::exit::Outcome;

mod duties;
mod health;
mod notify_test;

const EXAMPLES: &str = "\
Examples:
  windlass system health                  exit 0: healthy, 3: degraded or critical
  windlass system health --output json
  windlass system duties
  windlass system notify-test --config windlass.toml";

/// See how the installation does, and try out who is notified.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SystemArgs {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    /// Show components, alerts, and what to do
    Health(health::Health),
    /// Show what schedulers do by themselves, and how it went last
    Duties(duties::Duties),
    /// Send a test to each receiver of the settings
    NotifyTest(notify_test::NotifyTest),
}

/// Runs the command.
pub async fn run(args: SystemArgs) -> Outcome {
    match args.command {
        SystemCommand::Health(args) => health::run(args).await,
        SystemCommand::Duties(args) => duties::run(args).await,
        SystemCommand::NotifyTest(args) => notify_test::run(args).await,
    }
}
