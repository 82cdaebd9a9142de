//! A step's job, checked to be made later.

use serde_json::Value as Json;
use serde_json::value::RawValue;
use windlass_shared::limits;
use windlass_shared::model::job::JobSpec;
use windlass_shared::model::time::Span;
use windlass_shared::model::workflow::JobTemplate;

use super::{Desk, check_written, text};
use crate::requests::Faults;
use crate::requests::job::{JobRequest, check_meta, check_tags, checked_value};

impl Desk<'_> {
    /// A job that is made at its step's release; with the steps that its payload reads. `None`: a fault was noted.
    pub(super) fn job(
        &mut self,
        request: JobRequest<'_>,
        in_item: bool,
    ) -> Option<(JobTemplate, Vec<String>)> {
        let before = self.faults.len();
        let kind = match &request.kind {
            Some(kind) => self.names.kind(kind.as_str(), &mut self.faults),
            None => {
                self.faults.wrong("/kind", "is required");
                None
            }
        };
        refuse_absolute(&request, &mut self.faults);
        let queue = match &request.queue {
            Some(queue) => self.names.queue(queue.as_str(), &mut self.faults)?,
            None => Default::default(),
        };
        let settings = self.context.queues.get(&queue).map(|known| &known.settings);
        let settings = settings.cloned().unwrap_or_default();
        let (payload, reads, is_template) = match request.payload {
            Some(raw) => self.payload(raw, "/payload", in_item)?,
            None => (Json::Null, Vec::new(), false),
        };
        let meta = request.meta.and_then(|meta| check_meta(meta, &mut self.faults));
        let tags = check_tags(request.tags.as_deref(), &mut self.faults);
        let delay = time(request.delay, "/delay", &mut self.faults);
        let ttl = time(request.ttl, "/ttl", &mut self.faults);
        let priority = request.priority.or(settings.default_priority).unwrap_or_default();
        let spec: JobSpec = request.spec(&settings, &mut self.faults);
        if self.faults.len() > before {
            return None;
        }
        let template = JobTemplate {
            queue,
            kind: kind?,
            priority,
            payload,
            is_template,
            delay,
            ttl,
            spec,
            tags,
            meta: meta.and_then(|meta| serde_json::from_slice(&meta).ok()),
        };
        Some((template, reads))
    }

    /// A value whose strings may be templates, the steps that it reads, and whether it is one at all.
    pub(super) fn payload(
        &mut self,
        raw: &RawValue,
        pointer: &str,
        in_item: bool,
    ) -> Option<(Json, Vec<String>, bool)> {
        let bytes = checked_value(raw.get(), pointer, &mut self.faults)?;
        let value: Json = match serde_json::from_slice(&bytes) {
            Ok(value) => value,
            Err(error) => {
                self.faults.wrong(pointer, error.to_string());
                return None;
            }
        };
        check_written(&value, bytes.len(), pointer, &mut self.faults);
        let is_template = windlass_shared::expr::template::is_template(raw.get());
        let reads = match is_template {
            true => self.exprs.template(&value, pointer, in_item, &mut self.faults)?,
            false => Vec::new(),
        };
        Some((value, reads, is_template))
    }

    /// As [`Self::payload`], where it does not matter whether it is one.
    pub(super) fn template(
        &mut self,
        raw: &RawValue,
        pointer: &str,
        in_item: bool,
    ) -> Option<(Json, Vec<String>)> {
        let (value, reads, _) = self.payload(raw, pointer, in_item)?;
        Some((value, reads))
    }

    /// A job that undoes a step.
    pub(super) fn compensation(
        &mut self,
        request: JobRequest<'_>,
        place: &str,
    ) -> Option<(JobTemplate, Vec<String>)> {
        let before = self.faults.move_to(format!("{place}/compensate"));
        let kind = text(request.kind.as_ref());
        let found = if super::waits::is_reserved(kind) {
            self.faults.wrong("/kind", "must be the kind of a job");
            None
        } else {
            self.job(request, false)
        };
        self.faults.move_to(before);
        found
    }
}

/// What a job of a run cannot have.
fn refuse_absolute(request: &JobRequest<'_>, faults: &mut Faults) {
    if request.unique.is_some() {
        refuse_unique(faults);
    }
    request.shapings().refuse(NO_SHAPING, faults);
    if request.run_at.is_some() {
        refuse_run_at(faults);
    }
    if request.expires_at.is_some() {
        refuse_expires_at(faults);
    }
}

/// Why a job of a run is neither debounced, throttled nor collected.
pub(super) const NO_SHAPING: &str =
    "is not for a step: its run releases it, and waits for it; submit the run itself less often";

pub(super) fn refuse_unique(faults: &mut Faults) {
    faults.wrong("/unique", "a step has no unique key: a run that waits for one could never end");
}
pub(super) fn refuse_run_at(faults: &mut Faults) {
    faults.wrong("/run_at", "a step has no run_at: give a delay from its release, or a wait.timer");
}
pub(super) fn refuse_expires_at(faults: &mut Faults) {
    faults.wrong("/expires_at", "a step has no expires_at: give a ttl from its release");
}

/// A time from the release; none at all is none.
fn time(span: Option<Span>, pointer: &str, faults: &mut Faults) -> Option<Span> {
    if span.is_some_and(|span| span.0 > limits::HORIZON_MAX) {
        faults.wrong(pointer, "must be at most 10 years");
    }
    span.filter(|span| !span.0.is_zero())
}
