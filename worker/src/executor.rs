//! One attempt, top to bottom: payload, handler under its limits, result gate, output, settle.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument;
use windlass_shared::engine::flow::Dependency;
use windlass_shared::gate::Gate;
use windlass_shared::limits::{INLINE_BYTES_MAX, VALUE_BYTES_MAX};
use windlass_shared::model::id::BlobId;
use windlass_shared::model::job::Value;

use crate::acker::{Ack, Acks};
use crate::attempt::{Attempt, StopReason};
use crate::boot_time::boot_ms;
use crate::breaker::Breaker;
use crate::context::Context;
use crate::error::HandlerError;
use crate::gating::{self, Passage};
use crate::handler::{Handler, Output};
use crate::metrics::MetricsByKind;
use crate::outcome::{Conclusion, RunEnd, conclude};
use crate::persist::persistently;
use crate::registry::Registry;
use crate::reporter::SharedReporter;
use crate::ring::Done;
use crate::runtime::released;

/// A handler that listens for its cancellation has this long to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// A dropped handler is gone at its next await; one that is not by then runs on unattended.
const DROP_GRACE: Duration = Duration::from_millis(100);
/// Longest time to fetch a payload or store an output, with retries.
const BLOB_TIME_MAX: Duration = Duration::from_secs(60);
/// A job whose payload cannot be fetched now comes back after this long; the attempt does not count.
const PAYLOAD_AWAY_DELAY: Duration = Duration::from_secs(5);

/// A job whose output could not be checked comes back after this long; the attempt does not count.
const NO_PLACE_DELAY: Duration = Duration::from_secs(5);

/// An attempt that may start: it has its slots.
pub(crate) struct Start {
    pub(crate) attempt: Arc<Attempt>,
    pub(crate) slots: OwnedSemaphorePermit,
}

/// Performs attempts. One per worker.
pub(crate) struct Executor {
    pub(crate) registry: Arc<Registry>,
    pub(crate) reporter: SharedReporter,
    pub(crate) acks: Acks,
    pub(crate) gate: Gate,
    pub(crate) metrics: MetricsByKind,
    pub(crate) breaker: Breaker,
    /// How long a lease lasts.
    pub(crate) lease: Duration,
}

impl Executor {
    /// Performs one attempt and hands in its settle. Not to be dropped before its end: the settle would
    /// be skipped and the lease would have to run out.
    pub(crate) async fn perform(&self, start: Start) {
        let Start { attempt, slots } = start;
        if self.is_held(&attempt) {
            metrics::counter!("windlass_worker_circuit_returns_total").increment(1);
            self.hand_in(&attempt, released()).await;
            return drop(slots);
        }
        let started = Instant::now();
        let (end, slots) = self.run(&attempt, slots).await;
        let (spec, reason) = (&attempt.head.spec, attempt.stop.reason());
        let conclusion = conclude(spec, attempt.number, reason, end, rand::random());
        let metrics = self.metrics.get(&attempt.shard.queue, &attempt.head.kind);
        metrics.ended(conclusion.label, started.elapsed());
        if let Some(error) = &conclusion.detail.head.error {
            tracing::debug!(
                job.id = %attempt.held.id, attempt = attempt.number, error.code = %error.code,
                "an attempt failed"
            );
        }
        if let (Some(circuit), Some(told)) = (&spec.circuit, conclusion.dependency(spec)) {
            self.breaker.note(circuit, told, boot_ms());
            let result = if told == Dependency::Answered { "answered" } else { "failed" };
            metrics::counter!("windlass_circuit_calls_total", "result" => result).increment(1);
        }
        self.hand_in(&attempt, conclusion).await;
        drop(slots);
    }

    /// Whether this worker has seen the job's dependency fail, and its shard may not know.
    fn is_held(&self, attempt: &Attempt) -> bool {
        let Some(circuit) = &attempt.head.spec.circuit else { return false };
        let (shard, claimed) = (&attempt.shard, attempt.claimed_ms());
        !attempt.is_probe && self.breaker.holds(circuit, shard, claimed, boot_ms())
    }

    /// Settles an attempt that was never started.
    pub(crate) async fn hand_in(&self, attempt: &Attempt, conclusion: Conclusion) {
        let ack = Ack { shard: Arc::clone(&attempt.shard), done: done(attempt, conclusion) };
        // The acker lives until every sender is dropped; without it the process is being torn down.
        let _ = self.acks.send(ack).await;
    }

    /// How the attempt ended, and its slots unless the handler still occupies them.
    async fn run(
        &self,
        attempt: &Arc<Attempt>,
        slots: OwnedSemaphorePermit,
    ) -> (RunEnd, Option<OwnedSemaphorePermit>) {
        let Some(handler) = self.registry.get(&attempt.head.kind) else {
            // The claim asked for registered kinds only.
            let error =
                HandlerError::retryable("no_handler", "this worker has no handler for the kind");
            return (RunEnd::Error(error), Some(slots));
        };
        if attempt.stop.reason().is_some() {
            return (RunEnd::Dropped, Some(slots));
        }
        if let Value::Blob(id) = attempt.payload
            && let Err(error) = Box::pin(self.fetch_payload(attempt, id)).await
        {
            return (RunEnd::Error(error), Some(slots));
        }
        // A process that stood still since the claim begins nothing that somebody else may have, or may have ended.
        if attempt.lease_age() >= self.lease {
            attempt.stop.stop(StopReason::LeaseLost);
            return (RunEnd::Dropped, Some(slots));
        }
        let task = spawn(attempt, handler.as_ref());
        match supervise(attempt, task).await {
            Ended::Returned(Ok(output)) => (self.accept(attempt, output).await, Some(slots)),
            Ended::Returned(Err(error)) => (RunEnd::Error(error), Some(slots)),
            Ended::Broken(error) => (broken(error), Some(slots)),
            Ended::Stuck(task) => {
                leave_behind(attempt, task, slots);
                (RunEnd::Dropped, None)
            }
        }
    }

    /// Passes an output through its gate, and stores it where it is large.
    async fn accept(&self, attempt: &Attempt, output: Output) -> RunEnd {
        let bytes = output.bytes();
        if bytes.len() > VALUE_BYTES_MAX {
            let message =
                format!("the output has {} bytes; {VALUE_BYTES_MAX} are allowed", bytes.len());
            return RunEnd::Error(HandlerError::permanent("output_too_large", message));
        }
        if let Some(expect) = &attempt.head.spec.expect {
            let check = || self.gate.check(expect, bytes);
            let limit = attempt.head.spec.timeout.0;
            match Box::pin(gating::pass(&attempt.stop, limit, check)).await {
                Passage::Passed => {}
                Passage::Refused(refusal) => {
                    *attempt.evaluation.lock().expect("nobody panics while holding it") =
                        refusal.evaluation;
                    return RunEnd::Error(HandlerError::rejected(refusal.error));
                }
                Passage::Stopped => return RunEnd::Dropped,
                Passage::NoPlace => {
                    tracing::warn!(job.id = %attempt.held.id, "no place to check a result; handed back");
                    return RunEnd::Error(HandlerError::snooze(NO_PLACE_DELAY));
                }
            }
        }
        if bytes.len() <= INLINE_BYTES_MAX {
            return RunEnd::Output(Value::Inline(bytes.clone()));
        }
        match Box::pin(self.store_output(bytes)).await {
            Ok(id) => RunEnd::Output(Value::Blob(id)),
            Err(error) => RunEnd::Error(error),
        }
    }

    async fn store_output(&self, bytes: &Bytes) -> Result<BlobId, HandlerError> {
        let id = BlobId::generate();
        let stored =
            persistently(BLOB_TIME_MAX, || self.reporter.put_blob(id, bytes.clone())).await;
        stored.map(|()| id).map_err(|e| {
            HandlerError::retryable(
                "output_not_stored",
                format!("cannot store a large output: {e}"),
            )
        })
    }

    async fn fetch_payload(&self, attempt: &Attempt, id: BlobId) -> Result<(), HandlerError> {
        let fetched = tokio::select! {
            biased;
            () = attempt.stop.stopped() => return Err(HandlerError::cancelled()),
            fetched = persistently(BLOB_TIME_MAX, || self.reporter.blob(id)) => fetched,
        };
        match fetched {
            Ok(Some(bytes)) => {
                attempt.payload_bytes.get_or_init(|| bytes);
                Ok(())
            }
            Ok(None) => {
                Err(HandlerError::permanent("payload_missing", "the payload is not kept any more"))
            }
            Err(e) if e.is_transient() => {
                tracing::warn!(job.id = %attempt.held.id, error = %e, "cannot fetch a payload");
                Err(HandlerError::snooze(PAYLOAD_AWAY_DELAY))
            }
            Err(e) => {
                let message = format!("cannot fetch a large payload: {e}");
                Err(HandlerError::retryable("payload_unavailable", message))
            }
        }
    }
}

type Task = JoinHandle<Result<Output, HandlerError>>;

/// Starts the handler as a task of its own: it may use every thread of the runtime, its panics are
/// contained, and it can be dropped.
fn spawn(attempt: &Arc<Attempt>, handler: &dyn Handler) -> Task {
    let span = tracing::info_span!(
        "attempt",
        job.id = %attempt.held.id,
        job.kind = %attempt.head.kind,
        queue = %attempt.shard.queue,
        attempt = attempt.number,
        traceparent = attempt.head.traceparent,
    );
    let run = span.in_scope(|| {
        let ctx = Context::new(Arc::clone(attempt));
        // A handler may panic before it has made its future.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler.call(ctx)))
    });
    match run {
        Ok(run) => tokio::spawn(run.instrument(span)),
        Err(panic) => tokio::spawn(async move { std::panic::resume_unwind(panic) }),
    }
}

enum Ended {
    Returned(Result<Output, HandlerError>),
    Broken(JoinError),
    /// Told to end and dropped, but it does not come to an await.
    Stuck(Task),
}

/// Waits for the handler's end, and brings it about when its time is over or it is told to stop.
async fn supervise(attempt: &Attempt, mut task: Task) -> Ended {
    tokio::select! {
        biased;
        end = &mut task => return ended(end),
        () = attempt.stop.stopped() => {}
        () = tokio::time::sleep(attempt.head.spec.timeout.0) => attempt.stop.stop(StopReason::TimedOut),
    }
    // An exclusive job that loses its lease has less time than the rest: its margin is running.
    let lease_lost = attempt.stop.reason() == Some(StopReason::LeaseLost);
    let grace = if lease_lost { DROP_GRACE } else { GRACE };
    if attempt.stop.is_heard()
        && let Ok(end) = tokio::time::timeout(grace, &mut task).await
    {
        return ended(end);
    }
    task.abort();
    match tokio::time::timeout(DROP_GRACE, &mut task).await {
        Ok(end) => ended(end),
        Err(_) => Ended::Stuck(task),
    }
}

fn ended(end: Result<Result<Output, HandlerError>, JoinError>) -> Ended {
    match end {
        Ok(result) => Ended::Returned(result),
        Err(error) => Ended::Broken(error),
    }
}

fn broken(error: JoinError) -> RunEnd {
    match error.try_into_panic() {
        Ok(panic) => RunEnd::Panicked(panic_message(panic.as_ref())),
        Err(_) => RunEnd::Dropped,
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".into()
    }
}

/// A handler that blocks its thread cannot be ended. Its attempt is settled, its slots stay taken.
fn leave_behind(attempt: &Attempt, task: Task, slots: OwnedSemaphorePermit) {
    tracing::warn!(
        job.id = %attempt.held.id, job.kind = %attempt.head.kind,
        "a handler blocks its thread and cannot be stopped; its slots stay taken until it ends"
    );
    // Not awaited by anyone: it ends with the handler, and nothing depends on its end but the slots.
    tokio::spawn(async move {
        let _ = task.await;
        drop(slots);
    });
}

fn done(attempt: &Attempt, conclusion: Conclusion) -> Done {
    let dependency = conclusion.dependency(&attempt.head.spec);
    let Conclusion { verdict, mut detail, .. } = conclusion;
    detail.head.worker = Some(attempt.crew.worker_name.clone());
    let usage = attempt.usage.lock().expect("nobody panics while holding the usage").take();
    let evaluation = attempt.evaluation.lock().expect("nobody panics while holding it").take();
    detail.head.usage = match evaluation {
        // Of one that succeeded after all (it was refused, and then told to stop) nothing is to be done better.
        Some(evaluation) if detail.head.error.is_some() => Some(evaluation.noted(usage)),
        _ => usage,
    };
    let mut done = attempt.done(verdict, detail.encode());
    done.settle.dependency = dependency;
    done
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::BoxFuture;
    use windlass_shared::clock::Clock;
    use windlass_shared::engine::embedded::Embedded;
    use windlass_shared::engine::{Claimed, Engine, ShardId};
    use windlass_shared::model::id::LeaseId;
    use windlass_shared::model::name::Namespace;
    use windlass_shared::model::time::Timestamp;

    use super::*;
    use crate::acker::Acker;
    use crate::attempt::Claim;
    use crate::leases::Leases;
    use crate::reporter::Nowhere;
    use crate::ring::Rings;
    use crate::sample;

    const LEASE: Duration = Duration::from_secs(10);
    const KIND: &str = "counted";

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Handler for Counted {
        fn call(&self, _: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Output::of(&()) })
        }
    }

    fn executor(handler: &Arc<Counted>, shard: &ShardId) -> Executor {
        let engine = Engine::Embedded(Arc::new(Embedded::new(Clock::System)));
        let rings = Rings::new(std::iter::once(shard.clone()));
        let leases = Arc::new(Leases::default());
        let (acks, _) = Acker::new(&engine, &leases, &rings, 10, &Arc::default());
        let mut registry = Registry::default();
        registry.add(KIND.parse().unwrap(), Arc::clone(handler) as Arc<dyn Handler>);
        Executor {
            registry: Arc::new(registry),
            reporter: Arc::new(Nowhere),
            acks,
            gate: Gate::new(),
            metrics: MetricsByKind::default(),
            breaker: Breaker::default(),
            lease: LEASE,
        }
    }

    fn attempt(shard: ShardId, sent_ms: u64) -> Arc<Attempt> {
        let envelope = sample::envelope(KIND, 1);
        let claimed = sample::claimed(&envelope);
        let claim =
            Claim { lease_id: LeaseId::random(), sent_ms, at: Timestamp::default(), ledger: None };
        Arc::new(Attempt::new(&sample::crew(), &Arc::new(shard), claim, (&claimed, envelope)))
    }

    /// Goal: a process that stood still between its claim and the start does not start what it may not hold any more.
    #[tokio::test]
    async fn no_handler_is_called_under_a_lease_that_has_run_out() {
        let shard = ShardId::first(Namespace::default(), "q".parse().unwrap());
        let handler = Arc::new(Counted::default());
        let executor = executor(&handler, &shard);
        let slots = || Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let late = boot_ms() - u64::try_from(LEASE.as_millis()).unwrap();

        let attempt_of = |sent_ms| attempt(shard.clone(), sent_ms);
        let stale = attempt_of(late);
        let (end, slots_back) = executor.run(&stale, slots()).await;
        assert!(matches!(end, RunEnd::Dropped) && slots_back.is_some(), "{end:?}");
        assert_eq!(stale.stop.reason(), Some(StopReason::LeaseLost), "handed back, if it is held");
        assert_eq!(handler.0.load(Ordering::SeqCst), 0);

        let (end, _) = executor.run(&attempt_of(boot_ms()), slots()).await;
        assert!(matches!(end, RunEnd::Output(_)), "{end:?}");
        assert_eq!(handler.0.load(Ordering::SeqCst), 1);
    }

    /// Goal: jobs of a dependency that this worker has seen fail are handed back without a call, and their shards are
    /// told; probes run.
    #[tokio::test]
    async fn jobs_of_what_was_seen_to_fail_are_handed_back() {
        let shard = ShardId::first(Namespace::default(), "q".parse().unwrap());
        let handler = Arc::new(Counted::default());
        let executor = executor(&handler, &shard);
        let attempt_of = |probe| {
            let mut envelope = sample::envelope(KIND, 1);
            envelope.head.spec.circuit = Some("c".into());
            let claimed = Claimed { probe, ..sample::claimed(&envelope) };
            let (lease_id, sent_ms) = (LeaseId::random(), boot_ms());
            let claim = Claim { lease_id, sent_ms, at: Timestamp::default(), ledger: None };
            let (crew, shard) = (sample::crew(), Arc::new(shard.clone()));
            let attempt = Arc::new(Attempt::new(&crew, &shard, claim, (&claimed, envelope)));
            let slots = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
            Start { attempt, slots }
        };
        let calls = || handler.0.load(Ordering::SeqCst);
        (0..5).for_each(|_| executor.breaker.note("c", Dependency::Failed, boot_ms()));
        executor.perform(attempt_of(false)).await;
        assert_eq!(calls(), 0);
        executor.perform(attempt_of(true)).await;
        assert_eq!(calls(), 1);
        // The probe was answered.
        executor.perform(attempt_of(false)).await;
        assert_eq!(calls(), 2);
    }
}
