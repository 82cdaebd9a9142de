//! `windlass-rig clock`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;

use crate::tools::clock_shim::{ClockShim, Which};

/// What to do with clocks.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Runs a program that reads the clocks of a folder.
    Run {
        /// The folder; made with true clocks if it is missing.
        #[arg(long)]
        folder: PathBuf,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        program: Vec<String>,
    },
    /// Moves the clocks of a folder, for all programs that read them.
    Set {
        /// The folder.
        #[arg(long)]
        folder: PathBuf,
        #[command(flatten)]
        change: Change,
        /// The clock of `--rate`.
        #[arg(long, value_enum, default_value = "real")]
        clock: Which,
    },
    /// Prints the clocks that this program reads, before and after waits: `WALL_MS MONO_MS`.
    Show {
        /// How long each of two waits is, by the monotonic clock.
        #[arg(long, default_value_t = 0)]
        wait_ms: u64,
    },
}

/// One change.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Change {
    /// Wall time is true time plus this.
    #[arg(long, allow_negative_numbers = true)]
    offset_ms: Option<i64>,
    /// Wall time jumps by this.
    #[arg(long, allow_negative_numbers = true)]
    step_ms: Option<i64>,
    /// A clock goes so many times as fast.
    #[arg(long)]
    rate: Option<f64>,
}

pub(super) fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Run { folder, program } => {
            let (name, arguments) = program.split_first().context("a program is required")?;
            let mut command = Command::new(name);
            ClockShim::in_folder(&folder)?.apply(command.args(arguments));
            Err(command.exec()).with_context(|| format!("{name} does not start"))
        }
        Action::Set { folder, change, clock } => {
            let shim = ClockShim::in_folder(&folder)?;
            match (change.offset_ms, change.step_ms, change.rate) {
                (Some(ms), _, _) => shim.offset(ms)?,
                (_, Some(ms), _) => shim.step(ms)?,
                (_, _, Some(rate)) => shim.rate(clock, rate)?,
                (None, None, None) => anyhow::bail!("nothing to change"),
            }
            Ok(())
        }
        Action::Show { wait_ms } => show(Duration::from_millis(wait_ms)),
    }
}

fn show(wait: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let print = || -> anyhow::Result<()> {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        println!("{} {}", wall.as_millis(), started.elapsed().as_millis());
        Ok(())
    };
    print()?;
    if !wait.is_zero() {
        // The two ways in which our processes wait: on the runtime's timer, and on a condition.
        super::until_stopped(async move {
            tokio::time::sleep(wait).await;
            Ok(())
        })?;
        let never = Mutex::new(());
        let guard = never.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = Condvar::new().wait_timeout_while(guard, wait, |()| true);
        drop(waited.map_err(|_| anyhow::anyhow!("nobody panics with this lock"))?);
        print()?;
    }
    Ok(())
}
