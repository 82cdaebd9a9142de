//! Many tenants in one queue: one with very many jobs, and one with long ones: E32.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use serde_json::json;

use super::{Experiment, Form, Setup, ends, measure};
use crate::check::{Evidence, Execution};
use crate::dump;
use crate::figure::{Figure, count};
use crate::limits::{Run, Span};
use crate::load::plan::{EXPIRING, Submission, job};
use crate::load::preload::preload;
use crate::runner::{Scene, Seen};
use crate::stamp::Stamp;
use crate::until::until_seldom;
use crate::worker::{EFFECT, Work};

/// Where those wait of whom one has very many jobs, and those of whom one has long ones.
const QUEUES: [&str; 2] = ["rig-tenants", "rig-tenants-long"];
/// The parts of the experiment, as tags and marks have them.
pub(crate) const ALONE: &str = "alone";
pub(crate) const BESIDE: &str = "beside";
pub(crate) const LONG: &str = "long";
/// The one tenant that is not like the others.
pub(crate) const GREAT: &str = "great";

/// The tenants with few jobs.
const SMALL: usize = 9;
const JOBS_EACH: usize = 100;
/// They need at most so many times as long as alone.
const SLOWED_MAX: f64 = 2.0;

/// Tenants with short jobs beside the one with long jobs.
const QUICK: usize = 3;
/// The part of the run time that is due to each.
const DUE: f64 = 1.0 / (QUICK as f64 + 1.0);
/// How far from what is due the one with long jobs may be, as a share of it.
const OFF_MAX: f64 = 0.2;

const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for jobs that are to be done, or to expire.
const DONE_MAX: Duration = Duration::from_secs(3_600);

/// E32.
pub(super) struct Tenants;

impl Experiment for Tenants {
    fn id(&self) -> &'static str {
        "E32"
    }

    fn title(&self) -> &'static str {
        "a tenant with 20,000 (long: 1,000,000) jobs beside nine with 100 each, and one whose jobs are long"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.queues.extend(QUEUES.map(str::to_owned));
        // Little and even: the slots are to be the tenants'.
        setup.mix.rate = 10.0;
        setup.pauses = false;
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            few(scene, ALONE).await?;
            let (many, ms) = scene.form.pick((20_000, 100), (1_000_000, 500));
            // What still waits when everything has been seen expires.
            let wait = Duration::from_secs(scene.form.pick(50, 1_800));
            let great = Made { part: BESIDE, queue: QUEUES[0], ms, wait };
            preload(&scene.client, &great.jobs(&[GREAT.into()], many)).await?;
            scene.say("one tenant has very many jobs");
            few(scene, BESIDE).await?;
            pause(scene, true).await?;
            long(scene).await?;
            empty(scene, QUEUES[1]).await?;
            pause(scene, false).await?;
            empty(scene, QUEUES[0]).await
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let mut figures = slowed(seen);
        figures.extend(run_time(seen));
        figures.push(Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0));
        figures
    }
}

/// How jobs are made.
struct Made {
    part: &'static str,
    queue: &'static str,
    /// What each takes.
    ms: u64,
    /// How long each waits at most.
    wait: Duration,
}

impl Made {
    /// So many jobs of each of these tenants, which take turns.
    fn jobs(&self, tenants: &[String], each: usize) -> Vec<Submission> {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let one = |n: usize, tenant: &String| {
            let key = format!("{}-{mark}-{tenant}-{n}", self.part);
            let work = Work { ms: self.ms, ..Work::default() };
            let mut job = job(key.clone(), self.queue, EFFECT, &work, 0);
            job.body["fairness_key"] = json!(tenant);
            job.body["tags"] = json!([key, self.part, tenant]);
            job.body["ttl"] = json!(format!("{}s", self.wait.as_secs()));
            Submission { ends: EXPIRING, ..job }
        };
        let turn = |n| tenants.iter().map(move |tenant| one(n, tenant));
        (0..each).flat_map(turn).collect()
    }
}

/// Submits the jobs of those with few, and waits until they have ended.
async fn few(scene: &Scene, part: &'static str) -> anyhow::Result<()> {
    let made = Made { part, queue: QUEUES[0], ms: scene.form.pick(100, 500), wait: DONE_MAX };
    let tenants: Vec<String> = (0..SMALL).map(|n| format!("small-{n}")).collect();
    scene.history.mark(&format!("{part} begins"));
    let ids = preload(&scene.client, &made.jobs(&tenants, JOBS_EACH)).await?;
    ends::all(scene, ids, DONE_MAX).await.context("those with few jobs are not done")?;
    scene.history.mark(&format!("{part} ends"));
    scene.say(&format!("those with few jobs are done, {part}"));
    Ok(())
}

/// One tenant has all slots, and then others come whose jobs are short.
async fn long(scene: &Scene) -> anyhow::Result<()> {
    let (seconds, long_ms, quick_ms) = scene.form.pick((15, 2_000, 100), (120, 10_000, 200));
    // What the one was given while nobody else wanted it is not stopped, and the others make up for it.
    let settle = Duration::from_millis(3 * long_ms);
    let length = Duration::from_secs(seconds);
    let wait = settle + length + Duration::from_secs(10);
    // As many as each could do with all slots in all of the time: everybody has something waiting to its end.
    let each = |ms: u64| {
        let slots = scene.fleet.slots() as u64;
        usize::try_from(slots * (seconds * 1_000 + 4 * long_ms) / ms).unwrap_or(usize::MAX)
    };
    let made = |ms| Made { part: LONG, queue: QUEUES[1], ms, wait };
    let jobs = made(long_ms).jobs(&[GREAT.into()], each(long_ms));
    let ids = preload(&scene.client, &jobs).await?;
    ends::begun(scene, ids, scene.fleet.slots() / 2, PATIENCE).await?;
    let tenants: Vec<String> = (0..QUICK).map(|n| format!("quick-{n}")).collect();
    scene.history.mark(&format!("{LONG} is joined"));
    preload(&scene.client, &made(quick_ms).jobs(&tenants, each(quick_ms) / QUICK)).await?;
    tokio::time::sleep(settle).await;
    scene.history.mark(&format!("{LONG} begins"));
    tokio::time::sleep(length).await;
    scene.history.mark(&format!("{LONG} ends"));
    scene.say("those with long and short jobs have been looked at");
    Ok(())
}

/// Pauses or resumes the queue of the one with very many jobs.
async fn pause(scene: &Scene, paused: bool) -> anyhow::Result<()> {
    let done = scene.client.set_paused(QUEUES[0], paused, PATIENCE).await;
    anyhow::ensure!(done.applied == Some(true), "paused: {paused}: {done:?}");
    Ok(())
}

/// Waits until everything in a queue has ended.
async fn empty(scene: &Scene, queue: &str) -> anyhow::Result<()> {
    let empty = until_seldom(DONE_MAX, || async {
        let depths = dump::depths(&scene.client).await.ok()?;
        depths.get(queue)?.is_empty().then_some(())
    });
    empty.await.context("something is left in the queue")?;
    // What is beyond the head of the queue waits, and expires, in the ledger alone.
    let states = "state=blocked&state=scheduled&state=ready&state=running&state=retrying";
    let live = format!("/v1/jobs?limit=1&queue={queue}&{states}");
    let ended = until_seldom(DONE_MAX, || async {
        let page = scene.client.get(&live).await?;
        (page["items"].as_array()?.is_empty() && page["next_cursor"].is_null()).then_some(())
    });
    ended.await.context("something of the queue is left in the ledger")?;
    scene.say(&format!("{queue} is empty"));
    Ok(())
}

/// The executions of a part by tenant.
pub(crate) fn by_tenant<'a>(
    evidence: &'a Evidence,
    executions: &'a [Execution],
    part: &str,
) -> BTreeMap<&'a str, Vec<&'a Execution>> {
    let mut found: BTreeMap<&str, Vec<&Execution>> = BTreeMap::new();
    for execution in executions.iter().filter(|e| QUEUES.contains(&e.queue.as_str())) {
        let tags = evidence.ledger.jobs.get(&execution.job).map(|job| job.tags.as_slice());
        if let Some([_, of, tenant]) = tags
            && of == part
        {
            found.entry(tenant).or_default().push(execution);
        }
    }
    found
}

/// From when to when something ran.
pub(crate) fn run(execution: &Execution) -> Run {
    let to_us = execution.end.map_or(u64::MAX, |(at, _)| at.boot_us);
    Run { from_us: execution.started.boot_us, to_us }
}

/// Jobs that still waited at the end of a part, of the tenant among these that had fewest.
fn waiting(seen: &Seen<'_>, part: &str, tenants: &[&str]) -> Option<usize> {
    let ends = measure::mark(seen, &format!("{part} ends"))?;
    let mut left: BTreeMap<&str, usize> = tenants.iter().map(|name| (*name, 0)).collect();
    for (id, job) in &seen.evidence.ledger.jobs {
        let had_begun = seen.index.of_job(id).any(|execution| execution.started <= ends);
        let had_ended = job.finished_at_us.is_some_and(|at| at <= ends.wall_us);
        if let [_, of, tenant] = job.tags.as_slice()
            && of == part
            && !had_begun
            && !had_ended
            && let Some(left) = left.get_mut(tenant.as_str())
        {
            *left += 1;
        }
    }
    left.into_values().min()
}

/// How long those with few jobs took, alone and beside the one with very many.
fn slowed(seen: &Seen<'_>) -> Vec<Figure> {
    let took = |part: &str| {
        let begins = measure::mark(seen, &format!("{part} begins"))?;
        let tenants = by_tenant(seen.evidence, &seen.index.executions, part);
        let small = tenants.iter().filter(|(tenant, _)| **tenant != GREAT);
        let ends = small.flat_map(|(_, executions)| executions.iter().filter_map(|e| e.end));
        let last: Stamp = ends.map(|(at, _)| at).max()?;
        Some(last.seconds_since(begins))
    };
    let (alone, beside) = (took(ALONE), took(BESIDE));
    let slowed = beside.zip(alone).map(|(beside, alone)| beside / alone);
    let left = waiting(seen, BESIDE, &[GREAT]);
    vec![
        Figure::told("the nine alone", alone, "s"),
        Figure::told("the nine beside the one with very many", beside, "s"),
        Figure::at_most("of the time alone", slowed, "×", SLOWED_MAX),
        Figure::at_least("jobs of that one which still waited", left.map(count), "", 1.0),
    ]
}

/// How much of the run time the one with long jobs had while all had something waiting.
fn run_time(seen: &Seen<'_>) -> Vec<Figure> {
    let edge = |edge: &str| measure::mark(seen, &format!("{LONG} {edge}")).map(|at| at.boot_us);
    let span = edge("begins").zip(edge("ends")).map(|(from_us, to_us)| Span { from_us, to_us });
    let tenants = by_tenant(seen.evidence, &seen.index.executions, LONG);
    let had = |executions: &[&Execution]| -> u64 {
        executions.iter().map(|e| span.map_or(0, |span| span.of_run_us(run(e)))).sum()
    };
    let all: u64 = tenants.values().map(|executions| had(executions)).sum();
    let great = tenants.get(GREAT).map(|executions| had(executions));
    let share = great.filter(|_| all > 0).map(|had| had as f64 / all as f64);
    let names: Vec<&str> = tenants.keys().copied().collect();
    let left = waiting(seen, LONG, &names);
    let name = "share of the run time of the one with long jobs";
    vec![
        Figure::at_least("tenants with jobs", count(names.len()), "", count(QUICK + 1)),
        Figure::at_most(name, share, "", DUE * (1.0 + OFF_MAX)),
        Figure::at_least(&format!("{name}, at least"), share, "", DUE * (1.0 - OFF_MAX)),
        Figure::at_least("jobs of each that still waited", left.map(count), "", 1.0),
    ]
}
