//! Load checks, and the cleaning of their shadows.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::fault::Fault;
use super::jobs::Columns;
use super::prune::{Cause, forget};
use super::run_calls::change;
use super::statement::{Args, execute, row, rows};
use super::writer::Tx;
use super::{LedgerError, Result, Sqlite, read};
use crate::ledger::load_checks::{
    ABANDONED, CheckBegun, CheckEnd, Cleaned, INTERRUPTED, LoadCheck, NewCheck, PAGE_MAX,
};
use crate::ledger::unreadable::readable;
use crate::model::id::{Fence, JobId};
use crate::model::load_check::{CheckState, Report};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

macro_rules! select_checks {
    ($tail:literal) => {
        concat!(
            "SELECT c.id, c.run, c.state, c.restarts, c.given_back, c.started_at, c.ended_at, c.namespace, ",
            "c.plan, c.reasons, c.report, NOT EXISTS (SELECT 1 FROM load_check_shadows s ",
            "WHERE s.check_id = c.id AND s.cleaned_at IS NULL) FROM load_checks c ",
            $tail
        )
    };
}

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn begin_check(&self, new: &NewCheck) -> Result<CheckBegun> {
        let new = new.clone();
        change!(self, |tx| begin(tx, &new))
    }

    pub async fn end_check(&self, end: &CheckEnd) -> Result<bool> {
        let end = end.clone();
        change!(self, |tx| finish(tx, &end))
    }

    pub async fn give_back_check(&self, id: JobId, run: Fence) -> Result<bool> {
        change!(self, |tx| give_back(tx, id, run))
    }

    pub async fn load_check(&self, id: JobId) -> Result<Option<LoadCheck>> {
        read!(self, one, id)
    }

    pub async fn load_checks(&self, before: Option<JobId>, limit: u32) -> Result<Vec<LoadCheck>> {
        read!(self, list, before, limit)
    }

    pub async fn unclean_shadows(&self, limit: u32) -> Result<Vec<Namespace>> {
        read!(self, unclean, limit)
    }

    pub async fn clean_shadow(&self, shadow: &Namespace, limit: u32) -> Result<Option<Cleaned>> {
        if !shadow.is_shadow() {
            return Ok(None);
        }
        let left: Result<Option<Left>> = read!(self, left, shadow, limit);
        let Some(left) = left? else { return Ok(None) };
        let shadow = shadow.clone();
        let rows = left.ended.len();
        change!(self, rows, |tx| clean(tx, &shadow, &left)).map(Some)
    }

    pub async fn prune_checks(&self, before: Timestamp, keep: u32) -> Result<u64> {
        change!(self, |tx| prune(tx, before, keep))
    }
}

/// JSON of what is made of nothing but what JSON has.
fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("checks are made of what JSON has")
}

fn fence(run: Fence) -> i64 {
    i64::try_from(run.0).unwrap_or(i64::MAX)
}

async fn begin(tx: &mut Tx<'_>, new: &NewCheck) -> Result<CheckBegun, Fault> {
    if let Some(known) = one(tx.connection, new.id).await? {
        return again(tx, known, new).await;
    }
    let running = rows(tx.connection, select_checks!("WHERE c.state = 0"), Args::default()).await?;
    for other in &running {
        let other = check_of(other)?;
        if !is_abandoned(tx.connection, other.id).await? {
            return Ok(CheckBegun::Busy(other.id));
        }
        judge(tx, &other, other.run, ABANDONED).await?;
    }
    let sql = "INSERT INTO load_checks (id, run, started_at, state, namespace, plan) \
               VALUES (?, ?, ?, 0, ?, ?)";
    let args = Args::default()
        .with(new.id.as_bytes().as_slice())
        .with(fence(new.run))
        .with(tx.now.micros())
        .with(new.shadow.as_str())
        .with(text(&new.plan));
    execute(tx.connection, sql, args).await?;
    mark(tx, new).await?;
    started(tx, new.id).await
}

/// What becomes of a check that is on record when an attempt comes to it.
async fn again(tx: &mut Tx<'_>, known: LoadCheck, new: &NewCheck) -> Result<CheckBegun, Fault> {
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
        let judged = one(tx.connection, new.id).await?;
        return judged.map(CheckBegun::Ended).ok_or_else(missing);
    }
    let sql = "UPDATE load_checks SET run = ?, started_at = ?, restarts = restarts + 1, \
               given_back = 0, namespace = ? WHERE id = ?";
    let args = Args::default()
        .with(fence(new.run))
        .with(tx.now.micros())
        .with(new.shadow.as_str())
        .with(new.id.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    mark(tx, new).await?;
    started(tx, new.id).await
}

async fn started(tx: &mut Tx<'_>, id: JobId) -> Result<CheckBegun, Fault> {
    one(tx.connection, id).await?.map(CheckBegun::Started).ok_or_else(missing)
}

fn missing() -> Fault {
    Fault::unreadable("a check that was just written")
}

async fn mark(tx: &mut Tx<'_>, new: &NewCheck) -> Result<(), Fault> {
    let sql = "INSERT INTO load_check_shadows (namespace, check_id, ids_from, ids_until, made_at) \
               VALUES (?, ?, ?, ?, ?)";
    let ms = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let args = Args::default()
        .with(new.shadow.as_str())
        .with(new.id.as_bytes().as_slice())
        .with(ms(new.ids.0))
        .with(ms(new.ids.1))
        .with(tx.now.micros());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

/// Whether a check's job will not come to it again.
async fn is_abandoned(connection: &mut SqliteConnection, id: JobId) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM jobs WHERE id = ? AND state < 10";
    let args = Args::default().with(id.as_bytes().as_slice());
    Ok(row(connection, sql, args).await?.is_none())
}

async fn judge(
    tx: &mut Tx<'_>,
    check: &LoadCheck,
    run: Fence,
    reason: &'static str,
) -> Result<(), Fault> {
    let sql = "UPDATE load_checks SET state = ?, run = ?, ended_at = ?, reasons = ?, report = ? \
               WHERE id = ? AND state = 0";
    let args = Args::default()
        .with(CheckState::Failed as i64)
        .with(fence(run))
        .with(tx.now.micros())
        .with(text(&[reason]))
        .with(text(&Report::interrupted()))
        .with(check.id.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

async fn finish(tx: &mut Tx<'_>, end: &CheckEnd) -> Result<bool, Fault> {
    let sql = "UPDATE load_checks SET state = ?, ended_at = ?, reasons = ?, report = ? \
               WHERE id = ? AND run = ? AND state = 0";
    let args = Args::default()
        .with(end.state as i64)
        .with(tx.now.micros())
        .with(text(&end.reasons))
        .with(end.report.as_ref().map(text))
        .with(end.id.as_bytes().as_slice())
        .with(fence(end.run));
    if execute(tx.connection, sql, args).await? > 0 {
        return Ok(true);
    }
    // A repeat of the call that gave this verdict.
    let known = one(tx.connection, end.id).await?;
    Ok(known.is_some_and(|known| known.run == end.run && known.state == end.state))
}

async fn give_back(tx: &mut Tx<'_>, id: JobId, run: Fence) -> Result<bool, Fault> {
    let sql = "UPDATE load_checks SET given_back = 1 WHERE id = ? AND run = ? AND state = 0";
    let args = Args::default().with(id.as_bytes().as_slice()).with(fence(run));
    Ok(execute(tx.connection, sql, args).await? > 0)
}

async fn one(connection: &mut SqliteConnection, id: JobId) -> Result<Option<LoadCheck>, Fault> {
    let args = Args::default().with(id.as_bytes().as_slice());
    let found = row(connection, select_checks!("WHERE c.id = ?"), args).await?;
    found.as_ref().map(check_of).transpose()
}

async fn list(
    connection: &mut SqliteConnection,
    before: Option<JobId>,
    limit: u32,
) -> Result<Vec<LoadCheck>, Fault> {
    let before = before.unwrap_or(JobId::from_bytes([0xff; 16]));
    let args =
        Args::default().with(before.as_bytes().as_slice()).with(i64::from(limit.min(PAGE_MAX)));
    let sql = select_checks!("WHERE c.id < ? ORDER BY c.id DESC LIMIT ?");
    Ok(readable("a load check", &rows(connection, sql, args).await?, check_of))
}

fn check_of(row: &SqliteRow) -> Result<LoadCheck, Fault> {
    let mut c = Columns::of(row);
    let (id, run) = (JobId::from_bytes(c.id()?), Fence(c.count()?));
    let state = CheckState::from_number(c.count()?);
    let (restarts, given_back) = (c.count()?, c.next()?);
    let (started_at, ended_at) = (c.time()?, c.maybe_time()?);
    Ok(LoadCheck {
        id,
        run,
        state: state.ok_or_else(|| Fault::unreadable("a check's state"))?,
        restarts,
        given_back,
        started_at,
        ended_at,
        shadow: c.parsed()?,
        plan: c.json()?,
        reasons: c.json()?,
        report: c.maybe_json()?,
        is_clean: c.next()?,
    })
}

async fn unclean(connection: &mut SqliteConnection, limit: u32) -> Result<Vec<Namespace>, Fault> {
    let sql = "SELECT s.namespace FROM load_check_shadows s WHERE s.cleaned_at IS NULL AND NOT EXISTS \
               (SELECT 1 FROM load_checks c WHERE c.id = s.check_id AND c.state = 0 \
                AND c.given_back = 0 AND c.namespace = s.namespace) ORDER BY s.made_at LIMIT ?";
    let found = rows(connection, sql, Args::default().with(i64::from(limit))).await?;
    Ok(readable("a shadow", &found, |row| Columns::of(row).parsed()))
}

/// What is left of a shadow.
struct Left {
    ended: Vec<JobId>,
    is_all: bool,
}

/// `None`: it is not one to be cleaned.
async fn left(
    connection: &mut SqliteConnection,
    shadow: &Namespace,
    limit: u32,
) -> Result<Option<Left>, Fault> {
    let sql = "SELECT ids_from, ids_until FROM load_check_shadows s \
               WHERE s.namespace = ? AND s.cleaned_at IS NULL AND NOT EXISTS \
               (SELECT 1 FROM load_checks c WHERE c.id = s.check_id AND c.state = 0 \
                AND c.given_back = 0 AND c.namespace = s.namespace)";
    let marker = row(connection, sql, Args::default().with(shadow.as_str())).await?;
    let Some(marker) = marker else { return Ok(None) };
    let mut c = Columns::of(&marker);
    let (from, until) = (JobId::first_at(c.count()?), JobId::first_at(c.count()?));
    let sql = "SELECT id, state >= 10 FROM jobs WHERE id >= ? AND id < ? AND namespace = ? LIMIT ?";
    let args = Args::default()
        .with(from.as_bytes().as_slice())
        .with(until.as_bytes().as_slice())
        .with(shadow.as_str())
        .with(i64::from(limit));
    let found = rows(connection, sql, args).await?;
    let mut ended = Vec::with_capacity(found.len());
    for row in &found {
        let mut c = Columns::of(row);
        let id = JobId::from_bytes(c.id()?);
        if c.next::<bool>()? {
            ended.push(id);
        }
    }
    let is_all = ended.len() == found.len() && found.len() < limit as usize;
    Ok(Some(Left { ended, is_all }))
}

async fn clean(tx: &mut Tx<'_>, shadow: &Namespace, left: &Left) -> Result<Cleaned, Fault> {
    let jobs = forget(tx, &left.ended, Cause::Asked).await?;
    if !left.is_all {
        return Ok(Cleaned { jobs, is_done: false });
    }
    for sql in [
        "DELETE FROM rollups WHERE namespace = ?",
        "DELETE FROM workers WHERE namespace = ?",
        "DELETE FROM queues WHERE namespace = ?",
        "DELETE FROM circuits WHERE namespace = ?",
        "DELETE FROM shards WHERE namespace = ?",
    ] {
        execute(tx.connection, sql, Args::default().with(shadow.as_str())).await?;
    }
    let sql = "UPDATE load_check_shadows SET cleaned_at = ? WHERE namespace = ?";
    let args = Args::default().with(tx.now.micros()).with(shadow.as_str());
    execute(tx.connection, sql, args).await?;
    Ok(Cleaned { jobs, is_done: true })
}

async fn prune(tx: &mut Tx<'_>, before: Timestamp, keep: u32) -> Result<u64, Fault> {
    let sql = "DELETE FROM load_checks WHERE state <> 0 AND NOT EXISTS \
               (SELECT 1 FROM load_check_shadows s WHERE s.check_id = load_checks.id \
                AND s.cleaned_at IS NULL) \
               AND (ended_at < ? OR id NOT IN (SELECT id FROM load_checks ORDER BY id DESC LIMIT ?))";
    let args = Args::default().with(before.micros()).with(i64::from(keep));
    let pruned = execute(tx.connection, sql, args).await?;
    let sql = "DELETE FROM load_check_shadows WHERE cleaned_at IS NOT NULL AND NOT EXISTS \
               (SELECT 1 FROM load_checks c WHERE c.id = check_id)";
    execute(tx.connection, sql, Args::default()).await?;
    Ok(pruned)
}
