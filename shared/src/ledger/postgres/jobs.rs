//! Jobs, read: by id, in lists, and those that the sweep asks for.

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::Result;
use super::error::unchanged;
use super::row::{self, select_jobs};
use crate::engine::flow::Group;
use crate::ledger::unfinished::number;
use crate::ledger::{Groups, JobFilter, JobPage, Unfinished};
use crate::model::id::JobId;
use crate::model::job::{Job, JobState};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// Ids that one page of a list looks at.
const SCAN_MAX: i64 = 20_000;
/// Clocks of the hosts that draw ids are trusted to be this near to the ledger's, where a time of creation
/// narrows a range of ids.
const CLOCK_MARGIN_MS: i64 = 3_600_000;

pub(super) async fn job(pool: &PgPool, namespace: &Namespace, id: JobId) -> Result<Option<Job>> {
    const SQL: &str = select_jobs!("jobs", "WHERE j.id = $1 AND j.namespace = $2");
    let query = sqlx::query(SQL).bind(id.uuid()).bind(namespace.as_str());
    let row = query.fetch_optional(pool).await.map_err(unchanged)?;
    row.as_ref().map(row::job).transpose()
}

pub(super) async fn jobs(pool: &PgPool, ids: &[JobId]) -> Result<Vec<Job>> {
    const SQL: &str = select_jobs!("jobs", "WHERE j.id = ANY($1)");
    let rows = sqlx::query(SQL).bind(uuids(ids)).fetch_all(pool).await.map_err(unchanged)?;
    Ok(row::jobs(&rows))
}

pub(super) async fn on_record(
    pool: &PgPool,
    namespace: &Namespace,
    ids: &[JobId],
) -> Result<Vec<JobId>> {
    let sql = "SELECT id FROM jobs WHERE id = ANY($1) AND namespace = $2";
    let query = sqlx::query_scalar(sql).bind(uuids(ids)).bind(namespace.as_str());
    let found: Vec<Uuid> = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(found.into_iter().map(JobId::from_uuid).collect())
}

pub(super) async fn terminal_among(pool: &PgPool, ids: &[JobId]) -> Result<Vec<JobId>> {
    let sql = "SELECT id FROM jobs WHERE id = ANY($1) AND state >= 10";
    let query = sqlx::query_scalar(sql).bind(uuids(ids));
    let found: Vec<Uuid> = query.fetch_all(pool).await.map_err(unchanged)?;
    Ok(found.into_iter().map(JobId::from_uuid).collect())
}

fn uuids(ids: &[JobId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.uuid()).collect()
}

/// Jobs of a queue that are neither terminal nor blocked, counted up to a bound.
pub(super) async fn waiting(
    pool: &PgPool,
    namespace: &Namespace,
    queue: &QueueName,
    at_most: u64,
) -> Result<u64> {
    let sql = "SELECT count(*) FROM (SELECT FROM jobs WHERE namespace = $1 AND queue = $2 \
               AND state < 10 AND state <> 0 LIMIT $3) AS waiting";
    let query =
        sqlx::query(sql).bind(namespace.as_str()).bind(queue.as_str()).bind(row::int8(at_most));
    row::unsigned(&query.fetch_one(pool).await.map_err(unchanged)?, 0, "count")
}

/// Jobs that should be in the engine, of the groups that `$groups` says.
macro_rules! unfinished {
    ($groups:literal) => {
        select_jobs!(
            concat!(
                "(SELECT * FROM jobs WHERE namespace = $1 AND queue = $2 AND state < 10 AND state <> 0 \
                  AND run_at < $3 AND changed_at < $4 AND id > $5 AND ",
                $groups,
                " ORDER BY id LIMIT $6)"
            ),
            "ORDER BY j.id"
        )
    };
}

pub(super) async fn unfinished(pool: &PgPool, wanted: Unfinished<'_>) -> Result<JobPage> {
    if !wanted.groups.may_skip() {
        return unfinished_to(pool, &wanted, None).await;
    }
    // To find the edge of the window costs as much as all that is in it.
    let near = edge(pool, &wanted, wanted.near()).await?;
    let page = unfinished_to(pool, &wanted, near).await?;
    if near.is_none() || wanted.is_rich(&page) {
        return Ok(page);
    }
    let edge = edge(pool, &wanted, wanted.window).await?;
    unfinished_to(pool, &wanted, edge).await
}

async fn unfinished_to(
    pool: &PgPool,
    wanted: &Unfinished<'_>,
    edge: Option<JobId>,
) -> Result<JobPage> {
    const ALL: &str = unfinished!("true");
    const ALL_BUT: &str =
        unfinished!("id <= $8 AND coalesce(flow_group, 0) NOT IN (SELECT unnest($7::int[]))");
    const UNKEYED: &str = unfinished!("id <= $7 AND flow_group IS NULL");
    const OF_ONE: &str = unfinished!("flow_group = $7");
    let last = edge.map_or(Uuid::max(), JobId::uuid);
    let of = |sql: &'static str| {
        sqlx::query(sql)
            .bind(wanted.namespace.as_str())
            .bind(wanted.queue.as_str())
            .bind(wanted.due_before.micros())
            .bind(wanted.changed_before.micros())
            .bind(wanted.after.map_or(Uuid::nil(), JobId::uuid))
            .bind(i64::from(wanted.limit))
    };
    let query = match wanted.groups {
        Groups::AllBut([]) => of(ALL),
        Groups::AllBut(groups) => {
            let groups: Vec<i32> = groups.iter().map(|it| number(*it)).collect();
            of(ALL_BUT).bind(groups).bind(last)
        }
        Groups::Only(Group::UNKEYED) => of(UNKEYED).bind(last),
        Groups::Only(group) => of(OF_ONE).bind(number(group)),
    };
    let rows = query.fetch_all(pool).await.map_err(unchanged)?;
    let next = full(&rows, wanted.limit)?.or(edge);
    Ok(JobPage { next, jobs: row::jobs(&rows) })
}

/// The last id of the jobs that a page may look at, `window` of them, if there are more. Read before the page, so
/// that what goes meanwhile lets no others be passed over.
async fn edge(pool: &PgPool, wanted: &Unfinished<'_>, window: u32) -> Result<Option<JobId>> {
    let sql = "SELECT id FROM jobs WHERE namespace = $1 AND queue = $2 AND state < 10 AND id > $3 \
               ORDER BY id OFFSET $4 - 1 LIMIT 1";
    let query = sqlx::query_scalar(sql)
        .bind(wanted.namespace.as_str())
        .bind(wanted.queue.as_str())
        .bind(wanted.after.map_or(Uuid::nil(), JobId::uuid))
        .bind(i64::from(window));
    let edge: Option<Uuid> = query.fetch_optional(pool).await.map_err(unchanged)?;
    Ok(edge.map(JobId::from_uuid))
}

/// The page of a list: filters over a window of ids. `$source` gives the window, newest first.
macro_rules! page_of {
    ($source:literal) => {
        select_jobs!(
            concat!(
                "(SELECT w.* FROM (SELECT * FROM jobs WHERE ",
                $source,
                " AND id < $2 AND id >= $3 ORDER BY id DESC LIMIT $4) w WHERE w.namespace = $1 \
                 AND (cardinality($5::smallint[]) = 0 OR w.state = ANY($5)) \
                 AND ($6::text IS NULL OR w.queue = $6) AND ($7::text IS NULL OR w.kind = $7) \
                 AND w.tags @> $8::text[] AND ($9::uuid IS NULL OR w.workflow_id = $9) \
                 AND w.created_at >= $10 AND w.created_at < $11 \
                 AND ($12::text IS NULL OR w.kind ILIKE $12 OR w.error_code ILIKE $12 \
                      OR w.error_message ILIKE $12 \
                      OR EXISTS (SELECT FROM unnest(w.tags) t WHERE t ILIKE $12)) \
                 ORDER BY w.id DESC LIMIT $13)"
            ),
            "ORDER BY j.id DESC"
        )
    };
}

/// The last id of a window, if the window is full.
macro_rules! edge_of {
    ($source:literal) => {
        concat!(
            "SELECT id FROM jobs WHERE ",
            $source,
            " AND id < $2 AND id >= $3 AND ($1::text IS NOT NULL) AND ($5::text IS NULL OR true) \
             AND ($6::uuid IS NULL OR true) ORDER BY id DESC OFFSET $4 - 1 LIMIT 1"
        )
    };
}

/// Page and edge over all jobs, and over the live ones of a queue, which have an index of their own.
const ALL: [&str; 2] = [page_of!("true"), edge_of!("true")];
const LIVE: [&str; 2] = [
    page_of!("state < 10 AND namespace = $1 AND queue = $6"),
    edge_of!("state < 10 AND namespace = $1 AND queue = $5"),
];

/// Over the jobs of a run.
const OF_RUN: [&str; 2] = [page_of!("workflow_id = $9"), edge_of!("workflow_id = $6")];

/// What the parts of a page have in common.
struct Window<'a> {
    sql: [&'static str; 2],
    namespace: &'a Namespace,
    filter: &'a JobFilter,
    before: Uuid,
    from: Uuid,
    pattern: Option<String>,
    limit: u32,
}

pub(super) async fn list(
    pool: &PgPool,
    namespace: &Namespace,
    filter: &JobFilter,
    before: Option<JobId>,
    limit: u32,
) -> Result<JobPage> {
    let end = JobPage { jobs: Vec::new(), next: None };
    // No stored text has a NUL, and the database takes none.
    if filter.text.iter().chain(&filter.tags).any(|text| text.contains('\0')) {
        return Ok(end);
    }
    let live = !filter.states.is_empty() && filter.states.iter().all(|s| !s.is_terminal());
    let sql = match filter.workflow_id {
        Some(_) => OF_RUN,
        None if live && filter.queue.is_some() => LIVE,
        None => ALL,
    };
    let (from, to) = id_range(filter);
    let before = before.map_or(to, |id| id.uuid().min(to));
    let pattern = filter.text.as_deref().map(like_pattern);
    let mut window = Window { sql, namespace, filter, before, from, pattern, limit };
    let rows = window.page(pool).await?;
    if let Some(next) = full(&rows, limit)? {
        return Ok(JobPage { jobs: row::jobs(&rows), next: Some(next) });
    }
    // The window may have been cut short. Where, is looked up first, and the page is read again down to
    // there, so that jobs deleted in between don't move the edge past others that were not looked at.
    let Some(edge) = window.edge(pool).await? else {
        return Ok(JobPage { jobs: row::jobs(&rows), next: None });
    };
    window.from = edge;
    let rows = window.page(pool).await?;
    let next = full(&rows, limit)?.or(Some(JobId::from_uuid(edge)));
    Ok(JobPage { jobs: row::jobs(&rows), next })
}

/// The last id of as many rows as were asked for, read or not: where the next page starts.
fn full(rows: &[PgRow], limit: u32) -> Result<Option<JobId>> {
    let is_full = u32::try_from(rows.len()).is_ok_and(|len| len >= limit);
    let last = rows.last().filter(|_| is_full);
    last.map(|row| Ok(JobId::from_uuid(row::get(row, 0)?))).transpose()
}

impl Window<'_> {
    async fn page(&self, pool: &PgPool) -> Result<Vec<PgRow>> {
        let filter = self.filter;
        let states: Vec<i16> = filter.states.iter().map(|s: &JobState| *s as i16).collect();
        sqlx::query(self.sql[0])
            .bind(self.namespace.as_str())
            .bind(self.before)
            .bind(self.from)
            .bind(SCAN_MAX)
            .bind(states)
            .bind(filter.queue.as_ref().map(QueueName::as_str))
            .bind(filter.kind.as_ref().map(|kind| kind.as_str()))
            .bind(&filter.tags)
            .bind(filter.workflow_id.map(|id| id.uuid()))
            .bind(filter.created_after.map_or(i64::MIN, Timestamp::micros))
            .bind(filter.created_before.map_or(i64::MAX, Timestamp::micros))
            .bind(&self.pattern)
            .bind(i64::from(self.limit))
            .fetch_all(pool)
            .await
            .map_err(unchanged)
    }

    async fn edge(&self, pool: &PgPool) -> Result<Option<Uuid>> {
        let row = sqlx::query(self.sql[1])
            .bind(self.namespace.as_str())
            .bind(self.before)
            .bind(self.from)
            .bind(SCAN_MAX)
            .bind(self.filter.queue.as_ref().map(QueueName::as_str))
            .bind(self.filter.workflow_id.map(|id| id.uuid()))
            .fetch_optional(pool)
            .await
            .map_err(unchanged)?;
        row.map(|row| row.try_get(0).map_err(unchanged)).transpose()
    }
}

/// The ids that jobs created in the filter's time can have: from (inclusive), to (exclusive).
fn id_range(filter: &JobFilter) -> (Uuid, Uuid) {
    let first_at = |ms: i64| JobId::first_at(u64::try_from(ms).unwrap_or(0)).uuid();
    let from = filter.created_after.map_or(Uuid::nil(), |t| first_at(t.millis() - CLOCK_MARGIN_MS));
    let to = filter.created_before.map_or(Uuid::max(), |t| first_at(t.millis() + CLOCK_MARGIN_MS));
    (from, to)
}

/// Matches texts that contain `text`, whose own wildcards mean themselves.
fn like_pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_of_the_user_mean_themselves() {
        assert_eq!(like_pattern(r"50%_a\b"), r"%50\%\_a\\b%");
    }
}
