//! `windlass system notify-test`: tries out who is notified.

use clap::Args;
use serde_json::{Value, json};
use windlass_shared::config::Process;

use crate::exit::{Failure, Outcome};
use crate::output::{self, Output};
use crate::setup::SettingsArgs;

/// Its flags.
#[derive(Debug, Args)]
pub struct NotifyTest {
    /// What to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the command.
pub async fn run(args: NotifyTest) -> Outcome {
    let settings = args.settings.load(Process::Tool, Vec::new())?;
    let receivers = &settings.overwatch.receivers;
    if receivers.is_empty() {
        return Err(Failure::Usage(
            "the settings have no [[overwatch.notify]]; name their file with --config".into(),
        ));
    }
    let results = windlass_scheduler::overwatch::notify::try_all(receivers).await;
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    let said = results.iter().map(|(name, result)| match result {
        Ok(()) => (name, "sent".to_owned()),
        Err(why) => (name, why.clone()),
    });
    match args.output {
        Output::Json => {
            let items: Vec<Value> =
                said.map(|(name, said)| json!({"receiver": name, "result": said})).collect();
            output::json(&json!({ "items": items }))?;
        }
        Output::Table => {
            output::table(
                &["receiver", "result"],
                said.map(|(name, said)| vec![name.clone(), said]),
            )?;
        }
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::Check(format!("{n} of {} receivers were not reached", results.len()))),
    }
}
