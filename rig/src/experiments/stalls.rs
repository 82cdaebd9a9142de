//! Workers that stand still: stopped by a signal (E8), or by their own handlers (E9).

use std::time::Duration;

use futures::future::BoxFuture;

use super::leases::Stale;
use super::{Experiment, Form, Setup, measure};
use crate::check::Cause;
use crate::figure::{Figure, count};
use crate::fleet::LEASE;
use crate::history::{Call, Fault};
use crate::load::plan::job;
use crate::load::preload::preload;
use crate::runner::{Scene, Seen};
use crate::worker::{EFFECT, Work};

/// E8.
pub(super) struct Freeze;

impl Experiment for Freeze {
    fn id(&self) -> &'static str {
        "E8"
    }

    fn title(&self) -> &'static str {
        "a worker stopped past its lease (SIGSTOP) and continued"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        // Every job writes to the store with fences, and more of them are long enough to be caught.
        (setup.mix.fenced, setup.mix.long, setup.mix.long_ms) = (1.0, 0.05, 2_000);
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let process = scene.fleet.workers[0].name().to_owned();
            scene.history.fault(Fault::Frozen { process: process.clone() });
            scene.fleet.workers[0].freeze()?;
            scene.say(&format!("stopped {process}"));
            let past = Duration::from_secs(scene.form.pick(3, 10));
            tokio::time::sleep(LEASE + past).await;
            scene.fleet.workers[0].thaw()?;
            scene.history.fault(Fault::Thawed { process });
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let frozen: Vec<&str> = seen
            .evidence
            .history
            .iter()
            .filter_map(|event| match &event.call {
                Call::Fault(Fault::Frozen { process }) => Some(process.as_str()),
                _ => None,
            })
            .collect();
        let slots = scene.fleet.slots_each() as f64;
        let mut figures = Stale::of(seen, &frozen).figures();
        let frozen = measure::extra(seen, Cause::Frozen);
        figures.push(Figure::at_most("extra", seen.verdict.extra_total() as f64, "", slots));
        figures.push(Figure::told("of the stopped worker", frozen, ""));
        figures
    }
}

/// E9.
pub(super) struct Spin;

/// Served by the first worker only.
const SPIN_QUEUE: &str = "rig-spin";

impl Experiment for Spin {
    fn id(&self) -> &'static str {
        "E9"
    }

    fn title(&self) -> &'static str {
        "handlers that block every thread of a worker's executor"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.queues_of_first = vec![SPIN_QUEUE.into()];
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let length = Duration::from_secs(scene.form.pick(5, 10));
            let mark = uuid::Uuid::new_v4().simple().to_string();
            let ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            let work = Work { ms, spin: true, ..Work::default() };
            let spin = |n: usize| job(format!("spin-{mark}-{n}"), SPIN_QUEUE, EFFECT, &work, 0);
            // In one batch, so that one claim takes them all: the first that spins may stop the next claim.
            let spins: Vec<_> = (0..threads()).map(spin).collect();
            preload(&scene.client, &spins).await?;
            // Until they have ended, and one lease more, in which one that was lost would be given away.
            tokio::time::sleep(length + LEASE).await;
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let spun = seen.index.executions.iter().filter(|execution| execution.queue == SPIN_QUEUE);
        let lost = count(measure::outcomes(seen, "lease_lost"));
        // Together, or they did not block all threads.
        let together =
            most_at_once(spun.map(|e| (e.started.boot_us, e.end.map(|(at, _)| at.boot_us))));
        vec![
            Figure::at_least("threads blocked at once", count(together), "", threads() as f64),
            Figure::at_most("leases lost", lost, "", 0.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

/// Threads of a worker's executor: the runtime has one per core.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// The most of these times that overlap.
fn most_at_once(times: impl Iterator<Item = (u64, Option<u64>)>) -> usize {
    let times: Vec<(u64, u64)> = times.map(|(from, to)| (from, to.unwrap_or(u64::MAX))).collect();
    let at =
        |moment: u64| times.iter().filter(|(from, to)| *from <= moment && moment < *to).count();
    times.iter().map(|(from, _)| at(*from)).max().unwrap_or_default()
}
