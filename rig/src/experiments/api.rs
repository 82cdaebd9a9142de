//! Submissions: API processes that are killed (E3), and keys that many clients share (E25).

use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng as _;

use super::Experiment;
use crate::figure::{Figure, count};
use crate::history::{Call, Fault, Phase};
use crate::load::plan::{QUEUES, Submission, job};
use crate::load::shared_keys;
use crate::runner::{Scene, Seen};
use crate::target::Target;
use crate::until::until;
use crate::worker::{EFFECT, Work};

const READY_MAX: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

/// E3.
pub(super) struct KillInWindow;

impl Experiment for KillInWindow {
    fn id(&self) -> &'static str {
        "E3"
    }

    fn title(&self) -> &'static str {
        "kill -9 of an API process while it commits; clients retry with the key"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            for _ in 0..scene.form.pick(6, 50) {
                let victim = scene.rng.random_range(0..scene.fleet.apis.len());
                // Any place in the course of a group commit.
                let pause = Duration::from_micros(scene.rng.random_range(50_000..350_000));
                tokio::time::sleep(pause).await;
                let process = scene.fleet.apis[victim].name().to_owned();
                // With many requests at once, so that some are under way whenever the kill comes.
                let burst = tokio::spawn(burst(scene.client.clone(), 40));
                tokio::time::sleep(Duration::from_micros(scene.rng.random_range(0..15_000))).await;
                scene.fleet.apis[victim].kill_9();
                scene.history.fault(Fault::Killed { process: process.clone() });
                scene.fleet.apis[victim].restart()?;
                scene.history.fault(Fault::Started { process });
                ready(&scene.fleet.urls[victim]).await?;
                burst.await?;
            }
            Ok(())
        })
    }

    fn figures(&self, _scene: &Scene, seen: &Seen<'_>) -> Vec<Figure> {
        let submits = |phase: Phase| {
            let history = seen.evidence.history.iter();
            let of = |call: &Call| matches!(call, Call::Submit { .. });
            history.filter(|event| event.phase == phase && of(&event.call)).count()
        };
        // Without broken submissions nothing was tested.
        vec![
            Figure::at_least("submissions cut off", count(submits(Phase::Unknown)), "", 1.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}

/// Waits until an API process answers.
async fn ready(url: &str) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    until(READY_MAX, || async {
        let answer = http.get(format!("{url}/readiness")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await
}

/// Short jobs, all at once.
async fn burst(client: crate::load::client::Client, count: usize) {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let submissions = (0..count).map(|n| {
        let work = Work { ms: 5, ..Work::default() };
        job(format!("burst-{mark}-{n}"), QUEUES[0], EFFECT, &work, 0)
    });
    let client = &client;
    let send = |submission: Submission| async move {
        client.submit(&submission, PATIENCE).await;
    };
    futures::future::join_all(submissions.map(send)).await;
}

/// E25.
pub(crate) struct SameKeys;

impl<T: Target> Experiment<T> for SameKeys {
    fn id(&self) -> &'static str {
        "E25"
    }

    fn title(&self) -> &'static str {
        "many clients submit the same keys, some with other bodies"
    }

    fn fault<'a>(&'a self, scene: &'a mut Scene<T>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let Scene { client, form, rng, .. } = scene;
            shared_keys::submit(client, *form, rng, PATIENCE).await
        })
    }

    fn figures(&self, _scene: &Scene<T>, seen: &Seen<'_>) -> Vec<Figure> {
        let refused = seen.evidence.history.iter().filter(|event| {
            let code = event.reply.as_ref().and_then(|reply| reply.code.as_deref());
            code == Some("idempotency_key_reused")
        });
        vec![
            Figure::at_least("other bodies refused", count(refused.count()), "", 1.0),
            Figure::at_most("extra", seen.verdict.extra_total() as f64, "", 0.0),
        ]
    }
}
