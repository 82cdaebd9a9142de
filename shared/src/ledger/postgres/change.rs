//! Changes by hand: cancel, redrive, patch, delete. Each names the states that allow it.

use sqlx::postgres::PgRow;
use sqlx::{Acquire, PgConnection, PgPool};

use super::error::{after_write, is_collision, unchanged};
use super::forget::{self, By, Forget};
use super::row::{self, get, job_columns, select_jobs};
use super::{LedgerError, Result};
use crate::ledger::{Changed, Guard, JobPatch, fit_text};
use crate::model::id::{Fence, JobId};
use crate::model::job::{Job, JobSpec, JobState};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// Tries of a change that met a deadlock, or a job that changed its state meanwhile.
const TRIES_MAX: u32 = 5;

pub(super) async fn cancel(
    pool: &PgPool,
    (namespace, id): (&Namespace, JobId),
    seen: Option<Guard<'_>>,
    running: bool,
    reason: &str,
) -> Result<Changed<Job>> {
    const ASK: &str = concat!(
        "WITH asked AS (UPDATE jobs SET cancel_requested = true, cancel_reason = $3 \
         WHERE id = $1 AND namespace = $2 AND state < 10 AND state <> 0 \
           AND ($4::bigint IS NULL OR fence = $4 AND queue = $5) RETURNING *) SELECT ",
        job_columns!(),
        " FROM asked j LEFT JOIN job_progress p ON p.job_id = j.id"
    );
    const END: &str = concat!(
        "WITH ended AS (UPDATE jobs j SET state = 12, cancel_requested = true, cancel_reason = $3, \
             finished_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, \
             changed_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, \
             error_code = 'cancelled', error_message = $3, error_retryable = false \
         WHERE id = $1 AND namespace = $2 AND state < 10 \
           AND (state <> 0 OR order_key IS NOT NULL \
                AND EXISTS (SELECT FROM order_links l WHERE l.job_id = j.id)) \
           AND (NOT $6 OR state = 0) \
           AND ($4::bigint IS NULL OR fence = $4 AND queue = $5) RETURNING *), \
         freed AS (DELETE FROM holds h USING ended e WHERE e.unique_key IS NOT NULL \
             AND h.namespace = e.namespace AND h.queue = e.queue AND h.unique_key = e.unique_key \
             AND h.job_id = e.id AND h.until IS NULL) SELECT ",
        job_columns!(),
        // A condition, for what an answer does not need would not be carried out.
        " FROM ended j LEFT JOIN job_progress p ON p.job_id = j.id \
         WHERE j.workflow_id IS NULL OR (SELECT count(*) FROM windlass_jobs_ended( \
             ARRAY[j.workflow_id], ARRAY[j.workflow_ord], ARRAY[false])) >= 0"
    );
    let mut ends = !running;
    for _ in 0..TRIES_MAX {
        let sql = if ends { END } else { ASK };
        let query = sqlx::query(sql)
            .bind(id.uuid())
            .bind(namespace.as_str())
            .bind(fit_text(reason))
            .bind(seen.map(|seen| row::int8(seen.fence.0)))
            .bind(seen.map(|seen| seen.queue.as_str()));
        let query = if ends { query.bind(running) } else { query };
        match query.fetch_optional(pool).await {
            Ok(Some(row)) => return Ok(Changed::Done(row::job(&row)?)),
            Ok(None) => match recorded_state(pool, namespace, id).await? {
                Some(JobState::Blocked) if !ends => ends = true,
                Some(state)
                    if state.is_terminal() || state == JobState::Blocked || seen.is_some() =>
                {
                    return Ok(Changed::Refused(state));
                }
                // Redriven or released between the two statements.
                Some(_) => ends = !running,
                None => return Ok(Changed::Unknown),
            },
            Err(error) if is_collision(&error) => {}
            Err(error) => return Err(after_write(error)),
        }
    }
    Err(LedgerError::Unavailable("the job kept changing".into()))
}

async fn recorded_state(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<JobState>> {
    let sql = "SELECT state FROM jobs WHERE id = $1 AND namespace = $2";
    let query = sqlx::query_scalar(sql).bind(id.uuid()).bind(namespace.as_str());
    let number: Option<i16> = query.fetch_optional(pool).await.map_err(unchanged)?;
    number.map(row::state).transpose()
}

/// What a change does to a job whose row is locked.
enum Step<'a> {
    Redrive,
    Patch(&'a JobPatch, Option<Guard<'a>>),
}

pub(super) async fn redrive(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
) -> Result<Changed<Job>> {
    change(pool, namespace, id, &Step::Redrive).await
}

pub(super) async fn patch(
    pool: &PgPool,
    (namespace, id): (&Namespace, JobId),
    seen: Option<Guard<'_>>,
    patch: &JobPatch,
) -> Result<Changed<Job>> {
    if let Some(tags) = &patch.tags
        && tags.iter().any(|tag| tag.contains('\0'))
    {
        return Err(LedgerError::Failed("a tag contains a NUL character".into()));
    }
    change(pool, namespace, id, &Step::Patch(patch, seen)).await
}

/// Runs a change in a transaction; again where it met a deadlock, which undid it.
async fn change(
    pool: &PgPool,
    namespace: &Namespace,
    id: JobId,
    step: &Step<'_>,
) -> Result<Changed<Job>> {
    for _ in 0..TRIES_MAX {
        let mut connection = pool.acquire().await.map_err(unchanged)?;
        let mut transaction = connection.begin().await.map_err(unchanged)?;
        let changed = match change_in(&mut transaction, namespace, id, step).await {
            Ok(changed) => changed,
            Err(Fault::Database(error)) if is_collision(&error) => continue,
            Err(Fault::Database(error)) => return Err(unchanged(error)),
            Err(Fault::Ledger(error)) => return Err(error),
        };
        if !matches!(changed, Changed::Done(_)) {
            return Ok(changed);
        }
        match transaction.commit().await {
            Ok(()) => return Ok(changed),
            Err(error) if is_collision(&error) => {}
            Err(error) => return Err(after_write(error)),
        }
    }
    Err(LedgerError::Unavailable("the change kept colliding with other writes".into()))
}

enum Fault {
    Database(sqlx::Error),
    Ledger(LedgerError),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// What decides about a change.
struct Locked {
    state: JobState,
    queue: QueueName,
    unique_key: Option<String>,
    is_windowed: bool,
    spec: String,
    fence: Fence,
    /// It belongs to a run, which alone makes it run again.
    is_step: bool,
    /// It has its place among those of its queue.
    in_order: bool,
}

async fn change_in(
    connection: &mut PgConnection,
    namespace: &Namespace,
    id: JobId,
    step: &Step<'_>,
) -> Result<Changed<Job>, Fault> {
    let sql = "SELECT state, queue, unique_key, unique_until, spec, fence, \
               workflow_id IS NOT NULL, order_key IS NOT NULL FROM jobs \
               WHERE id = $1 AND namespace = $2 FOR UPDATE";
    let query = sqlx::query(sql).bind(id.uuid()).bind(namespace.as_str());
    let Some(row) = query.fetch_optional(&mut *connection).await? else {
        return Ok(Changed::Unknown);
    };
    let job = locked(&row)?;
    let done = match step {
        Step::Redrive => redrive_in(connection, namespace, id, &job).await?,
        Step::Patch(_, Some(seen)) if job.fence != seen.fence || job.queue != *seen.queue => false,
        Step::Patch(patch, _) => patch_in(connection, namespace, id, &job, patch).await?,
    };
    if !done {
        return Ok(Changed::Refused(job.state));
    }
    const SQL: &str = select_jobs!("jobs", "WHERE j.id = $1");
    let row = sqlx::query(SQL).bind(id.uuid()).fetch_one(connection).await?;
    Ok(Changed::Done(row::job(&row)?))
}

fn locked(row: &PgRow) -> Result<Locked> {
    Ok(Locked {
        state: row::state(get(row, 0)?)?,
        queue: row::parse(row, 1, "queue")?,
        unique_key: get(row, 2)?,
        is_windowed: get::<Option<i64>>(row, 3)?.is_some(),
        spec: get(row, 4)?,
        fence: Fence(row::unsigned(row, 5, "fence")?),
        is_step: get(row, 6)?,
        in_order: get(row, 7)?,
    })
}

async fn redrive_in(
    connection: &mut PgConnection,
    namespace: &Namespace,
    id: JobId,
    job: &Locked,
) -> Result<bool, Fault> {
    if !job.state.can_redrive() || job.is_step {
        return Ok(false);
    }
    if let Some(key) = &job.unique_key
        && !hold(connection, (namespace, &job.queue, key), id, job.is_windowed).await?
    {
        return Ok(false);
    }
    let sql = "
        WITH clock AS MATERIALIZED (
            SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
        ), progress AS (DELETE FROM job_progress WHERE job_id = $1)
        UPDATE jobs SET state = 2, fence = fence + 1, attempt = 0, crashes = 0, run_at = clock.now,
            changed_at = clock.now, started_at = NULL, finished_at = NULL, output = NULL,
            output_blob = NULL, cancel_requested = false, cancel_reason = NULL,
            expires_at = CASE WHEN expires_at > clock.now THEN expires_at END
        FROM clock WHERE id = $1";
    sqlx::query(sql).bind(id.uuid()).execute(connection).await?;
    Ok(true)
}

/// Takes a unique key for a job again; whether it is the job's now. A window is not begun anew: where it is
/// over, it is enough that nobody else holds the key.
async fn hold(
    connection: &mut PgConnection,
    (namespace, queue, key): (&Namespace, &QueueName, &str),
    id: JobId,
    is_windowed: bool,
) -> Result<bool, sqlx::Error> {
    if !is_windowed {
        let sql = "
            INSERT INTO holds AS h (namespace, queue, unique_key, job_id, until)
            VALUES ($1, $2, $3, $4, NULL)
            ON CONFLICT (namespace, queue, unique_key) DO UPDATE
                SET job_id = EXCLUDED.job_id, until = NULL
                WHERE h.job_id = EXCLUDED.job_id
                   OR h.until <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let query = sqlx::query(sql)
            .bind(namespace.as_str())
            .bind(queue.as_str())
            .bind(key)
            .bind(id.uuid());
        return Ok(query.execute(connection).await?.rows_affected() == 1);
    }
    let sql = "
        SELECT NOT EXISTS (SELECT FROM holds
            WHERE namespace = $1 AND queue = $2 AND unique_key = $3 AND job_id <> $4
              AND (until IS NULL
                   OR until > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))";
    let query = sqlx::query_scalar(sql);
    let query = query.bind(namespace.as_str()).bind(queue.as_str()).bind(key).bind(id.uuid());
    query.fetch_one(connection).await
}

async fn patch_in(
    connection: &mut PgConnection,
    namespace: &Namespace,
    id: JobId,
    job: &Locked,
    patch: &JobPatch,
) -> Result<bool, Fault> {
    if job.state.is_terminal() || matches!(job.state, JobState::Running | JobState::Blocked) {
        return Ok(false);
    }
    let moves = patch.queue.as_ref().filter(|queue| **queue != job.queue);
    if let Some(to) = moves
        && (job.in_order || !move_to_queue(connection, namespace, id, job, to).await?)
    {
        return Ok(false);
    }
    let spec = match patch.max_attempts {
        Some(max_attempts) => {
            let spec: JobSpec = row::json(&job.spec, "spec")?;
            Some(row::to_json(&JobSpec { max_attempts, ..spec })?)
        }
        None => None,
    };
    // A retrying job stays retrying; the others wait for their time or don't.
    let sql = "
        WITH clock AS MATERIALIZED (
            SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
        )
        UPDATE jobs SET fence = fence + 1, changed_at = clock.now,
            priority = coalesce($2, priority), run_at = coalesce($3, run_at),
            queue = coalesce($4, queue), spec = coalesce($5, spec), tags = coalesce($6, tags),
            state = CASE WHEN $3 IS NULL OR state = 4 THEN state
                         WHEN $3 > clock.now THEN 1 ELSE 2 END
        FROM clock WHERE id = $1";
    sqlx::query(sql)
        .bind(id.uuid())
        .bind(patch.priority.map(|p| i16::from(p.level())))
        .bind(patch.run_at.map(Timestamp::micros))
        .bind(moves.map(QueueName::as_str))
        .bind(spec)
        .bind(&patch.tags)
        .execute(connection)
        .await?;
    Ok(true)
}

/// Makes the queue, and takes the job's unique key along; whether the key is free there.
///
/// # Errors
/// [`LedgerError::TooManyQueues`], too.
async fn move_to_queue(
    connection: &mut PgConnection,
    namespace: &Namespace,
    id: JobId,
    job: &Locked,
    to: &QueueName,
) -> Result<bool, Fault> {
    if !super::queues::make(&mut *connection, namespace, to).await? {
        return Err(LedgerError::TooManyQueues.into());
    }
    let Some(key) = &job.unique_key else { return Ok(true) };
    let sql = "DELETE FROM holds WHERE namespace = $1 AND queue = $2 AND unique_key = $3 \
               AND job_id = $4 RETURNING until";
    let query = sqlx::query_scalar(sql);
    let query = query.bind(namespace.as_str()).bind(job.queue.as_str()).bind(key).bind(id.uuid());
    // Without a hold (its window is over) there is nothing to take along.
    let Some(until): Option<Option<i64>> = query.fetch_optional(&mut *connection).await? else {
        return Ok(true);
    };
    let sql = "
        INSERT INTO holds AS h (namespace, queue, unique_key, job_id, until)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (namespace, queue, unique_key) DO UPDATE
            SET job_id = EXCLUDED.job_id, until = EXCLUDED.until
            WHERE h.until <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(to.as_str()).bind(key);
    let moved = query.bind(id.uuid()).bind(until).execute(connection).await?;
    Ok(moved.rows_affected() == 1)
}

pub(super) async fn delete(pool: &PgPool, namespace: &Namespace, id: JobId) -> Result<Changed<()>> {
    let ended_before = Timestamp::from_micros(i64::MAX);
    let by = By::Hand(namespace);
    let one = Forget { ids: vec![id.uuid()], ended_before, by };
    if forget::forget(pool, one).await? > 0 {
        return Ok(Changed::Done(()));
    }
    Ok(recorded_state(pool, namespace, id).await?.map_or(Changed::Unknown, Changed::Refused))
}
