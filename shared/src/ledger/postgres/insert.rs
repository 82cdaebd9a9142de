//! The one statement that brings jobs in, alone (group commit) or inside a transaction.

use std::collections::HashMap;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::row::{int8, value_parts};
use crate::ledger::Idempotency;
use crate::ledger::unfinished::group_of;
use crate::limits::IDEMPOTENCY_TTL;
use crate::model::job::{Job, JobState, NewJob};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// Inserts jobs with what belongs to them, and says which. A job is left out when its unique key is held,
/// or when the idempotency key that it came with is spent.
///
/// The parts of the statement see the same snapshot and pass rows on by RETURNING. Keys are sorted, so that two
/// such statements lock them in the same order: idempotency keys and unique ones before orders, which the insert
/// itself locks, by a trigger. Jobs of one order take their places as the rows come.
const INSERT: &str = "
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
), input AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bytea[],
        $7::uuid[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::bigint[], $13::text[],
        $14::bytea[], $15::text[], $16::text[], $17::text[], $25::bigint[], $26::bigint[], $27::text[],
        $28::int[])
    AS i(id, namespace, queue, kind, priority, payload, payload_blob, run_at, expires_at, spec,
        unique_key, window_us, tags, meta, request_id, traceparent, idempotency_key, delay_us, ttl_us, order_key,
        flow_group)
), spent AS (
    INSERT INTO idempotency (namespace, key, body_hash, ids, created_at)
    SELECT k.namespace, k.key, k.body_hash, k.ids, clock.now
    FROM unnest($18::text[], $19::text[], $20::bytea[], $21::bytea[])
        AS k(namespace, key, body_hash, ids), clock
    ON CONFLICT (namespace, key) DO UPDATE
        SET body_hash = EXCLUDED.body_hash, ids = EXCLUDED.ids, created_at = EXCLUDED.created_at
        WHERE idempotency.created_at <= EXCLUDED.created_at - $22
    RETURNING namespace, key
), held AS (
    INSERT INTO holds (namespace, queue, unique_key, job_id, until)
    SELECT i.namespace, i.queue, i.unique_key, i.id, clock.now + i.window_us
    FROM input i, clock
    WHERE i.unique_key IS NOT NULL
    ORDER BY i.namespace, i.queue, i.unique_key
    ON CONFLICT (namespace, queue, unique_key) DO UPDATE
        SET job_id = EXCLUDED.job_id, until = EXCLUDED.until
        WHERE holds.until <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    RETURNING job_id
), made AS (
    INSERT INTO jobs (id, fence, run_at, created_at, changed_at, expires_at, state, priority,
        namespace, queue, kind, spec, payload, payload_blob, tags, meta, unique_key, unique_until,
        request_id, traceparent, order_key, flow_group)
    SELECT i.id, 0, coalesce(i.run_at, clock.now + i.delay_us, clock.now), clock.now, clock.now,
        coalesce(i.expires_at, clock.now + i.ttl_us),
        CASE WHEN coalesce(i.run_at, clock.now + i.delay_us) > clock.now THEN 1 ELSE 2 END, i.priority, i.namespace, i.queue, i.kind,
        i.spec, i.payload, i.payload_blob, coalesce(i.tags::text[], '{}'), i.meta, i.unique_key,
        clock.now + i.window_us, i.request_id, i.traceparent, i.order_key, i.flow_group
    FROM input i, clock
    WHERE (SELECT count(*) FROM spent) + (SELECT count(*) FROM held) >= 0
      AND (i.unique_key IS NULL OR i.id IN (SELECT job_id FROM held))
      AND (i.idempotency_key IS NULL
           OR (i.namespace, i.idempotency_key) IN (SELECT namespace, key FROM spent))
    RETURNING id, created_at, namespace, payload_blob, state = 0 AS blocked
), named AS (
    UPDATE blobs b SET refs = b.refs + n.jobs
    FROM (SELECT namespace, payload_blob, count(*)::int AS jobs FROM made
          WHERE payload_blob IS NOT NULL GROUP BY namespace, payload_blob) n
    WHERE b.namespace = n.namespace AND b.id = n.payload_blob
), fresh AS (
    INSERT INTO queues (namespace, name, created_at)
    SELECT q.namespace, q.name, clock.now
    FROM unnest($23::text[], $24::text[]) AS q(namespace, name), clock
    ON CONFLICT (namespace, name) DO NOTHING
)
SELECT id, created_at, blocked FROM made";

/// An idempotency key to spend with the jobs that name it.
pub(super) struct Spend<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) idempotency: &'a Idempotency,
    /// See [`pack_ids`].
    pub(super) ids: Vec<u8>,
}

/// What one statement inserts.
#[derive(Default)]
pub(super) struct Insert<'a> {
    /// Each with the idempotency key that it depends on; with no unique key twice.
    pub(super) jobs: Vec<(&'a NewJob, Option<&'a str>)>,
    /// Each once.
    pub(super) spends: Vec<Spend<'a>>,
    /// Queues that may not exist yet, each once.
    pub(super) queues: Vec<(&'a Namespace, &'a QueueName)>,
}

/// The jobs that were inserted.
pub(super) type Made = HashMap<Uuid, Entry>;

/// What the ledger gave a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The time of acceptance.
    pub(super) created_at: Timestamp,
    /// Others of its order are before it.
    pub(super) blocked: bool,
}

impl<'a> Insert<'a> {
    /// Runs the statement once. Its effect is that of one auto-commit, or part of the open transaction.
    pub(super) async fn run(mut self, connection: &mut PgConnection) -> Result<Made, sqlx::Error> {
        // The order of locking, of orders and of idempotency keys. Within an order it is that of the caller.
        self.jobs.sort_by_cached_key(|(job, _)| {
            let order = job.spec.order_key.clone();
            let id = order.is_none().then_some(job.id);
            (order.map(|key| (job.namespace.clone(), job.queue.clone(), key)), id)
        });
        self.spends.sort_by(|a, b| {
            (a.namespace, &a.idempotency.key).cmp(&(b.namespace, &b.idempotency.key))
        });
        self.queues.sort();
        let rows = self.bind().fetch_all(connection).await?;
        rows.iter().map(made).collect()
    }

    fn bind(&self) -> Query<'static, sqlx::Postgres, PgArguments> {
        let (texts, places) = self.specs();
        let window = |job: &NewJob| job.unique.as_ref().and_then(|u| u.window);
        sqlx::query(INSERT)
            .bind(self.each(|j| j.id.uuid()))
            .bind(self.each(|j| j.namespace.as_str()))
            .bind(self.each(|j| j.queue.as_str()))
            .bind(self.each(|j| j.kind.as_str()))
            .bind(self.each(|j| i16::from(j.priority.level())))
            .bind(self.each(|j| value_parts(Some(&j.payload)).0))
            .bind(self.each(|j| value_parts(Some(&j.payload)).1))
            .bind(self.each(|j| j.run_at.map(Timestamp::micros)))
            .bind(self.each(|j| j.expires_at.map(Timestamp::micros)))
            .bind(places.iter().map(|n| texts[*n].as_str()).collect::<Vec<_>>())
            .bind(self.each(|j| j.unique.as_ref().map(|u| u.key.as_str())))
            .bind(self.each(|j| window(j).map(micros)))
            .bind(self.each(|j| array_text(&j.tags)))
            .bind(self.each(|j| j.meta.as_deref()))
            .bind(self.each(|j| j.request_id.as_deref()))
            .bind(self.each(|j| j.traceparent.as_deref()))
            .bind(self.jobs.iter().map(|(_, key)| *key).collect::<Vec<_>>())
            .bind(self.spends.iter().map(|s| s.namespace.as_str()).collect::<Vec<_>>())
            .bind(self.spends.iter().map(|s| s.idempotency.key.as_str()).collect::<Vec<_>>())
            .bind(self.spends.iter().map(|s| &s.idempotency.body_hash[..]).collect::<Vec<_>>())
            .bind(self.spends.iter().map(|s| s.ids.as_slice()).collect::<Vec<_>>())
            .bind(micros(IDEMPOTENCY_TTL))
            .bind(self.queues.iter().map(|q| q.0.as_str()).collect::<Vec<_>>())
            .bind(self.queues.iter().map(|q| q.1.as_str()).collect::<Vec<_>>())
            .bind(self.each(|j| j.delay.map(micros)))
            .bind(self.each(|j| j.ttl.map(micros)))
            .bind(self.each(|j| j.spec.order_key.as_deref()))
            .bind(self.each(|j| group_of(&j.spec, &j.kind)))
    }

    /// One column of the jobs.
    fn each<T>(&self, part: impl Fn(&'a NewJob) -> T) -> Vec<T> {
        self.jobs.iter().map(|(job, _)| part(job)).collect()
    }

    /// The rules as JSON texts, and which of them each job has. Neighbours mostly share theirs.
    fn specs(&self) -> (Vec<String>, Vec<usize>) {
        let (mut texts, mut places) = (Vec::new(), Vec::with_capacity(self.jobs.len()));
        let mut last = None;
        for (job, _) in &self.jobs {
            if last != Some(&job.spec) {
                let text = serde_json::to_string(&job.spec);
                texts.push(text.expect("rules are plain data and always serialise"));
                last = Some(&job.spec);
            }
            places.push(texts.len() - 1);
        }
        (texts, places)
    }
}

/// A row of id, time and whether the job is blocked.
pub(super) fn made(row: &PgRow) -> Result<(Uuid, Entry), sqlx::Error> {
    let created_at = Timestamp::from_micros(row.try_get(1)?);
    Ok((row.try_get(0)?, Entry { created_at, blocked: row.try_get(2)? }))
}

fn micros(duration: std::time::Duration) -> i64 {
    int8(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// Texts in PostgreSQL's own notation for an array of them; `None` for none.
pub(super) fn array_text(texts: &[String]) -> Option<String> {
    if texts.is_empty() {
        return None;
    }
    let mut out = String::from("{");
    for (n, text) in texts.iter().enumerate() {
        out.push_str(if n == 0 { "\"" } else { ",\"" });
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    }
    out.push('}');
    Some(out)
}

/// 16 bytes for each job of a submission, zero where it was refused.
pub(super) fn pack_ids(ids: impl Iterator<Item = Option<Uuid>>) -> Vec<u8> {
    ids.flat_map(|id| id.unwrap_or(Uuid::nil()).into_bytes()).collect()
}

/// Back from [`pack_ids`]; bytes that are none of ours are left out.
pub(super) fn unpack_ids(bytes: &[u8]) -> Vec<Option<Uuid>> {
    let ids = bytes.chunks_exact(16).filter_map(|chunk| Uuid::from_slice(chunk).ok());
    ids.map(|id| (!id.is_nil()).then_some(id)).collect()
}

/// The job as the ledger has it right after the insert.
pub(super) fn accepted(job: NewJob, Entry { created_at, blocked }: Entry) -> Job {
    let (run_at, expires_at) = job.times(created_at);
    Job {
        id: job.id,
        namespace: job.namespace,
        queue: job.queue,
        kind: job.kind,
        state: match blocked {
            true => JobState::Blocked,
            false if run_at > created_at => JobState::Scheduled,
            false => JobState::Ready,
        },
        priority: job.priority,
        payload: job.payload,
        spec: job.spec,
        fence: crate::model::id::Fence(0),
        attempt: 0,
        crashes: 0,
        run_at,
        created_at,
        started_at: None,
        finished_at: None,
        expires_at,
        output: None,
        error: None,
        worker: None,
        workflow: None,
        tags: job.tags,
        meta: job.meta,
        unique_key: job.unique.map(|u| u.key),
        cancel_requested: false,
        progress: None,
        request_id: job.request_id,
        traceparent: job.traceparent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_text_quotes_what_would_end_it() {
        let texts = ["a", "", "q\"", "b\\", "c,d}"].map(String::from);
        assert_eq!(array_text(&texts).unwrap(), r#"{"a","","q\"","b\\","c,d}"}"#);
        assert_eq!(array_text(&[]), None);
    }

    #[test]
    fn packed_ids_keep_their_places() {
        let ids = [Some(Uuid::now_v7()), None, Some(Uuid::now_v7())];
        assert_eq!(unpack_ids(&pack_ids(ids.into_iter())), ids);
    }
}
