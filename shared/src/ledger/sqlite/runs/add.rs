//! Steps that come into a run that is under way.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::advance::Target;
use super::jobs::{self, StepJob};
use super::moves::Found;
use super::row::step_state;
use super::steps::{self, Row};
use crate::ledger::runs::{Advance, END, NewStep};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::statement::{Args, Bulk, execute};
use crate::ledger::sqlite::writer::Tx;
use crate::model::id::{JobId, WorkflowId};
use crate::model::workflow::StepState;

/// How added steps hang together with those that are there. By position, so that each row is written once.
#[derive(Default)]
pub(super) struct Links {
    /// Added steps that a step which has not ended gets as dependents.
    below: BTreeMap<i32, Vec<i32>>,
    /// Added steps that a step which has not started gets as needs.
    above: BTreeMap<i32, Vec<i32>>,
    /// Added steps with how many of their needs have not ended.
    left: HashMap<i32, usize>,
}

/// Looks whether the steps of an advance can come in; `None`: one needs a step that is not there, or comes before one
/// that has started. States are those after the moves and the stop of the same advance.
pub(super) async fn look(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    advance: &Advance,
    moves: &[Found],
) -> Result<Option<Links>, Fault> {
    let mut links = Links::default();
    if advance.added.is_empty() {
        return Ok(Some(links));
    }
    let fresh: HashSet<i32> = advance.added.iter().map(|step| step.ord).collect();
    let others: HashSet<i32> = advance
        .added
        .iter()
        .flat_map(|step| step.needs.iter().chain(&step.dependents))
        .filter(|ord| !fresh.contains(ord))
        .copied()
        .collect();
    let mut states = states_of(tx, run, &others.into_iter().collect::<Vec<_>>()).await?;
    for (ord, to) in moves.iter().map(Found::target) {
        states.entry(ord).and_modify(|state| *state = to);
    }
    if advance.stop {
        for (_, state) in states.iter_mut().filter(|(ord, _)| **ord != END) {
            if *state == StepState::Blocked {
                *state = StepState::Cancelled;
            }
        }
    }
    for step in &advance.added {
        let mut left = 0;
        for need in &step.needs {
            match states.get(need) {
                _ if fresh.contains(need) => left += 1,
                Some(state) if state.is_terminal() => {}
                Some(_) => {
                    left += 1;
                    links.below.entry(*need).or_default().push(step.ord);
                }
                None => return Ok(None),
            }
        }
        links.left.insert(step.ord, left);
        for dependent in step.dependents.iter().filter(|ord| !fresh.contains(ord)) {
            if states.get(dependent) != Some(&StepState::Blocked) {
                return Ok(None);
            }
            links.above.entry(*dependent).or_default().push(step.ord);
        }
    }
    Ok(Some(links))
}

async fn states_of(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    ords: &[i32],
) -> Result<HashMap<i32, StepState>, Fault> {
    static STATES: Bulk = Bulk::new(
        "SELECT ord, state FROM workflow_steps WHERE (workflow_id, ord) IN (VALUES",
        "(?, ?)",
        ")",
    );
    let found = STATES
        .fetch(tx.connection, ords, |args, ord| {
            args.add(run.as_bytes().as_slice()).add(*ord);
        })
        .await?;
    let state = |row| {
        let mut c = Columns::of(row);
        Ok((c.next()?, step_state(c.next()?)?))
    };
    found.iter().map(state).collect()
}

/// Brings steps in with their jobs, ties them to those that are there, and counts them. A plain one that waits for
/// nothing is released.
pub(super) async fn add(
    tx: &mut Tx<'_>,
    run: &Target,
    added: &[NewStep],
    links: &Links,
    released: &mut Vec<JobId>,
) -> Result<(), Fault> {
    if added.is_empty() {
        return Ok(());
    }
    let rows: Vec<Row<'_>> = added
        .iter()
        .map(|step| {
            let needs_left = links.left.get(&step.ord).copied().unwrap_or_default();
            let is_free = needs_left == 0 && step.state == StepState::Blocked;
            let is_plain = step.plain && step.job.is_some();
            let state = if is_free && is_plain { StepState::Released } else { step.state };
            Row { step, state, due: step.due || (is_free && !is_plain), needs_left }
        })
        .collect();
    let made: Vec<StepJob<'_>> =
        rows.iter().filter_map(|row| StepJob::in_state(row.step, row.state)).collect();
    let ready = jobs::insert(tx, run.id, &made).await?;
    released.extend(ready.into_iter().map(|job| job.id));
    steps::insert(tx, run.id, &run.namespace, &rows).await?;
    link(tx, run.id, links).await?;
    let sql = "UPDATE workflows SET steps = steps + ? WHERE id = ?";
    let count = i64::try_from(added.len()).unwrap_or(i64::MAX);
    let args = Args::default().with(count).with(run.id.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

async fn link(tx: &mut Tx<'_>, run: WorkflowId, links: &Links) -> Result<(), Fault> {
    static WAIT: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, n) AS (VALUES",
        "(?, ?, ?)",
        ") UPDATE workflow_steps AS s SET needs_left = s.needs_left + v.n \
         FROM v WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord",
    );
    // A JSON array grows by its text: `[1,2]` and `3,4` are `[1,2,3,4]`.
    static ABOVE: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, more) AS (VALUES",
        "(?, ?, ?)",
        ") UPDATE workflow_plans AS p \
         SET needs = rtrim(p.needs, ']') || iif(p.needs = '[]', '', ',') || v.more || ']' \
         FROM v WHERE p.workflow_id = v.workflow_id AND p.ord = v.ord",
    );
    static BELOW: Bulk = Bulk::new(
        "WITH v (workflow_id, ord, more) AS (VALUES",
        "(?, ?, ?)",
        ") UPDATE workflow_plans AS p SET dependents = rtrim(p.dependents, ']') \
         || iif(p.dependents = '[]', '', ',') || v.more || ']' \
         FROM v WHERE p.workflow_id = v.workflow_id AND p.ord = v.ord",
    );
    let above: Vec<(&i32, &Vec<i32>)> = links.above.iter().collect();
    WAIT.execute(tx.connection, &above, |args, (ord, needs)| {
        let n = i64::try_from(needs.len()).unwrap_or(i64::MAX);
        args.add(run.as_bytes().as_slice()).add(**ord).add(n);
    })
    .await?;
    let below: Vec<(&i32, &Vec<i32>)> = links.below.iter().collect();
    for (table, edges) in [(&ABOVE, above), (&BELOW, below)] {
        table
            .execute(tx.connection, &edges, |args, (ord, more)| {
                let more: Vec<String> = more.iter().map(i32::to_string).collect();
                args.add(run.as_bytes().as_slice()).add(**ord).add(more.join(","));
            })
            .await?;
    }
    Ok(())
}
