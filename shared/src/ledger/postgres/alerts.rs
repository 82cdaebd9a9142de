//! Alerts, and what was told of them. Each write is one statement that holds the leader's row while it runs, so that
//! nobody else can take the lead before it is committed.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::{BadColumn, after_write, unchanged};
use super::row::{get, int8, json, parse, small, time, to_json, unsigned};
use super::workers::{WORKER_COLUMNS_FROM, worker};
use super::{Postgres, Result};
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

/// The leader of epoch `$1`, held until the end of the statement.
const LEAD: &str = "WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
), lead AS MATERIALIZED (
    SELECT 1 FROM leader WHERE epoch = $1
        AND expires_at > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FOR SHARE
)";

const NOTE_LOOK: &str = ", lost AS MATERIALIZED (
    SELECT id FROM alerts WHERE EXISTS (SELECT 1 FROM lead) AND (id = ANY($2)
        OR id IN (SELECT id FROM alerts WHERE state = 2 AND ended_at < $3 ORDER BY ended_at LIMIT $4))
), untold AS (
    DELETE FROM alert_told t USING lost WHERE t.alert_id = lost.id
), gone AS (
    DELETE FROM alerts a USING lost WHERE a.id = lost.id
), kept AS (
    INSERT INTO alerts (id, ended_at, state, code, namespace, subject, body)
    SELECT v.* FROM lead, unnest($5::uuid[], $6::bigint[], $7::smallint[], $8::text[], $9::text[], $10::text[],
        $11::text[]) AS v(id, ended_at, state, code, namespace, subject, body)
    ON CONFLICT (id) DO UPDATE SET ended_at = EXCLUDED.ended_at, state = EXCLUDED.state, body = EXCLUDED.body
), known AS (
    UPDATE receivers r SET seen_at = clock.now FROM lead, clock
    WHERE r.name = ANY($13) AND r.seen_at < clock.now - $14
), former AS (
    DELETE FROM receivers r USING lead WHERE r.seen_at < $3 AND NOT r.name = ANY($13) RETURNING r.name
), untold_to AS (
    DELETE FROM alert_told t USING former WHERE t.receiver = former.name
), noted AS (
    INSERT INTO overwatch (epoch, judged_at, summary) SELECT $1, clock.now, $12 FROM lead, clock
    ON CONFLICT (one) DO UPDATE SET epoch = EXCLUDED.epoch, judged_at = EXCLUDED.judged_at,
        summary = EXCLUDED.summary
)
SELECT count(*) FROM lead";

const NOTE_TOLD: &str = ", kept AS (
    INSERT INTO receivers (seen_at, name, body) SELECT clock.now, $2, $3 FROM lead, clock
    ON CONFLICT (name) DO UPDATE SET seen_at = EXCLUDED.seen_at, body = EXCLUDED.body
), noted AS (
    INSERT INTO alert_told AS t (receiver, alert_id, stage, severity, told_at)
    SELECT $2, v.* FROM lead, unnest($4::uuid[], $5::smallint[], $6::smallint[], $7::bigint[])
        AS v(alert_id, stage, severity, told_at)
    WHERE EXISTS (SELECT 1 FROM alerts a WHERE a.id = v.alert_id)
    ON CONFLICT (receiver, alert_id) DO UPDATE SET stage = greatest(t.stage, EXCLUDED.stage),
        severity = EXCLUDED.severity, told_at = EXCLUDED.told_at
)
SELECT count(*) FROM lead, clock";

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn note_look(&self, epoch: Epoch, note: LookNote) -> Result<bool> {
        self.detached(move |inner| async move { note_look(&inner.pool, epoch, &note).await }).await
    }

    pub async fn alerts(&self, ended_since: Timestamp) -> Result<Vec<Alert>> {
        self.read(alerts(&self.inner.pool, ended_since)).await
    }

    pub async fn judged(&self) -> Result<Option<Judged>> {
        self.read(judged(&self.inner.pool)).await
    }

    pub async fn receivers(&self) -> Result<Vec<Receiver>> {
        self.read(receivers(&self.inner.pool)).await
    }

    pub async fn told(&self, receiver: &str) -> Result<Vec<ToldRow>> {
        self.read(told(&self.inner.pool, receiver)).await
    }

    pub async fn note_told(&self, epoch: Epoch, note: TellNote) -> Result<bool> {
        self.detached(move |inner| async move { note_told(&inner.pool, epoch, &note).await }).await
    }

    pub async fn outcome_sums(&self, since: Timestamp) -> Result<Vec<OutcomeSum>> {
        self.read(outcome_sums(&self.inner.pool, since)).await
    }

    pub async fn space(&self) -> Result<Space> {
        self.read(space(&self.inner.pool)).await
    }

    pub async fn all_workers(&self, within: Duration) -> Result<Vec<WorkerBeat>> {
        self.read(all_workers(&self.inner.pool, within)).await
    }

    pub async fn schedule_troubles(
        &self,
        late_before: Timestamp,
        missed_since: Timestamp,
        limit: u32,
    ) -> Result<ScheduleTroubles> {
        self.read(troubles(&self.inner.pool, late_before, missed_since, i64::from(limit))).await
    }
}

async fn note_look(pool: &PgPool, epoch: Epoch, note: &LookNote) -> Result<bool> {
    let alerts = &note.alerts;
    let bodies = alerts.iter().map(to_json).collect::<Result<Vec<_>>>()?;
    let namespaces = alerts.iter().map(|a| a.key.namespace.as_ref().map_or("", |n| n.as_str()));
    let sql = [LEAD, NOTE_LOOK].concat();
    let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(int8(epoch.0))
        .bind(note.dropped.iter().map(|id| id.uuid()).collect::<Vec<Uuid>>())
        .bind(note.forget_before.micros())
        .bind(FORGET_MAX)
        .bind(alerts.iter().map(|a| a.id.uuid()).collect::<Vec<Uuid>>())
        .bind(alerts.iter().map(|a| a.ended_at.map(Timestamp::micros)).collect::<Vec<_>>())
        .bind(alerts.iter().map(|a| a.state as i16).collect::<Vec<_>>())
        .bind(alerts.iter().map(|a| a.key.code.as_str()).collect::<Vec<_>>())
        .bind(namespaces.collect::<Vec<_>>())
        .bind(alerts.iter().map(|a| a.key.subject.as_str()).collect::<Vec<_>>())
        .bind(bodies)
        .bind(&note.summary)
        .bind(&note.receivers)
        .bind(i64::try_from(RECEIVER_SEEN_EVERY.as_micros()).unwrap_or(i64::MAX))
        .fetch_one(pool)
        .await
        .map_err(after_write)?;
    Ok(count > 0)
}

async fn alerts(pool: &PgPool, ended_since: Timestamp) -> Result<Vec<Alert>> {
    let sql = "(SELECT body, id, state, ended_at, code, namespace, subject FROM alerts \
                    WHERE state < 2 ORDER BY id LIMIT $2) UNION ALL \
               (SELECT body, id, state, ended_at, code, namespace, subject FROM alerts \
                    WHERE state = 2 AND ended_at >= $1 ORDER BY ended_at DESC LIMIT $2) \
               ORDER BY id";
    let query = sqlx::query(sql).bind(ended_since.micros()).bind(i64::from(ALERTS_MAX));
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("an alert", &rows, |row| json(get(row, 0)?, "body").or_else(|_| outline(row))))
}

fn outline(row: &PgRow) -> Result<Alert> {
    let state = AlertState::from_number(get(row, 2)?).ok_or(BadColumn { column: "state" })?;
    let namespace = match get::<&str>(row, 5)? {
        "" => None,
        _ => Some(parse(row, 5, "namespace")?),
    };
    let key = AlertKey { code: get(row, 4)?, namespace, subject: get(row, 6)? };
    let ended_at = get::<Option<i64>>(row, 3)?.map(Timestamp::from_micros);
    Ok(Alert::in_outline(AlertId::from_uuid(get(row, 1)?), key, state, ended_at))
}

async fn judged(pool: &PgPool) -> Result<Option<Judged>> {
    let query = sqlx::query("SELECT epoch, judged_at, summary FROM overwatch");
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    let judged = |row: PgRow| {
        let epoch = Epoch(unsigned(&row, 0, "epoch")?);
        Ok(Judged { epoch, at: time(&row, 1)?, summary: get(&row, 2)? })
    };
    row.map(judged).transpose()
}

async fn receivers(pool: &PgPool) -> Result<Vec<Receiver>> {
    let query = sqlx::query("SELECT body FROM receivers ORDER BY name LIMIT 1000");
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a receiver", &rows, |row| json(get(row, 0)?, "body")))
}

async fn told(pool: &PgPool, receiver: &str) -> Result<Vec<ToldRow>> {
    let sql = "SELECT alert_id, stage, severity, told_at FROM alert_told WHERE receiver = $1";
    let rows = sqlx::query(sql).bind(receiver).fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("what a receiver was told", &rows, told_row))
}

fn told_row(row: &PgRow) -> Result<ToldRow> {
    let stage = Stage::from_number(get(row, 1)?).ok_or(BadColumn { column: "stage" })?;
    let severity = Severity::from_number(get(row, 2)?);
    let severity = severity.ok_or(BadColumn { column: "severity" })?;
    Ok(ToldRow { alert: AlertId::from_uuid(get(row, 0)?), stage, severity, at: time(row, 3)? })
}

async fn note_told(pool: &PgPool, epoch: Epoch, note: &TellNote) -> Result<bool> {
    let told = &note.told;
    let sql = [LEAD, NOTE_TOLD].concat();
    let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(int8(epoch.0))
        .bind(&note.receiver.name)
        .bind(to_json(&note.receiver)?)
        .bind(told.iter().map(|t| t.alert.uuid()).collect::<Vec<Uuid>>())
        .bind(told.iter().map(|t| t.stage as i16).collect::<Vec<_>>())
        .bind(told.iter().map(|t| t.severity as i16).collect::<Vec<_>>())
        .bind(told.iter().map(|t| t.at.micros()).collect::<Vec<_>>())
        .fetch_one(pool)
        .await
        .map_err(after_write)?;
    Ok(count > 0)
}

async fn outcome_sums(pool: &PgPool, since: Timestamp) -> Result<Vec<OutcomeSum>> {
    let sql = "SELECT namespace, queue, sum(ended)::bigint, \
                   (sum(ended) FILTER (WHERE outcome = $2))::bigint, sum(dead)::bigint, sum(count)::bigint, \
                   (sum(count) FILTER (WHERE outcome = $3))::bigint, sum(run_ms)::bigint, \
                   sum(wait_ms)::bigint, sum(total_ms)::bigint \
               FROM rollups WHERE minute >= $1 GROUP BY 1, 2 ORDER BY sum(count) DESC, 1, 2 LIMIT $4";
    let query = sqlx::query(sql)
        .bind(since.micros())
        .bind(AttemptOutcome::Succeeded as i16)
        .bind(AttemptOutcome::LeaseLost as i16)
        .bind(SUMS_MAX);
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a roll-up", &rows, outcome_sum))
}

fn outcome_sum(row: &PgRow) -> Result<OutcomeSum> {
    let n = |at: usize| -> Result<u64> {
        Ok(get::<Option<i64>>(row, at)?.unwrap_or_default().unsigned_abs())
    };
    Ok(OutcomeSum {
        namespace: parse(row, 0, "namespace")?,
        queue: parse(row, 1, "queue")?,
        sums: Sums {
            ended: n(2)?,
            succeeded: n(3)?,
            dead: n(4)?,
            attempts: n(5)?,
            lost: n(6)?,
            run_ms: n(7)?,
            wait_ms: n(8)?,
            total_ms: n(9)?,
        },
    })
}

async fn space(pool: &PgPool) -> Result<Space> {
    let query = sqlx::query("SELECT pg_database_size(current_database())");
    let row = query.fetch_one(pool).await.map_err(unchanged)?;
    Ok(Space { used: unsigned(&row, 0, "size")?, free: None })
}

async fn all_workers(pool: &PgPool, within: Duration) -> Result<Vec<WorkerBeat>> {
    let sql = [
        WORKER_COLUMNS_FROM,
        "WHERE seen_at >= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $1 \
         ORDER BY seen_at DESC LIMIT $2",
    ]
    .concat();
    let within = i64::try_from(within.as_micros()).unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
    let most = i64::try_from(WORKERS_MAX).unwrap_or(i64::MAX);
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(within).bind(most);
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(readable("a worker", &rows, worker))
}

async fn troubles(
    pool: &PgPool,
    late_before: Timestamp,
    missed_since: Timestamp,
    limit: i64,
) -> Result<ScheduleTroubles> {
    let mut found = ScheduleTroubles::default();
    let sql = "SELECT namespace, name, paused, failures FROM schedules \
               WHERE paused IS NOT NULL AND strpos(paused, $2) > 0 ORDER BY namespace, name LIMIT $1";
    let query = sqlx::query(sql).bind(limit).bind(paused_by_failures());
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    found.paused = readable("a schedule", &rows, |row| {
        let (namespace, name) = (parse(row, 0, "namespace")?, parse(row, 1, "name")?);
        let paused: Paused = json(get(row, 2)?, "paused")?;
        Ok::<_, super::LedgerError>((namespace, name, paused.since, small(row, 3, "failures")?))
    });
    let sql = "SELECT namespace, name, look_at FROM schedules \
               WHERE look_at IS NOT NULL AND look_at < $1 AND paused IS NULL ORDER BY look_at LIMIT $2";
    let query = sqlx::query(sql).bind(late_before.micros()).bind(limit);
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    found.late = readable("a schedule", &rows, |row| {
        let (namespace, name) = (parse(row, 0, "namespace")?, parse(row, 1, "name")?);
        Ok::<_, super::LedgerError>((namespace, name, time(row, 2)?))
    });
    let sql = "SELECT s.namespace, s.name, m.n FROM (SELECT schedule_id, count(*) AS n FROM fires \
                   WHERE decided_at >= $1 AND outcome = $2 GROUP BY 1) m \
               JOIN schedules s ON s.id = m.schedule_id ORDER BY m.n DESC, 1, 2 LIMIT $3";
    let query =
        sqlx::query(sql).bind(missed_since.micros()).bind(FireOutcome::Missed as i16).bind(limit);
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    found.missed = readable("a schedule", &rows, |row| {
        let (namespace, name) = (parse(row, 0, "namespace")?, parse(row, 1, "name")?);
        Ok::<_, super::LedgerError>((namespace, name, unsigned(row, 2, "count")?))
    });
    Ok(found)
}
