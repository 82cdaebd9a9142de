//! Jobs that outlive their leases, so that these have to be extended while something is wrong.

use std::time::Duration;

use anyhow::Context as _;

use super::leases::attempt;
use crate::effects::{self, Phase};
use crate::figure::{Figure, count};
use crate::fleet::LEASE;
use crate::load::plan::{Submission, job};
use crate::load::preload::preload;
use crate::runner::{Scene, Seen};
use crate::until::until_seldom;
use crate::worker::{FENCED, Work};

/// Their queue. A fleet that is to run them serves it.
pub(super) const QUEUE: &str = "rig-long";
const STARTED_MAX: Duration = Duration::from_secs(60);
/// What their limits are longer than they are.
const SPARE_MS: u64 = 30_000;

/// Starts a job of each of these lengths and waits until all run; the names of the workers that run them.
pub(super) async fn start(scene: &Scene, lengths: &[Duration]) -> anyhow::Result<Vec<String>> {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let long = |(n, length): (usize, &Duration)| -> Submission {
        let ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let work = Work { ms, ..Work::default() };
        let mut long = job(format!("long-{mark}-{n}"), QUEUE, FENCED, &work, 0);
        // Without one a job is stopped after a minute.
        long.body["timeout"] = format!("{}ms", ms + SPARE_MS).into();
        long
    };
    preload(&scene.client, &lengths.iter().enumerate().map(long).collect::<Vec<_>>()).await?;
    let started = until_seldom(STARTED_MAX, || async {
        let effects = effects::read(&scene.fleet.effects()).ok()?;
        let started = effects.iter().filter(|e| e.queue == QUEUE && e.phase == Phase::Start);
        let by: Vec<String> = started.map(|effect| effect.worker.clone()).collect();
        (by.len() == lengths.len()).then_some(by)
    });
    started.await.context("the long jobs do not start")
}

/// All of them ran longer than a lease, once, and their results are on record.
pub(super) fn outlived(seen: &Seen<'_>, jobs: usize) -> Figure {
    let long = seen.index.executions.iter().filter(|execution| {
        let ended = execution.end.map(|(at, _)| at.seconds_since(execution.started));
        let outcome = attempt(seen, execution).and_then(|attempt| attempt.outcome.as_deref());
        execution.queue == QUEUE
            && ended.is_some_and(|seconds| seconds > 1.5 * LEASE.as_secs_f64())
            && outcome == Some("succeeded")
    });
    Figure::at_least("jobs that outlived their lease", count(long.count()), "", count(jobs))
}
