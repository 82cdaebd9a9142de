//! Steps that are no jobs: they wait, or run another workflow.

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use windlass_shared::expr::template;
use windlass_shared::model::time::{Span, Timestamp};
use windlass_shared::model::workflow::{ApprovalSpec, ChildOf, ChildSpec, TimerSpec, Work, limits};

use super::shape::WorkflowRequest;
use super::step::{ID_RULE, is_id};
use super::{Desk, Unnamed, check_wait};
use crate::extract;
use crate::requests::{Faults, Text, some_bounded};

const TEXT_BYTES_MAX: usize = 1_000;

/// Whether a kind is not one of jobs: `wait.*` and `workflow.*` are the workflow's own.
pub(super) fn is_reserved(kind: &str) -> bool {
    kind.starts_with("wait.") || kind.starts_with("workflow.")
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Signal<'a> {
    /// Default: the step's id.
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(default)]
    timeout: Option<Span>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Timer<'a> {
    #[serde(borrow, default, rename = "for")]
    length: Option<&'a RawValue>,
    #[serde(borrow, default)]
    until: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Approval<'a> {
    #[serde(default)]
    required: Option<u32>,
    #[serde(borrow, default, deserialize_with = "some_bounded::<_, _, 100>")]
    roles: Option<Vec<Text<'a>>>,
    #[serde(default)]
    expires: Option<Span>,
    #[serde(borrow, default)]
    message: Option<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Child<'a> {
    #[serde(borrow, default)]
    definition: Option<Text<'a>>,
    #[serde(default)]
    version: Option<u32>,
    #[serde(borrow, default)]
    workflow: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

type Understood = Option<(Work, Vec<String>)>;

impl Desk<'_> {
    /// What a step of a reserved kind does, and the steps that it reads. `None`: a fault was noted.
    pub(super) fn wait(
        &mut self,
        kind: &str,
        payload: Option<&RawValue>,
        (id, many): (&str, bool),
        place: &str,
        depth: u16,
    ) -> Understood {
        match kind {
            "wait.signal" => {
                let signal = self.read(payload, place)?;
                self.signal(&signal, id)
            }
            "wait.timer" => {
                let timer = self.read(payload, place)?;
                self.timer(&timer)
            }
            "wait.approval" => {
                let approval = self.read(payload, place)?;
                self.approval(&approval)
            }
            "workflow.run" => {
                let child = self.read(payload, place)?;
                self.child(&child, (id, many), place, depth)
            }
            _ => {
                let text = "is no kind of step; the kinds that begin with \"wait.\" or \"workflow.\" are \
                            wait.signal, wait.timer, wait.approval and workflow.run";
                self.faults.wrong("/kind", text);
                None
            }
        }
    }

    fn read<'p, T: Deserialize<'p> + Default>(
        &mut self,
        payload: Option<&'p RawValue>,
        place: &str,
    ) -> Option<T> {
        let Some(raw) = payload else { return Some(T::default()) };
        match extract::parse(raw.get(), &format!("{place}/payload")) {
            Ok(value) => Some(value),
            Err(error) => {
                self.faults.absorb(&error);
                None
            }
        }
    }

    fn signal(&mut self, signal: &Signal<'_>, id: &str) -> Understood {
        let name = signal.name.as_ref().map_or(id, Text::as_str).to_owned();
        if signal.name.is_some() && !is_id(&name) {
            self.faults.wrong("/payload/name", ID_RULE);
        }
        let timeout = check_wait(signal.timeout, "/payload/timeout", &mut self.faults);
        Some((Work::Signal { name, timeout }, Vec::new()))
    }

    fn timer(&mut self, timer: &Timer<'_>) -> Understood {
        let (raw, pointer) = match (timer.length, timer.until) {
            (Some(raw), None) => (raw, "/payload/for"),
            (None, Some(raw)) => (raw, "/payload/until"),
            _ => {
                self.faults.wrong("/payload", "must hold one of for and until");
                return None;
            }
        };
        if let Ok(text) = serde_json::from_str::<String>(raw.get())
            && template::is_template(&text)
        {
            let value = Json::String(text.clone());
            let names = self.exprs.template(&value, pointer, false, &mut self.faults)?;
            return Some((Work::Timer(TimerSpec::Template(text)), names));
        }
        let spec = if timer.length.is_some() {
            let span: Span = self.value(raw, pointer, "must be a duration or a template")?;
            TimerSpec::For(check_wait(Some(span), pointer, &mut self.faults)?)
        } else {
            let at: Timestamp =
                self.value(raw, pointer, "must be an RFC 3339 time or a template")?;
            let last = self.context.now.plus(limits::WAIT_MAX);
            if at < Timestamp::default() || at > last {
                self.faults.wrong(pointer, "must be after 1970 and at most 366 days from now");
            }
            TimerSpec::Until(at)
        };
        Some((Work::Timer(spec), Vec::new()))
    }

    fn value<T: serde::de::DeserializeOwned>(
        &mut self,
        raw: &RawValue,
        pointer: &str,
        rule: &str,
    ) -> Option<T> {
        serde_json::from_str(raw.get()).map_err(|_| self.faults.wrong(pointer, rule)).ok()
    }

    fn approval(&mut self, approval: &Approval<'_>) -> Understood {
        let faults = &mut self.faults;
        let required = approval.required.unwrap_or(1);
        if !(1..=limits::APPROVERS_MAX).contains(&required) {
            faults.wrong("/payload/required", "must be from 1 to 100");
        }
        let roles = approval.roles.as_deref().unwrap_or_default();
        for (at, role) in roles.iter().enumerate() {
            faults.indexed(&format!("/payload/roles/{at}"), role.as_str(), 128);
        }
        check_message(approval.message.as_ref(), faults);
        let expires = check_wait(approval.expires, "/payload/expires", faults);
        let spec = ApprovalSpec {
            required,
            roles: roles.iter().map(|role| role.as_str().to_owned()).collect(),
            expires,
            message: approval.message.as_ref().map(|text| text.as_str().to_owned()),
        };
        Some((Work::Approval(spec), Vec::new()))
    }

    fn child(
        &mut self,
        child: &Child<'_>,
        (id, many): (&str, bool),
        place: &str,
        depth: u16,
    ) -> Understood {
        let (input, names) = match child.input {
            Some(raw) => self.template(raw, "/payload/input", many)?,
            None => (Json::Null, Vec::new()),
        };
        let of = match (&child.definition, child.workflow) {
            (Some(name), None) => {
                if !is_id(name.as_str()) {
                    self.faults.wrong("/payload/definition", ID_RULE);
                }
                if child.version == Some(0) {
                    self.faults.wrong("/payload/version", "must be at least 1");
                }
                ChildOf::Definition { name: name.as_str().to_owned(), version: child.version }
            }
            (None, Some(inner)) => {
                if child.version.is_some() {
                    self.faults.wrong("/payload/version", "is only for a stored definition");
                }
                self.inline(inner, id, place, depth)?
            }
            _ => {
                self.faults.wrong("/payload", "must hold one of definition and workflow");
                return None;
            }
        };
        Some((Work::Child(ChildSpec { of, input }), names))
    }

    fn inline(&mut self, raw: &RawValue, id: &str, place: &str, depth: u16) -> Option<ChildOf> {
        if depth >= limits::DEPTH_MAX {
            let text = format!("workflows may run workflows at most {} deep", limits::DEPTH_MAX);
            self.faults.wrong("/payload/workflow", text);
            return None;
        }
        let base = format!("{place}/payload/workflow");
        let request: WorkflowRequest<'_> = match extract::parse(raw.get(), &base) {
            Ok(request) => request,
            Err(error) => {
                self.faults.absorb(&error);
                return None;
            }
        };
        if request.input.is_some() {
            let text = "is given beside the workflow, as /payload/input";
            self.faults.wrong("/payload/workflow/input", text);
        }
        let checked = self.document(request, &base, depth + 1, Unnamed::Use(id))?;
        Some(ChildOf::Inline(Box::new(checked.spec)))
    }
}

fn check_message(message: Option<&Text<'_>>, faults: &mut Faults) {
    if let Some(message) = message {
        faults.indexed("/payload/message", message.as_str(), TEXT_BYTES_MAX);
    }
}
