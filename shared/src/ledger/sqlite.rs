//! The ledger on SQLite, for one process.
//!
//! One task writes ([`writer`]): it merges submissions, outcomes and everything else that is waiting into one
//! transaction, commits it with `synchronous=FULL`, and answers. A few connections read. A lock file beside the
//! database keeps every other process away, so the writer may look first and write then.
//!
//! A full disk fails writes until there is room again. An error of the disk or a damaged file ends acceptance
//! until the process is started anew ([`fault`]).

use std::sync::{Arc, Mutex};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqlitePool;

use super::quotas::Wishes;
use super::runs::RecordReply;
use super::*;
use crate::clock::Clock;
use crate::config::LedgerSettings;
use crate::model::id::LedgerId;
use crate::model::shaping::Series;

mod alerts;
pub(in crate::ledger) mod backup;
mod backups;
mod blobs;
mod change;
mod circuits;
mod connect;
mod duties;
mod fault;
mod gates;
mod holds;
mod jobs;
mod keys;
mod list;
mod load_checks;
mod load_results;
mod orders;
mod place;
mod plan;
mod prune;
mod queues;
mod quotas;
mod record;
mod reports;
mod run_calls;
mod runs;
mod schedules;
mod schema;
mod series;
mod shaping;
mod statement;
mod submit;
#[cfg(test)]
mod tests;
mod upkeep;
mod writer;

use fault::{Fault, Health};
use place::Place;
use writer::Writer;

/// The ledger on SQLite, for one process.
pub struct Sqlite {
    /// As it was when the ledger was opened.
    id: LedgerId,
    writer: Writer,
    readers: SqlitePool,
    place: Place,
    health: Arc<Health>,
    clock: Clock,
    wishes: Arc<Wishes>,
    /// How far values have been looked at whether somebody names them.
    values_at: Mutex<prune::ValuePlace>,
}

/// Reads with a connection of the pool, and notes what an error says about the file.
macro_rules! read {
    ($self:ident, $call:path $(, $arg:expr)*) => {{
        let mut connection = $self.reader().await?;
        let result = $call(&mut *connection $(, $arg)*).await;
        result.map_err(|fault: Fault| LedgerError::from($self.health.note(fault)))
    }};
}

use read;

/// Opening and closing.
impl Sqlite {
    /// Opens the database as its only process, and checks that it keeps commits and that its schema is this
    /// build's.
    ///
    /// # Errors
    /// [`LedgerError::Unfit`] when another process has it, [`LedgerError::Schema`],
    /// [`LedgerError::Unavailable`].
    pub async fn open(settings: &LedgerSettings) -> Result<Self> {
        let place = Place::of(settings)?;
        let lock = place.lock()?;
        let mut connection = connect::writer(place.file()).await?;
        schema::check(&mut connection).await?;
        let id = gates::ledger_id(&mut connection).await?;
        // A full disk refuses it, and must not keep what is stored from being read: the term ends by itself.
        if let Err(error) = gates::nobody_leads(&mut connection).await {
            tracing::warn!(?error, "the last leader's term is left to its end");
        }
        let readers = connect::readers(place.file(), settings.pool_max).await?;
        let health = Arc::new(Health::default());
        let clock = Clock::System;
        let limited = quotas::Limited::default();
        let wishes = limited.wishes();
        let writer = Writer::start(connection, lock, Arc::clone(&health), clock.clone(), limited);
        let values_at = Mutex::default();
        Ok(Self { id, writer, readers, place, health, clock, wishes, values_at })
    }

    /// Makes the database if there is none, and applies the migrations that are missing; which. Refused while
    /// a process has the database open.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn migrate(settings: &LedgerSettings) -> Result<Vec<MigrationStatus>> {
        let place = Place::of(settings)?;
        let _lock = place.lock()?;
        let mut connection = connect::writer(place.file()).await?;
        let applied = schema::migrate(&mut connection).await;
        sqlx::Connection::close(connection).await.map_err(Fault::from)?;
        applied
    }

    /// The state of every migration. Changes nothing, and may be asked while a process has the database.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`] when the file cannot be read.
    pub async fn migration_status(settings: &LedgerSettings) -> Result<Vec<MigrationStatus>> {
        let place = Place::of(settings)?;
        if !place.file().exists() {
            return Ok(schema::none_applied());
        }
        let mut connection = connect::visitor(place.file()).await?;
        schema::status(&mut connection).await
    }

    /// Writes what was handed in, then gives the database up. Later calls fail. Safe to repeat.
    pub async fn close(&self) {
        // In this order the writer's connection is the last, and its end empties the WAL into the database.
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>> {
        let connection = self.readers.acquire().await;
        connection.map_err(|error| self.health.note(Fault::from(error)).into())
    }
}

/// The contract's calls; [`super::Ledger`] says what each does.
#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn submit(&self, submission: Submission) -> Result<SubmitOutcome> {
        self.writer.submit(submission).await
    }

    pub async fn shut_due(&self, limit: u32) -> Result<Vec<Job>> {
        let due = read!(self, series::due, self.clock.now(), limit)?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        // What is due stays due, unless it is shut: it need not be looked at again.
        let rows = due.len();
        let change = self
            .writer
            .change_of(rows, move |tx| Box::pin(async move { series::shut_these(tx, &due).await }));
        change.await
    }

    pub async fn shut(&self, job: JobId) -> Result<Option<Job>> {
        let change = self
            .writer
            .change(move |tx| Box::pin(async move { series::shut_these(tx, &[job]).await }));
        Ok(change.await?.pop())
    }

    pub async fn series(&self, job: JobId) -> Result<Option<Series>> {
        read!(self, series::series, job)
    }

    pub async fn job(&self, namespace: &Namespace, id: JobId) -> Result<Option<Job>> {
        read!(self, jobs::job, namespace, id)
    }

    pub async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        read!(self, jobs::jobs, ids)
    }

    pub async fn on_record(&self, namespace: &Namespace, ids: &[JobId]) -> Result<Vec<JobId>> {
        read!(self, jobs::on_record, namespace, ids)
    }

    pub async fn terminal_among(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        read!(self, jobs::terminal_among, ids)
    }

    pub async fn list(
        &self,
        namespace: &Namespace,
        filter: &JobFilter,
        before: Option<JobId>,
        limit: u32,
    ) -> Result<JobPage> {
        read!(self, list::list, namespace, filter, before, limit)
    }

    pub async fn attempts(&self, namespace: &Namespace, id: JobId) -> Result<Option<Vec<Attempt>>> {
        read!(self, jobs::attempts, namespace, id)
    }

    pub async fn record(&self, records: Vec<Record>) -> Result<RecordReply> {
        let followed = self.writer.record(records).await?;
        Ok(self.followed(followed).await)
    }

    pub async fn record_within(
        &self,
        records: Vec<Record>,
        generations: Vec<(ShardId, u64)>,
    ) -> Result<Option<RecordReply>> {
        let change = self.writer.change_of(records.len(), move |tx| {
            Box::pin(async move {
                for (shard, generation) in &generations {
                    if gates::record(tx.connection, shard).await?.generation != *generation {
                        return Ok(None);
                    }
                }
                record::write_now(tx, records).await.map(Some)
            })
        });
        match change.await? {
            Some(followed) => Ok(Some(self.followed(followed).await)),
            None => Ok(None),
        }
    }

    async fn followed(&self, followed: record::Followed) -> RecordReply {
        let record::Followed { replies, released, due } = followed;
        RecordReply { replies, released: self.read_back(&released).await, due }
    }

    pub async fn record_running(&self, running: Vec<RecordRunning>) -> Result<()> {
        let change = self
            .writer
            .change(move |tx| Box::pin(async move { record::running(tx, &running).await }));
        change.await
    }

    pub async fn waiting(
        &self,
        namespace: &Namespace,
        queue: &QueueName,
        at_most: u64,
    ) -> Result<u64> {
        read!(self, list::waiting, namespace, queue, at_most)
    }

    pub async fn unfinished(&self, wanted: Unfinished<'_>) -> Result<JobPage> {
        read!(self, list::unfinished, wanted)
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
        let change = self.writer.change(move |tx| {
            Box::pin(async move {
                let seen = seen.as_ref().map(|(fence, queue)| Guard { fence: *fence, queue });
                change::cancel(tx, (&namespace, id), seen, running, &reason).await
            })
        });
        change.await
    }

    pub async fn redrive(&self, namespace: &Namespace, id: JobId) -> Result<Changed<Job>> {
        let namespace = namespace.clone();
        let change = self
            .writer
            .change(move |tx| Box::pin(async move { change::redrive(tx, &namespace, id).await }));
        change.await
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
        let change = self.writer.change(move |tx| {
            Box::pin(async move {
                let seen = seen.as_ref().map(|(fence, queue)| Guard { fence: *fence, queue });
                change::patch(tx, (&namespace, id), seen, &patch).await
            })
        });
        change.await
    }

    pub async fn delete(&self, namespace: &Namespace, id: JobId) -> Result<Changed<()>> {
        let namespace = namespace.clone();
        let change = self
            .writer
            .change(move |tx| Box::pin(async move { change::delete(tx, &namespace, id).await }));
        change.await
    }

    pub async fn queue(&self, namespace: &Namespace, name: &QueueName) -> Result<Option<Queue>> {
        read!(self, queues::queue, namespace, name)
    }

    pub async fn queue_page(
        &self,
        namespace: Option<&Namespace>,
        after: Option<&QueueCursor>,
        limit: u32,
    ) -> Result<QueuePage> {
        read!(self, queues::page, namespace, after, limit)
    }

    pub fn new_queues(&self) -> NewQueues {
        self.writer.new_queues()
    }

    #[cfg(feature = "testkit")]
    pub async fn tamper(&self, sql: String) -> Result<()> {
        let change = self.writer.change(move |tx| {
            Box::pin(async move {
                statement::composed(tx.connection, sql, statement::Args::default()).await?;
                Ok(())
            })
        });
        change.await
    }

    pub async fn set_queue(
        &self,
        namespace: &Namespace,
        name: &QueueName,
        seen: Option<u64>,
        settings: &QueueSettings,
    ) -> Result<Option<Queue>> {
        let (namespace, name, settings) = (namespace.clone(), name.clone(), settings.clone());
        let change = self.writer.change(move |tx| {
            Box::pin(async move { queues::set(tx, &namespace, &name, seen, &settings).await })
        });
        change.await
    }

    pub async fn set_paused(
        &self,
        namespace: &Namespace,
        name: &QueueName,
        paused: Option<&Paused>,
    ) -> Result<Queue> {
        let (namespace, name, paused) = (namespace.clone(), name.clone(), paused.cloned());
        let change = self.writer.change(move |tx| {
            Box::pin(
                async move { queues::set_paused(tx, &namespace, &name, paused.as_ref()).await },
            )
        });
        change.await
    }

    pub async fn rollups(&self, namespace: &Namespace, since: Timestamp) -> Result<Vec<Rollup>> {
        read!(self, queues::rollups, namespace, since)
    }

    pub async fn queue_minutes(
        &self,
        namespace: &Namespace,
        queue: &QueueName,
    ) -> Result<(Vec<QueueMinute>, Timestamp)> {
        let now = self.clock.now();
        let minutes: Result<Vec<QueueMinute>> = read!(self, queues::minutes, namespace, queue, now);
        Ok((minutes?, now))
    }

    pub async fn append_all_logs(
        &self,
        namespace: &Namespace,
        logs: Vec<JobLines>,
    ) -> Result<Vec<JobId>> {
        let namespace = namespace.clone();
        let change = self.writer.change(move |tx| {
            Box::pin(async move {
                let mut found = Vec::with_capacity(logs.len());
                for JobLines { id, lines } in &logs {
                    if reports::append_logs(tx, &namespace, *id, lines).await? {
                        found.push(*id);
                    }
                }
                Ok(found)
            })
        });
        change.await
    }

    pub async fn logs(
        &self,
        namespace: &Namespace,
        id: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Option<Vec<LogLine>>> {
        read!(self, reports::logs, namespace, id, after, limit)
    }

    pub async fn set_all_progress(
        &self,
        namespace: &Namespace,
        progress: Vec<JobProgress>,
    ) -> Result<()> {
        let namespace = namespace.clone();
        let change = self.writer.change(move |tx| {
            Box::pin(async move {
                for progress in &progress {
                    reports::set_progress(tx, &namespace, progress).await?;
                }
                Ok(())
            })
        });
        change.await
    }

    pub async fn beat(&self, beat: &WorkerBeat) -> Result<bool> {
        let beat = beat.clone();
        let change =
            self.writer.change(move |tx| Box::pin(async move { reports::beat(tx, &beat).await }));
        change.await
    }

    pub async fn workers(
        &self,
        namespace: &Namespace,
        within: Duration,
    ) -> Result<Vec<WorkerBeat>> {
        let now = self.clock.now();
        read!(self, reports::workers, namespace, now, within)
    }

    pub async fn drain_worker(&self, namespace: &Namespace, id: WorkerId) -> Result<bool> {
        let namespace = namespace.clone();
        let change = self
            .writer
            .change(move |tx| Box::pin(async move { reports::drain(tx, &namespace, id).await }));
        change.await
    }

    pub async fn put_blob(&self, namespace: &Namespace, id: BlobId, bytes: Bytes) -> Result<()> {
        let namespace = namespace.clone();
        let change = self.writer.change(move |tx| {
            Box::pin(async move { blobs::put(tx, &namespace, id, &bytes).await })
        });
        change.await
    }

    pub async fn blob(&self, namespace: &Namespace, id: BlobId) -> Result<Option<Bytes>> {
        read!(self, blobs::blob, namespace, id)
    }

    pub async fn create_key(&self, key: &ApiKey) -> Result<()> {
        let key = key.clone();
        let change =
            self.writer.change(move |tx| Box::pin(async move { keys::create(tx, &key).await }));
        change.await
    }

    pub async fn key(&self, public: &str) -> Result<Option<ApiKey>> {
        read!(self, keys::key, public)
    }

    pub async fn keys(&self) -> Result<Vec<ApiKey>> {
        read!(self, keys::keys)
    }

    pub async fn revoke_key(&self, id: KeyId) -> Result<bool> {
        let change =
            self.writer.change(move |tx| Box::pin(async move { keys::revoke(tx, id).await }));
        change.await
    }

    pub async fn put_operation(&self, operation: &Operation) -> Result<()> {
        let operation = operation.clone();
        let change = self
            .writer
            .change(move |tx| Box::pin(async move { keys::put_operation(tx, &operation).await }));
        change.await
    }

    pub async fn fail_silent_operations(
        &self,
        lead: Option<Epoch>,
        silent_since: Timestamp,
    ) -> Result<u64> {
        let change = self.writer.change(move |tx| {
            Box::pin(async move {
                if !gates::leads(tx, lead).await? {
                    return Ok(0);
                }
                keys::fail_silent_operations(tx, silent_since).await
            })
        });
        change.await
    }

    pub async fn operation(
        &self,
        namespace: &Namespace,
        id: OperationId,
    ) -> Result<Option<Operation>> {
        read!(self, keys::operation, namespace, id)
    }

    pub async fn prune(
        &self,
        lead: Option<Epoch>,
        tidy: retention::Tidy,
        limit: u32,
    ) -> Result<u64> {
        let after = *self.values_at.lock().expect("no holder of this lock panics");
        let strays: Result<prune::Strays> = read!(self, prune::strays, tidy, after, limit);
        let strays = strays?;
        let values_at = strays.values_at;
        let change = self.writer.change_of(limit as usize, move |tx| {
            Box::pin(async move {
                if !gates::leads(tx, lead).await? {
                    return Ok(0);
                }
                prune::tidy(tx, tidy, &strays, limit).await
            })
        });
        let deleted = change.await?;
        *self.values_at.lock().expect("no holder of this lock panics") = values_at;
        Ok(deleted)
    }

    pub async fn prune_runs(
        &self,
        lead: Option<Epoch>,
        aged: &retention::AgedRuns,
        after: Option<retention::RunPlace>,
        limit: u32,
    ) -> Result<Option<retention::Pruned<retention::RunPlace>>> {
        let found: Result<runs::prune::Found> = read!(self, runs::prune::ended, aged, after, limit);
        let runs::prune::Found { ids, last, at_end } = found?;
        let aged = aged.clone();
        let deleted = self.if_leading(lead, ids, limit as usize, move |tx, ids| {
            Box::pin(async move { runs::prune::forget(tx, &ids, &aged, limit).await })
        });
        Ok(deleted.await?.map(|deleted| retention::Pruned { deleted, last, at_end }))
    }

    pub async fn prune_jobs(
        &self,
        lead: Option<Epoch>,
        aged: &retention::Aged,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Option<retention::Pruned<JobId>>> {
        let found: Result<prune::Found> = read!(self, prune::ended, aged, after, limit);
        let prune::Found { ids, last, at_end } = found?;
        let (before, rows) = (aged.before, ids.len());
        let deleted = self.if_leading(lead, ids, rows, move |tx, ids| {
            Box::pin(async move { prune::forget(tx, &ids, prune::Cause::Old(before)).await })
        });
        Ok(deleted.await?.map(|deleted| retention::Pruned { deleted, last, at_end }))
    }

    /// Deletes what was found, if anything was; how much, or `None`: the epoch leads no more.
    async fn if_leading<T, F>(
        &self,
        lead: Option<Epoch>,
        found: Vec<T>,
        rows: usize,
        forget: F,
    ) -> Result<Option<u64>>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut writer::Tx<'_>, Vec<T>) -> BoxFuture<'t, Result<u64, Fault>>
            + Send
            + 'static,
    {
        if found.is_empty() {
            return Ok(Some(0));
        }
        let change = self.writer.change_of(rows, move |tx| {
            Box::pin(async move {
                if !gates::leads(tx, lead).await? {
                    return Ok(None);
                }
                forget(tx, found).await.map(Some)
            })
        });
        change.await
    }

    pub async fn now(&self) -> Result<Timestamp> {
        read!(self, list::answers)?;
        self.health.check()?;
        Ok(self.clock.now())
    }
}
