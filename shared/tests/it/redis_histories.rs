//! Redis beside the model: equal replies and equal states after every step of random histories, on a single
//! server, on a Cluster, and on a server that runs out of memory.

use std::ops::Range;

use windlass_shared::engine::Pushed;
use windlass_shared::engine::model::Shard;
use windlass_shared::testkit::histories::compare::check;
use windlass_shared::testkit::histories::{BOUNDS, Call, Player, Replay, Reply, Step, apply, draw};
use windlass_shared::testkit::redis_server::cluster::RedisCluster;
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
    play_on_single(0..4_000).await;
}

#[tokio::test]
async fn redis_does_what_the_model_does_2() {
    play_on_single(4_000..8_000).await;
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
    let mut model = Shard::new(BOUNDS);
    let mut player = Player::default();
    let mut refused = 0;
    for (number, step) in steps.iter().enumerate() {
        if number % 5 == 0 {
            let limit = if number % 10 == 5 { "1" } else { "0" };
            server.command(&["CONFIG", "SET", "maxmemory", limit]).expect_ok();
        }
        if let Step::Advance(us) = step {
            redis.advance(std::time::Duration::from_micros(*us)).await;
        }
        let now = redis.now().await;
        let Some(call) = player.call(now, step) else { continue };
        let (reply, now) = redis.call(&call).await;
        let full = number % 10 >= 5;
        let expected = match &call {
            Call::Push { jobs, .. } if full => {
                refused += 1;
                let state = model.dump(now);
                Reply::Push(windlass_shared::engine::PushReply {
                    pushed: vec![Pushed::Full; jobs.len()],
                    configured: state.settings.is_some(),
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
