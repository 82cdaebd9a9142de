//! `dev` stopped past its leases, as a laptop that sleeps is (E8).

use std::time::Duration;

use futures::future::BoxFuture;

use crate::dev::Dev;
use crate::experiments::{Experiment, Form, Setup, measure};
use crate::figure::{Figure, count};
use crate::fleet::LEASE;
use crate::history::Fault;
use crate::runner::{Scene, Seen};
use crate::target::Target as _;

/// E8.
pub(super) struct Freeze;

impl Experiment<Dev> for Freeze {
    fn id(&self) -> &'static str {
        "E8"
    }

    fn title(&self) -> &'static str {
        "dev stopped past its leases (SIGSTOP) and continued"
    }

    fn setup(&self, form: Form) -> Setup<super::super::DevOptions> {
        let mut setup = Dev::standard(form);
        // Every job writes to the store with fences, and more of them are long enough to be caught.
        (setup.mix.fenced, setup.mix.long, setup.mix.long_ms) = (1.0, 0.05, 2_000);
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene<Dev>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let process = scene.fleet.worker();
            scene.history.fault(Fault::Frozen { process: process.clone() });
            scene.fleet.process().freeze()?;
            let past = Duration::from_secs(scene.form.pick(3, 10));
            tokio::time::sleep(LEASE + past).await;
            scene.fleet.process().thaw()?;
            scene.history.fault(Fault::Thawed { process });
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene<Dev>, seen: &Seen<'_>) -> Vec<Figure> {
        // Nobody else could have had the jobs meanwhile, and the engine stood still as well.
        let lost = count(measure::outcomes(seen, "lease_lost"));
        let held = count(measure::running_at(seen, seen.fault));
        vec![
            Figure::at_least("jobs that ran when it was stopped", held, "", 1.0),
            Figure::at_most("leases lost", lost, "", 0.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}
