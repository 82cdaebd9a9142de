//! The ledger on PostgreSQL.
//!
//! Submissions go through [`writer`]s (group commit) or, where they ask for more, through a transaction of
//! their [`own`]. Outcomes are one statement per batch ([`record`]). Reads and rare writes use a pool. Every
//! write runs in a task of its own, which no caller can cancel.

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgPool};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::runs::RecordReply;
use super::*;
use crate::limits::WRITE_ROWS_MAX;
use crate::model::id::LedgerId;
use crate::model::job::OnConflict;
use crate::model::shaping::Series;

pub(in crate::ledger) mod backup;
mod bounds;
mod connect;
mod error;
mod row;
mod schedules;
mod schema;
pub(in crate::ledger) mod wal;

mod insert;
mod own;
mod own_rows;
mod own_shaping;
mod series;
mod unknown;
mod upkeep;
mod write_queue;
mod writer;

mod alerts;
mod attempts;
mod jobs;
mod orders;
mod record;
mod run_calls;
mod runs;

mod change;
mod forget;
mod gates;

mod backups;
mod blobs;
mod checkpoints;
mod circuits;
mod definitions;
mod duties;
mod keys;
mod load_checks;
mod load_results;
mod logs;
mod news;
mod operations;
mod progress;
mod queues;
mod quotas;
mod rollups;
mod workers;

mod prune;

/// Pause between two makings of partitions.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3600);
/// Longest wait for writes under way when the ledger is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The ledger on PostgreSQL.
pub struct Postgres {
    inner: Arc<Inner>,
    stop: CancellationToken,
}

/// What calls and tasks share.
struct Inner {
    /// As it was when the ledger was opened.
    id: LedgerId,
    options: PgConnectOptions,
    /// For reads and rare writes.
    pool: PgPool,
    /// For outcomes and housekeeping.
    bulk: PgPool,
    /// For submissions with a transaction of their own: however long these wait for each other's locks, outcomes
    /// are recorded.
    own: PgPool,
    /// See [`bounds::SILENCE_MAX`].
    silence: Duration,
    news: news::News,
    queue: write_queue::WriteQueue,
    known_queues: queues::KnownQueues,
    limited: quotas::Limited,
    tasks: TaskTracker,
}

impl Inner {
    /// Gives a submission to whoever commits it.
    fn hand_over(self: &Arc<Self>, pending: write_queue::Pending) {
        if !pending.closed.is_empty() || needs_own_transaction(&pending.submission) {
            own::spawn(self, pending);
        } else {
            self.queue.push(pending);
        }
    }

    /// As [`Self::hand_over`], for a submission with queues that may not exist yet.
    async fn look_at_queues(self: &Arc<Self>, mut pending: write_queue::Pending) {
        let looking = queues::closed_to(self, &pending.submission);
        match bounds::read(self.silence, looking).await {
            Ok(closed) => {
                pending.closed = closed;
                self.hand_over(pending);
            }
            Err(error) => pending.answer(Err(error)),
        }
    }
}

impl Drop for Postgres {
    /// The writers finish what waits, and end.
    fn drop(&mut self) {
        self.inner.queue.close();
        self.stop.cancel();
    }
}

/// Ledger time.
async fn now(pool: &PgPool) -> Result<Timestamp> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let micros = sqlx::query_scalar(sql).fetch_one(pool).await.map_err(error::unchanged)?;
    Ok(Timestamp::from_micros(micros))
}

async fn keep_partitions(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PARTITIONS_EVERY) => {}
        }
        // Without them jobs go to the default partition; the next hour tries again.
        let making = prune::ensure_partitions(&inner.pool);
        if let Err(error) = bounds::write(inner.silence, making).await {
            tracing::warn!(%error, "the ledger's partitions could not be made");
        }
    }
}

/// Whether a submission cannot be merged with others: it is large, all or nothing, or its rows need looking
/// at one by one.
fn needs_own_transaction(submission: &Submission) -> bool {
    submission.jobs.len() > WRITE_ROWS_MAX
        || submission.atomic && submission.jobs.len() > 1
        || submission.jobs.iter().any(|job| {
            let replaces = |u: &crate::model::job::Unique| u.on_conflict == OnConflict::Replace;
            unfit_text(job).is_some()
                || job.shaping.is_some()
                || job.unique.as_ref().is_some_and(replaces)
                || job.unique.is_some() && submission.idempotency.is_some()
        })
}

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn open(settings: &crate::config::LedgerSettings) -> Result<Self> {
        Self::open_with_silence(settings, bounds::SILENCE_MAX).await
    }

    /// As [`Self::open`], where a server that is silent for `silence` is taken for lost. For tests: it must be above
    /// the server's own limit for a statement (5 s), or slow statements are given up.
    pub async fn open_with_silence(
        settings: &crate::config::LedgerSettings,
        silence: Duration,
    ) -> Result<Self> {
        let options = connect::options(settings)?;
        let id = bounds::read(bounds::SILENCE_MAX, async {
            let mut connection = connect::connect(&options).await.map_err(error::unchanged)?;
            connect::check_fitness(&mut connection).await?;
            schema::check(&mut connection).await?;
            let id = gates::ledger_id(&mut connection).await?;
            // Failing to say goodbye changes nothing.
            let _ = connection.close().await;
            Ok(id)
        })
        .await?;
        let writers = usize::try_from(settings.writers.max(1)).unwrap_or(usize::MAX);
        let inner = Arc::new(Inner {
            id,
            pool: connect::pool(&options, settings.pool_max.max(1), id),
            bulk: connect::bulk_pool(&options, id),
            own: connect::bulk_pool(&options, id),
            silence,
            news: news::News::default(),
            options,
            queue: write_queue::WriteQueue::new(writers),
            known_queues: queues::KnownQueues::default(),
            limited: quotas::Limited::default(),
            tasks: TaskTracker::new(),
        });
        bounds::write(silence, prune::ensure_partitions(&inner.pool)).await?;
        let stop = CancellationToken::new();
        for _ in 0..writers {
            inner.tasks.spawn(writer::keep(Arc::clone(&inner)));
        }
        inner.tasks.spawn(keep_partitions(Arc::clone(&inner), stop.clone()));
        Ok(Self { inner, stop })
    }

    pub async fn migrate(settings: &crate::config::LedgerSettings) -> Result<Vec<MigrationStatus>> {
        schema::migrate(&connect::options(settings)?).await
    }

    pub async fn migration_status(
        settings: &crate::config::LedgerSettings,
    ) -> Result<Vec<MigrationStatus>> {
        let options = connect::options(settings)?;
        bounds::read(bounds::SILENCE_MAX, async {
            let mut connection = connect::connect(&options).await.map_err(error::unchanged)?;
            schema::status(&mut connection).await
        })
        .await
    }

    pub async fn close(&self) {
        self.inner.queue.close();
        self.stop.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, self.inner.tasks.wait()).await.is_err() {
            tracing::error!("writes of the ledger were still under way when it was closed");
        }
        let pools = [&self.inner.pool, &self.inner.bulk, &self.inner.own];
        let closing = futures::future::join_all(pools.map(|pool| pool.close()));
        // A server that is gone does not answer goodbyes either.
        let _ = tokio::time::timeout(self.inner.silence, closing).await;
    }

    #[cfg(feature = "testkit")]
    pub async fn tamper(&self, sql: String) -> Result<()> {
        let query = sqlx::query(sqlx::AssertSqlSafe(sql));
        query.execute(&self.inner.pool).await.map_err(error::unchanged)?;
        Ok(())
    }

    pub fn new_queues(&self) -> NewQueues {
        self.inner.news.listen(&self.inner.options, &self.stop, &self.inner.tasks)
    }

    /// Runs a read on a pool, within bounds.
    async fn read<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        bounds::read(self.inner.silence, call).await
    }

    /// Runs a write in a task of its own, within bounds: dropping the caller's future drops only the waiting.
    async fn detached<T, F, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        W: FnOnce(Arc<Inner>) -> F,
    {
        self.detached_for(self.inner.silence, work).await
    }

    async fn detached_for<T, F, W>(&self, most: Duration, work: W) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        W: FnOnce(Arc<Inner>) -> F,
    {
        let task = self.inner.tasks.spawn(bounds::write(most, work(Arc::clone(&self.inner))));
        match task.await {
            Ok(result) => result,
            Err(panic) => Err(LedgerError::Failed(panic.into())),
        }
    }

    pub async fn submit(&self, submission: Submission) -> Result<SubmitOutcome> {
        if submission.jobs.is_empty() {
            return Ok(SubmitOutcome::Done(Vec::new()));
        }
        let (pending, answer) = self.inner.queue.admit(submission)?;
        let inner = Arc::clone(&self.inner);
        if inner.limited.is_fresh() && inner.known_queues.has_all_of(&pending.submission) {
            inner.hand_over(pending);
        } else {
            // Whoever waits may go: the submission is carried out all the same.
            self.inner.tasks.spawn(async move {
                inner.limited.refresh(&inner.pool, inner.silence).await;
                inner.look_at_queues(pending).await;
            });
        }
        // Only a task that panicked answers nothing.
        answer.await.unwrap_or(Err(LedgerError::OutcomeUnknown))
    }

    pub async fn shut_due(&self, limit: u32) -> Result<Vec<Job>> {
        self.detached(move |inner| async move { series::shut_due(&inner.bulk, limit).await }).await
    }

    pub async fn shut(&self, job: JobId) -> Result<Option<Job>> {
        self.detached(move |inner| async move { series::shut(&inner.bulk, job).await }).await
    }

    pub async fn series(&self, job: JobId) -> Result<Option<Series>> {
        self.read(series::series(&self.inner.pool, job)).await
    }

    pub async fn job(&self, namespace: &Namespace, id: JobId) -> Result<Option<Job>> {
        self.read(jobs::job(&self.inner.pool, namespace, id)).await
    }

    pub async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        self.read(jobs::jobs(&self.inner.pool, ids)).await
    }

    pub async fn on_record(&self, namespace: &Namespace, ids: &[JobId]) -> Result<Vec<JobId>> {
        self.read(jobs::on_record(&self.inner.pool, namespace, ids)).await
    }

    pub async fn terminal_among(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        self.read(jobs::terminal_among(&self.inner.pool, ids)).await
    }

    pub async fn list(
        &self,
        namespace: &Namespace,
        filter: &JobFilter,
        before: Option<JobId>,
        limit: u32,
    ) -> Result<JobPage> {
        self.read(jobs::list(&self.inner.pool, namespace, filter, before, limit)).await
    }

    pub async fn attempts(&self, namespace: &Namespace, id: JobId) -> Result<Option<Vec<Attempt>>> {
        self.read(attempts::attempts(&self.inner.pool, namespace, id)).await
    }

    pub async fn record(&self, records: Vec<Record>) -> Result<RecordReply> {
        let noted = self
            .detached(|inner| async move { record::record(&inner.bulk, records).await })
            .await?;
        Ok(self.followed(noted).await)
    }

    pub async fn record_within(
        &self,
        records: Vec<Record>,
        generations: Vec<(ShardId, u64)>,
    ) -> Result<Option<RecordReply>> {
        let write = self.detached(|inner| async move {
            record::record_within(&inner.bulk, records, generations).await
        });
        match write.await? {
            Some(noted) => Ok(Some(self.followed(noted).await)),
            None => Ok(None),
        }
    }

    async fn followed(&self, noted: record::Noted) -> RecordReply {
        RecordReply {
            replies: noted.replies,
            released: runs::read_back(&self.inner, &noted.released).await,
            due: noted.due.into_iter().map(WorkflowId::from_uuid).collect(),
        }
    }

    pub async fn record_running(&self, running: Vec<RecordRunning>) -> Result<()> {
        self.detached(|inner| async move { record::record_running(&inner.bulk, running).await })
            .await
    }

    pub async fn waiting(
        &self,
        namespace: &Namespace,
        queue: &QueueName,
        at_most: u64,
    ) -> Result<u64> {
        self.read(jobs::waiting(&self.inner.pool, namespace, queue, at_most)).await
    }

    pub async fn unfinished(&self, wanted: Unfinished<'_>) -> Result<JobPage> {
        self.read(jobs::unfinished(&self.inner.pool, wanted)).await
    }

    pub async fn cancel(
        &self,
        namespace: &Namespace,
        id: JobId,
        seen: Option<Guard<'_>>,
        running: bool,
        reason: &str,
    ) -> Result<Changed<Job>> {
        let (namespace, reason) = (namespace.clone(), reason.to_owned());
        let seen = seen.map(|seen| (seen.fence, seen.queue.clone()));
        self.detached(move |inner| async move {
            let seen = seen.as_ref().map(|(fence, queue)| Guard { fence: *fence, queue });
            change::cancel(&inner.pool, (&namespace, id), seen, running, &reason).await
        })
        .await
    }

    pub async fn redrive(&self, namespace: &Namespace, id: JobId) -> Result<Changed<Job>> {
        let namespace = namespace.clone();
        self.detached(
            move |inner| async move { change::redrive(&inner.pool, &namespace, id).await },
        )
        .await
    }

    pub async fn patch(
        &self,
        namespace: &Namespace,
        id: JobId,
        seen: Option<Guard<'_>>,
        patch: &JobPatch,
    ) -> Result<Changed<Job>> {
        let (namespace, patch) = (namespace.clone(), patch.clone());
        let seen = seen.map(|seen| (seen.fence, seen.queue.clone()));
        self.detached(move |inner| async move {
            let seen = seen.as_ref().map(|(fence, queue)| Guard { fence: *fence, queue });
            change::patch(&inner.pool, (&namespace, id), seen, &patch).await
        })
        .await
    }

    pub async fn delete(&self, namespace: &Namespace, id: JobId) -> Result<Changed<()>> {
        let namespace = namespace.clone();
        self.detached(move |inner| async move { change::delete(&inner.bulk, &namespace, id).await })
            .await
    }

    pub async fn queue(&self, namespace: &Namespace, name: &QueueName) -> Result<Option<Queue>> {
        self.read(queues::queue(&self.inner.pool, namespace, name)).await
    }

    pub async fn queue_page(
        &self,
        namespace: Option<&Namespace>,
        after: Option<&QueueCursor>,
        limit: u32,
    ) -> Result<QueuePage> {
        self.read(queues::page(&self.inner.pool, namespace, after, limit)).await
    }

    pub async fn set_queue(
        &self,
        namespace: &Namespace,
        name: &QueueName,
        seen: Option<u64>,
        settings: &QueueSettings,
    ) -> Result<Option<Queue>> {
        let (namespace, name, settings) = (namespace.clone(), name.clone(), settings.clone());
        self.detached(move |inner| async move {
            queues::set_queue(&inner.pool, &namespace, &name, seen, &settings).await
        })
        .await
    }

    pub async fn set_paused(
        &self,
        namespace: &Namespace,
        name: &QueueName,
        paused: Option<&Paused>,
    ) -> Result<Queue> {
        let (namespace, name, paused) = (namespace.clone(), name.clone(), paused.cloned());
        self.detached(move |inner| async move {
            queues::set_paused(&inner.pool, &namespace, &name, paused.as_ref()).await
        })
        .await
    }

    pub async fn rollups(&self, namespace: &Namespace, since: Timestamp) -> Result<Vec<Rollup>> {
        self.read(rollups::rollups(&self.inner.pool, namespace, since)).await
    }

    pub async fn queue_minutes(
        &self,
        namespace: &Namespace,
        queue: &QueueName,
    ) -> Result<(Vec<QueueMinute>, Timestamp)> {
        self.read(rollups::of_queue(&self.inner.pool, namespace, queue)).await
    }

    pub async fn append_all_logs(
        &self,
        namespace: &Namespace,
        logs: Vec<JobLines>,
    ) -> Result<Vec<JobId>> {
        let namespace = namespace.clone();
        self.detached(move |inner| async move { logs::append(&inner.pool, &namespace, logs).await })
            .await
    }

    pub async fn logs(
        &self,
        namespace: &Namespace,
        id: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Option<Vec<LogLine>>> {
        self.read(logs::logs(&self.inner.pool, namespace, id, after, limit)).await
    }

    pub async fn set_all_progress(
        &self,
        namespace: &Namespace,
        progress: Vec<JobProgress>,
    ) -> Result<()> {
        let namespace = namespace.clone();
        self.detached(
            move |inner| async move { progress::set(&inner.pool, &namespace, progress).await },
        )
        .await
    }

    pub async fn beat(&self, beat: &WorkerBeat) -> Result<bool> {
        let beat = beat.clone();
        self.detached(move |inner| async move { workers::beat(&inner.pool, &beat).await }).await
    }

    pub async fn workers(
        &self,
        namespace: &Namespace,
        within: Duration,
    ) -> Result<Vec<WorkerBeat>> {
        self.read(workers::workers(&self.inner.pool, namespace, within)).await
    }

    pub async fn drain_worker(&self, namespace: &Namespace, id: WorkerId) -> Result<bool> {
        let namespace = namespace.clone();
        self.detached(move |inner| async move { workers::drain(&inner.pool, &namespace, id).await })
            .await
    }

    pub async fn put_blob(&self, namespace: &Namespace, id: BlobId, bytes: Bytes) -> Result<()> {
        let namespace = namespace.clone();
        self.detached(
            move |inner| async move { blobs::put(&inner.pool, &namespace, id, &bytes).await },
        )
        .await
    }

    pub async fn blob(&self, namespace: &Namespace, id: BlobId) -> Result<Option<Bytes>> {
        self.read(blobs::blob(&self.inner.pool, namespace, id)).await
    }

    pub async fn create_key(&self, key: &ApiKey) -> Result<()> {
        let key = key.clone();
        self.detached(move |inner| async move { keys::create(&inner.pool, &key).await }).await
    }

    pub async fn key(&self, public: &str) -> Result<Option<ApiKey>> {
        self.read(keys::key(&self.inner.pool, public)).await
    }

    pub async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.read(keys::keys(&self.inner.pool)).await
    }

    pub async fn revoke_key(&self, id: KeyId) -> Result<bool> {
        self.detached(move |inner| async move { keys::revoke(&inner.pool, id).await }).await
    }

    pub async fn put_operation(&self, operation: &Operation) -> Result<()> {
        let operation = operation.clone();
        self.detached(move |inner| async move { operations::put(&inner.pool, &operation).await })
            .await
    }

    pub async fn fail_silent_operations(
        &self,
        lead: Option<Epoch>,
        silent_since: Timestamp,
    ) -> Result<u64> {
        self.detached(move |inner| async move {
            operations::fail_silent(&inner.pool, lead, silent_since).await
        })
        .await
    }

    pub async fn operation(
        &self,
        namespace: &Namespace,
        id: OperationId,
    ) -> Result<Option<Operation>> {
        self.read(operations::operation(&self.inner.pool, namespace, id)).await
    }

    pub async fn prune(
        &self,
        lead: Option<Epoch>,
        tidy: retention::Tidy,
        limit: u32,
    ) -> Result<u64> {
        self.detached_for(self.inner.silence * bounds::LONG, move |inner| async move {
            prune::prune(&inner.bulk, lead, tidy, limit).await
        })
        .await
    }

    pub async fn prune_runs(
        &self,
        lead: Option<Epoch>,
        aged: &retention::AgedRuns,
        after: Option<retention::RunPlace>,
        limit: u32,
    ) -> Result<Option<retention::Pruned<retention::RunPlace>>> {
        let aged = aged.clone();
        self.detached_for(self.inner.silence * bounds::LONG, move |inner| async move {
            runs::prune(&inner.bulk, lead, &aged, after, limit).await
        })
        .await
    }

    pub async fn prune_jobs(
        &self,
        lead: Option<Epoch>,
        aged: &retention::Aged,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Option<retention::Pruned<JobId>>> {
        let aged = aged.clone();
        self.detached(move |inner| async move {
            prune::prune_jobs(&inner.bulk, lead, &aged, after, limit).await
        })
        .await
    }

    pub async fn now(&self) -> Result<Timestamp> {
        self.read(now(&self.inner.pool)).await
    }
}
