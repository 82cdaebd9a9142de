//! Pictures from the evidence of a run (`run --keep`), as SVG.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::check::{Evidence, Index};
use crate::dump::Dump;
use crate::{effects, history};

mod circuit;
mod shares;

/// Flags of `windlass-rig plot`.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// What is drawn
    pub what: Picture,
    /// The folder that `run --keep` left
    #[arg(value_name = "FOLDER")]
    pub evidence: PathBuf,
    /// The SVG
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// What can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// Of E32: what each tenant got over time
    Shares,
    /// Of E27: calls of what is down, with its circuit and without
    Circuit,
}

/// Draws one.
///
/// # Errors
/// The evidence cannot be read or is that of another experiment, or the file cannot be written.
pub fn plot(args: &PlotArgs) -> anyhow::Result<()> {
    let evidence = read(&args.evidence)?;
    let index = Index::new(&evidence);
    let drawn = match args.what {
        Picture::Shares => shares::draw(&evidence, &index.executions),
        Picture::Circuit => circuit::draw(&evidence, &index.executions),
    };
    let text = drawn.context("the evidence is that of another experiment, or not whole")?;
    std::fs::write(&args.out, text).with_context(|| args.out.display().to_string())
}

fn read(folder: &Path) -> anyhow::Result<Evidence> {
    Ok(Evidence {
        history: history::read(&folder.join("history.jsonl"))?,
        effects: effects::read(&folder.join("effects.jsonl"))?,
        ledger: Dump::read(&folder.join("ledger.json"))?,
    })
}
