//! The verbs of a job's life while the engine (Redis) is silent, damaged in places, or asked for queues that
//! do not exist.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, LedgerSettings};
use windlass_shared::engine::model::Bounds;
use windlass_shared::engine::redis::{PlantedFault, Redis};
use windlass_shared::engine::{Engine, ShardId};
use windlass_shared::ledger::{Accepted, Ledger, QueueSettings, Submission, SubmitOutcome};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::lease::{Take, Taken};
use windlass_shared::model::id::{JobId, WorkerId};
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer, unique_prefix};

use crate::redis_rig::push;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    life: Lifecycle,
    prefix: String,
    _folder: tempfile::TempDir,
}

impl World {
    async fn on(server: &RedisServer, fault: Option<PlantedFault>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let prefix = unique_prefix();
        let settings =
            EngineSettings { prefix: prefix.clone(), ..EngineSettings::new(server.url()) };
        let bounds = Bounds::default();
        let redis = Redis::open_with_test_clock(&settings, Clock::System, bounds, fault).await;
        let engine = match fault {
            Some(_) => Engine::Redis(Arc::new(redis.unwrap())),
            None => Engine::open(&settings).await.unwrap(),
        };
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let life = Lifecycle::start(ledger, engine, Clock::System, shutdown, tasks);
        Self { life, prefix, _folder: folder }
    }

    async fn submit(&self, queue: &str) -> JobId {
        let job = NewJob::new(
            Namespace::default(),
            queue.parse().unwrap(),
            "plain".parse().unwrap(),
            Value::Inline(Bytes::from_static(b"null")),
        );
        let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
        let outcome = self.life.submit(submission).await.unwrap();
        let SubmitOutcome::Done(results) = outcome else {
            panic!("a submission without a key is never replayed");
        };
        match results.into_iter().next() {
            Some(Ok(Accepted::New(job))) => job.id,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Waits until so many jobs of a queue are claimable: there, and their shard opened.
    async fn ready(&self, queue: &str, count: u64) {
        let shard = shard(queue);
        until("the jobs are there", async || {
            let stats = self.life.engine().stats(&shard).await.unwrap();
            stats.ready == count && stats.settings.is_some()
        })
        .await;
    }

    fn take(&self, queues: &[&str], wait: Duration) -> Take {
        Take {
            namespace: Namespace::default(),
            worker: WorkerId::generate(),
            queues: queues.iter().map(|queue| queue.parse().unwrap()).collect(),
            kinds: Vec::new(),
            max: 10,
            lease: PATIENCE,
            wait,
        }
    }
}

fn shard(queue: &str) -> ShardId {
    ShardId::first(Namespace::default(), queue.parse::<QueueName>().unwrap())
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

fn ids(taken: &[Taken]) -> Vec<JobId> {
    taken.iter().map(|taken| taken.job.id).collect()
}

/// Goal: leases that one queue gave reach the caller although the next queue cannot be opened.
/// Method: the other queue is on record but not open, and the key that opening looks at is damaged.
#[tokio::test]
async fn leases_are_not_lost_to_a_queue_that_cannot_be_opened() {
    let server = RedisServer::shared();
    let world = World::on(server, None).await;
    let id = world.submit("sound").await;
    world.ready("sound", 1).await;
    let (namespace, queue) = (Namespace::default(), "broken".parse().unwrap());
    let settings = QueueSettings::default();
    world.life.ledger().set_queue(&namespace, &queue, None, &settings).await.unwrap().unwrap();
    let key = format!("{}:{{{}}}:ready", world.prefix, shard("broken"));
    server.command(&["SET", &key, "?"]).expect_ok();

    let taken = world.life.take(world.take(&["sound", "broken"], Duration::ZERO)).await.unwrap();
    assert_eq!(ids(&taken), [id]);
    let alone = world.life.take(world.take(&["broken"], Duration::ZERO)).await;
    assert!(alone.is_err(), "with nothing in hand the error is told");
}

/// Goal: leases of good jobs reach the caller although a job that is not on record cannot be ended.
/// Method: the script that ends it answers what nobody understands.
#[tokio::test]
async fn leases_are_not_lost_to_a_stranger_that_cannot_be_ended() {
    let fault = PlantedFault {
        find: "return { \"settled\", position(), table.concat(answers) }",
        replace: "return { \"strange\" }",
    };
    let world = World::on(RedisServer::shared(), Some(fault)).await;
    let id = world.submit("mixed").await;
    push(world.life.engine(), &shard("mixed")).await.unwrap();
    world.ready("mixed", 2).await;
    let taken = world.life.take(world.take(&["mixed"], Duration::ZERO)).await.unwrap();
    assert_eq!(ids(&taken), [id]);
}

/// Goal: a Redis that does not answer does not hold up submissions, which it has no part in.
/// Method: it is silent for longer than all of them together may take.
#[tokio::test]
async fn a_silent_engine_does_not_hold_up_submissions() {
    let server = RedisServer::start(RedisOptions::default());
    let world = World::on(&server, None).await;
    server.command(&["CLIENT", "PAUSE", "4000", "ALL"]).expect_ok();
    let started = Instant::now();
    for _ in 0..3 {
        world.submit("quiet").await;
    }
    // Each would wait for as long as an answer may take, two seconds.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    until("it is asked again", async || {
        world.submit("quiet").await;
        world.life.engine().stats(&shard("quiet")).await.is_ok_and(|stats| stats.ready > 0)
    })
    .await;
}

/// The channels that somebody is subscribed to.
fn channels(server: &RedisServer) -> Vec<String> {
    let list = server.command(&["PUBSUB", "CHANNELS"]).text();
    list.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn only_queues_that_exist_are_listened_to_and_only_while_somebody_waits() {
    let server = RedisServer::start(RedisOptions::default());
    let world = World::on(&server, None).await;
    let first = world.submit("known").await;
    world.ready("known", 1).await;
    let taken = world.life.take(world.take(&["known"], Duration::ZERO)).await.unwrap();
    assert_eq!(ids(&taken), [first]);

    let waiting = {
        let (life, take) = (world.life.clone(), world.take(&["unknown", "known"], PATIENCE));
        tokio::spawn(async move { life.take(take).await.unwrap() })
    };
    until("the known queue is listened to", async || !channels(&server).is_empty()).await;
    let channel = format!("{}:{{{}}}:signals:r", world.prefix, shard("known"));
    assert_eq!(channels(&server), [channel]);
    let second = world.submit("known").await;
    assert_eq!(ids(&waiting.await.unwrap()), [second]);
    until("the channel is left", async || channels(&server).is_empty()).await;

    let new = {
        let (life, take) = (world.life.clone(), world.take(&["fresh"], PATIENCE));
        tokio::spawn(async move { life.take(take).await.unwrap() })
    };
    let third = world.submit("fresh").await;
    assert_eq!(ids(&new.await.unwrap()), [third], "a queue that comes into being is found");
}

/// Goal: without signals a remote worker gets its jobs all the same.
/// Method: the server forbids subscriptions.
#[tokio::test]
async fn a_take_polls_where_it_cannot_listen() {
    let server = RedisServer::start(RedisOptions::default());
    let world = World::on(&server, None).await;
    let first = world.submit("deaf").await;
    world.ready("deaf", 1).await;
    server.command(&["ACL", "SETUSER", "default", "-subscribe"]).expect_ok();
    let taken = world.life.take(world.take(&["deaf"], PATIENCE)).await.unwrap();
    assert_eq!(ids(&taken), [first]);
    let waiting = {
        let (life, take) = (world.life.clone(), world.take(&["deaf"], PATIENCE));
        tokio::spawn(async move { life.take(take).await.unwrap() })
    };
    let second = world.submit("deaf").await;
    assert_eq!(ids(&waiting.await.unwrap()), [second]);
}
