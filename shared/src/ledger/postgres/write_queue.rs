//! Submissions that wait for a writer: bounded, first come first served, shared by the writers.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::{LedgerError, Result, Submission, SubmitOutcome};
use crate::ledger::pulse::Pulse;
use crate::limits::WRITE_QUEUE_MAX;
use crate::model::name::QueueName;

/// A submission and whoever waits for its outcome.
pub(super) struct Pending {
    pub(super) submission: Submission,
    /// Queues of it that do not exist and may not be made.
    pub(super) closed: HashSet<QueueName>,
    reply: oneshot::Sender<Result<SubmitOutcome>>,
    /// Its share of the queue's bound, until it is answered.
    _room: OwnedSemaphorePermit,
}

impl Pending {
    /// Tells the caller. One that went away is not missed: the outcome stands without it.
    pub(super) fn answer(self, outcome: Result<SubmitOutcome>) {
        let _ = self.reply.send(outcome);
    }
}

/// The receiving end for the caller.
pub(super) type Answer = oneshot::Receiver<Result<SubmitOutcome>>;

/// What waits.
pub(super) struct WriteQueue {
    /// Of those who write what waits here.
    pub(super) pulse: Pulse,
    room: Arc<Semaphore>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Pending>,
    closed: bool,
}

/// What a writer commits together.
#[derive(Default)]
pub(super) struct Batch {
    /// Free of conflicts among themselves.
    pub(super) merged: Vec<Pending>,
    /// Those that conflict with one of `merged`: the same idempotency key, or the same unique key.
    pub(super) colliding: Vec<Pending>,
}

impl WriteQueue {
    /// For so many writers.
    pub(super) fn new(writers: usize) -> Self {
        let room = Arc::new(Semaphore::new(WRITE_QUEUE_MAX));
        Self { pulse: Pulse::new(writers), room, state: Mutex::default(), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Takes room for a submission.
    ///
    /// # Errors
    /// [`LedgerError::Overloaded`] when there is none, [`LedgerError::Unavailable`] when the writers get no answers.
    pub(super) fn admit(&self, submission: Submission) -> Result<(Pending, Answer)> {
        self.pulse.check()?;
        let rows = u32::try_from(submission.jobs.len().min(WRITE_QUEUE_MAX))
            .expect("the bound of the queue is below 2^32");
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(rows)
            .map_err(|_| LedgerError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        Ok((Pending { submission, closed: HashSet::new(), reply, _room: room }, answer))
    }

    /// Hands a submission to the writers. After [`Self::close`] it is refused.
    pub(super) fn push(&self, pending: Pending) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            return pending.answer(Err(closed()));
        }
        state.waiting.push_back(pending);
        drop(state);
        self.wake.notify_one();
    }

    /// Lets the writers finish what waits, and end.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_waiters();
    }

    /// The next submissions, at most `rows_max` rows of them (but at least one submission); waits for
    /// them. `None` when the queue is closed and empty. May be dropped while it waits.
    pub(super) async fn take(&self, rows_max: usize) -> Option<Batch> {
        loop {
            // Subscribed before looking, so that no wake-up falls in between.
            let woken = self.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            {
                let mut state = self.state();
                if !state.waiting.is_empty() {
                    let batch = state.take(rows_max);
                    if !state.waiting.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            woken.await;
        }
    }
}

/// What late callers are told.
pub(super) fn closed() -> LedgerError {
    LedgerError::Unavailable("the ledger is closed".into())
}

impl State {
    fn take(&mut self, rows_max: usize) -> Batch {
        let mut batch = Batch::default();
        let (mut keys, mut uniques) = (HashSet::new(), HashSet::new());
        let mut rows = 0;
        while let Some(next) = self.waiting.front() {
            rows += next.submission.jobs.len();
            if rows > rows_max && !batch.merged.is_empty() {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            if is_apart(&next.submission, &mut keys, &mut uniques) {
                batch.merged.push(next);
            } else {
                batch.colliding.push(next);
            }
        }
        batch
    }
}

type Names = HashSet<u64>;

/// Whether no key of `submission` is among those seen; notes them. Keys are compared by their hashes: a
/// false match costs a transaction of its own, and nothing else.
fn is_apart(submission: &Submission, keys: &mut Names, uniques: &mut Names) -> bool {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    let hash = BuildHasherDefault::<DefaultHasher>::default();
    if let (Some(idempotency), Some(job)) = (&submission.idempotency, submission.jobs.first())
        && !keys.insert(hash.hash_one((&job.namespace, &idempotency.key)))
    {
        return false;
    }
    submission.jobs.iter().all(|job| match &job.unique {
        Some(unique) => uniques.insert(hash.hash_one((&job.namespace, &job.queue, &unique.key))),
        None => true,
    })
}
