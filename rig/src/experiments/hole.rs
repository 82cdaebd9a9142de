//! One worker whose link to Redis swallows everything and tells nobody: E15.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;

use super::leases::{Stale, attempt, lost_leases};
use super::{Experiment, Form, Setup, long, measure};
use crate::check::Cause;
use crate::effects;
use crate::figure::{Figure, count};
use crate::fleet::LEASE;
use crate::fleet::links::Ways;
use crate::history::{Call, Fault};
use crate::load::plan::PAUSED;
use crate::runner::{Scene, Seen};
use crate::stamp::Stamp;
use crate::tools::proxy::{Faults, Flow, Proxy};
use crate::until::{until, until_seldom};

/// Jobs of each of the two lengths.
const LONG: usize = 3;
/// Longest wait for the worker's next claim; as for throughput, part 3A.
const BACK_MAX_S: f64 = 30.0;
/// What the worker's log says once it has noticed.
const WORDS: [&str; 3] = ["cannot extend leases", "cannot claim", "lost the connection"];

/// E15.
pub(super) struct Hole;

impl Experiment for Hole {
    fn id(&self) -> &'static str {
        "E15"
    }

    fn title(&self) -> &'static str {
        "a black hole between one worker and Redis"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.ways = Ways::ProxyPerWorker;
        // Without one of them, the others still carry the load and the jobs that outlive their leases.
        setup.fleet.workers = form.pick(3, 4);
        setup.fleet.queues.push(long::QUEUE.into());
        // Every job writes to the store with fences.
        setup.mix.fenced = 1.0;
        // Two turns of the paused queue.
        setup.after = Duration::from_secs(form.pick(8, 30));
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let length = Duration::from_secs(scene.form.pick(8, 20));
            let victim = with_long_jobs(scene, length).await?;
            let worker = &scene.fleet.workers[victim];
            let (name, log) = (worker.name().to_owned(), worker.log().to_owned());
            let link = scene.fleet.links.of_worker(victim).context("a proxy")?;
            let said_before = std::fs::metadata(&log)?.len();
            link.set(Faults::flow(Flow::BlackHole)).await?;
            scene.history.fault(Fault::CutOff { process: name.clone() });
            scene.say(&format!("{name} is cut off"));
            let begun = Instant::now();
            let (said, tried) = noticed(link, &log, said_before, length).await;
            tokio::time::sleep(length.saturating_sub(begun.elapsed())).await;
            link.heal().await?;
            let back = back(scene, &name).await;
            let noticed = said.zip(tried).map(|(said, tried)| said.max(tried));
            scene.figures.extend([
                Figure::told("said so after", said, "s"),
                Figure::told("tried another connection after", tried, "s"),
                Figure::at_most("noticed after", noticed, "s", 5.0),
                Figure::at_most("claims again after", back, "s", BACK_MAX_S),
            ]);
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let cut = seen.evidence.history.iter().find_map(|event| match &event.call {
            Call::Fault(Fault::CutOff { process }) => Some((event.at, process.as_str())),
            _ => None,
        });
        let Some((cut, victim)) = cut else { return Vec::new() };
        let extra = measure::extra(seen, Cause::CutOff);
        let others = seen.verdict.extra_total() as f64 - extra;
        let swallowed = lost_leases(seen).iter().filter(|lease| !lease.was_run).count();
        let mut figures = reruns(seen, cut, victim);
        figures.extend(Stale::of(seen, &[victim]).figures());
        figures.extend([
            // Those that ran, and those whose settles were on their way: at most its slots of each.
            Figure::at_most("extra", extra, "", 2.0 * scene.fleet.slots_each() as f64),
            Figure::at_most("extra of others", others, "", 0.0),
            Figure::told("leases of claims whose replies were swallowed", count(swallowed), ""),
        ]);
        figures
    }
}

/// Starts jobs of which some end while the link is broken and some after it, all after their leases; the worker that
/// runs the most of them.
async fn with_long_jobs(scene: &Scene, length: Duration) -> anyhow::Result<usize> {
    let lengths = [length.saturating_sub(Duration::from_secs(2)), length + LEASE];
    let by = long::start(scene, &lengths.repeat(LONG)).await?;
    let of = |name: &str| by.iter().filter(|by| by.as_str() == name).count();
    let workers = scene.fleet.workers.iter().enumerate();
    let busiest = workers.max_by_key(|(_, worker)| of(worker.name()));
    Ok(busiest.context("a worker")?.0)
}

/// When the worker said in its log that something is wrong, and when it first made another connection, in seconds from
/// now; looked for during `longest`.
async fn noticed(
    link: &Proxy,
    log: &Path,
    said_before: u64,
    longest: Duration,
) -> (Option<f64>, Option<f64>) {
    let begun = Instant::now();
    let connections = link.stats().connections;
    let (mut said, mut tried) = (None, None);
    // That it never notices is a figure that does not hold, not a failure of the rig.
    let _ = until(longest, || {
        let now = begun.elapsed().as_secs_f64();
        if said.is_none() && says(log, said_before) {
            said = Some(now);
        }
        if tried.is_none() && link.stats().connections > connections {
            tried = Some(now);
        }
        let both = said.and(tried).map(|_| ());
        async move { both }
    })
    .await;
    (said, tried)
}

/// Whether a log holds one of the words beyond this place.
fn says(log: &Path, from: u64) -> bool {
    let mut text = String::new();
    let read = std::fs::File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_string(&mut text)
    });
    read.is_ok() && WORDS.iter().any(|word| text.contains(word))
}

/// Waits until the worker starts a job that it claimed after now; after how many seconds.
async fn back(scene: &Scene, name: &str) -> Option<f64> {
    let healed = Stamp::now();
    let claimed = |effect: &effects::Effect| i64::try_from(effect.fence).ok();
    let first = until_seldom(Duration::from_secs_f64(BACK_MAX_S), || async {
        let effects = effects::read(&scene.fleet.effects()).ok()?;
        let mine = effects.iter().filter(|effect| effect.worker == name);
        mine.filter_map(claimed).filter(|at| *at > healed.wall_us).min()
    });
    first.await.ok().map(|at| (at - healed.wall_us) as f64 / 1e6)
}

/// From the break to the next claim of each job whose lease the worker lost with it, at most the lease and a second.
fn reruns(seen: &Seen<'_>, cut: Stamp, victim: &str) -> Vec<Figure> {
    let (mut delays, mut missing) = (Vec::new(), 0);
    for execution in seen.index.executions.iter().filter(|e| e.worker == victim) {
        let outcome = attempt(seen, execution).and_then(|attempt| attempt.outcome.as_deref());
        if outcome != Some("lease_lost") || execution.queue == PAUSED {
            continue;
        }
        match seen.index.of_job(&execution.job).find(|later| later.fence > execution.fence) {
            Some(next) => {
                let claimed = i64::try_from(next.fence).unwrap_or(i64::MAX);
                delays.push((claimed - cut.wall_us) as f64 / 1e6);
            }
            None => missing += 1,
        }
    }
    let limit = LEASE.as_secs_f64() + 1.0;
    let longest = delays.iter().copied().reduce(f64::max);
    vec![
        Figure::at_least("jobs cut off", count(delays.len() + missing), "", 1.0),
        Figure::at_most("longest rerun after", longest, "s", limit),
        Figure::at_most("never run again", count(missing), "", 0.0),
    ]
}
