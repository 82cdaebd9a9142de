//! Rows of runs and steps to values.

use sqlx::sqlite::SqliteRow;

use crate::ledger::runs::{Items, Parent, Run, Step, StepJob};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::JobError;
use crate::model::workflow::{StepState, WorkflowState, permanent};

/// `SELECT` of whole runs; what follows names the runs, as `w`.
macro_rules! select_runs {
    ($tail:literal) => {
        concat!(
            "SELECT w.id, w.namespace, w.name, w.version, w.state, w.ending, w.definition, ",
            "w.definition_version, w.document, w.options, w.input_blob, w.input, w.output_blob, ",
            "w.output, w.error_code, w.error_message, w.steps, w.tags, w.created_at, ",
            "w.finished_at, w.deadline, w.parent_id, w.parent_ord, w.parent_item, w.depth, ",
            "w.rerun_of, w.request_id, w.traceparent FROM workflows w ",
            $tail
        )
    };
}
pub(super) use select_runs;

/// `SELECT` of steps, whole or as their heads ([`crate::ledger::Ledger::step_heads`]); what follows names the steps, as
/// `s`.
macro_rules! select_steps {
    ($tail:literal) => {
        $crate::ledger::sqlite::runs::row::select_steps!("p.items, s.output", $tail)
    };
    (heads, $tail:literal) => {
        $crate::ledger::sqlite::runs::row::select_steps!(
            "iif(p.items IS NULL, NULL, x''), NULL",
            $tail
        )
    };
    ($large:literal, $tail:literal) => {
        concat!(
            "SELECT s.ord, s.step, s.state, s.due, s.wake_at, p.needs, p.dependents, ",
            "s.needs_left, s.plain, s.many, s.items_total, s.items_made, s.items_open, ",
            "s.items_failed, s.job_id, p.spec, ",
            $large,
            ", s.error_code, s.error_message, s.started_at, s.finished_at FROM workflow_steps s ",
            "JOIN workflow_plans p ON p.workflow_id = s.workflow_id AND p.ord = s.ord ",
            $tail
        )
    };
}
pub(super) use select_steps;

/// A run from a row of [`select_runs!`].
pub(super) fn run_of(row: &SqliteRow) -> Result<Run, Fault> {
    let mut c = Columns::of(row);
    let id = WorkflowId::from_bytes(c.id()?);
    let (namespace, name, version) = (c.parsed()?, c.next()?, c.count()?);
    let (state, ending) = (workflow_state(c.next()?)?, c.next::<Option<i64>>()?);
    let definition = c.next::<Option<String>>()?.zip(c.maybe_count()?);
    let (document, options) = (c.next()?, c.next()?);
    let input = c.value()?.ok_or_else(|| Fault::unreadable("an input"))?;
    let output = c.value()?;
    let error = error_of(&mut c)?;
    let steps = c.count()?;
    let tags = c.maybe_json()?.unwrap_or_default();
    let (created_at, finished_at, deadline) = (c.time()?, c.maybe_time()?, c.maybe_time()?);
    let parent = c.maybe_id()?.map(WorkflowId::from_bytes);
    let (ord, item) = (c.next::<Option<i32>>()?, c.maybe_count()?);
    Ok(Run {
        id,
        namespace,
        name,
        version,
        state,
        ending: ending.map(workflow_state).transpose()?,
        definition,
        document,
        options,
        input,
        output,
        error,
        steps,
        tags,
        created_at,
        finished_at,
        deadline,
        parent: parent.zip(ord).map(|(run, ord)| Parent { run, ord, item }),
        depth: c.count()?,
        rerun_of: c.maybe_id()?.map(WorkflowId::from_bytes),
        request_id: c.next()?,
        traceparent: c.next()?,
    })
}

/// A step from a row of [`select_steps!`].
pub(super) fn step_of(row: &SqliteRow) -> Result<Step, Fault> {
    let mut c = Columns::of(row);
    Ok(Step {
        ord: c.next()?,
        id: c.next()?,
        state: step_state(c.next()?)?,
        due: c.count()?,
        wake_at: c.maybe_time()?,
        needs: c.json()?,
        dependents: c.json()?,
        needs_left: c.count()?,
        plain: c.next()?,
        many: c.next()?,
        items: Items { total: c.count()?, made: c.count()?, open: c.count()?, failed: c.count()? },
        job_id: c.maybe_id()?.map(JobId::from_bytes),
        spec: c.next()?,
        list: c.maybe_bytes()?,
        output: c.maybe_bytes()?,
        error: error_of(&mut c)?,
        started_at: c.maybe_time()?,
        finished_at: c.maybe_time()?,
    })
}

/// From the columns position, item, id, state, the error's three, and the output's two.
pub(super) fn step_job_of(row: &SqliteRow) -> Result<StepJob, Fault> {
    let mut c = Columns::of(row);
    Ok(StepJob {
        ord: c.next()?,
        item: c.maybe_count()?,
        id: JobId::from_bytes(c.id()?),
        state: c.state()?,
        error: c.error()?,
        output: c.value()?,
    })
}

/// The two columns of an error that no other attempt can mend.
pub(super) fn error_of(c: &mut Columns<'_>) -> Result<Option<JobError>, Fault> {
    let (code, message): (Option<&str>, Option<String>) = (c.next()?, c.next()?);
    Ok(code.map(|code| permanent(code, message.unwrap_or_default())))
}

/// A run's state from the ledger's number.
pub(super) fn workflow_state(n: i64) -> Result<WorkflowState, Fault> {
    let state = i16::try_from(n).ok().and_then(WorkflowState::from_number);
    state.ok_or_else(|| Fault::unreadable(format_args!("workflow state {n}")))
}

/// A step's state from the ledger's number.
pub(super) fn step_state(n: i64) -> Result<StepState, Fault> {
    let state = i16::try_from(n).ok().and_then(StepState::from_number);
    state.ok_or_else(|| Fault::unreadable(format_args!("step state {n}")))
}
