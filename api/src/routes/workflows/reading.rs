//! A run and its steps put together for readers.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use windlass_shared::ledger::runs::{END, Run, Step, StepJob};
use windlass_shared::model::id::{BlobId, WorkflowId};
use windlass_shared::model::job::{JobState, Value};
use windlass_shared::model::workflow::{StepSpec, StepState, Work};

use crate::app::App;
use crate::error::ApiError;
use crate::views::Raw;
use crate::views::workflow::{RunDetail, RunView, StepView, shown};

/// Steps read at once.
const PAGE: u32 = 2_000;
/// Pages of one run: its steps, and as many that undo them.
const PAGES_MAX: usize = 20;
/// Steps whose jobs are read at once.
const ORDS_AT_ONCE: usize = 500;
const READS_AT_ONCE: usize = 4;
/// Jobs of `for_each` steps in one answer, and of one step.
const ITEM_JOBS_MAX: u32 = 20_000;
const JOB_IDS_MAX: usize = 1_000;
/// Bytes of outputs of steps in one answer.
const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// A run without its steps, its large values in their places.
///
/// # Errors
/// The ledger does not answer.
pub async fn view(app: &App, run: Run) -> Result<RunView, ApiError> {
    let counts = app.life.ledger().step_counts(run.id).await?;
    filled(app, run, &counts).await
}

async fn filled(app: &App, run: Run, counts: &[(StepState, u32)]) -> Result<RunView, ApiError> {
    let blob = |value: &Value| match value {
        Value::Blob(id) => Some(*id),
        Value::Inline(_) => None,
    };
    let (input, output) = (blob(&run.input), run.output.as_ref().and_then(blob));
    let (namespace, parent) = (run.namespace.clone(), run.parent);
    let mut view = RunView::new(run, counts);
    let ledger = app.life.ledger();
    if let Some(id) = input
        && let Some(bytes) = ledger.blob(&namespace, id).await?
    {
        view.set_input(bytes);
    }
    if let Some(id) = output
        && let Some(bytes) = ledger.blob(&namespace, id).await?
    {
        view.set_output(bytes);
    }
    if let Some(parent) = parent
        && let Some(step) = ledger.steps(parent.run, parent.ord - 1, 1).await?.into_iter().next()
    {
        view.set_parent_step(step.id);
    }
    Ok(view)
}

/// Every step of a run but the end, in order.
///
/// # Errors
/// The ledger does not answer.
pub async fn all_steps(app: &App, id: WorkflowId) -> Result<Vec<Step>, ApiError> {
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..PAGES_MAX {
        let after = steps.last().map_or(END, |step| step.ord);
        let page = app.life.ledger().steps(id, after, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        steps.extend(page.into_iter().filter(|step| step.ord != END));
        if is_last {
            break;
        }
    }
    Ok(steps)
}

/// A run with its steps.
///
/// # Errors
/// The ledger does not answer.
pub async fn detail(app: &App, run: Run) -> Result<RunDetail, ApiError> {
    let id = run.id;
    let steps = all_steps(app, id).await?;
    let specs: Vec<Option<StepSpec>> = steps.iter().map(spec_of).collect();
    let mut jobs = jobs(app, id, &steps).await?;
    let mut children = children(app, id, &steps, &specs).await?;
    let mut counts: HashMap<StepState, u32> = HashMap::new();
    steps.iter().for_each(|step| *counts.entry(step.state).or_default() += 1);
    let counts: Vec<(StepState, u32)> = counts.into_iter().collect();
    let run = filled(app, run, &counts).await?;
    let ids: HashMap<i32, String> = steps.iter().map(|step| (step.ord, step.id.clone())).collect();
    let mut room = OUTPUT_BYTES_MAX;
    let views = steps
        .into_iter()
        .zip(&specs)
        .map(|(step, spec)| {
            let jobs = jobs.remove(&step.ord).unwrap_or_default();
            let started = children.remove(&step.ord).unwrap_or_default();
            step_view(step, spec.as_ref(), jobs, &started, &ids, &mut room)
        })
        .collect();
    Ok(RunDetail { run, steps: views })
}

/// What a step does; `None`: this build cannot read it.
pub fn spec_of(step: &Step) -> Option<StepSpec> {
    serde_json::from_str(&step.spec)
        .inspect_err(|error| tracing::error!(%error, step = step.id, "a step cannot be read"))
        .ok()
}

/// The jobs of every step that has left the blocked state, by position; those of too many items are left out.
async fn jobs(
    app: &App,
    id: WorkflowId,
    steps: &[Step],
) -> Result<HashMap<i32, Vec<StepJob>>, ApiError> {
    let mut item_jobs = 0_u32;
    let mut ords: Vec<i32> = Vec::new();
    for step in steps.iter().filter(|step| step.state != StepState::Blocked) {
        if step.many {
            item_jobs = item_jobs.saturating_add(step.items.made);
            if item_jobs > ITEM_JOBS_MAX {
                continue;
            }
        } else if step.job_id.is_none() {
            continue;
        }
        ords.push(step.ord);
    }
    let chunks: Vec<Vec<i32>> = ords.chunks(ORDS_AT_ONCE).map(<[i32]>::to_vec).collect();
    let found: Vec<Vec<StepJob>> = futures::stream::iter(chunks)
        .map(|ords| async move { app.life.ledger().step_jobs(id, &ords).await })
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let mut jobs: HashMap<i32, Vec<StepJob>> = HashMap::new();
    for job in found.into_iter().flatten() {
        jobs.entry(job.ord).or_default().push(job);
    }
    Ok(jobs)
}

/// The runs that each `workflow.run` has started, oldest first.
async fn children(
    app: &App,
    id: WorkflowId,
    steps: &[Step],
    specs: &[Option<StepSpec>],
) -> Result<HashMap<i32, Vec<WorkflowId>>, ApiError> {
    let starts = |spec: &StepSpec| matches!(spec.work, Work::Child(_));
    let ords: Vec<i32> = steps
        .iter()
        .zip(specs)
        .filter(|(step, spec)| {
            step.state != StepState::Blocked && spec.as_ref().is_some_and(starts)
        })
        .map(|(step, _)| step.ord)
        .collect();
    let mut children: HashMap<i32, Vec<WorkflowId>> = HashMap::new();
    for ords in ords.chunks(ORDS_AT_ONCE) {
        let found = app.life.ledger().children(id, ords).await?;
        for (ord, child) in found {
            children.entry(ord).or_default().push(child.id);
        }
    }
    Ok(children)
}

fn step_view(
    step: Step,
    spec: Option<&StepSpec>,
    jobs: Vec<StepJob>,
    started: &[WorkflowId],
    ids: &HashMap<i32, String>,
    room: &mut usize,
) -> StepView {
    let waits = step.state == StepState::Waiting;
    let child = started.last().copied().filter(|_| !step.many);
    let family = step.many && spec.is_some_and(|spec| matches!(spec.work, Work::Child(_)));
    let waits_for = spec.filter(|_| waits).and_then(|spec| waits_for(spec, &step, child));
    let job_state = match step.state {
        StepState::Blocked => step.job_id.map(|_| JobState::Blocked),
        _ if step.many => None,
        _ => jobs.first().map(|job| job.state),
    };
    let job_ids = (step.many && !family)
        .then(|| jobs.iter().take(JOB_IDS_MAX).map(|job| job.id).collect::<Vec<_>>());
    let (output, output_omitted) = output(&step, jobs, room);
    StepView {
        kind: spec.map_or("unknown", |spec| spec.work.kind()).to_owned(),
        state: step.state.as_str(),
        needs: step.needs.iter().filter_map(|ord| ids.get(ord).cloned()).collect(),
        job_id: step.job_id,
        job_state,
        job_ids,
        items: (step.many && !family).then(|| step.items.into()),
        workflow_id: child.map(|id| id.to_string()),
        workflow_ids: family.then(|| started.iter().map(WorkflowId::to_string).collect()),
        waits_for,
        output,
        output_omitted,
        error: step.error,
        started_at: step.started_at,
        finished_at: step.finished_at,
        id: step.id,
    }
}

fn waits_for(spec: &StepSpec, step: &Step, child: Option<WorkflowId>) -> Option<serde_json::Value> {
    Some(match &spec.work {
        Work::Job(_) => return None,
        Work::Signal { name, .. } => json!({ "signal": name, "until": step.wake_at }),
        Work::Timer(_) => json!({ "until": step.wake_at }),
        Work::Approval(approval) => json!({
            "approval": {
                "required": approval.required,
                "roles": approval.roles,
                "message": approval.message,
            },
            "until": step.wake_at,
        }),
        Work::Child(_) => json!({ "workflow": child }),
    })
}

/// The output of a step that has succeeded, while there is room for it; and whether it was left out.
fn output(step: &Step, jobs: Vec<StepJob>, room: &mut usize) -> (Option<Raw>, bool) {
    if step.state != StepState::Succeeded {
        return (None, false);
    }
    if step.many && step.output.is_none() {
        return item_outputs(step, jobs, room);
    }
    let value = match jobs.into_iter().next() {
        Some(job) => job.output,
        None => step.output.clone().map(Value::Inline),
    };
    match value.map(shown) {
        Some(raw) => take_room(raw, room),
        None => (None, false),
    }
}

fn take_room(raw: Raw, room: &mut usize) -> (Option<Raw>, bool) {
    match room.checked_sub(raw.0.len()) {
        Some(left) => {
            *room = left;
            (Some(raw), false)
        }
        None => (None, true),
    }
}

/// A list in the order of the items.
fn item_outputs(step: &Step, mut jobs: Vec<StepJob>, room: &mut usize) -> (Option<Raw>, bool) {
    if jobs.len() < step.items.total as usize {
        return (None, true);
    }
    jobs.sort_by_key(|job| job.item);
    let mut list = vec![b'['];
    for (at, job) in jobs.into_iter().enumerate() {
        if at > 0 {
            list.push(b',');
        }
        let output = job.output.unwrap_or(Value::null());
        list.extend_from_slice(&shown(output).0);
        if list.len() > *room {
            return (None, true);
        }
    }
    list.push(b']');
    take_room(Raw(Bytes::from(list)), room)
}

/// A value of the ledger as JSON; one that is gone is `null`.
///
/// # Errors
/// The ledger does not answer.
pub async fn value(
    app: &App,
    namespace: &windlass_shared::model::name::Namespace,
    value: &Value,
) -> Result<serde_json::Value, ApiError> {
    let blob = |id: BlobId| async move { app.life.ledger().blob(namespace, id).await };
    let bytes = match value {
        Value::Inline(bytes) => Some(bytes.clone()),
        Value::Blob(id) => blob(*id).await?,
    };
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}
