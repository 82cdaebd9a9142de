//! Schedules, and what became of their due times.

use std::collections::HashMap;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::run_calls::change;
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Result, Sqlite, gates, read};
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

/// `SELECT` of whole schedules; what follows names them.
macro_rules! select_schedules {
    ($tail:literal) => {
        concat!(
            "SELECT id, namespace, name, spec, version, paused, failures, cursor_at, look_at, ",
            "fires_from, created_at, changed_at FROM schedules ",
            $tail
        )
    };
}

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn create_schedule(&self, schedule: &Schedule) -> Result<Option<Schedule>> {
        let schedule = schedule.clone();
        change!(self, |tx| create(tx, &schedule))
    }

    pub async fn schedule(
        &self,
        namespace: &Namespace,
        name: &ScheduleName,
    ) -> Result<Option<Schedule>> {
        read!(self, one, namespace, name)
    }

    pub async fn schedules(
        &self,
        namespace: &Namespace,
        after: Option<&ScheduleName>,
        limit: u32,
    ) -> Result<SchedulePage> {
        read!(self, list, namespace, after, limit)
    }

    pub async fn schedule_seen(
        &self,
        namespace: &Namespace,
        name: &ScheduleName,
    ) -> Result<Option<ScheduleSeen>> {
        let now = self.clock.now();
        read!(self, seen, namespace, name, now)
    }

    pub async fn change_schedule(&self, wanted: ScheduleChange) -> Result<ScheduleChanged> {
        let rows = wanted.fires.len() + wanted.backfill.len() + 1;
        change!(self, rows, |tx| change::change(tx, &wanted))
    }

    pub async fn delete_schedule(
        &self,
        namespace: &Namespace,
        name: &ScheduleName,
    ) -> Result<Option<ScheduleId>> {
        let (namespace, name) = (namespace.clone(), name.clone());
        change!(self, |tx| delete(tx, &namespace, &name))
    }

    pub async fn delete_fires(&self, id: ScheduleId, limit: u32) -> Result<u64> {
        change!(self, limit as usize, |tx| delete_fires(tx, id, limit))
    }

    pub async fn schedules_due(&self, limit: u32) -> Result<SchedulesDue> {
        let now = self.clock.now();
        read!(self, due, limit, now)
    }

    pub async fn note_ended_fires(
        &self,
        lead: Option<Epoch>,
        after: Option<OpenCursor>,
        limit: u32,
    ) -> Result<Option<OpenCursor>> {
        let (ended, next) = read!(self, ended, after, limit)?;
        if !ended.is_empty() {
            change!(self, |tx| wake(tx, lead, ended))?;
        }
        Ok(next)
    }

    pub async fn fires(
        &self,
        id: ScheduleId,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<FireRow>> {
        read!(self, fires, id, before, limit)
    }

    pub async fn fired_between(
        &self,
        id: ScheduleId,
        from: Timestamp,
        to: Timestamp,
        limit: u32,
    ) -> Result<Vec<Timestamp>> {
        read!(self, fired_between, id, from, to, limit)
    }

    pub async fn prune_fires(
        &self,
        lead: Option<Epoch>,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64> {
        change!(self, limit as usize, |tx| prune(tx, lead, before, limit))
    }
}

/// JSON of what is made of nothing but what JSON has.
fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("schedules are made of what JSON has")
}

async fn create(tx: &mut Tx<'_>, new: &Schedule) -> Result<Option<Schedule>, Fault> {
    let named = one(tx.connection, &new.namespace, &new.name).await?;
    if let Some(named) = named {
        return Ok((named.id == new.id).then_some(named));
    }
    let sql = "SELECT count(*) FROM schedules WHERE namespace = ?";
    let count = row(tx.connection, sql, Args::default().with(new.namespace.as_str())).await?;
    let count: u64 = count.as_ref().map(|row| Columns::of(row).count()).transpose()?.unwrap_or(0);
    if count >= SCHEDULES_MAX {
        return Ok(None);
    }
    let sql = "INSERT INTO schedules (id, namespace, name, spec, version, paused, failures, cursor_at, \
               look_at, created_at, changed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)";
    let args = Args::default()
        .with(new.id.as_bytes().as_slice())
        .with(new.namespace.as_str())
        .with(new.name.as_str())
        .with(text(&new.spec))
        .with(i64::try_from(new.version).unwrap_or(i64::MAX))
        .with(new.paused.as_ref().map(text))
        .with(new.failures)
        .with(new.cursor.micros())
        .with(new.look_at.map(Timestamp::micros))
        .with(tx.now.micros());
    execute(tx.connection, sql, args).await?;
    one(tx.connection, &new.namespace, &new.name).await
}

async fn one(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    name: &ScheduleName,
) -> Result<Option<Schedule>, Fault> {
    let args = Args::default().with(namespace.as_str()).with(name.as_str());
    let sql = select_schedules!("WHERE namespace = ? AND name = ?");
    row(connection, sql, args).await?.as_ref().map(schedule_of).transpose()
}

async fn list(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    after: Option<&ScheduleName>,
    limit: u32,
) -> Result<SchedulePage, Fault> {
    let args = Args::default()
        .with(namespace.as_str())
        .with(after.map_or("", ScheduleName::as_str))
        .with(limit);
    let sql = select_schedules!("WHERE namespace = ? AND name > ? ORDER BY name LIMIT ?");
    let found = rows(connection, sql, args).await?;
    let last = found.last().filter(|_| found.len() >= limit as usize);
    let next = last.map(name_of).transpose()?;
    Ok(SchedulePage { items: readable("a schedule", &found, schedule_of), next })
}

fn name_of(row: &SqliteRow) -> Result<ScheduleName, Fault> {
    let mut c = Columns::of(row);
    let _ = (c.id()?, c.next::<&str>()?);
    c.parsed()
}

fn schedule_of(row: &SqliteRow) -> Result<Schedule, Fault> {
    let mut c = Columns::of(row);
    Ok(Schedule {
        id: ScheduleId::from_bytes(c.id()?),
        namespace: c.parsed()?,
        name: c.parsed()?,
        spec: c.json()?,
        version: c.count()?,
        paused: c.maybe_json()?,
        failures: c.count()?,
        cursor: c.time()?,
        look_at: c.maybe_time()?,
        fires_from: c.time()?,
        created_at: c.time()?,
        changed_at: c.time()?,
    })
}

/// The schedule first: a change in between has raised its version, so what is decided over the rest is refused.
async fn seen(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    name: &ScheduleName,
    now: Timestamp,
) -> Result<Option<ScheduleSeen>, Fault> {
    let Some(schedule) = one(connection, namespace, name).await? else { return Ok(None) };
    let open = open(connection, schedule.id).await?;
    let sql = "SELECT due, source FROM fires WHERE schedule_id = ? AND outcome = 0 ORDER BY source, due LIMIT ?";
    let args = Args::default().with(schedule.id.as_bytes().as_slice()).with(WAITING_MAX);
    let mut waiting = Vec::new();
    for found in &rows(connection, sql, args).await? {
        let mut c = Columns::of(found);
        waiting.push(Waiting { due: c.time()?, source: source(&mut c)? });
    }
    Ok(Some(ScheduleSeen { schedule, open, waiting, now }))
}

/// The recorded state of the work of a fire `f`.
macro_rules! state_of_work {
    () => {
        "CASE WHEN f.job_id IS NOT NULL THEN (SELECT j.state FROM jobs j WHERE j.id = f.job_id) \
         ELSE (SELECT w.state FROM workflows w WHERE w.id = f.workflow_id) END"
    };
}

async fn open(connection: &mut SqliteConnection, id: ScheduleId) -> Result<Vec<Open>, Fault> {
    let sql = concat!(
        "SELECT f.due, f.job_id, f.workflow_id, f.source, ",
        state_of_work!(),
        " FROM fires f WHERE f.schedule_id = ? AND f.outcome = 1 AND f.result IS NULL \
         ORDER BY f.due LIMIT ?"
    );
    let args = Args::default().with(id.as_bytes().as_slice()).with(OPEN_LOOK_MAX);
    let (mut open, mut ended, mut running) = (Vec::new(), 0, 0);
    for found in &rows(connection, sql, args).await? {
        let mut c = Columns::of(found);
        let due = c.time()?;
        let work = submitted(&mut c)?.ok_or_else(|| Fault::unreadable("a fire"))?;
        let source = source(&mut c)?;
        let result = result_of(work, c.next()?)?;
        let counted = if result.is_some() { &mut ended } else { &mut running };
        *counted += 1;
        if *counted <= OPEN_MAX {
            open.push(Open { due, source, work, result });
        }
    }
    Ok(open)
}

fn submitted(c: &mut Columns<'_>) -> Result<Option<Submitted>, Fault> {
    let (job, run) = (c.maybe_id()?, c.maybe_id()?);
    let run = run.map(|id| Submitted::Workflow(WorkflowId::from_bytes(id)));
    Ok(job.map(|id| Submitted::Job(JobId::from_bytes(id))).or(run))
}

/// How work ended, by its recorded state; no state is no record.
fn result_of(work: Submitted, state: Option<i16>) -> Result<Option<FireResult>, Fault> {
    let Some(state) = state else { return Ok(Some(FireResult::Forgotten)) };
    let unknown = || Fault::unreadable("a state");
    Ok(match work {
        Submitted::Job(_) => FireResult::of_job(JobState::from_number(state).ok_or_else(unknown)?),
        Submitted::Workflow(_) => {
            FireResult::of_run(WorkflowState::from_number(state).ok_or_else(unknown)?)
        }
    })
}

fn source(c: &mut Columns<'_>) -> Result<FireSource, Fault> {
    FireSource::from_number(c.next()?).ok_or_else(|| Fault::unreadable("a source"))
}

async fn delete(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &ScheduleName,
) -> Result<Option<ScheduleId>, Fault> {
    let sql = "DELETE FROM schedules WHERE namespace = ? AND name = ? RETURNING id";
    let args = Args::default().with(namespace.as_str()).with(name.as_str());
    let deleted = row(tx.connection, sql, args).await?;
    deleted.map(|row| Ok(ScheduleId::from_bytes(Columns::of(&row).id()?))).transpose()
}

async fn delete_fires(tx: &mut Tx<'_>, id: ScheduleId, limit: u32) -> Result<u64, Fault> {
    let sql = "DELETE FROM fires WHERE schedule_id = ?1 AND due IN \
               (SELECT due FROM fires WHERE schedule_id = ?1 LIMIT ?2)";
    let args = Args::default().with(id.as_bytes().as_slice()).with(limit);
    execute(tx.connection, sql, args).await
}

async fn due(
    connection: &mut SqliteConnection,
    limit: u32,
    now: Timestamp,
) -> Result<SchedulesDue, Fault> {
    let sql = "SELECT namespace, name, look_at FROM schedules WHERE look_at IS NOT NULL \
               ORDER BY look_at LIMIT ?";
    let mut found = SchedulesDue { due: Vec::new(), next: None, now };
    for row in &rows(connection, sql, Args::default().with(limit)).await? {
        let mut c = Columns::of(row);
        let (namespace, name, look_at) = (c.parsed()?, c.parsed()?, c.time()?);
        if look_at > now {
            found.next = Some(look_at);
            break;
        }
        found.due.push((namespace, name, look_at));
    }
    if found.due.len() >= limit as usize {
        found.next = Some(now);
    }
    Ok(found)
}

/// Schedules of open fires that have ended, and where to go on.
async fn ended(
    connection: &mut SqliteConnection,
    after: Option<OpenCursor>,
    limit: u32,
) -> Result<(Vec<ScheduleId>, Option<OpenCursor>), Fault> {
    let sql = concat!(
        "SELECT f.schedule_id, f.due, coalesce(",
        state_of_work!(),
        ", 10) >= 10 FROM fires f WHERE f.outcome = 1 AND f.result IS NULL \
         AND (f.schedule_id, f.due) > (?, ?) ORDER BY f.schedule_id, f.due LIMIT ?"
    );
    let after = after.unwrap_or((ScheduleId::from_bytes([0; 16]), Timestamp::from_micros(0)));
    let args =
        Args::default().with(after.0.as_bytes().as_slice()).with(after.1.micros()).with(limit);
    let found = rows(connection, sql, args).await?;
    let (mut ended, mut last) = (Vec::new(), None);
    for row in &found {
        let mut c = Columns::of(row);
        let (id, due) = (ScheduleId::from_bytes(c.id()?), c.time()?);
        if c.next::<bool>()? && ended.last() != Some(&id) {
            ended.push(id);
        }
        last = Some((id, due));
    }
    Ok((ended, last.filter(|_| found.len() >= limit as usize)))
}

async fn wake(tx: &mut Tx<'_>, lead: Option<Epoch>, ids: Vec<ScheduleId>) -> Result<(), Fault> {
    if !gates::leads(tx, lead).await? {
        return Ok(());
    }
    let sql =
        "UPDATE schedules SET look_at = ?1 WHERE id = ?2 AND (look_at IS NULL OR look_at > ?1)";
    for id in ids {
        let args = Args::default().with(tx.now.micros()).with(id.as_bytes().as_slice());
        execute(tx.connection, sql, args).await?;
    }
    Ok(())
}

async fn fires(
    connection: &mut SqliteConnection,
    id: ScheduleId,
    before: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<FireRow>, Fault> {
    let sql = "SELECT due, source, outcome, reason, detail, decided_at, late, job_id, workflow_id, \
               result FROM fires WHERE schedule_id = ? AND due < ? ORDER BY due DESC LIMIT ?";
    let args = Args::default()
        .with(id.as_bytes().as_slice())
        .with(before.map_or(i64::MAX, Timestamp::micros))
        .with(limit);
    let found = rows(connection, sql, args).await?;
    Ok(readable("a fire", &found, fire_of))
}

fn fire_of(row: &SqliteRow) -> Result<FireRow, Fault> {
    let mut c = Columns::of(row);
    let (due, source) = (c.time()?, source(&mut c)?);
    let outcome = FireOutcome::from_number(c.next()?);
    Ok(FireRow {
        due,
        source,
        outcome: outcome.ok_or_else(|| Fault::unreadable("an outcome"))?,
        reason: c.next()?,
        detail: c.next()?,
        decided_at: c.time()?,
        late: std::time::Duration::from_micros(c.count()?),
        work: submitted(&mut c)?,
        result: match c.next::<Option<i16>>()? {
            None => None,
            Some(n) => {
                Some(FireResult::from_number(n).ok_or_else(|| Fault::unreadable("a result"))?)
            }
        },
    })
}

async fn fired_between(
    connection: &mut SqliteConnection,
    id: ScheduleId,
    from: Timestamp,
    to: Timestamp,
    limit: u32,
) -> Result<Vec<Timestamp>, Fault> {
    let sql = "SELECT due FROM fires WHERE schedule_id = ? AND due BETWEEN ? AND ? AND outcome < 2 \
               ORDER BY due LIMIT ?";
    let args = Args::default()
        .with(id.as_bytes().as_slice())
        .with(from.micros())
        .with(to.micros())
        .with(limit);
    rows(connection, sql, args).await?.iter().map(|row| Columns::of(row).time()).collect()
}

/// One that waits or runs is kept, unless its schedule is gone. The schedule notes what is gone, and moves on: a decision
/// that saw the row is made anew.
async fn prune(
    tx: &mut Tx<'_>,
    lead: Option<Epoch>,
    before: Timestamp,
    limit: u32,
) -> Result<u64, Fault> {
    if !gates::leads(tx, lead).await? {
        return Ok(0);
    }
    let sql = "DELETE FROM fires WHERE (schedule_id, due) IN (SELECT f.schedule_id, f.due FROM fires f \
               WHERE f.decided_at < ? AND (f.outcome > 1 OR f.result IS NOT NULL \
               OR NOT EXISTS (SELECT 1 FROM schedules s WHERE s.id = f.schedule_id)) \
               ORDER BY f.decided_at LIMIT ?) RETURNING schedule_id, due";
    let args = Args::default().with(before.micros()).with(limit);
    let gone = rows(tx.connection, sql, args).await?;
    let mut last: HashMap<[u8; 16], i64> = HashMap::new();
    for row in &gone {
        let mut c = Columns::of(row);
        let (id, due): (_, i64) = (c.id()?, c.next()?);
        last.entry(id).and_modify(|latest| *latest = due.max(*latest)).or_insert(due);
    }
    for (id, due) in last {
        let sql = "UPDATE schedules SET version = version + 1, fires_from = max(fires_from, ?2) WHERE id = ?1";
        let args = Args::default().with(id.as_slice()).with(due.saturating_add(1));
        execute(tx.connection, sql, args).await?;
    }
    Ok(gone.len() as u64)
}
