//! One trial of one subject: warm, fault, heal, drain, measure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::install::Drivers;
use super::measure::{self, Measured, measure};
use super::subject::Subject;
use super::trial::{Trial, Variant};
use super::{Peer, fault};
use crate::check::Evidence;
use crate::dump::Dump;
use crate::effects;
use crate::experiments::{Form, Setup};
use crate::history::{self, Fault, Recorder};
use crate::load::Load;
use crate::load::client::Client;
use crate::machine::Machine;
use crate::until::until_seldom;

/// How long a job that is not done is waited for, after the load has stopped: as in `docs/rig.md`.
pub const DRAIN_MAX: Duration = Duration::from_secs(90);
/// How long what was unlocked by hand is waited for.
const BY_HAND_MAX: Duration = Duration::from_secs(30);
/// Between two looks at the processes, and at what is left.
const PACE: Duration = Duration::from_millis(100);
/// Jobs whose state is asked for at once.
const AT_ONCE: usize = 16;
/// What graphile-worker documents for jobs of workers that are known to be gone.
const UNLOCK: &str = "select graphile_worker.force_unlock_workers(array(
    select distinct locked_by from graphile_worker.jobs where locked_at is not null))";

/// How runs are to be made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `windlass` binary.
    pub windlass: PathBuf,
    /// The `windlass-rig` binary.
    pub rig: PathBuf,
    /// The peers' drivers; not needed for Windlass.
    pub drivers: Option<Drivers>,
    /// How long and how large.
    pub form: Form,
    /// What is drawn is drawn from it.
    pub seed: u64,
    /// Keep the folder.
    pub keep: bool,
    /// Says on standard error what is done.
    pub progress: bool,
    /// Where the folder is made.
    pub within: PathBuf,
}

/// What came out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// `E1`.
    pub id: String,
    /// Who.
    pub peer: Peer,
    /// How it was set; empty: as the settings page says.
    pub variant: String,
    /// `short` or `long`.
    pub form: String,
    /// What it was drawn from.
    pub seed: u64,
    /// The figures.
    pub measured: Measured,
    /// States of the jobs that were not done after the drain; `gone`: the subject does not know them.
    pub states: BTreeMap<String, usize>,
    /// From the end of the load until all was done, in s; `None`: not within [`DRAIN_MAX`].
    pub drained_s: Option<f64>,
    /// Whether all was done after what its documentation tells an operator to do by hand.
    pub by_hand: Option<bool>,
    /// What the fault found.
    pub notes: Vec<String>,
    /// Versions of the stores.
    pub stores: BTreeMap<String, String>,
    /// How late a thread of the rig woke at most, in s: what the machine adds to every time.
    pub machine_stall_s: f64,
}

/// What a fault works with.
#[derive(Debug)]
pub struct Stage {
    /// Who.
    pub peer: Peer,
    /// Its processes.
    pub subject: Subject,
    /// For calls that go on record.
    pub client: Client,
    /// The record.
    pub history: Arc<Recorder>,
    /// How long and how large.
    pub form: Form,
    /// For what the fault draws.
    pub rng: StdRng,
    /// What the fault found.
    pub notes: Vec<String>,
    /// Where everything is.
    pub folder: PathBuf,
    progress: Option<Instant>,
}

impl Stage {
    /// Says what is done, where progress is shown.
    pub fn say(&self, text: &str) {
        if let Some(started) = self.progress {
            eprintln!("{:7.2} s  {text}", started.elapsed().as_secs_f64());
        }
    }

    /// Names of the workers, in their order.
    pub fn names(&mut self) -> Vec<String> {
        self.subject.workers().iter().map(|worker| worker.name().to_owned()).collect()
    }

    /// Where the effect log is.
    pub fn effects(&self) -> PathBuf {
        Subject::effects(&self.folder)
    }

    /// Waits for this long, and starts again what ends meanwhile.
    ///
    /// # Errors
    /// A process cannot be started again.
    pub async fn wait(&mut self, length: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + length;
        while Instant::now() < until {
            self.tend()?;
            tokio::time::sleep(PACE.min(until.saturating_duration_since(Instant::now()))).await;
        }
        self.tend()
    }

    fn tend(&mut self) -> anyhow::Result<()> {
        for process in self.subject.tend()? {
            self.say(&format!("{process} has ended by itself"));
            self.history.fault(Fault::Killed { process });
            self.history.mark("ended");
        }
        Ok(())
    }

    fn evidence(&self) -> anyhow::Result<Evidence> {
        self.history.flush().context("the history is not whole")?;
        let history = history::read(&self.folder.join("history.jsonl"))?;
        Ok(Evidence { history, effects: effects::read(&self.effects())?, ledger: Dump::default() })
    }
}

/// Runs one trial of one subject. Its processes are gone when this returns, however it returns.
///
/// # Errors
/// The rig itself failed; what the subject loses is no error.
pub async fn run(
    trial: Trial,
    peer: Peer,
    variant: Variant,
    settings: &Settings,
) -> anyhow::Result<Outcome> {
    let prefix = format!("windlass-rig-{}-{}-", trial.id(), peer.driver().unwrap_or("windlass"));
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&settings.within)?;
    let ran = run_in(trial, peer, variant, settings, folder.path()).await;
    if settings.keep || ran.is_err() {
        eprintln!("logs and evidence: {}", folder.keep().display());
    }
    ran
}

async fn run_in(
    trial: Trial,
    peer: Peer,
    variant: Variant,
    settings: &Settings,
    folder: &Path,
) -> anyhow::Result<Outcome> {
    let setup = setup(settings);
    let mut stage = prepare(peer, variant, settings, &setup, folder).await?;
    let machine = Machine::watch();
    let load = Load::start(stage.client.clone(), setup.mix.clone(), settings.seed, false);
    stage.wait(setup.warm).await?;
    stage.history.mark("fault");
    fault::apply(trial, &mut stage).await.context("the fault")?;
    stage.history.mark("heal");
    stage.say("healed");
    stage.wait(setup.after).await?;
    stage.history.mark("loaded");
    let unresolved = load.stop().await?;
    stage.say(&format!("the load has stopped; {} outcomes to resolve", unresolved.len()));
    unresolved.resolve().await;
    let drained_s = drain(&mut stage, DRAIN_MAX).await?;
    let machine_stall_s = machine.longest_stall().as_secs_f64();
    let measured = measure(&stage.evidence()?);
    let states = states(&stage.client, &measured.undone).await;
    let by_hand = match peer {
        Peer::GraphileWorker if drained_s.is_none() => Some(unlock(&mut stage).await?),
        _ => None,
    };
    Ok(Outcome {
        id: trial.id().to_owned(),
        peer,
        variant: variant.to_owned(),
        form: settings.form.word().to_owned(),
        seed: settings.seed,
        measured,
        states,
        drained_s,
        by_hand,
        notes: std::mem::take(&mut stage.notes),
        stores: stores(&mut stage.subject)?,
        machine_stall_s,
    })
}

/// That of the experiments, without what not all three can do.
fn setup(settings: &Settings) -> Setup {
    let mut setup = Setup::standard(settings.form);
    setup.fleet.windlass.clone_from(&settings.windlass);
    setup.fleet.rig.clone_from(&settings.rig);
    (setup.mix.steps, setup.mix.fenced) = (0.0, 0.0);
    setup
}

async fn prepare(
    peer: Peer,
    variant: Variant,
    settings: &Settings,
    setup: &Setup,
    folder: &Path,
) -> anyhow::Result<Stage> {
    let progress = settings.progress.then(Instant::now);
    let drivers = settings.drivers.as_ref();
    let subject = Subject::start(folder, peer, variant, setup, drivers).await;
    let subject = subject.with_context(|| format!("{} does not start", peer.name()))?;
    let history = Arc::new(Recorder::create(&folder.join("history.jsonl"))?);
    let (urls, key) = subject.address();
    let client = Client::new(&urls, &key, Arc::clone(&history))?;
    Ok(Stage {
        peer,
        subject,
        client,
        history,
        form: settings.form,
        rng: StdRng::seed_from_u64(settings.seed),
        notes: Vec::new(),
        folder: folder.to_owned(),
        progress,
    })
}

/// Waits until every acknowledged job is done; how long it took, in s, or `None`.
async fn drain(stage: &mut Stage, longest: Duration) -> anyhow::Result<Option<f64>> {
    let (started, mut said) = (Instant::now(), Instant::now());
    loop {
        let left = measure::left(&stage.evidence()?);
        if left == 0 {
            return Ok(Some(started.elapsed().as_secs_f64()));
        }
        if started.elapsed() > longest {
            return Ok(None);
        }
        if said.elapsed() > Duration::from_secs(10) {
            stage.say(&format!("drain: {left} left"));
            said = Instant::now();
        }
        stage.wait(2 * PACE).await?;
    }
}

/// What the subject says of these jobs.
async fn states(client: &Client, jobs: &[String]) -> BTreeMap<String, usize> {
    let asked = futures::stream::iter(jobs).map(|id| async move {
        let found = client.get(&format!("/v1/jobs/{id}")).await;
        let state = found.and_then(|job| job["state"].as_str().map(str::to_owned));
        state.unwrap_or_else(|| "gone".to_owned())
    });
    let words: Vec<String> = asked.buffer_unordered(AT_ONCE).collect().await;
    let mut states = BTreeMap::new();
    for word in words {
        *states.entry(word).or_insert(0) += 1;
    }
    states
}

/// As an operator would; whether all is done then. No worker is at work any more, so none loses a job that it runs.
async fn unlock(stage: &mut Stage) -> anyhow::Result<bool> {
    stage.subject.postgres()?.sql(UNLOCK)?;
    stage.say("unlocked by hand");
    let done = until_seldom(BY_HAND_MAX, || async {
        (measure::left(&stage.evidence().ok()?) == 0).then_some(())
    });
    Ok(done.await.is_ok())
}

fn stores(subject: &mut Subject) -> anyhow::Result<BTreeMap<String, String>> {
    let mut stores = BTreeMap::new();
    if let Ok(redis) = subject.redis() {
        let info = redis.command(&["INFO", "server"])?.text();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        stores.insert("Redis".to_owned(), version.unwrap_or_default().trim().to_owned());
    }
    if let Ok(postgres) = subject.postgres() {
        let version = postgres.sql("show server_version")?;
        let version = version.split_whitespace().next().unwrap_or_default();
        stores.insert("PostgreSQL".to_owned(), version.to_owned());
    }
    Ok(stores)
}
