//! API hosts whose wall clocks step (E20).

use std::path::Path;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

use super::clocks::{self, FAR_MS};
use super::{Experiment, Form, Setup};
use crate::figure::{Figure, count};
use crate::fleet::FleetOptions;
use crate::history::{Call, Phase};
use crate::load::plan::{PAUSED, QUEUES, Submission, job};
use crate::runner::{Scene, Seen};
use crate::stamp::Stamp;
use crate::worker::{EFFECT, Work};

const PLACES: [&str; 2] = ["api-0", "api-1"];
/// Keys that are sent before every step, and again after it.
const KEYS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(15);

/// E20.
pub(super) struct ApiClocks;

impl Experiment for ApiClocks {
    fn id(&self) -> &'static str {
        "E20"
    }

    fn title(&self) -> &'static str {
        "wall clocks of the API hosts step between +5 and -5 min"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        // More of what an API host's clock could hurt.
        setup.mix.delayed = 0.2;
        setup
    }

    fn files(&self, folder: &Path, options: &mut FleetOptions) -> anyhow::Result<()> {
        PLACES.iter().try_for_each(|place| clocks::give(folder, options.env_of(place), place))
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let (every, steps) = scene.form.pick((2, 4), (10, 6));
            let mark = uuid::Uuid::new_v4().simple().to_string();
            for step in 0..steps {
                let keys: Vec<Submission> = (0..KEYS)
                    .map(|n| {
                        let key = format!("clock-{mark}-{step}-{n}");
                        job(key, QUEUES[0], EFFECT, &Work { ms: 1, ..Work::default() }, 0)
                    })
                    .collect();
                send(scene, &keys).await;
                // Never the same time at both.
                let off = if step % 2 == 0 { FAR_MS } else { -FAR_MS };
                clocks::set(scene, PLACES[0], off)?;
                clocks::set(scene, PLACES[1], -off)?;
                send(scene, &keys).await;
                tokio::time::sleep(Duration::from_secs(every)).await;
            }
            PLACES.iter().try_for_each(|place| clocks::set(scene, place, 0))
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let (waits, again) = (waits(seen), asked_again(seen));
        let longest = waits.iter().copied().reduce(f64::max);
        vec![
            Figure::at_least("delayed jobs of that time", count(waits.len()), "", 1.0),
            Figure::told("longest wait past the delay", longest, "s"),
            Figure::at_least("keys sent before and after a step", count(again), "", 1.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

async fn send(scene: &Scene, keys: &[Submission]) {
    join_all(keys.iter().map(|key| scene.client.submit(key, PATIENCE))).await;
}

/// Of delayed jobs that were accepted between fault and heal: how long after their delay they were begun, in seconds.
/// Without those of the queue that is paused.
fn waits(seen: &Seen<'_>) -> Vec<f64> {
    let mut waits = Vec::new();
    for event in &seen.evidence.history {
        let Call::Submit { delay_ms, queue, .. } = &event.call else { continue };
        let meanwhile = seen.fault < event.at && event.at < seen.heal;
        if event.phase != Phase::Ok || *delay_ms == 0 || !meanwhile || queue == PAUSED {
            continue;
        }
        let id = event.reply.as_ref().and_then(|reply| reply.id.as_deref());
        let first = id.and_then(|id| seen.index.of_job(id).map(|e| e.started).min());
        let due_us = event.at.boot_us + delay_ms * 1_000;
        waits.extend(first.map(|at| at.seconds_since(Stamp { boot_us: due_us, wall_us: 0 })));
    }
    waits
}

/// Keys that were accepted twice: the second answer names the job of the first, or the checker says so.
fn asked_again(seen: &Seen<'_>) -> usize {
    let mut keys: Vec<&str> = Vec::new();
    for event in seen.evidence.history.iter().filter(|event| event.phase == Phase::Ok) {
        if let Call::Submit { key, .. } = &event.call {
            keys.extend(key.starts_with("clock-").then_some(key.as_str()));
        }
    }
    keys.sort_unstable();
    let accepted = keys.len();
    keys.dedup();
    accepted - keys.len()
}
