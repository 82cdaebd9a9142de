//! Primaries that Sentinels replace, again and again: E11.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;

use super::gaps::{self, GAP_MAX_S};
use super::{Experiment, Form, Setup};
use crate::figure::{Figure, count};
use crate::fleet::redis::Redis;
use crate::fleet::topology::Topology;
use crate::history::Fault;
use crate::runner::{Scene, Seen};
use crate::until::{until, until_seldom};

/// Longest wait for the Sentinels to agree on another primary.
const PROMOTED_MAX: Duration = Duration::from_secs(60);
/// Longest wait for all listeners. Who does not listen by then shows in the figure.
const LISTEN_MAX: Duration = Duration::from_secs(45);

/// How a primary goes: with all its connections, or silently, so that nobody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Kill,
    Freeze,
}

/// E11.
pub(super) struct FailOver;

impl Experiment for FailOver {
    fn id(&self) -> &'static str {
        "E11"
    }

    fn title(&self) -> &'static str {
        "the primary killed and stopped in turn, replaced by three Sentinels"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.topology = Topology::Sentinel;
        // What waited during the last failover is worked off first, while leases are given out slowly.
        setup.after = setup.after.max(Duration::from_secs(8));
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut listening = Vec::new();
            for n in 0..failovers(scene.form) {
                let how = if n % 2 == 0 { How::Kill } else { How::Freeze };
                listening.push(fail_over(scene, how).await?);
            }
            let listening: Option<Vec<f64>> = listening.into_iter().collect();
            let longest = listening.and_then(|all| all.into_iter().reduce(f64::max));
            scene.figures.push(Figure::at_most("all listen again after", longest, "s", GAP_MAX_S));
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let begun = gaps::faults(seen, |fault| matches!(fault, Fault::CutOff { .. }));
        let promoted = gaps::faults(seen, |fault| matches!(fault, Fault::EngineLost { .. }));
        let took = begun.iter().zip(&promoted).map(|(from, to)| to.seconds_since(*from));
        let mut longest = Some(0.0_f64);
        for (n, since) in begun.iter().enumerate() {
            for worker in &scene.fleet.workers {
                let next = begun.get(n + 1).copied();
                let gap = gaps::to_first_claim(seen.index, *since, next, |execution| {
                    execution.worker == worker.name()
                });
                // One that does not claim at all is deaf, and makes the whole figure `None`.
                longest = longest.zip(gap).map(|(longest, gap)| longest.max(gap));
            }
        }
        let failovers = failovers(scene.form);
        vec![
            Figure::at_least("failovers", count(promoted.len()), "", count(failovers)),
            Figure::told("longest until another is primary", took.reduce(f64::max), "s"),
            Figure::at_most("longest gap of a worker", longest, "s", GAP_MAX_S),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

fn failovers(form: Form) -> usize {
    form.pick(2, 5)
}

/// Takes the primary away, waits until all goes on with the other one, and brings it back as a replica; after how many
/// seconds as many listened for signals as before, if they do.
pub(super) async fn fail_over(scene: &mut Scene, how: How) -> anyhow::Result<Option<f64>> {
    let sentinels = scene.fleet.beside.sentinels()?;
    sentinels.acquainted().await?;
    let old = sentinels.primary().context("the Sentinels name a primary")?;
    let before = listeners(scene.fleet.server(old)?)?;
    let server = scene.fleet.server(old)?.process();
    let process = server.name().to_owned();
    match how {
        How::Kill => server.kill_9(),
        How::Freeze => server.freeze()?,
    }
    let gone = Instant::now();
    let since = scene.history.fault(Fault::CutOff { process: "*".into() });
    scene.say(&format!("{how:?}: {process}"));
    let new = replaced(scene, old).await?;
    let lost = format!("{process} was replaced");
    scene.history.fault(Fault::EngineLost { how: lost.clone() });
    scene.say(&lost);

    let workers: Vec<String> =
        scene.fleet.workers.iter().map(|worker| worker.name().to_owned()).collect();
    gaps::all_claim(scene, since, &workers, |effect| &effect.worker).await;
    scene.say("all workers claim again");
    let primary = scene.fleet.server(new)?;
    let all = until_seldom(LISTEN_MAX, || {
        let listen = listeners(primary).is_ok_and(|listen| listen >= before);
        async move { listen.then(|| gone.elapsed().as_secs_f64()) }
    });
    let all = all.await.ok();
    scene.say(&format!("{before} processes listen again"));
    let server = scene.fleet.server(old)?;
    match how {
        How::Kill => server.restart_following(new).await?,
        // It learns from the Sentinels that it is a replica now.
        How::Freeze => server.process().thaw()?,
    }
    Ok(all)
}

/// Waits until all Sentinels name another server, which agrees; its port.
async fn replaced(scene: &mut Scene, old: u16) -> anyhow::Result<u16> {
    let named = until(PROMOTED_MAX, || async {
        let named = scene.fleet.beside.sentinels().ok()?.primary()?;
        (named != old).then_some(named)
    });
    let new = named.await.context("the Sentinels name no other primary")?;
    let server = scene.fleet.server(new)?;
    let agrees = until(PROMOTED_MAX, || {
        let agrees = server.replication("role").is_ok_and(|role| role == "master");
        async move { agrees.then_some(()) }
    });
    agrees.await.context("the server does not become the primary")?;
    Ok(new)
}

/// How many connections are subscribed to signals. Sentinels have some of their own.
fn listeners(server: &Redis) -> anyhow::Result<usize> {
    let clients = server.command(&["CLIENT", "LIST", "TYPE", "PUBSUB"])?.text();
    Ok(clients.lines().filter(|client| !client.contains(" name=sentinel-")).count())
}
