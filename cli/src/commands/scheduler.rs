//! `windlass scheduler`: records outcomes, sweeps, keeps house.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use windlass_scheduler::SchedulerSettings;
use windlass_shared::clock::Clock;
use windlass_shared::config::{ADMIN_LISTEN_SCHEDULER, Process};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::verify::VerifySettings;
use windlass_shared::shutdown::Shutdown;

use crate::admin::{self, Admin};
use crate::boot::{self, Booted};
use crate::exit::{Failure, Outcome};
use crate::setup::{SettingsArgs, flag};
use crate::system::{self, Api, Installation};

const EXAMPLES: &str = "\
Needs WINDLASS_LEDGER__URL (PostgreSQL) and WINDLASS_ENGINE__URL (Redis). Any number may run; they share \
the work, and one of them leads. While none runs, jobs still start and finish, but their outcomes wait to \
be recorded, and a Redis that has started anew gives out nothing until it was compared with the ledger.
Probes and metrics: http://127.0.0.1:9092/readiness and /metrics.";

/// Record outcomes, repair, keep house (any number may run)
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SchedulerArgs {
    /// Address of probes and metrics [default: 127.0.0.1:9092]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the command.
pub async fn run(args: SchedulerArgs) -> Outcome {
    let flags = flag("admin.listen", "--admin-listen", args.admin_listen);
    let settings = args.settings.load(Process::Scheduler, flags.into_iter().collect())?;
    settings.ledger()?;
    settings.engine()?;
    let address = settings.admin_listen.unwrap_or(ADMIN_LISTEN_SCHEDULER);
    let Booted { metrics, shutdown } = boot::boot("scheduler", &settings)?;
    let listener = boot::listen(address, "admin.listen").await?;
    let ledger = boot::open_ledger(&settings, &shutdown.token).await?;
    boot::watch_ledger(&ledger, &shutdown);
    let engine = boot::open_engine(&settings, &shutdown.token).await?;

    let router = admin::router(Admin {
        role: "scheduler",
        metrics,
        ledger: Some(ledger.clone()),
        engine: engine.clone(),
        draining: shutdown.token.clone(),
    });
    let stopped = CancellationToken::new();
    let admin = admin::spawn(listener, router, stopped.clone(), &shutdown.tasks);
    // Carries jobs to the engine until the last part has ended, so later than the drain begins.
    let ended = CancellationToken::new();
    let life = Lifecycle::start(
        ledger.clone(),
        engine,
        Clock::System,
        ended.clone(),
        shutdown.tasks.clone(),
    );
    tracing::info!(admin = %address, "scheduling");
    let installation = Installation {
        life: life.clone(),
        settings: Arc::new(settings.clone()),
        source: settings.engine()?.clone().into(),
        api: settings
            .worker
            .api_url
            .clone()
            .map(|url| Api { url, key: settings.worker.api_key.clone() }),
        stopping: shutdown.token.clone(),
    };
    let own = tokio::spawn(system::run(installation));
    let verify = VerifySettings { grace: settings.worker.lease, ..VerifySettings::default() };
    let duties = SchedulerSettings {
        retention: settings.retention.clone(),
        name: format!("{} ({})", windlass_worker::worker::host_name(), std::process::id()),
        verify,
        overwatch: settings.overwatch.clone(),
        ..SchedulerSettings::default()
    };
    let worked = schedule(life, duties, own, &shutdown).await;
    ended.cancel();
    stopped.cancel();
    let _ = admin.await;
    boot::finish("scheduler", &shutdown).await?;
    ledger.close().await;
    worked
}

/// Schedules until `shutdown`; a little longer, where the installation's own jobs must be given back first, so that what
/// becomes of them is recorded. A part that breaks stops the other.
async fn schedule(
    life: Lifecycle,
    duties: SchedulerSettings,
    mut own: JoinHandle<anyhow::Result<()>>,
    shutdown: &Shutdown,
) -> Outcome {
    let last = CancellationToken::new();
    let mut scheduler = tokio::spawn(windlass_scheduler::run(life, duties, last.clone()));
    let (mut worked, mut scheduled) = (None, None);
    tokio::select! {
        biased;
        () = shutdown.token.cancelled() => {}
        ended = &mut own => {
            tracing::error!("the worker of the installation's own jobs ended; stopping");
            worked = Some(ended);
        }
        ended = &mut scheduler => {
            tracing::error!("the duties ended; stopping");
            scheduled = Some(ended);
        }
    }
    let broken = worked.is_some() || scheduled.is_some();
    shutdown.token.cancel();
    let worked = match worked {
        Some(ended) => ended,
        None => own.await,
    };
    last.cancel();
    let scheduled = match scheduled {
        Some(ended) => ended,
        None => scheduler.await,
    };
    worked.context("the worker of the installation's own jobs panicked")??;
    scheduled.context("the duties panicked")?;
    if broken {
        return Err(Failure::Failed(anyhow!("a part of the scheduler ended by itself")));
    }
    Ok(())
}
