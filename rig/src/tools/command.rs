//! The tools' subcommands.

use clap::Subcommand;

mod clock;
mod freeze;
mod power_cut;
mod proxy;

/// A fault tool on the command line.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Runs a TCP proxy that delays, cuts, freezes, swallows, and loses what passes it.
    Proxy(proxy::Arguments),
    /// Stops a process for some time, and continues it.
    Freeze(freeze::Arguments),
    /// Moves the clocks that programs read.
    #[command(subcommand)]
    Clock(clock::Action),
    /// Cuts the power of a disk.
    #[command(subcommand)]
    PowerCut(power_cut::Action),
}

impl Tool {
    /// Runs the tool until it is done, or until SIGINT or SIGTERM.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Proxy(arguments) => proxy::run(arguments),
            Self::Freeze(arguments) => freeze::run(arguments),
            Self::Clock(action) => clock::run(action),
            Self::PowerCut(action) => power_cut::run(action),
        }
    }
}

/// Runs `work` on a runtime of its own, until it ends or SIGINT or SIGTERM comes.
fn until_stopped(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = work => ended,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    })
}
