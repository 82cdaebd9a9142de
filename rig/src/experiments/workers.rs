//! Workers that are killed: E1 and E2.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Experiment, measure};
use crate::check::Cause;
use crate::effects;
use crate::figure::Figure;
use crate::history::Fault;
use crate::runner::{Scene, Seen};
use crate::until::until;

/// Between a worker's restart and the next kill: it has work again.
const BETWEEN: Duration = Duration::from_millis(1_000);
const BUSY_MAX: Duration = Duration::from_secs(20);

/// E1.
pub(super) struct KillOne;

impl Experiment for KillOne {
    fn id(&self) -> &'static str {
        "E1"
    }

    fn title(&self) -> &'static str {
        "kill -9 of one busy worker, again and again"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            for n in 0..scene.form.pick(3, 10) {
                if n > 0 {
                    tokio::time::sleep(BETWEEN).await;
                }
                let victim = busiest(scene).await?;
                kill(scene, victim);
                let name = scene.fleet.replace_worker(victim)?;
                scene.history.fault(Fault::Started { process: name });
            }
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let kills = scene.form.pick(3, 10) * scene.fleet.slots_each();
        let mut figures = measure::reruns(seen);
        let extra = seen.verdict.extra_total() as f64;
        figures.push(Figure::at_most("extra of all kills", extra, "", kills as f64));
        figures.push(Figure::told("of killed workers", measure::extra(seen, Cause::Killed), ""));
        figures
    }
}

/// E2.
pub(super) struct KillAll;

impl Experiment for KillAll {
    fn id(&self) -> &'static str {
        "E2"
    }

    fn title(&self) -> &'static str {
        "kill -9 of all workers at once, then restart"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            busiest(scene).await?;
            for victim in 0..scene.fleet.workers.len() {
                kill(scene, victim);
            }
            for victim in 0..scene.fleet.workers.len() {
                let name = scene.fleet.replace_worker(victim)?;
                scene.history.fault(Fault::Started { process: name });
            }
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let mut figures = measure::reruns(seen);
        let (extra, slots) = (seen.verdict.extra_total() as f64, scene.fleet.slots() as f64);
        figures.push(Figure::at_most("extra", extra, "", slots));
        figures
    }
}

/// SIGKILL, on record.
pub(super) fn kill(scene: &mut Scene, victim: usize) {
    let process = scene.fleet.workers[victim].name().to_owned();
    scene.fleet.workers[victim].kill_9();
    // After it is gone: nothing that it did is later than this.
    scene.history.fault(Fault::Killed { process: process.clone() });
    scene.say(&format!("killed {process}"));
}

/// The worker with the most executions under way, once one has half of its slots busy or as many as there will be.
pub(super) async fn busiest(scene: &Scene) -> anyhow::Result<usize> {
    let names: Vec<&str> = scene.fleet.workers.iter().map(|worker| worker.name()).collect();
    let enough = scene.fleet.slots_each() / 2;
    let busy = until(BUSY_MAX, || async {
        let running = effects::running(&scene.fleet.effects(), &names).ok()?;
        let (place, most) = running.into_iter().enumerate().max_by_key(|(_, running)| *running)?;
        (most >= enough).then_some(place)
    });
    match busy.await {
        Ok(place) => Ok(place),
        // The load does not keep it that busy: then whoever is busiest now.
        Err(_) => {
            let running = effects::running(&scene.fleet.effects(), &names)?;
            let busiest = running.into_iter().enumerate().max_by_key(|(_, running)| *running);
            Ok(busiest.map_or(0, |(place, _)| place))
        }
    }
}
