//! The processes of a world: the product's own code, on this world's doors.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_scheduler::SchedulerSettings;
use windlass_shared::clock::Clock;
use windlass_shared::config::WorkerSettings;
use windlass_shared::lifecycle::Lifecycle;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::reporter::ledger::LedgerReporter;
use windlass_worker::worker::Worker;

use crate::client;
use crate::orders::{KIND, Order, Plan};
use crate::story::Effect;
use crate::world::{QUEUES, Who, World, namespace, queue};
use crate::{below, wires};

/// How long a worker may drain.
const DRAIN: Duration = Duration::from_secs(5);

/// What every start of a process needs.
#[derive(Clone)]
pub struct Crew {
    /// Where it lives.
    pub world: Arc<World>,
    /// What clients want.
    pub orders: Arc<Vec<Order>>,
    /// How long leases last.
    pub lease: Duration,
}

impl Crew {
    /// The main task of a process, until `shutdown` or its own end.
    pub fn main(&self, who: Who, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        match who {
            Who::ApiA | Who::ApiB => Box::pin(self.clone().api(who, shutdown)),
            Who::WorkerA | Who::WorkerB => Box::pin(self.clone().worker(who, shutdown)),
            Who::SchedulerA | Who::SchedulerB => Box::pin(self.clone().scheduler(who, shutdown)),
        }
    }

    fn life(&self, who: Who, shutdown: &CancellationToken, tasks: &TaskTracker) -> Lifecycle {
        let (ledger, engine) = (wires::ledger(&self.world, who), wires::engine(&self.world, who));
        Lifecycle::start(ledger, engine, Clock::System, shutdown.clone(), tasks.clone())
    }

    async fn api(self, who: Who, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let life = self.life(who, &shutdown, &tasks);
        client::serve(&self, who, &life, &shutdown).await;
        shutdown.cancelled().await;
        tasks.close();
        drop(life);
        tasks.wait().await;
    }

    async fn scheduler(self, who: Who, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let life = self.life(who, &shutdown, &tasks);
        windlass_scheduler::run(life, SchedulerSettings::default(), shutdown).await;
        tasks.close();
        tasks.wait().await;
    }

    async fn worker(self, who: Who, shutdown: CancellationToken) {
        let settings = WorkerSettings {
            name: format!("{who:?}"),
            queues: QUEUES.iter().map(|name| (queue(name), 1)).collect(),
            concurrency: 4,
            lease: self.lease,
            drain_timeout: DRAIN,
            ..WorkerSettings::default()
        };
        let world = Arc::clone(&self.world);
        // In place of the API that it reports to.
        let (tasks, closed) = (TaskTracker::new(), CancellationToken::new());
        let reporter = LedgerReporter::new(self.life(who, &closed, &tasks), namespace());
        let worker = Worker::builder(settings)
            .engine(wires::engine(&world, who))
            .reporter(Arc::new(reporter))
            .handle(KIND, move |context: Context, plan: Plan| {
                perform(Arc::clone(&world), who, context, plan)
            })
            .build()
            .expect("the settings are in order");
        if let Err(error) = worker.run(shutdown).await {
            self.world.note(format_args!("{who:?} ends: {error}"));
        }
        closed.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

/// A handler that runs; its end is noted however it comes.
struct Running {
    world: Arc<World>,
    place: usize,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.world.state().story.ends(self.place);
    }
}

async fn perform(
    world: Arc<World>,
    who: Who,
    context: Context,
    plan: Plan,
) -> Result<u32, HandlerError> {
    let attempt = context.attempt();
    let running = {
        let mut state = world.state();
        let effect = Effect {
            job: context.job_id(),
            fence: context.fence().0,
            who,
            generation: state.generation,
            from: below::now_ns(),
            to: None,
        };
        let engine_us = below::wall_us() + state.engine_skew;
        let place = state.story.begins(effect, context, engine_us);
        Running { world: Arc::clone(&world), place }
    };
    tokio::time::sleep(Duration::from_millis(plan.ms)).await;
    drop(running);
    if attempt <= plan.fails {
        return Err(HandlerError::retryable("planned", "as planned"));
    }
    if plan.dead {
        return Err(HandlerError::permanent("planned_end", "as planned"));
    }
    Ok(attempt)
}
