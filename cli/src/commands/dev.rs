//! `windlass dev`: API, worker and scheduler in one process, on the embedded engine and SQLite.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use windlass_api::serve::{Bounds, serve};
use windlass_scheduler::SchedulerSettings;
use windlass_shared::clock::Clock;
use windlass_shared::config::{Process, Settings};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::{Ledger, Role};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::verify::VerifySettings;
use windlass_shared::model::id::WorkerId;
use windlass_shared::shutdown::Shutdown;
use windlass_worker::builder::EngineSource;
use windlass_worker::reporter::ledger::LedgerReporter;
use windlass_worker::worker::{Worker, WorkerError};

use super::role;
use crate::admin;
use crate::boot::{self, Booted};
use crate::exit::{Failure, Outcome};
use crate::output;
use crate::setup::{SettingsArgs, flag};
use crate::system::{self, Api, Installation};

const EXAMPLES: &str = "\
Examples:
  windlass dev                                   then, in another shell:
  windlass job submit echo --payload '\"hi\"' --wait
  windlass dev --listen 127.0.0.1:0 --data-dir /var/lib/windlass --concurrency 64

The same code as in production, on one machine: what is accepted survives a crash. On a loopback address \
no key is needed. On any other, and with WINDLASS_PROFILE=production, one is: the first start writes an \
admin key to FOLDER/admin.key, and that makes others by POST /v1/api-keys.
Probes and /metrics are on the same port.";

/// Run everything in one process; needs nothing installed
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DevArgs {
    /// Address to serve on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the data is kept; made if need be
    #[arg(long, value_name = "FOLDER", default_value = "./windlass-data")]
    data_dir: PathBuf,
    /// Jobs at once [default: 16]
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Queues to work on, with weights, such as default,io:3 [default: default]
    #[arg(long)]
    queues: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the command.
pub async fn run(args: DevArgs) -> Outcome {
    let flags = [
        flag("api.listen", "--listen", args.listen),
        flag("worker.concurrency", "--concurrency", args.concurrency),
        flag("worker.queues", "--queues", args.queues),
    ];
    let process = Process::Dev { data_dir: args.data_dir.clone() };
    let settings = args.settings.load(process, flags.into_iter().flatten().collect())?;
    let (ledger_settings, engine_settings) = (settings.ledger()?, settings.engine()?);
    let _lock = lock(&args.data_dir)?;
    let Booted { metrics, shutdown } = boot::boot("dev", &settings)?;
    let listener = boot::listen(settings.api.listen, "api.listen").await?;
    let address = listener.local_addr().context("a bound listener has an address")?;

    Ledger::migrate(ledger_settings).await.context("cannot migrate the ledger")?;
    let ledger = boot::open_ledger(&settings, &shutdown.token).await?;
    if settings.api.auth_required {
        first_key(&settings, &ledger, &args.data_dir).await?;
    }
    let engine = boot::open_engine(&settings, &shutdown.token).await?;
    let source = match &engine {
        Engine::Redis(_) => EngineSource::from(engine_settings.clone()),
        _ => EngineSource::from(engine.clone()),
    };
    let ended = CancellationToken::new();
    let life = Lifecycle::start(
        ledger.clone(),
        engine,
        Clock::System,
        ended.clone(),
        shutdown.tasks.clone(),
    );
    let worker = worker(&settings, source.clone(), life.clone())?;
    let worker = tokio::spawn(worker.run(shutdown.token.clone()));
    let installation = Installation {
        life: life.clone(),
        settings: Arc::new(settings.clone()),
        source,
        api: Some(Api { url: reached_at(address), key: settings.worker.api_key.clone() }),
        stopping: shutdown.token.clone(),
    };
    let own = tokio::spawn(system::run(installation));
    // The scheduler outlives the others: it records what they leave.
    let last = CancellationToken::new();
    let duties = duties(&settings, &ledger);
    let scheduler = tokio::spawn(windlass_scheduler::run(life.clone(), duties, last.clone()));
    let render = Arc::new(move || metrics.render());
    let app = role::app(&settings, life, render, shutdown.token.clone());
    if let Some(address) = settings.admin_listen {
        let listener = boot::listen(address, "admin.listen").await?;
        let router = windlass_api::admin_router(app.clone());
        admin::spawn(listener, router, ended.clone(), &shutdown.tasks);
    }
    // Without an admin listener it serves the metrics too.
    let router = windlass_api::router(app);
    let bounds = Bounds::from(&settings.api);
    let server = tokio::spawn(serve(listener, router, bounds, shutdown.token.clone()));
    // Nobody need be listening: a closed pipe is no reason to stop.
    let _ = output::line(&format!("windlass dev is ready: http://{address}"));
    tracing::info!(%address, "ready");

    let parts = Parts { server, worker, own, scheduler, last, ended, ledger };
    parts.run_and_stop(&shutdown).await
}

/// Where this process reaches what listens there.
fn reached_at(address: SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() {
            IpAddr::from(Ipv4Addr::LOCALHOST)
        } else {
            IpAddr::from(Ipv6Addr::LOCALHOST)
        };
        address.set_ip(loopback);
    }
    format!("http://{address}")
}

/// What runs, and what stops it.
struct Parts {
    server: JoinHandle<()>,
    worker: JoinHandle<Result<(), WorkerError>>,
    /// The worker of the installation's own jobs.
    own: JoinHandle<anyhow::Result<()>>,
    scheduler: JoinHandle<()>,
    /// Stops the scheduler.
    last: CancellationToken,
    /// Stops what carries jobs to the engine.
    ended: CancellationToken,
    ledger: Ledger,
}

impl Parts {
    /// Until `shutdown`, or until a part breaks; then stops them in order: no more requests and claims, then
    /// what was done is recorded, then the ledger is closed.
    async fn run_and_stop(mut self, shutdown: &Shutdown) -> Outcome {
        let (mut worked, mut own, mut scheduled) = (None, None, None);
        tokio::select! {
            biased;
            () = shutdown.token.cancelled() => {}
            ended = &mut self.worker => {
                tracing::error!("the worker ended; stopping");
                worked = Some(ended);
            }
            ended = &mut self.own => {
                tracing::error!("the worker of the installation's own jobs ended; stopping");
                own = Some(ended);
            }
            ended = &mut self.scheduler => {
                tracing::error!("the scheduler ended; stopping");
                scheduled = Some(ended);
            }
        }
        let broken = worked.is_some() || own.is_some() || scheduled.is_some();
        shutdown.token.cancel();
        self.server.await.context("the server panicked")?;
        let worked = match worked {
            Some(ended) => ended,
            None => self.worker.await,
        };
        let own = match own {
            Some(ended) => ended,
            None => self.own.await,
        };
        self.last.cancel();
        let scheduled = match scheduled {
            Some(ended) => ended,
            None => self.scheduler.await,
        };
        self.ended.cancel();
        boot::finish("dev", shutdown).await?;
        self.ledger.close().await;
        worked.context("the worker panicked")?.context("the worker stopped")?;
        own.context("the worker of the installation's own jobs panicked")??;
        scheduled.context("the scheduler panicked")?;
        if broken {
            return Err(Failure::Failed(anyhow!("a part of dev ended by itself")));
        }
        Ok(())
    }
}

/// Nobody else uses this ledger (`lock`), so its leader is always the same one: a `dev` that was killed leaves no term
/// to wait for. The engine is new, and nobody holds anything of it.
fn duties(settings: &Settings, ledger: &Ledger) -> SchedulerSettings {
    let is_embedded = settings.engine().is_ok_and(|engine| engine.url == "embedded");
    let usual = VerifySettings { grace: settings.worker.lease, ..VerifySettings::default() };
    let verify = if is_embedded {
        VerifySettings { window: Duration::ZERO, ramp: Duration::ZERO, ..usual }
    } else {
        usual
    };
    SchedulerSettings {
        retention: settings.retention.clone(),
        holder: WorkerId::from_bytes(*ledger.id().as_bytes()),
        name: "dev".to_owned(),
        verify,
        overwatch: settings.overwatch.clone(),
    }
}

fn worker(settings: &Settings, source: EngineSource, life: Lifecycle) -> Outcome<Worker> {
    let reporter = LedgerReporter::new(life, settings.worker.namespace.clone());
    Worker::builder(settings.worker.clone())
        .engine(source)
        .reporter(Arc::new(reporter))
        .builtin()
        .build()
        .map_err(|error| {
            Failure::Usage(format!("settings are wrong: {:#}", anyhow::Error::new(error)))
        })
}

/// Without any key nobody could call the API, and no other process can write to a SQLite ledger in use: the
/// first start makes an admin key and writes it to a file that only its owner can read.
async fn first_key(settings: &Settings, ledger: &Ledger, data_dir: &Path) -> Outcome {
    let keys = ledger.keys().await.context("cannot list keys")?;
    if !keys.is_empty() {
        return Ok(());
    }
    let path = data_dir.join("admin.key");
    // Before the key is valid: a key that nobody got to see would lock its owner out.
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let (key, text) = super::key::new_key(settings, ledger, "admin of dev", Role::Admin).await?;
    writeln!(file, "{}", text.expose_secret())?;
    file.sync_all()?;
    ledger.create_key(&key).await.context("cannot keep the key")?;
    tracing::warn!(file = %path.display(), "first start: an admin key was made");
    Ok(())
}

/// Keeps a second `dev` from the same data, until dropped or killed.
fn lock(data_dir: &Path) -> Outcome<File> {
    let name = data_dir.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("cannot make {name}"))?;
    let file =
        File::create(data_dir.join("lock")).with_context(|| format!("cannot write to {name}"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::Failed(anyhow!("another `windlass dev` uses {name}")))
        }
        Err(TryLockError::Error(error)) => {
            Err(Failure::Failed(anyhow::Error::new(error).context(format!("cannot lock {name}"))))
        }
    }
}
