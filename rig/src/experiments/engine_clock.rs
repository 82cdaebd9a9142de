//! Redis whose wall clock steps forward and back (E22).

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{Experiment, Form, Setup, clocks, measure};
use crate::figure::{Figure, count};
use crate::fleet::FleetOptions;
use crate::history::{Call, Fault};
use crate::runner::{Scene, Seen};
use crate::stamp::Stamp;

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
        clocks::give(folder, options, PLACE)
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
        let moves: Vec<Stamp> = seen
            .evidence
            .history
            .iter()
            .filter(|event| matches!(&event.call, Call::Fault(Fault::ClockMoved { .. })))
            .map(|event| event.at)
            .collect();
        let held = moves.iter().map(|at| {
            let executions = seen.index.executions.iter();
            let held = executions.filter(|execution| {
                let ended = execution.end.map(|(end, _)| end);
                execution.started < *at && ended.is_none_or(|end| *at < end)
            });
            held.count()
        });
        let lost = count(measure::outcomes(seen, "lease_lost"));
        vec![
            Figure::at_least("leases held at a step", held.min().map(count), "", 1.0),
            Figure::at_most("leases lost", lost, "", 0.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}
