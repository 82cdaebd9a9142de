//! What follows in a run from steps that ended: their dependents wait for less.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteConnection;

use super::note::Follow;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::record::lines;
use crate::ledger::sqlite::statement::Bulk;
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::workflow::StepState;

/// Dependents of ended steps, with how many of their needs have ended.
#[derive(Debug, Default)]
pub(super) struct Fallen(BTreeMap<(WorkflowId, i32), u32>);

impl Fallen {
    /// A step with these dependents has ended.
    pub(super) fn add(&mut self, run: WorkflowId, dependents: &[i32]) {
        for ord in dependents {
            *self.0.entry((run, *ord)).or_default() += 1;
        }
    }
}

/// How a dependent changes.
struct Lowered {
    run: WorkflowId,
    ord: i32,
    needs_left: u32,
    /// The job that it is released with.
    job: Option<JobId>,
    due: bool,
}

/// Lowers what waits for the steps that ended. Plain steps that wait for nothing more are released with their jobs;
/// others become due.
pub(super) async fn lower(
    tx: &mut Tx<'_>,
    fallen: &Fallen,
    follow: &mut Follow,
) -> Result<(), Fault> {
    let fallen: Vec<((WorkflowId, i32), u32)> = fallen.0.iter().map(|(k, n)| (*k, *n)).collect();
    let lowered = look(tx.connection, &fallen).await?;
    for step in &lowered {
        follow.released.extend(step.job.map(|job| (step.run, job)));
        if step.due {
            follow.due.insert(step.run);
        }
    }
    let now = tx.now.micros();
    update(tx.connection, &lowered, now).await?;
    let jobs: Vec<JobId> = lowered.iter().filter_map(|step| step.job).collect();
    release(tx.connection, &jobs, now).await
}

/// Run, position, needs left, plain, job, of a blocked step.
type Line<'j> = (&'j str, i32, u32, u8, Option<&'j str>);

async fn look(
    connection: &mut SqliteConnection,
    fallen: &[((WorkflowId, i32), u32)],
) -> Result<Vec<Lowered>, Fault> {
    static LOOK: Bulk = Bulk::new(
        "SELECT json_group_array(json_array(hex(workflow_id), ord, needs_left, plain, \
         iif(job_id IS NULL, NULL, hex(job_id)))) FROM workflow_steps \
         WHERE state = 0 AND (workflow_id, ord) IN (VALUES",
        "(?, ?)",
        ")",
    );
    let found = LOOK
        .fetch(connection, fallen, |args, ((run, ord), _)| {
            args.add(run.as_bytes().as_slice()).add(*ord);
        })
        .await?;
    let mut lowered = Vec::with_capacity(fallen.len());
    for row in &found {
        let text: &str = Columns::of(row).next()?;
        for (run, ord, needs_left, plain, job) in lines::<Line<'_>>("a step", text)? {
            let run = run_id(run)?;
            let Ok(at) = fallen.binary_search_by_key(&(run, ord), |(key, _)| *key) else {
                continue;
            };
            let needs_left = needs_left.saturating_sub(fallen[at].1);
            let job = job.filter(|_| plain != 0 && needs_left == 0).map(job_id).transpose()?;
            let due = needs_left == 0 && job.is_none();
            lowered.push(Lowered { run, ord, needs_left, job, due });
        }
    }
    Ok(lowered)
}

async fn update(
    connection: &mut SqliteConnection,
    lowered: &[Lowered],
    now: i64,
) -> Result<(), Fault> {
    static UPDATE: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, needs_left, state, due, started_at) AS (VALUES",
        "(?, ?, ?, ?, ?, ?)",
        ") UPDATE workflow_steps AS s SET needs_left = v.needs_left, state = v.state, \
         due = s.due + v.due, started_at = coalesce(v.started_at, s.started_at) \
         FROM v WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord AND s.state = 0",
    );
    UPDATE
        .execute(connection, lowered, |args, step| {
            let is_released = step.job.is_some();
            let state = if is_released { StepState::Released } else { StepState::Blocked };
            args.add(step.run.as_bytes().as_slice())
                .add(step.ord)
                .add(step.needs_left)
                .add(state as i16)
                .add(step.due)
                .add(is_released.then_some(now));
        })
        .await?;
    Ok(())
}

/// Makes blocked jobs ready.
async fn release(connection: &mut SqliteConnection, jobs: &[JobId], now: i64) -> Result<(), Fault> {
    static RELEASE: Bulk = Bulk::new(
        "WITH v (id, now) AS (VALUES",
        "(?, ?)",
        ") UPDATE jobs SET state = 2, run_at = v.now, changed_at = v.now \
         FROM v WHERE jobs.id = v.id AND jobs.state = 0",
    );
    RELEASE
        .execute(connection, jobs, |args, id| {
            args.add(id.as_bytes().as_slice()).add(now);
        })
        .await?;
    Ok(())
}

/// A run from hexadecimal digits.
pub(super) fn run_id(hex: &str) -> Result<WorkflowId, Fault> {
    uuid::Uuid::try_parse(hex).map(WorkflowId::from_uuid).map_err(Fault::unreadable)
}

/// A job from hexadecimal digits.
pub(super) fn job_id(hex: &str) -> Result<JobId, Fault> {
    uuid::Uuid::try_parse(hex).map(JobId::from_uuid).map_err(Fault::unreadable)
}
