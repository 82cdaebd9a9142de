//! Workers whose clocks are wrong, or go too fast (E21).

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;

use super::clocks::{self, FAR_MS};
use super::{Experiment, measure};
use crate::figure::{Figure, count};
use crate::fleet::FleetOptions;
use crate::runner::{Scene, Seen};

/// With wrong wall clocks.
const WRONG: [&str; 2] = ["worker-0", "worker-1"];
/// 3B.
const RATE: f64 = 10.0;

/// E21.
pub(super) struct WorkerClocks;

impl Experiment for WorkerClocks {
    fn id(&self) -> &'static str {
        "E21"
    }

    fn title(&self) -> &'static str {
        "workers' wall clocks off by 5 min, and all clocks of one at ten times the rate"
    }

    fn files(&self, folder: &Path, options: &mut FleetOptions) -> anyhow::Result<()> {
        // By the places there are: the short form has two workers.
        let places: Vec<String> = (0..options.workers).map(|n| format!("worker-{n}")).collect();
        places.iter().try_for_each(|place| clocks::give(folder, options.env_of(place), place))
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let (skewed, fast) = scene.form.pick((3, 5), (10, 30));
            for off in [FAR_MS, -FAR_MS] {
                clocks::set(scene, WRONG[0], off)?;
                clocks::set(scene, WRONG[1], -off)?;
                tokio::time::sleep(Duration::from_secs(skewed)).await;
            }
            // The last one: in the short form one whose wall clock is wrong, too.
            let hurried = format!("worker-{}", scene.fleet.workers.len() - 1);
            clocks::run_fast(scene, &hurried, RATE, Duration::from_secs(fast)).await?;
            for place in [WRONG[0], WRONG[1], &hurried] {
                clocks::set(scene, place, 0)?;
            }
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let begun = seen.index.executions.iter().filter(|execution| {
            let meanwhile = seen.fault < execution.started && execution.started < seen.heal;
            // The names of processes begin with their places.
            meanwhile && WRONG.iter().any(|place| execution.worker.starts_with(place))
        });
        let lost = count(measure::outcomes(seen, "lease_lost"));
        vec![
            Figure::at_least(
                "jobs begun by workers with wrong clocks",
                count(begun.count()),
                "",
                1.0,
            ),
            Figure::at_most("leases lost", lost, "", 0.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}
