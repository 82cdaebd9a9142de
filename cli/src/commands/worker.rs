//! `windlass worker`: claims jobs and runs their handlers.

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use windlass_shared::config::{ADMIN_LISTEN_WORKER, Process};
use windlass_worker::worker::Worker;

use crate::admin::{self, Admin};
use crate::boot::{self, Booted};
use crate::exit::{Failure, Outcome};
use crate::setup::{SettingsArgs, flag};

const EXAMPLES: &str = "\
Needs WINDLASS_ENGINE__URL (Redis); no ledger. Any number may run. With WINDLASS_WORKER__API_URL and \
WINDLASS_WORKER__API_KEY (`windlass key create --role worker`) it also sends logs, progress and large \
values, and shows up in `GET /v1/workers`.
  windlass worker --queues default,io:3 --concurrency 32
  WINDLASS_WORKER__RATE_LIMITS='http.request=50/s' windlass worker     starts no more of a kind than that
On SIGTERM it claims nothing more, finishes within the drain time-out, hands the rest back and exits 0.
Probes and metrics: http://127.0.0.1:9091/readiness and /metrics.";

/// Run jobs (any number may run)
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WorkerArgs {
    /// Jobs at once [default: 16]
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Queues with weights, such as default,io:3 [default: default]
    #[arg(long)]
    queues: Option<String>,
    /// Address of probes and metrics [default: 127.0.0.1:9091]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the command.
pub async fn run(args: WorkerArgs) -> Outcome {
    let flags = [
        flag("worker.concurrency", "--concurrency", args.concurrency),
        flag("worker.queues", "--queues", args.queues),
        flag("admin.listen", "--admin-listen", args.admin_listen),
    ];
    let settings = args.settings.load(Process::Worker, flags.into_iter().flatten().collect())?;
    let engine_settings = settings.engine()?.clone();
    let address = settings.admin_listen.unwrap_or(ADMIN_LISTEN_WORKER);
    let Booted { metrics, shutdown } = boot::boot("worker", &settings)?;
    let worker = Worker::builder(settings.worker.clone())
        .engine(engine_settings)
        .builtin()
        .build()
        .map_err(|error| {
            Failure::Usage(format!("settings are wrong: {:#}", anyhow::Error::new(error)))
        })?;
    let listener = boot::listen(address, "admin.listen").await?;
    // The worker opens connections of its own; this one waits for the server and answers the probes.
    let engine = boot::open_engine(&settings, &shutdown.token).await?;
    let router = admin::router(Admin {
        role: "worker",
        metrics,
        ledger: None,
        engine,
        draining: shutdown.token.clone(),
    });
    let stopped = CancellationToken::new();
    let admin = admin::spawn(listener, router, stopped.clone(), &shutdown.tasks);
    tracing::info!(admin = %address, concurrency = settings.worker.concurrency, "working");
    let worked = worker.run(shutdown.token.clone()).await;
    stopped.cancel();
    let _ = admin.await;
    boot::finish("worker", &shutdown).await?;
    Ok(worked.context("the worker stopped")?)
}
