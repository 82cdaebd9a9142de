//! `windlass migrate`: the ledger's schema.

use anyhow::Context;
use clap::{Args, Subcommand};
use windlass_shared::config::{Process, Settings};
use windlass_shared::ledger::{Ledger, MigrationStatus};

use crate::exit::{Failure, Outcome};
use crate::output;
use crate::setup::SettingsArgs;

const EXAMPLES: &str = "\
Examples:
  WINDLASS_LEDGER__URL=postgres://windlass@db/windlass windlass migrate up
  windlass migrate status
  windlass migrate validate      exit 3 unless the schema is exactly this build's

Migrations only go forward, and each works with the release before it still running. No role runs \
them by itself but `windlass dev`.";

/// The ledger's schema.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct MigrateArgs {
    #[command(subcommand)]
    command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// Apply what is missing
    Up(SettingsArgs),
    /// List the migrations and whether they are applied
    Status(SettingsArgs),
    /// Exit 3 unless every migration is applied and none is unknown
    Validate(SettingsArgs),
}

/// Runs the command.
pub async fn run(args: MigrateArgs) -> Outcome {
    match args.command {
        MigrateCommand::Up(args) => {
            let settings = args.load(Process::Tool, Vec::new())?;
            let applied =
                Ledger::migrate(settings.ledger()?).await.context("cannot migrate the ledger")?;
            if applied.is_empty() {
                return output::line("nothing to do: the schema is this build's");
            }
            for migration in applied {
                output::line(&format!("applied {:04} {}", migration.version, migration.name))?;
            }
            Ok(())
        }
        MigrateCommand::Status(args) => {
            let rows = status(&args.load(Process::Tool, Vec::new())?).await?;
            let rows = rows.into_iter().map(|m| {
                let state = if m.applied { "applied" } else { "missing" };
                vec![format!("{:04}", m.version), m.name, state.into()]
            });
            output::table(&["version", "what", "state"], rows)
        }
        MigrateCommand::Validate(args) => {
            let rows = status(&args.load(Process::Tool, Vec::new())?).await?;
            let missing: Vec<String> =
                rows.iter().filter(|m| !m.applied).map(|m| format!("{:04}", m.version)).collect();
            if missing.is_empty() {
                return output::line("the schema is this build's");
            }
            let list = missing.join(", ");
            Err(Failure::Check(format!("not applied: {list}; run `windlass migrate up`")))
        }
    }
}

async fn status(settings: &Settings) -> Outcome<Vec<MigrationStatus>> {
    let status = Ledger::migration_status(settings.ledger()?).await;
    Ok(status.context("cannot read the schema's state")?)
}
