//! Engines on private Redis servers, for the tests of this binary.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use windlass_shared::clock::Clock;
use windlass_shared::config::EngineSettings;
use windlass_shared::engine::model::{Bounds, ShardDump};
use windlass_shared::engine::redis::{PlantedFault, Redis};
use windlass_shared::engine::{
    ClaimRequest, Engine, EngineError, ProcessId, Push, Pushed, ShardId, ShardSettings,
};
use windlass_shared::limits::PUSH_WINDOW;
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::engine_suite::{self, Rig};
use windlass_shared::testkit::gates::{open_shard, until};
use windlass_shared::testkit::histories::{self, Call, Replay, Reply, call};
use windlass_shared::testkit::redis_server::READY_MAX;

pub const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_250);

/// Settings for a test's own engine. Its patience is long: test machines are slow at times.
pub fn settings(url: String) -> EngineSettings {
    let mut settings = EngineSettings::new(url);
    settings.response_timeout = Duration::from_secs(20);
    settings
}

/// A rig of the engine suite on the server at `url`.
pub async fn suite_rig(url: String) -> Rig {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let settings = settings(url);
    let redis = Redis::open_with_test_clock(&settings, clock.clone(), engine_suite::BOUNDS, None);
    let engine = Engine::Redis(Arc::new(redis.await.expect("the private redis is fit")));
    let advance = Box::new(move |by| {
        clock.advance(by);
        Box::pin(std::future::ready(())) as futures::future::BoxFuture<'static, ()>
    });
    Rig::new(engine, advance)
}

/// One engine that plays many histories, each on a shard of its own.
#[derive(Clone)]
pub struct Stage {
    clock: Clock,
    pub redis: Arc<Redis>,
    pub engine: Engine,
}

impl Stage {
    pub async fn open(url: String, bounds: Bounds, fault: Option<PlantedFault>) -> Self {
        let clock = Clock::manual(START);
        let settings = settings(url);
        let redis = Redis::open_with_test_clock(&settings, clock.clone(), bounds, fault);
        let redis = Arc::new(redis.await.expect("the private redis is fit"));
        Self { clock, engine: Engine::Redis(redis.clone()), redis }
    }

    /// For histories, which have bounds of their own.
    pub async fn of_histories(url: String, fault: Option<PlantedFault>) -> Self {
        Self::open(url, histories::BOUNDS, fault).await
    }

    pub fn fresh(&self) -> OnRedis {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let queue = format!("history-{number}").parse().expect("a legal name");
        let shard = ShardId::first(Namespace::default(), queue);
        OnRedis { stage: self.clone(), shard }
    }
}

/// A fresh shard on a stage.
pub struct OnRedis {
    pub stage: Stage,
    pub shard: ShardId,
}

impl Replay for OnRedis {
    async fn now(&mut self) -> Timestamp {
        self.stage.clock.now()
    }
    async fn advance(&mut self, by: Duration) {
        self.stage.clock.advance(by);
    }
    async fn call(&mut self, wanted: &Call) -> (Reply, Timestamp) {
        let now = self.stage.clock.now();
        let reply = call(&self.stage.engine, &self.shard, wanted).await;
        (reply.expect("the private redis answers"), now)
    }
    async fn dump(&mut self) -> ShardDump {
        self.stage.redis.dump(&self.shard).await.expect("the shard's keys agree with each other")
    }
    async fn process(&mut self) -> ProcessId {
        self.stage.engine.gate(&self.shard).await.expect("the private redis answers").process
    }
    async fn wipe(&mut self) {
        self.stage.redis.wipe(&self.shard).await.expect("the private redis answers");
    }
    /// Takes too long for thousands of histories; `redis_gates` does it.
    async fn restart(&mut self) -> bool {
        false
    }
}

/// A shard whose errors are remembered rather than fatal: of scripts that are broken on purpose.
pub struct Tolerant {
    inner: OnRedis,
    broke: bool,
}

impl OnRedis {
    pub fn tolerant(self) -> Tolerant {
        Tolerant { inner: self, broke: false }
    }
}

impl Tolerant {
    /// Whether a script failed, or left keys that contradict each other.
    pub fn broke(&self) -> bool {
        self.broke
    }
}

impl Replay for Tolerant {
    async fn now(&mut self) -> Timestamp {
        self.inner.now().await
    }
    async fn advance(&mut self, by: Duration) {
        self.inner.advance(by).await;
    }
    async fn call(&mut self, wanted: &Call) -> (Reply, Timestamp) {
        let now = self.inner.stage.clock.now();
        match call(&self.inner.stage.engine, &self.inner.shard, wanted).await {
            Ok(reply) => (reply, now),
            Err(_) => {
                self.broke = true;
                (Reply::Confirm, now)
            }
        }
    }
    async fn dump(&mut self) -> ShardDump {
        match self.inner.stage.redis.dump(&self.inner.shard).await {
            Ok(dump) => dump,
            Err(_) => {
                self.broke = true;
                ShardDump::default()
            }
        }
    }
    async fn process(&mut self) -> ProcessId {
        self.inner.process().await
    }
    async fn wipe(&mut self) {
        self.inner.wipe().await;
    }
    async fn restart(&mut self) -> bool {
        false
    }
}

pub fn shard(queue: &str) -> ShardId {
    ShardId::first(Namespace::default(), queue.parse::<QueueName>().expect("a legal name"))
}

/// An engine as production opens it, which gives up on an answer after half a second.
pub async fn open(url: String) -> Engine {
    let mut settings = EngineSettings::new(url);
    settings.response_timeout = Duration::from_millis(500);
    Engine::open(&settings).await.expect("the private redis is fit")
}

/// Gives a shard usual settings and opens its gate.
pub async fn configure(engine: &Engine, shard: &ShardId) -> Result<bool, EngineError> {
    open_shard(engine, shard, ShardSettings { version: 1, ..ShardSettings::default() }).await
}

/// Pushes one fresh job.
pub async fn push(engine: &Engine, shard: &ShardId) -> Result<JobId, EngineError> {
    let now = engine.now().await?;
    let job =
        Push::new(Fence(1), "plain".parse().expect("a legal kind"), now, Bytes::from_static(b"{}"));
    let reply =
        engine.push(shard, std::slice::from_ref(&job), &until(now.plus(PUSH_WINDOW))).await?;
    assert_eq!(reply.pushed, [Pushed::Added]);
    Ok(job.id)
}

pub fn request() -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::generate(),
        lease_id: LeaseId::random(),
        max: 10,
        lease: Duration::from_secs(60),
        kinds: Vec::new(),
        offset: 0,
        ledger: None,
    }
}

pub async fn claim(engine: &Engine, shard: &ShardId) -> Result<Vec<JobId>, EngineError> {
    Ok(engine.claim(shard, &request()).await?.jobs.into_iter().map(|job| job.id).collect())
}

/// Repeats a call until it is answered. What it fails with in between must be of the kind that passes.
pub async fn at_last<T>(mut ask: impl AsyncFnMut() -> Result<T, EngineError>) -> T {
    let deadline = Instant::now() + READY_MAX;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                assert!(Instant::now() < deadline, "still no answer: {error:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
