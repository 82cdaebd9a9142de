//! Redis that dies, fails over, forgets its scripts, is slow or unfit.

use std::time::{Duration, Instant};

use bytes::Bytes;
use windlass_shared::config::EngineSettings;
use windlass_shared::engine::redis::Redis;
use windlass_shared::engine::{
    Engine, EngineError, Settle, Settled, ShardId, Signal, Signals, Topic, Verdict,
};
use windlass_shared::testkit::engine_suite::proof;
use windlass_shared::testkit::redis_server::cluster::RedisCluster;
use windlass_shared::testkit::redis_server::sentinel::RedisSentinel;
use windlass_shared::testkit::redis_server::{READY_MAX, RedisOptions, RedisServer};

use crate::redis_rig::{at_last, claim, configure, open, push, request, shard, suite_rig};

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
    let mut signals =
        engine.subscribe_to(std::slice::from_ref(&shard), &[Topic::Ready]).await.unwrap();
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
    at_last(async || configure(&engine, &shard).await).await;
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
    let settle =
        Settle { dependency: None, held, verdict: Verdict::Succeeded, detail: Bytes::new() };
    assert_eq!(engine.settle(&shard, &[settle]).await.unwrap().settles, [Settled::Settled]);
    flush();
    let last = engine.outcomes(&shard, 1).await.unwrap()[0].mark();
    engine.confirm(&shard, &last).await.unwrap();
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
    let mut signals =
        engine.subscribe_to(std::slice::from_ref(&shard), &[Topic::Ready]).await.unwrap();
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

/// With a certificate of its own, as a private Redis has; and not with another's.
#[tokio::test]
async fn a_private_certificate_is_trusted_when_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["ours", "other"] {
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=redis",
            ])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", &path(&format!("{name}.key")), "-out", &path(&format!("{name}.pem"))])
            .output()
            .expect("openssl is on the path");
        assert!(made.status.success(), "{made:?}");
    }
    let port = windlass_shared::testkit::redis_server::process::free_port();
    let mut args = vec!["--tls-port".to_owned(), port.to_string()];
    args.extend(["--tls-auth-clients".to_owned(), "no".to_owned()]);
    args.extend(["--tls-cert-file".to_owned(), path("ours.pem")]);
    args.extend(["--tls-key-file".to_owned(), path("ours.key")]);
    args.extend(["--tls-ca-cert-file".to_owned(), path("ours.pem")]);
    let _server = RedisServer::start(RedisOptions { args, ..RedisOptions::default() });

    let engine = open(format!("rediss://127.0.0.1:{port}?ca={}", path("ours.pem"))).await;
    let shard = shard("tls");
    let mut signals =
        engine.subscribe_to(std::slice::from_ref(&shard), &[Topic::Ready]).await.unwrap();
    configure(&engine, &shard).await.unwrap();
    push(&engine, &shard).await.unwrap();
    assert_eq!(signals.next().await, Some(Signal::Ready(shard.clone())));
    assert_eq!(engine.stats(&shard).await.unwrap().ready, 1, "the pool speaks TLS too");
    for url in [
        format!("rediss://127.0.0.1:{port}?ca={}", path("other.pem")),
        format!("rediss://127.0.0.1:{port}"),
    ] {
        assert!(Redis::open(&EngineSettings::new(url)).await.is_err());
    }
}
