//! Redis that has lost a part of what it held: E7.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use rand::Rng;
use windlass_shared::testkit::redis_server::resp::{Connection, Reply};

use super::engine::{WAITING, fill, release, with_waiting};
use super::{Experiment, Form, Setup};
use crate::dump;
use crate::figure::{Figure, count};
use crate::history::Fault;
use crate::runner::{Scene, Seen};
use crate::until::until_seldom;

/// Share of the entries that are lost.
const SHARE: f64 = 0.05;
/// Found and repaired within this time, in the test profile.
const REPAIRED_MAX: Duration = Duration::from_secs(30);
/// Longest wait; beyond the bound, so that what is too slow is told from what never happens.
const DONE_MAX: Duration = Duration::from_secs(90);
/// The parts of a shard that hold jobs by their ids, and the commands that list and remove.
const PARTS: [(&str, [&str; 2]); 5] = [
    ("jobs", ["HKEYS", "HDEL"]),
    ("held", ["HKEYS", "HDEL"]),
    ("ready", ["ZRANGE", "ZREM"]),
    ("delayed", ["ZRANGE", "ZREM"]),
    ("leases", ["ZRANGE", "ZREM"]),
];

/// E7. The engine keeps the jobs of a shard in a few hashes and sorted sets, so it is their entries that are lost.
pub(super) struct LoseKeys;

impl Experiment for LoseKeys {
    fn id(&self) -> &'static str {
        "E7"
    }

    fn title(&self) -> &'static str {
        "5 % of the entries of a shard deleted from Redis"
    }

    fn setup(&self, form: Form) -> Setup {
        with_waiting(form)
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            fill(scene, scene.form.pick(500, 5_000)).await?;
            let port = scene.fleet.redis.port();
            let removed = damage(port, &mut scene.rng, WAITING)?;
            scene.history.fault(Fault::EngineLost { how: format!("{removed} entries") });
            scene.say(&format!("{removed} entries deleted"));
            scene.figures.push(Figure::at_least("entries deleted", count(removed), "", 1.0));
            let begun = Instant::now();
            release(scene).await?;
            let done = until_seldom(DONE_MAX, || async {
                let states = "state=scheduled&state=ready&state=running&state=retrying";
                let path = format!("/v1/jobs?limit=1&queue={WAITING}&{states}");
                let jobs = scene.client.get(&path).await?;
                let depths = dump::depths(&scene.client).await.ok()?;
                let empty = depths.get(WAITING)?.is_empty();
                let none = jobs["items"].as_array()?.is_empty();
                (empty && none).then_some(())
            });
            let done = done.await.ok().map(|()| begun.elapsed().as_secs_f64());
            let repaired = REPAIRED_MAX.as_secs_f64();
            scene.figures.push(Figure::at_most("all done after", done, "s", repaired));
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        vec![Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0)]
    }
}

/// Removes a random share of every part of a queue's shard; how many entries.
pub(crate) fn damage(port: u16, rng: &mut impl Rng, queue: &str) -> anyhow::Result<usize> {
    let mut redis = Connection::open(port)?;
    let pattern = format!("*{{default/{queue}/0}}:jobs");
    let found = redis.call(&["KEYS", &pattern])?;
    let found = found.text();
    let prefix = found.strip_suffix("jobs").context("one shard of that queue")?.to_owned();
    let mut removed = 0;
    for (part, [list, remove]) in PARTS {
        let key = format!("{prefix}{part}");
        let mut words: Vec<&[u8]> = vec![list.as_bytes(), key.as_bytes()];
        if list == "ZRANGE" {
            words.extend([b"0".as_slice(), b"-1"]);
        }
        let Reply::List(members) = redis.call_bytes(&words)? else { continue };
        for member in members {
            let Reply::Bytes(member) = member else { continue };
            if !rng.random_bool(SHARE) {
                continue;
            }
            redis.call_bytes(&[remove.as_bytes(), key.as_bytes(), &member])?.expect_ok();
            removed += 1;
        }
    }
    Ok(removed)
}
