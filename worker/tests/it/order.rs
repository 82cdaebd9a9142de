//! Jobs in order with a real worker on Redis, which loses everything on the way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, LedgerSettings, WorkerSettings};
use windlass_shared::engine::{Engine, ShardId};
use windlass_shared::ledger::{JobFilter, Ledger, Submission};
use windlass_shared::lifecycle::sweep::Sweeper;
use windlass_shared::lifecycle::verify::{Verified, VerifySettings, verify};
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::WorkerId;
use windlass_shared::model::job::{JobState, NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};
use windlass_worker::builder::EngineSource;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::reporter::ledger::LedgerReporter;
use windlass_worker::worker::Worker;

use crate::fixture::{PATIENCE, Running, spec};

const JOBS: usize = 200;
const KEYS: usize = 5;
const SLOTS: u32 = 16;
const LEASE: Duration = Duration::from_secs(3);

/// What the handler saw: of each key who runs, and who has begun, in order.
#[derive(Default)]
struct Seen {
    running: HashMap<usize, usize>,
    begun: HashMap<usize, Vec<usize>>,
    broken: Vec<String>,
    most: usize,
}

impl Seen {
    fn begins(&mut self, key: usize, n: usize) {
        if let Some(other) = self.running.insert(key, n) {
            self.broken.push(format!("{n} of key {key} began while {other} ran"));
        }
        self.begun.entry(key).or_default().push(n);
        self.most = self.most.max(self.running.len());
    }

    fn ends(&mut self, key: usize) {
        self.running.remove(&key);
    }
}

/// Whether an attempt of a job fails: about one of three, and some jobs at all of theirs.
fn fails(n: usize, attempt: u32) -> bool {
    n % 13 == 4 || (n * 7 + attempt as usize * 5).is_multiple_of(3) && attempt < 3
}

/// Goal: 200 jobs of five keys on 16 slots, with failures, run per key one at a time and in the order of acceptance; and
/// so they do when Redis forgets everything in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_key_run_in_order_though_redis_forgets() {
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default()));
    let server = server.await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = LedgerSettings::new(format!("sqlite://{}/ledger.db", folder.path().display()));
    Ledger::migrate(&settings).await.unwrap();
    let ledger = Ledger::open(&settings).await.unwrap();
    let engine = EngineSettings::new(server.url());
    let life = Lifecycle::start(
        ledger,
        Engine::open(&engine).await.unwrap(),
        Clock::System,
        CancellationToken::new(),
        TaskTracker::new(),
    );
    let shard = ShardId::first(Namespace::default(), QueueName::default());
    let seen = Arc::new(Mutex::new(Seen::default()));
    submit(&life, &shard).await;
    let worker = start(&life, engine, Arc::clone(&seen));
    // Once early and once late, while jobs run.
    for (flush, ended) in [(true, JOBS / 4), (true, JOBS / 2), (false, JOBS)] {
        until_ended(&life, &shard, ended).await;
        if flush {
            server.command(&["FLUSHALL"]).expect_ok();
            reopen(&life, &shard).await;
        }
    }
    worker.stop().await;
    let seen = seen.lock().unwrap();
    assert!(seen.broken.is_empty(), "{:#?}", seen.broken);
    assert!(seen.most > 1, "keys do not wait for each other");
    for (key, begun) in &seen.begun {
        assert!(begun.is_sorted(), "key {key}: {begun:?}");
        let mut all = begun.clone();
        all.dedup();
        assert_eq!(all, (0..JOBS / KEYS).collect::<Vec<_>>(), "key {key}");
    }
    assert_eq!(seen.begun.len(), KEYS);
}

/// Submits the jobs in batches, over all keys in turn.
async fn submit(life: &Lifecycle, shard: &ShardId) {
    let jobs: Vec<NewJob> = (0..JOBS)
        .map(|at| {
            let (key, n) = (at % KEYS, at / KEYS);
            let payload = Value::Inline(json!([key, n]).to_string().into());
            let mut spec = spec(4);
            spec.order_key = Some(format!("key {key}"));
            let (namespace, queue) = (shard.namespace.clone(), shard.queue.clone());
            NewJob { spec, ..NewJob::new(namespace, queue, "step".parse().unwrap(), payload) }
        })
        .collect();
    for jobs in jobs.chunks(23) {
        let submission = Submission { jobs: jobs.to_vec(), atomic: false, idempotency: None };
        life.submit(submission).await.unwrap();
    }
}

fn start(life: &Lifecycle, engine: EngineSettings, seen: Arc<Mutex<Seen>>) -> Running {
    let settings = WorkerSettings {
        name: "w".into(),
        concurrency: SLOTS,
        lease: LEASE,
        drain_timeout: Duration::from_secs(20),
        ..WorkerSettings::default()
    };
    let reporter = LedgerReporter::new(life.clone(), Namespace::default());
    let worker = Worker::builder(settings)
        .engine(EngineSource::Settings(engine))
        .reporter(Arc::new(reporter) as _)
        .handle("step", move |ctx: Context, (key, n): (usize, usize)| {
            let (seen, attempt) = (Arc::clone(&seen), ctx.attempt());
            async move {
                seen.lock().unwrap().begins(key, n);
                tokio::time::sleep(Duration::from_millis(3)).await;
                seen.lock().unwrap().ends(key);
                match fails(n, attempt) {
                    true => Err(HandlerError::retryable("told", "as it was told")),
                    false => Ok(n),
                }
            }
        })
        .build()
        .unwrap();
    Running::start(worker)
}

/// Records, as the recorder does, until so many have ended.
async fn until_ended(life: &Lifecycle, shard: &ShardId, count: usize) {
    let queue = life.ledger().queue(&shard.namespace, &shard.queue).await.unwrap().unwrap();
    let states = JobState::ALL.into_iter().filter(|state| state.is_terminal()).collect();
    let filter = JobFilter { states, ..JobFilter::default() };
    let mut sweeper = Sweeper::default();
    let wait = async {
        loop {
            while record::record_outcomes(life, shard).await.unwrap() > 0 {}
            let page = life.ledger().list(&shard.namespace, &filter, None, 500).await.unwrap();
            if page.jobs.len() >= count {
                return;
            }
            sweeper.pass(life, &queue).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 2, wait).await.expect("they do not end");
}

/// What the leader does with a store that has forgotten.
async fn reopen(life: &Lifecycle, shard: &ShardId) {
    let holder = WorkerId::from_bytes([3; 16]);
    let epoch = life.ledger().lead(holder, "leader", PATIENCE).await.unwrap().unwrap();
    let settings = VerifySettings { window: PATIENCE, grace: LEASE, ramp: Duration::ZERO };
    let verified = tokio::time::timeout(PATIENCE, verify(life, shard, epoch, &settings)).await;
    let verified = verified.expect("it is verified").unwrap();
    assert!(matches!(verified, Verified::Opened { missing: 0, .. }), "{verified:?}");
}
