//! Replies of Redis that do not arrive although the command was carried out: E16.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use windlass_shared::engine::redis::script_digest;

use super::leases::{LostLease, lost_leases};
use super::measure::mark;
use super::{Experiment, Form, Setup, long};
use crate::figure::{Figure, count};
use crate::fleet::LEASE;
use crate::fleet::links::Ways;
use crate::runner::{Scene, Seen};
use crate::tools::proxy::{Choice, Protocol};
use crate::until::until;

/// The verbs whose replies are lost, one after the other, and the share that is. Pushes first: what was pushed on the same
/// connection at that moment waits for the sweep, which takes the longest. Claims last: they alone cost time. Of those not
/// so many in a row that the workers' own pauses between tries are what is measured; leases are extended seldom.
const VERBS: [(&str, f64); 5] =
    [("push", 0.2), ("confirm", 0.2), ("settle", 0.2), ("extend", 0.5), ("claim", 0.2)];
/// Jobs whose leases are extended with and without replies.
const LONG: usize = 4;
/// Longest time until enough replies of one verb are lost.
const LOST_MAX: Duration = Duration::from_secs(60);

/// E16.
pub(super) struct LostReplies;

impl Experiment for LostReplies {
    fn id(&self) -> &'static str {
        "E16"
    }

    fn title(&self) -> &'static str {
        "replies to push, confirm, settle, extend and claim lost"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.ways = Ways::OneProxy(Protocol::Resp);
        setup.fleet.queues.push(long::QUEUE.into());
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let times = scene.form.pick(10, 200);
            let length = Duration::from_secs(scene.form.pick(10, 30));
            for (verb, share) in VERBS {
                if verb == "extend" {
                    long::start(scene, &[length; LONG]).await?;
                }
                let lost = lose(scene, verb, share, times).await?;
                let name = format!("replies to {verb} lost");
                scene.figures.push(Figure::at_least(&name, lost as f64, "", times as f64));
            }
            // Until leases that were lost with the last replies have run out, and their jobs are claimed again.
            tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let lost = lost_leases(seen);
        let (run, unknown): (Vec<_>, Vec<_>) = lost.iter().partition(|lease| lease.was_run);
        let claims = unknown.iter().filter(|lease| cause(seen, lease) == Some("claim")).count();
        let late = lost.iter().filter_map(|lease| lease.next_after_s).reduce(f64::max);
        let never = lost.iter().filter(|lease| lease.is_last).count();
        let jobs = seen.evidence.ledger.jobs.values();
        let quarantined = jobs.filter(|job| job.state == "quarantined").count();
        vec![
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
            long::outlived(seen, LONG),
            Figure::at_most("leases lost while running", count(run.len()), "", 0.0),
            Figure::at_least("leases lost with replies to claim", count(claims), "", 1.0),
            // Of claims that waited behind another verb's reply on the connection that was closed.
            Figure::told("with replies to others", count(unknown.len() - claims), ""),
            Figure::at_most("longest rerun after", late, "s", LEASE.as_secs_f64() + 1.0),
            Figure::at_most("never run again", count(never), "", 0.0),
            Figure::at_most("quarantined", count(quarantined), "", 0.0),
        ]
    }
}

fn begin(verb: &str) -> String {
    format!("losing replies to {verb}")
}

/// Loses so many replies to a verb, on whichever connection they come; how many were lost.
async fn lose(scene: &Scene, verb: &str, share: f64, times: u64) -> anyhow::Result<u64> {
    let link = scene.fleet.links.of_all().context("a proxy")?;
    let digest = script_digest(verb).with_context(|| format!("no script for {verb}"))?;
    let before = link.stats().replies_lost;
    let lost = || link.stats().replies_lost - before;
    scene.history.mark(&begin(verb));
    scene.say(&begin(verb));
    let rule = link.lose_reply(Choice::share(&["EVALSHA", &digest], share));
    rule.context("the proxy has too many rules")?;
    // Fewer than wanted is a figure that does not hold, not a failure of the rig.
    let _ = until(LOST_MAX, || async { (lost() >= times).then_some(()) }).await;
    link.clear_rules();
    Ok(lost())
}

/// The verb whose replies were lost when a lease was given.
fn cause(seen: &Seen<'_>, lease: &LostLease) -> Option<&'static str> {
    let begun =
        |verb: &&str| mark(seen, &begin(verb)).is_some_and(|at| at.wall_us <= lease.claimed_us);
    VERBS.into_iter().rev().map(|(verb, _)| verb).find(begun)
}
