//! Power cuts of the disk with the ledger (PC).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use uuid::Uuid;

use super::lock::FILE;
use crate::dev::{Dev, DevOptions};
use crate::experiments::power::copies::{self, Held};
use crate::experiments::power::{self, DISK_BYTES};
use crate::experiments::{Experiment, Form, Setup};
use crate::figure::{Figure, count};
use crate::fleet::Disk;
use crate::fleet::process::Process;
use crate::history::Recorder;
use crate::runner::{Scene, Seen};
use crate::target::Target as _;

/// Outcomes are on record within this time under this load; measured: 0.2 s.
const RECORDED_S: f64 = 0.5;

/// PC.
pub(super) struct PowerCut;

impl Experiment<Dev> for PowerCut {
    fn id(&self) -> &'static str {
        "PC"
    }

    fn title(&self) -> &'static str {
        "power cuts of the machine that dev runs on, under a load of submissions"
    }

    fn setup(&self, form: Form) -> Setup<DevOptions> {
        let mut setup = Dev::standard(form);
        power::load(&mut setup.mix, form);
        setup.fleet.slots = form.pick(64, 256);
        (setup.warm, setup.after) =
            (Duration::from_secs(form.pick(4, 10)), Duration::from_secs(form.pick(7, 20)));
        setup
    }

    fn files(&self, folder: &Path, options: &mut DevOptions) -> anyhow::Result<()> {
        let parent = folder.parent().unwrap_or(folder);
        let disk = crate::tools::power_cut::PowerCut::start_in(parent, DISK_BYTES)?;
        options.disk = Some(Disk { power: Arc::new(Mutex::new(disk)), has_redis: false });
        Ok(())
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene<Dev>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(power::cut(scene, |scene| Box::pin(go_on(scene))))
    }

    fn after_drain<'a>(&'a self, scene: &'a mut Scene<Dev>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(copies::look_at_all(scene, |data, _| Box::pin(held(data))))
    }

    fn figures(&self, scene: &Scene<Dev>, seen: &Seen<'_>) -> Vec<Figure> {
        let mut figures = power::rates(seen);
        // Everything ends with the machine: what ran then runs again, and so does what had just ended and was not on
        // record.
        let of_one = count(scene.fleet.slots()) + self.setup(scene.form).mix.rate * RECORDED_S;
        let most = scene.form.pick(1.0, 4.0) * of_one;
        figures.push(Figure::at_most("extra", seen.verdict.extra_total() as f64, "", most));
        figures
    }
}

/// The machine loses its power, and starts again on what had reached the disk.
async fn go_on(scene: &mut Scene<Dev>) -> anyhow::Result<()> {
    let disk = scene.fleet.disk()?;
    // It stands still while the copy is made: nothing is acknowledged that is not on it, or was not before.
    scene.fleet.process().freeze()?;
    let history: &Recorder = &scene.history;
    let cut = |process: &mut Process| {
        disk.lock().fall_back(|| process.kill_9())?;
        Ok(())
    };
    scene.fleet.killed_by(cut, history).await?;
    scene.fleet.start_again(&scene.history).await?;
    scene.say(&format!("the power was cut; {} is ready", scene.fleet.worker()));
    Ok(())
}

/// Jobs and runs that a copy holds.
async fn held(data: &Path) -> anyhow::Result<Held> {
    let file = data.join("dev").join(FILE);
    let mut ledger = SqliteConnectOptions::new().filename(file).connect().await?;
    let select = "SELECT id FROM jobs UNION ALL SELECT id FROM workflows";
    let ids: Vec<Uuid> = sqlx::query_scalar(select).fetch_all(&mut ledger).await?;
    ledger.close().await?;
    let ids: BTreeSet<String> = ids.iter().map(Uuid::to_string).collect();
    Ok(Held { ids, was_cut_back: false })
}
