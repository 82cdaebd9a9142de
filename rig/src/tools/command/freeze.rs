//! `windlass-rig freeze`.

use std::time::Duration;

use crate::tools::freeze;

/// What to freeze and for how long.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The process.
    #[arg(long)]
    pid: u32,
    /// Its descendants too.
    #[arg(long)]
    tree: bool,
    /// How long, in milliseconds. SIGINT and SIGTERM end it sooner; the processes go on in any case.
    #[arg(long)]
    for_ms: u64,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    super::until_stopped(async move {
        let Arguments { pid, tree, for_ms } = arguments;
        let frozen = if tree { freeze::tree(pid)? } else { freeze::process(pid)? };
        println!("frozen: {:?}", frozen.pids());
        tokio::time::sleep(Duration::from_millis(for_ms)).await;
        Ok(())
    })
}
