//! `windlass config`: check the settings, and show every one with its source.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use windlass_shared::config::Process;

use crate::exit::Outcome;
use crate::output::{self, Output};
use crate::setup::SettingsArgs;

const EXAMPLES: &str = "\
Examples:
  windlass config show                         every setting, its value and where it came from
  windlass config check --role worker          exit 2 and a list of what is wrong
  WINDLASS_PROFILE=production windlass config check --role api --config /etc/windlass.toml

Order: defaults, then the profile's preset, then the file, then WINDLASS_<SECTION>__<KEY>, then flags.";

/// Check the settings, and show every one with its source.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Refuse what a role would refuse; exit 2 then
    Check(Checked),
    /// Show every setting with its source; secrets are masked
    Show(Shown),
}

/// A role whose defaults and rules apply.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Dev,
    Api,
    Worker,
    Scheduler,
}

#[derive(Debug, Args)]
struct Checked {
    /// As this role would see them; without it, rules of roles don't apply
    #[arg(long, value_enum)]
    role: Option<RoleName>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
struct Shown {
    #[command(flatten)]
    checked: Checked,
    /// What to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Runs the command.
pub fn run(args: ConfigArgs) -> Outcome {
    match args.command {
        ConfigCommand::Check(args) => {
            let settings = args.settings.load(process(args.role), Vec::new())?;
            if matches!(args.role, Some(RoleName::Api | RoleName::Scheduler)) {
                settings.ledger()?;
            }
            if args.role.is_some() {
                settings.engine()?;
            }
            for note in &settings.notes {
                output::line(&format!("note: {note}"))?;
            }
            output::line("settings are fine")
        }
        ConfigCommand::Show(args) => show(args),
    }
}

fn process(role: Option<RoleName>) -> Process {
    match role {
        Some(RoleName::Dev) => Process::Dev { data_dir: PathBuf::from("./windlass-data") },
        Some(RoleName::Api) => Process::Api,
        Some(RoleName::Worker) => Process::Worker,
        Some(RoleName::Scheduler) => Process::Scheduler,
        None => Process::Tool,
    }
}

fn show(args: Shown) -> Outcome {
    let settings = args.checked.settings.load(process(args.checked.role), Vec::new())?;
    if args.output == Output::Json {
        let rows = settings.rows().iter().map(|row| {
            json!({
                "key": row.key, "value": row.value, "source": row.source.to_string(),
                "env": row.env, "meaning": row.meaning,
            })
        });
        return output::json(&rows.collect());
    }
    let rows = settings.rows().iter().map(|row| {
        let value = row.value.clone().unwrap_or_else(|| "-".into());
        vec![row.key.to_owned(), value, row.source.to_string()]
    });
    output::table(&["setting", "value", "source"], rows)
}
