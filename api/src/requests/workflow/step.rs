//! One step.

use windlass_shared::model::workflow::{StepSpec, Work, limits};

use super::exprs::Read;
use super::shape::StepRequest;
use super::{Desk, job, text, waits};
use crate::requests::Faults;

/// Longest id of a step.
const ID_BYTES_MAX: usize = 128;

/// Whether a text can be the id of a step, or the name of a definition.
pub fn is_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The rule behind [`is_id`].
pub const ID_RULE: &str = "must be 1 to 128 of the characters A-Z a-z 0-9 . _ -";

/// The id of a step, or another name of that form, in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdText(pub String);

impl std::str::FromStr for IdText {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        if is_id(text) { Ok(Self(text.to_owned())) } else { Err(ID_RULE) }
    }
}

impl Desk<'_> {
    /// The step at position `at`, which `place` points to; its needs are left out. What it reads is added to
    /// `reads`. `None`: a fault was noted.
    pub(super) fn step(
        &mut self,
        request: StepRequest<'_>,
        at: u32,
        place: &str,
        depth: u16,
        reads: &mut Vec<Read>,
    ) -> Option<StepSpec> {
        let before = self.faults.len();
        let id = check_id(&request, &mut self.faults);
        refuse_absolute(&request, &mut self.faults);
        let mut read = |part: &str, names: Vec<String>, after: bool| {
            if !names.is_empty() {
                let pointer = format!("/steps/{at}{part}");
                reads.push(Read { step: Some(at), pointer, names, after });
            }
        };
        let condition = request.condition.as_ref().and_then(|text| {
            let (expr, names) = self.exprs.whole(text.as_str(), "/if", &mut self.faults)?;
            read("/if", names, false);
            Some(expr)
        });
        let for_each = request.for_each.as_ref().and_then(|text| {
            let (expr, names) = self.exprs.whole(text.as_str(), "/for_each", &mut self.faults)?;
            read("/for_each", names, false);
            Some(expr)
        });
        let kind = text(request.kind.as_ref()).to_owned();
        let is_job = !waits::is_reserved(&kind);
        self.fields_that_fit(&request, &kind, is_job);
        let max_parallel = request.max_parallel;
        let on_failure = request.on_failure.unwrap_or_default();
        let many = request.for_each.is_some();
        let mut request = request;
        let compensate = request.compensate.take().filter(|_| is_job).and_then(|undo| {
            let (template, names) = self.compensation(*undo, place)?;
            read("/compensate/payload", names, true);
            Some(template)
        });
        let (work, names) = match is_job {
            true => self.job(request.into_job(), many).map(|(job, names)| (Work::Job(job), names)),
            false => self.wait(&kind, request.payload, (&id, many), place, depth),
        }?;
        read(
            if matches!(work, Work::Child(_)) { "/payload/input" } else { "/payload" },
            names,
            false,
        );
        let fine = self.faults.len() == before;
        fine.then_some(StepSpec {
            id,
            needs: Vec::new(),
            condition,
            for_each,
            max_parallel,
            on_failure,
            compensate,
            work,
        })
    }

    /// Notes fields that a step of this kind, or with these other fields, cannot have.
    fn fields_that_fit(&mut self, request: &StepRequest<'_>, kind: &str, is_job: bool) {
        let faults = &mut self.faults;
        match request.max_parallel {
            Some(_) if request.for_each.is_none() => {
                faults.wrong("/max_parallel", "is only for steps with for_each");
            }
            Some(n) if n == 0 || n as usize > limits::ITEMS_MAX => {
                faults.wrong("/max_parallel", "must be from 1 to 10000");
            }
            Some(_) | None => {}
        }
        if is_job {
            return;
        }
        if request.for_each.is_some() && kind != "workflow.run" {
            let text = format!("is only for jobs and workflow.run, not for {kind}");
            faults.wrong("/for_each", text);
        }
        if request.compensate.is_some() {
            let text = format!("only jobs can be undone, and {kind} is none");
            faults.wrong("/compensate", text);
        }
        for field in request.job_fields() {
            let text = format!("is only for steps that are jobs, not for {kind}");
            faults.wrong(&format!("/{field}"), text);
        }
    }
}

fn check_id(request: &StepRequest<'_>, faults: &mut Faults) -> String {
    match &request.id {
        Some(id) => {
            if !is_id(id.as_str()) {
                faults.wrong("/id", ID_RULE);
            }
            id.as_str().to_owned()
        }
        None => {
            faults.wrong("/id", "is required");
            String::new()
        }
    }
}

fn refuse_absolute(request: &StepRequest<'_>, faults: &mut Faults) {
    if request.unique.is_some() {
        job::refuse_unique(faults);
    }
    for (pointer, given) in [
        ("/debounce", request.debounce.is_some()),
        ("/throttle", request.throttle.is_some()),
        ("/collect", request.collect.is_some()),
    ] {
        if given {
            faults.wrong(pointer, job::NO_SHAPING);
        }
    }
    if request.run_at.is_some() {
        job::refuse_run_at(faults);
    }
    if request.expires_at.is_some() {
        job::refuse_expires_at(faults);
    }
}
