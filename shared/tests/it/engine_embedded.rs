//! The embedded engine passes the engines' suite.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use windlass_shared::clock::Clock;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::{
    ClaimRequest, Ended, Engine, Push, Pushed, Settle, Settled, ShardId, ShardSettings, Verdict,
};
use windlass_shared::limits::PUSH_WINDOW;
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::engine_suite::{BOUNDS, LEASE, Rig, kind, proof};
use windlass_shared::testkit::gates::{open_shard, until};

async fn rig() -> Rig {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let engine = Embedded::with_bounds(clock.clone(), BOUNDS);
    let advance = Box::new(move |by| {
        clock.advance(by);
        Box::pin(std::future::ready(())) as futures::future::BoxFuture<'static, ()>
    });
    Rig::new(Engine::Embedded(Arc::new(engine)), advance)
}

windlass_shared::engine_cases!(crate::engine_embedded::rig);

/// A case that no list names is never run.
#[test]
fn every_case_is_listed() {
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testkit/engine_suite");
    let list = std::fs::read_to_string(format!("{suite}.rs")).unwrap();
    let mut cases = 0;
    for file in std::fs::read_dir(suite).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for rest in text.split("\npub async fn ").skip(1) {
            let name = rest.split('(').next().unwrap();
            assert!(list.lines().any(|line| line.trim() == name), "{name} is not listed");
            cases += 1;
        }
    }
    assert!(cases >= 45, "{cases} cases found");
}

/// Many claim and settle at once, while somebody reaps: each job is run once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_contention_every_job_is_settled_once() {
    const JOBS: u16 = 2_000;
    let engine = Engine::Embedded(Arc::new(Embedded::new(Clock::System)));
    let shard = ShardId::first(Namespace::default(), QueueName::default());
    open_shard(&engine, &shard, ShardSettings::default()).await.unwrap();
    let now = engine.now().await.unwrap();
    for batch in 0..JOBS / 100 {
        let jobs: Vec<Push> = (0..100).map(|n| job(batch * 100 + n, now)).collect();
        let not_after = engine.now().await.unwrap().plus(PUSH_WINDOW);
        let reply = engine.push(&shard, &jobs, &until(not_after)).await.unwrap();
        assert_eq!(reply.pushed, vec![Pushed::Added; 100]);
    }
    let workers = (0..4).map(|_| tokio::spawn(work(engine.clone(), shard.clone())));
    let mut settled = 0;
    for worker in workers.collect::<Vec<_>>() {
        settled += worker.await.unwrap();
    }
    assert_eq!(settled, usize::from(JOBS));
    let outcomes = engine.outcomes(&shard, u32::MAX).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.ended == Ended::Succeeded));
    let ids: HashSet<JobId> = outcomes.iter().map(|outcome| outcome.id).collect();
    assert_eq!((ids.len(), outcomes.len()), (usize::from(JOBS), usize::from(JOBS)));
}

/// Claims and settles until nothing is left; how many.
async fn work(engine: Engine, shard: ShardId) -> usize {
    let mut settled = 0;
    loop {
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max: 7,
            lease: LEASE,
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        };
        let jobs = engine.claim(&shard, &request).await.unwrap().jobs;
        if jobs.is_empty() {
            return settled;
        }
        let end = |job| Settle {
            dependency: None,
            held: proof(&request, job),
            verdict: Verdict::Succeeded,
            detail: Bytes::new(),
        };
        let settles: Vec<Settle> = jobs.iter().map(end).collect();
        let replies = engine.settle(&shard, &settles).await.unwrap().settles;
        assert_eq!(replies, vec![Settled::Settled; settles.len()]);
        settled += settles.len();
        engine.reap(&shard, 10).await.unwrap();
    }
}

fn job(n: u16, run_at: Timestamp) -> Push {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    Push {
        id: JobId::from_bytes(bytes),
        max_crashes: 1,
        ..Push::new(Fence(1), kind("plain"), run_at, Bytes::new())
    }
}
