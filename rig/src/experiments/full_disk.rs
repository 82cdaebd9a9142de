//! The ledger's disk is full (E19).

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::{Experiment, Form, Setup, measure};
use crate::figure::{Figure, count};
use crate::fleet::{Disk, FleetOptions};
use crate::history::{Call, Fault, Phase};
use crate::runner::{Scene, Seen};
use crate::stamp::Stamp;
use crate::tools::power_cut::PowerCut;

const NAME: &str = "postgres";
/// The mark of the instant from which on there is room again.
pub(crate) const ROOM: &str = "room";
/// For the ledger of the whole run; what it leaves is filled.
pub(crate) const DISK_BYTES: u64 = 256 << 20;
/// Between two looks of the one who fills the disk, and of the one who keeps PostgreSQL running.
pub(crate) const PACE: Duration = Duration::from_millis(200);
/// Longest wait for a submission that is accepted again.
const RESUMED_MAX: Duration = Duration::from_secs(60);

/// E19.
pub(super) struct FullDisk;

impl Experiment for FullDisk {
    fn id(&self) -> &'static str {
        "E19"
    }

    fn title(&self) -> &'static str {
        "the ledger's disk is full, and then has room again"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        // Small segments, so that the write-ahead log too needs room while there is none.
        setup.fleet.initdb = vec!["--wal-segsize=1".into()];
        setup.fleet.postgres =
            ["min_wal_size=2MB", "max_wal_size=32MB"].map(str::to_owned).to_vec();
        setup
    }

    fn files(&self, folder: &Path, options: &mut FleetOptions) -> anyhow::Result<()> {
        let disk = PowerCut::start_in(folder.parent().unwrap_or(folder), DISK_BYTES)?;
        options.disk = Some(Disk { power: Arc::new(Mutex::new(disk)), has_redis: false });
        Ok(())
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let length = length(scene.form);
            let mut filler = Filler::new(scene.fleet.disk()?.lock().data())?;
            filler.top_up()?;
            scene.say(&format!("the disk is full: {} MiB are not the ledger's", filler.mib()));
            let full = Instant::now();
            let mut starts = 0;
            while full.elapsed() < length {
                // What PostgreSQL gives back is not to help it.
                filler.top_up()?;
                starts += usize::from(keep_running(scene)?);
                tokio::time::sleep(PACE).await;
            }
            // Before it is there: all clients that were refused come at once then.
            let room = scene.history.mark(ROOM);
            filler.remove()?;
            scene.say("there is room again");
            starts += resumed(scene).await?;
            let resumed = Stamp::now().seconds_since(room);
            scene.figures.extend([
                Figure::told("PostgreSQL started again by its keeper", count(starts), ""),
                // As after any restart: promise I28.
                Figure::at_most("PostgreSQL writes again after", resumed, "s", 30.0),
            ]);
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        figures(seen)
    }
}

/// How long there is no room.
pub(crate) fn length(form: Form) -> Duration {
    Duration::from_secs(form.pick(8, 30))
}

/// What went on while there was no room, and after that.
pub(crate) fn figures(seen: &Seen<'_>) -> Vec<Figure> {
    let Some(room) = measure::mark(seen, ROOM) else { return Vec::new() };
    let meanwhile = |at: Stamp| seen.fault < at && at < room;
    let (mut taken, mut refused, mut other) = (0, 0, 0);
    for event in &seen.evidence.history {
        if !matches!(event.call, Call::Submit { .. }) || !meanwhile(event.at) {
            continue;
        }
        match (event.phase, event.reply.as_ref().map(|reply| reply.status)) {
            (Phase::Ok, _) => taken += 1,
            (_, Some(503)) => refused += 1,
            (_, Some(_)) => other += 1,
            (_, None) => {}
        }
    }
    let done = seen.index.executions.iter().filter_map(|execution| execution.end);
    let done = done.filter(|(at, _)| meanwhile(*at)).count();
    let answers = seen.evidence.history.iter();
    let first = answers.filter(|event| {
        matches!(event.call, Call::Submit { .. }) && event.phase == Phase::Ok && event.at > room
    });
    let first = first.map(|event| event.at.seconds_since(room)).next();
    vec![
        Figure::at_least("answered 503", count(refused), "", 1.0),
        Figure::at_most("answered otherwise, or not at all", count(other), "", 0.0),
        Figure::told("accepted while it was full", count(taken), ""),
        Figure::at_least("jobs done meanwhile", count(done), "", 1.0),
        Figure::at_most("accepted again after", first, "s", 30.0),
        Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
    ]
}

/// What `Restart=on-failure` of systemd does: PostgreSQL stops by itself where it cannot even recover without room.
/// Whether it had to be started.
fn keep_running(scene: &mut Scene) -> anyhow::Result<bool> {
    let process = scene.fleet.postgres.process();
    let Some(status) = process.exited() else { return Ok(false) };
    process.restart()?;
    scene.history.fault(Fault::Started { process: NAME.into() });
    scene.say(&format!("PostgreSQL had ended ({status}) and is started again"));
    Ok(true)
}

/// Waits until the ledger takes writes, and keeps PostgreSQL running meanwhile; how often it had to be started.
async fn resumed(scene: &mut Scene) -> anyhow::Result<usize> {
    let deadline = Instant::now() + RESUMED_MAX;
    let mut starts = 0;
    loop {
        starts += usize::from(keep_running(scene)?);
        let write = "CREATE TABLE IF NOT EXISTS rig_room (n int); INSERT INTO rig_room VALUES (1)";
        let Err(error) = scene.fleet.postgres.sql(write) else { return Ok(starts) };
        anyhow::ensure!(Instant::now() < deadline, "not within {RESUMED_MAX:?}: {error:#}");
        tokio::time::sleep(PACE).await;
    }
}

/// A foreign file that takes all room there is.
#[derive(Debug)]
pub(crate) struct Filler {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Filler {
    /// In this folder, empty at first.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("foreign");
        Ok(Self { file: File::create_new(&path)?, path, bytes: 0 })
    }

    /// Grows until not even a block is left.
    pub(crate) fn top_up(&mut self) -> anyhow::Result<()> {
        let zeros = vec![0_u8; 1 << 20];
        let mut part = zeros.len();
        // Ends: every write takes room, or halves what is asked for.
        while part >= 512 {
            match self.file.write(&zeros[..part]) {
                Ok(written) => self.bytes += u64::try_from(written)?,
                Err(error) if error.kind() == ErrorKind::StorageFull => part /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        // What the file system has only promised so far is taken now.
        match self.file.sync_all() {
            Err(error) if error.kind() != ErrorKind::StorageFull => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Its size.
    pub(crate) fn mib(&self) -> u64 {
        self.bytes >> 20
    }

    /// Gives the room back.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        drop(self.file);
        Ok(std::fs::remove_file(self.path)?)
    }
}
