//! Redis with values that strangers wrote, batches of odd shapes, and many callers at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use windlass_shared::engine::redis::Redis;
use windlass_shared::engine::{
    ClaimRequest, EngineError, LiveState, Mark, Push, Pushed, Settle, Settled, Verdict,
};
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::testkit::engine_suite::{Rig, id, proof};
use windlass_shared::testkit::gates::until;
use windlass_shared::testkit::redis_server::RedisServer;
use windlass_shared::testkit::redis_server::resp::Connection;

use crate::redis_rig::{Stage, configure, open, push, request, shard, suite_rig};

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
    let odd_settings = [[0; 148].as_slice(), &[0xff; 71], &[0], &[0xff; 20]].concat();
    for (command, words) in [
        ("SET", [b"meta".as_slice(), &odd_settings].as_slice()),
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
        let nothing = Mark { seq: 1, id: id(9), fence: Fence(1), at: now };
        let errors: Vec<EngineError> = [
            engine.push(&shard, &[job], &until(now)).await.err(),
            engine.claim(&shard, &rig.request(1)).await.err(),
            engine.outcomes(&shard, 9).await.err(),
            engine.confirm(&shard, &nothing).await.err(),
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

/// A meta that is none is like a lost one: the gate is shut.
#[tokio::test]
async fn a_strange_meta_counts_as_lost() {
    for meta in [&b"?"[..], &[0xff; 148], &[0xff; 185], &[0; 184]] {
        let (rig, write) = with_keys().await;
        rig.open_with(1).await;
        write("SET", &[b"meta", meta]);
        assert_eq!(rig.gate().await.gate, None);
        assert_eq!(rig.claim(1).await, []);
        rig.open().await;
        assert_eq!(rig.claim_ids(9).await, [id(0)]);
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
    rig.confirm(old.mark()).await;
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
        jobs.push(Push::new(Fence(1), "plain".parse().unwrap(), now, Bytes::from_static(b"{}")));
    }
    jobs.push(jobs[449].clone());
    let reply = engine.push(&shard, &jobs, &until(now)).await.unwrap();
    assert_eq!(reply.pushed[..450], [Pushed::Added; 450]);
    assert_eq!(reply.pushed[450], Pushed::Present);
    let mut held = Vec::new();
    for expected in [200, 200, 50] {
        let request = ClaimRequest { max: 1_000, ..request() };
        let claimed = engine.claim(&shard, &request).await.unwrap().jobs;
        assert_eq!(claimed.len(), expected);
        held.extend(claimed.iter().map(|job| proof(&request, job)));
    }
    assert_eq!(
        engine.extend(&shard, &held, Duration::from_secs(90)).await.unwrap().leases.len(),
        450
    );
    let settle = |held: &_| Settle {
        dependency: None,
        held: *held,
        verdict: Verdict::Dead,
        detail: Bytes::new(),
    };
    let mut settles: Vec<Settle> = held.iter().map(settle).collect();
    settles.push(settles[0].clone());
    let replies = engine.settle(&shard, &settles).await.unwrap().settles;
    assert_eq!(replies[..450], [Settled::Settled; 450]);
    assert_eq!(replies[450], Settled::Repeated);
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(engine.exists(&shard, &ids).await.unwrap(), [true; 451]);
    let outcomes = engine.outcomes(&shard, 1_000).await.unwrap();
    engine.confirm(&shard, &outcomes[449].mark()).await.unwrap();
    let dump = stage.redis.dump(&shard).await.unwrap();
    assert_eq!((dump.entries.len(), dump.outbox.len(), dump.tombstones.len()), (0, 0, 450));
    assert_eq!((dump.bytes, dump.outbox_bytes), (0, 0));
}

/// Workers that claim side by side share the jobs out: each is given, settled and reported once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_workers_share_the_jobs_out() {
    let engine = open(RedisServer::shared().url()).await;
    let shard = shard("crowd");
    configure(&engine, &shard).await.unwrap();
    let mut pushed = HashSet::new();
    for _ in 0..300 {
        pushed.insert(push(&engine, &shard).await.unwrap());
    }
    let worker = async || {
        let mut done = Vec::new();
        loop {
            let request = ClaimRequest { max: 7, ..request() };
            let jobs = engine.claim(&shard, &request).await.unwrap().jobs;
            if jobs.is_empty() {
                return done;
            }
            let settle = |job| Settle {
                dependency: None,
                held: proof(&request, job),
                verdict: Verdict::Succeeded,
                detail: Bytes::new(),
            };
            let settles: Vec<Settle> = jobs.iter().map(settle).collect();
            let replies = engine.settle(&shard, &settles).await.unwrap().settles;
            assert_eq!(replies, vec![Settled::Settled; jobs.len()]);
            done.extend(jobs.into_iter().map(|job| job.id));
        }
    };
    let done = futures::join!(worker(), worker(), worker(), worker());
    let done = [done.0, done.1, done.2, done.3].concat();
    assert_eq!(done.len(), pushed.len());
    assert_eq!(done.into_iter().collect::<HashSet<_>>(), pushed);
    let outcomes = engine.outcomes(&shard, 1_000).await.unwrap();
    assert_eq!(outcomes.len(), pushed.len());
    assert!(outcomes.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
}

/// The engine can be shared and sent between threads, as the roles do.
#[test]
fn engines_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Redis>>();
}
