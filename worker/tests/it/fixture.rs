//! A worker on an embedded engine, a reporter that remembers, and waiting for outcomes by their signals.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value as Json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use windlass_shared::clock::Clock;
use windlass_shared::config::WorkerSettings;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::envelope::{Detail, Envelope, EnvelopeHead};
use windlass_shared::engine::{
    CancelReply, Ended, Engine, Outcome, Push, Pushed, ShardId, ShardSettings, Signals, Withdraw,
};
use windlass_shared::model::id::{BlobId, Fence, JobId, LedgerId};
use windlass_shared::model::job::{JobSpec, Priority, Value};
use windlass_shared::model::name::{Kind, Namespace, QueueName};
use windlass_shared::model::retry::{Backoff, Jitter};
use windlass_shared::model::time::{Span, Timestamp};
use windlass_shared::testkit::gates::{open_shard, until};
use windlass_worker::builder::{EngineSource, WorkerBuilder};
use windlass_worker::reporter::{
    DirectOutcome, DirectReply, Left, Report, ReportError, ReportReply, Reporter,
};
use windlass_worker::worker::{Worker, WorkerError};

/// Nothing here takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Without a signal, outcomes are looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Keeps reports and blobs.
#[derive(Default)]
pub struct Memory {
    pub blobs: Mutex<HashMap<BlobId, Bytes>>,
    reports: watch::Sender<Vec<Report>>,
    pub drain: Mutex<bool>,
    /// That many reports are refused as if the API were away.
    pub away: Mutex<u32>,
    /// How often it was asked for what earlier attempts left.
    pub asked: Mutex<u32>,
    /// What came by the direct path.
    pub recorded: Mutex<Vec<DirectOutcome>>,
}

impl Memory {
    /// Waits until the reports so far satisfy the condition.
    pub async fn until<T>(&self, found: impl Fn(&[Report]) -> Option<T>) -> T {
        let mut reports = self.reports.subscribe();
        let wait = async {
            loop {
                if let Some(result) = found(&reports.borrow_and_update()) {
                    return result;
                }
                reports.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the reports do not come")
    }
}

impl Reporter for Memory {
    fn report(&self, report: Report) -> BoxFuture<'_, Result<ReportReply, ReportError>> {
        Box::pin(async move {
            let mut away = self.away.lock().unwrap();
            if *away > 0 {
                *away -= 1;
                return Err(ReportError::Unavailable("away".into()));
            }
            self.reports.send_modify(|reports| reports.push(report));
            Ok(ReportReply { drain: *self.drain.lock().unwrap(), ledger: None })
        })
    }
    fn put_blob(&self, id: BlobId, bytes: Bytes) -> BoxFuture<'_, Result<(), ReportError>> {
        self.blobs.lock().unwrap().insert(id, bytes);
        Box::pin(std::future::ready(Ok(())))
    }
    fn put_checkpoint(
        &self,
        _job_id: JobId,
        _fence: Fence,
        _data: Bytes,
    ) -> BoxFuture<'_, Result<bool, ReportError>> {
        Box::pin(std::future::ready(Ok(true)))
    }
    fn left(
        &self,
        _job_id: JobId,
        _fence: Fence,
        _attempt: u32,
    ) -> BoxFuture<'_, Result<Left, ReportError>> {
        *self.asked.lock().unwrap() += 1;
        Box::pin(std::future::ready(Ok(Left::default())))
    }
    fn record(
        &self,
        _ledger: Option<LedgerId>,
        outcomes: Vec<DirectOutcome>,
    ) -> BoxFuture<'_, Result<Vec<DirectReply>, ReportError>> {
        let replies = vec![DirectReply::Applied; outcomes.len()];
        self.recorded.lock().unwrap().extend(outcomes);
        Box::pin(std::future::ready(Ok(replies)))
    }
    fn blob(&self, id: BlobId) -> BoxFuture<'_, Result<Option<Bytes>, ReportError>> {
        let found = self.blobs.lock().unwrap().get(&id).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }
}

/// An engine with one shard, and workers on it.
pub struct Rig {
    source: EngineSource,
    pub engine: Engine,
    pub shard: ShardId,
    pub memory: Arc<Memory>,
    pub settings: WorkerSettings,
    signals: Signals,
}

impl Rig {
    pub async fn new() -> Self {
        Self::on(Clock::System).await
    }

    pub async fn on(clock: Clock) -> Self {
        Self::over(Engine::Embedded(Arc::new(Embedded::new(clock))).into()).await
    }

    /// With an engine of its own beside the workers', where the source makes several.
    pub async fn over(source: EngineSource) -> Self {
        let engine = match &source {
            EngineSource::Shared(engine) => engine.clone(),
            EngineSource::Settings(settings) => Engine::open(settings).await.unwrap(),
        };
        let shard = ShardId::first(Namespace::default(), QueueName::default());
        let settings = ShardSettings { version: 1, ..ShardSettings::default() };
        assert!(open_shard(&engine, &shard, settings).await.unwrap());
        let signals = engine.subscribe(std::slice::from_ref(&shard)).await.unwrap();
        let settings = WorkerSettings {
            name: "rig".into(),
            concurrency: 8,
            lease: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(20),
            ..WorkerSettings::default()
        };
        Self { source, engine, shard, memory: Arc::default(), settings, signals }
    }

    pub fn builder(&self) -> WorkerBuilder {
        Worker::builder(self.settings.clone())
            .engine(self.source.clone())
            .reporter(Arc::clone(&self.memory) as _)
    }

    /// Starts a worker with the built-in kinds and whatever is added.
    pub fn start(&self, add: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Running {
        let worker = add(self.builder().builtin()).build().unwrap();
        Running::start(worker)
    }

    pub async fn push(&self, kind: &str, payload: Json, spec: JobSpec) -> JobId {
        let payload = Value::Inline(payload.to_string().into());
        self.push_value(kind, payload, spec).await
    }

    pub async fn push_value(&self, kind: &str, payload: Value, spec: JobSpec) -> JobId {
        let kind: Kind = kind.parse().unwrap();
        let head = EnvelopeHead {
            kind: kind.clone(),
            spec,
            created_at: Timestamp::default(),
            priority: Priority::default(),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            request_id: None,
            workflow: None,
            payload_blob: None,
        };
        self.push_raw(kind, Envelope { head, payload }.encode()).await
    }

    pub async fn push_raw(&self, kind: Kind, envelope: Bytes) -> JobId {
        let id = JobId::generate();
        let now = self.engine.now().await.unwrap();
        let push = Push { id, ..Push::new(Fence(0), kind, now, envelope) };
        let not_after = now.plus(Duration::from_secs(5));
        let reply = self.engine.push(&self.shard, &[push], &until(not_after)).await.unwrap();
        assert_eq!(reply.pushed, [Pushed::Added]);
        id
    }

    /// Asks for a job's cancellation, whatever it is doing.
    pub async fn cancel(&self, id: JobId) -> CancelReply {
        let jobs = [(id, Fence(0))];
        self.engine.cancel(&self.shard, &jobs, Withdraw::StopRunning).await.unwrap()[0]
    }

    /// All outcomes of a job up to the first that satisfies the condition.
    pub async fn outcomes(&mut self, id: JobId, last: impl Fn(&Outcome) -> bool) -> Vec<Ending> {
        let wait = async {
            loop {
                let Ok(all) = self.engine.outcomes(&self.shard, 10_000).await else {
                    // The store is away, which is what some tests are about.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let mine: Vec<Outcome> = all.into_iter().filter(|o| o.id == id).collect();
                if let Some(at) = mine.iter().position(&last) {
                    return mine.into_iter().take(at + 1).map(Ending::from).collect();
                }
                // Signals may be lost; looking again is right in any case.
                let _ = tokio::time::timeout(LOOK_EVERY, self.signals.next()).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the outcome does not come")
    }

    /// The first outcome of a job.
    pub async fn first(&mut self, id: JobId) -> Ending {
        self.outcomes(id, |_| true).await.remove(0)
    }

    /// The terminal outcome of a job.
    pub async fn last(&mut self, id: JobId) -> Ending {
        self.outcomes(id, |o| o.ended.is_terminal()).await.pop().unwrap()
    }

    /// Pushes a job and waits for its terminal outcome.
    pub async fn run(&mut self, kind: &str, payload: Json, spec: JobSpec) -> Ending {
        let id = self.push(kind, payload, spec).await;
        self.last(id).await
    }
}

/// An outcome with its detail read.
#[derive(Debug)]
pub struct Ending {
    pub id: JobId,
    pub ended: Ended,
    pub attempt: u32,
    pub at: Timestamp,
    pub detail: Detail,
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        let detail = Detail::decode(&outcome.detail).unwrap();
        Self {
            id: outcome.id,
            ended: outcome.ended,
            attempt: outcome.attempt,
            at: outcome.at,
            detail,
        }
    }
}

impl Ending {
    pub fn code(&self) -> &str {
        self.detail.head.error.as_ref().map_or("", |error| &error.code)
    }
    pub fn message(&self) -> &str {
        self.detail.head.error.as_ref().map_or("", |error| &error.message)
    }
    pub fn output(&self) -> Json {
        match &self.detail.output {
            Some(Value::Inline(bytes)) => serde_json::from_slice(bytes).unwrap(),
            other => panic!("no inline output but {other:?}: {self:?}"),
        }
    }
}

/// A worker that runs until it is told to stop.
pub struct Running {
    pub stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    pub fn start(worker: Worker) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone()));
        Self { stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.ended().await;
    }

    pub async fn ended(self) {
        let end = tokio::time::timeout(PATIENCE, self.task).await;
        end.expect("the worker does not stop").unwrap().unwrap();
    }
}

/// A spec with short, certain delays between attempts.
pub fn spec(max_attempts: u32) -> JobSpec {
    let mut spec = JobSpec { max_attempts, ..JobSpec::default() };
    spec.retry.backoff = Backoff::Fixed;
    spec.retry.jitter = Jitter::None;
    spec.retry.initial = Span(Duration::from_millis(10));
    spec
}

/// The same, with a limit on each attempt.
pub fn limited(max_attempts: u32, timeout_ms: u64) -> JobSpec {
    JobSpec { timeout: Span(Duration::from_millis(timeout_ms)), ..spec(max_attempts) }
}
