//! What a schedule submits.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use windlass_shared::lifecycle::schedule::check_templates;
use windlass_shared::model::name::QueueName;
use windlass_shared::model::schedule::ScheduledWork;
use windlass_shared::model::workflow::{ChildOf, ChildSpec};

use crate::error::ApiError;
use crate::extract;
use crate::requests::workflow::shape::WorkflowRequest;
use crate::requests::workflow::{self, Context, Unnamed, queue_names};
use crate::requests::{Faults, Text};

/// The queues that the work of a request names: what they default to is part of its check. What cannot be read is left
/// out: the check says what is wrong with it.
///
/// # Errors
/// 422 for too many.
pub fn queues(body: &str) -> Result<BTreeSet<QueueName>, ApiError> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow, default)]
        job: Option<Job<'a>>,
        #[serde(borrow, default)]
        workflow: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Job<'a> {
        #[serde(borrow, default)]
        queue: Option<Text<'a>>,
    }
    let Ok(body) = serde_json::from_str::<Body<'_>>(body) else { return Ok(BTreeSet::new()) };
    let mut names = match body.workflow {
        Some(raw) => queue_names(raw.get())?,
        None => BTreeSet::from([QueueName::default()]),
    };
    let queue = body.job.and_then(|job| job.queue);
    names.extend(queue.and_then(|queue| queue.as_str().parse::<QueueName>().ok()));
    Ok(names)
}

pub(super) fn check(
    job: Option<crate::requests::job::JobRequest<'_>>,
    run: Option<&RawValue>,
    context: &Context,
    faults: &mut Faults,
) -> Option<ScheduledWork> {
    match (job, run) {
        (None, None) => None,
        (Some(_), Some(_)) => {
            faults.wrong("/workflow", "cannot be given together with job");
            None
        }
        (Some(job), None) => check_job(job, context, faults),
        (None, Some(run)) => match check_run(run, context, faults) {
            Ok(run) => run,
            Err(error) => {
                faults.absorb(&error);
                None
            }
        },
    }
}

fn check_job(
    mut job: crate::requests::job::JobRequest<'_>,
    context: &Context,
    faults: &mut Faults,
) -> Option<ScheduledWork> {
    let before = faults.move_to("/job");
    if job.unique.take().is_some() {
        faults.wrong(
            "/unique",
            "is not for a schedule: `overlap` says what happens to the next fire",
        );
    }
    job.shapings().refuse("is not for a schedule: its due times say how often it submits", faults);
    (job.debounce, job.throttle, job.collect) = (None, None, None);
    if job.run_at.take().is_some() {
        faults.wrong(
            "/run_at",
            "is not for a schedule: its due times say when; `delay` counts from the fire",
        );
    }
    if job.expires_at.take().is_some() {
        faults.wrong("/expires_at", "is not for a schedule: give a `ttl` from the fire");
    }
    let template = workflow::check_template(job, context, faults);
    if let Some(template) = &template {
        check_filled(&template.payload, "/payload", context, faults);
    }
    faults.move_to(before);
    template.map(ScheduledWork::Job)
}

/// Every expression can be filled in: they see the fire alone.
fn check_filled(value: &Json, pointer: &str, context: &Context, faults: &mut Faults) {
    if let Err(why) = check_templates(value, context.now) {
        let text = format!("{why}; expressions see run.scheduled_at and run.schedule");
        faults.wrong(pointer, text);
    }
}

/// A run: of a stored definition, or written in place. Faults of the document are told as a whole.
fn check_run(
    raw: &RawValue,
    context: &Context,
    faults: &mut Faults,
) -> Result<Option<ScheduledWork>, ApiError> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        definition: Option<IgnoredAny>,
    }
    let names_one =
        serde_json::from_str::<Head>(raw.get()).is_ok_and(|head| head.definition.is_some());
    let request: WorkflowRequest<'_> = extract::parse(raw.get(), "/workflow")?;
    let before = faults.move_to("/workflow");
    let input = workflow::check_input_below(request.input, faults);
    let reads = input.as_ref().and_then(|input| workflow::check_expressions(input, faults));
    if let (Some(input), Some(())) = (&input, reads) {
        check_filled(input, "/input", context, faults);
    }
    let of = if names_one { definition(&request, faults) } else { None };
    faults.move_to(before);
    let of = match (names_one, of) {
        (true, None) => return Ok(None),
        (true, Some(of)) => of,
        (false, _) => {
            let request = WorkflowRequest { input: None, ..request };
            let checked = workflow::check_request_below(
                request,
                "/workflow",
                Unnamed::Use("scheduled"),
                context,
            )?;
            ChildOf::Inline(Box::new(checked.spec))
        }
    };
    Ok(input.map(|input| ScheduledWork::Workflow(ChildSpec { of, input })))
}

fn definition(request: &WorkflowRequest<'_>, faults: &mut Faults) -> Option<ChildOf> {
    let noted = faults.len();
    let name = request.definition.as_ref().map_or("", Text::as_str);
    if !workflow::step::is_id(name) {
        faults.wrong("/definition", workflow::step::ID_RULE);
    }
    if request.version == Some(0) {
        faults.wrong("/version", "must be at least 1");
    }
    for (pointer, is_given) in [
        ("/name", request.name.is_some()),
        ("/steps", request.steps.is_some()),
        ("/deadline", request.deadline.is_some()),
        ("/on_failure", request.on_failure.is_some()),
        ("/output", request.output.is_some()),
        ("/tags", request.tags.is_some()),
    ] {
        if is_given {
            faults.wrong(pointer, "is part of the definition and cannot be given beside it");
        }
    }
    let of = ChildOf::Definition { name: name.to_owned(), version: request.version };
    (faults.len() == noted).then_some(of)
}
