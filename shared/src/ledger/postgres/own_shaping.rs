//! The rows of a submission that are shaped: one place after the other, in the order of locking, each within a savepoint.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use super::error::is_bad_data;
use super::insert::{Insert, accepted};
use super::own_rows::{BAD_DATA, Outcome, Rows};
use super::series::{self, Entered};
use crate::ledger::shaping::{
    Collected, Debounced, Place, deal, interval_us, move_on, place, tolerance_us,
};
use crate::ledger::{Accepted, Refused};
use crate::model::id::JobId;
use crate::model::job::{Job, JobState, NewJob, Value};
use crate::model::shaping::{Collect, Debounce, Series, Shaping, Throttle};

/// A row and what it has come to.
type Decided = Vec<(usize, Outcome)>;

impl Rows<'_> {
    /// Decides every row that is shaped and is not decided yet.
    pub(super) async fn pass_shaped(&mut self) -> Result<(), sqlx::Error> {
        let mut places: BTreeMap<Place<'_>, Vec<usize>> = BTreeMap::new();
        for (n, job) in self.jobs.iter().enumerate() {
            if let Some(place) = place(job)
                && self.outcomes[n].is_none()
            {
                places.entry(place).or_default().push(n);
            }
        }
        for rows in places.into_values() {
            if !self.try_at(&rows).await? {
                // One of them is bad: each by itself, in order.
                for row in rows {
                    if !self.try_at(&[row]).await? {
                        metrics::counter!("windlass_ledger_bad_rows_total").increment(1);
                        self.outcomes[row] = Some(Err(Refused::BadData(BAD_DATA.into())));
                    }
                }
            }
        }
        Ok(())
    }

    /// Decides rows of one place; `false`: the database does not take one of them, and nothing was decided.
    async fn try_at(&mut self, rows: &[usize]) -> Result<bool, sqlx::Error> {
        self.connection.execute("SAVEPOINT shaped").await?;
        match pass(self.connection, self.jobs, rows).await {
            Ok(decided) => {
                self.connection.execute("RELEASE SAVEPOINT shaped").await?;
                decided.into_iter().for_each(|(n, outcome)| self.outcomes[n] = Some(outcome));
                Ok(true)
            }
            Err(error) if is_bad_data(&error) => {
                self.connection.execute("ROLLBACK TO SAVEPOINT shaped").await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

async fn pass(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    rows: &[usize],
) -> Result<Decided, sqlx::Error> {
    let mut decided = Vec::with_capacity(rows.len());
    let mut items = Vec::new();
    for n in rows {
        let job = &jobs[*n];
        match job.shaping.as_deref() {
            Some(Shaping::Debounce(rule)) => {
                let debounced = debounce(connection, job, rule).await?;
                decided.push((*n, Ok(Accepted::Debounced(debounced))));
            }
            Some(Shaping::Throttle(rule)) => {
                decided.push((*n, throttle(connection, job, rule).await?));
            }
            Some(Shaping::Collect(rule)) => items.push((*n, job, rule)),
            None => {}
        }
    }
    if !items.is_empty() {
        collect(connection, jobs, &items, &mut decided).await?;
    }
    Ok(decided)
}

async fn debounce(
    connection: &mut PgConnection,
    job: &NewJob,
    rule: &Debounce,
) -> Result<Debounced, sqlx::Error> {
    let shaping = Shaping::Debounce(rule.clone());
    let mut shut = Vec::new();
    let mut entered = series::enter(connection, job, &shaping).await?;
    if !entered.is_new && entered.series.is_due(entered.now) {
        shut = series::shut_these(connection, &[entered.series.job.uuid()]).await?;
        entered = series::enter(connection, job, &shaping).await?;
    }
    let Entered { series, is_new, now } = entered;
    let (series, superseded) = if is_new {
        (series, None)
    } else {
        let next = move_on(&series, now, job.id, rule);
        series::put(connection, job, &next).await?;
        supersede(connection, series.job, job.id).await?;
        (next, Some(series.job))
    };
    let job = block(connection, job.clone(), &series).await?;
    Ok(Debounced { job, superseded, shut })
}

/// Ends the job of a series that another one stands for from now on. It was blocked, so nobody can run it.
async fn supersede(
    connection: &mut PgConnection,
    old: JobId,
    by: JobId,
) -> Result<(), sqlx::Error> {
    let sql = "
        WITH clock AS MATERIALIZED (
            SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
        )
        UPDATE jobs SET state = 12, finished_at = clock.now, changed_at = clock.now,
            error_code = 'superseded', error_retryable = false, error_message = $2
        FROM clock WHERE id = $1 AND state = 0 AND workflow_id IS NULL";
    let query = sqlx::query(sql).bind(old.uuid()).bind(crate::ledger::shaping::superseded_by(by));
    query.execute(connection).await?;
    Ok(())
}

/// Inserts the job that stands for a series from now on.
async fn block(
    connection: &mut PgConnection,
    job: NewJob,
    series: &Series,
) -> Result<Job, sqlx::Error> {
    let insert = Insert {
        jobs: vec![(&job, None)],
        spends: Vec::new(),
        queues: vec![(&job.namespace, &job.queue)],
    };
    let made = insert.run(&mut *connection).await?;
    let Some(entry) = made.get(&job.id.uuid()).copied() else {
        // Its id is there already.
        return Err(sqlx::Error::Encode("a job that is there".into()));
    };
    let sql = "UPDATE jobs SET state = 0, run_at = $2 WHERE id = $1";
    let query = sqlx::query(sql).bind(job.id.uuid()).bind(series.shuts_at.micros());
    query.execute(connection).await?;
    let job = accepted(job, entry);
    Ok(Job { state: JobState::Blocked, run_at: series.shuts_at, ..job })
}

/// Deals items of one key out to the collection that is open, and to as many more as they need.
async fn collect(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    items: &[(usize, &NewJob, &Collect)],
    decided: &mut Decided,
) -> Result<(), sqlx::Error> {
    let Some((_, one, rule)) = items.first().copied() else { return Ok(()) };
    let entered = series::enter(connection, one, &Shaping::Collect(rule.clone())).await?;
    let open = (!entered.is_new).then_some(entered.series);
    let mut shut = Vec::new();
    for part in deal(entered.now, open, items.iter().copied()) {
        if let Some(opener) = part.opener {
            // Its own payload is an item like the others.
            let job = NewJob { payload: Value::null(), ..jobs[opener].clone() };
            block(connection, job, &part.series).await?;
        }
        let members: Vec<&NewJob> = part.members.iter().map(|n| &jobs[*n]).collect();
        series::add_items(connection, part.series.job, part.first(), &members).await?;
        if part.is_over {
            let job: Uuid = part.series.job.uuid();
            shut.extend(series::shut_these(connection, &[job]).await?);
        } else {
            series::put(connection, one, &part.series).await?;
        }
        for (item, n) in (part.first()..).zip(&part.members) {
            let collected = Collected {
                job: part.series.job,
                item,
                opened: part.opener == Some(*n),
                until: part.series.shuts_at,
                is_over: part.is_over,
                shut: Vec::new(),
            };
            decided.push((*n, Ok(Accepted::Collected(collected))));
        }
    }
    // Told once, with the last of them.
    if let Some((_, Ok(Accepted::Collected(last)))) = decided.last_mut() {
        last.shut = shut;
    }
    Ok(())
}

/// Lets a job through or refuses it, and brings in one that got through.
async fn throttle(
    connection: &mut PgConnection,
    job: &NewJob,
    rule: &Throttle,
) -> Result<Outcome, sqlx::Error> {
    let sql = "
        INSERT INTO throttles AS t (namespace, queue, key, free_at, job_id)
        VALUES ($1, $2, $3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $5, $4)
        ON CONFLICT (namespace, queue, key) DO UPDATE
            SET free_at = greatest(t.free_at, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) + $5,
                job_id = EXCLUDED.job_id
            WHERE t.free_at <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $6";
    let (interval, tolerance) = (interval_us(rule.rate), tolerance_us(rule.rate));
    let through = sqlx::query(sql)
        .bind(job.namespace.as_str())
        .bind(job.queue.as_str())
        .bind(&rule.key)
        .bind(job.id.uuid())
        .bind(interval)
        .bind(tolerance)
        .execute(&mut *connection)
        .await?
        .rows_affected()
        == 1;
    if through {
        let insert = Insert {
            jobs: vec![(job, None)],
            spends: Vec::new(),
            queues: vec![(&job.namespace, &job.queue)],
        };
        let made = insert.run(connection).await?;
        let entry = made.get(&job.id.uuid()).copied();
        let entry = entry.ok_or_else(|| sqlx::Error::Encode("a job that is there".into()))?;
        return Ok(Ok(Accepted::New(accepted(job.clone(), entry))));
    }
    // The row is locked by the statement above, so it is still there.
    let sql = "SELECT job_id, free_at - (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
               FROM throttles WHERE namespace = $1 AND queue = $2 AND key = $3";
    let query = sqlx::query_as(sql);
    let query = query.bind(job.namespace.as_str()).bind(job.queue.as_str()).bind(&rule.key);
    let (last, ahead): (Uuid, i64) = query.fetch_one(connection).await?;
    let wait = u64::try_from(ahead.saturating_sub(tolerance)).unwrap_or(0);
    let (last, wait) = (JobId::from_uuid(last), Duration::from_micros(wait));
    Ok(Err(Refused::Throttled { last, wait }))
}
