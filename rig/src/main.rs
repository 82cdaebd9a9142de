//! `windlass-rig`: runs fault experiments against a private fleet.

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "windlass-rig", version, about = "Fault experiments against a private fleet")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names the experiments.
    List,
    #[command(flatten)]
    Tool(windlass_rig::tools::command::Tool),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::List => Ok(()),
        Command::Tool(tool) => tool.run(),
    }
}
