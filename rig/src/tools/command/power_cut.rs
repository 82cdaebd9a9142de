//! `windlass-rig power-cut`.

use crate::tools::power_cut::{PowerCut, leftovers, missing, writer};

/// Size of the disk of `try`.
const TRY_BYTES: u64 = 256 << 20;

/// What to do with disks.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Says what this machine lacks for power cuts.
    Check,
    /// Cuts the power of a small writer, with and without fsync, and counts what is lost.
    Try,
    /// Makes a disk, prints the folder that it is mounted on, and cuts its power for each line of input: prints
    /// the folder of the copy. Removes all at the end of the input, or on SIGINT or SIGTERM.
    Hold {
        /// Size of the disk.
        #[arg(long, default_value_t = 256)]
        size_mb: u32,
    },
    /// Removes the disks of processes that were killed.
    Clean,
}

pub(super) fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Check => {
            let missing = missing();
            anyhow::ensure!(missing.is_empty(), "missing: {}", missing.join("; "));
            println!("nothing is missing");
        }
        Action::Try => {
            let mut disk = PowerCut::start(TRY_BYTES)?;
            for (with_fsync, records) in [(true, 200), (false, 2_000)] {
                let loss = writer::measure(&mut disk, with_fsync, records)?;
                let sort = if with_fsync { "with fsync" } else { "without fsync" };
                println!("{sort}: {} acknowledged, {} lost", loss.acknowledged, loss.lost);
            }
        }
        Action::Hold { size_mb } => hold(u64::from(size_mb) << 20)?,
        Action::Clean => {
            let removed = leftovers::clean(&std::env::temp_dir())?;
            println!("removed {}", removed.len());
            for folder in removed {
                println!("{}", folder.display());
            }
        }
    }
    Ok(())
}

fn hold(bytes: u64) -> anyhow::Result<()> {
    // Reading blocks, and must not hold up the end on a signal: a thread that nobody waits for.
    let (sender, mut lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    super::until_stopped(async move {
        let mut disk = PowerCut::start(bytes)?;
        println!("{}", disk.data().display());
        let mut cuts = Vec::new();
        while lines.recv().await.is_some() {
            let cut = disk.cut()?;
            println!("{}", cut.data().display());
            cuts.push(cut);
        }
        Ok(())
    })
}
