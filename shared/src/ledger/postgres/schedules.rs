//! Schedules, and what became of their due times.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::error::{BadColumn, after_write, unchanged};
use super::gates::{bound, leads};
use super::row::{get, int8, json, maybe_time, parse, small, time, unsigned};
use super::{Postgres, Result, bounds};
use crate::ledger::Epoch;
use crate::ledger::schedules::{
    FireRow, OPEN_LOOK_MAX, OPEN_MAX, OpenCursor, Schedule, ScheduleChange, ScheduleChanged,
    SchedulePage, ScheduleSeen, SchedulesDue, WAITING_MAX,
};
use crate::ledger::unreadable::readable;
use crate::model::id::{JobId, ScheduleId, WorkflowId};
use crate::model::job::JobState;
use crate::model::name::{Namespace, ScheduleName};
use crate::model::schedule::decide::{Open, Submitted, Waiting};
use crate::model::schedule::{FireOutcome, FireResult, FireSource, SCHEDULES_MAX};
use crate::model::time::Timestamp;
use crate::model::workflow::WorkflowState;

mod change;

/// Ledger time, anew wherever it stands.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}
use now;

/// The columns of [`schedule_of`].
macro_rules! columns {
    () => {
        "id, namespace, name, spec, version, paused, failures, cursor_at, look_at, fires_from, created_at, changed_at"
    };
}

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn create_schedule(&self, schedule: &Schedule) -> Result<Option<Schedule>> {
        let schedule = schedule.clone();
        self.detached(|inner| async move { create(&inner.pool, &schedule).await }).await
    }

    pub async fn schedule(
        &self,
        namespace: &Namespace,
        name: &ScheduleName,
    ) -> Result<Option<Schedule>> {
        self.read(one(&self.inner.pool, namespace, name)).await
    }

    pub async fn schedules(
        &self,
        namespace: &Namespace,
        after: Option<&ScheduleName>,
        limit: u32,
    ) -> Result<SchedulePage> {
        self.read(list(&self.inner.pool, namespace, after, limit)).await
    }

    pub async fn schedule_seen(
        &self,
        namespace: &Namespace,
        name: &ScheduleName,
    ) -> Result<Option<ScheduleSeen>> {
        self.read(seen(&self.inner.pool, namespace, name)).await
    }

    pub async fn change_schedule(&self, change: ScheduleChange) -> Result<ScheduleChanged> {
        self.detached_for(self.inner.silence * bounds::LONG, |inner| async move {
            change::change(&inner, &change).await
        })
        .await
    }

    pub async fn delete_schedule(
        &self,
        namespace: &Namespace,
        name: &ScheduleName,
    ) -> Result<Option<ScheduleId>> {
        let (namespace, name) = (namespace.clone(), name.clone());
        self.detached(move |inner| async move {
            let sql = "DELETE FROM schedules WHERE namespace = $1 AND name = $2 RETURNING id";
            let query = sqlx::query_scalar(sql).bind(namespace.as_str()).bind(name.as_str());
            let id = query.fetch_optional(&inner.pool).await.map_err(after_write)?;
            Ok(id.map(ScheduleId::from_uuid))
        })
        .await
    }

    pub async fn delete_fires(&self, id: ScheduleId, limit: u32) -> Result<u64> {
        self.detached(move |inner| async move {
            let sql = "DELETE FROM fires WHERE schedule_id = $1 AND due IN \
                       (SELECT due FROM fires WHERE schedule_id = $1 LIMIT $2)";
            let query = sqlx::query(sql).bind(id.uuid()).bind(i64::from(limit));
            Ok(query.execute(&inner.pool).await.map_err(after_write)?.rows_affected())
        })
        .await
    }

    pub async fn schedules_due(&self, limit: u32) -> Result<SchedulesDue> {
        self.read(due(&self.inner.pool, limit)).await
    }

    pub async fn note_ended_fires(
        &self,
        lead: Option<Epoch>,
        after: Option<OpenCursor>,
        limit: u32,
    ) -> Result<Option<OpenCursor>> {
        self.detached(move |inner| async move { note_ended(&inner.pool, lead, after, limit).await })
            .await
    }

    pub async fn fires(
        &self,
        id: ScheduleId,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<FireRow>> {
        self.read(fires(&self.inner.pool, id, before, limit)).await
    }

    pub async fn fired_between(
        &self,
        id: ScheduleId,
        from: Timestamp,
        to: Timestamp,
        limit: u32,
    ) -> Result<Vec<Timestamp>> {
        self.read(fired_between(&self.inner.pool, id, from, to, limit)).await
    }

    pub async fn prune_fires(
        &self,
        lead: Option<Epoch>,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64> {
        self.detached(move |inner| async move {
            // One that waits or runs is kept, unless its schedule is gone.
            // Its schedule notes that it is gone, and moves on: a decision that saw the row is made anew.
            let sql = concat!("WITH gone AS (DELETE FROM fires WHERE (schedule_id, due) IN (\
                           SELECT f.schedule_id, f.due FROM fires f WHERE f.decided_at < $1 \
                           AND (f.outcome > 1 OR f.result IS NOT NULL \
                                OR NOT EXISTS (SELECT FROM schedules s WHERE s.id = f.schedule_id)) \
                           ORDER BY f.decided_at LIMIT $2) AND ", leads!("$3"), " RETURNING schedule_id, due), \
                       last AS (SELECT schedule_id, max(due) AS due FROM gone GROUP BY schedule_id), \
                       noted AS (UPDATE schedules s SET version = s.version + 1, \
                           fires_from = greatest(s.fires_from, l.due + 1) FROM last l WHERE s.id = l.schedule_id) \
                       SELECT count(*) FROM gone");
            let query = sqlx::query_scalar(sql).bind(before.micros()).bind(i64::from(limit));
            let query = query.bind(bound(lead));
            let gone: i64 = query.fetch_one(&inner.pool).await.map_err(after_write)?;
            Ok(u64::try_from(gone).unwrap_or_default())
        })
        .await
    }
}

async fn create(pool: &PgPool, new: &Schedule) -> Result<Option<Schedule>> {
    let sql = concat!(
        "INSERT INTO schedules (id, namespace, name, spec, version, paused, failures, cursor_at, look_at, \
         created_at, changed_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, clock.now, clock.now FROM (SELECT ",
        now!(),
        " AS now) clock WHERE (SELECT count(*) FROM (SELECT FROM schedules WHERE namespace = $2 LIMIT $10) n) < $10 \
         ON CONFLICT (namespace, name) DO UPDATE SET name = EXCLUDED.name WHERE schedules.id = $1 \
         RETURNING ",
        columns!()
    );
    let row = sqlx::query(sql)
        .bind(new.id.uuid())
        .bind(new.namespace.as_str())
        .bind(new.name.as_str())
        .bind(text(&new.spec))
        .bind(int8(new.version))
        .bind(new.paused.as_ref().map(text))
        .bind(i32::try_from(new.failures).unwrap_or(i32::MAX))
        .bind(new.cursor.micros())
        .bind(new.look_at.map(Timestamp::micros))
        .bind(int8(SCHEDULES_MAX))
        .fetch_optional(pool)
        .await
        .map_err(after_write)?;
    row.as_ref().map(schedule_of).transpose()
}

/// JSON of what is made of nothing but what JSON has.
fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("schedules are made of what JSON has")
}

async fn one(
    pool: &PgPool,
    namespace: &Namespace,
    name: &ScheduleName,
) -> Result<Option<Schedule>> {
    let sql = concat!("SELECT ", columns!(), " FROM schedules WHERE namespace = $1 AND name = $2");
    let query = sqlx::query(sql).bind(namespace.as_str()).bind(name.as_str());
    query.fetch_optional(pool).await.map_err(unchanged)?.as_ref().map(schedule_of).transpose()
}

async fn list(
    pool: &PgPool,
    namespace: &Namespace,
    after: Option<&ScheduleName>,
    limit: u32,
) -> Result<SchedulePage> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM schedules WHERE namespace = $1 AND ($2::text IS NULL OR name COLLATE \"C\" > $2) \
         ORDER BY name COLLATE \"C\" LIMIT $3"
    );
    let query = sqlx::query(sql)
        .bind(namespace.as_str())
        .bind(after.map(ScheduleName::as_str))
        .bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    let last = rows.last().filter(|_| rows.len() >= limit as usize);
    let next = last.map(|last| parse(last, 2, "name")).transpose()?;
    Ok(SchedulePage { items: readable("a schedule", &rows, schedule_of), next })
}

fn schedule_of(row: &PgRow) -> Result<Schedule> {
    let paused: Option<&str> = get(row, 5)?;
    Ok(Schedule {
        id: ScheduleId::from_uuid(get(row, 0)?),
        namespace: parse(row, 1, "namespace")?,
        name: parse(row, 2, "name")?,
        spec: json(get(row, 3)?, "spec")?,
        version: unsigned(row, 4, "version")?,
        paused: paused.map(|paused| json(paused, "paused")).transpose()?,
        failures: small(row, 6, "failures")?,
        cursor: time(row, 7)?,
        look_at: maybe_time(row, 8)?,
        fires_from: time(row, 9)?,
        created_at: time(row, 10)?,
        changed_at: time(row, 11)?,
    })
}

/// The schedule first: a change in between has raised its version, so what is decided over the rest is refused.
async fn seen(
    pool: &PgPool,
    namespace: &Namespace,
    name: &ScheduleName,
) -> Result<Option<ScheduleSeen>> {
    let Some(schedule) = one(pool, namespace, name).await? else { return Ok(None) };
    let mut connection = pool.acquire().await.map_err(unchanged)?;
    let open = open(&mut connection, schedule.id).await?;
    let sql = "SELECT due, source FROM fires WHERE schedule_id = $1 AND outcome = 0 ORDER BY source, due LIMIT $2";
    let query = sqlx::query(sql).bind(schedule.id.uuid()).bind(i64::from(WAITING_MAX));
    let rows = query.fetch_all(&mut *connection).await.map_err(unchanged)?;
    let waiting =
        rows.iter().map(|row| Ok(Waiting { due: time(row, 0)?, source: source(row, 1)? }));
    let waiting = waiting.collect::<Result<_>>()?;
    let sql = concat!("SELECT ", now!());
    let now = sqlx::query(sql).fetch_one(&mut *connection).await.map_err(unchanged)?;
    Ok(Some(ScheduleSeen { schedule, open, waiting, now: time(&now, 0)? }))
}

/// The states by themselves: each is one look by a job's id, in the one partition that has it.
async fn open(connection: &mut PgConnection, id: ScheduleId) -> Result<Vec<Open>> {
    let sql = "SELECT f.due, f.job_id, f.workflow_id, f.source, \
               CASE WHEN f.job_id IS NOT NULL THEN (SELECT j.state FROM jobs j WHERE j.id = f.job_id) \
               ELSE (SELECT w.state FROM workflows w WHERE w.id = f.workflow_id) END \
               FROM (SELECT due, job_id, workflow_id, source FROM fires WHERE schedule_id = $1 AND outcome = 1 \
                     AND result IS NULL ORDER BY due LIMIT $2) f ORDER BY f.due";
    let query = sqlx::query(sql).bind(id.uuid()).bind(i64::from(OPEN_LOOK_MAX));
    let rows = query.fetch_all(connection).await.map_err(unchanged)?;
    let (mut open, mut ended, mut running) = (Vec::new(), 0, 0);
    for row in &rows {
        let work = submitted(row, 1)?.ok_or(BadColumn { column: "job_id" })?;
        let (source, result) = (source(row, 3)?, result_of(work, get(row, 4)?)?);
        let counted = if result.is_some() { &mut ended } else { &mut running };
        *counted += 1;
        if *counted <= OPEN_MAX {
            open.push(Open { due: time(row, 0)?, source, work, result });
        }
    }
    Ok(open)
}

fn submitted(row: &PgRow, at: usize) -> Result<Option<Submitted>> {
    if let Some(id) = get::<Option<Uuid>>(row, at)? {
        return Ok(Some(Submitted::Job(JobId::from_uuid(id))));
    }
    let run: Option<Uuid> = get(row, at + 1)?;
    Ok(run.map(|id| Submitted::Workflow(WorkflowId::from_uuid(id))))
}

/// How work ended, by its recorded state; no state is no record.
fn result_of(work: Submitted, state: Option<i16>) -> Result<Option<FireResult>> {
    let Some(state) = state else { return Ok(Some(FireResult::Forgotten)) };
    let unknown = || BadColumn { column: "state" };
    match work {
        Submitted::Job(_) => {
            let state = JobState::from_number(state).ok_or_else(unknown)?;
            Ok(FireResult::of_job(state))
        }
        Submitted::Workflow(_) => {
            let state = WorkflowState::from_number(state).ok_or_else(unknown)?;
            Ok(FireResult::of_run(state))
        }
    }
}

fn source(row: &PgRow, at: usize) -> Result<FireSource> {
    FireSource::from_number(get(row, at)?).ok_or_else(|| BadColumn { column: "source" }.into())
}

async fn due(pool: &PgPool, limit: u32) -> Result<SchedulesDue> {
    let sql = concat!(
        "SELECT clock.now, s.namespace, s.name, s.look_at FROM (SELECT ",
        now!(),
        " AS now) clock LEFT JOIN LATERAL (SELECT namespace, name, look_at FROM schedules \
         WHERE look_at IS NOT NULL ORDER BY look_at LIMIT $1) s ON true ORDER BY s.look_at"
    );
    let query = sqlx::query(sql).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    let now = rows.first().map(|row| time(row, 0)).transpose()?.unwrap_or_default();
    let mut found = SchedulesDue { due: Vec::new(), next: None, now };
    for row in &rows {
        let Some(look_at) = maybe_time(row, 3)? else { continue };
        if look_at > now {
            found.next = Some(look_at);
            break;
        }
        found.due.push((parse(row, 1, "namespace")?, parse(row, 2, "name")?, look_at));
    }
    if found.due.len() >= limit as usize {
        found.next = Some(now);
    }
    Ok(found)
}

async fn note_ended(
    pool: &PgPool,
    lead: Option<Epoch>,
    after: Option<OpenCursor>,
    limit: u32,
) -> Result<Option<OpenCursor>> {
    let sql = concat!(
        "WITH page AS MATERIALIZED (SELECT schedule_id, due, job_id, workflow_id FROM fires \
             WHERE outcome = 1 AND result IS NULL AND (schedule_id, due) > ($1, $2) \
             ORDER BY schedule_id, due LIMIT $3), \
         ended AS (SELECT DISTINCT schedule_id FROM page p WHERE \
             CASE WHEN p.job_id IS NOT NULL \
             THEN coalesce((SELECT j.state FROM jobs j WHERE j.id = p.job_id), 10) \
             ELSE coalesce((SELECT w.state FROM workflows w WHERE w.id = p.workflow_id), 10) END >= 10), \
         asleep AS (SELECT s.id FROM schedules s JOIN ended e ON e.schedule_id = s.id \
             WHERE s.look_at IS NULL OR s.look_at > ",
        now!(),
        " ORDER BY s.id FOR UPDATE OF s SKIP LOCKED), \
         woken AS (UPDATE schedules s SET look_at = ",
        now!(),
        " FROM asleep a WHERE s.id = a.id AND ",
        leads!("$4"),
        ") SELECT schedule_id, due FROM page ORDER BY schedule_id, due OFFSET $3 - 1"
    );
    let after = after.unwrap_or((ScheduleId::from_uuid(Uuid::nil()), Timestamp::from_micros(0)));
    let query = sqlx::query(sql).bind(after.0.uuid()).bind(after.1.micros()).bind(i64::from(limit));
    let row = query.bind(bound(lead)).fetch_optional(pool).await.map_err(after_write)?;
    row.map(|row| Ok((ScheduleId::from_uuid(get(&row, 0)?), time(&row, 1)?))).transpose()
}

async fn fires(
    pool: &PgPool,
    id: ScheduleId,
    before: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<FireRow>> {
    let sql = "SELECT due, source, outcome, reason, detail, decided_at, late, job_id, workflow_id, result \
               FROM fires WHERE schedule_id = $1 AND due < $2 ORDER BY due DESC LIMIT $3";
    let before = before.map_or(i64::MAX, Timestamp::micros);
    let query = sqlx::query(sql).bind(id.uuid()).bind(before).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a fire", &rows, fire_of))
}

fn fire_of(row: &PgRow) -> Result<FireRow> {
    let outcome = FireOutcome::from_number(get(row, 2)?).ok_or(BadColumn { column: "outcome" })?;
    let result = get::<Option<i16>>(row, 9)?;
    let known = |n| FireResult::from_number(n).ok_or(BadColumn { column: "result" });
    Ok(FireRow {
        due: time(row, 0)?,
        source: source(row, 1)?,
        outcome,
        reason: get(row, 3)?,
        detail: get(row, 4)?,
        decided_at: time(row, 5)?,
        late: std::time::Duration::from_micros(unsigned(row, 6, "late")?),
        work: submitted(row, 7)?,
        result: result.map(known).transpose()?,
    })
}

async fn fired_between(
    pool: &PgPool,
    id: ScheduleId,
    from: Timestamp,
    to: Timestamp,
    limit: u32,
) -> Result<Vec<Timestamp>> {
    let sql = "SELECT due FROM fires WHERE schedule_id = $1 AND due BETWEEN $2 AND $3 \
               AND outcome < 2 ORDER BY due LIMIT $4";
    let query = sqlx::query(sql)
        .bind(id.uuid())
        .bind(from.micros())
        .bind(to.micros())
        .bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    rows.iter().map(|row| time(row, 0)).collect()
}
