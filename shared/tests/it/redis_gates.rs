//! Gates and the processes of Redis: one that starts anew, with all it had or with nothing, gives out no lease until
//! somebody has compared it.

use windlass_shared::engine::{
    ClaimState, Engine, Opened, Opening, Settle, Settled, ShardId, Shut, Verdict,
};
use windlass_shared::limits::PUSH_WINDOW;
use windlass_shared::testkit::engine_suite::proof;
use windlass_shared::testkit::gates::LEDGER;
use windlass_shared::testkit::redis_server::cluster::RedisCluster;
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};

use crate::redis_rig::{at_last, claim, configure, open, push, request, shard};

async fn state(engine: &Engine, shard: &ShardId) -> ClaimState {
    at_last(async || engine.claim(shard, &request()).await).await.state
}

/// Verifies a shard as the leader does, without looking.
async fn reopen(engine: &Engine, shard: &ShardId) {
    let view = engine.gate(shard).await.unwrap();
    let generation = view.gate.map_or(1, |gate| gate.generation + 1);
    let not_after = engine.now().await.unwrap().plus(PUSH_WINDOW);
    let shut = engine.shut(shard, LEDGER, generation, not_after).await.unwrap();
    assert_eq!(shut, Shut::Shut { process: view.process, wiped: false });
    let opening = Opening {
        settings: engine.stats(shard).await.unwrap().settings.unwrap_or_default(),
        ledger: LEDGER,
        generation,
        process: view.process,
        grace: std::time::Duration::ZERO,
        slots: 0,
        ramp: std::time::Duration::ZERO,
    };
    assert_eq!(engine.open_gate(shard, &opening).await.unwrap(), Opened::Open);
}

/// Goal: leases of before a restart are good, and no others are given until the gate is opened.
/// Method: a server with an append-only file is killed; nothing is lost.
#[tokio::test]
async fn a_restarted_server_is_compared_first() {
    let options = RedisOptions { appendonly: true, ..RedisOptions::default() };
    let mut server = RedisServer::start(options);
    let (engine, shard) = (open(server.url()).await, shard("restarted"));
    configure(&engine, &shard).await.unwrap();
    push(&engine, &shard).await.unwrap();
    let request = request();
    let leased = engine.claim(&shard, &request).await.unwrap().jobs;
    push(&engine, &shard).await.unwrap();
    let before = engine.gate(&shard).await.unwrap();
    assert!(before.is_open());

    server.kill_9();
    server.restart();
    assert_eq!(state(&engine, &shard).await, ClaimState::Unverified);
    let after = at_last(async || engine.gate(&shard).await).await;
    assert_eq!(after.gate, before.gate, "it is as it was kept");
    assert_ne!(after.process, before.process);
    assert!(!after.is_open() && !engine.stats(&shard).await.unwrap().open);
    let held = proof(&request, &leased[0]);
    let settle =
        Settle { dependency: None, held, verdict: Verdict::Succeeded, detail: bytes::Bytes::new() };
    let reply = engine.settle(&shard, &[settle]).await.unwrap();
    assert_eq!((reply.settles[0], reply.position.generation), (Settled::Settled, None));
    reopen(&engine, &shard).await;
    assert_eq!(claim(&engine, &shard).await.unwrap().len(), 1);
}

/// Goal: a server that lost everything, or everything of a shard, gives out nothing.
#[tokio::test]
async fn an_emptied_server_is_compared_first() {
    let server = RedisServer::start(RedisOptions::default());
    let (engine, shard) = (open(server.url()).await, shard("emptied"));
    configure(&engine, &shard).await.unwrap();
    push(&engine, &shard).await.unwrap();
    server.command(&["FLUSHALL"]).expect_ok();
    assert_eq!(engine.gate(&shard).await.unwrap().gate, None);
    push(&engine, &shard).await.unwrap();
    assert_eq!(state(&engine, &shard).await, ClaimState::Unverified);
    reopen(&engine, &shard).await;
    assert_eq!(claim(&engine, &shard).await.unwrap().len(), 1);
}

/// Each shard of a Cluster has the gate of the node that serves it.
#[tokio::test]
async fn gates_of_a_cluster_are_those_of_its_nodes() {
    let cluster = RedisCluster::shared();
    let engine = open(cluster.url()).await;
    let mut processes = std::collections::BTreeSet::new();
    for n in 0..12 {
        let shard = shard(&format!("gate-{n}"));
        configure(&engine, &shard).await.unwrap();
        let view = engine.gate(&shard).await.unwrap();
        assert!(view.is_open());
        processes.insert(view.process.to_string());
        push(&engine, &shard).await.unwrap();
        assert_eq!(claim(&engine, &shard).await.unwrap().len(), 1);
    }
    assert_eq!(processes.len(), 3, "every master serves some");
}
