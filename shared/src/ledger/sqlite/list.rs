//! Pages of jobs by filter, and what a queue still has to do.

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use super::JobFilter;
use super::JobPage;
use super::fault::Fault;
use super::jobs::{Columns, job_of, jobs, select_jobs};
use super::statement::{Args, composed, row, rows};
use crate::engine::flow::Group;
use crate::ledger::unfinished::number;
use crate::ledger::unreadable::{self, readable};
use crate::ledger::{Groups, Unfinished};
use crate::model::id::JobId;
use crate::model::name::{Namespace, QueueName};

/// Jobs looked at for one page, of any namespace.
const SCAN_MAX: u32 = 10_000;

/// The wall clock may have been set back or forward by this much between drawing an id and accepting the job.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(3600);
/// The last instant that an id can hold.
const MILLIS_MAX: u64 = (1 << 48) - 1;

/// Jobs newest first, before `before`.
pub(super) async fn list(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    filter: &JobFilter,
    before: Option<JobId>,
    limit: u32,
) -> Result<JobPage, Fault> {
    let limit = limit.max(1) as usize;
    let top = top_of(filter, before);
    let floor = floor_of(connection, top).await?;
    let (sql, args) = page(namespace, filter, top, floor, limit + 1);
    let mut ids = Vec::with_capacity(limit + 1);
    for row in &composed(connection, sql, args).await? {
        let mut c = Columns::of(row);
        let id = JobId::from_bytes(c.id()?);
        match matches(&mut c, filter) {
            Ok(true) => ids.push(id),
            Ok(false) => {}
            Err(fault) => unreadable::note("a job", &fault),
        }
        if ids.len() > limit {
            break;
        }
    }
    let is_full = ids.len() > limit;
    ids.truncate(limit);
    let next = if is_full { ids.last().copied() } else { floor };
    let mut page = jobs(connection, &ids).await?;
    page.sort_by_key(|job| std::cmp::Reverse(job.id));
    Ok(JobPage { jobs: page, next })
}

/// The id below which a page starts. Jobs get their ids shortly before they are accepted, by the same clock.
fn top_of(filter: &JobFilter, before: Option<JobId>) -> [u8; 16] {
    let before = before.map_or([0xff; 16], |id| *id.as_bytes());
    let Some(created_before) = filter.created_before else { return before };
    let bound = created_before.plus(CLOCK_STEP_MAX).millis();
    let bound = JobId::first_at(u64::try_from(bound).unwrap_or(0).min(MILLIS_MAX));
    before.min(*bound.as_bytes())
}

/// The lowest id that a page may look at; `None`: as low as it likes.
async fn floor_of(
    connection: &mut SqliteConnection,
    top: [u8; 16],
) -> Result<Option<JobId>, Fault> {
    let sql = "SELECT id FROM jobs WHERE id < ? ORDER BY id DESC LIMIT 1 OFFSET ?";
    let args = Args::default().with(top.as_slice()).with(i64::from(SCAN_MAX) - 1);
    let found = row(connection, sql, args).await?;
    found.map(|row| Ok(JobId::from_bytes(Columns::of(&row).id()?))).transpose()
}

/// The statement for everything that SQL can compare. With a text to look for, the candidates are looked at
/// by [`matches`], and only the scan bounds their number.
fn page(
    namespace: &Namespace,
    filter: &JobFilter,
    top: [u8; 16],
    floor: Option<JobId>,
    limit: usize,
) -> (String, Args) {
    let mut sql = String::from("SELECT id");
    if filter.text.is_some() {
        sql.push_str(", kind, tags, error_code, error_message");
    }
    sql.push_str(" FROM jobs WHERE id < ? AND namespace = ?");
    let mut args = Args::default().with(top.as_slice()).with(namespace.as_str());
    if let Some(floor) = floor {
        sql.push_str(" AND id >= ?");
        args.add(floor.as_bytes().as_slice());
    }
    if !filter.states.is_empty() {
        let marks = vec!["?"; filter.states.len()].join(", ");
        sql.push_str(&format!(" AND state IN ({marks})"));
        for state in &filter.states {
            args.add(*state as i16);
        }
    }
    if let Some(queue) = &filter.queue {
        sql.push_str(" AND queue = ?");
        args.add(queue.as_str());
    }
    if let Some(kind) = &filter.kind {
        sql.push_str(" AND kind = ?");
        args.add(kind.as_str());
    }
    for tag in &filter.tags {
        sql.push_str(" AND EXISTS (SELECT 1 FROM json_each(jobs.tags) WHERE value = ?)");
        args.add(tag.as_str());
    }
    if let Some(workflow) = filter.workflow_id {
        sql.push_str(" AND workflow_id = ?");
        args.add(workflow.as_bytes().as_slice());
    }
    if let Some(after) = filter.created_after {
        sql.push_str(" AND created_at >= ?");
        args.add(after.micros());
    }
    if let Some(before) = filter.created_before {
        sql.push_str(" AND created_at < ?");
        args.add(before.micros());
    }
    sql.push_str(" ORDER BY id DESC");
    if filter.text.is_none() {
        sql.push_str(" LIMIT ?");
        args.add(i64::try_from(limit).unwrap_or(i64::MAX));
    }
    (sql, args)
}

/// Whether the wanted text is in kind, tags or error. Done here: SQLite knows upper and lower case of ASCII
/// alone.
fn matches(c: &mut Columns<'_>, filter: &JobFilter) -> Result<bool, Fault> {
    let Some(text) = &filter.text else { return Ok(true) };
    let text = text.to_lowercase();
    let has = |found: &str| found.to_lowercase().contains(&text);
    let kind: &str = c.next()?;
    let tags: Vec<String> = c.maybe_json()?.unwrap_or_default();
    let (code, message): (Option<&str>, Option<&str>) = (c.next()?, c.next()?);
    Ok(has(kind)
        || tags.iter().any(|t| has(t))
        || code.is_some_and(has)
        || message.is_some_and(has))
}

/// Jobs of a queue that are neither terminal nor blocked, counted up to a bound.
pub(super) async fn waiting(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    queue: &QueueName,
    at_most: u64,
) -> Result<u64, Fault> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE namespace = ? AND queue = ? \
               AND state < 10 AND state > 0 LIMIT ?)";
    let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
    let args = Args::default().with(namespace.as_str()).with(queue.as_str()).with(at_most);
    let found = rows(connection, sql, args).await?;
    found.first().map_or(Ok(0), |row| Columns::of(row).count())
}

/// Jobs that should be in the engine, of the groups that `$groups` says.
macro_rules! unfinished {
    ($groups:literal) => {
        select_jobs!(concat!(
            "WHERE j.namespace = ? AND j.queue = ? AND j.id > ? AND j.state < 10 AND j.state > 0 \
             AND j.run_at < ? AND j.changed_at < ? AND ",
            $groups,
            " ORDER BY j.id LIMIT ?"
        ))
    };
}

/// Jobs of a queue that should be in the engine, in id order.
pub(super) async fn unfinished(
    connection: &mut SqliteConnection,
    wanted: Unfinished<'_>,
) -> Result<JobPage, Fault> {
    if !wanted.groups.may_skip() {
        return unfinished_to(connection, &wanted, None).await;
    }
    // To find the edge of the window costs as much as all that is in it.
    let near = edge(connection, &wanted, wanted.near()).await?;
    let page = unfinished_to(connection, &wanted, near).await?;
    if near.is_none() || wanted.is_rich(&page) {
        return Ok(page);
    }
    let edge = edge(connection, &wanted, wanted.window).await?;
    unfinished_to(connection, &wanted, edge).await
}

async fn unfinished_to(
    connection: &mut SqliteConnection,
    wanted: &Unfinished<'_>,
    edge: Option<JobId>,
) -> Result<JobPage, Fault> {
    const ALL: &str = unfinished!("true");
    const ALL_BUT: &str = unfinished!(
        "j.id <= ? AND coalesce(j.flow_group, 0) NOT IN (SELECT value FROM json_each(?))"
    );
    const UNKEYED: &str = unfinished!("j.id <= ? AND j.flow_group IS NULL");
    const OF_ONE: &str = unfinished!("j.flow_group = ?");
    let last = edge.map_or([0xff; 16], |id| *id.as_bytes());
    let after = wanted.after.map_or([0; 16], |id| *id.as_bytes());
    let args = Args::default()
        .with(wanted.namespace.as_str())
        .with(wanted.queue.as_str())
        .with(after.as_slice())
        .with(wanted.due_before.micros())
        .with(wanted.changed_before.micros());
    let (sql, args) = match wanted.groups {
        Groups::AllBut([]) => (ALL, args),
        Groups::AllBut(groups) => {
            let groups: Vec<i32> = groups.iter().map(|it| number(*it)).collect();
            let text = serde_json::to_string(&groups).expect("numbers always serialise");
            (ALL_BUT, args.with(last.as_slice()).with(text))
        }
        Groups::Only(Group::UNKEYED) => (UNKEYED, args.with(last.as_slice())),
        Groups::Only(group) => (OF_ONE, args.with(number(group))),
    };
    let found = rows(connection, sql, args.with(i64::from(wanted.limit))).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|len| len >= wanted.limit);
    let last = found.last().filter(|_| is_full);
    let next = last.map(|row| Ok::<_, Fault>(JobId::from_bytes(Columns::of(row).id()?)));
    let next = next.transpose()?.or(edge);
    Ok(JobPage { jobs: readable("a job", &found, job_of), next })
}

/// The last id of the jobs that a page may look at, `window` of them, if there are more. Read before the page, so
/// that what goes meanwhile lets no others be passed over.
async fn edge(
    connection: &mut SqliteConnection,
    wanted: &Unfinished<'_>,
    window: u32,
) -> Result<Option<JobId>, Fault> {
    let sql = "SELECT id FROM jobs INDEXED BY jobs_live WHERE namespace = ? AND queue = ? \
               AND state < 10 AND state > 0 AND id > ? ORDER BY id LIMIT 1 OFFSET ? - 1";
    let after = wanted.after.map_or([0; 16], |id| *id.as_bytes());
    let args = Args::default()
        .with(wanted.namespace.as_str())
        .with(wanted.queue.as_str())
        .with(after.as_slice())
        .with(i64::from(window));
    let found = row(connection, sql, args).await?;
    found.map(|row| Ok(JobId::from_bytes(Columns::of(&row).id()?))).transpose()
}

/// Proof that the database answers.
pub(super) async fn answers(connection: &mut SqliteConnection) -> Result<(), Fault> {
    row(connection, "SELECT 1 FROM meta", Args::default()).await?;
    Ok(())
}
