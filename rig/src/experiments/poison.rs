//! Jobs that take their worker down with them, among good ones: E24.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Experiment, Form, Setup};
use crate::check::is_terminal;
use crate::dump::JobRow;
use crate::figure::{Figure, count};
use crate::history::Fault;
use crate::load::plan::{ANY, QUEUES, Submission, job};
use crate::runner::{Scene, Seen};
use crate::worker::{EFFECT, Poison, Work};

/// Leases that a job may lose: the product's default.
const CRASHES_MAX: u32 = 3;
const WAYS: [Poison; 3] = [Poison::Abort, Poison::Overflow, Poison::Kill];
const TAG: &str = "poison";
/// All of them are quarantined within this time.
const ENDED_MAX: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(100);

/// E24.
pub(super) struct PoisonJobs;

impl Experiment for PoisonJobs {
    fn id(&self) -> &'static str {
        "E24"
    }

    fn title(&self) -> &'static str {
        "jobs that take their worker down with them, among good ones"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        // A job of seconds is likely to be on a worker that goes down, again and again: that is not its own fault.
        setup.mix.long = 0.0;
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mark = uuid::Uuid::new_v4().simple().to_string();
            let mut ids = Vec::new();
            for n in 0..scene.form.pick(3, 20) {
                let poison = poison(format!("{TAG}-{mark}-{n}"), WAYS[n % WAYS.len()]);
                ids.extend(scene.client.submit(&poison, PATIENCE).await.id);
            }
            let started = std::time::Instant::now();
            while !ids.is_empty() {
                anyhow::ensure!(
                    started.elapsed() < ENDED_MAX,
                    "{} poison jobs are left",
                    ids.len()
                );
                replace_dead(scene).context("a worker does not start again")?;
                let mut left = Vec::new();
                for id in std::mem::take(&mut ids) {
                    let seen = scene.client.get(&format!("/v1/jobs/{id}")).await;
                    let state = seen.as_ref().and_then(|job| job["state"].as_str());
                    if !state.is_some_and(is_terminal) {
                        left.push(id);
                    }
                }
                ids = left;
                tokio::time::sleep(PACE).await;
            }
            replace_dead(scene)
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let jobs = seen.evidence.ledger.jobs.iter();
        let (poison, good): (Vec<_>, Vec<_>) = jobs.partition(|(_, job)| is_poison(job));
        let quarantined = |job: &JobRow| job.state == "quarantined";
        let caught = poison.iter().filter(|(_, job)| quarantined(job)).count();
        let starts = poison.iter().map(|(id, _)| seen.index.of_job(id).count()).max();
        let crashes = poison.iter().map(|(_, job)| job.crashes).max().map(f64::from);
        let hit = good.iter().map(|(_, job)| job.crashes).max().map(f64::from);
        let wrongly = good.iter().filter(|(_, job)| quarantined(job)).count();
        let all = scene.form.pick(3.0, 20.0);
        vec![
            Figure::at_least("poison jobs quarantined", count(caught), "", all),
            Figure::at_most("starts of one", starts.map(count), "", f64::from(CRASHES_MAX)),
            Figure::at_most("crashes of one", crashes, "", f64::from(CRASHES_MAX)),
            Figure::at_most("good jobs quarantined", count(wrongly), "", 0.0),
            Figure::told("leases that a good job lost", hit, ""),
        ]
    }
}

/// Starts another worker for each that is down, on record.
fn replace_dead(scene: &mut Scene) -> anyhow::Result<()> {
    for n in 0..scene.fleet.workers.len() {
        if scene.fleet.workers[n].exited().is_none() {
            continue;
        }
        let process = scene.fleet.workers[n].name().to_owned();
        scene.history.fault(Fault::Killed { process });
        let process = scene.fleet.replace_worker(n)?;
        scene.history.fault(Fault::Started { process });
    }
    Ok(())
}

fn poison(key: String, way: Poison) -> Submission {
    let work = Work { poison: Some(way), ..Work::default() };
    let poison = job(key, QUEUES[0], EFFECT, &work, 0);
    let mut body = poison.body;
    body["max_crashes"] = Value::from(CRASHES_MAX);
    Submission { body, fails: ANY, ends: "quarantined", ..poison }
}

fn is_poison(job: &JobRow) -> bool {
    job.tags.first().is_some_and(|tag| tag.starts_with(TAG))
}
