//! The ends of jobs, noted on their steps.

use std::collections::{BTreeSet, HashMap};

use sqlx::sqlite::SqliteConnection;

use super::lower::{self, Fallen};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::record::lines;
use crate::ledger::sqlite::statement::Bulk;
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::JobState;

/// Jobs of one step that have ended.
#[derive(Debug, Clone, Copy)]
pub(in crate::ledger::sqlite) struct Gone {
    run: WorkflowId,
    ord: i32,
    /// How many.
    n: u32,
    /// Those that ended otherwise than well.
    bad: u32,
}

impl Gone {
    /// None of a step's jobs, yet.
    pub(in crate::ledger::sqlite) fn none((run, ord): (WorkflowId, i32)) -> Self {
        Self { run, ord, n: 0, bad: 0 }
    }

    /// One more, in its terminal state.
    pub(in crate::ledger::sqlite) fn count(&mut self, state: JobState) {
        self.n += 1;
        self.bad += u32::from(state != JobState::Succeeded);
    }
}

/// What follows in runs.
#[derive(Debug, Default)]
pub(in crate::ledger::sqlite) struct Follow {
    /// Jobs that may run now.
    pub(in crate::ledger::sqlite) released: Vec<(WorkflowId, JobId)>,
    /// Runs with something to be decided over.
    pub(in crate::ledger::sqlite) due: BTreeSet<WorkflowId>,
}

/// How a step changes.
struct Noted {
    gone: Gone,
    /// All that it had to do is done.
    is_done: bool,
    /// Reasons to look at it.
    due: u32,
}

/// Notes the ends of jobs, each once and each step once. A success of a step's one job ends the step, lowers its
/// dependents, and releases the plain ones that wait for nothing more; everything else is left to the next advance.
pub(in crate::ledger::sqlite) async fn note(
    tx: &mut Tx<'_>,
    gone: &[Gone],
) -> Result<Follow, Fault> {
    let mut follow = Follow::default();
    if gone.is_empty() {
        return Ok(follow);
    }
    let mut fallen = Fallen::default();
    let noted = look(tx.connection, gone, &mut fallen).await?;
    follow.due.extend(noted.iter().filter(|step| step.due > 0).map(|step| step.gone.run));
    update(tx.connection, &noted, tx.now.micros()).await?;
    lower::lower(tx, &fallen, &mut follow).await?;
    Ok(follow)
}

/// Run, position, many, paced, items that are open, and dependents, of a released step.
type Line<'j> = (&'j str, i32, u8, u8, u32, Vec<i32>);

async fn look(
    connection: &mut SqliteConnection,
    gone: &[Gone],
    fallen: &mut Fallen,
) -> Result<Vec<Noted>, Fault> {
    static LOOK: Bulk = Bulk::new(
        "SELECT json_group_array(json_array(hex(s.workflow_id), s.ord, s.many, s.paced, \
         s.items_open, json(p.dependents))) FROM workflow_steps s \
         JOIN workflow_plans p ON p.workflow_id = s.workflow_id AND p.ord = s.ord \
         WHERE s.state = 1 AND (s.workflow_id, s.ord) IN (VALUES",
        "(?, ?)",
        ")",
    );
    let found = LOOK
        .fetch(connection, gone, |args, gone| {
            args.add(gone.run.as_bytes().as_slice()).add(gone.ord);
        })
        .await?;
    let by_step: HashMap<(WorkflowId, i32), &Gone> =
        gone.iter().map(|gone| ((gone.run, gone.ord), gone)).collect();
    let mut noted = Vec::with_capacity(gone.len());
    for row in &found {
        let text: &str = Columns::of(row).next()?;
        for (run, ord, many, paced, open, dependents) in lines::<Line<'_>>("a step", text)? {
            let run = lower::run_id(run)?;
            let Some(gone) = by_step.get(&(run, ord)) else { continue };
            let is_done = many == 0 && gone.bad == 0;
            let is_due = match many {
                0 => gone.bad > 0,
                _ => gone.bad > 0 || paced != 0 || open <= gone.n,
            };
            if is_done {
                fallen.add(run, &dependents);
            }
            noted.push(Noted { gone: **gone, is_done, due: is_due.into() });
        }
    }
    Ok(noted)
}

async fn update(connection: &mut SqliteConnection, noted: &[Noted], now: i64) -> Result<(), Fault> {
    static UPDATE: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, n, bad, finished_at, due) AS (VALUES",
        "(?, ?, ?, ?, ?, ?)",
        ") UPDATE workflow_steps AS s SET items_open = max(0, s.items_open - v.n), \
         items_failed = s.items_failed + v.bad, due = s.due + v.due, \
         state = iif(v.finished_at IS NULL, s.state, 10), \
         finished_at = coalesce(v.finished_at, s.finished_at) \
         FROM v WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord AND s.state = 1",
    );
    UPDATE
        .execute(connection, noted, |args, step| {
            let Gone { run, ord, n, bad } = step.gone;
            args.add(run.as_bytes().as_slice())
                .add(ord)
                .add(n)
                .add(bad)
                .add(step.is_done.then_some(now))
                .add(step.due);
        })
        .await?;
    Ok(())
}
