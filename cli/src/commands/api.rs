//! `windlass api`: the public HTTP API.

use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;
use windlass_api::serve::{Bounds, serve};
use windlass_shared::clock::Clock;
use windlass_shared::config::{ADMIN_LISTEN_API, Process};
use windlass_shared::lifecycle::Lifecycle;

use super::role;
use crate::admin;
use crate::boot::{self, Booted};
use crate::exit::Outcome;
use crate::setup::{SettingsArgs, flag};

const EXAMPLES: &str = "\
Needs WINDLASS_LEDGER__URL (PostgreSQL, migrated) and WINDLASS_ENGINE__URL (Redis). Any number may run. \
Callers need a key: `windlass key create --role submitter --name my-service`.
Probes and metrics: http://127.0.0.1:9090/readiness and /metrics.";

/// Serve the HTTP API (any number may run)
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ApiArgs {
    /// Address to serve on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address of probes and metrics [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the command.
pub async fn run(args: ApiArgs) -> Outcome {
    let flags = [
        flag("api.listen", "--listen", args.listen),
        flag("admin.listen", "--admin-listen", args.admin_listen),
    ];
    let settings = args.settings.load(Process::Api, flags.into_iter().flatten().collect())?;
    settings.ledger()?;
    settings.engine()?;
    let admin_address = settings.admin_listen.unwrap_or(ADMIN_LISTEN_API);
    let Booted { metrics, shutdown } = boot::boot("api", &settings)?;
    let public = boot::listen(settings.api.listen, "api.listen").await?;
    let private = boot::listen(admin_address, "admin.listen").await?;
    let ledger = boot::open_ledger(&settings, &shutdown.token).await?;
    boot::watch_ledger(&ledger, &shutdown);
    let engine = boot::open_engine(&settings, &shutdown.token).await?;

    // Carries jobs to the engine until the last request has ended, so later than the drain begins.
    let ended = CancellationToken::new();
    let life = Lifecycle::start(
        ledger.clone(),
        engine,
        Clock::System,
        ended.clone(),
        shutdown.tasks.clone(),
    );
    let render = Arc::new(move || metrics.render());
    let app = role::app(&settings, life, render, shutdown.token.clone());
    let router = windlass_api::admin_router(app.clone());
    let admin = admin::spawn(private, router, ended.clone(), &shutdown.tasks);
    tracing::info!(listen = %settings.api.listen, admin = %admin_address, "serving");
    let bounds = Bounds::from(&settings.api);
    serve(public, windlass_api::router(app), bounds, shutdown.token.clone()).await;
    ended.cancel();
    let _ = admin.await;
    boot::finish("api", &shutdown).await?;
    ledger.close().await;
    Ok(())
}
