//! Redis at its limit because somebody else has filled it: E13.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use windlass_shared::testkit::redis_server::resp::{Connection, Reply};

use super::measure::{self, mark};
use super::submissions::Submissions;
use super::{Experiment, Form, Setup, long};
use crate::figure::{Figure, count};
use crate::fleet::redis::Redis;
use crate::history::{Call, Phase};
use crate::runner::{Scene, Seen};

/// What foreign keys fill: more than all that waits is large.
const ROOM_BYTES: u64 = 64 << 20;
/// So much more than it may Redis holds then: more than becomes free as jobs end.
const BEYOND_BYTES: u64 = 16 << 20;
/// Jobs that run throughout.
const LONG: usize = 4;
/// Sizes of the foreign values, the large ones first: they fill quickly.
const SIZES: [usize; 3] = [1 << 20, 1 << 15, 1 << 10];
/// More keys than the room has place for.
const KEYS_MAX: usize = 200_000;
/// Keys that one command removes.
const REMOVED_AT_ONCE: usize = 500;
/// All that was accepted while Redis was full is done within this time after it is not any more.
const DONE_MAX_S: f64 = 60.0;

const FULL: &str = "redis is full";
const ROOM: &str = "redis has room";

/// E13.
pub(super) struct Full;

impl Experiment for Full {
    fn id(&self) -> &'static str {
        "E13"
    }

    fn title(&self) -> &'static str {
        "Redis at maxmemory by foreign keys"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.queues.push(long::QUEUE.into());
        // In the long form 18,000 jobs wait for room while 300/s come in. The 64 slots of 3A do 420 jobs/s of this load:
        // they would be busy with that for 64 s at best, whatever the product does.
        setup.fleet.slots = form.pick(setup.fleet.slots, 32);
        // What waits in the ledger is looked at every 10 s: the load is to see that.
        setup.after = Duration::from_secs(form.pick(12, 30));
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let length = Duration::from_secs(scene.form.pick(8, 60));
            // They run throughout: their leases have to be extended while Redis is full.
            long::start(scene, &[length + Duration::from_secs(2); LONG]).await?;
            let redis = &scene.fleet.redis;
            let limit = number(redis, "memory", "used_memory:")? + ROOM_BYTES;
            redis.command(&["CONFIG", "SET", "maxmemory", &limit.to_string()])?;
            let port = redis.port();
            let keys = tokio::task::spawn_blocking(move || fill(port)).await??;
            // Just below its limit Redis takes one more write, and with luck the next extension of a lease.
            let less = (limit - BEYOND_BYTES).to_string();
            redis.command(&["CONFIG", "SET", "maxmemory", &less])?;
            let refused = refused_scripts(redis)?;
            scene.history.mark(FULL);
            scene.say("Redis is full");
            tokio::time::sleep(length).await;
            let refused = refused_scripts(redis)?.saturating_sub(refused);
            tokio::task::spawn_blocking(move || remove(port, keys)).await??;
            scene.history.mark(ROOM);
            // Without refused pushes it was not full for the fleet.
            let refused = Figure::at_least("pushes refused", refused as f64, "", 1.0);
            scene.figures.push(refused);
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let meanwhile = Submissions::between(seen, FULL, ROOM);
        let waited = waited(seen);
        vec![
            Figure::at_most("leases lost", count(measure::outcomes(seen, "lease_lost")), "", 0.0),
            long::outlived(seen, LONG),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
            Figure::at_least("accepted meanwhile", count(meanwhile.seconds.len()), "", 1.0),
            Figure::at_most("not answered 2xx meanwhile", count(meanwhile.refused), "", 0.0),
            Figure::at_least("waited for room", count(waited.jobs), "", 1.0),
            Figure::at_most("all of before done after", waited.done_after_s, "s", DONE_MAX_S),
        ]
    }
}

/// Jobs that were accepted before there was room.
struct Waited {
    /// Those that were not claimed before there was room.
    jobs: usize,
    /// From then to the end of the last of all; `None`: one has not ended.
    done_after_s: Option<f64>,
}

fn waited(seen: &Seen<'_>) -> Waited {
    let mut waited = Waited { jobs: 0, done_after_s: None };
    let Some(room) = mark(seen, ROOM) else { return waited };
    let accepted = seen.evidence.history.iter().filter(|event| {
        let is_submission = matches!(event.call, Call::Submit { .. });
        is_submission && event.phase == Phase::Ok && event.at < room
    });
    let ids: std::collections::HashSet<&str> =
        accepted.filter_map(|event| event.reply.as_ref()?.id.as_deref()).collect();
    let jobs = seen.evidence.ledger.jobs.iter().filter(|(id, job)| {
        let run = job.step.as_ref().map(|(run, _)| run.as_str());
        ids.contains(id.as_str()) || run.is_some_and(|run| ids.contains(run))
    });
    let mut last = Some(room.wall_us);
    for (_, job) in jobs {
        let first = job.attempts.first().and_then(|attempt| i64::try_from(attempt.fence).ok());
        waited.jobs += usize::from(first.is_some_and(|claimed| claimed > room.wall_us));
        last = last.zip(job.finished_at_us).map(|(last, at)| last.max(at));
    }
    waited.done_after_s = last.map(|last| (last - room.wall_us) as f64 / 1e6);
    waited
}

/// A number out of `INFO`, by the beginning of its line.
fn number(redis: &Redis, section: &str, begin: &str) -> anyhow::Result<u64> {
    let info = redis.command(&["INFO", section])?.text();
    let line = info.lines().find_map(|line| line.strip_prefix(begin));
    let digits: String =
        line.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("redis tells no {begin}"))
}

/// Scripts that Redis has refused for want of memory: all such refusals but those of the
/// foreign keys, which are only set.
fn refused_scripts(redis: &Redis) -> anyhow::Result<u64> {
    let all = number(redis, "errorstats", "errorstat_OOM:count=")?;
    let info = redis.command(&["INFO", "commandstats"])?.text();
    let line = info.lines().find(|line| line.starts_with("cmdstat_set:"));
    let part = line.and_then(|line| line.split("rejected_calls=").nth(1));
    let digits = part.and_then(|part| part.split(',').next()?.parse::<u64>().ok());
    Ok(all.saturating_sub(digits.context("redis tells no refused SET")?))
}

fn key(n: usize) -> String {
    format!("foreign:{n}")
}

/// Sets keys until the smallest is refused; how many.
fn fill(port: u16) -> anyhow::Result<usize> {
    let mut redis = Connection::open(port)?;
    let mut keys = 0;
    for size in SIZES {
        let value = "x".repeat(size);
        loop {
            anyhow::ensure!(keys < KEYS_MAX, "redis does not become full");
            match redis.call(&["SET", &key(keys), &value])? {
                Reply::Refused(why) if why.starts_with("OOM") => break,
                Reply::Refused(why) => anyhow::bail!("redis refuses a foreign key: {why}"),
                _ => keys += 1,
            }
        }
    }
    Ok(keys)
}

fn remove(port: u16, keys: usize) -> anyhow::Result<()> {
    let mut redis = Connection::open(port)?;
    let names: Vec<String> = (0..keys).map(key).collect();
    for names in names.chunks(REMOVED_AT_ONCE) {
        let words: Vec<&str> =
            std::iter::once("UNLINK").chain(names.iter().map(String::as_str)).collect();
        redis.call(&words)?;
    }
    Ok(())
}
