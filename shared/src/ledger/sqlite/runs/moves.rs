//! Steps that move by a decision.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::lower::{self, Fallen};
use crate::ledger::fit_text;
use crate::ledger::runs::{Advance, Move};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::record::lines;
use crate::ledger::sqlite::statement::{Args, Bulk, execute};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::time::Timestamp;
use crate::model::workflow::StepState;

/// A move with what is on record of its step.
pub(super) struct Found {
    step: Move,
    job: Option<JobId>,
    dependents: Vec<i32>,
}

impl Found {
    /// Which step, and where it goes.
    pub(super) fn target(&self) -> (i32, StepState) {
        (self.step.ord, self.step.to)
    }

    /// The step has not ended before and has now.
    fn ends(&self) -> bool {
        self.step.to.is_terminal() && !self.step.from.is_terminal()
    }

    fn starts(&self) -> bool {
        self.step.from == StepState::Blocked
            && matches!(self.step.to, StepState::Released | StepState::Waiting)
    }
}

/// Position, state, job, dependents.
type Line<'j> = (i32, i16, Option<&'j str>, Vec<i32>);

/// Looks whether all steps are where the decision saw them; `None`: one is not.
pub(super) async fn look(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    advance: &Advance,
) -> Result<Option<Vec<Found>>, Fault> {
    static LOOK: Bulk = Bulk::new(
        "SELECT json_group_array(json_array(s.ord, s.state, \
         iif(s.job_id IS NULL, NULL, hex(s.job_id)), json(p.dependents))) FROM workflow_steps s \
         JOIN workflow_plans p ON p.workflow_id = s.workflow_id AND p.ord = s.ord \
         WHERE (s.workflow_id, s.ord) IN (VALUES",
        "(?, ?)",
        ")",
    );
    let mut moves = merged(&advance.moves);
    let ords: Vec<i32> = moves.keys().copied().collect();
    let rows = LOOK
        .fetch(tx.connection, &ords, |args, ord| {
            args.add(run.as_bytes().as_slice()).add(*ord);
        })
        .await?;
    let mut found = Vec::with_capacity(ords.len());
    for row in &rows {
        let text: &str = Columns::of(row).next()?;
        for (ord, state, job, dependents) in lines::<Line<'_>>("a step", text)? {
            let Some(step) = moves.remove(&ord).filter(|step| step.from as i16 == state) else {
                return Ok(None);
            };
            let job = job.map(lower::job_id).transpose()?;
            found.push(Found { step, job, dependents });
        }
    }
    Ok(moves.is_empty().then_some(found))
}

/// One move for each step. Where a decision looked at a step more than once, what it came to counts.
fn merged(moves: &[Move]) -> HashMap<i32, Move> {
    let mut merged: HashMap<i32, Move> = HashMap::with_capacity(moves.len());
    for step in moves {
        match merged.entry(step.ord) {
            Entry::Vacant(vacant) => {
                vacant.insert(step.clone());
            }
            Entry::Occupied(mut occupied) => {
                let earlier = occupied.get_mut();
                let stays = step.to == step.from && earlier.to != earlier.from;
                let seen = earlier.seen.max(step.seen);
                if !stays {
                    *earlier = step.clone();
                }
                earlier.seen = seen;
            }
        }
    }
    merged
}

/// Moves the steps, and ends the jobs of those that end without having started. What the ends mean for others is
/// put on `fallen`.
pub(super) async fn apply(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    moves: &[Found],
    fallen: &mut Fallen,
) -> Result<(), Fault> {
    update(tx, run, moves).await?;
    skip_jobs(tx, moves).await?;
    for found in moves {
        if let Some((list, _)) = &found.step.list {
            let sql = "UPDATE workflow_plans SET items = ? WHERE workflow_id = ? AND ord = ?";
            let args = Args::default().with(list.as_ref()).with(run.as_bytes().as_slice());
            execute(tx.connection, sql, args.with(found.step.ord)).await?;
        }
        if found.ends() {
            fallen.add(run, &found.dependents);
        }
    }
    Ok(())
}

async fn update(tx: &mut Tx<'_>, run: WorkflowId, moves: &[Found]) -> Result<(), Fault> {
    static UPDATE: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, state, seen, wake_at, length, started_at, finished_at, output, \
         error_code, error_message) AS (VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ") UPDATE workflow_steps AS s SET state = v.state, due = max(0, s.due - v.seen), \
         wake_at = v.wake_at, output = coalesce(v.output, s.output), \
         error_code = coalesce(v.error_code, s.error_code), \
         error_message = coalesce(v.error_message, s.error_message), \
         items_total = coalesce(v.length, s.items_total), \
         items_open = coalesce(v.length, s.items_open), \
         items_made = iif(v.length IS NULL, s.items_made, 0), \
         started_at = coalesce(v.started_at, s.started_at), \
         finished_at = coalesce(v.finished_at, s.finished_at) \
         FROM v WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord",
    );
    let now = tx.now.micros();
    UPDATE
        .execute(tx.connection, moves, |args, found| {
            let step = &found.step;
            args.add(run.as_bytes().as_slice())
                .add(step.ord)
                .add(step.to as i16)
                .add(i64::try_from(step.seen).unwrap_or(i64::MAX))
                .add(step.wake_at.map(Timestamp::micros))
                .add(step.list.as_ref().map(|(_, length)| *length))
                .add(found.starts().then_some(now))
                .add(found.ends().then_some(now))
                .add(step.output.as_deref())
                .add(step.error.as_ref().map(|error| fit_text(&error.code)))
                .add(step.error.as_ref().map(|error| fit_text(&error.message)));
        })
        .await?;
    Ok(())
}

/// Ends the blocked jobs of steps that are not run.
async fn skip_jobs(tx: &mut Tx<'_>, moves: &[Found]) -> Result<(), Fault> {
    static SKIP: Bulk = Bulk::new(
        "WITH v (id, now, error_code, error_message) AS (VALUES",
        "(?, ?, ?, ?)",
        ") UPDATE jobs SET state = 12, finished_at = v.now, changed_at = v.now, \
         error_code = coalesce(v.error_code, 'cancelled'), \
         error_message = coalesce(v.error_message, 'not needed'), error_retryable = 0 \
         FROM v WHERE jobs.id = v.id AND jobs.state = 0",
    );
    let skipped: Vec<(JobId, &Move)> = moves
        .iter()
        .filter(|found| found.step.from == StepState::Blocked && found.ends())
        .filter_map(|found| Some((found.job?, &found.step)))
        .collect();
    let now = tx.now.micros();
    SKIP.execute(tx.connection, &skipped, |args, (id, step)| {
        args.add(id.as_bytes().as_slice())
            .add(now)
            .add(step.error.as_ref().map(|error| fit_text(&error.code)))
            .add(step.error.as_ref().map(|error| fit_text(&error.message)));
    })
    .await?;
    Ok(())
}
