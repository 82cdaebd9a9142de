//! A worker process: its tasks, in the order in which they start and stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_shared::clock::Clock;
use windlass_shared::config::WorkerSettings;
use windlass_shared::engine::{ClaimRequest, Engine, EngineError, ShardId};
use windlass_shared::gate::Gate;
use windlass_shared::limits::ENGINE_BATCH_MAX;
use windlass_shared::model::id::{LeaseId, WorkerId};
use windlass_shared::model::name::QueueName;

use crate::acker::Acker;
use crate::attempt::{Crew, StopReason};
use crate::breaker::Breaker;
use crate::builder::{EngineSource, WorkerBuilder};
use crate::claimer::{ALONE_WAIT, Claimer, WEIGHT_WAIT};
use crate::direct::{self, Direct};
use crate::executor::Executor;
use crate::home::Home;
use crate::keeper::{Keeper, KeeperThread};
use crate::leases::Leases;
use crate::local_rates::LocalRates;
use crate::metrics::{self, MetricsByKind};
use crate::registry::Registry;
use crate::reporter::buffer::Reports;
use crate::reporter::pump::Pump;
use crate::reporter::{Beat, SharedReporter};
use crate::ring::Rings;
use crate::rotation::Rotation;
use crate::runtime;

/// Handlers that were told to stop at the end of a drain have this long to be gone.
const FORCED_STOP_MAX: Duration = Duration::from_secs(8);
/// Outcomes that the engine has lost, or never answered, are sent to the ledger this long at the end, or until the
/// drain time is over if that is later.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(5);
/// Settles are tried this long after the last attempt has ended, while the engine is away.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

/// A worker that is ready to run.
pub struct Worker {
    pub(crate) settings: WorkerSettings,
    pub(crate) source: EngineSource,
    pub(crate) reporter: SharedReporter,
    pub(crate) registry: Arc<Registry>,
    /// Another worker shows the gauges of this process.
    pub(crate) is_aside: bool,
}

/// Why a worker ended other than by its shutdown.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The engine could not be opened.
    #[error("cannot open the engine")]
    Engine(#[from] EngineError),
    /// A part of the worker broke; it has stopped as far as it could.
    #[error("the worker's {part} broke")]
    Broken {
        /// Which part.
        part: &'static str,
        /// How.
        #[source]
        cause: anyhow::Error,
    },
    /// The engine stayed away, and the ledger could not be told either: these attempts ended, but their jobs will run
    /// again.
    #[error("{0} ended attempts could not be settled before the worker had to stop")]
    Unsettled(usize),
}

/// The parts of a running worker.
struct Parts {
    engine: Engine,
    leases: Arc<Leases>,
    rings: Arc<Rings>,
    keeper: KeeperThread,
    claimer: JoinHandle<()>,
    runtime: JoinHandle<anyhow::Result<()>>,
    acker: JoinHandle<usize>,
    direct: JoinHandle<usize>,
    pump: JoinHandle<()>,
    stop_claiming: CancellationToken,
    stop_runtime: CancellationToken,
    stop_direct: CancellationToken,
    stop_pump: CancellationToken,
    drain: CancellationToken,
    last_try: Arc<AtomicBool>,
}

impl Worker {
    /// Begins to put a worker together.
    pub fn builder(settings: WorkerSettings) -> WorkerBuilder {
        WorkerBuilder::new(settings)
    }

    /// Works until `shutdown` fires, then drains: claims nothing more, lets attempts end within the drain
    /// time, hands back those that don't, settles what is left, and returns. Dropped before, it claims
    /// nothing more, but leases are not kept any longer while attempts end unattended.
    ///
    /// # Errors
    /// When the engine cannot be opened at the start; later troubles of the engine are waited out. When a
    /// part breaks, or settles could not be delivered at the end.
    pub fn run(self, shutdown: CancellationToken) -> BoxFuture<'static, Result<(), WorkerError>> {
        Box::pin(self.work(shutdown))
    }

    async fn work(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        metrics::describe();
        let drain_timeout = self.settings.drain_timeout;
        let mut parts = self.start().await?;
        // If this future is dropped all the same, no part is left working for ever.
        let _stop =
            [&parts.stop_claiming, &parts.stop_runtime, &parts.stop_direct, &parts.stop_pump]
                .map(|token| token.clone().drop_guard());
        let broken = tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            broken = parts.watch() => Some(broken),
        };
        let ended = parts.stop(drain_timeout).await;
        broken.map_or(ended, Err)
    }

    async fn start(self) -> Result<Parts, WorkerError> {
        let engine = self.source.open().await?;
        let id = WorkerId::generate();
        let shards = self.settings.queues.iter().map(|(queue, _)| self.shard(queue));
        let rings = Arc::new(Rings::new(shards));
        let leases = Arc::new(Leases::default());
        let keeper = Keeper {
            leases: Arc::clone(&leases),
            rings: Arc::clone(&rings),
            worker: id,
            lease: self.settings.lease,
        };
        let keeper = keeper.start(self.source.shares(&engine)).await?;
        let gate = Gate::new();
        let crew = Arc::new(Crew {
            worker_name: self.settings.name.clone(),
            reports: Reports::default(),
            reporter: Arc::clone(&self.reporter),
            gate: gate.clone(),
            home: Home::default(),
        });
        let last_try = Arc::new(AtomicBool::new(false));
        let waiting_max = (self.settings.concurrency as usize).max(ENGINE_BATCH_MAX);
        let (acks, acker) = Acker::new(&engine, &leases, &rings, waiting_max, &last_try);
        let direct = self.direct(id, &crew, &rings, &engine);
        let executor = Arc::new(Executor {
            registry: Arc::clone(&self.registry),
            reporter: Arc::clone(&self.reporter),
            acks: acks.clone(),
            gate,
            metrics: MetricsByKind::default(),
            breaker: Breaker::default(),
            lease: self.settings.lease,
        });
        let (starts, starts_rx) = mpsc::channel(self.settings.concurrency as usize);
        let stop_claiming = CancellationToken::new();
        let stop_runtime = CancellationToken::new();
        let stop_direct = CancellationToken::new();
        let stop_pump = CancellationToken::new();
        let drain = CancellationToken::new();
        let (kinds, limits) = (self.registry.kinds(), &self.settings.rate_limits);
        let rates = LocalRates::new(kinds, limits, Instant::now());
        let claimer = Claimer {
            engine: engine.clone(),
            crew: Arc::clone(&crew),
            leases: Arc::clone(&leases),
            executor: Arc::clone(&executor),
            acks,
            starts,
            slots: Arc::new(Semaphore::new(self.settings.concurrency as usize)),
            concurrency: self.settings.concurrency,
            request: self.request(id),
            queues: self.rotation(rates.turns()),
            rates,
            weight_wait: WEIGHT_WAIT,
            alone_wait: ALONE_WAIT,
            is_aside: self.is_aside,
            stop: stop_claiming.clone(),
        };
        let pump = self.pump(id, crew, (&leases, &rings), drain.clone());
        let (name, stop) = (self.settings.name.clone(), stop_runtime.clone());
        let runtime =
            tokio::spawn(async move { runtime::run(&name, starts_rx, executor, stop).await });
        tracing::info!(worker.id = %id, worker.name = %self.settings.name, "the worker has started");
        Ok(Parts {
            engine,
            leases,
            rings,
            keeper,
            claimer: tokio::spawn(claimer.run()),
            runtime,
            acker: tokio::spawn(acker.run()),
            direct: tokio::spawn(direct.run(stop_direct.clone())),
            pump: tokio::spawn(pump.run(stop_pump.clone())),
            stop_claiming,
            stop_runtime,
            stop_direct,
            stop_pump,
            drain,
            last_try,
        })
    }

    fn shard(&self, queue: &QueueName) -> ShardId {
        ShardId::first(self.settings.namespace.clone(), queue.clone())
    }

    fn rotation(&self, turns: usize) -> Rotation {
        let turns_of = |(queue, weight): &(QueueName, u32)| {
            std::iter::repeat_n((self.shard(queue), *weight), turns)
        };
        Rotation::new(self.settings.queues.iter().flat_map(turns_of))
    }

    fn request(&self, worker: WorkerId) -> ClaimRequest {
        ClaimRequest {
            worker,
            lease_id: LeaseId::random(),
            max: 0,
            lease: self.settings.lease,
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        }
    }

    fn direct(
        &self,
        worker: WorkerId,
        crew: &Arc<Crew>,
        rings: &Arc<Rings>,
        engine: &Engine,
    ) -> Direct {
        Direct {
            rings: Arc::clone(rings),
            engine: engine.clone(),
            reporter: Arc::clone(&self.reporter),
            crew: Arc::clone(crew),
            worker,
            most: direct::CALL_MAX,
            alone: false,
            lost: 0,
        }
    }

    fn pump(
        &self,
        id: WorkerId,
        crew: Arc<Crew>,
        (leases, rings): (&Arc<Leases>, &Arc<Rings>),
        drain: CancellationToken,
    ) -> Pump {
        let beat = Beat {
            id,
            name: self.settings.name.clone(),
            host: host_name(),
            version: env!("CARGO_PKG_VERSION").into(),
            queues: self.settings.queues.iter().map(|(queue, _)| queue.clone()).collect(),
            kinds: self.registry.kinds(),
            concurrency: self.settings.concurrency,
            running: 0,
            started_at: Clock::System.now(),
        };
        let (leases, rings) = (Arc::clone(leases), Arc::clone(rings));
        Pump { reporter: Arc::clone(&self.reporter), crew, beat, leases, rings, drain }
    }
}

impl Parts {
    /// Returns when a part breaks. When an operator asks for it, claiming stops and the worker idles on:
    /// ending the process would only have it started again.
    async fn watch(&mut self) -> WorkerError {
        let mut draining = false;
        loop {
            tokio::select! {
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    self.stop_claiming.cancel();
                }
                end = &mut self.claimer, if !draining => return broken("claimer", end),
                end = &mut self.acker => return broken("acker", end.map(|_| ())),
                end = &mut self.direct => return broken("direct path", end.map(|_| ())),
                end = &mut self.pump => return broken("reporter", end),
                () = self.keeper.ended() => {
                    // Nobody extends leases any more: what must not run twice is stopped while its lease lasts.
                    self.leases.stop_exclusive(Duration::ZERO);
                    return broken("lease keeper", Ok(()));
                }
                end = &mut self.runtime => {
                    return match end {
                        Ok(Err(cause)) => WorkerError::Broken { part: "runtime", cause },
                        end => broken("runtime", end.map(|_| ())),
                    };
                }
            }
        }
    }

    async fn stop(mut self, drain_timeout: Duration) -> Result<(), WorkerError> {
        let deadline = Instant::now() + drain_timeout;
        tracing::info!(running = self.leases.len(), "the worker drains");
        self.stop_claiming.cancel();
        finish(&mut self.claimer).await;
        self.stop_runtime.cancel();
        if tokio::time::timeout_at(deadline, finish(&mut self.runtime)).await.is_err() {
            tracing::warn!(
                running = self.leases.len(),
                "the drain time is over; jobs are handed back"
            );
            self.leases.stop_all(StopReason::Drain);
            if tokio::time::timeout(FORCED_STOP_MAX, finish(&mut self.runtime)).await.is_err() {
                self.runtime.abort();
                finish(&mut self.runtime).await;
            }
        }
        let unsettled = self.settle_rest().await + self.flush(deadline).await;
        self.keeper.stop().await;
        self.stop_pump.cancel();
        finish(&mut self.pump).await;
        tracing::info!("the worker has stopped");
        if unsettled > 0 { Err(WorkerError::Unsettled(unsettled)) } else { Ok(()) }
    }

    /// Waits for the acker, which ends once everybody who can hand in settles is gone. What it gives up is left to the
    /// direct path; how many attempts are not.
    async fn settle_rest(&mut self) -> usize {
        if self.acker.is_finished() {
            return 0;
        }
        if tokio::time::timeout(SETTLE_TIME_MAX, &mut self.acker).await.is_ok() {
            return 0;
        }
        self.last_try.store(true, Ordering::Release);
        match tokio::time::timeout(SETTLE_TIME_MAX, &mut self.acker).await {
            Ok(_) => 0,
            Err(_) => {
                self.acker.abort();
                self.leases.len()
            }
        }
    }

    /// Brings the last outcomes into the ledger; how many neither the engine nor the ledger has taken.
    async fn flush(&mut self, deadline: Instant) -> usize {
        if self.direct.is_finished() {
            return 0;
        }
        let deadline = deadline.max(Instant::now() + FLUSH_TIME_MAX);
        direct::flush(&self.rings, &self.engine, deadline).await;
        self.stop_direct.cancel();
        (&mut self.direct).await.unwrap_or(0)
    }
}

/// Waits for a task, unless that has been done.
async fn finish<T>(task: &mut JoinHandle<T>) {
    if !task.is_finished() {
        // How it ended was dealt with by `watch`, or does not matter any more.
        let _ = task.await;
    }
}

fn broken(part: &'static str, end: Result<(), JoinError>) -> WorkerError {
    let cause = match end {
        Ok(()) => anyhow::anyhow!("it ended before it was told to"),
        Err(error) => error.into(),
    };
    WorkerError::Broken { part, cause }
}

/// What this host calls itself; `unknown` where it does not say.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}
