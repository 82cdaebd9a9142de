//! Limits of concurrency and of rate, over any number of workers, while Redis is lost under them: E31.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use serde_json::json;

use super::sentinels::{How, fail_over};
use super::{Experiment, Form, Setup, ends, measure};
use crate::check::Execution;
use crate::figure::{Figure, count};
use crate::fleet::topology::{Beside, Topology};
use crate::history::Fault;
use crate::limits::{Rate, Run, Span, Start, most_at_once, used_at_once};
use crate::load::plan::{Mix, Submission, job};
use crate::load::preload::preload;
use crate::runner::{Scene, Seen};
use crate::worker::{CALL, EFFECT, Work};

/// Queues with limits of how many jobs run at once: one has a limit of the queue, the other one of a kind and of keys. So
/// each limit is the only one that holds its jobs back, and is used up all the time.
const HELD: [&str; 2] = ["rig-held", "rig-held-within"];
/// The same with limits of how many jobs start in a time.
const PACED: [&str; 2] = ["rig-paced", "rig-paced-within"];
/// The kind with a limit of its own; jobs with keys are of another one.
const KIND: &str = EFFECT;
const KEYS: [&str; 3] = ["one", "two", "three"];

const SCOPES: [&str; 3] = ["the queue", "the kind", "a key"];
/// Most at once of each.
const AT_ONCE: [usize; 3] = [6, 4, 2];
/// Most starts a second.
const RATES: [Rate; 3] =
    [Rate::per_second(50, 10), Rate::per_second(20, 5), Rate::per_second(8, 4)];
/// What a job takes.
const HELD_MS: u64 = 400;
const PACED_MS: u64 = 20;
/// Units of jobs with a rate limit key, in turn.
const UNITS: [u64; 2] = [1, 2];

/// While enough waits, at least this share of what is allowed is used: else the limits would be kept by standing still.
/// The short form runs beside other tests, on a machine that is busy with them; no more can be counted on there.
const USED_MIN: [f64; 2] = [0.5, 0.9];
const PATIENCE: Duration = Duration::from_secs(60);
/// All jobs are done within this time after Redis was lost.
const DONE_MAX: Duration = Duration::from_secs(180);

/// How Redis is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Wiped,
    FailedOver,
}

/// E31.
pub(super) struct Limits;

impl Limits {
    /// Workers, and how Redis is lost under them.
    fn phases(form: Form) -> &'static [(usize, Loss)] {
        form.pick(
            &[(4, Loss::Wiped)],
            &[
                (1, Loss::Wiped),
                (1, Loss::FailedOver),
                (4, Loss::Wiped),
                (4, Loss::FailedOver),
                (8, Loss::Wiped),
                (8, Loss::FailedOver),
            ],
        )
    }

    /// For as long the limits are used up before Redis is lost, and about as long after that.
    fn seconds(form: Form) -> u64 {
        form.pick(6, 20)
    }
}

impl Experiment for Limits {
    fn id(&self) -> &'static str {
        "E31"
    }

    fn title(&self) -> &'static str {
        "limits of concurrency and rate on 4 workers (long: 1, 4 and 8), across FLUSHALL (long: and a failover)"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.queues.extend(HELD.into_iter().chain(PACED).map(str::to_owned));
        setup.fleet.workers = Self::phases(form)[0].0;
        if form == Form::Long {
            // One worker alone is to carry the load beside.
            setup.fleet.slots = 32;
            setup.mix = Mix::standard(60.0);
            setup.fleet.topology = Topology::Sentinel;
        }
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            limit(scene).await?;
            for (n, (workers, loss)) in Self::phases(scene.form).iter().enumerate() {
                while scene.fleet.workers.len() < *workers {
                    scene.fleet.add_worker()?;
                }
                scene.fleet.ready().await?;
                let phase = phase(scene, n, *loss).await;
                phase.with_context(|| format!("{loss:?} on {workers} workers"))?;
            }
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let phases = Self::phases(scene.form).len();
        let used_min = scene.form.pick(USED_MIN[0], USED_MIN[1]);
        let mut figures = at_once(seen, phases, used_min);
        figures.extend(paced(seen, phases, used_min));
        figures.push(Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0));
        figures
    }
}

/// Sets the limits before there is a job.
async fn limit(scene: &Scene) -> anyhow::Result<()> {
    let [queue, kind, key] = AT_ONCE;
    let kinds = json!({ KIND: { "max_concurrency": kind } });
    let held = [
        json!({ "max_concurrency": queue }),
        json!({ "kinds": kinds, "per_key_concurrency": key }),
    ];
    let [queue, kind, key] =
        RATES.map(|rate| json!({ "limit": rate.limit, "per": "1s", "burst": rate.burst }));
    let kinds = json!({ KIND: { "rate_limit": kind } });
    let paced =
        [json!({ "rate_limit": queue }), json!({ "kinds": kinds, "per_key_rate_limit": key })];
    let queues = HELD.iter().zip(&held).chain(PACED.iter().zip(&paced));
    for (queue, settings) in queues {
        scene.client.set_queue(queue, settings, PATIENCE).await?;
    }
    Ok(())
}

/// Lets all limits be used up, takes Redis away, and waits until everything is done.
async fn phase(scene: &mut Scene, n: usize, loss: Loss) -> anyhow::Result<()> {
    let seconds = Limits::seconds(scene.form);
    let ids = preload(&scene.client, &jobs(2 * seconds)).await?;
    scene.history.mark(&format!("full {n}"));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    scene.history.mark(&format!("lost {n}"));
    match loss {
        Loss::Wiped => wipe(scene)?,
        Loss::FailedOver => {
            fail_over(scene, How::Kill).await?;
        }
    }
    ends::all(scene, ids, DONE_MAX).await
}

fn wipe(scene: &mut Scene) -> anyhow::Result<()> {
    let primary = match &scene.fleet.beside {
        Beside::Sentinels(sentinels) => sentinels.primary().context("a primary")?,
        _ => scene.fleet.redis.port(),
    };
    scene.fleet.server(primary)?.command(&["FLUSHALL"])?;
    scene.history.fault(Fault::EngineLost { how: "FLUSHALL".into() });
    scene.say("wiped");
    Ok(())
}

/// As many jobs as the limits let through in so many seconds.
fn jobs(seconds: u64) -> Vec<Submission> {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let mut made = Vec::new();
    let mut add = |queue: &str, kind, ms, count: u64, limit: Option<(&str, &str)>| {
        for n in 0..count {
            let key = format!("limit-{mark}-{}", made.len());
            let mut one = job(key.clone(), queue, kind, &Work { ms, ..Work::default() }, 0);
            if let Some((field, name)) = limit {
                let units = UNITS[n as usize % UNITS.len()];
                one.body[field] = json!(name);
                one.body["rate_limit_units"] = json!(units);
                one.body["tags"] = json!([key, name, units.to_string()]);
            }
            made.push(one);
        }
    };
    let [queue, kind, key] = AT_ONCE.map(|most| most as u64 * seconds * 1_000 / HELD_MS);
    add(HELD[0], CALL, HELD_MS, queue, None);
    add(HELD[1], KIND, HELD_MS, kind, None);
    for name in KEYS {
        add(HELD[1], CALL, HELD_MS, key, Some(("concurrency_key", name)));
    }
    let [queue, kind, key] = RATES.map(|rate| rate.limit * seconds);
    let of_key = key * UNITS.len() as u64 / UNITS.iter().sum::<u64>();
    add(PACED[0], CALL, PACED_MS, queue, None);
    add(PACED[1], KIND, PACED_MS, kind, None);
    for name in KEYS {
        add(PACED[1], CALL, PACED_MS, of_key, Some(("rate_limit_key", name)));
    }
    made
}

/// The executions that each limit is about, with their units: those of the one queue, those of the kind in the other one,
/// and those of each key in it.
fn scopes<'a>(seen: &'a Seen<'_>, queues: [&str; 2]) -> [Vec<Vec<(&'a Execution, u64)>>; 3] {
    let (mut of_queue, mut of_kind) = (Vec::new(), Vec::new());
    let mut of_keys: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for execution in &seen.index.executions {
        if execution.queue == queues[0] {
            of_queue.push((execution, 1));
        }
        if execution.queue != queues[1] {
            continue;
        }
        if execution.kind == KIND {
            of_kind.push((execution, 1));
        }
        let job = seen.evidence.ledger.jobs.get(&execution.job);
        if let Some([_, name, units]) = job.map(|job| job.tags.as_slice()) {
            of_keys.entry(name).or_default().push((execution, units.parse().unwrap_or(1)));
        }
    }
    [vec![of_queue], vec![of_kind], of_keys.into_values().collect()]
}

/// From all limits being used up to the loss of Redis, of each phase.
fn spans(seen: &Seen<'_>, phases: usize, clock: impl Fn(crate::stamp::Stamp) -> u64) -> Vec<Span> {
    let edge = |name: &str, n| measure::mark(seen, &format!("{name} {n}")).map(&clock);
    let span = |n| Some(Span { from_us: edge("full", n)?, to_us: edge("lost", n)? });
    (0..phases).filter_map(span).collect()
}

/// What ran at once, by the times at which handlers began and ended.
fn at_once(seen: &Seen<'_>, phases: usize, used_min: f64) -> Vec<Figure> {
    let run = |execution: &Execution| Run {
        from_us: execution.started.boot_us,
        to_us: execution.end.map_or(u64::MAX, |(at, _)| at.boot_us),
    };
    let spans = spans(seen, phases, |at| at.boot_us);
    let mut figures = Vec::new();
    for ((scope, limit), sets) in SCOPES.iter().zip(AT_ONCE).zip(scopes(seen, HELD)) {
        let sets: Vec<Vec<Run>> = sets
            .iter()
            .map(|set| set.iter().map(|(execution, _)| run(execution)).collect())
            .collect();
        let most = sets.iter().map(|runs| most_at_once(runs)).max();
        let used = sets
            .iter()
            .flat_map(|runs| spans.iter().map(|span| used_at_once(runs, limit, *span)))
            .reduce(least)
            .flatten();
        let name = format!("most at once of {scope}");
        figures.push(Figure::at_most(&name, most.map(count), "", count(limit)));
        let name = format!("used of what {scope} may at once");
        figures.push(Figure::at_least(&name, used, "", used_min));
    }
    figures
}

/// What started: a start is its claim's instant in engine time, which is its fence.
fn paced(seen: &Seen<'_>, phases: usize, used_min: f64) -> Vec<Figure> {
    let spans = spans(seen, phases, |at| at.wall_us.unsigned_abs());
    let mut figures = Vec::new();
    for ((scope, rate), sets) in SCOPES.iter().zip(RATES).zip(scopes(seen, PACED)) {
        let starts = |at: fn(&Execution) -> u64| -> Vec<Vec<Start>> {
            let start = |(execution, units): &(&Execution, u64)| Start {
                at_us: at(execution),
                units: *units,
            };
            sets.iter().map(|set| set.iter().map(start).collect()).collect()
        };
        let claims = starts(|execution| execution.fence);
        let calls = starts(|execution| execution.started.boot_us);
        let most = |sets: &[Vec<Start>]| {
            let most = sets.iter().map(|starts| rate.most_in_its_time(starts)).max();
            most.map(|units| units as f64)
        };
        let ahead = claims.iter().map(|starts| rate.most_ahead(starts)).reduce(f64::max);
        let used = claims
            .iter()
            .flat_map(|starts| spans.iter().map(|span| rate.used(starts, *span)))
            .reduce(least)
            .flatten();
        let (name, allowed) = (format!("started in a second of {scope}"), rate.limit + rate.burst);
        figures.push(Figure::at_most(&name, most(&claims), "", allowed as f64));
        let name = format!("beyond the rate in any span of {scope}");
        figures.push(Figure::at_most(&name, ahead, "", rate.burst as f64));
        let name = format!("handlers called in a second of {scope}");
        figures.push(Figure::told(&name, most(&calls), ""));
        let name = format!("used of the rate of {scope}");
        figures.push(Figure::at_least(&name, used, "", used_min));
    }
    figures
}

/// The least; what was not measured is less than anything.
fn least(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.zip(other).map(|(one, other)| one.min(other))
}
