//! Processes of a fleet with clocks of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::history::Fault;
use crate::runner::Scene;
use crate::target::Target;
use crate::tools::clock_shim::{ClockShim, Which};

/// Five minutes: 3B.
pub(super) const FAR_MS: i64 = 5 * 60 * 1_000;

/// From its start on, the process in this place, which gets this environment, reads clocks of its own; they are true until they are moved.
pub(crate) fn give(
    folder: &Path,
    env: &mut BTreeMap<String, String>,
    place: &str,
) -> anyhow::Result<()> {
    let shim = ClockShim::in_folder(&of(folder, place))?;
    env.extend(
        shim.variables().map(|(name, value)| (name.to_owned(), value.display().to_string())),
    );
    Ok(())
}

/// Its wall clock shows true time plus this from now on; on record.
pub(crate) fn set<T: Target>(scene: &Scene<T>, place: &str, offset_ms: i64) -> anyhow::Result<()> {
    ClockShim::in_folder(&of(scene.fleet.folder(), place))?.offset(offset_ms)?;
    scene.history.fault(Fault::ClockMoved { process: place.into(), offset_ms });
    scene.say(&format!("the wall clock of {place} is off by {offset_ms} ms"));
    Ok(())
}

/// All its clocks go so many times as fast for this long, and then at the true rate again. They do not jump; wall time
/// stays ahead by what it has gained.
pub(super) async fn run_fast(
    scene: &Scene,
    place: &str,
    rate: f64,
    length: Duration,
) -> anyhow::Result<()> {
    let shim = ClockShim::in_folder(&of(scene.fleet.folder(), place))?;
    let all = |rate| {
        let clocks = [Which::Real, Which::Mono, Which::Boot];
        clocks.into_iter().try_for_each(|which| shim.rate(which, rate))
    };
    scene.say(&format!("the clocks of {place} go {rate} times as fast"));
    all(rate)?;
    tokio::time::sleep(length).await;
    all(1.0)?;
    Ok(())
}

fn of(folder: &Path, place: &str) -> PathBuf {
    folder.join(format!("clock-{place}"))
}
