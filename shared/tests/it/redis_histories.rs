//! Redis beside the model: equal replies and equal states after every step of random histories, on a single
//! server, on a Cluster, and on a server that runs out of memory.

use std::ops::Range;

use windlass_shared::engine::Pushed;
use windlass_shared::engine::model::{Shard, Wake};
use windlass_shared::model::id::JobId;
use windlass_shared::testkit::histories::compare::{check, check_within};
use windlass_shared::testkit::histories::{
    BOUNDS, Call, Player, Replay, Reply, Step, apply, draw, long,
};
use windlass_shared::testkit::redis_server::cluster::RedisCluster;
use windlass_shared::testkit::redis_server::resp::{Connection, Reply as Raw};
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};

use crate::redis_rig::{OnRedis, Stage};

const STEPS: usize = 25;

/// Plays histories one after the other; several such tests run side by side.
async fn play_on_single(seeds: Range<u64>) {
    let stage = Stage::of_histories(RedisServer::shared().url(), None).await;
    check(seeds, STEPS, async || stage.fresh()).await;
}

#[tokio::test]
async fn redis_does_what_the_model_does_1() {
    play_on_single(0..2_000).await;
}

#[tokio::test]
async fn redis_does_what_the_model_does_2() {
    play_on_single(2_000..4_000).await;
}

#[tokio::test]
async fn redis_does_what_the_model_does_3() {
    play_on_single(4_000..6_000).await;
}

#[tokio::test]
async fn redis_does_what_the_model_does_4() {
    play_on_single(6_000..8_000).await;
}

/// Goal: leases of one lane are given as if one by one, however many at a time.
#[tokio::test]
async fn redis_does_what_the_model_does_with_long_lanes() {
    let stage = Stage::open(RedisServer::shared().url(), long::WIDE, None).await;
    check_within(long::WIDE, 0..400, |seed| long::draw(seed, STEPS), async || stage.fresh()).await;
}

#[tokio::test]
async fn a_cluster_does_what_the_model_does() {
    let cluster = RedisCluster::start(3);
    let stage = Stage::of_histories(cluster.url(), None).await;
    check(8_000..9_000, STEPS, async || stage.fresh()).await;
}

/// Memory runs out in some stretches of each history: then `push` answers `Full` and changes nothing, and
/// everything else goes on.
#[tokio::test]
async fn only_push_needs_memory() {
    let server = RedisServer::start(RedisOptions::default());
    let stage = Stage::of_histories(server.url(), None).await;
    let mut refused = 0;
    for seed in 9_000..10_000 {
        let mut redis = stage.fresh();
        refused += play_with_little_memory(&server, &mut redis, &draw(seed, STEPS)).await;
    }
    assert!(refused > 1_000, "{refused} pushes were refused");
}

/// How many pushes were refused.
async fn play_with_little_memory(
    server: &RedisServer,
    redis: &mut OnRedis,
    steps: &[Step],
) -> usize {
    let process = redis.process().await;
    let mut model = Shard::new(BOUNDS, process);
    let mut player = Player::default();
    let mut refused = 0;
    for (number, step) in steps.iter().enumerate() {
        if number % 5 == 0 {
            let limit = if number % 10 == 5 { "1" } else { "0" };
            server.command(&["CONFIG", "SET", "maxmemory", limit]).expect_ok();
        }
        if follow(redis, step).await {
            model = Shard::new(BOUNDS, process);
        }
        let now = redis.now().await;
        let Some(call) = player.call(now, process, step) else { continue };
        let (reply, now) = redis.call(&call).await;
        let full = number % 10 >= 5;
        let expected = match &call {
            Call::Push { jobs, .. } if full => {
                refused += 1;
                let Reply::Stats(stats) = apply(&mut model, now, &Call::Stats) else {
                    unreachable!("stats are answered with stats")
                };
                Reply::Push(windlass_shared::engine::PushReply {
                    generation: 0,
                    pushed: vec![Pushed::Full; jobs.len()],
                    open: stats.open,
                    now,
                })
            }
            other => apply(&mut model, now, other),
        };
        let state = model.dump(now);
        player.saw(&call, &expected, &state);
        assert_eq!(reply, expected, "step {number}: {call:?}");
        assert_eq!(redis.dump().await, state, "step {number}: {call:?}");
    }
    refused
}

/// Carries out a step that is no call; whether it emptied the shard.
async fn follow(redis: &mut OnRedis, step: &Step) -> bool {
    match step {
        Step::Advance(us) => redis.advance(std::time::Duration::from_micros(*us)).await,
        Step::Wipe => redis.wipe().await,
        _ => {}
    }
    matches!(step, Step::Wipe)
}

/// Signals are hints, but Redis gives the same ones as the model: each step wakes whom it should, and nobody
/// else.
#[tokio::test]
async fn redis_wakes_whom_the_model_wakes() {
    let server = RedisServer::shared();
    let stage = Stage::of_histories(server.url(), None).await;
    let mut wakes = 0;
    for seed in 10_000..10_400 {
        let mut redis = stage.fresh();
        let mut listener = Listener::start(server, &redis);
        let process = redis.process().await;
        let (mut model, mut player) = (Shard::new(BOUNDS, process), Player::default());
        for (number, step) in draw(seed, STEPS).iter().enumerate() {
            if follow(&mut redis, step).await {
                model = Shard::new(BOUNDS, process);
            }
            let Some(call) = player.call(redis.now().await, process, step) else { continue };
            let (_, now) = redis.call(&call).await;
            let reply = apply(&mut model, now, &call);
            player.saw(&call, &reply, &model.dump(now));
            let expected = model.take_wake();
            wakes += usize::from(expected != Wake::default());
            assert_eq!(listener.heard(server), expected, "seed {seed}, step {number}: {call:?}");
        }
    }
    assert!(wakes > 1_000, "{wakes} steps woke somebody");
}

/// A connection that hears the messages of one shard.
struct Listener {
    channel: String,
    connection: Connection,
}

impl Listener {
    fn start(server: &RedisServer, redis: &OnRedis) -> Self {
        let mut connection = Connection::open(server.port()).unwrap();
        let channels =
            ["r", "o", "c", "g", "u"].map(|end| format!("w:{{{}}}:signals:{end}", redis.shard));
        for channel in &channels {
            connection.call(&["SUBSCRIBE", channel]).unwrap().expect_ok();
        }
        let [channel, ..] = channels;
        Self { channel, connection }
    }

    /// What was said since the last look: up to a mark of our own, as Redis keeps the order.
    fn heard(&mut self, server: &RedisServer) -> Wake {
        server.command(&["PUBLISH", &self.channel, "."]).expect_ok();
        let mut wake = Wake::default();
        loop {
            let Raw::List(parts) = self.connection.read().unwrap() else { panic!("no message") };
            let Some(Raw::Bytes(text)) = parts.last() else { panic!("no text: {parts:?}") };
            let mut text = text.as_slice();
            while let Some((letter, rest)) = text.split_first() {
                text = rest;
                match letter {
                    b'.' => return wake,
                    b'r' => wake.ready = true,
                    b'o' => wake.outcomes = true,
                    b'g' => wake.shut = true,
                    b'u' => wake.unverified = true,
                    b'c' => {
                        let (id, rest) = text.split_first_chunk().expect("an id follows");
                        wake.cancels.push(JobId::from_bytes(*id));
                        text = rest;
                    }
                    other => panic!("unknown letter {other}"),
                }
            }
        }
    }
}
