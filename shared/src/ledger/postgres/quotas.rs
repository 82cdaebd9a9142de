//! Quotas of namespaces, as [`crate::ledger::quotas`] says: the doors are rows that are locked, in order of their names
//! and before anything else, by the transactions that bring jobs in.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, PgPool};
use uuid::Uuid;

use super::error::{after_write, unchanged};
use super::insert::Made;
use super::row::{get, int8, json, maybe_time, parse, time, to_json, unsigned};
use super::write_queue::Pending;
use super::writer::statement;
use super::{Inner, Postgres, Result, bounds};
use crate::ledger::quotas::{Charge, Door, Exceeded, PAGE_MAX, QuotaRecord, Quotas, Wishes, large};
use crate::ledger::unreadable::readable;
use crate::ledger::{Submission, fit_text};
use crate::model::id::BlobId;
use crate::model::job::NewJob;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// What this process knows of who has quotas is at most twice as old.
const KNOWN_FOR: Duration = Duration::from_millis(400);
/// Longest time for a count.
const COUNT_MAX: Duration = Duration::from_secs(60);

/// Which namespaces have quotas, so that the others pay nothing for there being any.
#[derive(Default)]
pub(super) struct Limited {
    known: Mutex<(HashSet<Namespace>, Option<Instant>)>,
    /// Held by who asks.
    asking: tokio::sync::Mutex<()>,
    wishes: Wishes,
}

impl Limited {
    fn known(&self) -> MutexGuard<'_, (HashSet<Namespace>, Option<Instant>)> {
        self.known.lock().expect("no holder of this lock panics")
    }

    fn age(&self) -> Option<Duration> {
        self.known().1.map(|at| at.elapsed())
    }

    /// Whether a namespace has quotas.
    pub(super) fn has(&self, namespace: &Namespace) -> bool {
        self.known().0.contains(namespace)
    }

    /// Whether what is known is good for now.
    pub(super) fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age < KNOWN_FOR)
    }

    /// Looks who has quotas, if what is known is old; one caller at a time. Where the ledger does not answer, what was
    /// known counts on. May be dropped.
    pub(super) async fn refresh(&self, pool: &PgPool, silence: Duration) {
        let Some(_turn) = self.turn().await else { return };
        let sql = "SELECT namespace FROM quotas";
        let asked =
            async { sqlx::query_scalar::<_, String>(sql).fetch_all(pool).await.map_err(unchanged) };
        let found = bounds::read(silence, asked).await;
        let mut known = self.known();
        match found {
            Ok(names) => known.0 = names.iter().filter_map(|name| name.parse().ok()).collect(),
            Err(error) => tracing::debug!(%error, "cannot look who has quotas"),
        }
        known.1 = Some(Instant::now());
    }

    /// The turn to ask; `None`: nobody need.
    async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if self.is_fresh() {
            return None;
        }
        // Somebody asks: what is known is good until they should have heard.
        let turn = if self.age().is_some_and(|age| age < KNOWN_FOR * 2) {
            self.asking.try_lock().ok()?
        } else {
            self.asking.lock().await
        };
        (!self.is_fresh()).then_some(turn)
    }

    fn note(&self, namespace: &Namespace, has_quotas: bool) {
        let mut known = self.known();
        if has_quotas {
            known.0.insert(namespace.clone());
        } else {
            known.0.remove(namespace);
        }
    }
}

/// The columns of [`row_of`].
macro_rules! columns {
    () => {
        "namespace, settings, changed_at, changed_by, tat_ns, jobs, bytes, jobs_in, bytes_in, counted_at, count_us"
    };
}

/// Ledger time, anew wherever it stands.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

/// Locked doors.
pub(super) struct Doors {
    doors: HashMap<Namespace, Door>,
    now: Timestamp,
}

impl Doors {
    /// Locks the doors of these namespaces until the end of the transaction. The time is read once they are.
    pub(super) async fn lock(
        connection: &mut PgConnection,
        namespaces: &BTreeSet<&Namespace>,
    ) -> std::result::Result<Self, sqlx::Error> {
        const SQL: &str = concat!(
            "SELECT d.*, ",
            now!(),
            " FROM (SELECT ",
            columns!(),
            " FROM quotas WHERE namespace = ANY($1) ORDER BY namespace FOR UPDATE) d"
        );
        let mut doors = Self { doors: HashMap::new(), now: Timestamp::from_micros(0) };
        if namespaces.is_empty() {
            return Ok(doors);
        }
        let names: Vec<&str> = namespaces.iter().map(|namespace| namespace.as_str()).collect();
        let rows = sqlx::query(SQL).bind(names).fetch_all(connection).await?;
        for (namespace, door, now) in readable("quotas", &rows, row_of) {
            (doors.now, _) = (now, doors.doors.insert(namespace, door));
        }
        Ok(doors)
    }

    /// What jobs of one namespace cost; `None`: it has no door.
    async fn charge(
        &self,
        connection: &mut PgConnection,
        jobs: &[&NewJob],
    ) -> std::result::Result<Option<Charge>, sqlx::Error> {
        let Some(namespace) = jobs.first().map(|job| &job.namespace) else { return Ok(None) };
        let Some(door) = self.doors.get(namespace) else { return Ok(None) };
        let blobs = match door.quotas.max_bytes {
            Some(_) => large(jobs.iter().copied()),
            None => Vec::new(),
        };
        let sizes = sizes(connection, namespace, &blobs).await?;
        Ok(Some(Charge::of(jobs.iter().copied(), &sizes)))
    }

    /// Lets jobs in, which pay, and notes it; or refuses them.
    pub(super) async fn admit(
        &mut self,
        connection: &mut PgConnection,
        jobs: &[&NewJob],
    ) -> std::result::Result<std::result::Result<(), Exceeded>, sqlx::Error> {
        let Some(charge) = self.charge(connection, jobs).await? else { return Ok(Ok(())) };
        let door = jobs.first().and_then(|job| self.doors.get_mut(&job.namespace));
        let now = self.now;
        if let Some(Err(exceeded)) = door.map(|door| door.admit(now, charge)) {
            return Ok(Err(exceeded));
        }
        self.write(connection).await?;
        Ok(Ok(()))
    }

    /// Writes what was paid.
    async fn write(&self, connection: &mut PgConnection) -> std::result::Result<(), sqlx::Error> {
        const SQL: &str = "UPDATE quotas q SET tat_ns = v.tat, jobs_in = v.jobs, bytes_in = v.bytes \
            FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS v(namespace, tat, jobs, bytes) \
            WHERE q.namespace = v.namespace";
        let doors = || self.doors.values();
        let names: Vec<&str> = self.doors.keys().map(Namespace::as_str).collect();
        sqlx::query(SQL)
            .bind(names)
            .bind(doors().map(|door| door.tat_ns).collect::<Vec<_>>())
            .bind(doors().map(|door| int8(door.jobs_in)).collect::<Vec<_>>())
            .bind(doors().map(|door| int8(door.bytes_in)).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Wishes for the counts that are due.
    pub(super) fn note(&self, limited: &Limited) {
        limited.wishes.note(self.doors.iter(), self.now);
    }
}

/// The bytes of large payloads.
async fn sizes(
    connection: &mut PgConnection,
    namespace: &Namespace,
    blobs: &[BlobId],
) -> std::result::Result<HashMap<BlobId, u64>, sqlx::Error> {
    if blobs.is_empty() {
        return Ok(HashMap::new());
    }
    let sql =
        "SELECT id, octet_length(bytes)::bigint FROM blobs WHERE namespace = $1 AND id = ANY($2)";
    let ids: Vec<Uuid> = blobs.iter().map(|id| id.uuid()).collect();
    let query = sqlx::query_as::<_, (Uuid, i64)>(sql).bind(namespace.as_str()).bind(ids);
    let found = query.fetch_all(connection).await?;
    let size = |(id, bytes): (Uuid, i64)| (BlobId::from_uuid(id), bytes.unsigned_abs());
    Ok(found.into_iter().map(size).collect())
}

/// What a group commit came to.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) made: Made,
    /// Submissions that were not let in, by their places.
    pub(super) refused: HashMap<usize, Exceeded>,
    /// Those of them that may have nothing to pay: their key is spent, or their unique key held.
    pub(super) apart: HashSet<usize>,
}

/// Commits a group of which some have to pass doors: these are locked, the group is inserted without what they refuse,
/// and who came in pays as a whole. A submission of which nothing came in pays nothing: its key is spent, or held.
pub(super) async fn insert(
    inner: &Inner,
    connection: &mut PgConnection,
    group: &[Pending],
) -> std::result::Result<Sent, sqlx::Error> {
    let limited = &inner.limited;
    let namespaces = group.iter().filter_map(|p| namespace_of(&p.submission));
    let namespaces = namespaces.filter(|namespace| limited.has(namespace)).collect();
    let mut transaction = connection.begin().await?;
    let mut doors = Doors::lock(&mut transaction, &namespaces).await?;
    let mut asked = doors.doors.clone();
    let (mut sent, mut charges) = (Sent::default(), Vec::with_capacity(group.len()));
    for (n, pending) in group.iter().enumerate() {
        let jobs: Vec<&NewJob> = pending.submission.jobs.iter().collect();
        let charge = doors.charge(&mut transaction, &jobs).await?;
        let door = namespace_of(&pending.submission).and_then(|name| asked.get_mut(name));
        if let Some((charge, door)) = charge.zip(door)
            && let Err(exceeded) = door.admit(doors.now, charge)
        {
            sent.refused.insert(n, exceeded);
        }
        charges.push(charge);
    }
    sent.apart = apart(&mut transaction, group, &sent.refused).await?;
    let admitted = group.iter().enumerate().filter(|(n, _)| !sent.refused.contains_key(n));
    let admitted: Vec<&Pending> = admitted.map(|(_, pending)| pending).collect();
    let insert = statement(&inner.known_queues, admitted);
    sent.made = insert.run(&mut transaction).await?;
    for (pending, charge) in group.iter().zip(charges) {
        let came_in =
            pending.submission.jobs.iter().any(|job| sent.made.contains_key(&job.id.uuid()));
        let door = namespace_of(&pending.submission).and_then(|name| doors.doors.get_mut(name));
        if let (true, Some(charge), Some(door)) = (came_in, charge, door) {
            door.pay(doors.now, charge);
        }
    }
    doors.write(&mut transaction).await?;
    transaction.commit().await?;
    doors.note(limited);
    Ok(sent)
}

/// Those of the refused submissions that are to be looked at by themselves.
async fn apart(
    connection: &mut PgConnection,
    group: &[Pending],
    refused: &HashMap<usize, Exceeded>,
) -> std::result::Result<HashSet<usize>, sqlx::Error> {
    let submissions = || refused.keys().map(|n| (*n, &group[*n].submission));
    let unique = submissions().filter(|(_, s)| s.jobs.iter().any(|job| job.unique.is_some()));
    let mut apart: HashSet<usize> = unique.map(|(n, _)| n).collect();
    let keyed =
        submissions().filter_map(|(n, s)| Some((n, namespace_of(s)?, s.idempotency.as_ref()?)));
    let keyed: Vec<_> = keyed.collect();
    if keyed.is_empty() {
        return Ok(apart);
    }
    let sql = "SELECT k.n FROM unnest($1::bigint[], $2::text[], $3::text[]) AS k(n, namespace, key) \
               WHERE EXISTS (SELECT FROM idempotency i WHERE i.namespace = k.namespace AND i.key = k.key)";
    let spent: Vec<i64> = sqlx::query_scalar(sql)
        .bind(keyed.iter().map(|(n, ..)| int8(*n as u64)).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(_, namespace, _)| namespace.as_str()).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(.., idempotency)| idempotency.key.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    apart.extend(spent.into_iter().filter_map(|n| usize::try_from(n).ok()));
    Ok(apart)
}

/// Whose a submission is.
pub(super) fn namespace_of(submission: &Submission) -> Option<&Namespace> {
    submission.jobs.first().map(|job| &job.namespace)
}

fn row_of(row: &PgRow) -> Result<(Namespace, Door, Timestamp)> {
    let door = Door {
        quotas: json(get(row, 1)?, "settings")?,
        tat_ns: get(row, 4)?,
        jobs: unsigned(row, 5, "jobs")?,
        bytes: unsigned(row, 6, "bytes")?,
        jobs_in: unsigned(row, 7, "jobs_in")?,
        bytes_in: unsigned(row, 8, "bytes_in")?,
        counted_at: maybe_time(row, 9)?,
        count_time: Duration::from_micros(unsigned(row, 10, "count_us")?),
    };
    Ok((parse(row, 0, "namespace")?, door, time(row, 11)?))
}

fn record_of(row: &PgRow) -> Result<QuotaRecord> {
    let (namespace, door, now) = row_of(row)?;
    Ok(QuotaRecord {
        namespace,
        used: door.used(now),
        counted_at: door.counted_at,
        quotas: door.quotas,
        changed_at: time(row, 2)?,
        changed_by: get(row, 3)?,
    })
}

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn set_quotas(
        &self,
        namespace: &Namespace,
        quotas: Option<&Quotas>,
        by: &str,
    ) -> Result<bool> {
        let (name, by) = (namespace.clone(), fit_text(by).into_owned());
        let new = quotas.cloned();
        let changed = self
            .detached(|inner| async move { set(&inner.pool, &name, new.as_ref(), &by).await })
            .await?;
        self.inner.limited.note(namespace, quotas.is_some());
        Ok(changed)
    }

    pub async fn quotas(&self, namespace: &Namespace) -> Result<Option<QuotaRecord>> {
        const SQL: &str =
            concat!("SELECT ", columns!(), ", ", now!(), " FROM quotas WHERE namespace = $1");
        let query = sqlx::query(SQL).bind(namespace.as_str());
        let asked = async { query.fetch_optional(&self.inner.pool).await.map_err(unchanged) };
        self.read(asked).await?.as_ref().map(record_of).transpose()
    }

    pub async fn all_quotas(
        &self,
        after: Option<&Namespace>,
        limit: u32,
    ) -> Result<Vec<QuotaRecord>> {
        const SQL: &str = concat!(
            "SELECT ",
            columns!(),
            ", ",
            now!(),
            " FROM quotas WHERE namespace COLLATE \"C\" > $1 ORDER BY namespace COLLATE \"C\" LIMIT $2"
        );
        let query = sqlx::query(SQL).bind(after.map_or("", Namespace::as_str));
        let query = query.bind(i64::from(limit.min(PAGE_MAX)));
        let asked = async { query.fetch_all(&self.inner.pool).await.map_err(unchanged) };
        Ok(readable("quotas", &self.read(asked).await?, record_of))
    }

    pub async fn count_quotas(&self, namespace: &Namespace) -> Result<()> {
        let namespace = namespace.clone();
        self.detached_for(COUNT_MAX, |inner| async move { count(&inner.pool, &namespace).await })
            .await
    }

    pub(in crate::ledger) fn wishes(&self) -> &Wishes {
        &self.inner.limited.wishes
    }
}

/// New quotas find what was used of the rate, and the counts of before.
async fn set(
    pool: &PgPool,
    namespace: &Namespace,
    quotas: Option<&Quotas>,
    by: &str,
) -> Result<bool> {
    const SET: &str = concat!(
        "INSERT INTO quotas (namespace, settings, changed_at, changed_by, tat_ns) VALUES ($1, $2, ",
        now!(),
        ", $3, $4) \
         ON CONFLICT (namespace) DO UPDATE SET settings = EXCLUDED.settings, tat_ns = EXCLUDED.tat_ns, \
             changed_at = EXCLUDED.changed_at, changed_by = EXCLUDED.changed_by"
    );
    let Some(quotas) = quotas else {
        let query = sqlx::query("DELETE FROM quotas WHERE namespace = $1").bind(namespace.as_str());
        return Ok(query.execute(pool).await.map_err(after_write)?.rows_affected() > 0);
    };
    let mut transaction = pool.begin().await.map_err(unchanged)?;
    let before = Doors::lock(&mut transaction, &BTreeSet::from([namespace])).await;
    let before = before.map_err(unchanged)?;
    let door = before.doors.get(namespace);
    sqlx::query(SET)
        .bind(namespace.as_str())
        .bind(to_json(quotas)?)
        .bind(by)
        .bind(door.map_or(0, |door| door.tat_under(before.now, quotas)))
        .execute(&mut *transaction)
        .await
        .map_err(unchanged)?;
    transaction.commit().await.map_err(after_write)?;
    Ok(true)
}

/// Jobs and what was let in are read in one look, which nobody who brings jobs in is kept waiting by: what is let in
/// meanwhile stays beside the count. Payloads are read only for whom they matter.
const COUNT: &str = concat!(
    "WITH seen AS MATERIALIZED (
    SELECT counts, jobs_in, bytes_in, settings::jsonb ? 'max_bytes' AS weighs FROM quotas WHERE namespace = $1
), weighed AS MATERIALIZED (
    SELECT count(*) AS jobs, coalesce(sum(coalesce(octet_length(j.payload),
        (SELECT octet_length(b.bytes) FROM blobs b WHERE b.namespace = j.namespace AND b.id = j.payload_blob), 0)),
        0)::bigint AS bytes
    FROM jobs j WHERE (SELECT weighs FROM seen) AND j.namespace = $1 AND j.state < 10
), counted AS MATERIALIZED (
    SELECT count(*) AS jobs FROM jobs j
    WHERE NOT (SELECT weighs FROM seen) AND j.namespace = $1 AND j.state < 10
), collected AS MATERIALIZED (
    SELECT coalesce(sum(s.bytes), 0)::bigint AS bytes FROM series s
    WHERE (SELECT weighs FROM seen) AND s.namespace = $1 AND s.items > 0
)
UPDATE quotas q SET jobs = weighed.jobs + counted.jobs, bytes = weighed.bytes + collected.bytes,
    jobs_in = q.jobs_in - seen.jobs_in, bytes_in = q.bytes_in - seen.bytes_in, counts = q.counts + 1,
    counted_at = ", now!(), ",
    count_us = (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint
FROM seen, weighed, counted, collected
WHERE q.namespace = $1 AND q.counts = seen.counts"
);

async fn count(pool: &PgPool, namespace: &Namespace) -> Result<()> {
    let mut transaction = pool.begin().await.map_err(unchanged)?;
    let sql = "SELECT set_config('statement_timeout', '60s', true)";
    sqlx::query(sql).execute(&mut *transaction).await.map_err(unchanged)?;
    let query = sqlx::query(COUNT).bind(namespace.as_str());
    query.execute(&mut *transaction).await.map_err(unchanged)?;
    transaction.commit().await.map_err(after_write)
}
