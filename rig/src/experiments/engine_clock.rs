//! Redis whose wall clock steps forward and back (E22).

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{Experiment, Form, Setup, clocks, measure};
use crate::figure::{Figure, count};
use crate::fleet::FleetOptions;
use crate::history::{Call, Fault};
use crate::runner::{Scene, Seen};

const PLACE: &str = "redis";

/// E22.
pub(super) struct EngineClock;

impl Experiment for EngineClock {
    fn id(&self) -> &'static str {
        "E22"
    }

    fn title(&self) -> &'static str {
        "the clock of the host of Redis steps forward, and back again"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        // At every instant leases are held that the step would end.
        setup.mix.long = form.pick(0.05, setup.mix.long);
        setup
    }

    fn files(&self, folder: &Path, options: &mut FleetOptions) -> anyhow::Result<()> {
        clocks::give(folder, options.env_of(PLACE), PLACE)
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            // What is to be retried at a time that the clock has shown before waits for as long as it went back.
            let (step, between) = scene.form.pick((10, 4), (60, 20));
            clocks::set(scene, PLACE, step * 1_000)?;
            tokio::time::sleep(Duration::from_secs(between)).await;
            clocks::set(scene, PLACE, 0)
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let lost = count(measure::outcomes(seen, "lease_lost"));
        vec![
            Figure::at_least("leases held at a step", held(seen), "", 1.0),
            Figure::at_most("leases lost", lost, "", 0.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

/// Executions under way at a move of a clock, of the move with the fewest.
pub(crate) fn held(seen: &Seen<'_>) -> Option<f64> {
    let moves = seen.evidence.history.iter();
    let moves = moves.filter(|event| matches!(&event.call, Call::Fault(Fault::ClockMoved { .. })));
    moves.map(|event| count(measure::running_at(seen, event.at))).reduce(f64::min)
}
