//! A dependency that is down while many jobs call it, with its circuit and without: E27.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Experiment, Form, Setup, measure};
use crate::check::Execution;
use crate::dump;
use crate::effects::End;
use crate::figure::{Figure, count};
use crate::load::plan::{ANY, Submission, job};
use crate::load::preload::preload;
use crate::runner::{Scene, Seen};
use crate::until::until_seldom;
use crate::worker::{CALL, Work};

/// Where the calls wait.
const QUEUE: &str = "rig-calls";
const CIRCUIT: &str = "rig-dependency";
/// Failures that open a circuit, and the time between probes: the product's defaults.
const OPENING: usize = 5;
const PROBE: Duration = Duration::from_secs(5);
/// What one call takes.
const CALL_MS: u64 = 20;
/// All calls are made within this time once their dependency is back.
const DONE_MAX: Duration = Duration::from_secs(300);
/// Full rate again within this time after it is back.
const FULL_RATE_MAX_S: f64 = 10.0;
/// A rate is full from this share of the greatest on.
const SHARE: f64 = 0.8;
const WINDOW_US: u64 = 1_000_000;

/// The two halves of the experiment.
pub(crate) const HALVES: [&str; 2] = ["with", "without"];

/// E27.
pub(super) struct Herd;

impl Experiment for Herd {
    fn id(&self) -> &'static str {
        "E27"
    }

    fn title(&self) -> &'static str {
        "a dependency that is down for a minute under many jobs, with its circuit and without"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.queues.push(QUEUE.into());
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            for half in HALVES {
                outage(scene, half).await.with_context(|| format!("{half} its circuit"))?;
            }
            Ok(())
        })
    }

    fn figures(&self, scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let limits = [Some(scene.fleet.slots()), None];
        HALVES.iter().zip(limits).flat_map(|(half, slots)| of_half(seen, half, slots)).collect()
    }
}

/// Takes the dependency away, submits the calls, and brings it back after a while.
async fn outage(scene: &mut Scene, half: &str) -> anyhow::Result<()> {
    let down = scene.fleet.folder().join(format!("down-{half}"));
    std::fs::write(&down, "")?;
    scene.history.mark(&format!("down {half}"));
    let began = Instant::now();
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let calls: Vec<Submission> = (0..scene.form.pick(500, 20_000))
        .map(|n| call(format!("{half}-{mark}-{n}"), half, &down))
        .collect();
    preload(&scene.client, &calls).await?;
    let length = Duration::from_secs(scene.form.pick(12, 60));
    tokio::time::sleep(length.saturating_sub(began.elapsed())).await;
    std::fs::remove_file(&down)?;
    scene.history.mark(&format!("up {half}"));
    scene.say(&format!("{half} its circuit: the dependency is back"));
    let client = &scene.client;
    until_seldom(DONE_MAX, || async {
        let depths = dump::depths(client).await.ok()?;
        depths.get(QUEUE)?.is_empty().then_some(())
    })
    .await
    .context("the calls have not all been made")
}

fn call(key: String, half: &str, down: &Path) -> Submission {
    let work = Work { ms: CALL_MS, needs: Some(down.to_owned()), ..Work::default() };
    let call = job(key, QUEUE, CALL, &work, 0);
    let mut body = call.body;
    // Without a circuit a job needs more attempts than by default to live through it.
    body["max_attempts"] = json!(100);
    body["retry"] = json!({ "backoff": "exponential", "initial": "1s", "max": "10s" });
    body["circuit"] = if half == "with" { json!(CIRCUIT) } else { Value::Null };
    Submission { body, fails: ANY, ..call }
}

/// `slots`: of the fleet; `None`: nothing is promised.
fn of_half(seen: &Seen<'_>, half: &str, slots: Option<usize>) -> Vec<Figure> {
    let name = |what: &str| format!("{what} {half} its circuit");
    let span = ["down", "up"].map(|edge| measure::mark(seen, &format!("{edge} {half}")));
    let [Some(down), Some(up)] = span else {
        return vec![Figure::at_most(&name("outages"), None, "", 0.0)];
    };
    let calls: Vec<&Execution> = seen.index.executions.iter().filter(|e| e.kind == CALL).collect();
    let during = calls.iter().filter(|e| down <= e.started && e.started < up).count();
    let jobs = seen.evidence.ledger.jobs.values();
    let ours = jobs.filter(|job| job.tags.first().is_some_and(|tag| is_of(tag, half)));
    let (mut burned, mut dead) = (0, 0);
    for job in ours {
        burned += job.attempt.saturating_sub(1) as usize;
        dead += usize::from(job.state != "succeeded");
    }
    let mut ends: Vec<u64> = calls
        .iter()
        .filter_map(|e| e.end)
        .filter(|(at, how)| *how == End::Ok && *at >= up)
        .map(|(at, _)| at.boot_us - up.boot_us)
        .collect();
    if half == HALVES[0] {
        let next = measure::mark(seen, &format!("down {}", HALVES[1]));
        ends.retain(|us| next.is_none_or(|next| up.boot_us + us < next.boot_us));
    }
    ends.sort_unstable();
    let full = full_rate_after(&ends);
    let outage_us = up.boot_us.saturating_sub(down.boot_us);
    let (during, burned, dead) = (count(during), count(burned), count(dead));
    let seconds = outage_us as f64 / 1e6;
    let last = ends.last().map(|us| *us as f64 / 1e6);
    let Some(slots) = slots else {
        return vec![
            Figure::told(&name("calls of what was down"), during, ""),
            Figure::told(&name("attempts used up"), burned, ""),
            Figure::told(&name("jobs that did not survive"), dead, ""),
            Figure::told(&name("full rate after"), full, "s"),
            Figure::told(&name("all calls made after"), last, "s"),
        ];
    };
    // Those that open it, those under way at that moment, and one for each time between probes.
    let opening = count(OPENING + slots);
    let probes = (seconds / PROBE.as_secs_f64()).ceil() + 1.0;
    vec![
        Figure::at_most(&name("calls of what was down"), during, "", opening + probes),
        Figure::at_most(&name("attempts used up"), burned, "", opening),
        Figure::at_most(&name("jobs that did not survive"), dead, "", 0.0),
        Figure::at_most(&name("full rate after"), full, "s", FULL_RATE_MAX_S),
        Figure::told(&name("all calls made after"), last, "s"),
    ]
}

fn is_of(tag: &str, half: &str) -> bool {
    tag.strip_prefix(half).is_some_and(|rest| rest.starts_with('-'))
}

/// The beginning of the first second with nearly as many ends as the best one, in s from 0.
fn full_rate_after(ends: &[u64]) -> Option<f64> {
    let within = |from: u64| {
        ends.partition_point(|us| *us < from + WINDOW_US) - ends.partition_point(|us| *us < from)
    };
    let best = ends.iter().map(|us| within(*us)).max()?;
    let first = ends.iter().find(|us| within(**us) as f64 >= SHARE * best as f64)?;
    Some(*first as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_full_when_it_is_as_before() {
        let slow = (0..5).map(|n| n * 1_000_000);
        let fast = (0..200).map(|n| 5_000_000 + n * 10_000);
        let ends: Vec<u64> = slow.chain(fast).collect();
        let full = full_rate_after(&ends).unwrap();
        assert!((4.0..=5.0).contains(&full), "{full}");
        assert_eq!(full_rate_after(&[]), None);
        assert!(is_of("with-a-1", "with") && !is_of("without-a-1", "with"));
    }
}
