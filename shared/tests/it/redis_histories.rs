//! Redis beside the model: equal replies and equal states after every step of random histories.

use std::ops::Range;

use windlass_shared::testkit::histories::compare::check;
use windlass_shared::testkit::redis_server::RedisServer;

use crate::redis_rig::Stage;

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
