//! Workflows as submitted: the wire document ([`shape`]) becomes a checked [`WorkflowSpec`].
//!
//! Every fault is noted with a JSON pointer. Linear in the document; nothing here recurses but the runs that are
//! written inside of runs, which nest at most [`limits::DEPTH_MAX`] deep.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;
use windlass_shared::model::name::QueueName;
use windlass_shared::model::time::{Span, Timestamp};
use windlass_shared::model::workflow::graph::Graph;
use windlass_shared::model::workflow::{JobTemplate, StepSpec, Work, WorkflowSpec, limits};

use super::job::{JobRequest, Names, check_tags};
use super::{Faults, Text};
use crate::error::{ApiError, Code};
use crate::queue_cache::Known;

pub mod added;
mod edges;
pub mod estimate;
mod exprs;
pub mod filter;
mod job;
pub mod optimize;
mod queues;
pub mod shape;
pub mod step;
mod waits;

use exprs::{Exprs, Read};
use shape::WorkflowRequest;

pub use queues::queue_names;

/// Longest name of a run, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What checks look at beside the document.
pub struct Context {
    /// What is known of every queue that the document names.
    pub queues: HashMap<QueueName, Arc<Known>>,
    /// Now.
    pub now: Timestamp,
}

/// A document without a fault.
#[derive(Debug)]
pub struct Checked {
    /// As it is stored.
    pub spec: WorkflowSpec,
    /// Its edges.
    pub graph: Graph,
    /// Runs inside of runs written in place; 1 without.
    pub depth: u16,
    /// Which step reads which in its expressions.
    pub reads: Vec<(u32, u32)>,
}

/// How a document without a name is called.
#[derive(Debug, Clone, Copy)]
pub enum Unnamed<'a> {
    /// It must have one.
    Refuse,
    /// By this.
    Use(&'a str),
}

/// What is common to a document and to those inside of it.
struct Desk<'a> {
    context: &'a Context,
    faults: Faults,
    names: Names,
    exprs: Exprs,
    deepest: u16,
}

/// Checks a document that was read.
///
/// # Errors
/// 400, 413 or 422 with everything that is wrong, by pointer.
pub fn check_request(
    request: WorkflowRequest<'_>,
    unnamed: Unnamed<'_>,
    context: &Context,
) -> Result<Checked, ApiError> {
    check_request_below(request, "", unnamed, context)
}

/// As [`check_request`], of a document at `base` in the body.
///
/// # Errors
/// As [`check_request`].
pub fn check_request_below(
    request: WorkflowRequest<'_>,
    base: &str,
    unnamed: Unnamed<'_>,
    context: &Context,
) -> Result<Checked, ApiError> {
    let mut desk = Desk::new(context);
    let checked = desk.document(request, base, 1, unnamed);
    let depth = desk.deepest;
    desk.faults.finish()?;
    let mut checked = checked.expect("no fault was noted, so the document was understood");
    checked.depth = depth;
    Ok(checked)
}

/// Checks a job that is made later by itself; its faults are noted where `faults` stands. Its expressions may read no
/// steps.
pub fn check_template(
    request: JobRequest<'_>,
    context: &Context,
    faults: &mut Faults,
) -> Option<JobTemplate> {
    let mut desk = Desk::new(context);
    std::mem::swap(&mut desk.faults, faults);
    let found = desk.job(request, false);
    std::mem::swap(&mut desk.faults, faults);
    let (template, reads) = found?;
    if reads.is_empty() {
        return Some(template);
    }
    faults.wrong("/payload", "reads steps, of which there are none");
    None
}

/// Checks the templates in an input: few enough, and each can be read. `None`: a fault was noted.
pub fn check_expressions(input: &Json, faults: &mut Faults) -> Option<()> {
    Exprs::default().template(input, "/input", false, faults).map(drop)
}

/// How many jobs of a run may run at once as it starts, by queue.
pub fn starting(spec: &WorkflowSpec) -> HashMap<&QueueName, u64> {
    let mut count = HashMap::new();
    for step in spec.steps.iter().filter(|step| step.needs.is_empty()) {
        if let Work::Job(job) = &step.work {
            *count.entry(&job.queue).or_default() += 1;
        }
    }
    count
}

impl<'a> Desk<'a> {
    fn new(context: &'a Context) -> Self {
        Self {
            context,
            faults: Faults::default(),
            names: Names::default(),
            exprs: Exprs::default(),
            deepest: 1,
        }
    }

    /// One document, at `base` in the body.
    fn document(
        &mut self,
        request: WorkflowRequest<'_>,
        base: &str,
        depth: u16,
        unnamed: Unnamed<'_>,
    ) -> Option<Checked> {
        self.deepest = self.deepest.max(depth);
        let before = self.faults.move_to(base);
        let found = self.document_here(request, base, depth, unnamed);
        self.faults.move_to(before);
        found
    }

    fn document_here(
        &mut self,
        request: WorkflowRequest<'_>,
        base: &str,
        depth: u16,
        unnamed: Unnamed<'_>,
    ) -> Option<Checked> {
        if request.definition.is_some() || request.version.is_some() {
            let pointer = if request.definition.is_some() { "/definition" } else { "/version" };
            self.faults.wrong(pointer, "cannot be given together with steps");
        }
        let name = self.name(request.name.as_ref(), unnamed);
        let deadline = check_deadline(request.deadline, &mut self.faults);
        let tags = check_tags(request.tags.as_deref(), &mut self.faults);
        let output = request.output.and_then(|raw| self.template(raw, "/output", false));
        let steps = request.steps.unwrap_or_default();
        if steps.is_empty() {
            self.faults.wrong("/steps", "must hold at least one step");
            return None;
        }
        let ids: Vec<String> = steps.iter().map(|s| text(s.id.as_ref()).to_owned()).collect();
        let needs: Vec<Vec<String>> = steps.iter().map(shape::StepRequest::needs).collect();
        let (specs, mut reads) = self.steps(steps, base, depth);
        let graph = edges::check(&ids, &needs, &mut self.faults)?;
        let output = output.map(|(output, names)| {
            reads.push(Read::at_end("/output", names));
            output
        });
        let (found, missing) = edges::check_reads(&ids, &graph, &reads, &mut self.faults);
        edges::refuse_missing(&missing, &mut self.faults);
        let mut specs: Vec<StepSpec> = specs.into_iter().flatten().collect();
        if specs.len() < ids.len() {
            return None;
        }
        for (at, spec) in (0..).zip(&mut specs) {
            spec.needs = graph.needs(at).to_vec();
        }
        let spec = WorkflowSpec {
            name: name?,
            deadline,
            on_failure: request.on_failure.unwrap_or_default(),
            output,
            tags,
            steps: specs,
        };
        Some(Checked { spec, graph, depth, reads: found })
    }

    /// The steps one by one; one that cannot be understood is `None`.
    fn steps(
        &mut self,
        steps: Vec<shape::StepRequest<'_>>,
        base: &str,
        depth: u16,
    ) -> (Vec<Option<StepSpec>>, Vec<Read>) {
        let mut specs = Vec::with_capacity(steps.len());
        let mut reads = Vec::new();
        for (at, step) in (0..).zip(steps) {
            if self.faults.is_full() {
                break;
            }
            let place = format!("{base}/steps/{at}");
            let before = self.faults.move_to(place.as_str());
            specs.push(self.step(step, at, &place, depth, &mut reads));
            self.faults.move_to(before);
        }
        (specs, reads)
    }

    fn name(&mut self, name: Option<&Text<'_>>, unnamed: Unnamed<'_>) -> Option<String> {
        match (name, unnamed) {
            (Some(name), _) => {
                self.faults.indexed("/name", name.as_str(), NAME_BYTES_MAX);
                Some(name.as_str().to_owned())
            }
            (None, Unnamed::Use(name)) => Some(name.to_owned()),
            (None, Unnamed::Refuse) => {
                self.faults.wrong("/name", "is required");
                None
            }
        }
    }
}

/// Of a run, or of a call that starts one.
pub fn check_deadline(deadline: Option<Span>, faults: &mut Faults) -> Option<Span> {
    check_wait(deadline, "/deadline", faults)
}

/// More than nothing, and at most a year.
fn check_wait(span: Option<Span>, pointer: &str, faults: &mut Faults) -> Option<Span> {
    if span.is_some_and(|span| span.0.is_zero() || span.0 > limits::WAIT_MAX) {
        faults.wrong(pointer, "must be longer than 0 and at most 366 days");
    }
    span
}

/// The input of a run: any JSON of bounded size and depth.
///
/// # Errors
/// 400, 413 or 422.
pub fn check_input(raw: Option<&serde_json::value::RawValue>) -> Result<Json, ApiError> {
    let mut faults = Faults::default();
    let value = check_input_below(raw, &mut faults);
    faults.finish()?;
    Ok(value.expect("no fault was noted, so the value was read"))
}

/// As [`check_input`]; its faults are noted where `faults` stands. `None`: there are some.
pub fn check_input_below(
    raw: Option<&serde_json::value::RawValue>,
    faults: &mut Faults,
) -> Option<Json> {
    let Some(raw) = raw else { return Some(Json::Null) };
    let noted = faults.len();
    let bytes = super::job::checked_value(raw.get(), "/input", faults)?;
    match serde_json::from_slice::<Json>(&bytes) {
        Ok(value) => {
            check_written(&value, bytes.len(), "/input", faults);
            (faults.len() == noted).then_some(value)
        }
        Err(error) => {
            faults.wrong("/input", error.to_string());
            None
        }
    }
}

/// A number may be longer where it is written again (`1e15` as `1000000000000000.0`), five times at most.
fn check_written(value: &Json, read: usize, pointer: &str, faults: &mut Faults) {
    use windlass_shared::limits::VALUE_BYTES_MAX;
    if read > VALUE_BYTES_MAX / 5 && value.to_string().len() > VALUE_BYTES_MAX {
        faults.refused(
            Code::TooLarge,
            pointer,
            "is larger than 1 MiB with its numbers written out",
        );
    }
}

fn text<'a>(text: Option<&'a Text<'_>>) -> &'a str {
    text.map_or("", Text::as_str)
}

#[cfg(test)]
mod tests;
