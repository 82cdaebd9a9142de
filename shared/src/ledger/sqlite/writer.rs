//! The one writer: merges what is waiting into one transaction, commits, then answers.
//!
//! The previous commit is the window in which the next batch gathers; there is no timer. Nothing cancels the
//! writer: callers wait for an answer on a channel of their own, and dropping the wait drops only the wait.
//! Submissions and everything else wait in lanes of their own, so that neither can keep the other out.

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fault::{Class, Fault, Health};
use super::place::Lock;
use super::queues::Known;
use super::quotas::Limited;
use super::record::{self, Followed, Recording};
use super::statement::{Args, execute};
use super::submit::{self, Submitting};
use super::{LedgerError, NewQueues, Record, Result, Submission, SubmitOutcome};
use crate::clock::Clock;
use crate::ledger::pulse::Pulse;
use crate::ledger::turns::{NotIn, Turns};
use crate::limits::WRITE_QUEUE_MAX;
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// Most rows that each lane puts into one transaction; a larger request has a transaction to itself.
const TRANSACTION_ROWS: usize = 2_000;
/// Most changes waiting; beyond it their callers wait for room.
const CHANGES_MAX: usize = 1_000;

/// The connection inside the writer's transaction, and what belongs to it.
pub(super) struct Tx<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    /// Ledger time of the transaction.
    pub(super) now: Timestamp,
    /// Queues that exist.
    pub(super) queues: &'c mut Known,
    /// Namespaces with quotas.
    pub(super) limited: &'c mut Limited,
}

/// The way to the writer. Dropping it closes the writer once what waits is written.
pub(super) struct Writer {
    pulse: Arc<Pulse>,
    submissions: Arc<Turns<Submitting>>,
    rows: Arc<Semaphore>,
    changes: mpsc::Sender<Change>,
    health: Arc<Health>,
    news: broadcast::Sender<(Namespace, QueueName)>,
    closing: CancellationToken,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What waits in the second lane.
enum Change {
    Record(Recording),
    /// With about how many rows it writes.
    Other(Box<dyn Other>, usize),
}

impl Change {
    fn rows(&self) -> usize {
        match self {
            Self::Record(recording) => recording.records.len().max(1),
            Self::Other(_, rows) => *rows,
        }
    }
}

impl Writer {
    /// Starts the writer's task on a connection that nobody else writes with.
    /// The lock is given up when the connection is closed.
    pub(super) fn start(
        connection: SqliteConnection,
        lock: Lock,
        health: Arc<Health>,
        clock: Clock,
        limited: Limited,
    ) -> Self {
        let submissions = Arc::new(Turns::new(1, TRANSACTION_ROWS));
        let (changes, changes_in) = mpsc::channel(CHANGES_MAX);
        let closing = CancellationToken::new();
        let queues = Known::default();
        let news = queues.news();
        let pulse = Arc::new(Pulse::new(1));
        let desk = Desk {
            pulse: Arc::clone(&pulse),
            connection,
            _lock: lock,
            clock,
            health: Arc::clone(&health),
            queues,
            limited,
            submissions: Arc::clone(&submissions),
            changes: changes_in,
            closing: closing.clone(),
        };
        Self {
            pulse,
            submissions,
            rows: Arc::new(Semaphore::new(WRITE_QUEUE_MAX)),
            changes,
            health,
            news,
            closing,
            task: tokio::sync::Mutex::new(Some(tokio::spawn(desk.run()))),
        }
    }

    /// Queues made from now on.
    pub(super) fn new_queues(&self) -> NewQueues {
        NewQueues::new(self.news.subscribe())
    }

    /// Hands in a submission and waits for its commit.
    ///
    /// # Errors
    /// [`LedgerError::Overloaded`] when too many rows wait, or its turn would come too late; [`LedgerError::Unavailable`]
    /// when nothing can be written for now. Nothing was written then.
    pub(super) async fn submit(&self, submission: Submission) -> Result<SubmitOutcome> {
        self.health.check()?;
        self.pulse.check()?;
        let rows = submission.jobs.len().clamp(1, WRITE_QUEUE_MAX);
        match self.submissions.admit() {
            Ok(()) => {}
            Err(NotIn::Overloaded) => return Err(LedgerError::Overloaded),
            Err(NotIn::Closed) => return Err(Fault::closed().into()),
        }
        let permits = u32::try_from(rows).expect("the bound fits");
        let Ok(permit) = Arc::clone(&self.rows).try_acquire_many_owned(permits) else {
            return Err(LedgerError::Overloaded);
        };
        let (reply, answer) = oneshot::channel();
        let submitting = Submitting { submission, reply, _permit: permit };
        match self.submissions.push(rows, submitting) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(Fault::closed().into())),
            Err(_) => Err(Fault::closed().into()),
        }
    }

    /// Hands in outcomes and waits for their commit.
    pub(super) async fn record(&self, records: Vec<Record>) -> Result<Followed> {
        let (reply, answer) = oneshot::channel();
        self.hand_in(Change::Record(Recording { records, reply })).await?;
        answer.await.unwrap_or_else(|_| Err(Fault::closed().into()))
    }

    /// Hands in any other write and waits for its commit. If `work` fails by itself, what it wrote is undone
    /// and its neighbours are not touched.
    pub(super) async fn change<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T, Fault>> + Send + 'static,
    {
        self.change_of(1, work).await
    }

    /// As [`Self::change`], for a write of about so many rows.
    pub(super) async fn change_of<T, F>(&self, rows: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T, Fault>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let typed = Typed { work: Some(work), result: None, reply };
        self.hand_in(Change::Other(Box::new(typed), rows.max(1))).await?;
        answer.await.unwrap_or_else(|_| Err(Fault::closed().into()))
    }

    async fn hand_in(&self, change: Change) -> Result<()> {
        self.health.check()?;
        Ok(self.changes.send(change).await.map_err(|_| Fault::closed())?)
    }

    /// Refuses what comes from now on, and waits until what came before is written.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        if let Some(task) = self.task.lock().await.take() {
            // A panic in the task was reported by the runtime; nobody can be told more here.
            let _ = task.await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// A write that is neither a submission nor an outcome.
trait Other: Send {
    /// Does it and keeps the result until the commit.
    fn run<'t>(&'t mut self, tx: &'t mut Tx<'_>) -> BoxFuture<'t, Result<(), Fault>>;
    /// Passes the result on, if the commit went well.
    fn answer(self: Box<Self>, committed: Result<(), LedgerError>);
}

struct Typed<T, F> {
    work: Option<F>,
    result: Option<Result<T, Fault>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Other for Typed<T, F>
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T, Fault>> + Send + 'static,
{
    fn run<'t>(&'t mut self, tx: &'t mut Tx<'_>) -> BoxFuture<'t, Result<(), Fault>> {
        Box::pin(async move {
            let work = self.work.take().expect("a write runs once");
            let result = work(tx).await;
            let fault = result.as_ref().err().cloned();
            self.result = Some(result);
            fault.map_or(Ok(()), Err)
        })
    }

    fn answer(self: Box<Self>, committed: Result<(), LedgerError>) {
        let result = match (committed, self.result) {
            (Ok(()), Some(result)) => result.map_err(LedgerError::from),
            (Ok(()), None) => Err(Fault::closed().into()),
            (Err(error), _) => Err(error),
        };
        let _ = self.reply.send(result); // whoever waited may have gone
    }
}

/// The writer's side.
struct Desk {
    pulse: Arc<Pulse>,
    connection: SqliteConnection,
    _lock: Lock,
    clock: Clock,
    health: Arc<Health>,
    queues: Known,
    limited: Limited,
    submissions: Arc<Turns<Submitting>>,
    changes: mpsc::Receiver<Change>,
    closing: CancellationToken,
}

/// What goes into one transaction.
#[derive(Default)]
struct Batch {
    submissions: Vec<Submitting>,
    records: Vec<Recording>,
    others: Vec<Box<dyn Other>>,
    /// About how many rows records and others are.
    changed: usize,
}

/// What [`Batch`] came to, before the commit.
#[derive(Default)]
struct Written {
    submissions: Vec<Result<SubmitOutcome, Fault>>,
    records: Vec<Result<Followed, Fault>>,
}

impl Desk {
    async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            self.write(batch).await;
        }
        let _ = sqlx::Connection::close(self.connection).await; // everything is committed
    }

    /// Waits for something to write and takes what is there; `None` once closed and empty.
    async fn gather(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while batch.is_empty() {
            tokio::select! {
                biased;
                () = self.closing.cancelled(), if !self.changes.is_closed() => {
                    self.submissions.close();
                    self.changes.close();
                }
                Some(change) = self.changes.recv() => {
                    batch.take(change);
                }
                true = self.submissions.ready() => self.take_submissions(&mut batch),
                else => return None,
            }
        }
        while batch.changed < TRANSACTION_ROWS
            && let Ok(change) = self.changes.try_recv()
        {
            batch.take(change);
        }
        if batch.submissions.is_empty() {
            self.take_submissions(&mut batch);
        }
        Some(batch)
    }

    fn take_submissions(&self, batch: &mut Batch) {
        let group = self.submissions.take(TRANSACTION_ROWS);
        for submitting in group.shed {
            let _ = submitting.reply.send(Err(LedgerError::Overloaded)); // whoever waited may have gone
        }
        batch.submissions = group.taken;
    }

    async fn write(&mut self, mut batch: Batch) {
        let pulse = Arc::clone(&self.pulse);
        let beat = pulse.begin();
        let rows = batch.rows();
        let begun = Instant::now();
        let written = match self.health.check() {
            Ok(()) => self.transact(&mut batch).await,
            Err(fault) => Err(fault.into()),
        };
        let lost = |refusal: &Refusal| matches!(refusal.error(), LedgerError::Unavailable(_));
        beat.end(!written.as_ref().is_err_and(lost));
        if !batch.submissions.is_empty() {
            self.submissions.wrote(rows, begun.elapsed(), written.is_ok());
        }
        match written {
            Ok(written) => {
                self.queues.keep();
                batch.answer(written);
            }
            Err(error) => {
                self.queues.forget();
                self.limited.forget();
                batch.refuse(error);
            }
        }
    }

    /// One transaction; it is over when this returns. The driver's own transaction guard is not used: what it
    /// does when dropped is not awaited.
    async fn transact(&mut self, batch: &mut Batch) -> Result<Written, Refusal> {
        command(&mut self.connection, "BEGIN IMMEDIATE").await.map_err(|f| self.note(f))?;
        let mut tx = Tx {
            connection: &mut self.connection,
            now: self.clock.now(),
            queues: &mut self.queues,
            limited: &mut self.limited,
        };
        let written = match batch.write(&mut tx).await {
            Ok(written) => written,
            Err(fault) => {
                let refusal = self.note(fault);
                self.roll_back().await;
                return Err(refusal);
            }
        };
        if let Err(fault) = command(&mut self.connection, "COMMIT").await {
            // A commit that fails on a damaged disk may yet be found whole by the next start.
            let unknown = fault.class() == Class::Broken;
            let refusal = self.note(fault);
            self.roll_back().await;
            return Err(if unknown { Refusal::Unknown } else { refusal });
        }
        Ok(written)
    }

    fn note(&self, fault: Fault) -> Refusal {
        Refusal::Fault(self.health.note(fault))
    }

    async fn roll_back(&mut self) {
        // Some errors have ended the transaction already, and then there is nothing to roll back. If it fails
        // otherwise the next BEGIN fails too: nothing is written into half a transaction.
        let _ = command(&mut self.connection, "ROLLBACK").await;
    }
}

/// Why a whole transaction came to nothing.
enum Refusal {
    Fault(Fault),
    Unknown,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Refusal {
    fn error(&self) -> LedgerError {
        match self {
            Self::Fault(fault) => fault.clone().into(),
            Self::Unknown => LedgerError::OutcomeUnknown,
        }
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.submissions.is_empty() && self.records.is_empty() && self.others.is_empty()
    }

    /// About how many rows are written.
    fn rows(&self) -> usize {
        self.changed + self.submissions.iter().map(|it| it.submission.jobs.len()).sum::<usize>()
    }

    fn take(&mut self, change: Change) {
        self.changed += change.rows();
        match change {
            Change::Record(recording) => self.records.push(recording),
            Change::Other(other, _) => self.others.push(other),
        }
    }

    /// Fails only where the whole transaction cannot go on.
    async fn write(&mut self, tx: &mut Tx<'_>) -> Result<Written, Fault> {
        for other in &mut self.others {
            savepoint(tx).await?;
            if let Err(fault) = other.run(tx).await {
                undo(tx, fault).await?; // `other` has kept it
            }
            release(tx).await?;
        }
        let records = record::write_all(tx, &self.records).await?;
        let submissions = submit::write_all(tx, &self.submissions).await?;
        Ok(Written { submissions, records })
    }

    fn answer(self, written: Written) {
        for other in self.others {
            other.answer(Ok(()));
        }
        for (recording, result) in self.records.into_iter().zip(written.records) {
            let _ = recording.reply.send(result.map_err(LedgerError::from));
        }
        for (submitting, result) in self.submissions.into_iter().zip(written.submissions) {
            let _ = submitting.reply.send(result.map_err(LedgerError::from));
        }
    }

    fn refuse(self, refusal: Refusal) {
        for other in self.others {
            other.answer(Err(refusal.error()));
        }
        for recording in self.records {
            let _ = recording.reply.send(Err(refusal.error()));
        }
        for submitting in self.submissions {
            let _ = submitting.reply.send(Err(refusal.error()));
        }
    }
}

async fn command(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), Fault> {
    execute(connection, sql, Args::default()).await?;
    Ok(())
}

/// Marks a point to which [`undo`] goes back. They don't nest deeper than one in another.
pub(super) async fn savepoint(tx: &mut Tx<'_>) -> Result<(), Fault> {
    command(tx.connection, "SAVEPOINT alone").await
}

/// Forgets the latest point.
pub(super) async fn release(tx: &mut Tx<'_>) -> Result<(), Fault> {
    command(tx.connection, "RELEASE alone").await
}

/// Goes back to the latest point, which stays, after an error that the rest of the transaction can live with.
///
/// # Errors
/// The error itself, where it cannot.
pub(super) async fn undo(tx: &mut Tx<'_>, fault: Fault) -> Result<(), Fault> {
    if !fault.is_alone() {
        return Err(fault);
    }
    roll_back(tx).await
}

/// Goes back to the latest point, which stays.
pub(super) async fn roll_back(tx: &mut Tx<'_>) -> Result<(), Fault> {
    tx.queues.forget();
    tx.limited.forget();
    command(tx.connection, "ROLLBACK TO alone").await
}
