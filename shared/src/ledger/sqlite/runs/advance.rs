//! A decision over a run, carried out whole or not at all.

use super::create::value_parts;
use super::jobs::{self, StepJob};
use super::lower::{self, Fallen};
use super::note::Follow;
use super::{add, moves, signals, stop};
use crate::ledger::fit_text;
use crate::ledger::runs::{Advance, END, Parent, Release, Run};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::statement::{Args, Bulk, execute, row};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::JobState;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;
use crate::model::workflow::WorkflowState;

/// What an advance must know of its run. The run itself may carry a document of megabytes.
#[derive(Debug, Clone)]
pub(in crate::ledger::sqlite) struct Target {
    pub(super) id: WorkflowId,
    pub(super) namespace: Namespace,
    pub(super) parent: Option<Parent>,
}

impl Target {
    /// Of a run.
    pub(in crate::ledger::sqlite) fn of(run: &Run) -> Self {
        Self { id: run.id, namespace: run.namespace.clone(), parent: run.parent }
    }
}

/// See [`crate::ledger::Ledger::advance`]: the jobs that may run, and whether more is due. `None`: the run is not as
/// it was, and nothing is changed.
///
/// Steps move first, then the rest is stopped, and only then what waits for those that ended is lowered: dependents of
/// the step for whose failure a run stops are not released, and what stays where it is can be lowered as well.
pub(in crate::ledger::sqlite) async fn advance(
    tx: &mut Tx<'_>,
    run: &Target,
    advance: &Advance,
) -> Result<Option<(Vec<JobId>, bool)>, Fault> {
    let Some(found) = moves::look(tx, run.id, advance).await? else { return Ok(None) };
    let Some(added) = add::look(tx, run.id, advance, &found).await? else { return Ok(None) };
    if !move_run(tx, run.id, advance).await? {
        return Ok(None);
    }
    let mut fallen = Fallen::default();
    moves::apply(tx, run.id, &found, &mut fallen).await?;
    stop::await_end(tx, run.id, &advance.awaits).await?;
    if advance.stop {
        stop::stop(tx, run.id).await?;
    }
    if advance.state.is_none() {
        jobs::make_queues(tx, &run.namespace, &advance.added).await?;
    }
    let mut released = Vec::new();
    add::add(tx, run, &advance.added, &added, &mut released).await?;
    let mut follow = Follow::default();
    lower::lower(tx, &fallen, &mut follow).await?;
    released.extend(follow.released.into_iter().map(|(_, id)| id));
    fill(tx, &advance.releases, &mut released).await?;
    make_items(tx, run.id, &advance.releases, &mut released).await?;
    signals::take(tx, run.id, &advance.taken).await?;
    if advance.state.is_some_and(WorkflowState::is_terminal) {
        end(tx, run).await?;
        return Ok(Some((released, false)));
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM workflow_steps WHERE workflow_id = ? AND due > 0)";
    let more = row(tx.connection, sql, id(run.id)).await?;
    let more = more.map_or(Ok(false), |row| Columns::of(&row).next())?;
    Ok(Some((released, more)))
}

fn id(run: WorkflowId) -> Args {
    Args::default().with(run.as_bytes().as_slice())
}

/// Moves the run itself; `false`: it is not as it was.
async fn move_run(tx: &mut Tx<'_>, run: WorkflowId, advance: &Advance) -> Result<bool, Fault> {
    let sql = "UPDATE workflows SET version = version + 1, changed_at = ?3, \
               finished_at = iif(?4 >= 10, ?3, NULL), state = coalesce(?4, state), \
               ending = coalesce(?5, ending), error_code = coalesce(?6, error_code), \
               error_message = coalesce(?7, error_message), output = coalesce(?8, output), \
               output_blob = coalesce(?9, output_blob) \
               WHERE id = ?1 AND version = ?2 AND state < 10";
    let (output, blob) = value_parts(advance.output.as_ref());
    let args = id(run)
        .with(i64::try_from(advance.version).unwrap_or(i64::MAX))
        .with(tx.now.micros())
        .with(advance.state.map(|state| state as i16))
        .with(advance.ending.map(|state| state as i16))
        .with(advance.error.as_ref().map(|error| fit_text(&error.code)))
        .with(advance.error.as_ref().map(|error| fit_text(&error.message)))
        .with(output)
        .with(blob);
    Ok(execute(tx.connection, sql, args).await? > 0)
}

/// Blocked jobs may run, with their payloads filled in.
async fn fill(
    tx: &mut Tx<'_>,
    releases: &[Release],
    released: &mut Vec<JobId>,
) -> Result<(), Fault> {
    static FILL: Bulk = Bulk::new(
        "WITH v (id, state, run_at, changed_at, expires_at, payload, payload_blob) AS (VALUES",
        "(?, ?, ?, ?, ?, ?, ?)",
        ") UPDATE jobs SET state = v.state, run_at = v.run_at, changed_at = v.changed_at, \
         expires_at = coalesce(v.expires_at, jobs.expires_at), \
         payload = iif(v.payload_blob IS NULL, coalesce(v.payload, jobs.payload), NULL), \
         payload_blob = iif(v.payload IS NULL, coalesce(v.payload_blob, jobs.payload_blob), NULL) \
         FROM v WHERE jobs.id = v.id AND jobs.state = 0",
    );
    let blocked: Vec<_> = releases
        .iter()
        .filter_map(|release| match release {
            Release::Blocked { id, payload, run_at, expires_at } => {
                Some((*id, value_parts(payload.as_ref()), *run_at, *expires_at))
            }
            Release::Item { .. } => None,
        })
        .collect();
    let now = tx.now;
    FILL.execute(tx.connection, &blocked, |args, (id, (inline, blob), run_at, expires_at)| {
        let state = if *run_at > now { JobState::Scheduled } else { JobState::Ready };
        args.add(id.as_bytes().as_slice())
            .add(state as i16)
            .add(run_at.micros())
            .add(now.micros())
            .add(expires_at.map(Timestamp::micros))
            .add(*inline)
            .add(*blob);
    })
    .await?;
    released.extend(blocked.iter().map(|(id, ..)| *id));
    Ok(())
}

/// Makes the jobs of items.
async fn make_items(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    releases: &[Release],
    released: &mut Vec<JobId>,
) -> Result<(), Fault> {
    static COUNT: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, n) AS (VALUES",
        "(?, ?, ?)",
        ") UPDATE workflow_steps AS s SET items_made = s.items_made + v.n \
         FROM v WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord",
    );
    let mut made = Vec::new();
    let mut counts = std::collections::BTreeMap::new();
    for release in releases {
        if let Release::Item { ord, item, step, job } = release {
            made.push(StepJob { ord: *ord, step, item: Some(*item), is_blocked: false, job });
            *counts.entry(*ord).or_insert(0_u32) += 1;
        }
    }
    if made.is_empty() {
        return Ok(());
    }
    let jobs = jobs::insert(tx, run, &made).await?;
    released.extend(jobs.into_iter().map(|job| job.id));
    let counts: Vec<(i32, u32)> = counts.into_iter().collect();
    COUNT
        .execute(tx.connection, &counts, |args, (ord, n)| {
            args.add(run.as_bytes().as_slice()).add(*ord).add(*n);
        })
        .await?;
    Ok(())
}

/// The run has ended: nothing of it is due any more, and the step that started it learns of it.
async fn end(tx: &mut Tx<'_>, run: &Target) -> Result<(), Fault> {
    let sql = "UPDATE workflow_steps SET due = 0, wake_at = NULL \
               WHERE workflow_id = ? AND (due > 0 OR wake_at IS NOT NULL)";
    execute(tx.connection, sql, id(run.id)).await?;
    let sql = "UPDATE workflow_steps SET state = 10, finished_at = ?3 \
               WHERE workflow_id = ?1 AND ord = ?2";
    execute(tx.connection, sql, id(run.id).with(END).with(tx.now.micros())).await?;
    let Some(parent) = run.parent else { return Ok(()) };
    let sql = "UPDATE workflow_steps SET due = due + 1 \
               WHERE workflow_id = ?1 AND ord = ?2 AND state IN (1, 2)";
    execute(tx.connection, sql, id(parent.run).with(parent.ord)).await?;
    Ok(())
}
