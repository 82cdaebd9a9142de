//! Three times as much as the ledger takes: E26.
//!
//! Each row takes the ledger so long that it, and not the processor which is shared with whoever submits, is what is short.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};

use super::{Experiment, Form, Setup};
use crate::dump;
use crate::figure::{Figure, count};
use crate::history::Phase;
use crate::load::client::phase_of;
use crate::load::flood::{Answer, Flood, Pour, Poured, addresses};
use crate::load::plan::{Submission, job};
use crate::runner::{Scene, Seen};
use crate::until::until_seldom;
use crate::worker::{EFFECT, Work};

const QUEUE: &str = "rig-flood";
/// Each of their rows takes the ledger this long.
const SLOW: &str = "CREATE FUNCTION rig_slow() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN PERFORM pg_sleep(0.03); RETURN NEW; END $$; \
    CREATE TRIGGER rig_slow BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.queue = 'rig-flood') \
    EXECUTE FUNCTION rig_slow()";
/// So many times what it takes.
const TIMES: f64 = 3.0;
/// Afterwards so much of it.
const NORMAL: f64 = 0.5;
/// Connections on which each client waits for its answer: enough to find the most that is taken, and few enough for none of
/// it to be refused.
const CLOSED: usize = 40;
/// From then to the flood, at a rate that is borne: nothing is left in a line, and the line is not a standing one.
const CALM: f64 = 0.7;
/// Connections of clients that do not wait for each other. Most of them are free.
const OPEN: usize = 2_000;

/// The share of what it takes that it takes then, too.
const GOODPUT_MIN: f64 = 0.8;
/// What is accepted is accepted within this time.
const ACCEPTED_MAX: Duration = Duration::from_secs(1);
/// A line is seen to be a standing one only after a time. In two minutes the few that are late until then are no matter.
const BEGINS: Duration = Duration::from_secs(3);
/// All is as before within this time.
const NORMAL_MAX_S: f64 = 10.0;

const RESOLVED_AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);
const DONE_MAX: Duration = Duration::from_secs(600);

/// E26.
pub(super) struct Overload;

impl Experiment for Overload {
    fn id(&self) -> &'static str {
        "E26"
    }

    fn title(&self) -> &'static str {
        "three times as many submissions as the ledger takes, then half as many"
    }

    fn setup(&self, form: Form) -> Setup {
        let mut setup = Setup::standard(form);
        setup.fleet.queues.push(QUEUE.into());
        setup.mix.rate = 10.0;
        setup.pauses = false;
        let most = (2 * OPEN).to_string();
        setup.fleet.env.insert("WINDLASS_API__CONNECTIONS_MAX".into(), most.clone());
        setup.fleet.env.insert("WINDLASS_API__CONNECTIONS_PER_ADDRESS_MAX".into(), most);
        setup
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let seconds = |short, long| Duration::from_secs(scene.form.pick(short, long));
            let (to_peak, over, after) = (seconds(6, 30), seconds(12, 120), seconds(12, 30));
            scene.fleet.postgres.sql(SLOW)?;
            let closed = pour(scene, "peak", None, to_peak).await?;
            let peak = accepted(&in_time(&closed.answers, to_peak)) / to_peak.as_secs_f64();
            scene.say(&format!("{peak:.0} submissions a second are taken"));
            let calm = pour(scene, "calm", Some(CALM * peak), to_peak).await?;
            let refused = count(calm.answers.iter().filter(|answer| !answer.is_accepted).count());
            scene.figures.push(Figure::at_most("refused before", refused, "", 0.0));
            let (flood, normal) = tokio::try_join!(
                pour(scene, "over", Some(TIMES * peak), over),
                // From the very end of the flood on, whatever of it is not answered yet.
                async {
                    tokio::time::sleep(over).await;
                    pour(scene, "normal", Some(NORMAL * peak), after).await
                },
            )?;
            scene.figures.push(Figure::told("taken at most", peak, "submissions/s"));
            let begins = scene.form.pick(BEGINS, Duration::ZERO);
            let figures = figures(peak, (begins, over), &flood.answers, &normal.answers);
            scene.figures.extend(figures);
            resolve(scene, [closed, calm, flood, normal]).await?;
            let client = &scene.client;
            let done = until_seldom(DONE_MAX, || async {
                let depths = dump::depths(client).await.ok()?;
                depths.get(QUEUE)?.is_empty().then_some(())
            });
            done.await.context("what was accepted is not all done")
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        vec![Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0)]
    }
}

async fn pour(
    scene: &Scene,
    part: &str,
    rate: Option<f64>,
    length: Duration,
) -> anyhow::Result<Poured> {
    let flood = Flood {
        to: addresses(&scene.fleet.urls)?,
        key: scene.fleet.key.clone(),
        history: scene.history.clone(),
        make: |prefix, n| job(format!("{prefix}-{n}"), QUEUE, EFFECT, &Work::default(), 0),
        prefix: format!("{part}-{}", uuid::Uuid::new_v4().simple()),
    };
    let connections = if rate.is_some() { OPEN } else { CLOSED };
    flood.pour(Pour { rate, connections, length }).await
}

/// Asks again for what was never answered; the checker finds what stays unknown.
async fn resolve(scene: &Scene, parts: [Poured; 4]) -> anyhow::Result<()> {
    let unknown: Vec<Submission> = parts.into_iter().flat_map(|part| part.unknown).collect();
    scene.say(&format!("{} outcomes to resolve", unknown.len()));
    let resolve = |submission: Submission| {
        let client = scene.client.clone();
        async move { client.submit(&submission, PATIENCE).await }
    };
    let replies = stream::iter(unknown).map(resolve).buffer_unordered(RESOLVED_AT_ONCE);
    let left = replies
        .filter(|reply| std::future::ready(phase_of(reply.status) == Phase::Unknown))
        .count()
        .await;
    anyhow::ensure!(left == 0, "{left} outcomes stay unknown");
    Ok(())
}

fn accepted(answers: &[Answer]) -> f64 {
    count(answers.iter().filter(|answer| answer.is_accepted).count())
}

/// Of a flood that lasts `over`, of which the times that count begin after `begins`.
fn figures(
    peak: f64,
    (begins, over): (Duration, Duration),
    flood: &[Answer],
    normal: &[Answer],
) -> Vec<Figure> {
    let goodput = accepted(&in_time(flood, over)) / over.as_secs_f64() / peak;
    let offered = count(flood.iter().filter(|answer| answer.sent <= over).count());
    let later: Vec<Answer> = flood.iter().filter(|answer| answer.due >= begins).copied().collect();
    let limit = ACCEPTED_MAX.as_secs_f64();
    vec![
        Figure::told("offered then", offered / over.as_secs_f64() / peak, "× that"),
        Figure::at_least("taken then", goodput, "× that", GOODPUT_MIN),
        Figure::told("p99 of all that was accepted", p99(flood), "s"),
        Figure::at_most(
            &format!("p99 of what was accepted from {} s on", begins.as_secs()),
            p99(&later),
            "s",
            limit,
        ),
        Figure::at_most("all accepted in time again after", as_before(normal), "s", NORMAL_MAX_S),
    ]
}

/// What is answered when the time is over does not count for it.
fn in_time(answers: &[Answer], length: Duration) -> Vec<Answer> {
    answers.iter().filter(|answer| answer.due + answer.took <= length).copied().collect()
}

/// Of what was accepted, as far as is known: what got no answer may be.
fn p99(answers: &[Answer]) -> Option<f64> {
    let accepted = answers.iter().filter(|answer| answer.is_accepted || answer.is_unknown);
    let mut took: Vec<Duration> = accepted.map(|answer| answer.took).collect();
    took.sort_unstable();
    let place = (took.len() as f64 * 0.99).ceil() as usize;
    took.get(place.max(1) - 1).map(Duration::as_secs_f64)
}

/// The end of the last second in which not everything was accepted, or in time; `None`: it is the last of all.
fn as_before(answers: &[Answer]) -> Option<f64> {
    let is_well = |answer: &Answer| answer.is_accepted && answer.took <= ACCEPTED_MAX;
    let end = answers.last()?.due.as_secs();
    let bad = answers.iter().rfind(|answer| !is_well(answer)).map(|answer| answer.due.as_secs());
    match bad {
        None => Some(0.0),
        Some(second) if second < end => Some((second + 1) as f64),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(due_ms: u64, took_ms: u64, is_accepted: bool) -> Answer {
        let ms = Duration::from_millis;
        let (due, took) = (ms(due_ms), ms(took_ms));
        Answer { due, sent: due, took, is_accepted, is_unknown: false }
    }

    #[test]
    fn it_is_as_before_when_all_that_follows_is() {
        let answers = [
            answer(0, 10, true),
            answer(500, 10, false),
            answer(1_000, 1_200, true),
            answer(2_000, 10, true),
            answer(3_500, 10, true),
        ];
        assert_eq!(as_before(&answers), Some(2.0));
        assert_eq!(as_before(&answers[..3]), None);
        assert_eq!(as_before(&[]), None);
    }

    #[test]
    fn only_what_was_accepted_counts() {
        let flood: Vec<Answer> =
            (0..200).map(|n| answer(n * 10, if n < 2 { 3_000 } else { 20 }, n % 2 == 0)).collect();
        assert_eq!(accepted(&flood), 100.0);
        assert_eq!(p99(&flood), Some(0.02));
        assert_eq!(p99(&[answer(0, 5, false)]), None);
        let figures =
            figures(100.0, (Duration::from_secs(1), Duration::from_secs(2)), &flood, &flood);
        assert_eq!(figures[1].value, Some(0.495), "half of them, and one of these late");
        assert!(!figures[1].holds());
        assert_eq!(figures[2].value, Some(0.02));
        assert!(figures[3].holds());
    }
}
