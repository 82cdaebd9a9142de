//! The sustained-load check: a plan in, a report out.
//!
//! It drives a namespace of its own at a rate for a time, through the same submission, claims and settles as everything
//! else, with a worker of its own; then it holds what the ledger says against what its handler saw. Every latency counts
//! from the intended time of a job, so that a stall shows in all the jobs that it delays.
//!
//! Read in this order: `generator` (submits), `effects` (what ran), `ends` (what ended), `audit` (verdicts).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use windlass_shared::config::WorkerSettings;
use windlass_shared::ledger::QueueSettings;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::load_check::{Plan, Report, SETTLE_MAX, SHADOW_QUEUE};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_worker::builder::EngineSource;
use windlass_worker::reporter::ledger::LedgerReporter;
use windlass_worker::worker::Worker;

mod audit;
mod effects;
mod ends;
mod generator;
mod memory;
#[cfg(test)]
mod tests;

use effects::Effects;
use ends::Ends;
use generator::Generator;

/// The kind of the jobs of a load.
const KIND: &str = "check.job";
/// The shadow must give out its first job within this: a leader has to have opened it.
const WARM_UP_MAX: Duration = Duration::from_secs(30);
/// Beyond load, delay, settling and the wait for doubles.
const MARGIN: Duration = Duration::from_secs(60);
/// Progress is told this often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// What ends the worker's attempts when the check is over.
const DRAIN: Duration = Duration::from_secs(1);

/// What a check runs on.
#[derive(Clone)]
pub struct Check {
    /// Submits and reads.
    pub life: Lifecycle,
    /// For the check's worker.
    pub source: EngineSource,
    /// What to do.
    pub plan: Plan,
    /// Where; used for nothing else, before or after.
    pub shadow: Namespace,
    /// Of the jobs: a job that runs twice does so within this after its end.
    pub lease: Duration,
}

/// Why there is no report.
#[derive(Debug)]
pub enum CheckError {
    /// `stop` was cancelled.
    Stopped,
    /// It could not be carried through.
    Broken(anyhow::Error),
}

/// What tests change, so that a check has something to find.
struct Faults {
    wrap: fn(Arc<Effects>) -> Box<dyn windlass_worker::handler::Handler>,
    job: fn(u64, &mut windlass_shared::model::job::NewJob),
    settle: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self { wrap: effects::handler, job: |_, _| {}, settle: SETTLE_MAX }
    }
}

/// Carries a check out; `tell` hears how far it is, from 0 to 100. Leaves the shadow full: see [`Lifecycle::clean_shadow`].
/// When dropped before its end, or where it panics, its worker ends all the same: leases that it leaves run out.
///
/// # Errors
/// It was stopped, or could not be carried through. What it found wrong is in the report.
pub async fn run(
    check: &Check,
    tell: impl Fn(f64, &str) + Sync,
    stop: &CancellationToken,
) -> Result<Report, CheckError> {
    with(check, Faults::default(), &tell, stop).await
}

async fn with(
    check: &Check,
    faults: Faults,
    tell: &(dyn Fn(f64, &str) + Sync),
    stop: &CancellationToken,
) -> Result<Report, CheckError> {
    let effects = Arc::new(Effects::default());
    let worker = worker(check, (faults.wrap)(Arc::clone(&effects))).map_err(CheckError::Broken)?;
    let working_stop = CancellationToken::new();
    // A worker that is dropped claims no more.
    let mut working = AbortOnDropHandle::new(tokio::spawn(worker.run(working_stop.clone())));
    let most = check.plan.duration.0 + check.plan.delay.0 + faults.settle + check.lease + MARGIN;
    let checked = {
        let whole = Box::pin(tokio::time::timeout(most, whole(check, &faults, &effects, tell)));
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(CheckError::Stopped),
            ended = &mut working => {
                let why = format!("the check's worker ended: {ended:?}");
                return Err(CheckError::Broken(anyhow!(why)));
            }
            checked = whole => match checked {
                Ok(checked) => checked.map_err(CheckError::Broken),
                Err(_) => Err(CheckError::Broken(anyhow!("it took longer than {most:?}"))),
            },
        }
    };
    working_stop.cancel();
    // How it ends does not change what was found: leases that it leaves run out.
    let _ = working.await;
    checked
}

/// From the warm-up to the verdicts.
async fn whole(
    check: &Check,
    faults: &Faults,
    effects: &Arc<Effects>,
    tell: &(dyn Fn(f64, &str) + Sync),
) -> anyhow::Result<Report> {
    let queue: QueueName = SHADOW_QUEUE.parse().expect("a legal name");
    let settings = QueueSettings::default();
    let made = check.life.set_queue(&check.shadow, &queue, 0, &settings).await;
    made.context("the shadow's queue cannot be made")?;
    let ends = Ends::start(check.life.ledger().clone());
    let generator = Generator {
        life: check.life.clone(),
        plan: check.plan.clone(),
        shadow: check.shadow.clone(),
        queue,
        ends: Arc::clone(&ends.open),
        change: faults.job,
    };
    tell(0.0, "warming up");
    warm_up(&generator, &ends).await?;

    let memory = memory::Watch::start(check.plan.duration.0)?;
    let loading = generator.load();
    tokio::pin!(loading);
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TELL_EVERY);
    let (mut sent, load) = loop {
        tokio::select! {
            biased;
            done = &mut loading => break done,
            _ = ticks.tick() => {
                let part = began.elapsed().as_secs_f64() / check.plan.duration.0.as_secs_f64();
                tell(part.min(1.0) * 80.0, "under load");
            }
        }
    };
    let grown = memory.end()?;
    generator.resolve(&mut sent).await?;
    tell(80.0, "waiting for the last jobs");
    ends.settled(faults.settle + check.plan.delay.0).await?;
    tell(90.0, "waiting for doubles");
    tokio::time::sleep(check.lease).await;
    let ended = ends.finish();
    audit::audit(check, &audit::Found { sent, load, effects, ended, grown }).await
}

/// One job, there and back, so that the first ones of the load do not wait for the shadow to be opened.
async fn warm_up(generator: &Generator, ends: &Ends) -> anyhow::Result<()> {
    let first = generator.warm_up().await.context("the first job cannot be submitted")?;
    let ended = ends.settled(WARM_UP_MAX).await?;
    ensure!(
        ended,
        "the first job, {first}, did not end within {WARM_UP_MAX:?}: does a scheduler lead?"
    );
    Ok(())
}

fn worker(
    check: &Check,
    handler: Box<dyn windlass_worker::handler::Handler>,
) -> anyhow::Result<Worker> {
    let settings = WorkerSettings {
        name: "check".to_owned(),
        namespace: check.shadow.clone(),
        queues: vec![(SHADOW_QUEUE.parse().expect("a legal name"), 1)],
        concurrency: check.plan.slots,
        lease: check.lease,
        drain_timeout: DRAIN,
        ..WorkerSettings::default()
    };
    let reporter = LedgerReporter::new(check.life.clone(), check.shadow.clone());
    let builder = Worker::builder(settings).engine(check.source.clone());
    Ok(builder.reporter(Arc::new(reporter)).aside().handler(KIND, handler).build()?)
}
