//! Quotas of namespaces, as [`crate::ledger::quotas`] says: the writer is alone, so it looks at a door, decides, and
//! writes what was paid.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::run_calls::change;
use super::statement::{Args, Bulk, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Result, Sqlite, read};
use crate::ledger::quotas::{Charge, Door, Exceeded, PAGE_MAX, QuotaRecord, Quotas, Wishes, large};
use crate::ledger::unreadable::readable;
use crate::ledger::{Submission, fit_text};
use crate::model::id::BlobId;
use crate::model::job::NewJob;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

macro_rules! select_quotas {
    ($tail:literal) => {
        concat!(
            "SELECT namespace, settings, changed_at, changed_by, tat_ns, jobs, bytes, jobs_in, ",
            "bytes_in, counted_at, count_us FROM quotas ",
            $tail
        )
    };
}

/// Which namespaces have quotas, so that the others pay nothing for there being any.
#[derive(Default)]
pub(super) struct Limited {
    /// `None`: to be looked up.
    known: Option<HashSet<Namespace>>,
    wishes: Arc<Wishes>,
}

impl Limited {
    /// What the doors wish for.
    pub(super) fn wishes(&self) -> Arc<Wishes> {
        Arc::clone(&self.wishes)
    }

    /// A transaction, or a part of it, came to nothing.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }
}

/// The doors that a transaction's submissions have to pass.
#[derive(Default)]
pub(super) struct Doors {
    doors: HashMap<Namespace, Door>,
    /// Bytes of large payloads.
    sizes: HashMap<BlobId, u64>,
    /// Somebody has paid.
    paid: bool,
}

impl Doors {
    /// Those of some submissions.
    pub(super) async fn of(tx: &mut Tx<'_>, submissions: &[&Submission]) -> Result<Self, Fault> {
        let jobs = submissions.iter().flat_map(|submission| &submission.jobs);
        Self::of_jobs(tx, jobs).await
    }

    /// Those of some jobs.
    pub(super) async fn of_jobs<'a>(
        tx: &mut Tx<'_>,
        jobs: impl Iterator<Item = &'a NewJob> + Clone,
    ) -> Result<Self, Fault> {
        if tx.limited.known.is_none() {
            let sql = "SELECT namespace FROM quotas";
            let found = rows(tx.connection, sql, Args::default()).await?;
            let known = found.iter().filter_map(|row| Columns::of(row).parsed().ok());
            tx.limited.known = Some(known.collect());
        }
        let mut doors = Self::default();
        let Some(known) = tx.limited.known.as_ref().filter(|known| !known.is_empty()) else {
            return Ok(doors);
        };
        let of_limited = jobs.filter(|job| known.contains(&job.namespace));
        let names: BTreeSet<&Namespace> = of_limited.clone().map(|job| &job.namespace).collect();
        for namespace in names {
            let found = door(tx.connection, namespace).await?;
            doors.doors.extend(found.map(|door| (namespace.clone(), door)));
        }
        let weighed = of_limited.filter(|job| {
            doors.doors.get(&job.namespace).is_some_and(|door| door.quotas.max_bytes.is_some())
        });
        doors.sizes = sizes(tx.connection, &large(weighed)).await?;
        Ok(doors)
    }

    /// Lets jobs of one namespace in, which pay, or refuses them.
    pub(super) fn admit(&mut self, now: Timestamp, jobs: &[NewJob]) -> Result<(), Exceeded> {
        let door = jobs.first().and_then(|job| self.doors.get_mut(&job.namespace));
        let Some(door) = door else { return Ok(()) };
        door.admit(now, Charge::of(jobs.iter(), &self.sizes))?;
        self.paid = true;
        Ok(())
    }

    /// Writes what was paid, and wishes for the counts that are due.
    pub(super) async fn write(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        tx.limited.wishes.note(self.doors.iter(), tx.now);
        if !self.paid {
            return Ok(());
        }
        for (namespace, door) in &self.doors {
            let sql = "UPDATE quotas SET tat_ns = ?, jobs_in = ?, bytes_in = ? WHERE namespace = ?";
            let args = Args::default()
                .with(door.tat_ns)
                .with(number(door.jobs_in))
                .with(number(door.bytes_in))
                .with(namespace.as_str());
            execute(tx.connection, sql, args).await?;
        }
        Ok(())
    }
}

async fn sizes(
    connection: &mut SqliteConnection,
    blobs: &[BlobId],
) -> Result<HashMap<BlobId, u64>, Fault> {
    static SIZES: Bulk =
        Bulk::new("SELECT id, length(bytes) FROM blobs WHERE id IN (VALUES", "(?)", ")");
    let bind = |args: &mut Args, id: &BlobId| {
        args.add(id.as_bytes().as_slice());
    };
    let found = SIZES.fetch(connection, blobs, bind).await?;
    let size = |row: &SqliteRow| {
        let mut c = Columns::of(row);
        Ok((BlobId::from_bytes(c.id()?), c.count()?))
    };
    found.iter().map(size).collect()
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Quotas on record.
struct Row {
    namespace: Namespace,
    changed_at: Timestamp,
    changed_by: String,
    door: Door,
}

fn row_of(row: &SqliteRow) -> Result<Row, Fault> {
    let mut c = Columns::of(row);
    let (namespace, quotas) = (c.parsed()?, c.json()?);
    let (changed_at, changed_by) = (c.time()?, c.next()?);
    let door = Door {
        quotas,
        tat_ns: c.next()?,
        jobs: c.count()?,
        bytes: c.count()?,
        jobs_in: c.count()?,
        bytes_in: c.count()?,
        counted_at: c.maybe_time()?,
        count_time: Duration::from_micros(c.count()?),
    };
    Ok(Row { namespace, changed_at, changed_by, door })
}

fn record_of(row: &SqliteRow, now: Timestamp) -> Result<QuotaRecord, Fault> {
    let Row { namespace, changed_at, changed_by, door } = row_of(row)?;
    Ok(QuotaRecord {
        namespace,
        used: door.used(now),
        counted_at: door.counted_at,
        quotas: door.quotas,
        changed_at,
        changed_by,
    })
}

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn set_quotas(
        &self,
        namespace: &Namespace,
        quotas: Option<&Quotas>,
        by: &str,
    ) -> Result<bool> {
        let (name, by) = (namespace.clone(), fit_text(by).into_owned());
        let quotas = quotas.cloned();
        change!(self, 1, |tx| set(tx, &name, quotas.as_ref(), &by))
    }

    pub async fn quotas(&self, namespace: &Namespace) -> Result<Option<QuotaRecord>> {
        let now = self.clock.now();
        read!(self, one, namespace, now)
    }

    pub async fn all_quotas(
        &self,
        after: Option<&Namespace>,
        limit: u32,
    ) -> Result<Vec<QuotaRecord>> {
        let now = self.clock.now();
        read!(self, page, after, limit, now)
    }

    /// What is read is one look at the database, which keeps nobody who writes waiting; what is let in meanwhile stays
    /// beside the count.
    pub async fn count_quotas(&self, namespace: &Namespace) -> Result<()> {
        let started = Instant::now();
        let Some(counted) = read!(self, count, namespace)? else { return Ok(()) };
        let (name, took) = (namespace.clone(), started.elapsed());
        change!(self, 1, |tx| keep_count(tx, &name, counted, took))
    }

    pub(in crate::ledger) fn wishes(&self) -> &Wishes {
        &self.wishes
    }
}

/// New quotas find what was used of the rate, and the counts of before.
async fn set(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    quotas: Option<&Quotas>,
    by: &str,
) -> Result<bool, Fault> {
    tx.limited.forget();
    let Some(quotas) = quotas else {
        let args = Args::default().with(namespace.as_str());
        let sql = "DELETE FROM quotas WHERE namespace = ?";
        return Ok(execute(tx.connection, sql, args).await? > 0);
    };
    let before = door(tx.connection, namespace).await?;
    let sql = "INSERT INTO quotas (namespace, settings, changed_at, changed_by, tat_ns) VALUES (?, ?, ?, ?, ?) \
               ON CONFLICT (namespace) DO UPDATE SET settings = excluded.settings, tat_ns = excluded.tat_ns, \
               changed_at = excluded.changed_at, changed_by = excluded.changed_by";
    let args = Args::default()
        .with(namespace.as_str())
        .with(serde_json::to_string(quotas).expect("plain data always serialises"))
        .with(tx.now.micros())
        .with(by)
        .with(before.map_or(0, |door| door.tat_under(tx.now, quotas)));
    execute(tx.connection, sql, args).await?;
    Ok(true)
}

/// A namespace's door; `None`: it has none, or none that this build can read.
async fn door(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
) -> Result<Option<Door>, Fault> {
    let args = Args::default().with(namespace.as_str());
    let found = row(connection, select_quotas!("WHERE namespace = ?"), args).await?;
    Ok(readable("quotas", found.as_slice(), row_of).pop().map(|row| row.door))
}

async fn one(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    now: Timestamp,
) -> Result<Option<QuotaRecord>, Fault> {
    let args = Args::default().with(namespace.as_str());
    let found = row(connection, select_quotas!("WHERE namespace = ?"), args).await?;
    found.as_ref().map(|row| record_of(row, now)).transpose()
}

async fn page(
    connection: &mut SqliteConnection,
    after: Option<&Namespace>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<QuotaRecord>, Fault> {
    let sql = select_quotas!("WHERE namespace > ? ORDER BY namespace LIMIT ?");
    let args = Args::default()
        .with(after.map_or("", Namespace::as_str))
        .with(i64::from(limit.min(PAGE_MAX)));
    let found = rows(connection, sql, args).await?;
    Ok(readable("quotas", &found, |row| record_of(row, now)))
}

/// Jobs and bytes that are there, and those let in and the number of counts as they were then.
#[derive(Clone, Copy)]
struct Counted {
    jobs: i64,
    bytes: i64,
    jobs_in: i64,
    bytes_in: i64,
    counts: i64,
}

/// Payloads are read only for whom they matter; those of jobs that collect are with their series yet.
async fn count(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
) -> Result<Option<Counted>, Fault> {
    const COUNT: &str = "
        WITH q AS MATERIALIZED (
            SELECT counts, jobs_in, bytes_in, settings ->> 'max_bytes' IS NOT NULL AS weighs
            FROM quotas WHERE namespace = ?1
        )
        SELECT coalesce(w.jobs, c.jobs), coalesce(w.bytes, 0) + iif(q.weighs, (SELECT coalesce(sum(s.bytes), 0)
                FROM series s WHERE s.namespace = ?1 AND s.items > 0), 0), q.jobs_in, q.bytes_in, q.counts FROM q
        LEFT JOIN (SELECT count(*) AS jobs, sum(coalesce(length(j.payload),
                (SELECT length(b.bytes) FROM blobs b WHERE b.namespace = j.namespace AND b.id = j.payload_blob),
                0)) AS bytes
            FROM jobs j WHERE (SELECT weighs FROM q) AND j.namespace = ?1 AND j.state < 10) w ON q.weighs
        LEFT JOIN (SELECT count(*) AS jobs
            FROM jobs j WHERE NOT (SELECT weighs FROM q) AND j.namespace = ?1 AND j.state < 10) c ON true";
    let args = Args::default().with(namespace.as_str());
    let Some(found) = row(connection, COUNT, args).await? else { return Ok(None) };
    let mut c = Columns::of(&found);
    Ok(Some(Counted {
        jobs: c.next()?,
        bytes: c.next()?,
        jobs_in: c.next()?,
        bytes_in: c.next()?,
        counts: c.next()?,
    }))
}

async fn keep_count(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    counted: Counted,
    took: Duration,
) -> Result<(), Fault> {
    let sql = "UPDATE quotas SET jobs = ?, bytes = ?, jobs_in = jobs_in - ?, bytes_in = bytes_in - ?, \
               counts = counts + 1, counted_at = ?, count_us = ? WHERE namespace = ? AND counts = ?";
    let args = Args::default()
        .with(counted.jobs)
        .with(counted.bytes)
        .with(counted.jobs_in)
        .with(counted.bytes_in)
        .with(tx.now.micros())
        .with(i64::try_from(took.as_micros()).unwrap_or(i64::MAX))
        .with(namespace.as_str())
        .with(counted.counts);
    execute(tx.connection, sql, args).await?;
    Ok(())
}
