//! The disk of the data folder is full (E19).

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::future::BoxFuture;

use crate::dev::{Dev, DevOptions};
use crate::experiments::full_disk::{self, Filler};
use crate::experiments::{Experiment, Form, Setup};
use crate::figure::Figure;
use crate::fleet::Disk;
use crate::runner::{Scene, Seen};
use crate::target::Target as _;
use crate::tools::power_cut::PowerCut;

/// E19.
pub(super) struct FullDisk;

impl Experiment<Dev> for FullDisk {
    fn id(&self) -> &'static str {
        "E19"
    }

    fn title(&self) -> &'static str {
        "the disk of dev's data is full, and then has room again"
    }

    fn setup(&self, form: Form) -> Setup<DevOptions> {
        Dev::standard(form)
    }

    fn files(&self, folder: &Path, options: &mut DevOptions) -> anyhow::Result<()> {
        let parent = folder.parent().unwrap_or(folder);
        let disk = PowerCut::start_in(parent, full_disk::DISK_BYTES)?;
        options.disk = Some(Disk { power: Arc::new(Mutex::new(disk)), has_redis: false });
        Ok(())
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene<Dev>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut filler = Filler::new(scene.fleet.disk()?.lock().data())?;
            filler.top_up()?;
            scene.say(&format!("the disk is full: {} MiB are not the ledger's", filler.mib()));
            let full = Instant::now();
            while full.elapsed() < full_disk::length(scene.form) {
                // What the ledger gives back is not to help it.
                filler.top_up()?;
                tokio::time::sleep(full_disk::PACE).await;
            }
            // Before it is there: all clients that were refused come at once then.
            scene.history.mark(full_disk::ROOM);
            filler.remove()?;
            scene.say("there is room again");
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene<Dev>, seen: &Seen<'_>) -> Vec<Figure> {
        full_disk::figures(seen)
    }
}
