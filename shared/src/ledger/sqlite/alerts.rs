//! Alerts, and what was told of them. Each write looks at the leader's row first; there is one writer, so nobody can take
//! the lead in between.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::{Columns, name};
use super::reports::worker_of;
use super::run_calls::change;
use super::statement::{Args, Bulk, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Result, Sqlite, read};
use crate::ledger::alerts::{
    ALERTS_MAX, FORGET_MAX, Judged, LookNote, OutcomeSum, RECEIVER_SEEN_EVERY, SUMS_MAX,
    ScheduleTroubles, Space, TellNote, ToldRow, WORKERS_MAX, paused_by_failures,
};
use crate::ledger::unreadable::readable;
use crate::ledger::{Epoch, Paused, WorkerBeat};
use crate::model::alert::{Alert, AlertKey, AlertState, Receiver, Severity, Stage};
use crate::model::health::Sums;
use crate::model::id::AlertId;
use crate::model::job::AttemptOutcome;
use crate::model::schedule::FireOutcome;
use crate::model::time::Timestamp;

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn note_look(&self, epoch: Epoch, note: LookNote) -> Result<bool> {
        let rows = note.alerts.len() + note.dropped.len() + 1;
        change!(self, rows, |tx| note_look(tx, epoch, &note))
    }

    pub async fn alerts(&self, ended_since: Timestamp) -> Result<Vec<Alert>> {
        read!(self, alerts, ended_since)
    }

    pub async fn judged(&self) -> Result<Option<Judged>> {
        read!(self, judged)
    }

    pub async fn receivers(&self) -> Result<Vec<Receiver>> {
        read!(self, receivers)
    }

    pub async fn told(&self, receiver: &str) -> Result<Vec<ToldRow>> {
        read!(self, told, receiver)
    }

    pub async fn note_told(&self, epoch: Epoch, note: TellNote) -> Result<bool> {
        change!(self, note.told.len() + 1, |tx| note_told(tx, epoch, &note))
    }

    pub async fn outcome_sums(&self, since: Timestamp) -> Result<Vec<OutcomeSum>> {
        read!(self, outcome_sums, since)
    }

    pub async fn space(&self) -> Result<Space> {
        self.place.space()
    }

    pub async fn all_workers(&self, within: Duration) -> Result<Vec<WorkerBeat>> {
        let since = self.clock.now().minus(within);
        read!(self, all_workers, since)
    }

    pub async fn schedule_troubles(
        &self,
        late_before: Timestamp,
        missed_since: Timestamp,
        limit: u32,
    ) -> Result<ScheduleTroubles> {
        read!(self, troubles, late_before, missed_since, i64::from(limit))
    }
}

/// Whether this epoch leads, in this transaction.
async fn leads(tx: &mut Tx<'_>, epoch: Epoch) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM leader WHERE epoch = ? AND expires_at > ?";
    let epoch = i64::try_from(epoch.0).unwrap_or(i64::MAX);
    let args = Args::default().with(epoch).with(tx.now.micros());
    Ok(row(tx.connection, sql, args).await?.is_some())
}

fn text(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(Fault::unreadable)
}

async fn note_look(tx: &mut Tx<'_>, epoch: Epoch, note: &LookNote) -> Result<bool, Fault> {
    static KEEP: Bulk = Bulk::new(
        "INSERT INTO alerts (id, ended_at, state, code, namespace, subject, body) VALUES",
        "(?, ?, ?, ?, ?, ?, ?)",
        "ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at, state = excluded.state, \
         body = excluded.body",
    );
    static DROP: Bulk = Bulk::new("DELETE FROM alerts WHERE id IN (VALUES", "(?)", ")");
    if !leads(tx, epoch).await? {
        return Ok(false);
    }
    DROP.execute(tx.connection, &note.dropped, |args, id| {
        args.add(id.as_bytes().as_slice());
    })
    .await?;
    let sql = "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE state = 2 AND ended_at < ? \
               ORDER BY ended_at LIMIT ?)";
    let args = Args::default().with(note.forget_before.micros()).with(FORGET_MAX);
    if execute(tx.connection, sql, args).await? > 0 {
        let sql =
            "DELETE FROM alert_told WHERE NOT EXISTS (SELECT 1 FROM alerts WHERE id = alert_id)";
        execute(tx.connection, sql, Args::default()).await?;
    }
    let mut alerts = Vec::with_capacity(note.alerts.len());
    for alert in &note.alerts {
        alerts.push((alert, text(alert)?));
    }
    KEEP.execute(tx.connection, &alerts, |args, (alert, body)| {
        args.add(alert.id.as_bytes().as_slice())
            .add(alert.ended_at.map(Timestamp::micros))
            .add(alert.state as i16)
            .add(alert.key.code.as_str())
            .add(alert.key.namespace.as_ref().map_or("", |n| n.as_str()))
            .add(alert.key.subject.as_str())
            .add(body.as_str());
    })
    .await?;
    note_receivers(tx, note).await?;
    let sql = "INSERT INTO overwatch (one, epoch, judged_at, summary) VALUES (1, ?, ?, ?) \
               ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch, judged_at = excluded.judged_at, \
               summary = excluded.summary";
    let args = Args::default()
        .with(i64::try_from(epoch.0).unwrap_or(i64::MAX))
        .with(tx.now.micros())
        .with(note.summary.as_str());
    execute(tx.connection, sql, args).await?;
    Ok(true)
}

/// Notes which receivers are in the settings, and forgets those that have not been for long.
async fn note_receivers(tx: &mut Tx<'_>, note: &LookNote) -> Result<(), Fault> {
    let (names, now) = (text(&note.receivers)?, tx.now);
    let sql = "UPDATE receivers SET seen_at = ?1 \
               WHERE name IN (SELECT value FROM json_each(?2)) AND seen_at < ?3";
    let args = Args::default().with(now.micros()).with(names.as_str());
    execute(tx.connection, sql, args.with(now.minus(RECEIVER_SEEN_EVERY).micros())).await?;
    let sql = "DELETE FROM receivers \
               WHERE seen_at < ?2 AND name NOT IN (SELECT value FROM json_each(?1))";
    let args = Args::default().with(names).with(note.forget_before.micros());
    if execute(tx.connection, sql, args).await? > 0 {
        let sql = "DELETE FROM alert_told WHERE receiver NOT IN (SELECT name FROM receivers)";
        execute(tx.connection, sql, Args::default()).await?;
    }
    Ok(())
}

async fn alerts(
    connection: &mut SqliteConnection,
    ended_since: Timestamp,
) -> Result<Vec<Alert>, Fault> {
    let sql = "SELECT body, id, state, ended_at, code, namespace, subject FROM (\
               SELECT * FROM (SELECT * FROM alerts WHERE state < 2 ORDER BY id LIMIT ?2) UNION ALL \
               SELECT * FROM (SELECT * FROM alerts WHERE state = 2 AND ended_at >= ?1 \
               ORDER BY ended_at DESC LIMIT ?2)) ORDER BY id";
    let args = Args::default().with(ended_since.micros()).with(i64::from(ALERTS_MAX));
    let found = rows(connection, sql, args).await?;
    let read = |row: &SqliteRow| Columns::of(row).json().or_else(|_| outline(row));
    Ok(readable("an alert", &found, read))
}

fn outline(row: &SqliteRow) -> Result<Alert, Fault> {
    let mut c = Columns::of(row);
    let _body: &str = c.next()?;
    let id = AlertId::from_bytes(c.id()?);
    let state = AlertState::from_number(c.count()?);
    let state = state.ok_or_else(|| Fault::unreadable("a state"))?;
    let (ended_at, code) = (c.maybe_time()?, c.next()?);
    let namespace = match c.next::<&str>()? {
        "" => None,
        text => Some(name(text)?),
    };
    let key = AlertKey { code, namespace, subject: c.next()? };
    Ok(Alert::in_outline(id, key, state, ended_at))
}

async fn judged(connection: &mut SqliteConnection) -> Result<Option<Judged>, Fault> {
    let sql = "SELECT epoch, judged_at, summary FROM overwatch";
    let judged = |row: SqliteRow| {
        let mut c = Columns::of(&row);
        Ok(Judged { epoch: Epoch(c.count()?), at: c.time()?, summary: c.next()? })
    };
    row(connection, sql, Args::default()).await?.map(judged).transpose()
}

async fn receivers(connection: &mut SqliteConnection) -> Result<Vec<Receiver>, Fault> {
    let sql = "SELECT body FROM receivers ORDER BY name LIMIT 1000";
    let found = rows(connection, sql, Args::default()).await?;
    Ok(readable("a receiver", &found, |row| Columns::of(row).json()))
}

async fn told(connection: &mut SqliteConnection, receiver: &str) -> Result<Vec<ToldRow>, Fault> {
    let sql = "SELECT alert_id, stage, severity, told_at FROM alert_told WHERE receiver = ?";
    let found = rows(connection, sql, Args::default().with(receiver)).await?;
    Ok(readable("what a receiver was told", &found, told_row))
}

fn told_row(row: &SqliteRow) -> Result<ToldRow, Fault> {
    let mut c = Columns::of(row);
    let alert = AlertId::from_bytes(c.id()?);
    let stage = Stage::from_number(c.count()?).ok_or_else(|| Fault::unreadable("a stage"))?;
    let severity = Severity::from_number(c.count()?);
    let severity = severity.ok_or_else(|| Fault::unreadable("a severity"))?;
    Ok(ToldRow { alert, stage, severity, at: c.time()? })
}

async fn note_told(tx: &mut Tx<'_>, epoch: Epoch, note: &TellNote) -> Result<bool, Fault> {
    if !leads(tx, epoch).await? {
        return Ok(false);
    }
    let sql = "INSERT INTO receivers (seen_at, name, body) VALUES (?, ?, ?) \
               ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, body = excluded.body";
    let body = text(&note.receiver)?;
    let args = Args::default().with(tx.now.micros()).with(note.receiver.name.as_str()).with(body);
    execute(tx.connection, sql, args).await?;
    let sql = "INSERT INTO alert_told (receiver, alert_id, stage, severity, told_at) \
               SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM alerts WHERE id = ?2) \
               ON CONFLICT (receiver, alert_id) DO UPDATE SET stage = max(stage, excluded.stage), \
               severity = excluded.severity, told_at = excluded.told_at";
    for told in &note.told {
        let args = Args::default()
            .with(note.receiver.name.as_str())
            .with(told.alert.as_bytes().as_slice())
            .with(told.stage as i16)
            .with(told.severity as i16)
            .with(told.at.micros());
        execute(tx.connection, sql, args).await?;
    }
    Ok(true)
}

async fn outcome_sums(
    connection: &mut SqliteConnection,
    since: Timestamp,
) -> Result<Vec<OutcomeSum>, Fault> {
    let sql = "SELECT namespace, queue, sum(ended), sum(iif(outcome = ?2, ended, 0)), sum(dead), sum(count), \
               sum(iif(outcome = ?3, count, 0)), sum(run_ms), sum(wait_ms), sum(total_ms) \
               FROM rollups WHERE minute >= ?1 GROUP BY 1, 2 ORDER BY sum(count) DESC, 1, 2 LIMIT ?4";
    let args = Args::default()
        .with(since.micros())
        .with(AttemptOutcome::Succeeded as i16)
        .with(AttemptOutcome::LeaseLost as i16)
        .with(SUMS_MAX);
    let found = rows(connection, sql, args).await?;
    Ok(readable("a roll-up", &found, outcome_sum))
}

fn outcome_sum(row: &SqliteRow) -> Result<OutcomeSum, Fault> {
    let mut c = Columns::of(row);
    Ok(OutcomeSum {
        namespace: c.parsed()?,
        queue: c.parsed()?,
        sums: Sums {
            ended: c.count()?,
            succeeded: c.count()?,
            dead: c.count()?,
            attempts: c.count()?,
            lost: c.count()?,
            run_ms: c.count()?,
            wait_ms: c.count()?,
            total_ms: c.count()?,
        },
    })
}

async fn all_workers(
    connection: &mut SqliteConnection,
    since: Timestamp,
) -> Result<Vec<WorkerBeat>, Fault> {
    let sql = super::reports::select_workers!("WHERE seen_at >= ? ORDER BY seen_at DESC LIMIT ?");
    let most = i64::try_from(WORKERS_MAX).unwrap_or(i64::MAX);
    let found = rows(connection, sql, Args::default().with(since.micros()).with(most)).await?;
    Ok(readable("a worker", &found, worker_of))
}

async fn troubles(
    connection: &mut SqliteConnection,
    late_before: Timestamp,
    missed_since: Timestamp,
    limit: i64,
) -> Result<ScheduleTroubles, Fault> {
    let mut troubles = ScheduleTroubles::default();
    let sql = "SELECT namespace, name, paused, failures FROM schedules \
               WHERE paused IS NOT NULL AND instr(paused, ?) > 0 ORDER BY namespace, name LIMIT ?";
    let args = Args::default().with(paused_by_failures()).with(limit);
    let found = rows(connection, sql, args).await?;
    troubles.paused = readable("a schedule", &found, |row| {
        let mut c = Columns::of(row);
        let (namespace, name) = (c.parsed()?, c.parsed()?);
        let paused: Paused = c.json()?;
        Ok::<_, Fault>((namespace, name, paused.since, c.count()?))
    });
    let sql = "SELECT namespace, name, look_at FROM schedules \
               WHERE look_at IS NOT NULL AND look_at < ? AND paused IS NULL ORDER BY look_at LIMIT ?";
    let args = Args::default().with(late_before.micros()).with(limit);
    let found = rows(connection, sql, args).await?;
    troubles.late = readable("a schedule", &found, |row| {
        let mut c = Columns::of(row);
        Ok::<_, Fault>((c.parsed()?, c.parsed()?, c.time()?))
    });
    let sql = "SELECT s.namespace, s.name, m.n FROM (SELECT schedule_id, count(*) AS n FROM fires \
               WHERE decided_at >= ? AND outcome = ? GROUP BY 1) m \
               JOIN schedules s ON s.id = m.schedule_id ORDER BY m.n DESC, 1, 2 LIMIT ?";
    let args =
        Args::default().with(missed_since.micros()).with(FireOutcome::Missed as i16).with(limit);
    let found = rows(connection, sql, args).await?;
    troubles.missed = readable("a schedule", &found, |row| {
        let mut c = Columns::of(row);
        Ok::<_, Fault>((c.parsed()?, c.parsed()?, c.count()?))
    });
    Ok(troubles)
}
