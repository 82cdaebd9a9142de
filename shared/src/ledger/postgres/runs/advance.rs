//! A decision over a run, carried out whole or not at all.

use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::super::error::{after_write, is_collision, unchanged};
use super::super::row::{int4, int8, value_parts};
use super::super::{Inner, LedgerError, Result, jobs};
use super::create::{StepJobRow, insert_jobs, insert_steps};
use super::lower::lowered_ctes;
use crate::ledger::fit_text;
use crate::ledger::runs::{Advance, Advanced, END, Move, NewStep, Release, Run};
use crate::model::id::JobId;
use crate::model::time::Timestamp;

/// Tries of the transaction after a deadlock.
const TRIES_MAX: u32 = 5;

/// See [`crate::ledger::Ledger::advance`].
pub(in super::super) async fn advance(
    inner: &Inner,
    run: &Run,
    advance: &Advance,
) -> Result<Advanced> {
    for _ in 0..TRIES_MAX {
        let mut connection = inner.bulk.acquire().await.map_err(unchanged)?;
        match attempt(&mut connection, run, advance).await {
            Ok(None) => return Ok(Advanced::Conflict),
            Ok(Some((ids, more))) => {
                let mut released = Vec::with_capacity(ids.len());
                for ids in ids.chunks(1_000) {
                    // What cannot be read back now is pushed by the sweep.
                    released.extend(jobs::jobs(&inner.pool, ids).await.unwrap_or_default());
                }
                return Ok(Advanced::Done { released, more });
            }
            Err(error) if is_collision(&error) => {}
            // Its version tells the next advance whether it was committed.
            Err(error) => return Err(after_write(error)),
        }
    }
    Err(LedgerError::Unavailable("an advance kept colliding with other writes".into()))
}

/// One try: the jobs that may run, and whether more is due. `None`: the run is not as it was, nothing is changed.
async fn attempt(
    connection: &mut PgConnection,
    run: &Run,
    advance: &Advance,
) -> Result<Option<(Vec<JobId>, bool)>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let Some(now) = move_run(&mut transaction, run, advance).await? else {
        return Ok(None);
    };
    let mut released = Vec::new();
    if advance.stop {
        stop(&mut transaction, run, now).await?;
    }
    add(&mut transaction, run, &advance.added, now).await?;
    if !move_steps(&mut transaction, run, &advance.moves, &mut released).await? {
        return Ok(None);
    }
    release(&mut transaction, run, &advance.releases, now, &mut released).await?;
    let ended = advance.state.is_some_and(|state| state.is_terminal());
    if ended {
        tell_parent(&mut transaction, run, advance).await?;
    }
    let sql = if ended {
        "WITH cleared AS (UPDATE workflow_steps SET due = 0, wake_at = NULL \
         WHERE workflow_id = $1 AND (due > 0 OR wake_at IS NOT NULL)) SELECT false"
    } else {
        "SELECT EXISTS (SELECT FROM workflow_steps WHERE workflow_id = $1 AND due > 0)"
    };
    let more = sqlx::query_scalar(sql).bind(run.id.uuid()).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Some((released, more)))
}

/// Moves the run itself, if it is as it was; ledger time.
async fn move_run(
    connection: &mut PgConnection,
    run: &Run,
    advance: &Advance,
) -> Result<Option<i64>, sqlx::Error> {
    const SQL: &str = "
UPDATE workflows SET version = version + 1,
    changed_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    finished_at = CASE WHEN $3 >= 10 THEN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint END,
    state = coalesce($3, state), ending = coalesce($4, ending),
    error_code = coalesce($5, error_code), error_message = coalesce($6, error_message),
    output = coalesce($7, output), output_blob = coalesce($8, output_blob)
WHERE id = $1 AND version = $2 AND state < 10
RETURNING changed_at";
    let (output, blob) = value_parts(advance.output.as_ref());
    let moved = sqlx::query_scalar(SQL)
        .bind(run.id.uuid())
        .bind(int8(advance.version))
        .bind(advance.state.map(|s| s as i16))
        .bind(advance.ending.map(|s| s as i16))
        .bind(advance.error.as_ref().map(|e| fit_text(&e.code)))
        .bind(advance.error.as_ref().map(|e| fit_text(&e.message)))
        .bind(output)
        .bind(blob)
        .fetch_optional(&mut *connection)
        .await?;
    if let (Some(_), Some(blob)) = (moved, blob) {
        let sql = "UPDATE blobs SET refs = refs + 1 WHERE namespace = $1 AND id = $2";
        sqlx::query(sql).bind(run.namespace.as_str()).bind(blob).execute(connection).await?;
    }
    Ok(moved)
}

/// Cancels what has not started, and makes the end wait for what runs: with its dependents cancelled, a running
/// step would otherwise be needed by nobody.
async fn stop(connection: &mut PgConnection, run: &Run, now: i64) -> Result<(), sqlx::Error> {
    const CANCEL: &str = "
WITH stopped AS (
    UPDATE workflow_steps SET state = 12, finished_at = $2, due = 0, wake_at = NULL
    WHERE workflow_id = $1 AND state = 0 AND ord >= 0
    RETURNING job_id, dependents
), ended AS (
    UPDATE jobs j SET state = 12, cancel_requested = true, finished_at = $2, changed_at = $2,
        error_code = 'cancelled', error_message = 'its workflow was stopped', error_retryable = false
    FROM stopped s WHERE j.id = s.job_id AND j.state + 0 = 0
)
SELECT count(*) FROM stopped WHERE -1 = ANY(dependents)";
    const AWAIT: &str = "
WITH awaited AS (
    UPDATE workflow_steps SET dependents = dependents || -1
    WHERE workflow_id = $1 AND state IN (1, 2) AND NOT -1 = ANY(dependents)
    RETURNING ord
)
SELECT count(*) FROM awaited";
    // The end may have been the last that waits: then it is due by this very statement.
    const LOWER: &str = "
UPDATE workflow_steps SET needs_left = needs_left + $2, due = due + (needs_left + $2 = 0)::int
WHERE workflow_id = $1 AND ord = -1";
    let id = run.id.uuid();
    let stopped: i64 =
        sqlx::query_scalar(CANCEL).bind(id).bind(now).fetch_one(&mut *connection).await?;
    let awaited: i64 = sqlx::query_scalar(AWAIT).bind(id).fetch_one(&mut *connection).await?;
    let change = i32::try_from(awaited - stopped).unwrap_or_default();
    sqlx::query(LOWER).bind(id).bind(change).execute(connection).await?;
    Ok(())
}

/// Brings steps in, and makes those that are there already wait for them.
async fn add(
    connection: &mut PgConnection,
    run: &Run,
    added: &[NewStep],
    now: i64,
) -> Result<(), sqlx::Error> {
    if added.is_empty() {
        return Ok(());
    }
    let jobs: Vec<StepJobRow<'_>> = added.iter().filter_map(StepJobRow::of_step).collect();
    insert_jobs(connection, run.id, &jobs, now).await?;
    insert_steps(connection, run.id, &run.namespace, added, now).await?;
    let fresh: Vec<i32> = added.iter().map(|step| step.ord).collect();
    let edges: Vec<(i32, i32)> = added
        .iter()
        .flat_map(|step| step.dependents.iter().map(|d| (*d, step.ord)))
        .filter(|(dependent, _)| !fresh.contains(dependent))
        .collect();
    let sql = "
WITH v AS (SELECT * FROM unnest($2::int[], $3::int[]) AS v(dependent, need)),
g AS (SELECT dependent, array_agg(need) AS needs, count(*)::int AS n FROM v GROUP BY dependent)
UPDATE workflow_steps s SET needs = s.needs || g.needs, needs_left = s.needs_left + g.n
FROM g WHERE s.workflow_id = $1 AND s.ord = g.dependent";
    sqlx::query(sql)
        .bind(run.id.uuid())
        .bind(edges.iter().map(|e| e.0).collect::<Vec<_>>())
        .bind(edges.iter().map(|e| e.1).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    let sql = "UPDATE workflows SET steps = steps + $2 WHERE id = $1";
    let count = i32::try_from(added.len()).unwrap_or(i32::MAX);
    sqlx::query(sql).bind(run.id.uuid()).bind(count).execute(connection).await?;
    Ok(())
}

/// Moves steps, all of them or none; `false`: one is not where it was.
async fn move_steps(
    connection: &mut PgConnection,
    run: &Run,
    moves: &[Move],
    released: &mut Vec<JobId>,
) -> Result<bool, sqlx::Error> {
    const SQL: &str = concat!(
        "WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
), v AS MATERIALIZED (
    SELECT * FROM unnest($2::int[], $3::smallint[], $4::smallint[], $5::bigint[], $6::bytea[], $7::text[],
        $8::text[], $9::bigint[], $10::bytea[], $11::int[])
    AS v(ord, from_state, to_state, seen, output, error_code, error_message, wake_at, list, length)
), stepped AS (
    UPDATE workflow_steps s SET state = v.to_state, due = greatest(0, s.due - v.seen),
        output = coalesce(v.output, s.output), wake_at = v.wake_at,
        error_code = coalesce(v.error_code, s.error_code),
        error_message = coalesce(v.error_message, s.error_message),
        items = coalesce(v.list, s.items), items_total = coalesce(v.length, s.items_total),
        items_open = coalesce(v.length, s.items_open),
        items_made = CASE WHEN v.length IS NULL THEN s.items_made ELSE 0 END,
        started_at = CASE WHEN v.from_state = 0 AND v.to_state < 10 THEN clock.now ELSE s.started_at END,
        finished_at = CASE WHEN v.to_state >= 10 THEN clock.now ELSE s.finished_at END
    FROM v, clock WHERE s.workflow_id = $1 AND s.ord = v.ord AND s.state = v.from_state
    RETURNING s.workflow_id, s.ord, s.state, s.dependents, s.job_id, v.from_state, s.error_code, s.error_message
), fallen AS (
    SELECT s.workflow_id, d.ord, count(*)::int AS n FROM stepped s, unnest(s.dependents) AS d(ord)
    WHERE s.state >= 10 GROUP BY 1, 2 ORDER BY 1, 2
), ",
        lowered_ctes!(),
        ", skipped AS (
    UPDATE jobs j SET state = 12, finished_at = clock.now, changed_at = clock.now,
        error_code = coalesce(s.error_code, 'cancelled'), error_message = coalesce(s.error_message, 'not needed'),
        error_retryable = false
    FROM stepped s, clock
    WHERE s.from_state = 0 AND s.state >= 10 AND j.id = s.job_id AND j.state + 0 = 0
)
SELECT (SELECT count(*) FROM stepped), (SELECT array_agg(id) FROM released)"
    );
    if moves.is_empty() {
        return Ok(true);
    }
    fn each<'a, T>(moves: &'a [Move], part: impl Fn(&'a Move) -> T) -> Vec<T> {
        moves.iter().map(part).collect()
    }
    let error = |m: &'_ Move| m.error.as_ref().map(|e| fit_text(&e.message).into_owned());
    let (moved, ids): (i64, Option<Vec<Uuid>>) = sqlx::query_as(SQL)
        .bind(run.id.uuid())
        .bind(each(moves, |m| m.ord))
        .bind(each(moves, |m| m.from as i16))
        .bind(each(moves, |m| m.to as i16))
        .bind(each(moves, |m| int8(m.seen)))
        .bind(each(moves, |m| m.output.as_deref()))
        .bind(each(moves, |m| m.error.as_ref().map(|e| e.code.as_str())))
        .bind(each(moves, error))
        .bind(each(moves, |m| m.wake_at.map(Timestamp::micros)))
        .bind(each(moves, |m| m.list.as_ref().map(|l| &*l.0)))
        .bind(each(moves, |m| m.list.as_ref().map(|l| int4(l.1))))
        .fetch_one(connection)
        .await?;
    released.extend(ids.into_iter().flatten().map(JobId::from_uuid));
    Ok(usize::try_from(moved) == Ok(moves.len()))
}

/// Fills in blocked jobs and makes those of items.
async fn release(
    connection: &mut PgConnection,
    run: &Run,
    releases: &[Release],
    now: i64,
    released: &mut Vec<JobId>,
) -> Result<(), sqlx::Error> {
    const FILL: &str = "
WITH v AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::bytea[], $5::uuid[], $6::bigint[], $7::bigint[])
    AS v(id, payload, payload_blob, run_at, expires_at)
), filled AS (
    UPDATE jobs j SET state = CASE WHEN v.run_at > $2 THEN 1 ELSE 2 END, run_at = v.run_at, changed_at = $2,
        expires_at = coalesce(v.expires_at, j.expires_at),
        payload = CASE WHEN v.payload_blob IS NULL THEN coalesce(v.payload, j.payload) END,
        payload_blob = CASE WHEN v.payload IS NULL THEN coalesce(v.payload_blob, j.payload_blob) END
    FROM v WHERE j.id = v.id AND j.state + 0 = 0
    RETURNING j.id, j.namespace, v.payload_blob
), named AS (
    UPDATE blobs b SET refs = b.refs + n.jobs
    FROM (SELECT namespace, payload_blob, count(*)::int AS jobs FROM filled
          WHERE payload_blob IS NOT NULL GROUP BY 1, 2) n
    WHERE b.namespace = n.namespace AND b.id = n.payload_blob
)
SELECT array_agg(id) FROM filled WHERE $1::uuid IS NOT NULL";
    let mut filled = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut made: Vec<StepJobRow<'_>> = Vec::new();
    for release in releases {
        match release {
            Release::Blocked { id, payload, run_at, expires_at } => {
                let (inline, blob) = value_parts(payload.as_ref());
                filled.0.push(id.uuid());
                filled.1.push(inline);
                filled.2.push(blob);
                filled.3.push(run_at.micros());
                filled.4.push(expires_at.map(Timestamp::micros));
            }
            Release::Item { ord, item, step, job } => {
                made.push(StepJobRow { ord: *ord, step, item: Some(*item), blocked: false, job });
            }
        }
    }
    if !filled.0.is_empty() {
        let ids: Option<Vec<Uuid>> = sqlx::query_scalar(FILL)
            .bind(run.id.uuid())
            .bind(now)
            .bind(filled.0)
            .bind(filled.1)
            .bind(filled.2)
            .bind(filled.3)
            .bind(filled.4)
            .fetch_one(&mut *connection)
            .await?;
        released.extend(ids.into_iter().flatten().map(JobId::from_uuid));
    }
    if made.is_empty() {
        return Ok(());
    }
    insert_jobs(connection, run.id, &made, now).await?;
    released.extend(made.iter().map(|row| row.job.id));
    let sql = "
UPDATE workflow_steps s SET items_made = s.items_made + v.n
FROM (SELECT ord, count(*)::int AS n FROM unnest($2::int[]) AS v(ord) GROUP BY ord) v
WHERE s.workflow_id = $1 AND s.ord = v.ord";
    let ords: Vec<i32> = made.iter().map(|row| row.ord).collect();
    sqlx::query(sql).bind(run.id.uuid()).bind(ords).execute(connection).await?;
    Ok(())
}

/// The step that started this run learns of its end in the same transaction.
async fn tell_parent(
    connection: &mut PgConnection,
    run: &Run,
    advance: &Advance,
) -> Result<(), sqlx::Error> {
    let sql = "UPDATE workflow_steps SET state = 10, due = 0, finished_at = \
               (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
               WHERE workflow_id = $1 AND ord = $2";
    sqlx::query(sql).bind(run.id.uuid()).bind(END).execute(&mut *connection).await?;
    let Some(parent) = run.parent else { return Ok(()) };
    let good = advance.state == Some(crate::model::workflow::WorkflowState::Succeeded);
    let sql = "
UPDATE workflow_steps SET due = due + 1,
    items_open = items_open - 1, items_failed = items_failed + $3
WHERE workflow_id = $1 AND ord = $2 AND state IN (1, 2)";
    sqlx::query(sql)
        .bind(parent.run.uuid())
        .bind(parent.ord)
        .bind(i32::from(!good))
        .execute(connection)
        .await?;
    Ok(())
}
