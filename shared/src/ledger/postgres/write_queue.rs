//! Submissions that wait for a writer: bounded, in turn, shared by the writers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{LedgerError, Result, Submission, SubmitOutcome};
use crate::ledger::pulse::Pulse;
use crate::ledger::turns::{NotIn, Turns};
use crate::limits::{WRITE_QUEUE_MAX, WRITE_ROWS_MAX};
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
    turns: Turns<Pending>,
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
        Self { pulse: Pulse::new(writers), room, turns: Turns::new(writers, WRITE_ROWS_MAX) }
    }

    /// Takes room for a submission.
    ///
    /// # Errors
    /// [`LedgerError::Overloaded`] when there is none, or its turn would come too late; [`LedgerError::Unavailable`] when
    /// the writers get no answers.
    pub(super) fn admit(&self, submission: Submission) -> Result<(Pending, Answer)> {
        self.pulse.check()?;
        self.turns.admit().map_err(|why| match why {
            NotIn::Overloaded => LedgerError::Overloaded,
            NotIn::Closed => closed(),
        })?;
        let rows = submission.jobs.len().min(WRITE_QUEUE_MAX);
        let rows = u32::try_from(rows).expect("the bound of the queue is below 2^32");
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(rows)
            .map_err(|_| LedgerError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        Ok((Pending { submission, closed: HashSet::new(), reply, _room: room }, answer))
    }

    /// Hands a submission to the writers. After [`Self::close`] it is refused.
    pub(super) fn push(&self, pending: Pending) {
        let rows = pending.submission.jobs.len();
        if let Err(pending) = self.turns.push(rows, pending) {
            pending.answer(Err(closed()));
        }
    }

    /// A group of so many rows took so long, and was committed or not.
    pub(super) fn wrote(&self, rows: usize, took: Duration, is_committed: bool) {
        self.turns.wrote(rows, took, is_committed);
    }

    /// Lets the writers finish what waits, and end.
    pub(super) fn close(&self) {
        self.turns.close();
    }

    /// The next submissions, at most `rows_max` rows of them (but at least one submission); waits for
    /// them. `None` when the queue is closed and empty. May be dropped while it waits.
    pub(super) async fn take(&self, rows_max: usize) -> Option<Batch> {
        while self.turns.ready().await {
            let group = self.turns.take(rows_max);
            for pending in group.shed {
                pending.answer(Err(LedgerError::Overloaded));
            }
            if !group.taken.is_empty() {
                return Some(Batch::of(group.taken));
            }
        }
        None
    }
}

/// What late callers are told.
pub(super) fn closed() -> LedgerError {
    LedgerError::Unavailable("the ledger is closed".into())
}

impl Batch {
    fn of(taken: Vec<Pending>) -> Self {
        let mut batch = Self::default();
        let (mut keys, mut uniques) = (HashSet::new(), HashSet::new());
        for next in taken {
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
