//! What the cases need: a namespace, jobs in every state, and short words for common steps.

use std::time::Duration;

use bytes::Bytes;

use crate::engine::Ended;
use crate::ledger::retention::{Aged, AgedRuns, Tidy, Whose};
use crate::ledger::{
    Accepted, Changed, Idempotency, Ledger, Record, RecordRunning, Recorded, Refused, Submission,
    SubmitOutcome,
};
use crate::limits::QUEUES_PER_NAMESPACE_MAX;
use crate::model::id::{Fence, JobId};
use crate::model::job::{Job, JobError, JobState, NewJob, OnConflict, Unique, Value};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;
use crate::model::workflow::WorkflowState;

/// One case's corner of the ledger.
pub(super) struct Scene {
    pub(super) ledger: Ledger,
    pub(super) namespace: Namespace,
    pub(super) queue: QueueName,
}

/// An instant of engine time, `n` seconds after a fixed one in the past.
pub(super) fn at(n: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + n * 1_000)
}

pub(super) fn error(code: &str, message: &str) -> JobError {
    JobError { code: code.into(), message: message.into(), retryable: true }
}

pub(super) fn unique(key: &str, on_conflict: OnConflict) -> Option<Unique> {
    Some(Unique { key: key.into(), window: None, on_conflict })
}

/// A key of a caller whose body hashes to `body` repeated.
pub(super) fn key(key: &str, body: u8) -> Option<Idempotency> {
    Some(Idempotency { key: key.into(), body_hash: [body; 32] })
}

impl Scene {
    pub(super) fn new(ledger: &Ledger, case: &str) -> Self {
        let random = JobId::generate().uuid().simple().to_string();
        let case: String = case.chars().take(30).collect();
        let namespace = format!("{case}-{}", &random[..]).parse().expect("a legal namespace");
        let queue = "q".parse().expect("a legal queue name");
        Self { ledger: ledger.clone(), namespace, queue }
    }

    /// The same ledger, seen by another tenant.
    pub(super) fn elsewhere(&self) -> Self {
        Self::new(&self.ledger, "elsewhere")
    }

    pub(super) fn new_job(&self) -> NewJob {
        NewJob::new(
            self.namespace.clone(),
            self.queue.clone(),
            "test.kind".parse().expect("a legal kind"),
            Value::Inline(Bytes::from_static(b"{\"n\":1}")),
        )
    }

    pub(super) fn new_jobs(&self, n: usize) -> Vec<NewJob> {
        (0..n).map(|_| self.new_job()).collect()
    }

    pub(super) fn unique_job(&self, key: &str, on_conflict: OnConflict) -> NewJob {
        NewJob { unique: unique(key, on_conflict), ..self.new_job() }
    }

    pub(super) async fn submit_with(
        &self,
        jobs: Vec<NewJob>,
        atomic: bool,
        idempotency: Option<Idempotency>,
    ) -> SubmitOutcome {
        self.ledger.submit(Submission { jobs, atomic, idempotency }).await.expect("submit")
    }

    /// A plain submission without a key.
    pub(super) async fn submit(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted, Refused>> {
        done(self.submit_with(jobs, false, None).await)
    }

    /// One job on its own; what became of it.
    pub(super) async fn offer(&self, job: NewJob) -> Result<Accepted, Refused> {
        let mut results = self.submit(vec![job]).await;
        assert_eq!(results.len(), 1);
        results.remove(0)
    }

    /// One job that must be accepted as new.
    pub(super) async fn accept(&self, job: NewJob) -> Job {
        new(self.offer(job).await)
    }

    /// Gives the namespace as many queues as it may have, `full-1` and so on among them.
    pub(super) async fn fill_with_queues(&self) {
        let most = QUEUES_PER_NAMESPACE_MAX;
        let namespace = &self.namespace;
        let there = self.ledger.queues(Some(namespace)).await.expect("queues").len() as u64;
        let sql = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
             INSERT INTO queues (namespace, name, created_at) \
             SELECT '{namespace}', 'full-' || i, 0 FROM n",
            most - there
        );
        self.ledger.tamper(sql).await.expect("queues can be planted");
    }

    pub(super) async fn get(&self, id: JobId) -> Job {
        self.find(id).await.expect("the job is there")
    }

    pub(super) async fn find(&self, id: JobId) -> Option<Job> {
        self.ledger.job(&self.namespace, id).await.expect("job")
    }

    /// A plain outcome of the lease `fence`, `fence` seconds after the scene's beginning.
    pub(super) fn record(&self, id: JobId, fence: u64, ended: Ended) -> Record {
        let n = i64::try_from(fence).expect("small fences");
        Record {
            namespace: self.namespace.clone(),
            id,
            fence: Fence(fence),
            ended,
            at: at(n).plus(Duration::from_millis(250)),
            claimed_at: Some(at(n)),
            attempt: 1,
            crashes: 0,
            worker: Some("w1 (test)".into()),
            output: None,
            error: None,
            timed_out: false,
            usage: None,
        }
    }

    pub(super) async fn records(&self, records: Vec<Record>) -> Vec<Recorded> {
        self.ledger.record(records).await.expect("record").replies
    }

    pub(super) async fn end(&self, id: JobId, fence: u64, ended: Ended) -> Recorded {
        let replies = self.records(vec![self.record(id, fence, ended)]).await;
        assert_eq!(replies.len(), 1);
        replies[0]
    }

    pub(super) async fn start(&self, id: JobId, fence: u64) {
        let running = RecordRunning {
            id,
            fence: Fence(fence),
            attempt: 1,
            claimed_at: at(i64::try_from(fence).expect("small fences")),
            worker: "w1".into(),
        };
        self.ledger.record_running(vec![running]).await.expect("record_running");
    }

    /// Deletes all that is past its time, whoever's it is, in batches of `limit`; how many rows.
    pub(super) async fn prune_all(&self, before: Timestamp, limit: u32) -> u64 {
        let now = self.ledger.now().await.expect("now");
        let (jobs, runs) = (aged(Whose::AllBut(Vec::new()), before), aged_runs(before));
        let (mut pruned, mut after, mut after_run) = (0, None, None);
        for _ in 0..1_000 {
            let rest = self.ledger.prune(None, Tidy { now, before }, limit).await.expect("prune");
            let run = self.ledger.prune_runs(None, &runs, after_run, limit).await;
            let run = run.expect("prune_runs").expect("nobody need lead");
            let job = self.ledger.prune_jobs(None, &jobs, after, limit).await;
            let job = job.expect("prune_jobs").expect("nobody need lead");
            assert!(job.deleted <= u64::from(limit), "{job:?}");
            pruned += rest + run.deleted + job.deleted;
            if job.at_end && run.at_end && rest == 0 && run.deleted == 0 {
                return pruned;
            }
            // A job of a run that has gone meanwhile was passed over.
            after = job.last.or(after).filter(|_| run.deleted == 0);
            after_run = run.last.or(after_run);
        }
        panic!("pruning does not end");
    }

    /// A job brought into `state` by the ordinary calls, with fence 10 on record where it was claimed.
    pub(super) async fn job_in(&self, state: JobState) -> Job {
        let ahead = self.ledger.now().await.expect("now").plus(Duration::from_secs(3600));
        let mut job = self.new_job();
        if state == JobState::Scheduled {
            job.run_at = Some(ahead);
        }
        let id = self.accept(job).await.id;
        let ended = match state {
            JobState::Blocked => unreachable!("only workflows make blocked jobs"),
            JobState::Scheduled | JobState::Ready => None,
            JobState::Running => {
                self.start(id, 10).await;
                None
            }
            JobState::Retrying => Some(Ended::Retry(ahead)),
            JobState::Succeeded => Some(Ended::Succeeded),
            JobState::Dead => Some(Ended::Dead),
            JobState::Cancelled => Some(Ended::Cancelled),
            JobState::Expired => Some(Ended::Expired),
            JobState::Quarantined => Some(Ended::Quarantined),
        };
        if let Some(ended) = ended {
            assert_eq!(self.end(id, 10, ended).await, Recorded::Applied);
        }
        let job = self.get(id).await;
        assert_eq!(job.state, state);
        job
    }
}

/// Jobs of these in every terminal state, made whenever.
pub(super) fn aged(whose: Whose, before: Timestamp) -> Aged {
    let states = terminal_states().collect();
    Aged { whose, states, before, made_before: before.plus(Duration::from_secs(3600)) }
}

/// Everybody's runs in every terminal state, with all jobs that have ended.
pub(super) fn aged_runs(before: Timestamp) -> AgedRuns {
    let ever = Timestamp::from_micros(i64::MAX);
    AgedRuns {
        whose: Whose::AllBut(Vec::new()),
        states: WorkflowState::ALL.into_iter().filter(|state| state.is_terminal()).collect(),
        before,
        jobs: terminal_states().map(|state| (state, ever)).collect(),
    }
}

fn terminal_states() -> impl Iterator<Item = JobState> {
    JobState::ALL.into_iter().filter(|state| state.is_terminal())
}

/// Every state that the ordinary calls can bring a job into.
pub(super) fn reachable_states() -> impl Iterator<Item = JobState> {
    JobState::ALL.into_iter().filter(|s| *s != JobState::Blocked)
}

pub(super) fn done(outcome: SubmitOutcome) -> Vec<Result<Accepted, Refused>> {
    match outcome {
        SubmitOutcome::Done(results) => results,
        other => panic!("expected a first answer, got {other:?}"),
    }
}

pub(super) fn new(result: Result<Accepted, Refused>) -> Job {
    match result {
        Ok(Accepted::New(job)) => job,
        other => panic!("expected a new job, got {other:?}"),
    }
}

pub(super) fn changed<T: std::fmt::Debug>(change: Changed<T>) -> T {
    match change {
        Changed::Done(value) => value,
        other => panic!("expected a change, got {other:?}"),
    }
}
