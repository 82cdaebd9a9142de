//! A checked workflow becomes rows: steps, edges, the end, and a blocked job for each step with one.

use bytes::Bytes;

use crate::ledger::runs::{END, NewStep};
use crate::limits::INLINE_BYTES_MAX;
use crate::model::id::{BlobId, JobId};
use crate::model::job::{NewJob, Value};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;
use crate::model::workflow::{JobTemplate, StepSpec, StepState, Work, WorkflowSpec};

/// What all jobs of a run have in common.
#[derive(Debug, Clone)]
pub struct Origin<'a> {
    /// Whose.
    pub namespace: &'a Namespace,
    /// The request that made the run.
    pub request_id: Option<&'a str>,
    /// W3C trace context of that request.
    pub traceparent: Option<&'a str>,
}

/// The rows of every step, and of the end. Steps that need nothing and are plain are released as they come in.
/// Linear in steps and edges.
pub fn rows(spec: &WorkflowSpec, origin: &Origin<'_>) -> Vec<NewStep> {
    let mut dependents: Vec<Vec<i32>> = vec![Vec::new(); spec.steps.len()];
    for (at, step) in spec.steps.iter().enumerate() {
        for need in &step.needs {
            dependents[*need as usize].push(ord(at));
        }
    }
    let mut rows = Vec::with_capacity(spec.steps.len() + 1);
    let mut last = Vec::new();
    for (at, step) in spec.steps.iter().enumerate() {
        let mut below = std::mem::take(&mut dependents[at]);
        if below.is_empty() {
            below.push(END);
            last.push(ord(at));
        }
        let needs = step.needs.iter().map(|n| ord(*n as usize)).collect();
        rows.push(row(step, ord(at), needs, below, origin));
    }
    rows.push(NewStep {
        ord: END,
        id: String::new(),
        due: last.is_empty(),
        needs: last,
        dependents: Vec::new(),
        state: StepState::Blocked,
        plain: false,
        many: false,
        paced: false,
        job: None,
        later: Vec::new(),
        spec: "null".into(),
    });
    rows
}

/// One row.
pub(super) fn row(
    step: &StepSpec,
    at: i32,
    needs: Vec<i32>,
    dependents: Vec<i32>,
    origin: &Origin<'_>,
) -> NewStep {
    let plain = step.is_plain();
    let job = match &step.work {
        Work::Job(template) if step.for_each.is_none() => Some(template.job(origin)),
        _ => None,
    };
    let starts = needs.is_empty();
    NewStep {
        ord: at,
        id: step.id.clone(),
        state: if starts && plain { StepState::Released } else { StepState::Blocked },
        due: starts && !plain,
        needs,
        dependents,
        plain,
        many: step.for_each.is_some(),
        paced: step.max_parallel.is_some(),
        job,
        later: later(step),
        spec: stored(step, plain),
    }
}

/// Queues of the jobs that a step may get when the run is on its way.
fn later(step: &StepSpec) -> Vec<QueueName> {
    let items = match &step.work {
        Work::Job(template) if step.for_each.is_some() => Some(template),
        _ => None,
    };
    items.into_iter().chain(&step.compensate).map(|template| template.queue.clone()).collect()
}

/// What is kept of a step beside its job. The payload of a plain one is on its job alone.
fn stored(step: &StepSpec, plain: bool) -> String {
    let mut kept = step.clone();
    kept.needs = Vec::new();
    if plain && let Work::Job(template) = &mut kept.work {
        template.payload = serde_json::Value::Null;
    }
    serde_json::to_string(&kept).expect("a step is made of what JSON has")
}

/// Payloads over the inline limit go by reference; what has to be stored before the rows.
pub(super) fn large(rows: &mut [NewStep]) -> Vec<(BlobId, Bytes)> {
    let jobs = rows.iter_mut().filter_map(|row| row.job.as_mut());
    jobs.filter_map(|job| {
        let Value::Inline(bytes) = &job.payload else { return None };
        if bytes.len() <= INLINE_BYTES_MAX {
            return None;
        }
        let stored = (BlobId::generate(), bytes.clone());
        job.payload = Value::Blob(stored.0);
        Some(stored)
    })
    .collect()
}

fn ord(at: usize) -> i32 {
    i32::try_from(at).expect("steps are bounded far below 2^31")
}

impl JobTemplate {
    /// A job of it, with the payload as it is written.
    pub(in crate::lifecycle) fn job(&self, origin: &Origin<'_>) -> NewJob {
        NewJob {
            id: JobId::generate(),
            namespace: origin.namespace.clone(),
            queue: self.queue.clone(),
            kind: self.kind.clone(),
            priority: self.priority,
            payload: Value::Inline(Bytes::from(self.payload.to_string())),
            run_at: None,
            delay: None,
            expires_at: None,
            ttl: None,
            spec: self.spec.clone(),
            unique: None,
            shaping: None,
            tags: self.tags.clone(),
            meta: self.meta.as_ref().map(|meta| Bytes::from(meta.to_string())),
            request_id: origin.request_id.map(str::to_owned),
            traceparent: origin.traceparent.map(str::to_owned),
        }
    }

    /// When a job released at `now` may start, and when it expires.
    pub(super) fn times(&self, now: Timestamp) -> (Timestamp, Option<Timestamp>) {
        let run_at = self.delay.map_or(now, |delay| now.plus(delay.0));
        (run_at, self.ttl.map(|ttl| now.plus(ttl.0)))
    }
}
