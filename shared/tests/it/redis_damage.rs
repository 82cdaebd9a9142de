//! A shard of which Redis has lost single keys, or fields and members of them: what the ledger still knows runs again,
//! and nothing is stuck.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use windlass_shared::engine::flow::{Flow, FlowSettings, Keys, Limits, Rate};
use windlass_shared::engine::{
    ClaimRequest, Engine, Held, Push, Pushed, Settle, Settled, ShardId, ShardSettings, Verdict,
};
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
use windlass_shared::testkit::engine_suite::{kind, proof};
use windlass_shared::testkit::gates::{open_shard, until};
use windlass_shared::testkit::histories::Replay;
use windlass_shared::testkit::redis_server::RedisServer;
use windlass_shared::testkit::redis_server::resp::{Connection, Reply};

use crate::redis_rig::{OnRedis, Stage};

const LEASE: Duration = Duration::from_secs(15);
const KEYS: [&str; 9] =
    ["meta", "jobs", "held", "ready", "delayed", "leases", "outbox", "tombs0", "tombs1"];

/// A shard, and what a ledger would know of it.
struct Scene {
    on: OnRedis,
    redis: Connection,
    /// Jobs that have not ended, as the ledger would push them.
    unfinished: BTreeMap<JobId, Push>,
}

impl Scene {
    /// A shard with jobs in every state: ready, delayed, leased, finishing, tried before, and buried.
    async fn busy(stage: &Stage) -> Self {
        let redis = Connection::open(RedisServer::shared().port()).unwrap();
        let mut scene = Self { on: stage.fresh(), redis, unfinished: BTreeMap::new() };
        scene.open().await;
        scene.push(100, Duration::ZERO).await;
        scene.push(30, Duration::from_secs(40)).await;
        let held = scene.claim(60).await;
        scene.settle(&held[..10], Verdict::Succeeded).await;
        scene.record().await;
        scene.settle(&held[10..20], Verdict::Dead).await;
        scene.settle(&held[20..30], Verdict::Retry { delay: Duration::ZERO }).await;
        scene.settle(&held[30..40], Verdict::Retry { delay: Duration::from_secs(50) }).await;
        scene
    }

    fn engine(&self) -> &Engine {
        &self.on.stage.engine
    }

    fn shard(&self) -> &ShardId {
        &self.on.shard
    }

    /// A shard with jobs that wait for keys: ten lanes at full keys, and two of which each job stands for itself. Their leases
    /// are given back.
    async fn held_back(stage: &Stage) -> (Self, Vec<Held>) {
        let redis = Connection::open(RedisServer::shared().port()).unwrap();
        let mut scene = Self { on: stage.fresh(), redis, unfinished: BTreeMap::new() };
        let keys = Limits { concurrency: Some(1), rate: Some(Rate { interval_us: 1, burst: 10 }) };
        let flow = FlowSettings { keys, ..FlowSettings::default() };
        let settings = ShardSettings { flow, ..ShardSettings::default() };
        open_shard(scene.engine(), scene.shard(), settings).await.unwrap();
        let names: Vec<String> = (0..12).map(|n| format!("key-{n}")).collect();
        for (n, name) in names.iter().enumerate() {
            let name = Some(name.as_str());
            let keys = if n < 10 {
                Keys { concurrency: name, ..Keys::default() }
            } else {
                Keys { share: Some("both"), rate: name, ..Keys::default() }
            };
            let flow = Flow::new(&kind("plain"), keys);
            scene.push_with(flow, 4, Duration::ZERO).await;
        }
        let held = scene.claim(16).await;
        (scene, held)
    }

    async fn open(&self) {
        open_shard(self.engine(), self.shard(), ShardSettings::default()).await.unwrap();
    }

    async fn push(&mut self, count: usize, later: Duration) {
        self.push_with(None, count, later).await;
    }

    async fn push_with(&mut self, flow: Option<Flow>, count: usize, later: Duration) {
        let now = self.engine().now().await.unwrap();
        let job = || Push {
            max_crashes: 1_000,
            flow,
            ..Push::new(Fence(1), kind("plain"), now.plus(later), Bytes::from(vec![b'e'; 90]))
        };
        let jobs: Vec<Push> = (0..count).map(|_| job()).collect();
        let reply = self.engine().push(self.shard(), &jobs, &until(now)).await.unwrap();
        assert_eq!(reply.pushed, vec![Pushed::Added; count]);
        self.unfinished.extend(jobs.into_iter().map(|job| (job.id, job)));
    }

    async fn claim(&self, max: u32) -> Vec<Held> {
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max,
            lease: LEASE,
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        };
        let reply = self.engine().claim(self.shard(), &request).await.unwrap();
        reply.jobs.iter().map(|job| proof(&request, job)).collect()
    }

    async fn settle(&self, held: &[Held], verdict: Verdict) {
        let settle = |held: &Held| Settle {
            dependency: None,
            held: *held,
            verdict,
            detail: Bytes::from("detail"),
        };
        let settles: Vec<Settle> = held.iter().map(settle).collect();
        let replies = self.engine().settle(self.shard(), &settles).await.unwrap().settles;
        assert_eq!(replies, vec![Settled::Settled; held.len()]);
    }

    /// Takes the outcomes over, as the ledger does; how many.
    async fn record(&mut self) -> usize {
        let outcomes = self.engine().outcomes(self.shard(), 10_000).await.unwrap();
        for outcome in &outcomes {
            if outcome.ended.is_terminal() {
                self.unfinished.remove(&outcome.id);
            } else if let Some(job) = self.unfinished.get_mut(&outcome.id) {
                job.fence = outcome.fence.max(job.fence);
            }
        }
        if let Some(last) = outcomes.last() {
            self.engine().confirm(self.shard(), &last.mark()).await.unwrap();
            let left = self.engine().outcomes(self.shard(), 1).await.unwrap();
            assert_eq!(left, [], "all that was recorded has left");
        }
        outcomes.len()
    }

    fn key(&self, part: &str) -> String {
        format!("w:{{{}}}:{part}", self.on.shard)
    }

    fn call(&mut self, words: &[&[u8]]) -> Vec<Vec<u8>> {
        match self.redis.call_bytes(words).unwrap().expect_ok() {
            Reply::List(items) => {
                let bytes = |item| if let Reply::Bytes(bytes) = item { Some(bytes) } else { None };
                items.into_iter().filter_map(bytes).collect()
            }
            _ => Vec::new(),
        }
    }

    fn lose_key(&mut self, part: &str) {
        let key = self.key(part);
        self.call(&[b"DEL", key.as_bytes()]);
    }

    /// Loses each field, member or item with a chance of one in twenty.
    fn lose_some(&mut self, part: &str, rng: &mut StdRng) {
        let key = self.key(part);
        let key = key.as_bytes();
        let (list, remove): (&[&[u8]], &str) = match part {
            "meta" => return,
            "ready" | "delayed" | "leases" | "flow" | "timers" | "idle" | "rates" => {
                (&[b"ZRANGE", key, b"0", b"-1"], "ZREM")
            }
            "outbox" => (&[b"LRANGE", key, b"0", b"-1"], "LREM"),
            _ => (&[b"HKEYS", key], "HDEL"),
        };
        for item in self.call(list) {
            if !rng.random_ratio(1, 20) {
                continue;
            }
            match remove {
                "LREM" => self.call(&[b"LREM", key, b"1", &item]),
                other => self.call(&[other.as_bytes(), key, &item]),
            };
        }
    }

    /// What the leader of the schedulers does when it compares a shard with the ledger.
    async fn compare(&mut self) {
        self.record().await;
        self.open().await;
        let (mut cursor, mut seen) = (0, BTreeMap::new());
        loop {
            let page = self.engine().scan(self.shard(), cursor).await.unwrap();
            seen.extend(page.entries.into_iter().map(|entry| (entry.id, entry)));
            cursor = page.next;
            if cursor == 0 {
                break;
            }
        }
        // No outcome waits: what is finishing has lost its own.
        let ended: Vec<_> = seen
            .values()
            .filter(|entry| entry.finishing || !self.unfinished.contains_key(&entry.id))
            .map(|entry| (entry.id, entry.fence))
            .collect();
        let dropped = self.engine().drop_jobs(self.shard(), &ended, false).await.unwrap();
        assert_eq!(dropped, vec![true; ended.len()]);
        let ids: Vec<JobId> = self.unfinished.keys().copied().collect();
        let known = self.engine().exists(self.shard(), &ids).await.unwrap();
        let missing = ids.iter().zip(&known).filter(|(_, known)| !**known);
        let missing: Vec<Push> = missing.map(|(id, _)| self.unfinished[id].clone()).collect();
        let now = self.engine().now().await.unwrap();
        let reply = self.engine().push(self.shard(), &missing, &until(now)).await.unwrap();
        assert_eq!(reply.pushed, vec![Pushed::Added; missing.len()]);
        let known = self.engine().exists(self.shard(), &ids).await.unwrap();
        assert_eq!(known, vec![true; ids.len()], "what was mended is known");
    }

    /// What schedulers do in a shard whose gate is open, over and over, while workers run what they get.
    async fn sweep(&mut self) {
        for _ in 0..30 {
            self.on.advance(LEASE).await;
            self.engine().reap(self.shard(), u32::MAX).await.unwrap();
            self.engine().promote(self.shard(), u32::MAX).await.unwrap();
            self.record().await;
            let ids: Vec<JobId> = self.unfinished.keys().copied().collect();
            let known = self.engine().exists(self.shard(), &ids).await.unwrap();
            let missing = ids.iter().zip(&known).filter(|(_, known)| !**known);
            let missing: Vec<Push> = missing.map(|(id, _)| self.unfinished[id].clone()).collect();
            let now = self.engine().now().await.unwrap();
            self.engine().push(self.shard(), &missing, &until(now)).await.unwrap();
            let held = self.claim(50).await;
            let given: BTreeSet<JobId> = held.iter().map(|held| held.id).collect();
            assert_eq!(given.len(), held.len(), "no job is given twice");
            self.settle(&held, Verdict::Succeeded).await;
            self.record().await;
        }
        let left: Vec<&JobId> = self.unfinished.keys().collect();
        assert!(left.is_empty(), "stuck: {left:?}");
    }

    /// Everything runs to its end, each job once, and nothing is left.
    async fn finish(&mut self) {
        let wanted: BTreeSet<JobId> = self.unfinished.keys().copied().collect();
        let mut done = BTreeSet::new();
        for _ in 0..20 {
            self.on.advance(LEASE).await;
            self.engine().reap(self.shard(), u32::MAX).await.unwrap();
            self.engine().promote(self.shard(), u32::MAX).await.unwrap();
            let held = self.claim(50).await;
            for held in &held {
                assert!(done.insert(held.id), "{} ran twice", held.id);
            }
            self.settle(&held, Verdict::Succeeded).await;
            self.record().await;
        }
        assert_eq!(done, wanted);
        assert!(self.unfinished.is_empty());
        // What was counted of lost jobs is forgotten as soon as others come.
        self.push(1, Duration::ZERO).await;
        let held = self.claim(9).await;
        self.settle(&held, Verdict::Succeeded).await;
        assert_eq!(self.record().await, 1);
        let stats = self.engine().stats(self.shard()).await.unwrap();
        let dump = self.on.dump().await;
        assert_eq!((stats.ready, stats.delayed, stats.leased), (0, 0, 0));
        assert_eq!((dump.entries.len(), dump.outbox.len()), (0, 0));
        assert_eq!((stats.bytes, stats.outbox), (0, 0));
        assert_eq!((dump.bytes, dump.outbox_bytes), (0, 0));
    }
}

async fn stage() -> Stage {
    Stage::open(RedisServer::shared().url(), Default::default(), None).await
}

#[tokio::test]
async fn any_key_may_be_lost() {
    let stage = stage().await;
    for key in KEYS {
        println!("{key}");
        let mut scene = Scene::busy(&stage).await;
        scene.lose_key(key);
        scene.compare().await;
        scene.finish().await;
    }
}

#[tokio::test]
async fn any_two_keys_may_be_lost() {
    let stage = stage().await;
    for (n, key) in KEYS.iter().enumerate() {
        for other in &KEYS[..n] {
            println!("{key} and {other}");
            let mut scene = Scene::busy(&stage).await;
            scene.lose_key(key);
            scene.lose_key(other);
            scene.compare().await;
            scene.finish().await;
        }
    }
}

/// Of one key, or of all of them.
#[tokio::test]
async fn a_twentieth_of_any_key_may_be_lost() {
    let stage = stage().await;
    for seed in 0..40 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut scene = Scene::busy(&stage).await;
        let some =
            if seed % 4 == 0 { KEYS.to_vec() } else { vec![*KEYS.choose(&mut rng).unwrap()] };
        for key in some {
            scene.lose_some(key, &mut rng);
        }
        scene.compare().await;
        scene.finish().await;
    }
}

/// Goal: damage that is met before anybody has compared the shard gives no job to two holders.
/// Method: the shard works on for a while first.
#[tokio::test]
async fn a_damaged_shard_works_on() {
    let stage = stage().await;
    for key in KEYS {
        println!("{key}");
        let mut scene = Scene::busy(&stage).await;
        scene.lose_key(key);
        let held = scene.claim(20).await;
        let ids: BTreeSet<JobId> = held.iter().map(|held| held.id).collect();
        assert_eq!(ids.len(), held.len());
        scene.settle(&held, Verdict::Succeeded).await;
        scene.compare().await;
        scene.finish().await;
    }
}

/// The fence of a lease never comes back: its late settle must not end the next one.
#[tokio::test]
async fn a_mended_job_keeps_its_fence() {
    let stage = stage().await;
    let mut scene = Scene::busy(&stage).await;
    let [lost] = scene.claim(1).await[..] else { panic!("one is ready") };
    scene.lose_key("leases");
    let job = scene.unfinished[&lost.id].clone();
    assert!(job.fence < lost.fence);
    let (engine, shard) = (scene.engine(), scene.shard());
    assert_eq!(engine.exists(shard, &[lost.id]).await.unwrap(), [false]);
    let now = engine.now().await.unwrap();
    assert_eq!(engine.push(shard, &[job], &until(now)).await.unwrap().pushed, [Pushed::Added]);
    assert_eq!(engine.exists(shard, &[lost.id]).await.unwrap(), [true]);
    let settle =
        Settle { dependency: None, held: lost, verdict: Verdict::Dead, detail: Bytes::new() };
    assert_eq!(engine.settle(shard, &[settle]).await.unwrap().settles, [Settled::Gone]);
    let again = scene.claim(200).await;
    let again = again.iter().find(|held| held.id == lost.id).expect("it is ready");
    assert!(again.fence > lost.fence);
}

/// Goal: jobs that come after everything was lost of who waits are given out, without the sweep.
/// Method: one job of a share waits; what facts say of the share stays.
#[tokio::test]
async fn jobs_are_found_whose_share_was_lost() {
    let stage = stage().await;
    let (mut scene, _) = Scene::held_back(&stage).await;
    let keys = Keys { share: Some("new"), ..Keys::default() };
    let flow = Flow::new(&kind("plain"), keys);
    scene.push_with(flow, 1, Duration::ZERO).await;
    scene.lose_key("flow");
    scene.push_with(flow, 3, Duration::ZERO).await;
    assert_eq!(scene.claim(20).await.len(), 3);
}

/// Goal: whatever is lost of what says which jobs wait for which limits, the sweep brings every job to its end.
/// Method: jobs wait at full keys. One member or field in twenty of one key is lost, or a whole key, before or after the
/// leases that hold them have ended.
#[tokio::test]
async fn jobs_that_limits_hold_back_survive_any_loss() {
    const PARTS: [&str; 5] = ["flow", "facts", "timers", "idle", "rates"];
    let stage = stage().await;
    for seed in 0..150 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut scene, held) = Scene::held_back(&stage).await;
        let part = *PARTS.choose(&mut rng).unwrap();
        let (whole, before) = (rng.random_ratio(1, 5), rng.random_ratio(1, 2));
        if !before {
            scene.settle(&held, Verdict::Succeeded).await;
        }
        if whole {
            scene.lose_key(part);
        } else {
            scene.lose_some(part, &mut rng);
        }
        if before {
            scene.settle(&held, Verdict::Succeeded).await;
        }
        scene.sweep().await;
    }
}
