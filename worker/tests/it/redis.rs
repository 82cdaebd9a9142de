//! The worker on Redis: connections of its own for the leases, and an outage.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use windlass_shared::config::EngineSettings;
use windlass_shared::engine::{Ended, ShardSettings};
use windlass_shared::testkit::gates::open_shard;
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};
use windlass_worker::builder::EngineSource;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;

use crate::fixture::{PATIENCE, Rig, spec};
use crate::leases::block_every_thread;

async fn rig(server: &RedisServer) -> Rig {
    let settings = EngineSettings {
        response_timeout: Duration::from_millis(500),
        ..EngineSettings::new(server.url())
    };
    Rig::over(EngineSource::Settings(settings)).await
}

#[tokio::test]
async fn leases_are_kept_over_a_connection_of_their_own() {
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default()));
    block_every_thread(rig(&server.await.unwrap()).await).await;
}

/// What the leader does with a process of the store that it does not know; the worker has to report.
async fn verify(rig: &Rig) {
    let (engine, shard) = (&rig.engine, &rig.shard);
    let gate = engine.gate(shard).await.unwrap().gate.unwrap();
    let not_after = engine.now().await.unwrap().plus(PATIENCE);
    engine.shut(shard, gate.ledger, gate.generation + 1, not_after).await.unwrap();
    let reported = async {
        while engine.gate(shard).await.unwrap().reported.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reported).await.expect("the worker does not report");
    assert!(open_shard(engine, shard, ShardSettings::default()).await.is_ok());
}

/// Goal: an outage of Redis costs time and nothing else.
/// Method: Redis is killed while a job runs, and comes back with what it had when the job has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settle_waits_out_an_outage_and_the_worker_goes_on() {
    let options = RedisOptions { appendonly: true, ..RedisOptions::default() };
    let mut server = tokio::task::spawn_blocking(|| RedisServer::start(options)).await.unwrap();
    let mut rig = rig(&server).await;
    // Longer than the outage: what is tested is the settle, not the reaper.
    rig.settings.lease = Duration::from_secs(60);
    let (started, go, ended) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (Arc::clone(&started), Arc::clone(&go), Arc::clone(&ended));
    let worker = rig.start(|b| {
        b.handle("wait", move |_ctx: Context, (): ()| {
            let (started, go, ended) = signals.clone();
            async move {
                started.notify_one();
                go.notified().await;
                ended.notify_one();
                Ok::<_, HandlerError>("kept")
            }
        })
    });
    let id = rig.push("wait", json!(null), spec(1)).await;
    tokio::time::timeout(PATIENCE, started.notified()).await.unwrap();
    let mut server = tokio::task::spawn_blocking(move || {
        server.kill_9();
        server
    })
    .await
    .unwrap();
    go.notify_one();
    tokio::time::timeout(PATIENCE, ended.notified()).await.unwrap();
    // The length of the outage: several tries fail in it.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    let end = rig.last(id).await;
    assert_eq!((end.ended, end.output()), (Ended::Succeeded, json!("kept")));
    verify(&rig).await;
    // Settled while nobody had verified the new process: told to the ledger as well.
    let recorded: Vec<_> = rig.memory.recorded.lock().unwrap().iter().map(|o| o.job_id).collect();
    assert!(!recorded.is_empty() && recorded.iter().all(|found| *found == id), "{recorded:?}");
    assert_eq!(rig.run("noop", json!(null), spec(1)).await.ended, Ended::Succeeded);
    worker.stop().await;
    drop(server);
}
