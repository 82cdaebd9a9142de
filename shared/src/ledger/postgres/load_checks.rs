//! Load checks, and the cleaning of their shadows.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::error::{BadColumn, after_write, unchanged};
use super::forget::{By, Forget, forget};
use super::row::{get, int4, int8, json, maybe_time, parse, small, time, unsigned};
use super::{LedgerError, Postgres, Result};
use crate::ledger::load_checks::{
    ABANDONED, CheckBegun, CheckEnd, Cleaned, INTERRUPTED, LoadCheck, NewCheck, PAGE_MAX,
};
use crate::ledger::unreadable::readable;
use crate::model::id::{Fence, JobId};
use crate::model::load_check::{CheckState, Report};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Ledger time, anew wherever it stands.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

macro_rules! select_checks {
    ($tail:literal) => {
        concat!(
            "SELECT c.id, c.run, c.state, c.restarts, c.given_back, c.started_at, c.ended_at, c.namespace, ",
            "c.plan, c.reasons, c.report, NOT EXISTS (SELECT FROM load_check_shadows s ",
            "WHERE s.check_id = c.id AND s.cleaned_at IS NULL) FROM load_checks c ",
            $tail
        )
    };
}

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn begin_check(&self, new: &NewCheck) -> Result<CheckBegun> {
        let new = new.clone();
        self.detached(|inner| async move { begin(&inner.pool, &new).await }).await
    }

    pub async fn end_check(&self, end: &CheckEnd) -> Result<bool> {
        let end = end.clone();
        self.detached(|inner| async move { finish(&inner.pool, &end).await }).await
    }

    pub async fn give_back_check(&self, id: JobId, run: Fence) -> Result<bool> {
        self.detached(move |inner| async move {
            let sql =
                "UPDATE load_checks SET given_back = true WHERE id = $1 AND run = $2 AND state = 0";
            let query = sqlx::query(sql).bind(id.uuid()).bind(int8(run.0));
            Ok(query.execute(&inner.pool).await.map_err(after_write)?.rows_affected() > 0)
        })
        .await
    }

    pub async fn load_check(&self, id: JobId) -> Result<Option<LoadCheck>> {
        self.read(async {
            let mut connection = self.inner.pool.acquire().await.map_err(unchanged)?;
            one(&mut connection, id).await
        })
        .await
    }

    pub async fn load_checks(&self, before: Option<JobId>, limit: u32) -> Result<Vec<LoadCheck>> {
        self.read(async {
            let before = before.map_or(Uuid::max(), JobId::uuid);
            let sql = select_checks!("WHERE c.id < $1 ORDER BY c.id DESC LIMIT $2");
            let query = sqlx::query(sql).bind(before).bind(i64::from(limit.min(PAGE_MAX)));
            let found = query.fetch_all(&self.inner.pool).await.map_err(unchanged)?;
            Ok(readable("a load check", &found, check_of))
        })
        .await
    }

    pub async fn unclean_shadows(&self, limit: u32) -> Result<Vec<Namespace>> {
        self.read(async {
            let sql = "SELECT s.namespace FROM load_check_shadows s WHERE s.cleaned_at IS NULL AND NOT EXISTS \
                       (SELECT FROM load_checks c WHERE c.id = s.check_id AND c.state = 0 \
                        AND NOT c.given_back AND c.namespace = s.namespace) ORDER BY s.made_at LIMIT $1";
            let query = sqlx::query(sql).bind(i64::from(limit));
            let found = query.fetch_all(&self.inner.pool).await.map_err(unchanged)?;
            Ok(readable("a shadow", &found, |row| parse(row, 0, "namespace")))
        })
        .await
    }

    pub async fn clean_shadow(&self, shadow: &Namespace, limit: u32) -> Result<Option<Cleaned>> {
        if !shadow.is_shadow() {
            return Ok(None);
        }
        let shadow = shadow.clone();
        self.detached(move |inner| async move { clean(&inner.bulk, &shadow, limit).await }).await
    }

    pub async fn prune_checks(&self, before: Timestamp, keep: u32) -> Result<u64> {
        self.detached(move |inner| async move { prune(&inner.pool, before, keep).await }).await
    }
}

/// JSON of what is made of nothing but what JSON has.
fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("checks are made of what JSON has")
}

async fn begin(pool: &PgPool, new: &NewCheck) -> Result<CheckBegun> {
    let mut tx = pool.begin().await.map_err(unchanged)?;
    // One beginning at a time. Readers are not held up.
    let lock = "LOCK TABLE load_checks IN SHARE ROW EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *tx).await.map_err(unchanged)?;
    let begun = match one(&mut tx, new.id).await? {
        Some(known) => again(&mut tx, known, new).await?,
        None => first(&mut tx, new).await?,
    };
    tx.commit().await.map_err(after_write)?;
    Ok(begun)
}

async fn first(tx: &mut PgConnection, new: &NewCheck) -> Result<CheckBegun> {
    let query = sqlx::query(select_checks!("WHERE c.state = 0"));
    for other in &query.fetch_all(&mut *tx).await.map_err(unchanged)? {
        let other = check_of(other)?;
        let sql = "SELECT EXISTS (SELECT FROM jobs WHERE id = $1 AND state < 10)";
        let query = sqlx::query_scalar(sql).bind(other.id.uuid());
        let lives: bool = query.fetch_one(&mut *tx).await.map_err(unchanged)?;
        if lives {
            return Ok(CheckBegun::Busy(other.id));
        }
        judge(tx, &other, other.run, ABANDONED).await?;
    }
    let sql = concat!(
        "INSERT INTO load_checks (id, run, started_at, state, namespace, plan) VALUES ($1, $2, ",
        now!(),
        ", 0, $3, $4)"
    );
    let query = sqlx::query(sql)
        .bind(new.id.uuid())
        .bind(int8(new.run.0))
        .bind(new.shadow.as_str())
        .bind(text(&new.plan));
    query.execute(&mut *tx).await.map_err(unchanged)?;
    mark(tx, new).await?;
    read_back(tx, new.id).await.map(CheckBegun::Started)
}

/// What becomes of a check that is on record when an attempt comes to it.
async fn again(tx: &mut PgConnection, known: LoadCheck, new: &NewCheck) -> Result<CheckBegun> {
    if known.state != CheckState::Running {
        return Ok(CheckBegun::Ended(known));
    }
    if known.run > new.run {
        return Ok(CheckBegun::Stale);
    }
    if known.run == new.run {
        return Ok(CheckBegun::Started(known));
    }
    if !known.given_back {
        judge(tx, &known, new.run, INTERRUPTED).await?;
        return read_back(tx, new.id).await.map(CheckBegun::Ended);
    }
    let sql = concat!(
        "UPDATE load_checks SET run = $1, restarts = restarts + 1, given_back = false, \
         namespace = $2, started_at = ",
        now!(),
        " WHERE id = $3"
    );
    let query = sqlx::query(sql).bind(int8(new.run.0)).bind(new.shadow.as_str());
    query.bind(new.id.uuid()).execute(&mut *tx).await.map_err(unchanged)?;
    mark(tx, new).await?;
    read_back(tx, new.id).await.map(CheckBegun::Started)
}

async fn read_back(tx: &mut PgConnection, id: JobId) -> Result<LoadCheck> {
    let missing = || LedgerError::Failed("a check that was just written is not there".into());
    one(tx, id).await?.ok_or_else(missing)
}

async fn mark(tx: &mut PgConnection, new: &NewCheck) -> Result<()> {
    let sql = concat!(
        "INSERT INTO load_check_shadows (namespace, check_id, ids_from, ids_until, made_at) \
         VALUES ($1, $2, $3, $4, ",
        now!(),
        ")"
    );
    let query = sqlx::query(sql).bind(new.shadow.as_str()).bind(new.id.uuid());
    let query = query.bind(int8(new.ids.0)).bind(int8(new.ids.1));
    query.execute(tx).await.map_err(unchanged)?;
    Ok(())
}

async fn judge(
    tx: &mut PgConnection,
    check: &LoadCheck,
    run: Fence,
    reason: &'static str,
) -> Result<()> {
    let sql = concat!(
        "UPDATE load_checks SET state = $1, run = $2, reasons = $3, report = $4, ended_at = ",
        now!(),
        " WHERE id = $5 AND state = 0"
    );
    let query = sqlx::query(sql)
        .bind(CheckState::Failed as i16)
        .bind(int8(run.0))
        .bind(text(&[reason]))
        .bind(text(&Report::interrupted()))
        .bind(check.id.uuid());
    query.execute(tx).await.map_err(unchanged)?;
    Ok(())
}

async fn finish(pool: &PgPool, end: &CheckEnd) -> Result<bool> {
    let sql = concat!(
        "UPDATE load_checks SET state = $1, reasons = $2, report = $3, ended_at = ",
        now!(),
        " WHERE id = $4 AND run = $5 AND state = 0"
    );
    let query = sqlx::query(sql)
        .bind(end.state as i16)
        .bind(text(&end.reasons).replace("\\u0000", ""))
        .bind(end.report.as_ref().map(text))
        .bind(end.id.uuid())
        .bind(int8(end.run.0));
    if query.execute(pool).await.map_err(after_write)?.rows_affected() > 0 {
        return Ok(true);
    }
    // A repeat of the call that gave this verdict.
    let sql = "SELECT EXISTS (SELECT FROM load_checks WHERE id = $1 AND run = $2 AND state = $3)";
    let query = sqlx::query_scalar(sql).bind(end.id.uuid()).bind(int8(end.run.0));
    query.bind(end.state as i16).fetch_one(pool).await.map_err(unchanged)
}

async fn one(connection: &mut PgConnection, id: JobId) -> Result<Option<LoadCheck>> {
    let query = sqlx::query(select_checks!("WHERE c.id = $1")).bind(id.uuid());
    let found = query.fetch_optional(connection).await.map_err(unchanged)?;
    found.as_ref().map(check_of).transpose()
}

fn check_of(row: &PgRow) -> Result<LoadCheck> {
    let state = CheckState::from_number(get(row, 2)?).ok_or(BadColumn { column: "state" })?;
    let report: Option<&str> = get(row, 10)?;
    Ok(LoadCheck {
        id: JobId::from_uuid(get(row, 0)?),
        run: Fence(unsigned(row, 1, "run")?),
        state,
        restarts: small(row, 3, "restarts")?,
        given_back: get(row, 4)?,
        started_at: time(row, 5)?,
        ended_at: maybe_time(row, 6)?,
        shadow: parse(row, 7, "namespace")?,
        plan: json(get(row, 8)?, "plan")?,
        reasons: json(get(row, 9)?, "reasons")?,
        report: report.map(|text| json(text, "report")).transpose()?,
        is_clean: get(row, 11)?,
    })
}

async fn clean(pool: &PgPool, shadow: &Namespace, limit: u32) -> Result<Option<Cleaned>> {
    let sql = "SELECT ids_from, ids_until FROM load_check_shadows s \
               WHERE s.namespace = $1 AND s.cleaned_at IS NULL AND NOT EXISTS \
               (SELECT FROM load_checks c WHERE c.id = s.check_id AND c.state = 0 \
                AND NOT c.given_back AND c.namespace = s.namespace)";
    let query = sqlx::query(sql).bind(shadow.as_str());
    let marker = query.fetch_optional(pool).await.map_err(unchanged)?;
    let Some(marker) = marker else { return Ok(None) };
    let from = JobId::first_at(unsigned(&marker, 0, "ids_from")?);
    let until = JobId::first_at(unsigned(&marker, 1, "ids_until")?);
    let sql =
        "SELECT id, state >= 10 FROM jobs WHERE id >= $1 AND id < $2 AND namespace = $3 LIMIT $4";
    let query = sqlx::query(sql).bind(from.uuid()).bind(until.uuid()).bind(shadow.as_str());
    let found = query.bind(int4(limit)).fetch_all(pool).await.map_err(unchanged)?;
    let mut ids = Vec::with_capacity(found.len());
    for row in &found {
        if get::<bool>(row, 1)? {
            ids.push(get(row, 0)?);
        }
    }
    let is_all = ids.len() == found.len() && found.len() < limit as usize;
    let ended_before = Timestamp::from_micros(i64::MAX);
    let jobs = forget(pool, Forget { ids, ended_before, by: By::Hand(shadow) }).await?;
    if !is_all {
        return Ok(Some(Cleaned { jobs, is_done: false }));
    }
    for sql in [
        "DELETE FROM rollups WHERE namespace = $1",
        "DELETE FROM workers WHERE namespace = $1",
        "DELETE FROM queues WHERE namespace = $1",
        "DELETE FROM circuits WHERE namespace = $1",
        "DELETE FROM shards WHERE namespace = $1",
        concat!("UPDATE load_check_shadows SET cleaned_at = ", now!(), " WHERE namespace = $1"),
    ] {
        sqlx::query(sql).bind(shadow.as_str()).execute(pool).await.map_err(after_write)?;
    }
    Ok(Some(Cleaned { jobs, is_done: true }))
}

async fn prune(pool: &PgPool, before: Timestamp, keep: u32) -> Result<u64> {
    let sql = "DELETE FROM load_checks c WHERE c.state <> 0 AND NOT EXISTS \
               (SELECT FROM load_check_shadows s WHERE s.check_id = c.id AND s.cleaned_at IS NULL) \
               AND (c.ended_at < $1 OR c.id NOT IN (SELECT id FROM load_checks ORDER BY id DESC LIMIT $2))";
    let query = sqlx::query(sql).bind(before.micros()).bind(i64::from(keep));
    let pruned = query.execute(pool).await.map_err(after_write)?.rows_affected();
    let sql = "DELETE FROM load_check_shadows s WHERE s.cleaned_at IS NOT NULL AND NOT EXISTS \
               (SELECT FROM load_checks c WHERE c.id = s.check_id)";
    sqlx::query(sql).execute(pool).await.map_err(after_write)?;
    Ok(pruned)
}
