//! A replica that was cut off and is made the primary after that one died: E10.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::engine::{WAITING, fill_with, release, with_waiting};
use super::{Experiment, Form, Setup, gaps};
use crate::check::Kind;
use crate::figure::{Figure, count};
use crate::fleet::topology::Topology;
use crate::history::Fault;
use crate::runner::{Scene, Seen};

/// How long the replica is cut off before the primary dies.
const APART: Duration = Duration::from_secs(5);
/// How long the queue stays paused at the new primary: it is busy again, and would have started jobs by then.
const STILL_PAUSED: Duration = Duration::from_secs(3);
/// A job of the queue that is paused takes this long: so long that few of them are done before the pause.
const WAITING_MS: u64 = 150;
const PATIENCE: Duration = Duration::from_secs(60);

/// E10.
pub(super) struct Promote;

impl Experiment for Promote {
    fn id(&self) -> &'static str {
        "E10"
    }

    fn title(&self) -> &'static str {
        "a replica cut off for 5 s, kill -9 of the primary, the replica promoted"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = with_waiting(form);
        setup.fleet.topology = Topology::Replica;
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            backlog(scene).await?;
            part(scene).await?;
            let promoted = promote(scene)?;
            let workers: Vec<String> =
                scene.fleet.workers.iter().map(|worker| worker.name().to_owned()).collect();
            gaps::all_claim(scene, promoted, &workers, |effect| &effect.worker).await;
            scene.say("all workers claim again");
            tokio::time::sleep(STILL_PAUSED).await;
            release(scene).await?;
            // As its operator would: it follows now.
            let primary = scene.fleet.beside.replica()?.server.port();
            scene.fleet.redis.restart_following(primary).await
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let promoted = gaps::faults(seen, |fault| matches!(fault, Fault::EngineLost { .. }));
        let first = promoted.first();
        let first = first.and_then(|at| gaps::to_first_claim(seen.index, *at, None, |_| true));
        let paused = seen.verdict.counts().get(&Kind::StartedWhilePaused).copied();
        vec![
            Figure::at_most("first lease after", first, "s", 10.0),
            Figure::at_most("starts while paused", paused.unwrap_or(0) as f64, "", 0.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

/// Jobs that wait in a queue which the replica knows, and knows as not paused: it is resumed for a moment.
async fn backlog(scene: &Scene) -> anyhow::Result<()> {
    fill_with(scene, scene.form.pick(300, 2_000), WAITING_MS).await?;
    release(scene).await?;
    scene.fleet.beside.replica()?.in_step(&scene.fleet.redis).await
}

/// Cuts the replica off, pauses the queue, and lets the primary go on.
async fn part(scene: &mut Scene) -> anyhow::Result<()> {
    let replica = scene.fleet.beside.replica()?;
    replica.part().await?;
    let parted = Instant::now();
    scene.say("the replica is cut off");
    let paused = scene.client.set_paused(WAITING, true, PATIENCE).await;
    anyhow::ensure!(paused.applied == Some(true), "{WAITING} is not paused: {paused:?}");
    tokio::time::sleep_until(parted + APART).await;
    // Without these nothing would be tried: the replica would be as good as the primary, or have nothing to start.
    let lacks = replica.lacks_bytes(&scene.fleet.redis)?;
    let ready = format!("w:{{default/{WAITING}/0}}:ready");
    let ready = replica.server.command(&["ZCARD", &ready])?.text();
    let ready: f64 = ready.parse().context("a count")?;
    let figures = [
        Figure::at_least("lost with the primary", lacks as f64, "bytes", 1.0),
        Figure::at_least("jobs that the pause holds back", ready, "", count(1)),
    ];
    scene.figures.extend(figures);
    Ok(())
}

/// Kills the primary and puts the replica into its place; when.
fn promote(scene: &mut Scene) -> anyhow::Result<crate::stamp::Stamp> {
    scene.fleet.redis.process().kill_9();
    scene.history.fault(Fault::CutOff { process: "*".into() });
    scene.fleet.beside.replica()?.promote()?;
    let how = "the replica was promoted".into();
    scene.say("the primary is dead, and the replica promoted");
    Ok(scene.history.fault(Fault::EngineLost { how }))
}
