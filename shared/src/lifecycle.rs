//! The verbs of a job's life, in order: submit, settle, record, release, reconcile.
//!
//! The ledger is told first, always; the engine is told after. Each gap between the two has one repair:
//! a job in the ledger that the engine lost, or never got, is pushed again by the sweep ([`sweep`]); an
//! outcome in the engine that the ledger has not got is read again by the recorder ([`record`]).

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::engine::feed::FeedPage;
use crate::engine::{Engine, EngineError, Live};
use crate::ledger::{
    Changed, JobFilter, JobPatch, Ledger, LedgerError, Operation, Paused, Queue, QueueSettings,
    Recorded, Submission, SubmitOutcome,
};
use crate::model::id::{JobId, OperationId};
use crate::model::job::Job;
use crate::model::name::{Namespace, QueueName};

mod actions;
mod change;
pub mod circuits;
pub mod compare;
mod delivery;
pub mod depth;
mod ended;
mod engine_time;
pub mod explain;
mod known;
pub mod lease;
mod lost;
mod missed;
pub mod order;
mod pace;
pub mod pump;
pub mod push;
mod quota;
pub mod record;
pub mod resume;
pub mod schedule;
mod shadow;
mod submit;
pub mod sweep;
pub mod verify;
mod wait;
mod withdraw;
pub mod workflow;

pub use actions::Action;
pub use delivery::PushError;
use explain::Explanation;

/// Ledger and engine of one process, and the tasks that carry jobs from the one to the other.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    engine: Engine,
    clock: Clock,
    delivery: delivery::Delivery,
    pusher: push::Pusher,
    waiters: wait::Waiters,
    known_queues: known::KnownQueues,
    circuit_names: Arc<circuits::Names>,
    driver: workflow::drive::Driver,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A job with what the engine says of it, when it says something.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// As recorded.
    pub job: Job,
    /// As the engine has it now; `None` when it is not there or cannot be asked.
    pub live: Option<Live>,
}

/// What became of a request to cancel.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// It will never start.
    Now(Job),
    /// It runs, or the engine cannot be asked: its worker is told, and it ends as cancelled unless a result
    /// is recorded first.
    Requested(Job),
}

impl Lifecycle {
    /// Starts the tasks of this process; they end, flushed, after `shutdown` (await `tasks`).
    pub fn start(
        ledger: Ledger,
        engine: Engine,
        clock: Clock,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        let delivery = delivery::Delivery::new(ledger.clone(), engine.clone());
        let circuit_names = circuits::Names::start(ledger.clone(), shutdown.clone(), &tasks);
        let circuit_names = Arc::new(circuit_names);
        let names = Arc::clone(&circuit_names);
        let pusher = push::Pusher::start(delivery.clone(), names, shutdown.clone(), &tasks);
        let driver = workflow::drive::Driver::new(shutdown.clone());
        let waiters = wait::Waiters::start(ledger.clone(), shutdown.clone(), &tasks);
        let known_queues = known::KnownQueues::default();
        let inner = Inner {
            ledger,
            engine,
            clock,
            delivery,
            pusher,
            waiters,
            known_queues,
            circuit_names,
            driver,
            stop: shutdown,
            tasks,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Where this process takes wall time from.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Commits jobs to the ledger, then, without making the caller wait, to the engine.
    ///
    /// # Errors
    /// As [`Ledger::submit`]. The engine's state never fails a submission.
    pub fn submit<'a>(
        &'a self,
        submission: Submission,
    ) -> BoxFuture<'a, Result<SubmitOutcome, LedgerError>> {
        Box::pin(async move { submit::submit(self, submission).await })
    }

    /// Shuts series of submissions whose time has come, at most `limit`, and hands their jobs to the engine; how many. What
    /// a crash in between leaves is the sweep's. Safe to drop, to repeat, and to run anywhere at once.
    ///
    /// # Errors
    /// The ledger did not answer.
    pub fn shut_series(&self, limit: u32) -> BoxFuture<'_, Result<u64, LedgerError>> {
        Box::pin(async move { submit::shut_series(self, limit).await })
    }

    /// Commits outcomes that reached this process past the engine, and takes the jobs that they end out of it. One
    /// reply per outcome, in order. Safe to repeat.
    pub fn record_direct(
        &self,
        outcomes: Vec<record::Direct>,
    ) -> BoxFuture<'_, Result<Vec<Recorded>, LedgerError>> {
        Box::pin(async move { record::record_direct(self, outcomes).await })
    }

    /// A job with its live state. Terminal only once recorded.
    pub fn get<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Option<Seen>, LedgerError>> {
        Box::pin(async move { change::get(self, namespace, id).await })
    }

    /// Waits until a job is terminal. `None`: no such job. `Some(None)`: not within `timeout`.
    /// May be dropped at any time.
    pub fn wait<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Option<Option<Job>>, LedgerError>> {
        Box::pin(async move { wait::wait(self, namespace, id, timeout).await })
    }

    /// Keeps a job from starting, or asks its worker to stop it. Safe to repeat.
    pub fn cancel<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<Changed<Cancelled>, LedgerError>> {
        Box::pin(async move { change::cancel(self, namespace, id, reason).await })
    }

    /// Runs a dead, cancelled, expired or quarantined job again with a fresh budget.
    pub fn redrive<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Changed<Job>, LedgerError>> {
        Box::pin(async move { change::redrive(self, namespace, id).await })
    }

    /// Changes a job that is neither finished nor running.
    pub fn patch<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        patch: &'a JobPatch,
    ) -> BoxFuture<'a, Result<Changed<Job>, LedgerError>> {
        Box::pin(async move { change::patch(self, namespace, id, patch).await })
    }

    /// Forgets a finished job.
    pub fn delete<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Changed<()>, LedgerError>> {
        Box::pin(async move { order::delete(self, namespace, id).await })
    }

    /// How many jobs an action would change now (`dry_run`). Looks at every job that matches the filter.
    pub fn count<'a>(
        &'a self,
        namespace: &'a Namespace,
        action: Action,
        filter: &'a JobFilter,
    ) -> BoxFuture<'a, Result<u64, LedgerError>> {
        Box::pin(async move { actions::count(self, namespace, action, filter).await })
    }

    /// Starts a bulk action in the background; follow it with [`Ledger::operation`]. When this process is told to stop
    /// it ends as failed, with what it has changed until then.
    pub fn start_action<'a>(
        &'a self,
        namespace: &'a Namespace,
        action: Action,
        filter: JobFilter,
        by: &'a str,
    ) -> BoxFuture<'a, Result<Operation, LedgerError>> {
        self.start_action_as(OperationId::generate(), namespace, action, filter, by)
    }

    /// As [`Self::start_action`], under an id that was drawn before. A repeat with the same id walks the
    /// jobs once more and counts anew.
    pub fn start_action_as<'a>(
        &'a self,
        id: OperationId,
        namespace: &'a Namespace,
        action: Action,
        filter: JobFilter,
        by: &'a str,
    ) -> BoxFuture<'a, Result<Operation, LedgerError>> {
        Box::pin(async move { actions::start(self, id, namespace, action, filter, by).await })
    }

    /// The ordered list of what holds a job back. `None`: no such job.
    pub fn explain<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Option<Explanation>, LedgerError>> {
        Box::pin(async move { explain::explain(self, namespace, id).await })
    }

    /// Pauses (`Some`) or resumes a queue. When this returns, no job of it starts until it is resumed,
    /// unless the engine could not be told (second value `false`; it is told as soon as it answers).
    pub fn set_paused<'a>(
        &'a self,
        namespace: &'a Namespace,
        queue: &'a QueueName,
        paused: Option<Paused>,
    ) -> BoxFuture<'a, Result<(Queue, bool), LedgerError>> {
        Box::pin(async move { change::set_paused(self, namespace, queue, paused).await })
    }

    /// Replaces a queue's settings, made from those of version `seen` (0: there was no queue). `None`: somebody
    /// has changed it since. Second value as in [`Self::set_paused`].
    pub fn set_queue<'a>(
        &'a self,
        namespace: &'a Namespace,
        queue: &'a QueueName,
        seen: u64,
        settings: &'a QueueSettings,
    ) -> BoxFuture<'a, Result<Option<(Queue, bool)>, LedgerError>> {
        Box::pin(async move { change::set_queue(self, namespace, queue, seen, settings).await })
    }

    /// Recorded changes of a namespace after a position of its live feed; `None` asks for its end.
    ///
    /// # Errors
    /// The engine did not answer. Positions of a lost feed are answered with `reset`.
    pub fn feed<'a>(
        &'a self,
        namespace: &'a Namespace,
        after: Option<u64>,
        max: u32,
    ) -> BoxFuture<'a, Result<FeedPage, EngineError>> {
        Box::pin(async move { self.inner.engine.feed(namespace, after, max).await })
    }
}
