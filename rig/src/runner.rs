//! An experiment from start to verdict: warm, fault, heal, drain, check.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::check::{self, Evidence, Verdict};
use crate::dump::{self, Dump};
use crate::experiments::{Cut, Experiment, Form, Setup};
use crate::figure::{Figure, count};
use crate::fleet::Fleet;
use crate::history::{self, Recorder};
use crate::load::Load;
use crate::load::client::Client;
use crate::machine::Machine;
use crate::rates;
use crate::report::Report;
use crate::schedules::Schedules;
use crate::stamp::Stamp;
use crate::target::Target;
use crate::upkeep::{self, Upkeep};

/// Longest drain: part 3A.
const DRAIN_MAX: Duration = Duration::from_secs(90);
/// Between two looks at what is left to do.
const DRAIN_PACE: Duration = Duration::from_millis(200);
/// Pages of jobs that are looked at for one that has not ended.
const PAGES_MAX: usize = 1_000;
/// Throughput is back within this time after heal: part 3A.
const RECOVERY_MAX_S: f64 = 30.0;

/// How a run is to be made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `windlass` binary.
    pub windlass: PathBuf,
    /// The `windlass-rig` binary.
    pub rig: PathBuf,
    /// How long and how large.
    pub form: Form,
    /// What is drawn is drawn from it.
    pub seed: u64,
    /// Keep the folder also when everything held.
    pub keep: bool,
    /// Says on standard error what is done.
    pub progress: bool,
    /// Where the fleet's folder is made. In memory (`/dev/shm`) flushes cost nothing, which is right where the figures
    /// are not about the disk: it is shared with whatever else this machine does.
    pub within: PathBuf,
}

/// What an experiment works with.
#[derive(Debug)]
pub struct Scene<T = Fleet> {
    /// The processes.
    pub fleet: T,
    /// For calls that go on record.
    pub client: Client,
    /// The record.
    pub history: Arc<Recorder>,
    /// How long and how large.
    pub form: Form,
    /// For what the experiment draws.
    pub rng: StdRng,
    /// Figures that only the experiment itself can measure.
    pub figures: Vec<Figure>,
    /// What power cuts have left, until it is looked at.
    pub(crate) cuts: Vec<Cut>,
    progress: Option<Instant>,
}

impl<T> Scene<T> {
    /// Says what is done, where progress is shown.
    pub fn say(&self, text: &str) {
        if let Some(started) = self.progress {
            eprintln!("{:7.2} s  {text}", started.elapsed().as_secs_f64());
        }
    }
}

/// What was seen, for the figures of an experiment.
#[derive(Debug)]
pub struct Seen<'a> {
    /// All evidence.
    pub evidence: &'a Evidence,
    /// The same in order.
    pub index: &'a check::Index<'a>,
    /// What the checker says.
    pub verdict: &'a Verdict,
    /// When the fault began.
    pub fault: Stamp,
    /// When the fleet was whole again.
    pub heal: Stamp,
}

/// Runs one experiment once. The fleet is gone when this returns, however it returns; its folder stays where something
/// did not hold.
///
/// # Errors
/// The rig itself failed: a program is missing, or evidence cannot be had. That a promise did not hold is no error.
pub async fn run<T: Target>(
    experiment: &dyn Experiment<T>,
    settings: &Settings,
) -> anyhow::Result<Report> {
    let prefix = format!("windlass-rig-{}{}-", T::NAME, experiment.id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&settings.within)?;
    if settings.keep {
        // At once, so that an interrupted run can be looked at, too.
        let kept = folder.keep();
        eprintln!("logs and evidence: {}", kept.display());
        return run_in(experiment, settings, &kept).await;
    }
    let ran = run_in(experiment, settings, folder.path()).await;
    if !ran.as_ref().is_ok_and(|report| report.passed) {
        let kept = folder.keep();
        eprintln!("logs and evidence: {}", kept.display());
    }
    ran
}

async fn run_in<T: Target>(
    experiment: &dyn Experiment<T>,
    settings: &Settings,
    folder: &Path,
) -> anyhow::Result<Report> {
    let started = Instant::now();
    let setup = experiment.setup(settings.form);
    let mut scene = prepare(experiment, settings, &setup, folder, started).await?;
    let schedules = Schedules::make(&scene.client, setup.schedules).await?;
    let upkeep = Upkeep::make(&scene.client).await?;
    scene.say("warm");
    let machine = Machine::watch();
    let load = Load::start(scene.client.clone(), setup.mix.clone(), settings.seed, setup.pauses);
    tokio::time::sleep(setup.warm).await;
    scene.say("fault");
    let fault = scene.history.mark("fault");
    experiment.fault(&mut scene).await.context("the fault")?;
    let heal = scene.history.mark("heal");
    scene.say("healed");
    tokio::time::sleep(setup.after).await;
    let unresolved = load.stop().await?;
    let unknown = unresolved.len();
    scene.say(&format!("the load has stopped; {unknown} outcomes to resolve"));
    unresolved.resolve().await;
    let drained = drain(&scene).await?;
    scene.history.mark("drained");
    experiment.after_drain(&mut scene).await.context("after the drain")?;
    let mut beside = schedules.figures().await.context("the due times of the schedules")?;
    beside.extend(upkeep.figures().await.context("backups and load checks")?);
    let evidence = gather(&scene).await?;
    let dead = scene.fleet.dead();
    scene.say("check");

    let index = check::Index::new(&evidence);
    let verdict = check::check(&evidence);
    let seen = Seen { evidence: &evidence, index: &index, verdict: &verdict, fault, heal };
    let mut figures = common(&seen, setup.after, dead.len(), drained, unknown);
    let stalled = machine.longest_stall().as_secs_f64();
    figures.push(Figure::told("longest stall of the machine", stalled, "s"));
    figures.extend(beside);
    figures.extend(experiment.figures(&scene, &seen));
    figures.append(&mut scene.figures);
    let name = (experiment.id(), experiment.title(), T::NAME, settings.form, settings.seed);
    Ok(Report::new(name, verdict, figures, dead, started.elapsed()))
}

async fn prepare<T: Target>(
    experiment: &dyn Experiment<T>,
    settings: &Settings,
    setup: &Setup<T::Options>,
    folder: &Path,
    started: Instant,
) -> anyhow::Result<Scene<T>> {
    let mut options = setup.fleet.clone();
    T::fill(&mut options, settings);
    T::env(&mut options).extend(upkeep::env(folder));
    experiment.files(folder, &mut options)?;
    let fleet = T::start(folder, options).await.context("the processes do not start")?;
    let history = Arc::new(Recorder::create(&folder.join("history.jsonl"))?);
    let client = fleet.client(Arc::clone(&history))?;
    let progress = settings.progress.then_some(started);
    let rng = StdRng::seed_from_u64(settings.seed);
    let (form, figures, cuts) = (settings.form, Vec::new(), Vec::new());
    Ok(Scene { fleet, client, history, form, rng, figures, cuts, progress })
}

/// Waits until nothing is left to do, for the time of 3A; how long it took, or `None`: not in that time. The checker says
/// then what is left.
async fn drain<T>(scene: &Scene<T>) -> anyhow::Result<Option<Duration>> {
    let started = Instant::now();
    let mut said = Instant::now();
    loop {
        let left = left(&scene.client).await;
        match left {
            Some(0) => return Ok(Some(started.elapsed())),
            Some(left) if said.elapsed() > Duration::from_secs(2) => {
                scene.say(&format!("drain: {left} left"));
                said = Instant::now();
            }
            _ => {}
        }
        if started.elapsed() > DRAIN_MAX {
            return Ok(None);
        }
        tokio::time::sleep(DRAIN_PACE).await;
    }
}

/// How much is left to do, as far as one page shows; `None`: nobody answers.
async fn left(client: &Client) -> Option<usize> {
    let depths = dump::depths(client).await.ok()?;
    let busy = depths.values().filter(|depth| !depth.is_empty()).count();
    let runs = client.get("/v1/workflows?limit=500&state=running").await?;
    Some(busy + live_jobs(client).await? + runs["items"].as_array()?.len())
}

/// Jobs that have not ended, as far as the first page with any shows.
async fn live_jobs(client: &Client) -> Option<usize> {
    let states = "state=blocked&state=scheduled&state=ready&state=running&state=retrying";
    let mut after = String::new();
    for _ in 0..PAGES_MAX {
        let page = client.get(&format!("/v1/jobs?limit=500&{states}{after}")).await?;
        let found = page["items"].as_array()?.len();
        match page["next_cursor"].as_str() {
            // A page may hold no job and still have a next one: the API looks at so many rows for each.
            Some(next) if found == 0 => after = format!("&cursor={next}"),
            next => return Some(found + usize::from(next.is_some())),
        }
    }
    None
}

async fn gather<T: Target>(scene: &Scene<T>) -> anyhow::Result<Evidence> {
    let ledger = Dump::take(&scene.client).await?;
    let folder = scene.fleet.folder();
    ledger.write(&folder.join("ledger.json"))?;
    scene.history.flush().context("the history is not whole")?;
    let history = history::read(&folder.join("history.jsonl"))?;
    let effects = crate::effects::read(&scene.fleet.effects())?;
    Ok(Evidence { history, effects, ledger })
}

/// What 3A always requires, and what is always worth knowing.
fn common(
    seen: &Seen<'_>,
    after: Duration,
    dead: usize,
    drained: Option<Duration>,
    unknown: usize,
) -> Vec<Figure> {
    let drained = drained.map(|took| took.as_secs_f64());
    let mut figures = vec![
        Figure::at_most("violations", count(seen.verdict.violations.len()), "", 0.0),
        Figure::at_most("processes that ended by themselves", count(dead), "", 0.0),
        Figure::at_most("drained after", drained, "s", DRAIN_MAX.as_secs_f64()),
        Figure::told("accepted", seen.verdict.accepted as f64, ""),
        Figure::told("jobs", seen.verdict.jobs as f64, ""),
        Figure::told("outcomes unknown at first", count(unknown), ""),
        Figure::told("extra executions", seen.verdict.extra_total() as f64, ""),
    ];
    let rates = rates::around(&seen.index.executions, seen.fault, seen.heal, after);
    figures.push(Figure::told("jobs/s before", rates.before, ""));
    let recovered = rates.recovered_after_s;
    figures.push(Figure::at_most("90 % of it again after", recovered, "s", RECOVERY_MAX_S));
    figures
}
