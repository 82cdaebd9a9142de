//! The load: open loop, seeded, every call on record.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod client;
pub(crate) mod flood;
pub mod plan;
pub mod preload;
pub mod shared_keys;

use client::{Client, phase_of};
use plan::{Draw, Mix, PAUSED, Submission};

use crate::history::Phase;

/// Submissions under way at once; beyond it the load would not be open any more, so the run is refused.
const UNDER_WAY_MAX: usize = 20_000;
/// How long a client goes on with one key while the outcome is not known.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a queue is paused, and then is not.
const PAUSE_HALF: Duration = Duration::from_secs(2);
/// How long a pause or resume is tried; longer than any outage of the experiments.
const PAUSE_PATIENCE: Duration = Duration::from_secs(60);
/// Unknown outcomes that are asked for at once.
const RESOLVED_AT_ONCE: usize = 16;
/// Between two reads of some job.
const POLL_PACE: Duration = Duration::from_millis(50);

/// A running load.
#[derive(Debug)]
pub struct Load {
    client: Client,
    stop: CancellationToken,
    tasks: TaskTracker,
    arrivals: JoinHandle<()>,
    pauses: Option<JoinHandle<()>>,
    sent: Arc<Mutex<Sent>>,
}

/// What the load has sent.
#[derive(Debug, Default)]
struct Sent {
    /// Accepted jobs, not runs, for whoever polls.
    jobs: Vec<String>,
    /// Submissions whose outcome is not known.
    unknown: Vec<Submission>,
    overrun: bool,
}

impl Load {
    /// Starts to submit at the mix's rate, to read jobs, and, if `pauses`, to pause a queue half of the time.
    pub fn start(client: Client, mix: Mix, seed: u64, pauses: bool) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let sent = Arc::new(Mutex::new(Sent::default()));
        let arrivals = arrive(client.clone(), mix, seed, stop.clone(), tasks.clone(), sent.clone());
        let arrivals = tokio::spawn(arrivals);
        tasks.spawn(poll(client.clone(), stop.clone(), sent.clone()));
        let pauses = pauses.then(|| tokio::spawn(toggle(client.clone(), stop.clone())));
        Self { client, stop, tasks, arrivals, pauses, sent }
    }

    /// No new submission; waits for those under way, and leaves no queue paused.
    ///
    /// # Errors
    /// More submissions were under way than an open loop may have, or the paused queue cannot be resumed.
    pub async fn stop(self) -> anyhow::Result<Unresolved> {
        self.stop.cancel();
        self.arrivals.await?;
        if let Some(pauses) = self.pauses {
            pauses.await?;
            let resumed = self.client.set_paused(PAUSED, false, PAUSE_PATIENCE).await;
            anyhow::ensure!(resumed.status == 200, "{PAUSED} cannot be resumed: {resumed:?}");
        }
        self.tasks.close();
        self.tasks.wait().await;
        let sent = std::mem::take(&mut *lock(&self.sent));
        anyhow::ensure!(!sent.overrun, "over {UNDER_WAY_MAX} submissions were under way");
        Ok(Unresolved { client: self.client, submissions: sent.unknown })
    }
}

/// Submissions whose outcome is not known.
#[derive(Debug)]
pub struct Unresolved {
    client: Client,
    submissions: Vec<Submission>,
}

impl Unresolved {
    /// How many.
    pub fn len(&self) -> usize {
        self.submissions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.submissions.is_empty()
    }

    /// Asks again with the same keys; how many stay unknown. Few at a time: nothing is in a hurry now.
    pub async fn resolve(self) -> usize {
        let replies = futures::stream::iter(&self.submissions)
            .map(|submission| self.client.submit(submission, PATIENCE))
            .buffer_unordered(RESOLVED_AT_ONCE);
        let unknown =
            replies.filter(|reply| std::future::ready(phase_of(reply.status) == Phase::Unknown));
        unknown.count().await
    }
}

fn lock(sent: &Mutex<Sent>) -> std::sync::MutexGuard<'_, Sent> {
    sent.lock().expect("nobody panics while holding it")
}

/// Submits at the rate, whatever becomes of the submissions before.
async fn arrive(
    client: Client,
    mix: Mix,
    seed: u64,
    stop: CancellationToken,
    tasks: TaskTracker,
    sent: Arc<Mutex<Sent>>,
) {
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / mix.submissions()));
    // A late tick is made up for: the load does not yield to the fleet.
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut draw = Draw::new(seed, mix, &format!("k{seed}-{}", uuid::Uuid::new_v4().simple()));
    while stop.run_until_cancelled(pace.tick()).await.is_some() {
        if tasks.len() > UNDER_WAY_MAX {
            lock(&sent).overrun = true;
            return;
        }
        let (client, sent, submission) = (client.clone(), sent.clone(), draw.draw());
        tasks.spawn(async move {
            let reply = client.submit(&submission, PATIENCE).await;
            let mut sent = lock(&sent);
            match phase_of(reply.status) {
                Phase::Ok if submission.steps == 0 => sent.jobs.extend(reply.id),
                Phase::Unknown => sent.unknown.push(submission),
                _ => {}
            }
        });
    }
}

/// Reads some accepted job again and again: what was shown as ended must stay so.
async fn poll(client: Client, stop: CancellationToken, sent: Arc<Mutex<Sent>>) {
    let mut pace = tokio::time::interval(POLL_PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut step: usize = 0;
    while stop.run_until_cancelled(pace.tick()).await.is_some() {
        // Every job is come back to: the stride is prime to most lengths.
        step = step.wrapping_add(7);
        let id = {
            let sent = lock(&sent);
            let count = sent.jobs.len();
            (count > 0).then(|| sent.jobs[step % count].clone())
        };
        if let Some(id) = id {
            client.poll(&id).await;
        }
    }
}

/// Pauses a queue half of the time. It is left as it is; [`Load::stop`] resumes it.
async fn toggle(client: Client, stop: CancellationToken) {
    let mut paused = true;
    while stop.run_until_cancelled(tokio::time::sleep(PAUSE_HALF)).await.is_some() {
        // Not cut short: a call whose answer nobody waits for would be a pause of unknown fate.
        client.set_paused(PAUSED, paused, PAUSE_PATIENCE).await;
        paused = !paused;
    }
}
