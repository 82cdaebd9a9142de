//! The effect worker: built as `windlass worker` is, with handlers that leave evidence.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde::{Deserialize, Serialize};
use windlass_shared::config::{self, Inputs, Process};
use windlass_shared::shutdown::Shutdown;
use windlass_shared::telemetry::{logs, metrics::Metrics};
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::worker::Worker;

use crate::effects::{Effect, EffectLog, End, Phase};
use crate::fenced::FencedStore;
use crate::stamp::Stamp;

/// The handler that only writes its two lines.
pub const EFFECT: &str = "rig.effect";
/// The handler that also writes to a store with fences, at its start and at its end.
pub const FENCED: &str = "rig.fenced";
/// How long tasks may take to end after a drain; as `windlass worker`.
const TASKS_END: Duration = Duration::from_secs(15);

/// Flags of `windlass-rig worker`. All else comes from the settings of `windlass worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// The effect log to append to
    #[arg(long, value_name = "FILE")]
    pub effects: PathBuf,
    /// Folder of the store with fences
    #[arg(long, value_name = "FOLDER")]
    pub fenced: PathBuf,
    /// Flush every line to the disk before going on
    #[arg(long)]
    pub synced: bool,
}

/// Payload of both handlers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// How long it takes.
    pub ms: u64,
    /// The first so many attempts fail, with the code `planned`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fails: u32,
    /// It does not wait but computes, without ever giving its thread back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spin: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Runs the worker until SIGTERM or SIGINT.
///
/// # Errors
/// Settings are wrong, the evidence cannot be kept, or the worker stopped.
pub async fn run(args: WorkerArgs) -> anyhow::Result<()> {
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let inputs = Inputs { process: Process::Worker, file: None, env, flags: Vec::new() };
    let settings = config::load(&inputs)?;
    logs::init(&settings.log).map_err(|why| anyhow!(why))?;
    let metrics = Metrics::install().map_err(|why| anyhow!(why))?;
    let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
    metrics.spawn_upkeep(shutdown.token.clone(), &shutdown.tasks);
    let evidence = Arc::new(Evidence {
        log: EffectLog::open(&args.effects, args.synced)?,
        store: FencedStore::open(&args.fenced).context("store with fences")?,
        worker: settings.worker.name.clone(),
    });
    let fenced = Arc::clone(&evidence);
    let engine = settings.engine.clone().context("WINDLASS_ENGINE__URL is not set")?;
    let worker = Worker::builder(settings.worker)
        .engine(engine)
        .builtin()
        .handle(EFFECT, move |ctx, work| execute(Arc::clone(&evidence), ctx, work, false))
        .handle(FENCED, move |ctx, work| execute(Arc::clone(&fenced), ctx, work, true))
        .build()?;
    let worked = worker.run(shutdown.token.clone()).await;
    shutdown.token.cancel();
    anyhow::ensure!(shutdown.finished(TASKS_END).await, "tasks of the worker did not end in time");
    Ok(worked?)
}

/// Where evidence goes.
struct Evidence {
    log: EffectLog,
    store: FencedStore,
    worker: String,
}

/// One execution between its two lines. Dropped before its end, it says so.
struct Execution {
    evidence: Arc<Evidence>,
    effect: Effect,
    ended: bool,
}

impl Execution {
    fn start(evidence: Arc<Evidence>, ctx: &Context) -> std::io::Result<Self> {
        let now = Stamp::now();
        let effect = Effect {
            phase: Phase::Start,
            job: ctx.job_id().to_string(),
            fence: ctx.fence().0,
            worker: evidence.worker.clone(),
            attempt: ctx.attempt(),
            kind: ctx.kind().to_string(),
            queue: ctx.queue().to_string(),
            step: ctx.step().map(|step| (step.id.to_string(), step.step.to_string())),
            started: now,
            at: now,
            end: None,
        };
        evidence.log.append(&effect)?;
        Ok(Self { evidence, effect, ended: false })
    }

    fn end(&mut self, end: End) -> std::io::Result<()> {
        self.ended = true;
        self.effect.phase = Phase::End;
        self.effect.at = Stamp::now();
        self.effect.end = Some(end);
        self.evidence.log.append(&self.effect)
    }

    fn write_fenced(&self) -> std::io::Result<bool> {
        self.evidence.store.write(&self.effect.job, self.effect.fence)
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        if !self.ended {
            // An end that cannot be written looks like that of a killed worker, which nothing allows for: it shows.
            let _ = self.end(End::Dropped);
        }
    }
}

async fn execute(
    evidence: Arc<Evidence>,
    ctx: Context,
    work: Work,
    fenced: bool,
) -> Result<(), HandlerError> {
    let mut execution = Execution::start(evidence, &ctx)?;
    if fenced && !execution.write_fenced()? {
        execution.end(End::Refused)?;
        return Err(HandlerError::retryable("refused", "the store has seen a higher fence"));
    }
    let length = Duration::from_millis(work.ms);
    if work.spin {
        let until = std::time::Instant::now() + length;
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
    } else {
        tokio::time::sleep(length).await;
    }
    if fenced && !execution.write_fenced()? {
        execution.end(End::Refused)?;
        return Err(HandlerError::retryable("refused", "the store has seen a higher fence"));
    }
    if ctx.attempt() <= work.fails {
        execution.end(End::Planned)?;
        return Err(HandlerError::retryable("planned", "as the payload says"));
    }
    execution.end(End::Ok)?;
    Ok(())
}
