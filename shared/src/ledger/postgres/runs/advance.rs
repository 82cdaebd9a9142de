//! A decision over a run, carried out whole or not at all.

use sqlx::{Acquire, PgConnection};

use super::super::error::unchanged;
use super::super::row::{int4, int8, value_parts};
use super::super::{Inner, LedgerError, Result};
use super::rows::make_queues;
use super::{Tries, grow, lower, name_blob, read_back, release, stop};
use crate::ledger::fit_text;
use crate::ledger::runs::{Advance, Advanced, END, Move, Run};
use crate::model::id::{JobId, WorkflowId};
use crate::model::time::Timestamp;

/// See [`crate::ledger::Ledger::advance`].
pub(in super::super) async fn advance(
    inner: &Inner,
    run: &Run,
    advance: &Advance,
) -> Result<Advanced> {
    let mut tries = Tries::default();
    loop {
        let mut connection = inner.own.acquire().await.map_err(unchanged)?;
        match attempt(&mut connection, run, advance).await {
            Ok(Attempt::Conflict) => return Ok(Advanced::Conflict),
            Ok(Attempt::TooManyQueues) => return Err(LedgerError::TooManyQueues),
            Ok(Attempt::Committed(ids, more)) => {
                drop(connection);
                return Ok(Advanced::Done { released: read_back(inner, &ids).await, more });
            }
            // Its version tells the next advance whether it was committed.
            Err(error) => tries.again(error)?,
        }
    }
}

/// How far a try got. But for the last, nothing is changed.
enum Attempt {
    /// The run is not as it was.
    Conflict,
    /// What comes in would make one too many.
    TooManyQueues,
    /// The jobs that may run, and whether more is due.
    Committed(Vec<JobId>, bool),
}

/// One try.
///
/// Each part is a statement of its own, which sees what those before it did: one statement changes no row twice.
async fn attempt(
    connection: &mut PgConnection,
    run: &Run,
    advance: &Advance,
) -> Result<Attempt, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let ends = advance.state.is_some_and(|state| state.is_terminal());
    if let Some(parent) = run.parent.filter(|_| ends) {
        lock_both(&mut transaction, run.id, parent.run).await?;
    }
    let Some(now) = move_run(&mut transaction, run, advance).await? else {
        return Ok(Attempt::Conflict);
    };
    let mut released = Vec::new();
    // What has moved is not stopped, and what a stop has cancelled is not released by what has ended.
    if !move_steps(&mut transaction, run, &advance.moves, now).await? {
        return Ok(Attempt::Conflict);
    }
    stop::await_end(&mut transaction, run, &advance.awaits).await?;
    if advance.stop {
        stop::stop(&mut transaction, run, now).await?;
    }
    if advance.state.is_none()
        && !make_queues(&mut transaction, &run.namespace, &advance.added).await?
    {
        return Ok(Attempt::TooManyQueues);
    }
    if !grow::add(&mut transaction, run, &advance.added, now, &mut released).await? {
        return Ok(Attempt::Conflict);
    }
    let ended = advance.moves.iter().filter(|m| m.to.is_terminal() && !m.from.is_terminal());
    let ended: Vec<i32> = ended.map(|m| m.ord).collect();
    lower(&mut transaction, run.id.uuid(), &ended, &mut released).await?;
    release::release(&mut transaction, run, &advance.releases, now, &mut released).await?;
    take(&mut transaction, run, &advance.taken).await?;
    let more = if ends {
        end(&mut transaction, run, now).await?;
        false
    } else {
        let sql = "SELECT EXISTS (SELECT FROM workflow_steps WHERE workflow_id = $1 AND due > 0)";
        sqlx::query_scalar(sql).bind(run.id.uuid()).fetch_one(&mut *transaction).await?
    };
    transaction.commit().await?;
    Ok(Attempt::Committed(released, more))
}

/// A run that ends tells its parent: both are locked, in the order of locking.
async fn lock_both(
    connection: &mut PgConnection,
    one: WorkflowId,
    other: WorkflowId,
) -> Result<(), sqlx::Error> {
    let sql = "SELECT FROM workflows WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";
    sqlx::query(sql).bind(vec![one.uuid(), other.uuid()]).execute(connection).await?;
    Ok(())
}

/// Moves the run itself, if it is as it was, which locks it; ledger time.
async fn move_run(
    connection: &mut PgConnection,
    run: &Run,
    advance: &Advance,
) -> Result<Option<i64>, sqlx::Error> {
    const SQL: &str = "
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
)
UPDATE workflows SET version = version + 1, changed_at = clock.now,
    finished_at = CASE WHEN $3 >= 10 THEN clock.now END,
    state = coalesce($3, state), ending = coalesce($4, ending),
    error_code = coalesce($5, error_code), error_message = coalesce($6, error_message),
    output = coalesce($7, output), output_blob = coalesce($8, output_blob)
FROM clock WHERE id = $1 AND version = $2 AND state < 10
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
        name_blob(connection, run.namespace.as_str(), blob, 1).await?;
    }
    Ok(moved)
}

/// Moves steps, all of them or none; `false`: one is not where it was. Those that never started take their blocked job
/// along.
async fn move_steps(
    connection: &mut PgConnection,
    run: &Run,
    moves: &[Move],
    now: i64,
) -> Result<bool, sqlx::Error> {
    const SQL: &str = "
WITH v AS MATERIALIZED (
    SELECT * FROM unnest($3::int[], $4::smallint[], $5::smallint[], $6::bigint[], $7::bytea[], $8::text[],
        $9::text[], $10::bigint[], $11::bytea[], $12::int[])
    AS v(ord, from_state, to_state, seen, output, error_code, error_message, wake_at, list, length)
), stepped AS (
    UPDATE workflow_steps s SET state = v.to_state, due = greatest(0, s.due - v.seen), wake_at = v.wake_at,
        output = coalesce(v.output, s.output), error_code = coalesce(v.error_code, s.error_code),
        error_message = coalesce(v.error_message, s.error_message), items = coalesce(v.list, s.items),
        items_total = coalesce(v.length, s.items_total), items_open = coalesce(v.length, s.items_open),
        items_made = CASE WHEN v.length IS NULL THEN s.items_made ELSE 0 END,
        started_at = CASE WHEN v.from_state = 0 AND v.to_state IN (1, 2) THEN $2 ELSE s.started_at END,
        finished_at = CASE WHEN v.from_state < 10 AND v.to_state >= 10 THEN $2 ELSE s.finished_at END
    FROM v WHERE s.workflow_id = $1 AND s.ord = v.ord AND s.state = v.from_state
    RETURNING s.job_id, s.state, v.from_state, s.error_code, s.error_message
), skipped AS (
    UPDATE jobs j SET state = 12, finished_at = $2, changed_at = $2,
        error_code = coalesce(s.error_code, 'cancelled'), error_message = coalesce(s.error_message, 'not needed'),
        error_retryable = false
    FROM stepped s WHERE s.from_state = 0 AND s.state >= 10 AND j.id = s.job_id AND j.state + 0 = 0
)
SELECT count(*) FROM stepped";
    if moves.is_empty() {
        return Ok(true);
    }
    fn each<'a, T>(moves: &'a [Move], part: impl Fn(&'a Move) -> T) -> Vec<T> {
        moves.iter().map(part).collect()
    }
    let moved: i64 = sqlx::query_scalar(SQL)
        .bind(run.id.uuid())
        .bind(now)
        .bind(each(moves, |m| m.ord))
        .bind(each(moves, |m| m.from as i16))
        .bind(each(moves, |m| m.to as i16))
        .bind(each(moves, |m| int8(m.seen)))
        .bind(each(moves, |m| m.output.as_deref()))
        .bind(each(moves, |m| m.error.as_ref().map(|e| fit_text(&e.code))))
        .bind(each(moves, |m| m.error.as_ref().map(|e| fit_text(&e.message))))
        .bind(each(moves, |m| m.wake_at.map(Timestamp::micros)))
        .bind(each(moves, |m| m.list.as_ref().map(|l| &*l.0)))
        .bind(each(moves, |m| m.list.as_ref().map(|l| int4(l.1))))
        .fetch_one(&mut *connection)
        .await?;
    Ok(usize::try_from(moved) == Ok(moves.len()))
}

/// Notes that signals are used up.
async fn take(connection: &mut PgConnection, run: &Run, taken: &[u64]) -> Result<(), sqlx::Error> {
    if taken.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE workflow_signals SET taken = true WHERE workflow_id = $1 AND seq = ANY($2)";
    let taken: Vec<i64> = taken.iter().copied().map(int8).collect();
    sqlx::query(sql).bind(run.id.uuid()).bind(taken).execute(connection).await?;
    Ok(())
}

/// What the end of a run means for its rows, and for the step that started it, which learns of it in the same
/// transaction.
async fn end(connection: &mut PgConnection, run: &Run, now: i64) -> Result<(), sqlx::Error> {
    let sql = "UPDATE workflow_steps SET due = 0, wake_at = NULL, \
                   state = CASE WHEN ord = $2 THEN 10 ELSE state END, \
                   finished_at = CASE WHEN ord = $2 THEN $3 ELSE finished_at END \
               WHERE workflow_id = $1 AND (ord = $2 OR due > 0 OR wake_at IS NOT NULL)";
    let query = sqlx::query(sql).bind(run.id.uuid()).bind(END).bind(now);
    query.execute(&mut *connection).await?;
    let Some(parent) = run.parent else { return Ok(()) };
    let sql = "UPDATE workflow_steps SET due = due + 1 \
               WHERE workflow_id = $1 AND ord = $2 AND state IN (1, 2)";
    sqlx::query(sql).bind(parent.run.uuid()).bind(parent.ord).execute(connection).await?;
    Ok(())
}
