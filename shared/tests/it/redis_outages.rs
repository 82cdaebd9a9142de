//! Redis that dies, fails over, forgets its scripts, is slow, unfit, or written to by strangers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use windlass_shared::config::EngineSettings;
use windlass_shared::engine::redis::Redis;
use windlass_shared::engine::{
    ClaimRequest, Engine, EngineError, LiveState, Push, Pushed, Settle, Settled, ShardId,
    ShardSettings, Signal, Signals, Verdict,
};
use windlass_shared::limits::PUSH_WINDOW;
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
use windlass_shared::model::job::Priority;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::testkit::engine_suite::{Rig, id, proof};
use windlass_shared::testkit::redis_server::cluster::RedisCluster;
use windlass_shared::testkit::redis_server::resp::Connection;
use windlass_shared::testkit::redis_server::sentinel::RedisSentinel;
use windlass_shared::testkit::redis_server::{READY_MAX, RedisOptions, RedisServer};

use crate::redis_rig::{Stage, suite_rig};

fn shard(queue: &str) -> ShardId {
    ShardId::first(Namespace::default(), queue.parse::<QueueName>().expect("a legal name"))
}

/// An engine as production opens it, which gives up on an answer after half a second.
async fn open(url: String) -> Engine {
    let mut settings = EngineSettings::new(url);
    settings.response_timeout = Duration::from_millis(500);
    Engine::open(&settings).await.expect("the private redis is fit")
}

async fn configure(engine: &Engine, shard: &ShardId) -> Result<bool, EngineError> {
    engine.configure(shard, &ShardSettings { version: 1, ..ShardSettings::default() }).await
}

/// Pushes one fresh job.
async fn push(engine: &Engine, shard: &ShardId) -> Result<JobId, EngineError> {
    let now = engine.now().await?;
    let job = Push {
        id: JobId::generate(),
        fence: Fence(1),
        attempt: 0,
        crashes: 0,
        max_crashes: 3,
        priority: Priority::default(),
        run_at: now,
        expires_at: None,
        kind: "plain".parse().expect("a legal kind"),
        envelope: Bytes::from_static(b"{}"),
    };
    let reply = engine.push(shard, std::slice::from_ref(&job), now.plus(PUSH_WINDOW)).await?;
    assert_eq!(reply.pushed, [Pushed::Added]);
    Ok(job.id)
}

fn request() -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::generate(),
        lease_id: LeaseId::random(),
        max: 10,
        lease: Duration::from_secs(60),
        kinds: Vec::new(),
        offset: 0,
    }
}

async fn claim(engine: &Engine, shard: &ShardId) -> Result<Vec<JobId>, EngineError> {
    Ok(engine.claim(shard, &request()).await?.jobs.into_iter().map(|job| job.id).collect())
}

/// Repeats a call until it is answered. What it fails with in between must be of the kind that passes.
async fn at_last<T>(mut ask: impl AsyncFnMut() -> Result<T, EngineError>) -> T {
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

/// Pushes until a listener that was there before the outage hears of it.
async fn hears_again(engine: &Engine, shard: &ShardId, signals: &mut Signals) {
    let deadline = Instant::now() + READY_MAX;
    loop {
        at_last(async || push(engine, shard).await).await;
        let heard = tokio::time::timeout(Duration::from_millis(50), signals.next()).await;
        match heard {
            Ok(signal) => {
                assert_eq!(signal, Some(Signal::Ready(shard.clone())));
                return;
            }
            Err(_) => assert!(Instant::now() < deadline, "the listener stays deaf"),
        }
    }
}

#[tokio::test]
async fn a_killed_server_comes_back_with_its_jobs_and_listeners() {
    let options = RedisOptions { appendonly: true, ..RedisOptions::default() };
    let mut server = RedisServer::start(options);
    let (engine, shard) = (open(server.url()).await, shard("killed"));
    configure(&engine, &shard).await.unwrap();
    let mut signals = engine.subscribe(std::slice::from_ref(&shard)).await.unwrap();
    let job = push(&engine, &shard).await.unwrap();
    assert_eq!(signals.next().await, Some(Signal::Ready(shard.clone())));

    server.kill_9();
    let started = Instant::now();
    for _ in 0..20 {
        let error = claim(&engine, &shard).await.expect_err("nobody is there");
        assert!(error.is_transient(), "{error:?}");
        let error = engine.stats(&shard).await.expect_err("nobody is there");
        assert!(error.is_transient(), "{error:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "calls to a dead server fail fast");

    server.restart();
    assert_eq!(at_last(async || claim(&engine, &shard).await).await, [job]);
    assert_eq!(at_last(async || engine.stats(&shard).await).await.leased, 1);
    hears_again(&engine, &shard, &mut signals).await;
}

#[tokio::test]
async fn lost_scripts_are_sent_again() {
    let server = RedisServer::shared();
    let (engine, shard) = (open(server.url()).await, shard("flushed"));
    let flush = || server.command(&["SCRIPT", "FLUSH"]).expect_ok();
    flush();
    configure(&engine, &shard).await.unwrap();
    flush();
    let job = push(&engine, &shard).await.unwrap();
    flush();
    let request = request();
    let claimed = engine.claim(&shard, &request).await.unwrap();
    flush();
    assert!(engine.peek(&shard, job).await.unwrap().is_some());
    flush();
    let held = proof(&request, &claimed.jobs[0]);
    let settle = Settle { held, verdict: Verdict::Succeeded, detail: Bytes::new() };
    assert_eq!(engine.settle(&shard, &[settle]).await.unwrap(), [Settled::Settled]);
    flush();
    let last = engine.outcomes(&shard, 1).await.unwrap()[0].seq;
    engine.confirm(&shard, last).await.unwrap();
    flush();
    assert_eq!(engine.exists(&shard, &[job]).await.unwrap(), [true], "as a tombstone");
}

#[tokio::test]
async fn a_silent_server_is_not_waited_for() {
    let server = RedisServer::start(RedisOptions::default());
    let (engine, shard) = (open(server.url()).await, shard("silent"));
    configure(&engine, &shard).await.unwrap();
    server.command(&["CLIENT", "PAUSE", "3000", "ALL"]).expect_ok();
    let started = Instant::now();
    let error = claim(&engine, &shard).await.expect_err("nobody answers");
    assert!(error.is_transient(), "{error:?}");
    assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
    at_last(async || push(&engine, &shard).await).await;
}

#[tokio::test]
async fn a_demoted_master_is_left() {
    let (server, other) =
        (RedisServer::start(RedisOptions::default()), RedisServer::start(RedisOptions::default()));
    let (engine, shard) = (open(server.url()).await, shard("demoted"));
    configure(&engine, &shard).await.unwrap();
    server.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]).expect_ok();
    let error = push(&engine, &shard).await.expect_err("a replica takes no writes");
    assert!(error.is_transient(), "{error:?}");
    server.command(&["REPLICAOF", "NO", "ONE"]).expect_ok();
    at_last(async || push(&engine, &shard).await).await;
}

#[tokio::test]
async fn sentinels_lead_to_the_new_master() {
    let mut rig = RedisSentinel::start();
    let (engine, shard) = (open(rig.url()).await, shard("failed-over"));
    configure(&engine, &shard).await.unwrap();
    let mut signals = engine.subscribe(std::slice::from_ref(&shard)).await.unwrap();
    push(&engine, &shard).await.unwrap();
    assert_eq!(signals.next().await, Some(Signal::Ready(shard.clone())));

    rig.master.kill_9();
    assert!(claim(&engine, &shard).await.expect_err("the master is gone").is_transient());
    rig.wait_failed_over();
    // The replica may lack the last writes: that is what fences and the ledger are for.
    at_last(async || configure(&engine, &shard).await).await;
    hears_again(&engine, &shard, &mut signals).await;
    assert!(at_last(async || engine.stats(&shard).await).await.ready > 0);
    assert!(!at_last(async || claim(&engine, &shard).await).await.is_empty());
}

mod behind_sentinels {
    use super::*;
    use windlass_shared::testkit::engine_suite::{claim, push, settle};

    /// The verbs themselves are the same scripts: a few cases show that they get through.
    #[tokio::test]
    async fn cases_of_the_suite_pass() {
        let sentinels = RedisSentinel::start();
        let rig = async || suite_rig(sentinels.url()).await;
        push::a_pushed_job_is_claimable_at_once(&rig().await).await;
        push::a_push_is_repeatable(&rig().await).await;
        claim::a_job_has_one_holder(&rig().await).await;
        settle::success_ends_the_job(&rig().await).await;
        settle::a_repeated_settle_changes_nothing(&rig().await).await;
    }
}

#[tokio::test]
async fn a_node_of_a_cluster_comes_back() {
    let mut cluster = RedisCluster::start(3);
    let engine = open(cluster.url()).await;
    let shards: Vec<_> = (0..12).map(|n| shard(&format!("node-{n}"))).collect();
    for shard in &shards {
        configure(&engine, shard).await.unwrap();
    }
    let mut signals = engine.subscribe(&shards).await.unwrap();
    cluster.masters[0].kill_9();
    let mut failed = 0;
    for shard in &shards {
        if let Err(error) = push(&engine, shard).await {
            assert!(error.is_transient(), "{error:?}");
            failed += 1;
        }
    }
    assert!(failed > 0, "some shards lived on that node");
    cluster.masters[0].restart();
    cluster.wait_whole();
    for shard in &shards {
        at_last(async || push(&engine, shard).await).await;
    }
    let heard = tokio::time::timeout(READY_MAX, signals.next()).await;
    assert!(heard.expect("listeners hear again").is_some());
}

#[tokio::test]
async fn an_unfit_store_is_refused_with_a_reason() {
    let evicting = RedisServer::start(RedisOptions {
        maxmemory_bytes: Some(64 << 20),
        policy: Some("allkeys-lru"),
        password: Some("secret"),
        ..RedisOptions::default()
    });
    let open = async |url: String| Redis::open(&EngineSettings::new(url)).await.err();
    let error = open(evicting.url()).await.expect("jobs could be evicted");
    assert!(matches!(error, EngineError::Unfit(_)) && error.to_string().contains("noeviction"));
    evicting.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).expect_ok();
    assert!(open(evicting.url()).await.is_none());

    for url in [
        format!("redis://127.0.0.1:{}", evicting.port()),
        format!("redis://:wrong@127.0.0.1:{}", evicting.port()),
    ] {
        let error = open(url).await.expect("the password is missing or wrong");
        assert!(matches!(error, EngineError::Unfit(_)), "{error:?}");
    }
    let nobody = windlass_shared::testkit::redis_server::process::free_port();
    let error = open(format!("redis://127.0.0.1:{nobody}")).await.expect("nobody listens");
    assert!(error.is_transient(), "{error:?}");
}

/// A rig and raw access to its shard's keys.
async fn with_keys() -> (Rig, impl Fn(&str, &[&[u8]])) {
    let server = RedisServer::shared();
    let rig = suite_rig(server.url()).await;
    let prefix = format!("w:{{{}}}:", rig.shard);
    let write = move |command: &str, words: &[&[u8]]| {
        let mut connection = Connection::open(server.port()).unwrap();
        let key = [prefix.as_bytes(), words[0]].concat();
        let words = [&[command.as_bytes(), &key], &words[1..]].concat();
        connection.call_bytes(&words).unwrap().expect_ok();
    };
    (rig, write)
}

/// What is thrown out is brought back by the ledger's sweep: it must not look present.
#[tokio::test]
async fn strange_members_of_orders_are_passed_over() {
    let (rig, write) = with_keys().await;
    rig.open_with(2).await;
    let (absent, strange, emptied) = ([1; 16], [2; 16], id(0));
    write("ZADD", &[b"ready", b"0", &absent]);
    write("ZADD", &[b"ready", b"1", &strange]);
    write("HSET", &[b"jobs", &strange, b"?"]);
    write("HSET", &[b"held", &strange, b"?"]);
    write("HDEL", &[b"jobs", emptied.as_bytes()]);
    write("ZADD", &[b"delayed", b"0", &absent]);
    write("ZADD", &[b"leases", b"0", &absent]);
    assert_eq!(rig.claim_ids(10).await, [id(1)]);
    assert_eq!(rig.claim_ids(10).await, []);
    let strangers = [absent, strange].map(JobId::from_bytes);
    let known = rig.engine.exists(&rig.shard, &[strangers[0], strangers[1], id(0)]).await;
    assert_eq!(known.unwrap(), [false; 3]);
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.leased), (0, 0, 1));
}

#[tokio::test]
async fn strange_values_are_told_and_never_panic() {
    for (command, words) in [
        ("SET", [b"meta".as_slice(), b"?"].as_slice()),
        ("SET", &[b"jobs", b"?"]),
        ("SET", &[b"ready", b"?"]),
        ("SET", &[b"outbox", b"?"]),
        ("RPUSH", &[b"outbox", b"?"]),
        ("HSET", &[b"held", id(0).as_bytes(), &[0xff; 83]]),
    ] {
        let (rig, write) = with_keys().await;
        let (shard, engine) = (rig.shard.clone(), rig.engine.clone());
        if command != "SET" {
            rig.hold_one().await;
        }
        write(command, words);
        let job = rig.job(0).await;
        let now = rig.now().await;
        let errors: Vec<EngineError> = [
            engine.push(&shard, &[job], now).await.err(),
            engine.claim(&shard, &rig.request(1)).await.err(),
            engine.outcomes(&shard, 9).await.err(),
            engine.confirm(&shard, u64::MAX).await.err(),
            engine.peek(&shard, id(0)).await.err(),
            engine.leased(&shard, None, now, 9).await.err(),
            engine.stats(&shard).await.err(),
        ]
        .into_iter()
        .flatten()
        .collect();
        assert!(!errors.is_empty(), "{words:?} was not noticed");
        for error in errors {
            assert!(matches!(error, EngineError::UnknownReply { .. }), "{words:?}: {error:?}");
        }
    }
}

/// An old end that is recorded late says nothing of a job that ended again since.
#[tokio::test]
async fn a_late_confirm_leaves_a_newer_end_alone() {
    let rig = suite_rig(RedisServer::shared().url()).await;
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    let old = rig.last_outcome().await;
    let fence = Fence(held.fence.0 + 1);
    assert_eq!(rig.push(&[Push { fence, ..rig.job(0).await }]).await, [Pushed::Added]);
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    rig.confirm(old.seq).await;
    assert_eq!(rig.state(0).await, Some(LiveState::Finishing));
    assert_eq!(rig.last_outcome().await.fence, held.fence);
}

/// Every batch fits one script, and a job that is named twice is decided twice, in order.
#[tokio::test]
async fn batches_of_any_size_and_shape_are_taken() {
    let stage = Stage::open(RedisServer::shared().url(), Default::default(), None).await;
    let (engine, shard) = (&stage.engine, shard("large"));
    configure(engine, &shard).await.unwrap();
    let now = engine.now().await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..450 {
        jobs.push(Push {
            id: JobId::generate(),
            fence: Fence(1),
            attempt: 0,
            crashes: 0,
            max_crashes: 3,
            priority: Priority::default(),
            run_at: now,
            expires_at: None,
            kind: "plain".parse().unwrap(),
            envelope: Bytes::from_static(b"{}"),
        });
    }
    jobs.push(jobs[449].clone());
    let reply = engine.push(&shard, &jobs, now).await.unwrap();
    assert_eq!(reply.pushed[..450], [Pushed::Added; 450]);
    assert_eq!(reply.pushed[450], Pushed::Present);
    let mut held = Vec::new();
    for expected in [200, 200, 50] {
        let request = ClaimRequest { max: 1_000, ..request() };
        let claimed = engine.claim(&shard, &request).await.unwrap().jobs;
        assert_eq!(claimed.len(), expected);
        held.extend(claimed.iter().map(|job| proof(&request, job)));
    }
    assert_eq!(engine.extend(&shard, &held, Duration::from_secs(90)).await.unwrap().len(), 450);
    let settle = |held: &_| Settle { held: *held, verdict: Verdict::Dead, detail: Bytes::new() };
    let mut settles: Vec<Settle> = held.iter().map(settle).collect();
    settles.push(settles[0].clone());
    let replies = engine.settle(&shard, &settles).await.unwrap();
    assert_eq!(replies[..450], [Settled::Settled; 450]);
    assert_eq!(replies[450], Settled::Repeated);
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(engine.exists(&shard, &ids).await.unwrap(), [true; 451]);
    let outcomes = engine.outcomes(&shard, 1_000).await.unwrap();
    engine.confirm(&shard, outcomes[449].seq).await.unwrap();
    let dump = stage.redis.dump(&shard).await.unwrap();
    assert_eq!((dump.entries.len(), dump.outbox.len(), dump.tombstones.len()), (0, 0, 450));
    assert_eq!((dump.bytes, dump.outbox_bytes), (0, 0));
}

/// The engine can be shared and sent between threads, as the roles do.
#[test]
fn engines_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Redis>>();
}
