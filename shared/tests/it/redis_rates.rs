//! What Redis keeps of rates, by its own clock, and of shares.

use bytes::Bytes;
use windlass_shared::engine::flow::{Flow, FlowSettings, Keys, Limits, Rate};
use windlass_shared::engine::{Push, Pushed, ShardSettings};
use windlass_shared::limits::PUSH_WINDOW;
use windlass_shared::model::id::Fence;
use windlass_shared::model::name::Kind;
use windlass_shared::testkit::gates::{open_shard, until};
use windlass_shared::testkit::redis_server::RedisServer;
use windlass_shared::testkit::redis_server::resp::Connection;

use crate::redis_rig::{claim, open, shard};

/// How many of three jobs of a key start at once whose rate has this interval and a burst of two; of how many scopes Redis then
/// knows when the next unit is due; and how it keeps what it knows of shares.
async fn started_and_kept(queue: &str, interval_us: u64) -> (usize, usize, String) {
    let server = RedisServer::shared();
    let (engine, shard) = (open(server.url()).await, shard(queue));
    let keys = Limits { concurrency: None, rate: Some(Rate { interval_us, burst: 2 }) };
    let flow = FlowSettings { keys, ..FlowSettings::default() };
    let settings = ShardSettings { version: 1, flow, ..ShardSettings::default() };
    assert!(open_shard(&engine, &shard, settings).await.unwrap());
    let now = engine.now().await.unwrap();
    let kind: Kind = "plain".parse().unwrap();
    let flow = Flow::new(&kind, Keys { rate: Some("a"), units: 1, ..Keys::default() });
    let job = || Push { flow, ..Push::new(Fence(1), kind.clone(), now, Bytes::from_static(b"{}")) };
    let reply = engine.push(&shard, &[job(), job(), job()], &until(now.plus(PUSH_WINDOW))).await;
    assert_eq!(reply.unwrap().pushed, [Pushed::Added; 3]);
    let started = claim(&engine, &shard).await.unwrap().len();
    let mut connection = Connection::open(server.port()).unwrap();
    let mut ask = |words: &[&str], part: &str| {
        let key = format!("w:{{{shard}}}:{part}");
        connection.call(&[words, &[&key]].concat()).unwrap().expect_ok().text()
    };
    let kept = ask(&["ZCARD"], "rates").parse().unwrap();
    (started, kept, ask(&["OBJECT", "ENCODING"], "facts"))
}

/// Whether time passes in a script, as it does before Redis 7.2.
fn time_passes() -> bool {
    let ask = "local from = redis.call('TIME') for _ = 1, 100000 do end local to = redis.call('TIME') \
        return from[1] == to[1] and from[2] == to[2] and 0 or 1";
    let mut connection = Connection::open(RedisServer::shared().port()).unwrap();
    connection.call(&["EVAL", ask, "0"]).unwrap().expect_ok().text() == "1"
}

/// A rate that is over by the end of a claim is as if nothing had ever started. Where there are shares, Redis does not search for
/// them linearly.
#[tokio::test]
async fn only_rates_that_are_not_over_are_kept() {
    let hashed = "hashtable".to_owned();
    assert_eq!(started_and_kept("slow", 60_000_000).await, (2, 1, hashed.clone()));
    let kept = if time_passes() { 0 } else { 1 };
    assert_eq!(started_and_kept("fast", 1).await, (2, kept, hashed));
}
