//! A worker with rates of its own.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_shared::config::EngineSettings;
use windlass_shared::engine::{Ended, ShardId, ShardSettings};
use windlass_shared::ledger::RateLimit;
use windlass_shared::model::job::JobSpec;
use windlass_shared::model::time::Span;
use windlass_shared::testkit::gates::open_shard;
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};
use windlass_worker::builder::{BuildError, EngineSource, WorkerBuilder};
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;

use crate::fixture::{PATIENCE, Rig, Running, spec};

const SECOND: Duration = Duration::from_secs(1);

fn per_second(limit: u32, burst: Option<u32>) -> RateLimit {
    RateLimit { limit, per: Span(SECOND), burst }
}

/// Kind, queue's number and time.
type Begun = (&'static str, u64, Instant);

/// What has begun.
#[derive(Clone, Default)]
struct Starts(Arc<Mutex<Vec<Begun>>>);

impl Starts {
    fn add(&self, builder: WorkerBuilder, kind: &'static str, takes: Duration) -> WorkerBuilder {
        let starts = self.clone();
        builder.handle(kind, move |_: Context, queue: u64| {
            starts.0.lock().unwrap().push((kind, queue, Instant::now()));
            async move {
                tokio::time::sleep(takes).await;
                Ok::<_, HandlerError>(())
            }
        })
    }

    fn of(&self, kind: &str) -> Vec<(u64, Instant)> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|(of, ..)| *of == kind).map(|(_, queue, at)| (*queue, *at)).collect()
    }

    /// Waits until so many of a kind have begun.
    async fn until(&self, kind: &str, starts: usize) -> Vec<(u64, Instant)> {
        let wait = async {
            while self.of(kind).len() < starts {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("they do not start");
        self.of(kind)
    }
}

/// The most that began within any second.
fn busiest_second(starts: &[(u64, Instant)]) -> usize {
    let within =
        |from: Instant| starts.iter().filter(|(_, at)| *at >= from && *at < from + SECOND).count();
    starts.iter().map(|(_, at)| within(*at)).max().unwrap_or_default()
}

/// Every outcome is a success: nothing was handed back.
async fn all_succeeded(rig: &Rig, shard: &ShardId, jobs: usize) {
    let wait = async {
        loop {
            let outcomes = rig.engine.outcomes(shard, 10_000).await.unwrap();
            assert!(outcomes.iter().all(|o| o.ended == Ended::Succeeded && o.attempt == 1));
            if outcomes.len() == jobs {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("not all of them succeed");
}

/// Goal: over a backlog a worker starts a kind at its rate from its first second on, hands nothing back, and starts
/// others meanwhile as if there were none of that kind before them.
async fn a_backlog_is_started_at_the_rate(mut rig: Rig) {
    const LIMITED: usize = 150;
    const FREE: usize = 400;
    // The burst is small, so that what a busy machine delays is not started together.
    rig.settings.rate_limits = [("limited".parse().unwrap(), per_second(50, Some(5)))].into();
    for _ in 0..LIMITED {
        rig.push("limited", json!(0), spec(1)).await;
    }
    for _ in 0..FREE {
        rig.push("free", json!(0), spec(1)).await;
    }
    let starts = Starts::default();
    let began = Instant::now();
    let worker =
        rig.start(|b| starts.add(starts.add(b, "limited", Duration::ZERO), "free", Duration::ZERO));
    let limited = starts.until("limited", LIMITED).await;
    all_succeeded(&rig, &rig.shard, LIMITED + FREE).await;
    worker.stop().await;
    let took = limited[LIMITED - 1].1 - began;
    let free = starts.of("free");
    println!(
        "{LIMITED} at 50/s: {took:?}, {} in the busiest second, {FREE} others within {:?}",
        busiest_second(&limited),
        free[FREE - 1].1 - began
    );
    assert!(took >= Duration::from_millis(2_900), "{took:?}");
    // The burst, and some that were delayed on the way to their handler.
    assert!(busiest_second(&limited) <= 65, "{}", busiest_second(&limited));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(free[FREE - 1].1 < limited[LIMITED - 10].1, "others waited for the limited kind");
    assert_eq!((limited.len(), free.len()), (LIMITED, FREE));
}

#[tokio::test]
async fn a_kind_with_a_rate_starts_at_it_and_holds_nobody_up() {
    a_backlog_is_started_at_the_rate(Rig::new().await).await;
}

#[tokio::test]
async fn a_kind_with_a_rate_starts_at_it_on_redis() {
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default()));
    let server = server.await.unwrap();
    let source = EngineSource::Settings(EngineSettings::new(server.url()));
    a_backlog_is_started_at_the_rate(Rig::over(source).await).await;
}

/// Goal: the rate is the worker's, however many queues have jobs of the kind; all of them get on.
#[tokio::test]
async fn queues_share_a_rate() {
    let mut rig = Rig::new().await;
    let other = ShardId::first(rig.shard.namespace.clone(), "other".parse().unwrap());
    let settings = ShardSettings { version: 1, ..ShardSettings::default() };
    assert!(open_shard(&rig.engine, &other, settings).await.unwrap());
    rig.settings.queues.push((other.queue.clone(), 1));
    // No kind is without a rate here, and a permit comes alone.
    rig.settings.rate_limits = [("limited".parse().unwrap(), per_second(50, Some(1)))].into();
    for _ in 0..60 {
        rig.push("limited", json!(0), spec(1)).await;
    }
    let mine = std::mem::replace(&mut rig.shard, other);
    for _ in 0..60 {
        rig.push("limited", json!(1), spec(1)).await;
    }
    rig.shard = mine;
    let starts = Starts::default();
    let worker =
        Running::start(starts.add(rig.builder(), "limited", Duration::ZERO).build().unwrap());
    let limited = starts.until("limited", 60).await;
    worker.stop().await;
    // 59 times 20 ms, but for delays on the way to the first handler.
    let took = limited[59].1 - limited[0].1;
    assert!(took >= Duration::from_millis(1_080), "{took:?}");
    let of_mine = limited.iter().take(60).filter(|(queue, _)| *queue == 0).count();
    assert!((20..=40).contains(&of_mine), "{of_mine} of 60");
}

/// Goal: heavy jobs of a kind with a rate get the slots that they need, beside others.
#[tokio::test]
async fn heavy_jobs_of_a_kind_with_a_rate_get_their_slots() {
    let mut rig = Rig::new().await;
    rig.settings.rate_limits = [("heavy".parse().unwrap(), per_second(200, None))].into();
    for _ in 0..10 {
        let heavy = JobSpec { weight: rig.settings.concurrency, ..spec(1) };
        rig.push("heavy", json!(0), heavy).await;
        rig.push("light", json!(0), spec(1)).await;
    }
    let starts = Starts::default();
    let takes = Duration::from_millis(5);
    let worker = rig.start(|b| starts.add(starts.add(b, "heavy", takes), "light", takes));
    all_succeeded(&rig, &rig.shard, 20).await;
    worker.stop().await;
}

/// Goal: a rate that would protect nothing keeps the worker from being made, with what to do.
#[tokio::test]
async fn a_rate_of_a_kind_that_is_not_served_is_refused() {
    let mut rig = Rig::new().await;
    rig.settings.rate_limits = [("http.requst".parse().unwrap(), per_second(50, None))].into();
    let Err(BuildError::Setting { setting, fault }) = rig.builder().builtin().build() else {
        panic!("it was made");
    };
    assert_eq!(setting, "worker.rate_limits");
    assert!(fault.contains("http.requst") && fault.contains("http.request"), "{fault}");
    rig.settings.rate_limits = [("noop".parse().unwrap(), per_second(0, None))].into();
    assert!(rig.builder().builtin().build().is_err());
}
