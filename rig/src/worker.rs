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

use crate::effects::End;
use crate::execution::{Assignment, Evidence, perform};

/// The handler that only writes its two lines.
pub const EFFECT: &str = "rig.effect";
/// The handler that also writes to a store with fences, at its start and at its end.
pub const FENCED: &str = "rig.fenced";
/// The handler that depends on something, see [`Work::needs`].
pub const CALL: &str = "rig.call";
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

/// Payload of all of them.
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
    /// What it depends on is down while this file is there: then it fails, with the code `down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<PathBuf>,
    /// It takes its process down with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poison: Option<Poison>,
}

/// How a handler takes its process down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Poison {
    /// SIGABRT.
    Abort,
    /// The stack runs over, which is SIGSEGV or SIGABRT.
    Overflow,
    /// SIGKILL, as by the kernel when memory runs out.
    Kill,
}

impl Poison {
    /// Does not return.
    pub(crate) fn take(self) {
        match self {
            Self::Abort => std::process::abort(),
            Self::Overflow => {
                std::hint::black_box(deeper(1));
            }
            Self::Kill => {
                let own = std::process::id().to_string();
                let sent = std::process::Command::new("kill").args(["-9", &own]).status();
                unreachable!("SIGKILL to itself was survived: {sent:?}");
            }
        }
    }
}

/// Without end: each level keeps some of the stack.
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn deeper(n: u64) -> u64 {
    let kept = std::hint::black_box([n; 512]);
    deeper(n + 1) + kept[0]
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
    let evidence = Arc::new(Evidence::open(&args.effects, args.synced, &args.fenced)?);
    let name: Arc<str> = settings.worker.name.as_str().into();
    let handler = || {
        let (evidence, name) = (Arc::clone(&evidence), Arc::clone(&name));
        move |ctx, work| execute(Arc::clone(&evidence), Arc::clone(&name), ctx, work)
    };
    let engine = settings.engine.clone().context("WINDLASS_ENGINE__URL is not set")?;
    let worker = Worker::builder(settings.worker)
        .engine(engine)
        .builtin()
        .handle(EFFECT, handler())
        .handle(FENCED, handler())
        .handle(CALL, handler())
        .build()?;
    let worked = worker.run(shutdown.token.clone()).await;
    shutdown.token.cancel();
    anyhow::ensure!(shutdown.finished(TASKS_END).await, "tasks of the worker did not end in time");
    Ok(worked?)
}

async fn execute(
    evidence: Arc<Evidence>,
    worker: Arc<str>,
    ctx: Context,
    work: Work,
) -> Result<(), HandlerError> {
    let assignment = Assignment {
        job: ctx.job_id().to_string(),
        fence: ctx.fence().0,
        worker: worker.to_string(),
        attempt: ctx.attempt(),
        kind: ctx.kind().to_string(),
        queue: ctx.queue().to_string(),
        step: ctx.step().map(|step| (step.id.to_string(), step.step.to_string())),
    };
    match perform(&evidence, assignment, &work).await? {
        End::Ok => Ok(()),
        End::Planned => Err(HandlerError::retryable("planned", "as the payload says")),
        End::Down => Err(HandlerError::retryable("down", "what it depends on is down")),
        End::Refused | End::Dropped => {
            Err(HandlerError::retryable("refused", "the store has seen a higher fence"))
        }
    }
}
