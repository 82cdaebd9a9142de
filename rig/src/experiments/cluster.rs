//! A Redis Cluster that loses a primary, and whose slots move: E12.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;

use super::gaps::{self, GAP_MAX_S};
use super::{Experiment, Form, Setup};
use crate::figure::{Figure, count};
use crate::fleet::cluster::reshard::{Moved, move_slots};
use crate::fleet::cluster::view::{self, Node};
use crate::fleet::cluster::{SLOTS, slot_of};
use crate::fleet::redis::Redis;
use crate::fleet::topology::Topology;
use crate::history::{Call, Fault, Phase};
use crate::load::plan::{PAUSED, QUEUES};
use crate::runner::{Scene, Seen};
use crate::until::until;

/// Longest wait for a replica to take its primary's place.
const PROMOTED_MAX: Duration = Duration::from_secs(60);
/// How long a slot with keys stays half moved.
const DWELL: Duration = Duration::from_secs(1);

/// E12.
pub(super) struct LoseNode;

impl Experiment for LoseNode {
    fn id(&self) -> &'static str {
        "E12"
    }

    fn title(&self) -> &'static str {
        "a primary of a Cluster of six killed, then slots moved"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.topology = Topology::Cluster;
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let slots: Vec<u16> = QUEUES
                .iter()
                .map(|queue| slot_of(&scene.fleet.redis, &format!("{{default/{queue}/0}}")))
                .collect::<anyhow::Result<_>>()?;
            kill_primary(scene, slots[0]).await?;
            scene.history.fault(Fault::CutOff { process: "*".into() });
            let moved = reshard(scene, &slots)?;
            let since = scene.history.fault(Fault::EngineLost { how: "slots were moved".into() });
            gaps::all_claim(scene, since, &unpaused(), |effect| &effect.queue).await;
            scene.say("all queues are claimed from again");
            let wanted = count(slots_to_move(scene.form));
            let figures = [
                Figure::at_least("slots moved", count(moved.slots), "", wanted),
                Figure::at_least("keys moved", count(moved.keys), "", count(slots.len())),
            ];
            scene.figures.extend(figures);
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let begun = gaps::faults(seen, |fault| matches!(fault, Fault::CutOff { .. }));
        let promoted = gaps::faults(seen, |fault| matches!(fault, Fault::EngineLost { .. }));
        let took = begun.first().zip(promoted.first()).map(|(from, to)| to.seconds_since(*from));
        let answers = seen.evidence.history.iter();
        let answers = answers.filter(|event| matches!(event.call, Call::Submit { .. }));
        let errors = answers.filter(|event| matches!(event.phase, Phase::Fail | Phase::Unknown));
        let mut figures = vec![
            Figure::told("another is primary after", took, "s"),
            Figure::at_most("errors of submissions", count(errors.count()), "", 0.0),
        ];
        for queue in unpaused() {
            let gap = gaps::longest(seen.index, seen.fault, seen.heal, |e| e.queue == queue);
            let name = format!("longest gap of {queue}");
            figures.push(Figure::at_most(&name, gap, "s", GAP_MAX_S));
        }
        figures.push(Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0));
        figures
    }
}

/// Queues that are claimed from at any time.
fn unpaused() -> Vec<String> {
    QUEUES.iter().filter(|queue| **queue != PAUSED).map(|queue| (*queue).to_owned()).collect()
}

fn slots_to_move(form: Form) -> usize {
    form.pick(200, 1_000)
}

/// Kills the primary of a slot, waits until its replica has taken over and all queues are claimed from, and brings it
/// back as a replica.
async fn kill_primary(scene: &mut Scene, slot: u16) -> anyhow::Result<()> {
    let cluster = scene.fleet.beside.cluster()?;
    let old = cluster.owner(&scene.fleet.redis, slot)?.port;
    let server = scene.fleet.server(old)?.process();
    let process = server.name().to_owned();
    server.kill_9();
    let since = scene.history.fault(Fault::CutOff { process: "*".into() });
    scene.say(&format!("killed {process}"));
    let replaced = until(PROMOTED_MAX, || async {
        let owner = scene.fleet.beside.cluster().ok()?.owner(survivor(scene, old)?, slot).ok()?;
        (owner.port != old).then_some(())
    });
    replaced.await.context("no replica takes its place")?;
    let lost = format!("{process} was replaced");
    scene.history.fault(Fault::EngineLost { how: lost.clone() });
    scene.say(&lost);
    gaps::all_claim(scene, since, &unpaused(), |effect| &effect.queue).await;
    scene.say("all queues are claimed from again");
    scene.fleet.server(old)?.restart().await?;
    scene.fleet.beside.cluster()?.whole(&scene.fleet.redis).await
}

/// A node that lives.
fn survivor(scene: &Scene, dead: u16) -> Option<&Redis> {
    let mut nodes = std::iter::once(&scene.fleet.redis).chain(scene.fleet.beside.servers());
    nodes.find(|node| node.port() != dead)
}

/// Moves the slots of all queues, and slots around them, to one primary that has none of them.
fn reshard(scene: &Scene, used: &[u16]) -> anyhow::Result<Moved> {
    let seen_by = &scene.fleet.redis;
    let nodes = view::nodes(seen_by)?;
    let idle = |node: &&Node| node.is_primary() && !used.iter().any(|slot| node.serves(*slot));
    let target = nodes.iter().find(idle).context("a primary that serves none of the queues")?;
    let slots = around(used, slots_to_move(scene.form));
    let move_all = || move_slots(seen_by, &slots, target.port, DWELL);
    let moved = tokio::task::block_in_place(move_all)?;
    scene.say(&format!("{} slots with {} keys moved", moved.slots, moved.keys));
    Ok(moved)
}

/// So many slots around these, in their order.
fn around(used: &[u16], wanted: usize) -> Vec<u16> {
    let mut slots = BTreeSet::new();
    for distance in 0..SLOTS {
        for slot in used {
            let near = [slot.checked_sub(distance), slot.checked_add(distance)];
            for slot in near.into_iter().flatten().filter(|slot| *slot < SLOTS) {
                if slots.len() < wanted {
                    slots.insert(slot);
                }
            }
        }
    }
    slots.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_of_the_queues_are_among_those_that_move() {
        assert_eq!(around(&[0, 10], 4), [0, 1, 9, 10]);
        let slots = around(&[4_190, 4_002, SLOTS - 1], 1_000);
        assert_eq!(slots.len(), 1_000);
        assert!([4_190, 4_002, SLOTS - 1].iter().all(|slot| slots.contains(slot)));
    }
}
