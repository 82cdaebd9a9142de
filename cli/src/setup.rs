//! What commands that read settings have in common.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use windlass_shared::config::{self, Flag, Inputs, Process, Settings};
use windlass_shared::engine::{Engine, EngineError};
use windlass_shared::ledger::{Ledger, LedgerError};

use crate::exit::{Failure, Outcome};

/// Flags of every command that reads settings.
#[derive(Debug, Clone, Args)]
pub struct SettingsArgs {
    /// Settings file (TOML); environment WINDLASS_<SECTION>__<KEY> wins over it
    #[arg(long, env = "WINDLASS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl SettingsArgs {
    /// The settings of a process, flags of the command included.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names everything that is wrong.
    pub fn load(&self, process: Process, flags: Vec<Flag>) -> Outcome<Settings> {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let file = self.config.clone().filter(|path| !path.as_os_str().is_empty());
        Ok(config::load(&Inputs { process, file, env, flags })?)
    }
}

/// A flag that sets a setting, where it was given.
pub fn flag(key: &'static str, name: &'static str, value: Option<impl ToString>) -> Option<Flag> {
    value.map(|value| Flag { key, name, value: value.to_string() })
}

/// Opens the ledger of these settings.
pub async fn open_ledger(settings: &Settings) -> Outcome<Ledger> {
    let ledger = settings.ledger()?;
    Ledger::open(ledger).await.map_err(|error| match error {
        LedgerError::Unfit(why) => Failure::Usage(format!("the ledger is not fit: {why}")),
        LedgerError::Schema(why) => {
            Failure::Failed(anyhow::anyhow!("{why}; run `windlass migrate up`"))
        }
        other => Failure::Failed(anyhow::Error::new(other).context("cannot open the ledger")),
    })
}

/// Opens the engine of these settings.
pub async fn open_engine(settings: &Settings) -> Outcome<Engine> {
    let engine = settings.engine()?;
    Engine::open(engine).await.map_err(|error| match error {
        EngineError::Unfit(why) => Failure::Usage(format!("the engine is not fit: {why}")),
        other => Failure::Failed(anyhow::Error::new(other).context("cannot open the engine")),
    })
}

/// The runtime of a command.
pub fn runtime() -> Outcome<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build().context("cannot start the async runtime")?)
}
