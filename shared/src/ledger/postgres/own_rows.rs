//! The rows of a submission inside its own transaction: bad ones are put aside, held keys are looked at.

use std::collections::{HashMap, HashSet};

use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use super::error::is_bad_data;
use super::insert::{Insert, Made, accepted};
use crate::ledger::{Accepted, Refused, unfit_text};
use crate::limits::WRITE_ROWS_MAX;
use crate::model::id::JobId;
use crate::model::job::{NewJob, OnConflict};
use crate::model::name::QueueName;

/// Times that a key may change hands while one row looks at it.
const LOOKS_MAX: u32 = 4;

/// What the caller is told of a row that the database does not take; its own words stay inside.
pub(super) const BAD_DATA: &str = "the ledger does not take this job's data";

pub(super) type Outcome = Result<Accepted, Refused>;

pub(super) struct Rows<'a> {
    pub(super) connection: &'a mut PgConnection,
    pub(super) jobs: &'a [NewJob],
    /// Queues that do not exist and may not be made.
    closed: &'a HashSet<QueueName>,
    pub(super) outcomes: Vec<Option<Outcome>>,
    /// Who holds the keys that these rows met.
    holders: HashMap<(&'a QueueName, &'a str), JobId>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(
        connection: &'a mut PgConnection,
        jobs: &'a [NewJob],
        closed: &'a HashSet<QueueName>,
    ) -> Self {
        let outcomes = jobs.iter().map(|_| None).collect();
        Self { connection, jobs, closed, outcomes, holders: HashMap::new() }
    }

    /// One outcome for each job, in order.
    pub(super) fn results(self) -> Vec<Outcome> {
        let decided = |outcome: Option<Outcome>| outcome.expect("every row has been looked at");
        self.outcomes.into_iter().map(decided).collect()
    }

    /// Decides every row. Many at a time where they don't touch: first all plain ones and the first of each
    /// unique key, then what is left in the order given.
    pub(super) async fn insert_all(&mut self) -> Result<(), sqlx::Error> {
        let mut seen = HashSet::new();
        let mut first = Vec::new();
        for (n, job) in self.jobs.iter().enumerate() {
            if let Some(fault) = unfit_text(job) {
                self.outcomes[n] = Some(Err(Refused::BadData(fault.into())));
            } else if self.closed.contains(&job.queue) {
                self.outcomes[n] = Some(Err(Refused::TooManyQueues));
            } else if job.shaping.is_some() {
                // After the others, in an order of its own.
            } else if unique_of(job).is_none_or(|unique| seen.insert(unique)) {
                first.push(n);
            }
        }
        for chunk in first.chunks(WRITE_ROWS_MAX) {
            self.insert_chunk(chunk.to_vec()).await?;
        }
        self.look_up_holders(&first).await?;
        for n in 0..self.jobs.len() {
            if self.outcomes[n].is_none() && self.jobs[n].shaping.is_none() {
                self.decide(n).await?;
            }
        }
        self.pass_shaped().await
    }

    /// Inserts rows at once; with a bad one among them, halves, until it stands alone.
    async fn insert_chunk(&mut self, chunk: Vec<usize>) -> Result<(), sqlx::Error> {
        let mut parts = vec![chunk];
        while let Some(mut part) = parts.pop() {
            self.connection.execute("SAVEPOINT part").await?;
            match self.insert(&part).await {
                Ok(made) => {
                    self.connection.execute("RELEASE SAVEPOINT part").await?;
                    part.into_iter().for_each(|n| self.note(n, &made));
                }
                Err(error) if is_bad_data(&error) => {
                    self.connection.execute("ROLLBACK TO SAVEPOINT part").await?;
                    if part.len() > 1 {
                        let rest = part.split_off(part.len() / 2);
                        parts.extend([rest, part]);
                    } else {
                        metrics::counter!("windlass_ledger_bad_rows_total").increment(1);
                        self.outcomes[part[0]] = Some(Err(Refused::BadData(BAD_DATA.into())));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn insert(&mut self, rows: &[usize]) -> Result<Made, sqlx::Error> {
        let jobs = || rows.iter().map(|n| &self.jobs[*n]);
        let queues: HashSet<_> = jobs().map(|j| (&j.namespace, &j.queue)).collect();
        let insert = Insert {
            jobs: jobs().map(|j| (j, None)).collect(),
            spends: Vec::new(),
            queues: queues.into_iter().collect(),
        };
        insert.run(&mut *self.connection).await
    }

    fn note(&mut self, n: usize, made: &Made) {
        let job = &self.jobs[n];
        let Some(entry) = made.get(&job.id.uuid()) else { return };
        if let Some(unique) = unique_of(job) {
            self.holders.insert(unique, job.id);
        }
        self.outcomes[n] = Some(Ok(Accepted::New(accepted(job.clone(), *entry))));
    }

    /// One query for all rows that met a held key.
    async fn look_up_holders(&mut self, rows: &[usize]) -> Result<(), sqlx::Error> {
        let open = rows.iter().filter(|n| self.outcomes[**n].is_none());
        let jobs: Vec<_> = open.map(|n| &self.jobs[*n]).collect();
        if jobs.is_empty() {
            return Ok(());
        }
        let uniques: Vec<_> = jobs.iter().copied().filter_map(unique_of).collect();
        let sql = "SELECT k.place, h.job_id FROM unnest($2::text[], $3::text[]) WITH ORDINALITY \
                       AS k(queue, key, place) \
                   JOIN holds h ON h.namespace = $1 AND h.queue = k.queue AND h.unique_key = k.key";
        let found: Vec<(i64, Uuid)> = sqlx::query_as(sql)
            .bind(jobs[0].namespace.as_str())
            .bind(uniques.iter().map(|u| u.0.as_str()).collect::<Vec<_>>())
            .bind(uniques.iter().map(|u| u.1).collect::<Vec<_>>())
            .fetch_all(&mut *self.connection)
            .await?;
        for (place, holder) in found {
            let place = usize::try_from(place - 1).expect("ordinality counts from 1");
            self.holders.insert(uniques[place], JobId::from_uuid(holder));
        }
        Ok(())
    }

    /// Decides one row whose key was held when it was looked at last.
    async fn decide(&mut self, n: usize) -> Result<(), sqlx::Error> {
        let job = &self.jobs[n];
        let (Some(unique), Some(name)) = (&job.unique, unique_of(job)) else {
            // A row without a key is only left out when its id is there already.
            self.outcomes[n] = Some(Err(Refused::BadData(BAD_DATA.into())));
            return Ok(());
        };
        for _ in 0..LOOKS_MAX {
            let Some(holder) = self.holders.get(&name).copied() else {
                // Free by now, or freed by a row that was put aside.
                self.insert_chunk(vec![n]).await?;
                if self.outcomes[n].is_some() {
                    return Ok(());
                }
                self.look_up_holders(&[n]).await?;
                continue;
            };
            let outcome = match unique.on_conflict {
                OnConflict::Reject => Err(Refused::UniqueKeyHeld { holder }),
                OnConflict::ReturnExisting => Ok(Accepted::Existing(holder)),
                OnConflict::Replace => {
                    if self.replace(n, holder).await? {
                        return Ok(());
                    }
                    Err(Refused::UniqueKeyHeld { holder })
                }
            };
            self.outcomes[n] = Some(outcome);
            return Ok(());
        }
        // The key changes hands faster than it can be looked at.
        Err(sqlx::Error::PoolTimedOut)
    }

    /// Cancels the holder, if it has not started, and brings the row in; whether it did.
    async fn replace(&mut self, n: usize, holder: JobId) -> Result<bool, sqlx::Error> {
        self.connection.execute("SAVEPOINT replacing").await?;
        let sql = "
            WITH clock AS MATERIALIZED (
                SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
            ), cancelled AS (
                UPDATE jobs j SET state = 12, finished_at = clock.now, changed_at = clock.now,
                    error_code = 'cancelled', error_retryable = false,
                    error_message = 'replaced by a later job with the same unique key'
                FROM clock
                WHERE j.id = $1 AND j.namespace = $2 AND j.state IN (0, 1, 2) AND j.started_at IS NULL
                RETURNING j.namespace, j.queue, j.unique_key
            )
            DELETE FROM holds h USING cancelled c
            WHERE h.namespace = c.namespace AND h.queue = c.queue AND h.unique_key = c.unique_key
              AND h.job_id = $1";
        let query = sqlx::query(sql).bind(holder.uuid()).bind(self.jobs[n].namespace.as_str());
        let freed = query.execute(&mut *self.connection).await?.rows_affected() == 1;
        if freed {
            self.insert_chunk(vec![n]).await?;
        }
        if let Some(Ok(Accepted::New(job))) = &self.outcomes[n] {
            self.outcomes[n] = Some(Ok(Accepted::Replaced(job.clone(), holder)));
            self.connection.execute("RELEASE SAVEPOINT replacing").await?;
            return Ok(true);
        }
        // A started holder, or a row that is bad itself: the holder stays as it was.
        self.connection.execute("ROLLBACK TO SAVEPOINT replacing").await?;
        Ok(self.outcomes[n].is_some())
    }
}

fn unique_of(job: &NewJob) -> Option<(&QueueName, &str)> {
    job.unique.as_ref().map(|unique| (&job.queue, unique.key.as_str()))
}
