//! Submits the jobs of a load at their intended times, whether or not earlier ones were answered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use windlass_shared::ledger::{Accepted, LedgerError, Refused, Submission, SubmitOutcome};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::load_check::Plan;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Span;

use super::KIND;
use super::ends::Open;

/// Submissions under way. With more than that unanswered, the load falls behind its rate, and the report says so.
const UNDER_WAY_MAX: usize = 512;
/// Time-out of a job of the load.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Tries to find out what became of submissions whose answer was lost.
const RESOLVE_TRIES: u32 = 60;
const RESOLVE_PAUSE: Duration = Duration::from_millis(500);
/// Ids of one question.
const ASK_MAX: usize = 1_000;

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    Refused,
    /// It may have been accepted.
    Unknown,
}

/// One submission.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) id: JobId,
    /// When it was to be sent.
    pub(super) intended: Instant,
    /// When it was.
    pub(super) at: Instant,
    /// What it was delayed by.
    pub(super) delay: Duration,
    pub(super) answer: Answer,
}

pub(super) struct Generator {
    pub(super) life: Lifecycle,
    pub(super) plan: Plan,
    pub(super) shadow: Namespace,
    pub(super) queue: QueueName,
    pub(super) ends: Arc<Open>,
    /// What a test does to a job before it is sent.
    pub(super) change: fn(u64, &mut NewJob),
}

impl Generator {
    /// Submits every job; each with what became of it, and the time from the first intended instant to the last answer.
    pub(super) async fn load(&self) -> (Vec<Sent>, Duration) {
        let payload = self.payload();
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let (mut tasks, mut sent) = (JoinSet::new(), Vec::new());
        let began = Instant::now();
        let mut answered = began;
        for n in 0..self.plan.jobs() {
            let intended = began + self.plan.intended(n);
            tokio::time::sleep_until(intended).await;
            let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
            let delay = if self.plan.is_delayed(n) { self.plan.delay.0 } else { Duration::ZERO };
            let mut job = self.job(payload.clone());
            job.delay = Some(delay).filter(|delay| !delay.is_zero());
            (self.change)(n, &mut job);
            let (life, ends) = (self.life.clone(), Arc::clone(&self.ends));
            tasks.spawn(async move {
                let (id, at) = (job.id, Instant::now());
                let answer = submit(&life, job).await;
                if answer == Answer::Accepted {
                    ends.add(id);
                }
                drop(place);
                (Sent { id, intended, at, delay, answer }, Instant::now())
            });
            while let Some(ended) = tasks.try_join_next() {
                take(ended, &mut sent, &mut answered);
            }
        }
        while let Some(ended) = tasks.join_next().await {
            take(ended, &mut sent, &mut answered);
        }
        (sent, answered - began)
    }

    /// Finds out what became of submissions whose answer was lost.
    ///
    /// # Errors
    /// The ledger does not answer for long.
    pub(super) async fn resolve(&self, sent: &mut [Sent]) -> anyhow::Result<()> {
        let unknown: Vec<JobId> =
            sent.iter().filter(|s| s.answer == Answer::Unknown).map(|s| s.id).collect();
        let mut there = std::collections::HashSet::new();
        for chunk in unknown.chunks(ASK_MAX) {
            there.extend(self.on_record(chunk).await?);
        }
        for sent in sent.iter_mut().filter(|sent| sent.answer == Answer::Unknown) {
            if there.contains(&sent.id) {
                sent.answer = Answer::Accepted;
                self.ends.add(sent.id);
            } else {
                sent.answer = Answer::Refused;
            }
        }
        Ok(())
    }

    async fn on_record(&self, ids: &[JobId]) -> anyhow::Result<Vec<JobId>> {
        for _ in 0..RESOLVE_TRIES {
            if let Ok(there) = self.life.ledger().on_record(&self.shadow, ids).await {
                return Ok(there);
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
        bail!("the ledger does not say what became of {} submissions", ids.len())
    }

    /// Submits one job that is not part of the load; which.
    pub(super) async fn warm_up(&self) -> anyhow::Result<JobId> {
        let job = self.job(self.payload());
        let id = job.id;
        let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
        match self.life.submit(submission).await.context("the ledger refuses it")? {
            SubmitOutcome::Done(results) if matches!(results[..], [Ok(Accepted::New(_))]) => {}
            other => bail!("it was not accepted: {other:?}"),
        }
        self.ends.add(id);
        Ok(id)
    }

    fn payload(&self) -> Bytes {
        let filling = "x".repeat(self.plan.payload_bytes as usize);
        format!("{{\"filling\":\"{filling}\"}}").into()
    }

    fn job(&self, payload: Bytes) -> NewJob {
        let kind = KIND.parse().expect("a legal kind");
        let payload = Value::Inline(payload);
        let mut job = NewJob::new(self.shadow.clone(), self.queue.clone(), kind, payload);
        // A second attempt would hide a failure.
        job.spec.max_attempts = 1;
        job.spec.timeout = Span(TIMEOUT);
        job
    }
}

fn take(
    ended: Result<(Sent, Instant), tokio::task::JoinError>,
    sent: &mut Vec<Sent>,
    answered: &mut Instant,
) {
    let (one, at) = ended.expect("a submission does not panic");
    *answered = at.max(*answered);
    sent.push(one);
}

async fn submit(life: &Lifecycle, job: NewJob) -> Answer {
    let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
    match life.submit(submission).await {
        Ok(SubmitOutcome::Done(mut results)) => match results.pop() {
            Some(Ok(Accepted::New(_))) => Answer::Accepted,
            Some(Err(Refused::OutcomeUnknown)) => Answer::Unknown,
            _ => Answer::Refused,
        },
        Err(LedgerError::OutcomeUnknown) => Answer::Unknown,
        Ok(_) | Err(_) => Answer::Refused,
    }
}
