//! Outcomes: a guarded update per job, with what follows from it, in one statement per batch.

use std::collections::{BTreeSet, HashMap, HashSet};

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::error::{after_write, is_collision, unchanged};
use super::row::{get, int4, int8, value_parts};
use super::runs::RELEASED;
use super::{LedgerError, Result, orders};
use crate::engine::{Ended, ShardId};
use crate::ledger::{Record, RecordRunning, Recorded, fit_text};
use crate::model::id::JobId;
use crate::model::job::{AttemptOutcome, JobState};
use crate::model::time::Timestamp;

/// Records of one statement.
const RECORDS_MAX: usize = 1_000;
/// Tries of one statement that met a deadlock.
const TRIES_MAX: u32 = 5;

/// Applies outcomes, each under its guard, and says to which jobs. The rows come in id order and are locked
/// in it. What hangs on an outcome (hold, attempt, roll-up, reference, step) follows from the rows that moved.
/// What follows from the end of a step is the function's, which is not called for jobs without one; what asks for
/// it comes first in the rows, so that it costs the others least.
///
/// Plans are made once, perhaps while the table is all but empty, and the index of live rows then looks as
/// good as the primary key; used later it would read every live row for every outcome. `NOT <>` and `+ 0` say
/// `=` and `<` in words that fit no index but the primary key.
const RECORD: &str = "
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
), v AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bigint[],
        $7::int[], $8::int[], $9::text[], $10::bytea[], $11::uuid[], $12::text[], $13::text[],
        $14::boolean[], $15::bigint[], $16::smallint[], $17::boolean[], $18::bytea[])
    AS v(id, namespace, fence, state, at, claimed_at, attempt, crashes, worker, output, output_blob,
        error_code, error_message, error_retryable, run_at, outcome, apart, usage)
), moved AS (
    UPDATE jobs j SET
        state = v.state, fence = v.fence, attempt = v.attempt, crashes = v.crashes,
        changed_at = clock.now,
        run_at = coalesce(v.run_at, j.run_at),
        started_at = coalesce(v.claimed_at, j.started_at),
        finished_at = CASE WHEN v.state >= 10 THEN v.at END,
        worker = coalesce(v.worker, j.worker),
        output = coalesce(v.output, j.output),
        output_blob = coalesce(v.output_blob, j.output_blob),
        error_code = CASE WHEN v.state = 10 THEN NULL WHEN v.error_code IS NOT NULL THEN v.error_code
            WHEN v.state = 12 THEN 'cancelled' ELSE j.error_code END,
        error_message = CASE WHEN v.state = 10 THEN NULL WHEN v.error_code IS NOT NULL THEN v.error_message
            WHEN v.state = 12 THEN coalesce(j.cancel_reason, 'cancelled on request')
            ELSE j.error_message END,
        error_retryable = CASE WHEN v.state = 10 THEN NULL WHEN v.error_code IS NOT NULL THEN v.error_retryable
            WHEN v.state = 12 THEN false ELSE j.error_retryable END,
        usage = CASE WHEN v.apart THEN NULL ELSE v.usage END
    FROM v, clock
    WHERE j.id = v.id AND NOT j.namespace <> v.namespace AND j.state + 0 < 10
      AND (j.fence < v.fence OR (j.fence = v.fence AND j.state = 3))
    RETURNING j.id, j.state, j.workflow_id, j.workflow_ord, j.namespace, j.queue, j.kind, j.unique_key, j.order_key,
        j.run_at AS due_at, j.created_at AS accepted_at,
        v.fence, v.at, v.claimed_at, v.attempt, v.worker, v.error_code, v.error_message,
        v.error_retryable, v.outcome, v.apart, v.usage, v.output_blob
), freed AS (
    DELETE FROM holds h USING moved m
    WHERE m.state >= 10 AND m.unique_key IS NOT NULL AND h.namespace = m.namespace
      AND h.queue = m.queue AND h.unique_key = m.unique_key AND h.job_id = m.id AND h.until IS NULL
), tried AS (
    INSERT INTO attempts (job_id, fence, started_at, finished_at, attempt, outcome, error_retryable,
        namespace, worker, error_code, error_message, usage)
    SELECT id, fence, claimed_at, at, attempt, outcome, error_retryable, namespace, worker, error_code,
        error_message, usage
    FROM moved WHERE apart
    ON CONFLICT (job_id, fence) DO UPDATE SET finished_at = EXCLUDED.finished_at,
        outcome = EXCLUDED.outcome, error_retryable = EXCLUDED.error_retryable,
        error_code = EXCLUDED.error_code, error_message = EXCLUDED.error_message,
        usage = EXCLUDED.usage
), counted AS (
    INSERT INTO rollups AS r (namespace, minute, queue, kind, outcome, count, run_ms, ended, dead,
        wait_ms, total_ms)
    SELECT namespace, at / 60000000 * 60000000, queue, kind, outcome, count(*),
        sum(greatest(0, at - coalesce(claimed_at, at)) / 1000)::bigint,
        count(*) FILTER (WHERE state >= 10), count(*) FILTER (WHERE state IN (11, 14)),
        coalesce(sum(greatest(0, coalesce(claimed_at, at) - due_at) / 1000) FILTER (WHERE state >= 10), 0)::bigint,
        coalesce(sum(greatest(0, at - accepted_at) / 1000) FILTER (WHERE state >= 10), 0)::bigint
    FROM moved WHERE outcome IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (namespace, minute, queue, kind, outcome) DO UPDATE
        SET count = r.count + EXCLUDED.count, run_ms = r.run_ms + EXCLUDED.run_ms,
            ended = r.ended + EXCLUDED.ended, dead = r.dead + EXCLUDED.dead,
            wait_ms = r.wait_ms + EXCLUDED.wait_ms, total_ms = r.total_ms + EXCLUDED.total_ms
), named AS (
    UPDATE blobs b SET refs = b.refs + 1 FROM moved m
    WHERE m.output_blob IS NOT NULL AND b.namespace = m.namespace AND b.id = m.output_blob
)
SELECT 0::smallint, NULL::uuid, array_agg(id) FROM moved
UNION ALL SELECT n.noted, n.subject, NULL FROM (
    SELECT array_agg(workflow_id) AS runs, array_agg(workflow_ord) AS ords, array_agg(state = 10) AS good
    FROM moved WHERE workflow_id IS NOT NULL AND state >= 10 HAVING count(*) > 0
) e, windlass_jobs_ended(e.runs, e.ords, e.good) AS n
UNION ALL SELECT n.noted, n.subject, NULL FROM (
    SELECT array_agg(id) AS ids, array_agg(namespace) AS namespaces, array_agg(queue) AS queues, array_agg(order_key) AS keys
    FROM moved WHERE order_key IS NOT NULL AND state >= 10 HAVING count(*) > 0
) e, windlass_order_lock(e.ids, e.namespaces, e.queues, e.keys) AS n";

/// What [`RECORD`] calls the jobs that it has changed.
const MOVED: i16 = 0;
/// What [`RECORD`] calls a job of an order that has ended.
const IN_ORDER: i16 = 3;

const RECORD_RUNNING: &str = "
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
), v AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::bigint[], $5::text[])
    AS v(id, fence, attempt, claimed_at, worker)
)
UPDATE jobs j SET state = 3, fence = v.fence, attempt = v.attempt, started_at = v.claimed_at,
    worker = v.worker, changed_at = clock.now
FROM v, clock
WHERE j.id = v.id AND j.state + 0 < 10 AND j.fence < v.fence";

/// What a batch has led to.
#[derive(Default)]
pub(super) struct Noted {
    /// One per record, in order.
    pub(super) replies: Vec<Recorded>,
    /// Jobs that may run now: of steps, and the first of orders.
    pub(super) released: Vec<JobId>,
    /// Runs with something to be decided over.
    pub(super) due: BTreeSet<Uuid>,
}

/// Applies outcomes in the order given. Each statement stands by itself: where a later one fails, a repeat
/// finds the earlier outcomes recorded.
pub(super) async fn record(pool: &PgPool, records: Vec<Record>) -> Result<Noted> {
    if records.is_empty() {
        return Ok(Noted::default());
    }
    let mut connection = pool.acquire().await.map_err(unchanged)?;
    record_all(&mut connection, &records, TRIES_MAX).await
}

/// Applies outcomes, all or none, unless a shard has another generation. The rows of the shards are locked until the
/// commit, so that no verification begins in between. One without a row was never opened: none is to be kept back.
pub(super) async fn record_within(
    pool: &PgPool,
    records: Vec<Record>,
    mut generations: Vec<(ShardId, u64)>,
) -> Result<Option<Noted>> {
    generations.sort_unstable();
    let mut transaction = pool.begin().await.map_err(unchanged)?;
    for (shard, generation) in &generations {
        let sql = "SELECT generation FROM shards WHERE namespace = $1 AND queue = $2 AND shard = $3 \
                   FOR SHARE";
        let found: Option<i64> = sqlx::query_scalar(sql)
            .bind(shard.namespace.as_str())
            .bind(shard.queue.as_str())
            .bind(i32::from(shard.index))
            .fetch_optional(&mut *transaction)
            .await
            .map_err(unchanged)?;
        if found.unwrap_or(0) != int8(*generation) {
            return Ok(None);
        }
    }
    // A deadlock undoes the transaction: the caller repeats it.
    let noted = record_all(&mut transaction, &records, 1).await?;
    transaction.commit().await.map_err(after_write)?;
    Ok(Some(noted))
}

async fn record_all(
    connection: &mut PgConnection,
    records: &[Record],
    tries: u32,
) -> Result<Noted> {
    let mut noted = Noted { replies: vec![Recorded::Stale; records.len()], ..Noted::default() };
    for wave in waves(records) {
        for chunk in wave.chunks(RECORDS_MAX) {
            record_chunk(connection, records, chunk, &mut noted, tries).await?;
        }
    }
    Ok(noted)
}

/// Splits a batch so that no part has a job twice and a job's outcomes keep their order. Each part is in
/// id order.
fn waves(records: &[Record]) -> Vec<Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut seen: HashMap<_, usize> = HashMap::with_capacity(records.len());
    for (n, record) in records.iter().enumerate() {
        let wave = seen.entry(record.id).or_default();
        if waves.len() == *wave {
            waves.push(Vec::new());
        }
        waves[*wave].push(n);
        *wave += 1;
    }
    waves.iter_mut().for_each(|wave| wave.sort_unstable_by_key(|n| records[*n].id));
    waves
}

async fn record_chunk(
    connection: &mut PgConnection,
    records: &[Record],
    chunk: &[usize],
    noted: &mut Noted,
    tries: u32,
) -> Result<()> {
    let chosen: Vec<&Record> = chunk.iter().map(|n| &records[*n]).collect();
    let (mut moved, mut in_order) = (HashSet::with_capacity(chunk.len()), Vec::new());
    for row in apply(connection, &chosen, tries).await? {
        let what = get::<i16>(&row, 0)?;
        if what == MOVED {
            // In one row: a row for each took as long to read as to write.
            moved.extend(get::<Option<Vec<Uuid>>>(&row, 2)?.unwrap_or_default());
            continue;
        }
        let id = get(&row, 1)?;
        match what {
            RELEASED => noted.released.push(JobId::from_uuid(id)),
            IN_ORDER => in_order.push(id),
            _ => drop(noted.due.insert(id)),
        }
    }
    // Their triggers have run by now.
    noted.released.extend(orders::heads_after(connection, &in_order).await?);
    let (applied, left): (Vec<usize>, Vec<usize>) =
        chunk.iter().partition(|n| moved.contains(&records[**n].id.uuid()));
    for n in applied {
        noted.replies[n] = Recorded::Applied;
    }
    if left.is_empty() {
        return Ok(());
    }
    let sql = "SELECT j.id FROM unnest($1::uuid[], $2::text[]) AS v(id, namespace) \
               JOIN jobs j ON j.id = v.id AND NOT j.namespace <> v.namespace";
    let known: Vec<Uuid> = sqlx::query_scalar(sql)
        .bind(left.iter().map(|n| records[*n].id.uuid()).collect::<Vec<_>>())
        .bind(left.iter().map(|n| records[*n].namespace.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
        .map_err(unchanged)?;
    let known: HashSet<Uuid> = known.into_iter().collect();
    for n in left {
        let exists = known.contains(&records[n].id.uuid());
        noted.replies[n] = if exists { Recorded::Stale } else { Recorded::Unknown };
    }
    Ok(())
}

/// Runs the statement; again where it met a deadlock, which undid all of it.
async fn apply(
    connection: &mut PgConnection,
    records: &[&Record],
    tries: u32,
) -> Result<Vec<PgRow>> {
    for _ in 0..tries {
        match bind(records).fetch_all(&mut *connection).await {
            Ok(rows) => return Ok(rows),
            Err(error) if is_collision(&error) => {}
            Err(error) => return Err(after_write(error)),
        }
    }
    Err(LedgerError::Unavailable("outcomes kept colliding with other writes".into()))
}

fn bind(records: &[&Record]) -> Query<'static, sqlx::Postgres, PgArguments> {
    fn each<'a, T>(records: &[&'a Record], part: impl Fn(&'a Record) -> T) -> Vec<T> {
        records.iter().map(|record| part(record)).collect()
    }
    let error = |r: &Record| r.error.is_some();
    sqlx::query(RECORD)
        .bind(each(records, |r| r.id.uuid()))
        .bind(each(records, |r| r.namespace.as_str()))
        .bind(each(records, |r| int8(r.fence.0)))
        .bind(each(records, |r| moves_to(r.ended) as i16))
        .bind(each(records, |r| r.at.micros()))
        .bind(each(records, |r| r.claimed_at.map(Timestamp::micros)))
        .bind(each(records, |r| int4(r.attempt)))
        .bind(each(records, |r| int4(r.crashes)))
        .bind(each(records, |r| r.worker.as_deref().map(fit_text)))
        .bind(each(records, |r| value_parts(r.output.as_ref()).0))
        .bind(each(records, |r| value_parts(r.output.as_ref()).1))
        .bind(each(records, |r| r.error.as_ref().map(|e| fit_text(&e.code))))
        .bind(each(records, |r| r.error.as_ref().map(|e| fit_text(&e.message))))
        .bind(each(records, |r| error(r).then(|| r.error.as_ref().is_some_and(|e| e.retryable))))
        .bind(each(records, |r| next_run(r.ended).map(Timestamp::micros)))
        .bind(each(records, |r| outcome(r).map(|o| o as i16)))
        .bind(each(records, is_apart))
        .bind(each(records, |r| r.usage.as_deref()))
}

const fn moves_to(ended: Ended) -> JobState {
    match ended {
        Ended::Succeeded => JobState::Succeeded,
        Ended::Retry(_) => JobState::Retrying,
        Ended::Dead => JobState::Dead,
        Ended::Snoozed(_) => JobState::Scheduled,
        Ended::Released | Ended::Lost => JobState::Ready,
        Ended::Cancelled => JobState::Cancelled,
        Ended::Expired => JobState::Expired,
        Ended::Quarantined => JobState::Quarantined,
    }
}

const fn next_run(ended: Ended) -> Option<Timestamp> {
    match ended {
        Ended::Retry(at) | Ended::Snoozed(at) => Some(at),
        Ended::Succeeded
        | Ended::Dead
        | Ended::Released
        | Ended::Lost
        | Ended::Cancelled
        | Ended::Expired
        | Ended::Quarantined => None,
    }
}

/// How the attempt ended; `None` where there was none.
fn outcome(record: &Record) -> Option<AttemptOutcome> {
    let outcome = match record.ended {
        Ended::Succeeded => AttemptOutcome::Succeeded,
        Ended::Retry(_) | Ended::Dead if record.timed_out => AttemptOutcome::TimedOut,
        Ended::Retry(_) | Ended::Dead => AttemptOutcome::Failed,
        Ended::Snoozed(_) => AttemptOutcome::Snoozed,
        Ended::Released => AttemptOutcome::Released,
        Ended::Lost | Ended::Quarantined => AttemptOutcome::LeaseLost,
        Ended::Cancelled => AttemptOutcome::Cancelled,
        Ended::Expired => return None,
    };
    let claimed = record.claimed_at.is_some() || record.ended == Ended::Succeeded;
    claimed.then_some(outcome)
}

/// Whether the attempt gets a row of its own. A success at the first attempt is on the job's row alone.
fn is_apart(record: &Record) -> bool {
    let at_once = record.ended == Ended::Succeeded && record.attempt <= 1 && record.crashes == 0;
    outcome(record).is_some() && !at_once
}

/// Notes leases that have lasted; older ones than recorded are left alone.
pub(super) async fn record_running(pool: &PgPool, mut running: Vec<RecordRunning>) -> Result<()> {
    // In id order, the order of locking; of a job that is there twice the highest fence counts.
    running.sort_unstable_by_key(|r| (r.id, std::cmp::Reverse(r.fence)));
    running.dedup_by_key(|r| r.id);
    for chunk in running.chunks(RECORDS_MAX) {
        let mut tries = 1;
        loop {
            let query = sqlx::query(RECORD_RUNNING)
                .bind(chunk.iter().map(|r| r.id.uuid()).collect::<Vec<_>>())
                .bind(chunk.iter().map(|r| int8(r.fence.0)).collect::<Vec<_>>())
                .bind(chunk.iter().map(|r| int4(r.attempt)).collect::<Vec<_>>())
                .bind(chunk.iter().map(|r| r.claimed_at.micros()).collect::<Vec<_>>())
                .bind(chunk.iter().map(|r| fit_text(&r.worker)).collect::<Vec<_>>());
            match query.execute(pool).await {
                Ok(_) => break,
                Err(error) if is_collision(&error) && tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(after_write(error)),
            }
        }
    }
    Ok(())
}
