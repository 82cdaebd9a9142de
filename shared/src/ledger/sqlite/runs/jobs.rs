//! Jobs of steps on their way in.

use std::collections::{BTreeSet, HashSet};

use crate::ledger::runs::NewStep;
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::plan::{Planned, Specs};
use crate::ledger::sqlite::statement::Bulk;
use crate::ledger::sqlite::writer::Tx;
use crate::ledger::sqlite::{orders, queues};
use crate::ledger::unfit_text;
use crate::model::id::WorkflowId;
use crate::model::job::{Job, JobState, NewJob, StepRef};
use crate::model::name::Namespace;
use crate::model::workflow::StepState;

/// A job of a step.
pub(super) struct StepJob<'a> {
    pub(super) ord: i32,
    pub(super) step: &'a str,
    pub(super) item: Option<u32>,
    pub(super) is_blocked: bool,
    pub(super) job: &'a NewJob,
}

impl<'a> StepJob<'a> {
    /// The one job of a step that has one.
    pub(super) fn of(step: &'a NewStep) -> Option<Self> {
        Self::in_state(step, step.state)
    }

    /// As [`Self::of`], of a step that comes in with another state.
    pub(super) fn in_state(step: &'a NewStep, state: StepState) -> Option<Self> {
        let job = step.job.as_ref()?;
        let is_blocked = state != StepState::Released;
        Some(Self { ord: step.ord, step: &step.id, item: None, is_blocked, job })
    }
}

/// Makes the queues of steps that come in, those of their later jobs too.
///
/// # Errors
/// [`Fault::too_many_queues`].
pub(super) async fn make_queues(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    steps: &[NewStep],
) -> Result<(), Fault> {
    let queues: BTreeSet<_> = steps.iter().flat_map(NewStep::queues).collect();
    for queue in queues {
        queues::ensure(tx, namespace, queue).await?;
    }
    Ok(())
}

/// Inserts jobs; those that may run, as they are. Queues that are not there are made, however many there are: those of
/// a step were made with it ([`make_queues`]), and what has begun is not held up by the bound.
///
/// # Errors
/// A job with a text that no ledger takes.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    run: WorkflowId,
    jobs: &[StepJob<'_>],
) -> Result<Vec<Job>, Fault> {
    static INSERT: Bulk = Bulk::new(
        "INSERT INTO jobs (id, state, fence, namespace, queue, kind, unique_key, unique_until, \
         run_at, created_at, changed_at, expires_at, priority, tags, request_id, traceparent, \
         meta, spec, payload_blob, payload, order_key, flow_group, workflow_id, workflow_step, workflow_ord, \
         workflow_item) VALUES",
        "(?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    );
    if let Some(why) = jobs.iter().find_map(|row| unfit_text(row.job)) {
        return Err(Fault::refused(why));
    }
    let mut queues = HashSet::new();
    for row in jobs {
        if queues.insert((&row.job.namespace, &row.job.queue)) {
            queues::ensure_allowed(tx, &row.job.namespace, &row.job.queue).await?;
        }
    }
    let mut specs = Specs::default();
    let mut rows: Vec<(Planned, &StepJob<'_>)> = jobs
        .iter()
        .map(|row| {
            let mut planned = Planned::new(tx.now, row.job, &mut specs);
            if row.is_blocked {
                planned.job.state = JobState::Blocked;
            }
            planned.job.workflow = Some(StepRef { id: run, step: row.step.to_owned() });
            (planned, row)
        })
        .collect();
    INSERT
        .execute(tx.connection, &rows, |args, (planned, row)| {
            Planned::bind(args, planned);
            args.add(run.as_bytes().as_slice()).add(row.step).add(row.ord).add(row.item);
        })
        .await?;
    number(tx, run, jobs).await?;
    orders::settle(tx.connection, rows.iter_mut().map(|row| &mut row.0.job)).await?;
    let made = rows.into_iter().map(|(planned, _)| planned.job);
    Ok(made.filter(|job| job.state != JobState::Blocked).collect())
}

/// Notes which job is which item's.
async fn number(tx: &mut Tx<'_>, run: WorkflowId, jobs: &[StepJob<'_>]) -> Result<(), Fault> {
    static NUMBER: Bulk = Bulk::new(
        "INSERT INTO workflow_items (workflow_id, ord, item, job_id) VALUES",
        "(?, ?, ?, ?)",
        "",
    );
    let items: Vec<(u32, &StepJob<'_>)> =
        jobs.iter().filter_map(|row| Some((row.item?, row))).collect();
    NUMBER
        .execute(tx.connection, &items, |args, (item, row)| {
            args.add(run.as_bytes().as_slice())
                .add(row.ord)
                .add(*item)
                .add(row.job.id.as_bytes().as_slice());
        })
        .await?;
    Ok(())
}
