//! Redis that is killed (E4) or wiped (E5, E6).

use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::workers::{busiest, kill};
use super::{Experiment, Form, Setup, measure};
use crate::check::Cause;
use crate::dump;
use crate::figure::{Figure, count};
use crate::history::{Call, Fault};
use crate::load::plan::{Submission, job};
use crate::load::preload::preload;
use crate::runner::{Scene, Seen};
use crate::until::{until, until_seldom};
use crate::worker::{EFFECT, Work};

/// How long Redis is away in E4.
const AWAY: Duration = Duration::from_secs(2);
/// Longest wait for a queue to be filled or done.
const FILLED_MAX: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);
/// Most jobs of a shard that wait in the engine; the rest waits in the ledger.
const HEAD: u64 = 50_000;

/// A queue that is paused until the experiment says otherwise, with jobs that wait in it.
pub(super) const WAITING: &str = "rig-wait";

/// E4.
pub(super) struct KillRedis;

impl Experiment for KillRedis {
    fn id(&self) -> &'static str {
        "E4"
    }

    fn title(&self) -> &'static str {
        "kill -9 of Redis (AOF everysec), started again after 2 s"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            scene.history.fault(Fault::CutOff { process: "*".into() });
            scene.fleet.redis.process().kill_9();
            tokio::time::sleep(AWAY).await;
            scene.fleet.redis.restart().await?;
            scene.history.fault(Fault::Started { process: "redis".into() });
            // Until leases are given out again: that is when it is healed.
            let seen = crate::effects::read(&scene.fleet.effects())?.len();
            let first = until(FILLED_MAX, || async {
                let effects = crate::effects::read(&scene.fleet.effects()).ok()?;
                (effects.len() > seen).then_some(())
            });
            first.await
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let up = seen.evidence.history.iter().find_map(|event| match &event.call {
            Call::Fault(Fault::Started { .. }) => Some(event.at),
            _ => None,
        });
        let first = up.and_then(|up| measure::first_leases(seen, up));
        vec![
            Figure::at_most("first lease after", first, "s", 10.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

/// E5.
pub(super) struct Wipe;

impl Experiment for Wipe {
    fn id(&self) -> &'static str {
        "E5"
    }

    fn title(&self) -> &'static str {
        "FLUSHALL under load, with many jobs waiting"
    }

    fn setup(&self, form: Form) -> Setup {
        with_waiting(form)
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let jobs = scene.form.pick(2_000, 100_000);
            let waiting = fill(scene, jobs).await?;
            let wiped = Instant::now();
            scene.fleet.redis.command(&["FLUSHALL"])?;
            scene.history.fault(Fault::EngineLost { how: "FLUSHALL".into() });
            scene.say("wiped");
            let rebuilt = filled(scene, waiting).await.ok().map(|()| wiped.elapsed().as_secs_f64());
            scene.figures.push(Figure::at_most("rebuilt after", rebuilt, "s", 30.0));
            release(scene).await
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let wiped = seen.evidence.history.iter().find_map(|event| match &event.call {
            Call::Fault(Fault::EngineLost { .. }) => Some(event.at),
            _ => None,
        });
        let first = wiped.and_then(|wiped| measure::first_leases(seen, wiped));
        // All workers live: nothing that was run need run again.
        vec![
            Figure::at_most("first lease after", first, "s", 10.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

/// E6.
pub(super) struct WipeAndKill;

impl Experiment for WipeAndKill {
    fn id(&self) -> &'static str {
        "E6"
    }

    fn title(&self) -> &'static str {
        "FLUSHALL, and kill -9 of half of the workers within a second"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            busiest(scene).await?;
            scene.fleet.redis.command(&["FLUSHALL"])?;
            scene.history.fault(Fault::EngineLost { how: "FLUSHALL".into() });
            let victims = scene.fleet.workers.len() / 2;
            for victim in 0..victims {
                kill(scene, victim);
            }
            for victim in 0..victims {
                let process = scene.fleet.replace_worker(victim)?;
                scene.history.fault(Fault::Started { process });
            }
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let running = measure::cut_short(seen.index).count();
        let killed = measure::extra(seen, Cause::Killed);
        let slots = scene.fleet.slots_each() * (scene.fleet.workers.len() / 2);
        vec![
            Figure::told("running on killed workers", count(running), ""),
            // Those that ran, and those whose outcomes were not recorded: at most their slots of each.
            Figure::at_most("extra of killed workers", killed, "", 2.0 * slots as f64),
            Figure::at_most("extra of others", seen.verdict.extra_total() as f64 - killed, "", 0.0),
        ]
    }
}

/// The standard, and a queue for jobs that wait.
pub(super) fn with_waiting(form: Form) -> Setup {
    let mut setup = Setup::standard(form);
    setup.fleet.queues.push(WAITING.into());
    setup
}

/// Pauses the queue and fills it; how many wait in the engine then.
pub(super) async fn fill(scene: &Scene, jobs: usize) -> anyhow::Result<u64> {
    fill_with(scene, jobs, 1).await
}

/// As [`fill`], with jobs that take so many milliseconds.
pub(super) async fn fill_with(scene: &Scene, jobs: usize, ms: u64) -> anyhow::Result<u64> {
    // A queue exists from its first job on.
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let one = |n: usize| -> Submission {
        job(format!("wait-{mark}-{n}"), WAITING, EFFECT, &Work { ms, ..Work::default() }, 0)
    };
    preload(&scene.client, &[one(0)]).await?;
    let paused = scene.client.set_paused(WAITING, true, PATIENCE).await;
    anyhow::ensure!(paused.applied == Some(true), "{WAITING} is not paused: {paused:?}");
    let rest: Vec<Submission> = (1..=jobs).map(one).collect();
    preload(&scene.client, &rest).await?;
    let waiting = u64::try_from(jobs)?.min(HEAD);
    filled(scene, waiting).await?;
    scene.say(&format!("{jobs} jobs wait in {WAITING}"));
    Ok(waiting)
}

/// Waits until so many jobs wait in the engine.
pub(super) async fn filled(scene: &Scene, waiting: u64) -> anyhow::Result<()> {
    until_seldom(FILLED_MAX, || async {
        let depths = dump::depths(&scene.client).await.ok()?;
        (depths.get(WAITING)?.ready >= waiting).then_some(())
    })
    .await
}

/// Resumes the queue.
pub(super) async fn release(scene: &Scene) -> anyhow::Result<()> {
    let resumed = scene.client.set_paused(WAITING, false, PATIENCE).await;
    anyhow::ensure!(resumed.status == 200, "{WAITING} is not resumed: {resumed:?}");
    Ok(())
}
