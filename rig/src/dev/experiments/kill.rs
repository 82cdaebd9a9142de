//! `dev` killed again and again: E1 to E6 in one, since everything ends together (E2).

use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng as _;

use crate::dev::Dev;
use crate::experiments::{Experiment, measure};
use crate::figure::{Figure, count};
use crate::history::{Call, Fault, Phase};
use crate::runner::{Scene, Seen};

/// Leases are given again within this time after it is ready: that of E4.
const LEASED_MAX_S: f64 = 10.0;

/// E2.
pub(super) struct Kill;

impl Experiment<Dev> for Kill {
    fn id(&self) -> &'static str {
        "E2"
    }

    fn title(&self) -> &'static str {
        "kill -9 of dev, with all that is in it, again and again"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene<Dev>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            for n in 0..scene.form.pick(3, 10) {
                if n > 0 {
                    // Long enough to catch up: what a kill has cut short is to be run again at once, not to wait behind
                    // what three kills have left.
                    let range = scene.form.pick(500..4_000, 6_000..12_000);
                    let between = Duration::from_millis(scene.rng.random_range(range));
                    tokio::time::sleep(between).await;
                }
                scene.fleet.kill_9(&scene.history).await?;
                scene.fleet.start_again(&scene.history).await?;
                scene.history.mark("ready");
                scene.say(&format!("{} is ready", scene.fleet.worker()));
            }
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene<Dev>, seen: &Seen<'_>) -> Vec<Figure> {
        let kills =
            count(measure::faults(seen, |fault| matches!(fault, Fault::Killed { .. })).len());
        let ready =
            measure::faults(seen, |fault| matches!(fault, Fault::Mark { name } if name == "ready"));
        let leased = ready.iter().map(|ready| measure::first_leases(seen, *ready));
        let leased: Option<Vec<f64>> = leased.collect();
        let longest = leased.and_then(|all| all.into_iter().reduce(f64::max));
        let cut_off = seen.evidence.history.iter().filter(|event| {
            event.phase == Phase::Unknown && matches!(event.call, Call::Submit { .. })
        });
        let mut figures = measure::reruns(seen);
        let most = kills * count(scene.fleet.slots());
        figures.extend([
            Figure::at_least("kills", kills, "", scene.form.pick(3.0, 10.0)),
            Figure::at_least("submissions cut off", count(cut_off.count()), "", 1.0),
            Figure::at_most("first lease after", longest, "s", LEASED_MAX_S),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", most),
        ]);
        figures
    }
}
