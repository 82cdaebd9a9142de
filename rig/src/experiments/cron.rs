//! Schedulers that are killed or stand still around the instants at which schedules are due: E23.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use futures::future::BoxFuture;

use super::{Experiment, Form, Setup};
use crate::figure::Figure;
use crate::history::Fault;
use crate::runner::{Scene, Seen};
use crate::schedules::Plan;
use crate::until::until;

/// How long before the edge the leader is hurt.
const BEFORE_EDGE: Duration = Duration::from_millis(500);
/// Stands still for this long: longer than a term.
const FROZEN_FOR: Duration = Duration::from_secs(12);
const LEADER_MAX: Duration = Duration::from_secs(20);

/// E23.
pub(super) struct LeaderAtEdges;

impl LeaderAtEdges {
    /// Seconds between edges: of the patterns of [`Self::plan`].
    fn edge(form: Form) -> u64 {
        form.pick(10, 60)
    }
}

impl Experiment for LeaderAtEdges {
    fn id(&self) -> &'static str {
        "E23"
    }

    fn title(&self) -> &'static str {
        "the leading scheduler killed, or frozen, half a second before every edge at which 50 schedules are due"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        let patterns: &[&str] = form.pick(&["*/10 * * * * *"], &["* * * * *"]);
        setup.schedules = Plan { schedules: 50, patterns };
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            for n in 0..scene.form.pick(4, 10) {
                tokio::time::sleep(to_edge(Self::edge(scene.form))).await;
                let leader = leader(scene).await?;
                let process = scene.fleet.schedulers[leader].name().to_owned();
                // Every third stands still instead: when it wakes, it takes itself for the leader.
                if n % 3 == 2 {
                    scene.fleet.schedulers[leader].freeze()?;
                    scene.history.fault(Fault::Frozen { process: process.clone() });
                    scene.say(&format!("froze {process}, the leader"));
                    tokio::time::sleep(FROZEN_FOR).await;
                    scene.fleet.schedulers[leader].thaw()?;
                    scene.history.fault(Fault::Thawed { process });
                } else {
                    scene.fleet.schedulers[leader].kill_9();
                    scene.history.fault(Fault::Killed { process: process.clone() });
                    scene.say(&format!("killed {process}, the leader"));
                    scene.fleet.schedulers[leader].restart()?;
                    scene.history.fault(Fault::Started { process });
                }
            }
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, _seen: &Seen<'_>) -> Vec<Figure> {
        // The account of the schedules is made of every run.
        Vec::new()
    }
}

/// How long until [`BEFORE_EDGE`] before the next edge that is not over already.
fn to_edge(every: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let period = Duration::from_secs(every).as_micros();
    let place = (now + BEFORE_EDGE).as_micros() % period;
    Duration::from_micros(u64::try_from(period - place).unwrap_or_default())
}

/// Which of the schedulers leads, by the ledger's row, whose name ends with the process id.
async fn leader(scene: &Scene) -> anyhow::Result<usize> {
    let pids: Vec<Option<u32>> = scene.fleet.schedulers.iter().map(|s| s.pid()).collect();
    let found = until(LEADER_MAX, || async {
        let sql = "SELECT name FROM leader WHERE expires_at > extract(epoch FROM clock_timestamp()) * 1000000";
        let name = scene.fleet.postgres.sql(sql).ok()?;
        pids.iter().position(|pid| pid.is_some_and(|pid| name.ends_with(&format!("({pid})"))))
    });
    found.await.context("no scheduler leads")
}
