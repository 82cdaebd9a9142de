//! Power cuts of Redis and the ledger at once (PC).

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng as _;

use super::{Experiment, Form, Setup};
use crate::figure::{Figure, count};
use crate::fleet::{Disk, FleetOptions};
use crate::history::{Call, Fault, Phase};
use crate::load::plan::Mix;
use crate::runner::{Scene, Seen};
use crate::stamp::Stamp;
use crate::target::Target;
use crate::tools::power_cut::{AfterCut, PowerCut};
use crate::until::until;

pub(crate) mod copies;

/// Only what is written takes room.
pub(crate) const DISK_BYTES: u64 = 4 << 30;
/// Of so many cuts the fleet goes on from one, and from the last one.
const REAL_EVERY: usize = 5;

/// Longest wait for a lease after a cut.
const LEASED_MAX: Duration = Duration::from_secs(60);

/// What one cut has left, to be looked at when the fleet has come to rest.
#[derive(Debug)]
pub(crate) struct Cut {
    /// What was acknowledged before this must be there.
    at: Stamp,
    /// The disk.
    left: AfterCut,
}

/// PC.
pub(super) struct PowerCutOfBoth;

impl Experiment for PowerCutOfBoth {
    fn id(&self) -> &'static str {
        "PC"
    }

    fn title(&self) -> &'static str {
        "power cuts of Redis and PostgreSQL at once, under a load of submissions"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        load(&mut setup.mix, form);
        setup.fleet.slots = form.pick(32, 64);
        // The copies share what has not been written again.
        setup.fleet.postgres = vec!["max_wal_size=256MB".into()];
        (setup.warm, setup.after) =
            (Duration::from_secs(form.pick(4, 10)), Duration::from_secs(form.pick(7, 20)));
        setup
    }

    fn files(&self, folder: &Path, options: &mut FleetOptions) -> anyhow::Result<()> {
        let disk = PowerCut::start_in(folder.parent().unwrap_or(folder), DISK_BYTES)?;
        options.disk = Some(Disk { power: Arc::new(Mutex::new(disk)), has_redis: true });
        Ok(())
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(cut(scene, |scene| Box::pin(go_on(scene))))
    }

    fn after_drain<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(copies::look_at_all(scene, |data, logs| Box::pin(copies::held(data, logs))))
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let mut figures = rates(seen);
        figures.push(Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0));
        figures
    }
}

/// Submissions a second, of which a diamond is one with six jobs. Nothing takes long, so that workers keep up.
pub(crate) fn load(mix: &mut Mix, form: Form) {
    let of_one = mix.submissions() / mix.rate;
    mix.rate = form.pick(200.0, 1_000.0) / of_one;
    mix.long = 0.0;
}

/// Cuts the power at random moments. `go_on` does so for real, and starts everything again on what that has left.
pub(crate) async fn cut<T: Target>(
    scene: &mut Scene<T>,
    go_on: for<'a> fn(&'a mut Scene<T>) -> BoxFuture<'a, anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let moments = scene.form.pick(3, 20);
    let mut gone_on = 0;
    for moment in 1..=moments {
        let gap_ms = scene.rng.random_range(300..1_500);
        tokio::time::sleep(Duration::from_millis(gap_ms)).await;
        if moment == moments || moment % REAL_EVERY == 0 {
            go_on(scene).await?;
            gone_on += 1;
            continue;
        }
        let at = scene.history.mark("cut");
        let left = scene.fleet.disk()?.lock().cut()?;
        scene.say(&format!("cut {moment}: copied in {:?}", left.copied_in()));
        scene.cuts.push(Cut { at, left });
    }
    leased_again(scene).await?;
    scene.figures.extend([
        Figure::at_least("cuts", count(moments), "", scene.form.pick(3.0, 20.0)),
        Figure::at_least("of which it went on from", count(gone_on), "", 1.0),
    ]);
    Ok(())
}

/// Submissions between the first cut and the last, and those that were accepted.
pub(crate) fn rates(seen: &Seen<'_>) -> Vec<Figure> {
    let load = seen.evidence.history.iter().filter(|event| {
        matches!(event.call, Call::Submit { .. }) && seen.fault < event.at && event.at < seen.heal
    });
    let (mut sent, mut accepted) = (std::collections::BTreeSet::new(), 0);
    for event in load {
        if let Call::Submit { key, .. } = &event.call {
            sent.insert(key.as_str());
        }
        accepted += usize::from(event.phase == Phase::Ok);
    }
    let seconds = seen.heal.seconds_since(seen.fault);
    vec![
        Figure::told("submissions/s", count(sent.len()) / seconds, ""),
        Figure::told("accepted/s meanwhile", count(accepted) / seconds, ""),
    ]
}

/// Waits until leases are given out again: that is when it is healed.
async fn leased_again<T: Target>(scene: &Scene<T>) -> anyhow::Result<()> {
    let path = scene.fleet.effects();
    let whole = std::fs::metadata(&path)?.len();
    until(LEASED_MAX, || async {
        let mut file = File::open(&path).ok()?;
        file.seek(SeekFrom::Start(whole)).ok()?;
        let mut new = String::new();
        file.read_to_string(&mut new).ok()?;
        new.contains(r#""phase":"start""#).then_some(())
    })
    .await
}

/// Both servers lose their power at once, and are started again on what had reached the disk; the rest of the fleet goes
/// on.
async fn go_on(scene: &mut Scene) -> anyhow::Result<()> {
    let disk = scene.fleet.disk()?;
    let fleet = &mut scene.fleet;
    // They stand still while the copy is made: nothing is acknowledged that is not on it, or was not before.
    fleet.redis.process().freeze()?;
    fleet.postgres.process().freeze_tree()?;
    let off = || {
        fleet.redis.process().kill_9();
        fleet.postgres.process().kill_9_tree();
    };
    let copied_in = disk.lock().fall_back(off)?;
    scene.history.fault(Fault::EngineLost { how: "power cut".into() });
    scene.say(&format!("the power of both was cut: copied in {copied_in:?}"));
    let off_since = Stamp::now();
    let (redis, postgres) = (&mut scene.fleet.redis, &mut scene.fleet.postgres);
    tokio::try_join!(redis.restart(), postgres.restart())?;
    let took = Stamp::now().seconds_since(off_since);
    scene.say(&format!("both are back after {took:.1} s"));
    Ok(())
}
