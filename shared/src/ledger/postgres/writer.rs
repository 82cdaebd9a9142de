//! Group commit: a writer takes what waits and commits it with one statement on its own connection.
//!
//! There is no timer: what comes in during a commit is the next group. A writer is a task that nobody
//! cancels, so a caller that goes away takes nothing with it.

use std::sync::Arc;
use std::time::Instant;

use sqlx::PgConnection;
use uuid::Uuid;

use super::bounds::exchange;
use super::connect::{CONNECT_TIMEOUT, connect, same_ledger, writer_options};
use super::error::{is_bad_data, is_collision, is_locked, is_lost, unchanged};
use super::insert::{Insert, Made, Spend, accepted, pack_ids};
use super::queues::KnownQueues;
use super::quotas::{self, Sent, namespace_of};
use super::unknown::{Backend, committed};
use super::write_queue::Pending;
use super::{Inner, LedgerError, Result, own};
use crate::ledger::{Accepted, SubmitOutcome};
use crate::limits::WRITE_ROWS_MAX;
use crate::model::job::NewJob;
use crate::model::name::{Namespace, QueueName};

/// Tries of one group: after a lost connection that committed nothing, or a deadlock.
const TRIES_MAX: u32 = 4;

/// Keeps a writer at work until the queue is closed and empty. One that panics is replaced; its group is
/// answered as unknown.
pub(super) async fn keep(inner: Arc<Inner>) {
    loop {
        let writer = Writer { inner: Arc::clone(&inner), session: None };
        match tokio::spawn(writer.run()).await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "a ledger writer panicked and is replaced"),
        }
    }
}

struct Writer {
    inner: Arc<Inner>,
    session: Option<(PgConnection, Backend)>,
}

/// Why a group was not committed.
enum Fault {
    /// One of its rows is to blame.
    BadData,
    /// Somebody else holds a lock on what one of its rows needs, and lasts.
    Locked,
    Ledger(LedgerError),
}

impl Writer {
    async fn run(mut self) {
        while let Some(batch) = self.inner.queue.take(WRITE_ROWS_MAX).await {
            for pending in batch.colliding {
                own::spawn(&self.inner, pending);
            }
            if !batch.merged.is_empty() {
                self.commit(batch.merged).await;
            }
        }
    }

    /// Commits a group; one with a bad row is split in halves until that row stands alone.
    async fn commit(&mut self, group: Vec<Pending>) {
        let mut parts = vec![group];
        while let Some(mut part) = parts.pop() {
            let inner = Arc::clone(&self.inner);
            let beat = inner.queue.pulse.begin();
            let begun = Instant::now();
            let inserted = self.insert(&part).await;
            let rows = part.iter().map(|pending| pending.submission.jobs.len()).sum();
            inner.queue.wrote(rows, begun.elapsed(), inserted.is_ok());
            let lost = |fault: &Fault| matches!(fault, Fault::Ledger(LedgerError::Unavailable(_)));
            beat.end(!inserted.as_ref().is_err_and(lost));
            match inserted {
                Ok(sent) => self.answer(part, sent),
                Err(Fault::BadData) if part.len() > 1 => {
                    metrics::counter!("windlass_ledger_group_splits_total").increment(1);
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(Fault::Locked) if part.iter().any(has_key) => {
                    // Whoever needs the locked key waits for it alone; the others are not to wait with them.
                    metrics::counter!("windlass_ledger_group_splits_total").increment(1);
                    let (keyed, rest): (Vec<_>, Vec<_>) = part.into_iter().partition(has_key);
                    keyed.into_iter().for_each(|pending| own::spawn(&self.inner, pending));
                    if !rest.is_empty() {
                        parts.push(rest);
                    }
                }
                Err(Fault::Locked) if part.len() > 1 => {
                    metrics::counter!("windlass_ledger_group_splits_total").increment(1);
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(Fault::BadData | Fault::Locked) => {
                    part.into_iter().for_each(|pending| own::spawn(&self.inner, pending));
                }
                Err(Fault::Ledger(error)) => {
                    for pending in part {
                        pending.answer(Err(same(&error)));
                    }
                }
            }
        }
    }

    /// Commits a group with one statement, exactly once.
    async fn insert(&mut self, group: &[Pending]) -> Result<Sent, Fault> {
        for _ in 0..TRIES_MAX {
            let (connection, backend) = match self.session.take() {
                Some(session) => session,
                None => self.connect().await.map_err(|e| Fault::Ledger(unchanged(e)))?,
            };
            match self.send(group, connection, backend.clone()).await {
                Ok(sent) => return Ok(sent),
                Err(error) if is_lost(&error) => {
                    let made = self.find_out(group, &backend).await.map_err(Fault::Ledger)?;
                    if !made.is_empty() {
                        // Who was refused is not known any more, and looked at anew.
                        return Ok(Sent { made, ..Sent::default() });
                    }
                }
                Err(error) if is_collision(&error) => {}
                Err(error) if is_bad_data(&error) => return Err(Fault::BadData),
                Err(error) if is_locked(&error) => return Err(Fault::Locked),
                Err(error) => return Err(Fault::Ledger(unchanged(error))),
            }
        }
        Err(Fault::Ledger(LedgerError::Unavailable("no try of a commit came through".into())))
    }

    async fn connect(&self) -> Result<(PgConnection, Backend), sqlx::Error> {
        let mut connection = connect(&writer_options(&self.inner.options)).await?;
        same_ledger(&mut connection, self.inner.id).await?;
        let backend = exchange(CONNECT_TIMEOUT, Backend::of(&mut connection)).await?;
        Ok((connection, backend))
    }

    /// Sends the statement once, through the doors where there are some. Keeps the connection unless it is lost.
    async fn send(
        &mut self,
        group: &[Pending],
        mut connection: PgConnection,
        backend: Backend,
    ) -> Result<Sent, sqlx::Error> {
        let limited = &self.inner.limited;
        let is_limited =
            |pending: &Pending| namespace_of(&pending.submission).is_some_and(|n| limited.has(n));
        let sending = async {
            if group.iter().any(is_limited) {
                return quotas::insert(&self.inner, &mut connection, group).await;
            }
            let insert = statement(&self.inner.known_queues, group.iter().collect());
            let made = insert.run(&mut connection).await?;
            Ok(Sent { made, ..Sent::default() })
        };
        // Given up for silence, the connection is never used again.
        let result = exchange(self.inner.silence, sending).await;
        if let Ok(sent) = &result {
            metrics::histogram!("windlass_ledger_commit_rows").record(sent.made.len() as f64);
            if sent.refused.is_empty() {
                let known = &self.inner.known_queues;
                let queues = unknown_queues(known, group.iter()).into_iter();
                known.add(queues.map(|(n, q)| (n.clone(), q.clone())).collect());
            }
        }
        if !result.as_ref().is_err_and(is_lost) {
            self.session = Some((connection, backend));
        }
        result
    }

    /// What a lost connection committed, once that is certain.
    async fn find_out(&mut self, group: &[Pending], backend: &Backend) -> Result<Made> {
        let unknown = LedgerError::OutcomeUnknown;
        let Some(mut connection) = backend.outlive(&self.inner.options).await else {
            return Err(unknown);
        };
        if same_ledger(&mut connection, self.inner.id).await.is_err() {
            return Err(unknown);
        }
        let jobs = group.iter().flat_map(|p| &p.submission.jobs);
        let ids: Vec<Uuid> = jobs.map(|j| j.id.uuid()).collect();
        match exchange(self.inner.silence, committed(&mut connection, &ids)).await {
            Ok(made) => Ok(made),
            Err(_) => Err(unknown),
        }
    }

    /// Answers those whose jobs are all in, or were not let in. The others met a spent key or a held one, or may have: they
    /// are looked at one by one, in transactions of their own.
    fn answer(&self, group: Vec<Pending>, mut sent: Sent) {
        for (n, mut pending) in group.into_iter().enumerate() {
            let is_in = |job: &NewJob| sent.made.get(&job.id.uuid()).copied();
            if let Some(exceeded) = sent.refused.remove(&n) {
                if sent.apart.contains(&n) {
                    own::spawn(&self.inner, pending);
                } else {
                    pending.answer(Ok(SubmitOutcome::OverQuota(exceeded)));
                }
            } else if pending.submission.jobs.iter().all(|job| is_in(job).is_some()) {
                let jobs = std::mem::take(&mut pending.submission.jobs);
                let results = jobs.into_iter().map(|job| {
                    let entry = sent.made[&job.id.uuid()];
                    Ok(Accepted::New(accepted(job, entry)))
                });
                let outcome = SubmitOutcome::Done(results.collect());
                pending.answer(Ok(outcome));
            } else {
                own::spawn_rest(&self.inner, pending, &sent.made);
            }
        }
    }
}

/// Queues of a group that may have to be made.
fn unknown_queues<'a>(
    known: &KnownQueues,
    group: impl Iterator<Item = &'a Pending>,
) -> Vec<(&'a Namespace, &'a QueueName)> {
    let jobs = group.flat_map(|pending| &pending.submission.jobs);
    known.unknown(jobs.map(|job| (&job.namespace, &job.queue)).collect())
}

/// What brings a group in.
pub(super) fn statement<'a>(known: &KnownQueues, group: Vec<&'a Pending>) -> Insert<'a> {
    let queues = unknown_queues(known, group.iter().copied());
    let mut insert = Insert { queues, ..Insert::default() };
    for Pending { submission, .. } in group {
        let key = submission.idempotency.as_ref();
        insert.jobs.extend(submission.jobs.iter().map(|j| (j, key.map(|k| k.key.as_str()))));
        if let (Some(idempotency), Some(first)) = (key, submission.jobs.first()) {
            let ids = pack_ids(submission.jobs.iter().map(|j| Some(j.id.uuid())));
            insert.spends.push(Spend { namespace: &first.namespace, idempotency, ids });
        }
    }
    insert
}

/// Whether a submission needs a lock that others may hold.
fn has_key(pending: &Pending) -> bool {
    let submission = &pending.submission;
    let holds = |job: &NewJob| job.unique.is_some() || job.spec.order_key.is_some();
    submission.idempotency.is_some() || submission.jobs.iter().any(holds)
}

/// The error for one more of the group.
fn same(error: &LedgerError) -> LedgerError {
    match error {
        LedgerError::OutcomeUnknown => LedgerError::OutcomeUnknown,
        LedgerError::Overloaded => LedgerError::Overloaded,
        LedgerError::TooManyQueues => LedgerError::TooManyQueues,
        LedgerError::Schema(text) => LedgerError::Schema(text.clone()),
        LedgerError::Unfit(text) => LedgerError::Unfit(text.clone()),
        LedgerError::Unavailable(cause) => LedgerError::Unavailable(cause.to_string().into()),
        LedgerError::Failed(cause) => LedgerError::Failed(cause.to_string().into()),
    }
}
