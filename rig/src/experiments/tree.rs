//! Commands that try to outlive their job, and one that floods its output: E30.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use serde_json::json;

use super::Experiment;
use crate::figure::{Figure, count};
use crate::fleet::LEASE;
use crate::load::plan::{QUEUES, Submission};
use crate::runner::{Scene, Seen};
use crate::target::Target;
use crate::until::{until, until_seldom};

/// Limit of the escaping command.
const LIMIT: Duration = Duration::from_secs(2);
/// Between SIGTERM and SIGKILL, as `docs/workers.md` says.
const GRACE: Duration = Duration::from_secs(2);
/// Kept of a stream: the product's default.
const KEPT_BYTES: usize = 1 << 20;
/// A worker may grow by as much as under hostile requests (E28).
const GROWTH_KIB: f64 = 65_536.0;
const SEEN_MAX: Duration = Duration::from_secs(20);
const GONE_MAX: Duration = Duration::from_secs(60);
const DONE_MAX: Duration = Duration::from_secs(120);

/// Double fork, a session and an environment of its own, SIGTERM ignored, the streams kept open. Everything names the
/// mark, by which it is found.
const ESCAPE: &str = r#"(trap '' TERM HUP; env -i setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' "$1" &)
(setsid setsid sh -c 'trap "" TERM HUP INT; while :; do sleep 1; done' "$1" &)
sh -c 'sh -c "trap \"\" TERM; while :; do sleep 1; done" $0 & wait' "$1" &
trap '' TERM HUP INT
while :; do sleep 1; done
"#;

/// E30.
pub(crate) struct Escape;

impl<T: Target> Experiment<T> for Escape {
    fn id(&self) -> &'static str {
        "E30"
    }

    fn title(&self) -> &'static str {
        "a command that double-forks, leaves its session and ignores SIGTERM; one that floods its output"
    }

    fn files(&self, folder: &Path, options: &mut T::Options) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let escape = folder.join("escape.sh");
        std::fs::write(&escape, ESCAPE)?;
        let flood = "head -c \"$1\" /dev/zero | tr '\\0' x";
        let text = format!(
            "[commands.escape]\nprogram = \"/bin/sh\"\nargs = [{escape}]\nargs_max = 1\ntimeout = \"{limit}s\"\n\
             [commands.flood]\nprogram = \"/bin/sh\"\nargs = [\"-c\", {flood}, \"sh\"]\nargs_max = 1\n",
            escape = json!(escape.display().to_string()),
            flood = json!(flood),
            limit = LIMIT.as_secs(),
        );
        let file = folder.join("commands.toml");
        std::fs::write(&file, text)?;
        let file = file.display().to_string();
        T::env(options).insert("WINDLASS_COMMANDS__FILE".into(), file);
        Ok(())
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene<T>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let before = scene.fleet.workers_rss_kib();
            let mark = uuid::Uuid::new_v4().simple().to_string();
            for n in 0..scene.form.pick(2, 8) {
                let escape = command(format!("escape-{mark}-{n}"), "escape", &mark, "dead");
                scene.client.submit(&escape, DONE_MAX).await;
            }
            let seen = until(SEEN_MAX, || async { (!marked(&mark).is_empty()).then(Instant::now) });
            let seen = seen.await.context("the command is not seen")?;
            scene.say(&format!("{} processes to get rid of", marked(&mark).len()));
            let gone = until(GONE_MAX, || async {
                marked(&mark).is_empty().then(|| seen.elapsed().as_secs_f64())
            });
            // Two heartbeats are two thirds of a lease.
            let limit = (LIMIT + GRACE + LEASE * 2 / 3).as_secs_f64();
            scene.figures.push(Figure::at_most("all gone after", gone.await.ok(), "s", limit));
            flood(scene, &mark).await?;
            let after = scene.fleet.workers_rss_kib().into_iter();
            let growth =
                after.zip(before).map(|(after, before)| after.saturating_sub(before)).max();
            let growth = growth.map(|kib| kib as f64);
            scene.figures.push(Figure::at_most("growth of a worker", growth, "KiB", GROWTH_KIB));
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene<T>, seen: &Seen<'_>) -> Vec<Figure> {
        let timed_out = seen.evidence.ledger.jobs.values().filter(|job| job.state == "dead");
        vec![
            Figure::at_least("commands ended at their limit", count(timed_out.count()), "", 1.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

/// A command that writes far more than is kept.
async fn flood<T: Target>(scene: &mut Scene<T>, mark: &str) -> anyhow::Result<()> {
    let bytes = scene.form.pick("100000000", "1000000000");
    let flood = command(format!("flood-{mark}"), "flood", bytes, "succeeded");
    let reply = scene.client.submit(&flood, DONE_MAX).await;
    let id = reply.id.context("the flood was accepted")?;
    let job = until_seldom(DONE_MAX, || async {
        let job = scene.client.get(&format!("/v1/jobs/{id}")).await?;
        crate::check::is_terminal(job["state"].as_str()?).then_some(job)
    });
    let job = job.await.context("the flood has not ended")?;
    let kept = job["output"]["stdout"].as_str().map(|text| text.len() as f64);
    // What was left out in the middle is said in a line.
    let limit = (KEPT_BYTES + 1_000) as f64;
    scene.figures.push(Figure::at_most("kept of the flood", kept, "bytes", limit));
    Ok(())
}

fn command(key: String, name: &str, argument: &str, ends: &'static str) -> Submission {
    let payload = json!({ "command": name, "args": [argument] });
    let body = json!({
        "kind": "command.run", "queue": QUEUES[0], "payload": payload, "tags": [&key],
        "max_attempts": 1,
    });
    Submission {
        key,
        path: "/v1/jobs",
        body,
        queue: QUEUES[0].into(),
        kind: "command.run",
        fails: 0,
        ends,
        delay_ms: 0,
        steps: 0,
    }
}

/// Processes whose command line names the mark.
fn marked(mark: &str) -> Vec<u32> {
    let named = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(mark.len()).any(|part| part == mark.as_bytes())
    };
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(named)
        .collect()
}
