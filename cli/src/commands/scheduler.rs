//! `windlass scheduler`: records outcomes, sweeps, keeps house.

use clap::Args;
use tokio_util::sync::CancellationToken;
use windlass_scheduler::SchedulerSettings;
use windlass_shared::clock::Clock;
use windlass_shared::config::{ADMIN_LISTEN_SCHEDULER, Process};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::verify::VerifySettings;

use crate::admin::{self, Admin};
use crate::boot::{self, Booted};
use crate::exit::Outcome;
use crate::setup::{SettingsArgs, flag};

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
    let life = Lifecycle::start(
        ledger.clone(),
        engine,
        Clock::System,
        shutdown.token.clone(),
        shutdown.tasks.clone(),
    );
    tracing::info!(admin = %address, "scheduling");
    let verify = VerifySettings { grace: settings.worker.lease, ..VerifySettings::default() };
    let duties = SchedulerSettings {
        retention: settings.retention,
        name: format!("{} ({})", windlass_worker::worker::host_name(), std::process::id()),
        verify,
        overwatch: settings.overwatch.clone(),
        ..SchedulerSettings::default()
    };
    windlass_scheduler::run(life, duties, shutdown.token.clone()).await;
    stopped.cancel();
    let _ = admin.await;
    boot::finish("scheduler", &shutdown).await?;
    ledger.close().await;
    Ok(())
}
