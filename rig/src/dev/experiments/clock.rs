//! The clock of the host steps forward, and back again: that of API, worker, engine and ledger at once (E22).

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::dev::{Dev, DevOptions};
use crate::experiments::{Experiment, Form, Setup, clocks, engine_clock, measure};
use crate::figure::{Figure, count};
use crate::runner::{Scene, Seen};
use crate::target::Target as _;

const PLACE: &str = "dev";

/// E22.
pub(super) struct Clock;

impl Experiment<Dev> for Clock {
    fn id(&self) -> &'static str {
        "E22"
    }

    fn title(&self) -> &'static str {
        "the wall clock of dev steps forward, and back again"
    }

    fn setup(&self, form: Form) -> Setup<DevOptions> {
        let mut setup = Dev::standard(form);
        // At every instant leases are held that the step would end.
        setup.mix.long = form.pick(0.05, setup.mix.long);
        setup
    }

    fn files(&self, folder: &Path, options: &mut DevOptions) -> anyhow::Result<()> {
        clocks::give(folder, &mut options.env, PLACE)
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene<Dev>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let (step, between) = scene.form.pick((10, 4), (60, 20));
            clocks::set(scene, PLACE, step * 1_000)?;
            tokio::time::sleep(Duration::from_secs(between)).await;
            clocks::set(scene, PLACE, 0)
        })
    }

    fn figures(&self, _scene: &Scene<Dev>, seen: &Seen<'_>) -> Vec<Figure> {
        let lost = count(measure::outcomes(seen, "lease_lost"));
        vec![
            Figure::at_least("leases held at a step", engine_clock::held(seen), "", 1.0),
            Figure::at_most("leases lost", lost, "", 0.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}
