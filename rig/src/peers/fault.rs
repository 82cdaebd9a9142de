//! What is done to a subject, and undone. When these return, every process and store is there again.

use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::resp::{Connection, Reply};

use super::Peer;
use super::measure::{HURT, MENDING};
use super::run::Stage;
use super::subject::{SPIN, Subject, WAITING};
use super::trial::Trial;
use crate::effects;
use crate::experiments::damage_shard;
use crate::fleet::LEASE;
use crate::history::Fault;
use crate::load::plan::{Submission, job};
use crate::load::preload::preload;
use crate::load::shared_keys;
use crate::until::until;
use crate::worker::{EFFECT, Work};

/// Between two kills or restarts.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long Redis is away in E4.
const AWAY: Duration = Duration::from_secs(2);
const BUSY_MAX: Duration = Duration::from_secs(20);
/// How long a call is repeated.
const PATIENCE: Duration = Duration::from_secs(60);
/// Size of the key that takes the room in E13.
const FOREIGN: u64 = 64 << 20;
/// Share that is deleted in E7.
const SHARE: f64 = 0.05;

/// Hurts the subject and heals it, while the load goes on.
///
/// # Errors
/// The rig failed.
pub async fn apply(trial: Trial, stage: &mut Stage) -> anyhow::Result<()> {
    match trial {
        Trial::E1 => kill_one(stage).await,
        Trial::E2 => kill_all(stage).await,
        Trial::E4 => kill_redis(stage).await,
        Trial::E5 => wipe(stage).await,
        Trial::E7 => lose_keys(stage).await,
        Trial::E8 => freeze(stage).await,
        Trial::E9 => spin(stage).await,
        Trial::E13 => fill_redis(stage).await,
        Trial::E17 => restart_postgres(stage).await,
        Trial::E18 => stall_postgres(stage).await,
        Trial::E25 => same_keys(stage).await,
    }
}

async fn kill_one(stage: &mut Stage) -> anyhow::Result<()> {
    for n in 0..stage.form.pick(3, 10) {
        if n > 0 {
            stage.wait(BETWEEN).await?;
        }
        let victim = busiest(stage).await?;
        kill(stage, victim);
        replace(stage, victim)?;
    }
    Ok(())
}

async fn kill_all(stage: &mut Stage) -> anyhow::Result<()> {
    busiest(stage).await?;
    let workers = stage.subject.workers().len();
    (0..workers).for_each(|victim| kill(stage, victim));
    (0..workers).try_for_each(|victim| replace(stage, victim))
}

async fn kill_redis(stage: &mut Stage) -> anyhow::Result<()> {
    stage.subject.redis()?.process().kill_9();
    stage.wait(AWAY).await?;
    stage.subject.redis()?.restart().await
}

async fn wipe(stage: &mut Stage) -> anyhow::Result<()> {
    fill_paused(stage, stage.form.pick(2_000, 100_000)).await?;
    stage.subject.redis()?.command(&["FLUSHALL"])?;
    stage.say("wiped");
    release(stage).await
}

async fn lose_keys(stage: &mut Stage) -> anyhow::Result<()> {
    fill_paused(stage, stage.form.pick(500, 5_000)).await?;
    let port = stage.subject.redis()?.port();
    let removed = match stage.peer {
        Peer::Windlass => damage_shard(port, &mut stage.rng, WAITING)?,
        _ => damage_bullmq(port, &mut stage.rng, WAITING)?,
    };
    anyhow::ensure!(removed > 0, "nothing was deleted");
    stage.notes.push(format!("{removed} entries deleted"));
    release(stage).await
}

async fn freeze(stage: &mut Stage) -> anyhow::Result<()> {
    // One that has something to lose.
    let victim = busiest(stage).await?;
    let past = Duration::from_secs(stage.form.pick(3, 10));
    stage.subject.workers()[victim].freeze()?;
    let held = running(stage)?[victim];
    stage.wait(LEASE + past).await?;
    stage.subject.workers()[victim].thaw()?;
    stage.notes.push(format!("{held} jobs were under way in the stopped worker"));
    Ok(())
}

async fn spin(stage: &mut Stage) -> anyhow::Result<()> {
    let length = Duration::from_secs(stage.form.pick(5, 10));
    let ms = u64::try_from(length.as_millis())?;
    let work = Work { ms, spin: true, ..Work::default() };
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let spins: Vec<Submission> = (0..stage.subject.threads())
        .map(|n| job(format!("spin-{mark}-{n}"), SPIN, EFFECT, &work, 0))
        .collect();
    preload(&stage.client, &spins).await?;
    // Until they have ended, and one lease more, in which one that was lost would be given away.
    stage.wait(length + LEASE).await
}

async fn fill_redis(stage: &mut Stage) -> anyhow::Result<()> {
    let redis = stage.subject.redis()?;
    redis.command(&["SETRANGE", "foreign", &(FOREIGN - 1).to_string(), "x"])?;
    let info = redis.command(&["INFO", "memory"])?.text();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    let used = used.context("Redis says what it uses")?.trim().to_owned();
    redis.command(&["CONFIG", "SET", "maxmemory", &used])?;
    stage.history.mark(HURT);
    stage.wait(Duration::from_secs(stage.form.pick(10, 60))).await?;
    stage.history.mark(MENDING);
    // There is room again; the limit stays.
    stage.subject.redis()?.command(&["DEL", "foreign"])?;
    Ok(())
}

async fn restart_postgres(stage: &mut Stage) -> anyhow::Result<()> {
    for n in 0..stage.form.pick(2, 5) {
        if n > 0 {
            stage.wait(2 * BETWEEN).await?;
        }
        stage.subject.postgres()?.stop_immediately()?;
        stage.subject.postgres()?.restart().await?;
        stage.say("PostgreSQL is back");
    }
    Ok(())
}

async fn stall_postgres(stage: &mut Stage) -> anyhow::Result<()> {
    stage.subject.postgres()?.process().freeze_tree()?;
    stage.history.mark(HURT);
    let stalled = stage.wait(Duration::from_secs(stage.form.pick(5, 15))).await;
    stage.history.mark(MENDING);
    stage.subject.postgres()?.process().thaw_tree()?;
    stalled
}

async fn same_keys(stage: &mut Stage) -> anyhow::Result<()> {
    let Stage { client, form, rng, .. } = stage;
    shared_keys::submit(client, *form, rng, PATIENCE).await
}

/// SIGKILL, on record once it is gone.
fn kill(stage: &mut Stage, victim: usize) {
    let worker = &mut stage.subject.workers()[victim];
    let process = worker.name().to_owned();
    worker.kill_9();
    stage.say(&format!("killed {process}"));
    stage.history.fault(Fault::Killed { process });
}

fn replace(stage: &mut Stage, victim: usize) -> anyhow::Result<()> {
    let process = stage.subject.replace_worker(victim)?;
    stage.history.fault(Fault::Started { process });
    Ok(())
}

/// The worker with the most executions under way, once one has half of its slots busy; else whoever is busiest then.
async fn busiest(stage: &mut Stage) -> anyhow::Result<usize> {
    let names: Vec<String> = stage.names();
    let (log, enough) = (stage.effects(), stage.subject.slots_each() / 2);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let most = || {
        let running = effects::running(&log, &names).ok()?;
        running.into_iter().enumerate().max_by_key(|(_, running)| *running)
    };
    let busy = until(BUSY_MAX, || async { most().filter(|(_, running)| *running >= enough) });
    let found = busy.await.ok().or_else(most);
    Ok(found.map_or(0, |(place, _)| place))
}

/// Executions under way, by worker.
fn running(stage: &mut Stage) -> anyhow::Result<Vec<usize>> {
    let names: Vec<String> = stage.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    effects::running(&Subject::effects(&stage.folder), &names)
}

/// Pauses the waiting queue and fills it.
async fn fill_paused(stage: &mut Stage, jobs: usize) -> anyhow::Result<()> {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let one = |n: usize| {
        job(format!("wait-{mark}-{n}"), WAITING, EFFECT, &Work { ms: 1, ..Work::default() }, 0)
    };
    // A queue of ours exists from its first job on.
    preload(&stage.client, &[one(0)]).await?;
    let paused = stage.client.set_paused(WAITING, true, PATIENCE).await;
    anyhow::ensure!(paused.applied == Some(true), "{WAITING} is not paused: {paused:?}");
    let rest: Vec<Submission> = (1..=jobs).map(one).collect();
    preload(&stage.client, &rest).await?;
    stage.say(&format!("{jobs} jobs wait"));
    Ok(())
}

async fn release(stage: &mut Stage) -> anyhow::Result<()> {
    let resumed = stage.client.set_paused(WAITING, false, PATIENCE).await;
    anyhow::ensure!(resumed.status == 200, "{WAITING} is not resumed: {resumed:?}");
    Ok(())
}

/// Deletes a random share of what BullMQ holds of a queue: job hashes, and entries of its lists and sorted sets. Its own
/// settings and counters (`meta`, `id`, `events`) are spared, as ours are. How many were deleted.
fn damage_bullmq(port: u16, rng: &mut impl rand::Rng, queue: &str) -> anyhow::Result<usize> {
    let mut redis = Connection::open(port)?;
    let prefix = format!("bull:{queue}:");
    let keys = redis.call(&["KEYS", &format!("{prefix}*")])?;
    let mut removed = 0;
    for key in texts(keys) {
        let name = key.strip_prefix(&prefix).unwrap_or_default();
        let sort = redis.call(&["TYPE", &key])?.text();
        let (list, remove): (&[&str], &[&str]) = match sort.as_str() {
            "hash" if name != "meta" => {
                if rng.random_bool(SHARE) {
                    redis.call(&["DEL", &key])?.expect_ok();
                    removed += 1;
                }
                continue;
            }
            "list" => (&["LRANGE", &key, "0", "-1"], &["LREM", &key, "1"]),
            "zset" => (&["ZRANGE", &key, "0", "-1"], &["ZREM", &key]),
            _ => continue,
        };
        for entry in texts(redis.call(list)?) {
            if rng.random_bool(SHARE) {
                redis.call(&[remove, &[&entry]].concat())?.expect_ok();
                removed += 1;
            }
        }
    }
    Ok(removed)
}

fn texts(reply: Reply) -> Vec<String> {
    let Reply::List(entries) = reply else { return Vec::new() };
    entries.iter().map(Reply::text).collect()
}
