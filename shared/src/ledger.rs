//! The ledger: the SQL record of every job. The only part of Windlass that promises anything:
//! existence, terminal state, attempts, the highest fence, uniqueness, idempotency, settings.
//!
//! One contract, two implementations ([`postgres`], [`sqlite`]), one executable suite
//! (`testkit::ledger_suite`). `sqlx` is named nowhere else.
//!
//! Rules that every write keeps:
//! * A submission or an outcome is committed before anybody hears of it.
//! * Writes run in tasks that no caller can cancel: dropping the future drops only the waiting.
//! * Each hot write is one auto-commit statement that names the state it expects and reports what matched.
//! * One bad row never fails its neighbours.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::engine::{BoxError, Ended, ShardId};
use crate::model::id::{BlobId, Fence, JobId, KeyId, OperationId, WorkerId, WorkflowId};
use crate::model::job::{Attempt, Job, JobError, JobState, NewJob, Priority, Progress, Value};
use crate::model::name::{Kind, Namespace, QueueName};
use crate::model::shaping::Shaping;
use crate::model::time::Timestamp;

mod alert_calls;
pub mod alerts;
pub mod backup;
pub mod backups;
pub mod circuits;
pub mod duties;
mod gate_calls;
mod load_check_calls;
pub mod load_checks;
pub mod load_results;
mod order_calls;
pub mod orders;
pub mod postgres;
mod pulse;
mod queue;
mod queue_walk;
pub mod quotas;
pub mod retention;
mod run_calls;
pub mod runs;
mod schedule_calls;
pub mod schedules;
mod settings_text;
pub mod shaping;
pub mod sqlite;
mod turns;
mod unfinished;
mod unreadable;
pub mod upkeep;
pub mod wal;

pub use gate_calls::{Epoch, Leader, ShardRecord, TERM_MAX};
pub use queue::{
    KindLimits, Paused, Queue, QueueSettings, RateLimit, RetryBudgetSettings, WEIGHTS_MAX,
};
pub use queue_walk::{NewQueues, QueueCursor, QueuePage, QueueWalk};
pub use unfinished::{Groups, Unfinished, WALK_WINDOW};

/// Jobs submitted together.
#[derive(Debug, Clone)]
pub struct Submission {
    /// All of one namespace. At most [`crate::limits::BATCH_JOBS_MAX`].
    pub jobs: Vec<NewJob>,
    /// All or nothing.
    pub atomic: bool,
    /// The caller's `Idempotency-Key`, where there is one.
    pub idempotency: Option<Idempotency>,
}

/// A caller's key: the same key with the same body returns the first answer again. A submission of which
/// nothing was accepted spends no key: its repeat is tried afresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's text, at most [`crate::limits::KEY_BYTES_MAX`].
    pub key: String,
    /// SHA-256 over method, path and body.
    pub body_hash: [u8; 32],
}

/// What became of a [`Submission`].
#[derive(Debug)]
pub enum SubmitOutcome {
    /// Committed, or refused, job by job; in order.
    Done(Vec<Result<Accepted, Refused>>),
    /// The key was used before with the same body: the jobs accepted then, in order (`None`: refused then
    /// or forgotten since).
    Replayed(Vec<Option<JobId>>),
    /// The key was used before with another body.
    KeyReused,
    /// A quota of the namespace has no room for it. Nothing of it is there, and its key is not spent.
    OverQuota(quotas::Exceeded),
}

/// A job that is durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// The new job.
    New(Job),
    /// `on_conflict: return_existing`: the holder of the unique key.
    Existing(JobId),
    /// `on_conflict: replace`: the new job, and the waiting holder that was cancelled for it.
    Replaced(Job, JobId),
    /// `debounce`: it stands for its series now.
    Debounced(shaping::Debounced),
    /// `collect`: it is an item of a job.
    Collected(shaping::Collected),
}

impl Accepted {
    /// The job that the submission is, or is part of.
    pub fn id(&self) -> JobId {
        match self {
            Self::New(job) | Self::Replaced(job, _) => job.id,
            Self::Existing(id) => *id,
            Self::Debounced(debounced) => debounced.job.id,
            Self::Collected(collected) => collected.job,
        }
    }

    /// The state of [`Self::id`] after the submission; `None`: of a job that was there before, which may be in any.
    pub fn state(&self) -> Option<JobState> {
        match self {
            Self::New(job) | Self::Replaced(job, _) => Some(job.state),
            Self::Debounced(debounced) => Some(debounced.job.state),
            Self::Collected(collected) => Some(collected.state()),
            Self::Existing(_) => None,
        }
    }

    /// As [`Self::id`], where the job was made for this submission.
    pub fn new_id(&self) -> Option<JobId> {
        match self {
            Self::Existing(_) => None,
            Self::Collected(collected) => collected.opened.then_some(collected.job),
            Self::New(_) | Self::Replaced(..) | Self::Debounced(_) => Some(self.id()),
        }
    }

    /// The job that was cancelled for it, and never runs.
    pub fn replaced(&self) -> Option<JobId> {
        match self {
            Self::Replaced(_, old) => Some(*old),
            Self::Debounced(debounced) => debounced.superseded,
            Self::New(_) | Self::Existing(_) | Self::Collected(_) => None,
        }
    }

    /// Whether it brought something in: a job, or an item of one.
    pub fn brings_in(&self) -> bool {
        !matches!(self, Self::Existing(_))
    }

    /// The jobs that may run from now on.
    pub fn ready(&self) -> &[Job] {
        match self {
            Self::New(job) | Self::Replaced(job, _) => std::slice::from_ref(job),
            Self::Existing(_) => &[],
            Self::Debounced(debounced) => &debounced.shut,
            Self::Collected(collected) => &collected.shut,
        }
    }
}

/// Why one job of a submission was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Another job holds the unique key.
    UniqueKeyHeld {
        /// Who.
        holder: JobId,
    },
    /// `throttle`: as many as allowed were accepted.
    Throttled {
        /// The latest that was.
        last: JobId,
        /// After this long the next one would be, if nobody came before.
        wait: Duration,
    },
    /// The database does not take this row's data.
    BadData(String),
    /// Another job of the same atomic submission was refused.
    Batch,
    /// Its queue does not exist, and the namespace has [`crate::limits::QUEUES_PER_NAMESPACE_MAX`] already.
    TooManyQueues,
    /// Others of its submission are committed; this one could not be, and nothing of it is there. Submit it
    /// again.
    Unavailable,
    /// Others of its submission are committed; whether this one is could not be found out.
    OutcomeUnknown,
}

/// An outcome on its way into the ledger.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whose.
    pub namespace: Namespace,
    /// Which job.
    pub id: JobId,
    /// The lease that ended.
    pub fence: Fence,
    /// How.
    pub ended: Ended,
    /// When (engine time).
    pub at: Timestamp,
    /// Start of the attempt (engine time).
    pub claimed_at: Option<Timestamp>,
    /// Attempts that counted, this one included.
    pub attempt: u32,
    /// Leases lost, this one included.
    pub crashes: u32,
    /// `name (id)` of the worker.
    pub worker: Option<String>,
    /// What the handler returned.
    pub output: Option<Value>,
    /// Why it did not succeed.
    pub error: Option<JobError>,
    /// It was the time limit.
    pub timed_out: bool,
    /// What it used, as JSON.
    pub usage: Option<Bytes>,
}

/// What became of one [`Record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The job's state moved.
    Applied,
    /// The job is terminal, or has a higher fence on record, or this very outcome is: nothing changed.
    Stale,
    /// No such job.
    Unknown,
}

/// A lease that has lasted, on its way into the ledger.
#[derive(Debug, Clone)]
pub struct RecordRunning {
    /// Which job.
    pub id: JobId,
    /// The lease's number.
    pub fence: Fence,
    /// The attempt's number, this one included.
    pub attempt: u32,
    /// Start (engine time).
    pub claimed_at: Timestamp,
    /// Worker's id as text.
    pub worker: String,
}

/// Which jobs a list or a bulk action means. Empty fields don't filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// In any of these states.
    pub states: Vec<JobState>,
    /// In this queue.
    pub queue: Option<QueueName>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// With all of these tags.
    pub tags: Vec<String>,
    /// Steps of this run.
    pub workflow_id: Option<WorkflowId>,
    /// Accepted at or after.
    pub created_after: Option<Timestamp>,
    /// Accepted before.
    pub created_before: Option<Timestamp>,
    /// Text in kind, tags or error; case-insensitive; `%` and `_` mean themselves.
    pub text: Option<String>,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPage {
    /// At most the asked number; may be fewer, or none, although more follow: a page looks at a bounded
    /// range of ids, and passes over rows that this build cannot read.
    pub jobs: Vec<Job>,
    /// Where the next page starts (exclusive); `None` at the end.
    pub next: Option<JobId>,
}

/// Changes to a job that is neither finished nor running.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobPatch {
    /// New place.
    pub priority: Option<Priority>,
    /// New time.
    pub run_at: Option<Timestamp>,
    /// New queue.
    pub queue: Option<QueueName>,
    /// New bound.
    pub max_attempts: Option<u32>,
    /// New tags.
    pub tags: Option<Vec<String>>,
}

/// What became of a change to one job. `T` is what it yields.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed<T> {
    /// Done.
    Done(T),
    /// The job's recorded state does not allow it. Of a guarded change also: the job is not (any more) what the
    /// caller saw; the state is then one that would allow it, and the caller looks again.
    Refused(JobState),
    /// No such job in the namespace.
    Unknown,
}

/// A job as a caller saw it: the guard of a change that rests on what the engine said about exactly this.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    /// Its fence on record.
    pub fence: Fence,
    /// Its queue.
    pub queue: &'a QueueName,
}

impl<'a> Guard<'a> {
    /// This form of the job and no other.
    pub fn of(job: &'a Job) -> Self {
        Self { fence: job.fence, queue: &job.queue }
    }
}

/// Lines for the log of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobLines {
    /// Whose.
    pub id: JobId,
    /// In order; their `seq` is given by the ledger.
    pub lines: Vec<LogLine>,
}

/// How far one job is.
#[derive(Debug, Clone, PartialEq)]
pub struct JobProgress {
    /// Which.
    pub id: JobId,
    /// The lease that says so.
    pub fence: Fence,
    /// What it says.
    pub progress: Progress,
}

/// What an API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Everything but keys.
    Operator,
    /// Submits, and reads and cancels jobs.
    Submitter,
    /// Claims, extends, settles and reports.
    Worker,
    /// Reads.
    Viewer,
}

/// An API key on record. The secret is not.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// The public part, by which it is found; unique.
    pub public: String,
    /// SHA-256 of the secret part.
    pub secret_hash: [u8; 32],
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where; `None` is everywhere.
    pub namespace: Option<Namespace>,
    /// Made at.
    pub created_at: Timestamp,
    /// Refused from then on.
    pub expires_at: Option<Timestamp>,
    /// Refused since.
    pub revoked_at: Option<Timestamp>,
}

/// One line that a handler wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// Its place in the job's log, from 1; given by the ledger.
    pub seq: u64,
    /// When (worker's time).
    pub at: Timestamp,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text, cut at [`crate::limits::LOG_LINE_BYTES_MAX`].
    pub message: String,
}

/// A worker process, as its beats say.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerBeat {
    /// Its id.
    pub id: WorkerId,
    /// Its label.
    pub name: String,
    /// Where it works.
    pub namespace: Namespace,
    /// On which host.
    pub host: String,
    /// Build version.
    pub version: String,
    /// Queues that it claims from.
    pub queues: Vec<String>,
    /// Kinds that it can run; empty is any.
    pub kinds: Vec<String>,
    /// Slots.
    pub concurrency: u32,
    /// Jobs running.
    pub running: u32,
    /// Asked to drain, by an operator.
    pub draining: bool,
    /// Process start.
    pub started_at: Timestamp,
    /// Ledger time of the latest beat; set by the ledger.
    pub seen_at: Timestamp,
}

/// A bulk action that runs in the background.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// Whose.
    pub namespace: Namespace,
    /// `retry`, `cancel`, `delete` or `purge`.
    pub action: String,
    /// `running`, `succeeded` or `failed`.
    pub state: String,
    /// Jobs that matched so far.
    pub matched: u64,
    /// Jobs changed so far.
    pub changed: u64,
    /// Why it failed.
    pub error: Option<String>,
    /// Started at.
    pub created_at: Timestamp,
    /// Ended at.
    pub finished_at: Option<Timestamp>,
}

/// Jobs that ended, by minute; written by the recorder in its own transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollup {
    /// Start of the minute.
    pub minute: Timestamp,
    /// Which queue.
    pub queue: QueueName,
    /// Which kind.
    pub kind: Kind,
    /// How the attempts ended; [`crate::model::job::AttemptOutcome`] as its wire word.
    pub outcome: String,
    /// How many.
    pub count: u64,
    /// Sum of their run times.
    pub run_ms: u64,
}

/// Attempts of one queue that ended in one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueMinute {
    /// Start of the minute.
    pub minute: Timestamp,
    /// How many.
    pub count: u64,
    /// Sum of their run times.
    pub run_ms: u64,
}

/// Starts of the minutes of the hour before that instant, its own included.
fn minutes_before(now: Timestamp) -> impl Iterator<Item = i64> {
    const MINUTE: i64 = 60_000_000;
    let present = now.micros().div_euclid(MINUTE);
    (present - 60..=present).map(|minute| minute * MINUTE)
}

/// Why the ledger could not carry out a call.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Not reached, or too slow. Nothing was changed by a read; of a write see [`Self::OutcomeUnknown`].
    #[error("ledger is unavailable")]
    Unavailable(#[source] BoxError),
    /// Too many submissions wait for a writer. Nothing was changed.
    #[error("ledger writers are overloaded")]
    Overloaded,
    /// The connection died after the statement was sent and the answer could not be found out in time.
    #[error("whether the write was committed is not known")]
    OutcomeUnknown,
    /// The call would make a queue, and the namespace has [`crate::limits::QUEUES_PER_NAMESPACE_MAX`] already.
    /// Nothing was changed.
    #[error("the namespace has too many queues")]
    TooManyQueues,
    /// The schema is older or newer than this build.
    #[error("{0}")]
    Schema(String),
    /// The address or its options are wrong, or the database is set to lose commits.
    #[error("{0}")]
    Unfit(String),
    /// The database answered with what this build does not understand, or refused a statement of ours.
    #[error("ledger failed")]
    Failed(#[source] BoxError),
}

/// The state of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Version and name.
    pub version: i64,
    /// What it does.
    pub name: String,
    /// When it was applied; `None`: not yet.
    pub applied: bool,
}

/// The one door to a ledger.
///
/// Its calls answer boxed futures, as those of [`crate::engine::Engine`] do: every crate that awaits an `async fn`
/// compiles its whole state machine again, drivers included, which was half of a release build.
#[derive(Clone)]
pub enum Ledger {
    /// PostgreSQL.
    Postgres(Arc<postgres::Postgres>),
    /// SQLite, in this process only.
    Sqlite(Arc<sqlite::Sqlite>),
    /// A simulated way to a ledger on SQLite.
    #[cfg(feature = "testkit")]
    Tapped(Arc<dyn crate::tap::LedgerTap>),
}

macro_rules! dispatch {
    ($self:ident, $call:ident ( $($arg:expr),* )) => {{
        let started = std::time::Instant::now();
        let result = match $self {
            Ledger::Postgres(ledger) => ledger.$call($($arg),*).await,
            Ledger::Sqlite(ledger) => ledger.$call($($arg),*).await,
            #[cfg(feature = "testkit")]
            Ledger::Tapped(tap) => match tap.before(stringify!($call)).await {
                Ok(()) => {
                    let mut answer = None;
                    tap.carry(Box::pin(async {
                        answer = Some(tap.ledger().$call($($arg),*).await);
                    }));
                    let result = answer.expect("a call is carried out to its end");
                    if let Err(error) = &result {
                        tap.failed(stringify!($call), error);
                    }
                    tap.after(stringify!($call)).await.and(result)
                }
                Err(error) => Err(error),
            },
        };
        crate::telemetry::ledger_call(stringify!($call), started, result.is_err());
        result
    }};
}

use dispatch;

type Result<T, E = LedgerError> = std::result::Result<T, E>;

impl Ledger {
    /// Connects to the ledger that `settings` names and checks that it keeps commits and that its schema is
    /// this build's.
    ///
    /// # Errors
    /// [`LedgerError::Unfit`], [`LedgerError::Schema`] (run `windlass migrate up`), [`LedgerError::Unavailable`].
    pub fn open<'a>(settings: &'a crate::config::LedgerSettings) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            if settings.is_sqlite() {
                Ok(Self::Sqlite(Arc::new(sqlite::Sqlite::open(settings).await?)))
            } else {
                Ok(Self::Postgres(Arc::new(postgres::Postgres::open(settings).await?)))
            }
        })
    }

    /// Applies the migrations that are missing; which. Takes the database's own lock, so that two callers
    /// don't collide.
    pub fn migrate<'a>(
        settings: &'a crate::config::LedgerSettings,
    ) -> BoxFuture<'a, Result<Vec<MigrationStatus>>> {
        Box::pin(async move {
            if settings.is_sqlite() {
                sqlite::Sqlite::migrate(settings).await
            } else {
                postgres::Postgres::migrate(settings).await
            }
        })
    }

    /// The state of every migration that this build knows, and of applied ones that it doesn't.
    pub fn migration_status<'a>(
        settings: &'a crate::config::LedgerSettings,
    ) -> BoxFuture<'a, Result<Vec<MigrationStatus>>> {
        Box::pin(async move {
            if settings.is_sqlite() {
                sqlite::Sqlite::migration_status(settings).await
            } else {
                postgres::Postgres::migration_status(settings).await
            }
        })
    }

    // Submission

    /// Commits jobs (group commit), then answers. Makes the queues that don't exist yet. Not cancelled by
    /// dropping; repeat only with an idempotency key.
    pub fn submit<'a>(&'a self, submission: Submission) -> BoxFuture<'a, Result<SubmitOutcome>> {
        Box::pin(async move { dispatch!(self, submit(submission)) })
    }

    // Reading

    /// One job of a namespace.
    pub fn job<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Option<Job>>> {
        Box::pin(async move { dispatch!(self, job(namespace, id)) })
    }

    /// Many jobs by id, of any namespace, in any order; missing ones are left out, and those that this build
    /// cannot read ([`Self::on_record`] tells them apart). At most 1,000.
    pub fn jobs<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Job>>> {
        Box::pin(async move { dispatch!(self, jobs(ids)) })
    }

    /// Those of these ids that a namespace has a job of, whether this build can read it or not. At most 1,000.
    pub fn on_record<'a>(
        &'a self,
        namespace: &'a Namespace,
        ids: &'a [JobId],
    ) -> BoxFuture<'a, Result<Vec<JobId>>> {
        Box::pin(async move { dispatch!(self, on_record(namespace, ids)) })
    }

    /// The terminal ones among these ids; for `wait`. At most 10,000.
    pub fn terminal_among<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<JobId>>> {
        Box::pin(async move { dispatch!(self, terminal_among(ids)) })
    }

    /// Jobs newest first, before `before` (exclusive).
    pub fn list<'a>(
        &'a self,
        namespace: &'a Namespace,
        filter: &'a JobFilter,
        before: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<JobPage>> {
        Box::pin(async move { dispatch!(self, list(namespace, filter, before, limit)) })
    }

    /// Attempts on record, oldest first; of very many the newest [`crate::limits::ATTEMPTS_SHOWN_MAX`]. A
    /// first-attempt success is on the job's row alone and is made up from it.
    pub fn attempts<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Option<Vec<Attempt>>>> {
        Box::pin(async move { dispatch!(self, attempts(namespace, id)) })
    }

    // Recording

    /// Commits outcomes in one transaction: guarded update of the job, a row per attempt that did not
    /// succeed at once, roll-ups, and what follows for workflow steps: a success of a step's one job ends the step, and
    /// the plain steps that wait for nothing more are released. One reply per record, in order. Safe to repeat.
    pub fn record<'a>(&'a self, records: Vec<Record>) -> BoxFuture<'a, Result<runs::RecordReply>> {
        Box::pin(async move { dispatch!(self, record(records)) })
    }

    /// As [`Self::record`], unless one of these shards has another generation by now: then nothing is written, and the
    /// answer is `None`. No verification of theirs begins before the commit. Safe to repeat.
    pub fn record_within<'a>(
        &'a self,
        records: Vec<Record>,
        generations: Vec<(ShardId, u64)>,
    ) -> BoxFuture<'a, Result<Option<runs::RecordReply>>> {
        Box::pin(async move { dispatch!(self, record_within(records, generations)) })
    }

    /// Notes jobs that have been running for a while. Stale ones are left alone. Safe to repeat.
    pub fn record_running<'a>(&'a self, running: Vec<RecordRunning>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, record_running(running)) })
    }

    /// Jobs of a queue that should be in the engine: not terminal, not blocked, due and unchanged as `wanted` says, in id
    /// order.
    pub fn unfinished<'a>(&'a self, wanted: Unfinished<'a>) -> BoxFuture<'a, Result<JobPage>> {
        Box::pin(async move { dispatch!(self, unfinished(wanted)) })
    }

    /// How many jobs of a queue wait or run, as recorded, those waiting for dependencies left out; counts no
    /// further than `at_most`, which bounds the cost.
    pub fn waiting<'a>(
        &'a self,
        namespace: &'a Namespace,
        queue: &'a QueueName,
        at_most: u64,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move { dispatch!(self, waiting(namespace, queue, at_most)) })
    }

    // Changing jobs

    /// Ends a job as cancelled that is not terminal, after the engine has said that it does not run there; with
    /// `running` it gets `cancel_requested` only, unless it is blocked in its order, where nobody runs it. The
    /// engine's word is about one form of the job: with `seen`, a job that has another fence or queue by now is left
    /// alone and its state returned as refused. A job that is blocked for its step's needs is its run's to end.
    pub fn cancel<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        seen: Option<Guard<'a>>,
        running: bool,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<Changed<Job>>> {
        Box::pin(async move { dispatch!(self, cancel(namespace, id, seen, running, reason)) })
    }

    /// Makes a dead, cancelled, expired or quarantined job ready again with a fresh budget and a higher
    /// fence; blocked where others of its order are before it. Refused while another job holds its unique key ([`JobState::Blocked`] is never the reason:
    /// the recorded state is returned).
    pub fn redrive<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Changed<Job>>> {
        Box::pin(async move { dispatch!(self, redrive(namespace, id)) })
    }

    /// Changes a job that is neither terminal nor running nor blocked, and raises its fence. `seen` as in
    /// [`Self::cancel`]. One with an order key keeps its queue: to move it is refused.
    pub fn patch<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        seen: Option<Guard<'a>>,
        patch: &'a JobPatch,
    ) -> BoxFuture<'a, Result<Changed<Job>>> {
        Box::pin(async move { dispatch!(self, patch(namespace, id, seen, patch)) })
    }

    /// Forgets a terminal job with its attempts and logs.
    pub fn delete<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Changed<()>>> {
        Box::pin(async move { dispatch!(self, delete(namespace, id)) })
    }

    // Queues

    /// One queue.
    pub fn queue<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a QueueName,
    ) -> BoxFuture<'a, Result<Option<Queue>>> {
        Box::pin(async move { dispatch!(self, queue(namespace, name)) })
    }

    /// Queues of a namespace, or of all, by namespace and name, from behind `after`.
    pub fn queue_page<'a>(
        &'a self,
        namespace: Option<&'a Namespace>,
        after: Option<&'a QueueCursor>,
        limit: u32,
    ) -> BoxFuture<'a, Result<QueuePage>> {
        Box::pin(async move { dispatch!(self, queue_page(namespace, after, limit)) })
    }

    /// A walk over every queue of a namespace, or of all, page by page.
    pub fn walk_queues(&self, namespace: Option<&Namespace>) -> QueueWalk<'_> {
        QueueWalk::new(self, namespace)
    }

    /// Every queue of a namespace, or of all, by namespace and name, in one list. Whoever works on queues in
    /// turn uses [`Self::walk_queues`].
    pub async fn queues(&self, namespace: Option<&Namespace>) -> Result<Vec<Queue>> {
        let (mut all, mut walk) = (Vec::new(), self.walk_queues(namespace));
        while let Some(mut queues) = walk.next().await? {
            all.append(&mut queues);
        }
        Ok(all)
    }

    /// Queues made from now on, by whomever. Hints: on PostgreSQL they need a connection of their own and may be
    /// lost with it, so whoever listens also looks.
    pub fn new_queues(&self) -> NewQueues {
        match self {
            Self::Postgres(ledger) => ledger.new_queues(),
            Self::Sqlite(ledger) => ledger.new_queues(),
            #[cfg(feature = "testkit")]
            Self::Tapped(tap) => tap.ledger().new_queues(),
        }
    }

    /// Replaces a queue's settings (making the queue if need be); the version rises. With `seen`, the version
    /// that they were made from (0: there was no queue), only where nobody changed it since; else `None`.
    pub fn set_queue<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a QueueName,
        seen: Option<u64>,
        settings: &'a QueueSettings,
    ) -> BoxFuture<'a, Result<Option<Queue>>> {
        Box::pin(async move { dispatch!(self, set_queue(namespace, name, seen, settings)) })
    }

    /// Pauses (`Some`) or resumes a queue, making it if need be; the version rises.
    pub fn set_paused<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a QueueName,
        paused: Option<&'a Paused>,
    ) -> BoxFuture<'a, Result<Queue>> {
        Box::pin(async move { dispatch!(self, set_paused(namespace, name, paused)) })
    }

    /// Roll-ups of a namespace from `since` on.
    pub fn rollups<'a>(
        &'a self,
        namespace: &'a Namespace,
        since: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Rollup>>> {
        Box::pin(async move { dispatch!(self, rollups(namespace, since)) })
    }

    /// Attempts of a queue that ended, by minute, of at most the last hour: start, how many, sum of their run times in
    /// milliseconds; oldest first. And the ledger's time. Costs the same however many jobs and queues there are.
    pub fn queue_minutes<'a>(
        &'a self,
        namespace: &'a Namespace,
        queue: &'a QueueName,
    ) -> BoxFuture<'a, Result<(Vec<QueueMinute>, Timestamp)>> {
        Box::pin(async move { dispatch!(self, queue_minutes(namespace, queue)) })
    }

    // What workers report

    /// Adds lines to a job's log, up to [`crate::limits::LOG_LINES_MAX`]; `false`: no such job.
    pub fn append_logs<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        lines: &'a [LogLine],
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let one = JobLines { id, lines: lines.to_vec() };
            Ok(!self.append_all_logs(namespace, vec![one]).await?.is_empty())
        })
    }

    /// As [`Self::append_logs`] for many jobs, each named once, in one write; those that exist.
    pub fn append_all_logs<'a>(
        &'a self,
        namespace: &'a Namespace,
        logs: Vec<JobLines>,
    ) -> BoxFuture<'a, Result<Vec<JobId>>> {
        Box::pin(async move { dispatch!(self, append_all_logs(namespace, logs)) })
    }

    /// A job's log after line `after`; `None`: no such job.
    pub fn logs<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        after: u64,
        limit: u32,
    ) -> BoxFuture<'a, Result<Option<Vec<LogLine>>>> {
        Box::pin(async move { dispatch!(self, logs(namespace, id, after, limit)) })
    }

    /// Notes a job's progress if `fence` is not older than the recorded one.
    pub fn set_progress<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        fence: Fence,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let one = JobProgress { id, fence, progress: progress.clone() };
            self.set_all_progress(namespace, vec![one]).await
        })
    }

    /// As [`Self::set_progress`] for many jobs in one write. Of a job that is named twice the highest fence
    /// counts, and of that the last word.
    pub fn set_all_progress<'a>(
        &'a self,
        namespace: &'a Namespace,
        progress: Vec<JobProgress>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, set_all_progress(namespace, progress)) })
    }

    /// Notes that a worker lives; whether an operator has asked it to drain.
    pub fn beat<'a>(&'a self, beat: &'a WorkerBeat) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, beat(beat)) })
    }

    /// Workers of a namespace seen within `within`.
    pub fn workers<'a>(
        &'a self,
        namespace: &'a Namespace,
        within: Duration,
    ) -> BoxFuture<'a, Result<Vec<WorkerBeat>>> {
        Box::pin(async move { dispatch!(self, workers(namespace, within)) })
    }

    /// Asks a worker to drain; `false`: no such worker.
    pub fn drain_worker<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: WorkerId,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, drain_worker(namespace, id)) })
    }

    // Large values

    /// Keeps a value; repeating with the same id changes nothing.
    pub fn put_blob<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: BlobId,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, put_blob(namespace, id, bytes)) })
    }

    /// A kept value.
    pub fn blob<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: BlobId,
    ) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(async move { dispatch!(self, blob(namespace, id)) })
    }

    // Keys

    /// Keeps a key.
    pub fn create_key<'a>(&'a self, key: &'a ApiKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, create_key(key)) })
    }

    /// Finds a key by its public part.
    pub fn key<'a>(&'a self, public: &'a str) -> BoxFuture<'a, Result<Option<ApiKey>>> {
        Box::pin(async move { dispatch!(self, key(public)) })
    }

    /// Every key, newest first. At most 10,000.
    pub fn keys<'a>(&'a self) -> BoxFuture<'a, Result<Vec<ApiKey>>> {
        Box::pin(async move { dispatch!(self, keys()) })
    }

    /// Refuses a key from now on; `false`: no such key, or refused already.
    pub fn revoke_key<'a>(&'a self, id: KeyId) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, revoke_key(id)) })
    }

    // Bulk operations

    /// Keeps or replaces an operation's state.
    pub fn put_operation<'a>(&'a self, operation: &'a Operation) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, put_operation(operation)) })
    }

    /// Ends operations as failed that say `running` and were put last before `silent_since` (ledger time): the
    /// process that ran them is gone. How many. Safe to repeat. `lead` as of [`Self::prune`].
    pub fn fail_silent_operations<'a>(
        &'a self,
        lead: Option<Epoch>,
        silent_since: Timestamp,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move { dispatch!(self, fail_silent_operations(lead, silent_since)) })
    }

    /// An operation of a namespace.
    pub fn operation<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: OperationId,
    ) -> BoxFuture<'a, Result<Option<Operation>>> {
        Box::pin(async move { dispatch!(self, operation(namespace, id)) })
    }

    // Keeping house

    /// Ledger time, and proof that it answers.
    pub fn now<'a>(&'a self) -> BoxFuture<'a, Result<Timestamp>> {
        Box::pin(async move { dispatch!(self, now()) })
    }

    /// Runs a statement of a test's own, for rows that the contract's calls do not write.
    #[cfg(feature = "testkit")]
    pub async fn tamper(&self, sql: String) -> Result<()> {
        match self {
            Self::Postgres(ledger) => ledger.tamper(sql).await,
            Self::Sqlite(ledger) => ledger.tamper(sql).await,
            Self::Tapped(tap) => tap.ledger().tamper(sql).await,
        }
    }

    /// As [`Self::tamper`]: sets columns of one job's row.
    #[cfg(feature = "testkit")]
    pub async fn tamper_job(&self, id: JobId, set: &str) -> Result<()> {
        let id = match self {
            Self::Postgres(_) => format!("'{id}'"),
            _ => format!("x'{}'", id.uuid().simple()),
        };
        self.tamper(format!("UPDATE jobs SET {set} WHERE id = {id}")).await
    }

    /// Finishes the writes under way and closes the connections. Later calls fail.
    pub fn close<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match self {
                Self::Postgres(ledger) => ledger.close().await,
                Self::Sqlite(ledger) => ledger.close().await,
                // One of many processes ends; the ledger goes on.
                #[cfg(feature = "testkit")]
                Self::Tapped(_) => {}
            }
        })
    }
}

/// The text of a job that no ledger takes, in words: PostgreSQL's text has no NUL, so neither ledger has.
fn unfit_text(job: &crate::model::job::NewJob) -> Option<&'static str> {
    let nul = |text: &str| text.contains('\0');
    if job.tags.iter().any(|t| nul(t)) {
        return Some("a tag contains a NUL character");
    }
    if job.unique.as_ref().is_some_and(|u| nul(&u.key)) {
        return Some("the unique key contains a NUL character");
    }
    if job.spec.order_key.as_deref().is_some_and(nul) {
        return Some("the order key contains a NUL character");
    }
    if job.shaping.as_ref().is_some_and(|shaping| nul(shaping.key())) {
        return Some("the key of debounce, throttle or collect contains a NUL character");
    }
    if matches!((job.shaping.as_deref(), &job.payload), (Some(Shaping::Collect(_)), Value::Blob(_)))
    {
        return Some("an item of a collection is carried whole, never by reference");
    }
    if job.spec.order_key.is_some()
        && matches!(job.shaping.as_deref(), Some(Shaping::Debounce(_) | Shaping::Collect(_)))
    {
        return Some("a job that is debounced or collects has no place in an order");
    }
    if job.request_id.as_deref().is_some_and(nul) || job.traceparent.as_deref().is_some_and(nul) {
        return Some("the request id or trace context contains a NUL character");
    }
    None
}

/// Why an operation is ended by [`Ledger::fail_silent_operations`].
const SILENT_OPERATION: &str = "made no progress: the process that ran it is gone; what was changed stays, start it again for the rest";

/// Text without NUL, for what is recorded rather than refused: an outcome must not be lost for its words.
fn fit_text(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// Which shard holds a job: the first of its queue, until queues are given more.
pub fn shard_of(job: &Job) -> ShardId {
    ShardId::first(job.namespace.clone(), job.queue.clone())
}
