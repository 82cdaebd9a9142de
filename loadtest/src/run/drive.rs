//! Makes the calls of a stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::{Rng as _, distr::Distribution as _, distr::weighted::WeightedIndex};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::book::{Book, Entry, Plan};
use super::pace::pace;
use super::shape::Shape;
use super::tally::Tally;
use super::watch as look;
use crate::http::CONNECTIONS_MAX;
use crate::http::{self, Answer, Client};
use crate::profile::curve::Curve;
use crate::profile::{CallKind, Jobs, Load, Mix};

/// Calls under way in an open loop: each has a connection. What is due beyond them is not made, and counts as an error.
const UNDER_WAY_MAX: usize = CONNECTIONS_MAX;

/// Before a refused batch of a backlog is sent again.
const AGAIN: Duration = Duration::from_millis(50);
/// For so long.
const REFUSED_MAX: Duration = Duration::from_secs(60);

/// Between two looks at the depth of the queue.
const DEPTH_EVERY: Duration = Duration::from_millis(20);

/// What calls of a load have in common.
pub(super) struct Common {
    pub(super) client: Client,
    pub(super) shape: Shape,
    pub(super) book: Book,
    pub(super) tag: String,
    pub(super) began: Instant,
    pub(super) seed: u64,
    /// Jobs made so far.
    pub(super) made: AtomicU64,
    /// Ends the load early.
    pub(super) stop: CancellationToken,
}

/// One stage that runs.
pub(super) struct Stage {
    pub(super) common: Arc<Common>,
    pub(super) number: u16,
    pub(super) calls: Vec<CallKind>,
    pub(super) weights: WeightedIndex<f64>,
    pub(super) tally: Arc<Tally>,
}

impl Stage {
    /// # Errors
    /// No call of the mix has a weight.
    pub(super) fn new(
        common: Arc<Common>,
        number: u16,
        mix: &Mix,
        tally: Arc<Tally>,
    ) -> anyhow::Result<Self> {
        let (calls, weights): (Vec<_>, Vec<_>) = mix.weights().into_iter().unzip();
        let weights = WeightedIndex::new(weights).context("the mix has no calls")?;
        Ok(Self { common, number, calls, weights, tally })
    }

    /// Runs it; returns when its last call was answered. `peak` is the rate that `times_peak` means.
    pub(super) async fn run(self: &Arc<Self>, load: &Load, peak: f64) {
        match load {
            Load::Open(curve) => self.open(*curve).await,
            Load::TimesPeak(times, length) => {
                let rate = (times * peak).min(crate::profile::RATE_MAX);
                self.open(Curve::ramp(rate, rate, *length)).await;
            }
            Load::InFlight(count, length, depth_max) => {
                self.in_flight(*count, *length, *depth_max).await;
            }
            Load::Users { count, joining, think, length } => {
                self.users(*count, *joining, *think, *length).await;
            }
        }
    }

    async fn open(self: &Arc<Self>, curve: Curve) {
        let mut due = pace(curve);
        let begins = self.common.began.elapsed();
        let mut calls = JoinSet::new();
        let mut rng = self.rng(0);
        while let Some(Some(at)) = self.common.stop.run_until_cancelled(due.recv()).await {
            while calls.try_join_next().is_some() {}
            if calls.len() >= UNDER_WAY_MAX {
                self.tally.unsent();
                continue;
            }
            let (stage, intended) = (Arc::clone(self), begins + at);
            let mut rng = StdRng::seed_from_u64(rng.random());
            calls.spawn(async move { stage.call(&mut rng, intended).await });
        }
        calls.join_all().await;
    }

    async fn in_flight(self: &Arc<Self>, count: u32, length: Duration, depth_max: Option<u32>) {
        let mut callers = JoinSet::new();
        let until = self.common.began.elapsed() + length;
        let (is_full, wait) = watch::channel(false);
        let _looks = depth_max.map(|most| {
            let stage = Arc::clone(self);
            let looking = async move { stage.look_at_depth(most.into(), &is_full).await };
            AbortOnDropHandle::new(tokio::spawn(looking))
        });
        for n in 0..count {
            let (stage, mut wait) = (Arc::clone(self), wait.clone());
            callers.spawn(async move {
                let mut rng = stage.rng(1 + u64::from(n));
                let left = || until.saturating_sub(stage.common.began.elapsed());
                while !left().is_zero() && !stage.common.stop.is_cancelled() {
                    // Nobody looks any more where there is no bound.
                    let room = tokio::time::timeout(left(), wait.wait_for(|is_full| !is_full));
                    let has_room = match stage.common.stop.run_until_cancelled(room).await {
                        Some(room) => room.is_ok(),
                        None => false,
                    };
                    if has_room {
                        stage.call(&mut rng, stage.common.began.elapsed()).await;
                    }
                }
            });
        }
        callers.join_all().await;
    }

    /// Tells whether more jobs than this are in the queue.
    async fn look_at_depth(&self, most: u64, is_full: &watch::Sender<bool>) {
        loop {
            let depth = look::depth(&self.common.client, self.common.shape.queue()).await;
            // While nobody knows, what was so is taken to be so.
            if let Some(depth) = depth {
                is_full.send_if_modified(|known| {
                    std::mem::replace(known, depth > most) != (depth > most)
                });
            }
            tokio::time::sleep(DEPTH_EVERY).await;
        }
    }

    async fn users(
        self: &Arc<Self>,
        count: u32,
        joining: f64,
        think: [Duration; 2],
        length: Duration,
    ) {
        let mut users = JoinSet::new();
        let begins = self.common.began.elapsed();
        for n in 0..count {
            let stage = Arc::clone(self);
            users.spawn(async move {
                let mut rng = stage.rng(1 + u64::from(n));
                let mut next = begins + Duration::from_secs_f64(f64::from(n) / joining);
                while next < begins + length {
                    let at = tokio::time::Instant::from_std(stage.common.began + next);
                    let slept = tokio::time::sleep_until(at);
                    if stage.common.stop.run_until_cancelled(slept).await.is_none() {
                        return;
                    }
                    stage.call(&mut rng, next).await;
                    let thinks = rng.random_range(think[0]..=think[1]);
                    next = stage.common.began.elapsed() + thinks;
                }
            });
        }
        users.join_all().await;
    }

    fn rng(&self, n: u64) -> StdRng {
        StdRng::seed_from_u64(self.common.seed ^ (u64::from(self.number) << 48) ^ (n << 16))
    }

    /// One call, due at `intended`.
    async fn call(&self, rng: &mut StdRng, intended: Duration) {
        let kind = self.calls[self.weights.sample(rng)];
        let common = &self.common;
        let get = |path: String| async move { common.client.get(&path).await };
        let (answer, accepted) = match kind {
            CallKind::Submit | CallKind::Batch | CallKind::Workflow => {
                self.submit(kind, rng, intended).await
            }
            CallKind::Health => (get("/health".into()).await, 0),
            CallKind::Search => (get(format!("/v1/jobs?tag={}&limit=20", common.tag)).await, 0),
            CallKind::Status | CallKind::Detail => {
                let what = if kind == CallKind::Detail { "/attempts" } else { "" };
                let path = match common.book.recent(rng.random()) {
                    Some(id) => format!("/v1/jobs/{id}{what}"),
                    // Nothing was accepted yet.
                    None => "/v1/jobs?limit=1".to_owned(),
                };
                (get(path).await, 0)
            }
        };
        let took = common.began.elapsed().saturating_sub(intended);
        self.tally.answer(kind, &answer, took, accepted);
    }

    async fn submit(&self, kind: CallKind, rng: &mut StdRng, intended: Duration) -> (Answer, u64) {
        let common = &self.common;
        let size = if kind == CallKind::Batch { u64::from(common.shape.batch_size()) } else { 1 };
        let n = common.made.fetch_add(size, Ordering::Relaxed);
        let mut entry = Entry {
            id: uuid::Uuid::nil(),
            stage: self.number,
            intended: micros(intended),
            sent: 0,
            answered: 0,
            plan: Plan::default(),
        };
        let now = || micros(common.began.elapsed());
        let answer = match kind {
            CallKind::Batch => {
                let (body, plans) = common.shape.batch(rng, n);
                entry.sent = now();
                let answer = common.client.post("/v1/jobs/batch", body, 200).await;
                entry.answered = now();
                return self.accept_batch(answer, entry, &plans);
            }
            CallKind::Workflow => {
                let (body, which) = common.shape.workflow(n);
                entry.sent = now();
                let answer = common.client.post("/v1/workflows", body, 201).await;
                entry.answered = now();
                let steps = common.shape.documents()[which].steps.len() as u64;
                return match accepted_id(answer) {
                    Ok((id, answer)) => {
                        common.book.add_workflow(Entry { id, ..entry }, which, steps);
                        (answer, steps)
                    }
                    Err(answer) => {
                        if answer.may_be_done() {
                            common.book.add_unknown_run();
                        }
                        (answer, 0)
                    }
                };
            }
            _ => {
                let (body, plan) = common.shape.job(rng, n);
                entry.plan = plan;
                entry.sent = now();
                let answer = common.client.post("/v1/jobs", body, 201).await;
                entry.answered = now();
                answer
            }
        };
        match accepted_id(answer) {
            Ok((id, answer)) => {
                common.book.add([Entry { id, ..entry }]);
                (answer, 1)
            }
            Err(answer) => (self.unknown(answer, 1), 0),
        }
    }

    fn accept_batch(&self, answer: Answer, entry: Entry, plans: &[Plan]) -> (Answer, u64) {
        let Answer::Good(bytes) = &answer else {
            return (self.unknown(answer, plans.len() as u64), 0);
        };
        match http::created_all(bytes, plans.len()) {
            Ok(ids) => {
                let jobs = ids.iter().zip(plans).filter_map(|(id, plan)| Some(((*id)?, *plan)));
                let entries: Vec<Entry> =
                    jobs.map(|(id, plan)| Entry { id, plan, ..entry }).collect();
                let accepted = entries.len() as u64;
                self.common.book.add(entries);
                if accepted == plans.len() as u64 {
                    (answer, accepted)
                } else {
                    (Answer::Bad(422, "jobs of a batch were rejected".into()), accepted)
                }
            }
            Err(error) => (self.unknown(Answer::Bad(0, error.to_string()), plans.len() as u64), 0),
        }
    }

    /// Notes that jobs may be there of which nobody was told.
    fn unknown(&self, answer: Answer, jobs: u64) -> Answer {
        if answer.may_be_done() {
            self.common.book.add_unknown_jobs(jobs);
        }
        answer
    }
}

/// Submits what `left` has left, in batches. Not part of the load: refused ones are sent again.
///
/// # Errors
/// A batch is answered with something else, not at all, or refused for long.
pub(super) async fn fill(
    common: &Common,
    stage: u16,
    jobs: &Jobs,
    left: &AtomicU64,
) -> anyhow::Result<()> {
    let whole = Shape::new(jobs, &common.tag, Vec::new());
    let mut rng = StdRng::seed_from_u64(common.seed);
    loop {
        let size = u64::from(jobs.batch);
        let take = |left: u64| (left > 0).then(|| left.saturating_sub(size));
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let Ok(before) = taken else { return Ok(()) };
        let size = before.min(size);
        let n = common.made.fetch_add(size, Ordering::Relaxed);
        let (body, plans) = if size == u64::from(jobs.batch) {
            whole.batch(&mut rng, n)
        } else {
            let batch = u32::try_from(size)?;
            Shape::new(&Jobs { batch, ..jobs.clone() }, &common.tag, Vec::new()).batch(&mut rng, n)
        };
        let patience = Instant::now() + REFUSED_MAX;
        let (sent, answer) = loop {
            if common.stop.is_cancelled() {
                return Ok(());
            }
            let sent = micros(common.began.elapsed());
            match common.client.post("/v1/jobs/batch", body.clone(), 200).await {
                Answer::Refused(_) if Instant::now() < patience => tokio::time::sleep(AGAIN).await,
                answer => break (sent, answer),
            }
        };
        let Answer::Good(bytes) = answer else {
            anyhow::bail!("jobs cannot be made wait: {}", answer.why());
        };
        let answered = micros(common.began.elapsed());
        let ids: Option<Vec<_>> = http::created_all(&bytes, plans.len())?.into_iter().collect();
        let ids = ids.context("jobs cannot be made wait: the queue takes no more of them")?;
        let entry = |(id, plan): (uuid::Uuid, &Plan)| Entry {
            id,
            stage,
            intended: sent,
            sent,
            answered,
            plan: *plan,
        };
        common.book.add(ids.into_iter().zip(&plans).map(entry));
    }
}

/// The id of what was accepted, with the answer; else what to count.
fn accepted_id(answer: Answer) -> Result<(uuid::Uuid, Answer), Answer> {
    match &answer {
        Answer::Good(bytes) => match http::created(bytes) {
            Ok(id) => Ok((id, answer)),
            Err(error) => Err(Answer::Bad(0, error.to_string())),
        },
        _ => Err(answer),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
