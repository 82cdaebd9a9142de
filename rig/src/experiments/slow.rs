//! Redis that is far away: E14.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use windlass_shared::testkit::redis_server::resp::Connection;

use super::measure::{self, mark};
use super::submissions::Submissions;
use super::{Experiment, Form, Setup, long};
use crate::effects::End;
use crate::figure::{Figure, count};
use crate::fleet::links::Ways;
use crate::runner::{Scene, Seen};
use crate::tools::proxy::{Faults, Protocol};

/// Of a round trip.
const DELAY: Duration = Duration::from_millis(300);
const JITTER: Duration = Duration::from_millis(200);
/// Jobs that run throughout.
const LONG: usize = 4;
/// Round trips that are timed, to see that they are slow.
const PINGS: u32 = 10;
/// The share of submissions that the bound is about.
const SHARE: f64 = 0.99;

const BEFORE: &str = "redis is near";
const FAR: &str = "redis is far";
const NEAR: &str = "redis is near again";

/// E14.
pub(super) struct Slow;

impl Experiment for Slow {
    fn id(&self) -> &'static str {
        "E14"
    }

    fn title(&self) -> &'static str {
        "Redis 300 ms ± 200 ms away, for every process"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.ways = Ways::OneProxy(Protocol::Raw);
        setup.fleet.queues.push(long::QUEUE.into());
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let length = Duration::from_secs(scene.form.pick(10, 60));
            // They run throughout: their leases have to be extended while Redis is far.
            long::start(scene, &[2 * length + Duration::from_secs(1); LONG]).await?;
            // As long as what it is compared with, and after the warm time, in which connections are made.
            scene.history.mark(BEFORE);
            tokio::time::sleep(length).await;
            let link = scene.fleet.links.of_all().context("a proxy")?;
            link.set(Faults::round_trip(DELAY, JITTER)).await?;
            scene.history.mark(FAR);
            scene.say("Redis is far");
            let begun = Instant::now();
            let port = link.address().port();
            let trip = tokio::task::spawn_blocking(move || round_trip(port)).await??;
            tokio::time::sleep(length.saturating_sub(begun.elapsed())).await;
            link.heal().await?;
            scene.history.mark(NEAR);
            // A mean of so few has a deviation of a tenth.
            let least = DELAY.as_secs_f64() * 0.6;
            scene.figures.push(Figure::at_least("mean round trip", trip, "s", least));
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let before = Submissions::between(seen, BEFORE, FAR);
        let far = Submissions::between(seen, FAR, NEAR);
        let ms = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1e3);
        let against = |share: f64| {
            let (was, is) = (before.quantile(share)?, far.quantile(share)?);
            Some(is / was)
        };
        vec![
            Figure::at_most("leases lost", count(measure::outcomes(seen, "lease_lost")), "", 0.0),
            long::outlived(seen, LONG),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
            Figure::told("submissions before", count(before.seconds.len()), ""),
            Figure::told("p50 before", ms(before.quantile(0.5)), "ms"),
            Figure::told("p99 before", ms(before.quantile(SHARE)), "ms"),
            Figure::told("submissions meanwhile", count(far.seconds.len()), ""),
            Figure::told("p50 meanwhile", ms(far.quantile(0.5)), "ms"),
            Figure::told("p99 meanwhile", ms(far.quantile(SHARE)), "ms"),
            Figure::at_most("p99 against before", against(SHARE), "", 2.0),
            // On a machine that is busy with other work the p99 is that work's: the median is held to the same bound.
            Figure::at_most("p50 against before", against(0.5), "", 2.0),
            Figure::at_most("not answered 2xx meanwhile", count(far.refused), "", 0.0),
            Figure::told("jobs/s meanwhile", done_per_second(seen), ""),
        ]
    }
}

/// The mean of some round trips to Redis over a proxy, in seconds.
fn round_trip(port: u16) -> anyhow::Result<f64> {
    let mut redis = Connection::open(port)?;
    let begun = Instant::now();
    for _ in 0..PINGS {
        redis.call(&["PING"])?;
    }
    Ok(begun.elapsed().as_secs_f64() / f64::from(PINGS))
}

/// Jobs done a second while Redis was far.
fn done_per_second(seen: &Seen<'_>) -> Option<f64> {
    let (from, to) = (mark(seen, FAR)?, mark(seen, NEAR)?);
    let ends = seen.index.executions.iter().filter_map(|execution| execution.end);
    let done = ends.filter(|(at, how)| *how == End::Ok && from <= *at && *at < to).count();
    Some(count(done) / to.seconds_since(from))
}
