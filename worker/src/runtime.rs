//! Everything that knows apalis: our claims as its backend, our executor as its service.
//!
//! apalis polls what it has not started and what runs, and orders a graceful stop. Claims, leases, retries
//! and settles are ours and happen outside of its poll path, so that an error of the engine cannot end the
//! worker and a drain cannot starve the leases.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use apalis::prelude::{Task, WorkerBuilder, WorkerContext};
use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tower::layer::util::Identity;
use windlass_shared::engine::Verdict;
use windlass_shared::engine::envelope::Detail;

use crate::executor::{Executor, Start};
use crate::metrics::OutcomeLabel;
use crate::outcome::Conclusion;

/// Runs attempts as they come, until `stop`; then hands back those that have not started and returns when
/// the running ones have ended.
///
/// # Errors
/// Only when the runtime itself breaks; attempts that run then are dropped.
pub(crate) async fn run(
    name: &str,
    starts: mpsc::Receiver<Start>,
    executor: Arc<Executor>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let context = WorkerContext::new(name);
    let backend = Claims { starts, executor: Arc::clone(&executor), closing: None };
    let worker = WorkerBuilder::new(&context).backend(backend).build(Attempts { executor });
    let mut running = worker.run().boxed();
    tokio::select! {
        // Polled first: a worker that has not started yet refuses to stop.
        biased;
        ended = &mut running => return Ok(ended?),
        () = stop.cancelled() => context.stop()?,
    }
    Ok(running.await?)
}

/// Claimed jobs, as an apalis backend.
struct Claims {
    starts: mpsc::Receiver<Start>,
    executor: Arc<Executor>,
    closing: Option<BoxFuture<'static, ()>>,
}

impl Backend for Claims {
    type Task = Task<Start>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        _cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        match ready!(self.starts.poll_recv(cx)) {
            Some(start) => Poll::Ready(Some(Ok(Task::new(start)))),
            // The claimer has ended. `None` would end the worker before the claims in hand are given back;
            // `stop` follows and wakes it.
            None => Poll::Pending,
        }
    }

    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        let closing = self.closing.get_or_insert_with(|| {
            self.starts.close();
            let mut left = Vec::new();
            while let Ok(start) = self.starts.try_recv() {
                left.push(start);
            }
            hand_back(Arc::clone(&self.executor), left).boxed()
        });
        closing.poll_unpin(cx).map(Ok)
    }
}

async fn hand_back(executor: Arc<Executor>, left: Vec<Start>) {
    for start in left {
        executor.hand_in(&start.attempt, released()).await;
    }
}

/// The conclusion of an attempt that was never started.
pub(crate) fn released() -> Conclusion {
    Conclusion {
        verdict: Verdict::Release,
        detail: Detail::default(),
        label: OutcomeLabel::Released,
        told: None,
    }
}

impl BackendConfig for Claims {
    type Args = Start;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _worker: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Performs attempts, as a tower service. Always ready: an attempt comes with its slots.
struct Attempts {
    executor: Arc<Executor>,
}

impl Service<Task<Start>> for Attempts {
    type Response = ();
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<(), Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Start>) -> Self::Future {
        let executor = Arc::clone(&self.executor);
        let (start, _) = task.take();
        Box::pin(async move {
            executor.perform(start).await;
            Ok(())
        })
    }
}
