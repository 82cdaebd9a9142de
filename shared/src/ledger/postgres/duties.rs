//! What schedulers do by themselves.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::{BadColumn, after_write, unchanged};
use super::row::{get, int4, int8, maybe_time, small, time, unsigned};
use super::{Postgres, Result};
use crate::ledger::duties::{
    Declared, DutyNote, DutyRow, Ended, GONE_AFTER, KEPT_FOR, ROWS_MAX, Who, cut, micros,
};
use crate::ledger::unreadable::readable;
use crate::ledger::{Epoch, fit_text};
use crate::model::id::WorkerId;
use crate::model::time::Timestamp;

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn note_duties(
        &self,
        replica: WorkerId,
        name: &str,
        notes: &[DutyNote],
    ) -> Result<Vec<WorkerId>> {
        let (name, notes) = (fit_text(name).into_owned(), notes.to_vec());
        self.detached(move |inner| async move { note(&inner.pool, replica, &name, &notes).await })
            .await
    }

    pub async fn duties(&self) -> Result<(Vec<DutyRow>, Timestamp)> {
        self.read(duties(&self.inner.pool)).await
    }
}

/// The ages of a row are turned into ledger time by the statement's own clock.
const NOTE: &str = "
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
), v AS (
    SELECT * FROM unnest($3::text[], $4::text[], $5::bigint[], $6::int[], $7::bigint[], $8::text[],
        $9::bigint[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
        $16::text[], $17::bigint[])
    AS v(duty, what, interval_us, batch, longest_us, who, started, ended, outcome, took_us, done, ticks,
        failures, error, epoch)
), gone AS (
    DELETE FROM duties d USING clock WHERE d.seen_at < clock.now - $18 AND d.replica <> $1
), written AS (
    INSERT INTO duties (replica, name, duty, what, interval_us, batch, longest_us, who, started_at, ended_at,
        outcome, took_us, done, ticks, failures, error, epoch, seen_at)
    SELECT $1, $2, v.duty, v.what, v.interval_us, v.batch, v.longest_us, v.who, clock.now - v.started,
        clock.now - v.ended, v.outcome, v.took_us, v.done, v.ticks, v.failures, v.error, v.epoch, clock.now
    FROM v, clock
    ON CONFLICT (replica, duty) DO UPDATE SET name = EXCLUDED.name, what = EXCLUDED.what,
        interval_us = EXCLUDED.interval_us, batch = EXCLUDED.batch, longest_us = EXCLUDED.longest_us,
        who = EXCLUDED.who, started_at = EXCLUDED.started_at, ended_at = EXCLUDED.ended_at,
        outcome = EXCLUDED.outcome, took_us = EXCLUDED.took_us, done = EXCLUDED.done, ticks = EXCLUDED.ticks,
        failures = EXCLUDED.failures, error = EXCLUDED.error, epoch = EXCLUDED.epoch, seen_at = EXCLUDED.seen_at
)
SELECT DISTINCT replica FROM duties, clock WHERE seen_at > clock.now - $19";

async fn note(
    pool: &PgPool,
    replica: WorkerId,
    name: &str,
    notes: &[DutyNote],
) -> Result<Vec<WorkerId>> {
    fn each<'a, T>(notes: &'a [DutyNote], part: impl Fn(&'a DutyNote) -> T) -> Vec<T> {
        notes.iter().map(part).collect()
    }
    let others: Vec<Uuid> = sqlx::query_scalar(NOTE)
        .bind(replica.uuid())
        .bind(name)
        .bind(each(notes, |n| n.declared.duty.as_str()))
        .bind(each(notes, |n| n.declared.what.as_str()))
        .bind(each(notes, |n| micros(n.declared.interval)))
        .bind(each(notes, |n| int4(n.declared.batch)))
        .bind(each(notes, |n| micros(n.declared.longest)))
        .bind(each(notes, |n| n.declared.who.as_str()))
        .bind(each(notes, |n| n.started.map(micros)))
        .bind(each(notes, |n| n.ended.map(micros)))
        .bind(each(notes, |n| n.outcome.as_str()))
        .bind(each(notes, |n| micros(n.took)))
        .bind(each(notes, |n| int8(n.done)))
        .bind(each(notes, |n| int8(n.ticks)))
        .bind(each(notes, |n| int8(n.failures)))
        .bind(each(notes, |n| n.error.as_deref().map(cut)))
        .bind(each(notes, |n| n.epoch.map(|epoch| int8(epoch.0))))
        .bind(micros(KEPT_FOR))
        .bind(micros(GONE_AFTER))
        .fetch_all(pool)
        .await
        .map_err(after_write)?;
    let mut living: Vec<WorkerId> = others.into_iter().map(WorkerId::from_uuid).collect();
    // The statement does not see its own rows.
    if !living.contains(&replica) {
        living.push(replica);
    }
    Ok(living)
}

async fn duties(pool: &PgPool) -> Result<(Vec<DutyRow>, Timestamp)> {
    let sql = "SELECT replica, name, duty, what, interval_us, batch, longest_us, who, started_at, ended_at, \
                   outcome, took_us, done, ticks, failures, error, epoch, seen_at \
               FROM duties ORDER BY duty, name, replica LIMIT $1";
    let rows =
        sqlx::query(sql).bind(i64::from(ROWS_MAX)).fetch_all(pool).await.map_err(unchanged)?;
    Ok((readable("a duty", &rows, row_of), super::now(pool).await?))
}

fn row_of(row: &PgRow) -> Result<DutyRow> {
    let span =
        |at, column| Ok::<_, super::LedgerError>(Duration::from_micros(unsigned(row, at, column)?));
    let who = Who::parse(get(row, 7)?).ok_or(BadColumn { column: "who" })?;
    let outcome = Ended::parse(get(row, 10)?).ok_or(BadColumn { column: "outcome" })?;
    Ok(DutyRow {
        replica: WorkerId::from_uuid(get(row, 0)?),
        name: get(row, 1)?,
        declared: Declared {
            duty: get(row, 2)?,
            what: get(row, 3)?,
            interval: span(4, "interval_us")?,
            batch: small(row, 5, "batch")?,
            longest: span(6, "longest_us")?,
            who,
        },
        started_at: maybe_time(row, 8)?,
        ended_at: maybe_time(row, 9)?,
        outcome,
        took: span(11, "took_us")?,
        done: unsigned(row, 12, "done")?,
        ticks: unsigned(row, 13, "ticks")?,
        failures: unsigned(row, 14, "failures")?,
        error: get(row, 15)?,
        epoch: get::<Option<i64>>(row, 16)?.map(|n| Epoch(n.unsigned_abs())),
        seen_at: time(row, 17)?,
    })
}
