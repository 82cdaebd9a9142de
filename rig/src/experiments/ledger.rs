//! PostgreSQL that is restarted (E17) or stands still (E18).

use std::time::Duration;

use futures::future::BoxFuture;

use super::Experiment;
use super::measure::faults;
use crate::figure::{Figure, count};
use crate::history::{Call, Event, Fault, Phase};
use crate::runner::{Scene, Seen};
use crate::stamp::Stamp;

/// Between two restarts: everything is at work again.
const BETWEEN: Duration = Duration::from_secs(2);
/// What the ledger's server is called.
pub(crate) const NAME: &str = "postgres";

/// E17.
pub(super) struct Restart;

impl Experiment for Restart {
    fn id(&self) -> &'static str {
        "E17"
    }

    fn title(&self) -> &'static str {
        "PostgreSQL stopped with -m immediate and started again"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            for n in 0..scene.form.pick(2, 5) {
                if n > 0 {
                    tokio::time::sleep(BETWEEN).await;
                }
                scene.history.fault(Fault::Killed { process: NAME.into() });
                scene.fleet.postgres.stop_immediately()?;
                scene.fleet.postgres.restart().await?;
                scene.history.fault(Fault::Started { process: NAME.into() });
                scene.say("PostgreSQL is back");
            }
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let stops =
            faults(seen, |fault| matches!(fault, Fault::Killed { process } if process == NAME));
        let gaps = stops.iter().map(|stop| {
            let accepted = seen.evidence.history.iter().filter(|event| is_accepted(event));
            accepted.map(|event| event.at).find(|at| *at > *stop)
        });
        let gaps: Option<Vec<f64>> =
            gaps.zip(&stops).map(|(next, stop)| Some(next?.seconds_since(*stop))).collect();
        let longest = gaps.and_then(|gaps| gaps.into_iter().reduce(f64::max));
        vec![
            Figure::at_most("longest gap", longest, "s", 10.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

/// E18.
pub(super) struct Stall;

impl Experiment for Stall {
    fn id(&self) -> &'static str {
        "E18"
    }

    fn title(&self) -> &'static str {
        "PostgreSQL stands still (SIGSTOP)"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let before = rss(scene);
            scene.fleet.postgres.process().freeze_tree()?;
            scene.history.fault(Fault::Frozen { process: NAME.into() });
            tokio::time::sleep(Duration::from_secs(scene.form.pick(5, 15))).await;
            scene.history.fault(Fault::Thawed { process: NAME.into() });
            let after = rss(scene);
            scene.fleet.postgres.process().thaw_tree()?;
            scene.figures.push(growth(Some(after.saturating_sub(before))));
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        stalled(seen)
    }
}

/// How much memory has grown, in KiB; the same bound as for hostile requests (E28).
pub(crate) fn growth(kib: Option<u64>) -> Figure {
    Figure::at_most("growth of the roles", kib.map(|kib| kib as f64), "KiB", 65_536.0)
}

/// What went on while the ledger stood still.
pub(crate) fn stalled(seen: &Seen<'_>) -> Vec<Figure> {
    let of = |fault: &Fault, frozen: bool| match fault {
        Fault::Frozen { process } => frozen && process == NAME,
        Fault::Thawed { process } => !frozen && process == NAME,
        _ => false,
    };
    let from = faults(seen, |fault| of(fault, true));
    let to = faults(seen, |fault| of(fault, false));
    let (Some(from), Some(to)) = (from.first(), to.first()) else { return Vec::new() };
    let during = |at: Stamp| *from < at && at < *to;
    let accepted = seen.evidence.history.iter();
    let accepted = accepted.filter(|event| is_accepted(event) && during(event.at)).count();
    // Shortly after the stop answers may still arrive whose commits were made before it.
    let done = seen.index.executions.iter().filter_map(|execution| execution.end);
    let done = done.filter(|(at, _)| during(*at)).count();
    vec![
        Figure::told("accepted meanwhile", count(accepted), ""),
        Figure::at_least("jobs done meanwhile", count(done), "", 1.0),
        Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
    ]
}

fn is_accepted(event: &Event) -> bool {
    event.phase == Phase::Ok && matches!(event.call, Call::Submit { .. })
}

/// Memory of all roles, in KiB.
fn rss(scene: &Scene) -> u64 {
    let fleet = &scene.fleet;
    let roles = fleet.apis.iter().chain(&fleet.workers).chain(&fleet.schedulers);
    roles.filter_map(|process| process.rss_kib()).sum()
}
