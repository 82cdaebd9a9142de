//! A step whose needs have all ended: is it run, with which jobs, and what do they get?

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::Value as Json;

use super::build::{self, Origin};
use super::decide::{COMPENSATE, moved};
use crate::expr::{ExprFault, Scope, check, template};
use crate::ledger::runs::{END, Move, NewStep, Release, Run, Snapshot, Step};
use crate::limits::{INLINE_BYTES_MAX, VALUE_BYTES_MAX};
use crate::model::id::BlobId;
use crate::model::job::{JobError, Value};
use crate::model::time::{Span, Timestamp};
use crate::model::workflow::{
    JobTemplate, StepFailure, StepSpec, StepState, TimerSpec, Work, code, limits, permanent,
};

/// A value as a job carries it, and the blob to be stored first where it is large.
pub(super) type Stored = (Value, Option<(BlobId, Bytes)>);

/// Bytes of large payloads that one decision holds, but for the last; what is over is left to the next.
pub(super) const STORED_BYTES_MAX: usize = 8 << 20;

/// What becomes of a step.
#[expect(clippy::large_enum_variant, reason = "one at a time, and nearly always the larger one")]
pub(super) enum Released {
    /// Its condition is false.
    Skip,
    /// It moves, and these jobs may run.
    Go {
        /// How it moves.
        step: Move,
        /// Its jobs.
        jobs: Vec<Release>,
        /// To be stored before.
        blobs: Vec<(BlobId, Bytes)>,
    },
}

/// Steps whose state or output a step's expressions read. Of expressions that were checked at submission.
pub(super) fn names(spec: &StepSpec) -> Vec<String> {
    let in_item = spec.for_each.is_some();
    let mut steps = Vec::new();
    for expr in [&spec.condition, &spec.for_each].into_iter().flatten() {
        steps.extend(check(expr, false).unwrap_or_default().steps);
    }
    let of_value = |value: &Json| template::check_all(value, in_item).unwrap_or_default().steps;
    match &spec.work {
        Work::Job(job) if job.is_template => steps.extend(of_value(&job.payload)),
        Work::Child(child) => steps.extend(of_value(&child.input)),
        Work::Timer(TimerSpec::Template(text)) => {
            steps.extend(of_value(&Json::String(text.clone())))
        }
        _ => {}
    }
    steps
}

/// Whether a step's release evaluates expressions.
pub(super) fn evaluates(spec: &StepSpec) -> bool {
    spec.condition.is_some()
        || spec.for_each.is_some()
        || match &spec.work {
            Work::Job(job) => job.is_template,
            Work::Timer(timer) => matches!(timer, TimerSpec::Template(_)),
            Work::Child(_) => true,
            Work::Signal { .. } | Work::Approval(_) => false,
        }
}

/// Decides over a blocked step that waits for nothing more. The scope comes back, without an item.
pub(super) fn release(
    step: &Step,
    spec: &StepSpec,
    mut scope: Scope,
    snapshot: &Snapshot,
) -> (Result<Released, JobError>, Scope) {
    let result = evaluate(step, spec, &mut scope, snapshot);
    scope.clear_item();
    (result, scope)
}

fn evaluate(
    step: &Step,
    spec: &StepSpec,
    scope: &mut Scope,
    snapshot: &Snapshot,
) -> Result<Released, JobError> {
    if let Some(condition) = &spec.condition
        && !scope.condition(condition).map_err(failed)?
    {
        return Ok(Released::Skip);
    }
    if let Some(list) = &spec.for_each {
        return start_items(step, spec, &scope.list(list).map_err(failed)?, scope, snapshot);
    }
    let mut go = moved(step, StepState::Waiting);
    match &spec.work {
        Work::Job(job) => {
            go.to = StepState::Released;
            let id = step.job_id.ok_or_else(|| permanent("internal", "the step has no job"))?;
            let (payload, blob) = match job.is_template {
                true => fill(job, scope).map(|(value, blob)| (Some(value), blob))?,
                false => (None, None),
            };
            let (run_at, expires_at) = job.times(snapshot.now);
            let jobs = vec![Release::Blocked { id, payload, run_at, expires_at }];
            return Ok(Released::Go { step: go, jobs, blobs: blob.into_iter().collect() });
        }
        Work::Signal { timeout, .. } => {
            go.wake_at = timeout.map(|span| snapshot.now.plus(span.0));
            // It may have come already.
            go.seen = 0;
        }
        Work::Approval(approval) => {
            go.wake_at = approval.expires.map(|span| snapshot.now.plus(span.0));
            go.seen = 0;
        }
        Work::Timer(timer) => go.wake_at = Some(rings_at(timer, scope, snapshot.now)?),
        // Started after this is on record; stays due until then.
        Work::Child(_) => go.seen = 0,
    }
    Ok(Released::Go { step: go, jobs: Vec::new(), blobs: Vec::new() })
}

fn rings_at(timer: &TimerSpec, scope: &Scope, now: Timestamp) -> Result<Timestamp, JobError> {
    let text = match timer {
        TimerSpec::For(span) => return Ok(now.plus(span.0)),
        TimerSpec::Until(at) => return Ok(*at),
        TimerSpec::Template(text) => {
            template::fill(&Json::String(text.clone()), scope).map_err(failed)?
        }
    };
    if let Ok(at) = serde_json::from_value::<Timestamp>(text.clone()) {
        return Ok(at);
    }
    match serde_json::from_value::<Span>(text.clone()) {
        Ok(span) if span.0 <= limits::WAIT_MAX => Ok(now.plus(span.0)),
        _ => {
            let text = format!("{text} is neither a duration of at most a year nor an instant");
            Err(permanent(code::EXPRESSION_FAILED, text))
        }
    }
}

fn start_items(
    step: &Step,
    spec: &StepSpec,
    list: &[Json],
    scope: &mut Scope,
    snapshot: &Snapshot,
) -> Result<Released, JobError> {
    if list.len() > limits::ITEMS_MAX {
        let text =
            format!("its list has {} items; at most {} are allowed", list.len(), limits::ITEMS_MAX);
        return Err(permanent(code::EXPRESSION_FAILED, text));
    }
    let bytes = Bytes::from(Json::from(list.to_vec()).to_string());
    if bytes.len() > limits::SCOPE_BYTES_MAX {
        return Err(permanent(code::EXPRESSION_FAILED, "its list is larger than 8 MiB"));
    }
    let total = u32::try_from(list.len()).expect("bounded above");
    if matches!(spec.work, Work::Child(_)) && !list.is_empty() {
        if list.len() > limits::CHILDREN_MAX {
            let text = format!(
                "its list has {} items; at most {} workflows can be started by one step",
                list.len(),
                limits::CHILDREN_MAX
            );
            return Err(permanent(code::EXPRESSION_FAILED, text));
        }
        // Started after this is on record; stays due until then.
        let mut go = moved(step, StepState::Waiting);
        (go.list, go.seen) = (Some((bytes, total)), 0);
        return Ok(Released::Go { step: go, jobs: Vec::new(), blobs: Vec::new() });
    }
    if list.is_empty() {
        let mut done = moved(step, StepState::Succeeded);
        done.list = Some((bytes, 0));
        return Ok(Released::Go { step: done, jobs: Vec::new(), blobs: Vec::new() });
    }
    let mut go = moved(step, StepState::Released);
    go.list = Some((bytes, total));
    items(go, spec, list, 0..room(spec, 0, total), scope, snapshot)
}

/// The next items of a `for_each` that has room for them.
pub(super) fn more(
    step: &Step,
    spec: &StepSpec,
    mut scope: Scope,
    snapshot: &Snapshot,
) -> (Result<Released, JobError>, Scope) {
    let list: Option<Vec<Json>> =
        step.list.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
    let Some(list) = list else {
        return (Err(permanent("internal", "the list of the step cannot be read")), scope);
    };
    let made = step.items.made;
    let running = (step.items.open + made).saturating_sub(step.items.total);
    let next = made..made + room(spec, running, step.items.total - made);
    let go = moved(step, StepState::Released);
    let result = items(go, spec, &list, next, &mut scope, snapshot);
    scope.clear_item();
    (result, scope)
}

/// How many more items may be made now.
fn room(spec: &StepSpec, running: u32, left: u32) -> u32 {
    let at_once = u32::try_from(limits::RELEASES_MAX).expect("a small bound");
    let free = spec.max_parallel.map_or(at_once, |most| most.saturating_sub(running));
    free.min(at_once).min(left)
}

fn items(
    mut go: Move,
    spec: &StepSpec,
    list: &[Json],
    which: std::ops::Range<u32>,
    scope: &mut Scope,
    snapshot: &Snapshot,
) -> Result<Released, JobError> {
    let Work::Job(template) = &spec.work else {
        return Err(permanent("internal", "a for_each is of jobs"));
    };
    let run = &snapshot.run;
    let origin = origin(run);
    let (run_at, expires_at) = template.times(snapshot.now);
    let (mut jobs, mut blobs) = (Vec::new(), Vec::new());
    // A payload that is the same for all is stored once.
    let mut same = None;
    if !template.is_template && !which.is_empty() {
        let (payload, blob) = stored(&template.payload)?;
        same = Some(payload);
        blobs.extend(blob);
    }
    let (mut end, mut bytes) = (which.end, 0);
    for item in which {
        if bytes > STORED_BYTES_MAX {
            end = item;
            break;
        }
        let at = item as usize;
        scope.set_item(&list[at], at);
        let mut job = template.job(&origin);
        if let Some(payload) = &same {
            job.payload = payload.clone();
        } else {
            let (payload, blob) = fill(template, scope)?;
            job.payload = payload;
            bytes += blob.as_ref().map_or(0, |(_, blob)| blob.len());
            blobs.extend(blob);
        }
        job.run_at = template.delay.map(|_| run_at);
        job.expires_at = expires_at;
        jobs.push(Release::Item { ord: go.ord, item, step: spec.id.clone(), job: Box::new(job) });
    }
    // Without max_parallel nobody's end makes it due again: it stays so until all are made; and until as many as may
    // run are, where they were too large for one decision.
    let cut = bytes > STORED_BYTES_MAX;
    if (cut || spec.max_parallel.is_none()) && (end as usize) < list.len() {
        go.seen = 0;
    }
    Ok(Released::Go { step: go, jobs, blobs })
}

pub(super) fn origin(run: &Run) -> Origin<'_> {
    Origin {
        namespace: &run.namespace,
        request_id: run.request_id.as_deref(),
        traceparent: run.traceparent.as_deref(),
    }
}

fn fill(job: &JobTemplate, scope: &Scope) -> Result<Stored, JobError> {
    stored(&template::fill(&job.payload, scope).map_err(failed)?)
}

/// A value as jobs and runs carry it.
///
/// # Errors
/// It is larger than a payload may be.
pub(in crate::lifecycle) fn stored(value: &Json) -> Result<Stored, JobError> {
    let bytes = Bytes::from(value.to_string());
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(permanent(code::EXPRESSION_FAILED, "the value is larger than 1 MiB"));
    }
    if bytes.len() <= INLINE_BYTES_MAX {
        return Ok((Value::Inline(bytes), None));
    }
    let id = BlobId::generate();
    Ok((Value::Blob(id), Some((id, bytes))))
}

fn failed(fault: ExprFault) -> JobError {
    permanent(code::EXPRESSION_FAILED, fault.to_string())
}

/// Steps of which the outputs are the answer of a run that names none.
pub(super) fn last(all: &[Step]) -> impl Iterator<Item = &Step> {
    all.iter().filter(|step| step.dependents.contains(&END))
}

/// The outputs of the steps that no other needs, by id; `null` where they are together too large for an answer.
pub(super) fn outputs_of_last(all: &[Step], seen: &HashMap<String, Json>) -> Json {
    let mut bytes = 0;
    let mut outputs = serde_json::Map::new();
    for step in last(all) {
        let output = seen.get(&step.id).and_then(|seen| seen.get("output"));
        let output = output.cloned().unwrap_or(Json::Null);
        bytes += step.id.len() + output.to_string().len() + 4;
        if bytes > VALUE_BYTES_MAX {
            return Json::Null;
        }
        outputs.insert(step.id.clone(), output);
    }
    Json::Object(outputs)
}

/// Steps that run one after the other and undo the given ones in that order; the end waits for the last.
pub(super) fn chain(undo: Vec<(&Step, JobTemplate)>, first: i32, run: &Run) -> Vec<NewStep> {
    let origin = origin(run);
    let count = i32::try_from(undo.len()).expect("steps are bounded");
    undo.into_iter()
        .zip(0..count)
        .map(|((step, template), n)| {
            let spec = StepSpec {
                id: format!("{COMPENSATE}{}", step.id),
                needs: Vec::new(),
                condition: None,
                for_each: None,
                max_parallel: None,
                // The others are undone all the same.
                on_failure: StepFailure::Continue,
                compensate: None,
                work: Work::Job(template),
            };
            let needs = (n > 0).then(|| first + n - 1).into_iter().collect();
            let below = if n + 1 == count { END } else { first + n + 1 };
            build::row(&spec, first + n, needs, vec![below], &origin)
        })
        .collect()
}
