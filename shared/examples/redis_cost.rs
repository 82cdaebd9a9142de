//! What a job costs Redis: CPU per job and memory per waiting job, on a private server.
//!
//! `cargo run --release -p windlass-shared --features testkit --example redis_cost [JOBS [BATCH [BYTES [LIMIT]]]]`
//!
//! LIMIT is what has a limit of concurrency and of rate that never hold: `none`, `queue`, `kind`, or so many keys, of which the
//! jobs have one in turn.
//!
//! Each phase is one call after the other from one task, so that the server's CPU is only the jobs'. Two
//! rounds: everything pushed, then everything claimed, and so on; and batch by batch, as a queue that keeps up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use windlass_shared::config::EngineSettings;
use windlass_shared::engine::flow::{Flow, FlowSettings, Keys, Limits, Rate};
use windlass_shared::engine::{
    ClaimRequest, Engine, Held, Mark, Push, Settle, ShardId, ShardSettings, Verdict,
};
use windlass_shared::limits::PUSH_WINDOW;
use windlass_shared::model::id::{Fence, LeaseId, WorkerId};
use windlass_shared::model::name::{Kind, Namespace, QueueName};
use windlass_shared::testkit::gates::{open_shard, until};
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer, unique_prefix};

struct Bench {
    server: RedisServer,
    engine: Engine,
    shard: ShardId,
    envelope: Bytes,
    keys: usize,
    pushed: AtomicUsize,
}

/// What the server says of itself at one moment.
struct Reading {
    cpu_us: f64,
    at: Instant,
    commands_us: BTreeMap<String, f64>,
}

impl Bench {
    fn read(&self) -> Reading {
        let info = |section: &str| self.server.command(&["INFO", section]).text();
        let cpu = info("cpu");
        let seconds = |name: &str| -> f64 {
            let line = cpu.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
        };
        let main = seconds("used_cpu_user_main_thread") + seconds("used_cpu_sys_main_thread");
        let commands_us = info("commandstats").lines().filter_map(command_us).collect();
        Reading { cpu_us: main * 1e6, at: Instant::now(), commands_us }
    }

    fn memory(&self) -> f64 {
        let info = self.server.command(&["INFO", "memory"]).text();
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        line.and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
    }

    async fn push(&self, count: usize) {
        let now = self.engine.now().await.expect("redis answers");
        let kind: Kind = "email.send".parse().expect("a legal kind");
        let job = || {
            let push = Push::new(Fence(1), kind.clone(), now, self.envelope.clone());
            if self.keys == 0 {
                return push;
            }
            let key = format!("key-{}", self.pushed.fetch_add(1, Ordering::Relaxed) % self.keys);
            let keys = Keys { concurrency: Some(&key), rate: Some(&key), ..Keys::default() };
            Push { flow: Flow::new(&kind, keys), ..push }
        };
        let jobs: Vec<Push> = (0..count).map(|_| job()).collect();
        let reply = self.engine.push(&self.shard, &jobs, &until(now.plus(PUSH_WINDOW))).await;
        assert_eq!(reply.expect("redis answers").pushed.len(), count);
    }

    async fn claim(&self, count: usize) -> Vec<Held> {
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max: count as u32,
            lease: Duration::from_secs(600),
            kinds: vec!["email.send".parse().expect("a legal kind")],
            offset: 0,
            ledger: None,
        };
        let reply = self.engine.claim(&self.shard, &request).await.expect("redis answers");
        assert_eq!(reply.jobs.len(), count);
        let held = |job: &windlass_shared::engine::Claimed| Held {
            id: job.id,
            fence: job.fence,
            lease_id: request.lease_id,
        };
        reply.jobs.iter().map(held).collect()
    }

    async fn settle(&self, held: &[Held]) {
        let detail = Bytes::from_static(&[b'd'; 40]);
        let settle = |held: &Held| Settle {
            dependency: None,
            held: *held,
            verdict: Verdict::Succeeded,
            detail: detail.clone(),
        };
        let settles: Vec<Settle> = held.iter().map(settle).collect();
        self.engine.settle(&self.shard, &settles).await.expect("redis answers");
    }

    async fn extend(&self, held: &[Held]) {
        let lease = Duration::from_secs(900);
        let reply = self.engine.extend(&self.shard, held, lease).await.expect("redis answers");
        assert_eq!(reply.leases.len(), held.len());
    }

    async fn record(&self, count: usize) -> Mark {
        let outcomes = self.engine.outcomes(&self.shard, count as u32).await;
        let outcomes = outcomes.expect("redis answers");
        assert_eq!(outcomes.len(), count);
        outcomes.last().expect("some").mark()
    }

    async fn confirm(&self, last: Mark) {
        self.engine.confirm(&self.shard, &last).await.expect("redis answers");
    }
}

fn command_us(line: &str) -> Option<(String, f64)> {
    let (name, rest) = line.trim().strip_prefix("cmdstat_")?.split_once(':')?;
    let usec = rest.split(',').find_map(|part| part.strip_prefix("usec="))?;
    Some((name.to_owned(), usec.parse().ok()?))
}

fn report(what: &str, jobs: usize, before: &Reading, after: &Reading) -> f64 {
    let jobs = jobs as f64;
    let per_job = (after.cpu_us - before.cpu_us) / jobs;
    let wall = after.at.duration_since(before.at).as_secs_f64();
    let mut spent: Vec<(String, f64)> = after
        .commands_us
        .iter()
        .map(|(name, us)| {
            (name.clone(), (us - before.commands_us.get(name).unwrap_or(&0.0)) / jobs)
        })
        .filter(|(_, us)| *us >= 0.02)
        .collect();
    spent.sort_by(|a, b| b.1.total_cmp(&a.1));
    let spent: Vec<String> = spent.iter().map(|(name, us)| format!("{name} {us:.2}")).collect();
    println!(
        "{what:9} {per_job:6.2} µs of Redis CPU a job, {:7.0} jobs/s   [{}]",
        jobs / wall,
        spent.join(", ")
    );
    per_job
}

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).map_while(|arg| arg.parse().ok());
    let (jobs, batch, bytes) = (
        numbers.next().unwrap_or(40_000usize),
        numbers.next().unwrap_or(100usize),
        numbers.next().unwrap_or(200usize),
    );
    let limit = std::env::args().nth(4).unwrap_or_else(|| "none".into());
    let keys = limit.parse().unwrap_or(0usize);
    let server = RedisServer::start(RedisOptions::default());
    let mut settings = EngineSettings::new(server.url());
    settings.prefix = unique_prefix();
    let engine = Engine::open(&settings).await.expect("the private redis is fit");
    let shard = ShardId::first(Namespace::default(), QueueName::default());
    let limits = Limits { concurrency: Some(1_000_000), rate: Some(Rate::new(1, 1_000_000_000)) };
    let none = FlowSettings::default();
    let flow = match limit.as_str() {
        "none" => none,
        "queue" => FlowSettings { queue: limits, ..none },
        "kind" => {
            let kind = "email.send".parse().expect("a legal kind");
            FlowSettings { kinds: [(kind, limits)].into(), ..none }
        }
        _ => FlowSettings { keys: limits, ..none },
    };
    let wide = ShardSettings {
        version: 1,
        flow,
        jobs_max: 10_000_000,
        bytes_max: 1 << 40,
        ..ShardSettings::default()
    };
    open_shard(&engine, &shard, wide).await.expect("redis answers");
    let _listening = engine.subscribe(std::slice::from_ref(&shard)).await.expect("redis answers");
    let bench = Bench {
        server,
        engine,
        shard,
        envelope: Bytes::from(vec![b'e'; bytes]),
        keys,
        pushed: AtomicUsize::new(0),
    };
    println!("{jobs} jobs, batches of {batch}, envelopes of {bytes} bytes, limit: {limit}");

    let rounds = jobs / batch;
    let memory = bench.memory();
    let mut total = 0.0;
    let mut last = bench.read();
    for _ in 0..rounds {
        bench.push(batch).await;
    }
    let now = bench.read();
    total += report("push", jobs, &last, &now);
    println!("          {:.0} bytes a waiting job", (bench.memory() - memory) / jobs as f64);
    last = bench.read();
    let mut held = Vec::new();
    for _ in 0..rounds {
        held.extend(bench.claim(batch).await);
    }
    let now = bench.read();
    total += report("claim", jobs, &last, &now);
    last = bench.read();
    for held in held.chunks(batch) {
        bench.extend(held).await;
    }
    report("extend", jobs, &last, &bench.read());
    last = bench.read();
    for held in held.chunks(batch) {
        bench.settle(held).await;
    }
    let now = bench.read();
    total += report("settle", jobs, &last, &now);
    last = bench.read();
    for _ in 0..rounds {
        let end = bench.record(batch).await;
        bench.confirm(end).await;
    }
    let now = bench.read();
    total += report("record", jobs, &last, &now);
    println!("together  {total:6.2} µs");

    last = bench.read();
    for _ in 0..rounds {
        bench.push(batch).await;
        let held = bench.claim(batch).await;
        bench.settle(&held).await;
        let end = bench.record(batch).await;
        bench.confirm(end).await;
    }
    report("all, kept up", jobs, &last, &bench.read());
}
