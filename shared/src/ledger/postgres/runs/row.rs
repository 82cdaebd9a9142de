//! Rows of runs and steps to values.

use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::super::Result;
use super::super::error::BadColumn;
use super::super::row::{get, maybe_bytes, maybe_time, maybe_value, parse, small, time, unsigned};
use crate::ledger::runs::{ChildSeen, Items, Parent, Run, Step, StepJob};
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::JobError;
use crate::model::workflow::{StepState, WorkflowState, permanent};

/// The columns of [`run`].
macro_rules! run_columns {
    () => {
        "w.id, w.namespace, w.name, w.version, w.state, w.ending, w.definition, \
         w.definition_version, w.document, w.input, w.input_blob, w.output, w.output_blob, \
         w.error_code, w.error_message, w.steps, w.tags, w.created_at, w.finished_at, w.deadline, \
         w.parent_id, w.parent_ord, w.parent_item, w.depth, w.rerun_of, w.request_id, w.traceparent, \
         w.options"
    };
}
pub(super) use run_columns;

/// The columns of [`step`]; with `heads` those of [`crate::ledger::Ledger::step_heads`].
macro_rules! step_columns {
    () => {
        $crate::ledger::postgres::runs::row::step_columns!("s.items, s.output")
    };
    (heads) => {
        $crate::ledger::postgres::runs::row::step_columns!(
            "CASE WHEN s.items IS NOT NULL THEN ''::bytea END, NULL::bytea"
        )
    };
    ($large:literal) => {
        concat!(
            "s.ord, s.step, s.state, s.due, s.wake_at, s.needs, s.dependents, s.needs_left, s.plain, \
             s.many, s.items_total, s.items_made, s.items_open, s.items_failed, s.job_id, s.spec, ",
            $large,
            ", s.error_code, s.error_message, s.started_at, s.finished_at"
        )
    };
}
pub(super) use step_columns;

pub(super) fn run(row: &PgRow) -> Result<Run> {
    let definition: Option<String> = get(row, 6)?;
    let definition = match definition {
        Some(name) => Some((name, small(row, 7, "definition_version")?)),
        None => None,
    };
    let parent = match get::<Option<Uuid>>(row, 20)? {
        Some(id) => Some(Parent {
            run: WorkflowId::from_uuid(id),
            ord: get(row, 21)?,
            item: maybe_small(row, 22, "parent_item")?,
        }),
        None => None,
    };
    Ok(Run {
        id: WorkflowId::from_uuid(get(row, 0)?),
        namespace: parse(row, 1, "namespace")?,
        name: get(row, 2)?,
        version: unsigned(row, 3, "version")?,
        state: workflow_state(get(row, 4)?)?,
        ending: get::<Option<i16>>(row, 5)?.map(workflow_state).transpose()?,
        definition,
        document: get(row, 8)?,
        options: get(row, 27)?,
        input: maybe_value(row, 9, 10)?.ok_or(BadColumn { column: "input" })?,
        output: maybe_value(row, 11, 12)?,
        error: maybe_error(row, 13)?,
        steps: small(row, 15, "steps")?,
        tags: get(row, 16)?,
        created_at: time(row, 17)?,
        finished_at: maybe_time(row, 18)?,
        deadline: maybe_time(row, 19)?,
        parent,
        depth: u16::try_from(get::<i16>(row, 23)?).map_err(|_| BadColumn { column: "depth" })?,
        rerun_of: get::<Option<Uuid>>(row, 24)?.map(WorkflowId::from_uuid),
        request_id: get(row, 25)?,
        traceparent: get(row, 26)?,
    })
}

pub(super) fn step(row: &PgRow) -> Result<Step> {
    Ok(Step {
        ord: get(row, 0)?,
        id: get(row, 1)?,
        state: step_state(get(row, 2)?)?,
        due: unsigned(row, 3, "due")?,
        wake_at: maybe_time(row, 4)?,
        needs: get(row, 5)?,
        dependents: get(row, 6)?,
        needs_left: small(row, 7, "needs_left")?,
        plain: get(row, 8)?,
        many: get(row, 9)?,
        items: Items {
            total: small(row, 10, "items_total")?,
            made: small(row, 11, "items_made")?,
            open: small(row, 12, "items_open")?,
            failed: small(row, 13, "items_failed")?,
        },
        job_id: get::<Option<Uuid>>(row, 14)?.map(JobId::from_uuid),
        spec: get(row, 15)?,
        list: maybe_bytes(row, 16)?,
        output: maybe_bytes(row, 17)?,
        error: maybe_error(row, 18)?,
        started_at: maybe_time(row, 20)?,
        finished_at: maybe_time(row, 21)?,
    })
}

/// From the columns position, item, id, state, output, its blob, and the error's three.
pub(super) fn step_job(row: &PgRow) -> Result<StepJob> {
    Ok(StepJob {
        ord: get(row, 0)?,
        item: maybe_small(row, 1, "item")?,
        id: JobId::from_uuid(get(row, 2)?),
        state: super::super::row::state(get(row, 3)?)?,
        output: maybe_value(row, 4, 5)?,
        error: super::super::row::maybe_error(row, 6)?,
    })
}

/// From the columns position, id, state, output and the error's two.
pub(super) fn child(row: &PgRow) -> Result<(i32, ChildSeen)> {
    let seen = ChildSeen {
        id: WorkflowId::from_uuid(get(row, 1)?),
        state: workflow_state(get(row, 2)?)?,
        output: maybe_bytes(row, 3)?,
        error: maybe_error(row, 4)?,
    };
    Ok((get(row, 0)?, seen))
}

pub(super) fn step_state(number: i16) -> Result<StepState> {
    StepState::from_number(number).ok_or_else(|| BadColumn { column: "state" }.into())
}

pub(super) fn workflow_state(number: i16) -> Result<WorkflowState> {
    WorkflowState::from_number(number).ok_or_else(|| BadColumn { column: "state" }.into())
}

fn maybe_small(row: &PgRow, at: usize, column: &'static str) -> Result<Option<u32>> {
    let number: Option<i32> = get(row, at)?;
    number.map(u32::try_from).transpose().map_err(|_| BadColumn { column }.into())
}

/// The two columns of an error, from `at` on.
fn maybe_error(row: &PgRow, at: usize) -> Result<Option<JobError>> {
    let Some(code) = get::<Option<String>>(row, at)? else { return Ok(None) };
    Ok(Some(permanent(&code, get::<Option<String>>(row, at + 1)?.unwrap_or_default())))
}
