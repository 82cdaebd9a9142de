//! Workflows: runs, steps, and how they move. The words are those of [`crate::ledger::runs`].
//!
//! A run's steps change only under the lock on its row in `workflows`. Who needs several of these locks takes them
//! in id order, and after the locks on jobs that end: outcomes lock jobs that run, then runs, then steps and blocked
//! jobs; decisions start with the run. So neither waits for the other in a circle, and no end of a step is
//! overlooked by a decision that adds what needs it.

use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::{after_write, is_collision};
use super::{Inner, LedgerError, Result, jobs};
use crate::model::id::JobId;
use crate::model::job::{Job, JobState};

mod advance;
mod create;
mod give;
mod grow;
mod list;
mod prune;
mod read;
mod release;
mod retry;
mod row;
mod rows;
mod stop;

pub(super) use advance::advance;
pub(super) use create::{create, insert_within};
pub(super) use give::{give, given};
pub(super) use list::list;
pub(super) use prune::prune;
pub(super) use read::{
    children, due, live_jobs, run, snapshot, step_counts, step_heads, step_jobs, step_output_bytes,
    steps, steps_named,
};
pub(super) use retry::retry;

/// What the functions of 0003 call a job that may run; what else they name is a run that is due.
pub(super) const RELEASED: i16 = 1;

/// Tries of a transaction that met a deadlock.
const TRIES_MAX: u32 = 5;

/// Counts the tries of one transaction.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// Whether the transaction is worth another try: a collision undid it.
    fn again(&mut self, error: sqlx::Error) -> Result<()> {
        self.0 += 1;
        if !is_collision(&error) {
            return Err(after_write(error));
        }
        if self.0 < TRIES_MAX {
            return Ok(());
        }
        Err(LedgerError::Unavailable("a change of a run kept colliding with other writes".into()))
    }
}

/// Lowers what needs these steps of a run, which have ended and which the caller has locked; jobs that are released
/// by it are added to `released`.
async fn lower(
    connection: &mut PgConnection,
    run: Uuid,
    ords: &[i32],
    released: &mut Vec<JobId>,
) -> Result<(), sqlx::Error> {
    if ords.is_empty() {
        return Ok(());
    }
    let sql = "SELECT noted, subject FROM windlass_steps_ended($1, $2)";
    let rows: Vec<PgRow> =
        sqlx::query(sql).bind(vec![run; ords.len()]).bind(ords).fetch_all(connection).await?;
    for row in rows {
        use sqlx::Row;
        if row.try_get::<i16, _>(0)? == RELEASED {
            released.push(JobId::from_uuid(row.try_get(1)?));
        }
    }
    Ok(())
}

/// Counts a value that is named once more, or once less.
async fn name_blob(
    connection: &mut PgConnection,
    namespace: &str,
    blob: Uuid,
    by: i32,
) -> Result<(), sqlx::Error> {
    let sql = "UPDATE blobs SET refs = greatest(0, refs + $3) WHERE namespace = $1 AND id = $2";
    sqlx::query(sql).bind(namespace).bind(blob).bind(by).execute(connection).await?;
    Ok(())
}

/// Jobs of steps as they are on record now; what cannot be read is left out, and pushed by the sweep.
pub(super) async fn read_back(inner: &Inner, ids: &[JobId]) -> Vec<Job> {
    /// Ids of one read.
    const CHUNK: usize = 1_000;
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(CHUNK) {
        match super::bounds::read(inner.silence, jobs::jobs(&inner.pool, ids)).await {
            // Its order may keep a job waiting that its step has released.
            Ok(jobs) => found.extend(jobs.into_iter().filter(|job| job.state != JobState::Blocked)),
            Err(error) => {
                tracing::warn!(%error, "released jobs could not be read back; the sweep pushes them");
                break;
            }
        }
    }
    found
}
