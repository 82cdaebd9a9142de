//! Steps that wait: for a signal, for people, for a time, for another run.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use crate::ledger::runs::Step;
pub use crate::ledger::runs::{ChildSeen, Given};
use crate::model::id::WorkflowId;
use crate::model::job::JobError;
use crate::model::time::Timestamp;
use crate::model::workflow::{
    ApprovalSpec, StepSpec, Work, WorkflowSpec, WorkflowState, code, permanent,
};

/// A run to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// By which step.
    pub ord: i32,
    /// For which item, of a `for_each`.
    pub item: Option<u32>,
    /// Under which id: always the same for one start of the step, so that it is started once.
    pub id: WorkflowId,
    /// The stored definition that `spec` is.
    pub definition: Option<(String, u32)>,
    /// What.
    pub spec: Box<WorkflowSpec>,
    /// What it gets.
    pub input: Json,
}

/// The run that a step starts, if it does at all: the start of the step decides over its id. A version 7 UUID, so
/// that it sorts by that time among the others.
pub fn child_id(run: WorkflowId, step: &Step, item: Option<u32>) -> WorkflowId {
    let started = step.started_at.unwrap_or(Timestamp::from_micros(0));
    let mut hash = Sha256::new();
    hash.update(run.as_bytes());
    hash.update(step.ord.to_be_bytes());
    hash.update(started.micros().to_be_bytes());
    if let Some(item) = item {
        hash.update(item.to_be_bytes());
    }
    let random: [u8; 10] = hash.finalize()[..10].try_into().expect("the hash is longer");
    let millis = u64::try_from(started.micros() / 1_000).unwrap_or_default();
    WorkflowId::from_uuid(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

/// What a look at a waiting step shows.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    /// It waits on.
    NotYet,
    /// Its child is still to be started.
    Start,
    /// It has what it waited for.
    Done {
        /// Its output.
        output: Option<Bytes>,
        /// What it used up.
        taken: Vec<u64>,
    },
    /// It will not get it.
    Failed {
        /// Why.
        error: JobError,
        /// What it used up.
        taken: Vec<u64>,
    },
}

pub(super) fn look(
    run: WorkflowId,
    step: &Step,
    spec: &StepSpec,
    now: Timestamp,
    given: &[&Given],
    children: &[ChildSeen],
) -> Seen {
    let over = step.wake_at.is_some_and(|at| at <= now);
    let timed_out = |what: &str| match over {
        true => Seen::Failed {
            error: permanent(code::WAIT_TIMED_OUT, format!("{what} did not come in time")),
            taken: Vec::new(),
        },
        false => Seen::NotYet,
    };
    match &spec.work {
        Work::Timer(_) if over => Seen::Done { output: None, taken: Vec::new() },
        Work::Timer(_) | Work::Job(_) => Seen::NotYet,
        Work::Signal { name, .. } => {
            match given.iter().find(|g| g.approved.is_none() && g.name == *name) {
                Some(signal) => Seen::Done { output: signal.body.clone(), taken: vec![signal.seq] },
                None => timed_out(&format!("the signal {name:?}")),
            }
        }
        Work::Approval(approval) => match votes(step, approval, given) {
            Seen::NotYet => timed_out("the approval"),
            decided => decided,
        },
        Work::Child(_) => match children.iter().find(|child| child.id == child_id(run, step, None))
        {
            // One of an earlier start that somebody has retried: its end makes the step due again.
            None if children.iter().any(|child| !child.state.is_terminal()) => Seen::NotYet,
            None => Seen::Start,
            Some(child) if !child.state.is_terminal() => Seen::NotYet,
            Some(child) if child.state == WorkflowState::Succeeded => {
                Seen::Done { output: child.output.clone(), taken: Vec::new() }
            }
            Some(child) => {
                let why = child.error.as_ref().map_or("", |error| error.message.as_str());
                let text =
                    format!("the workflow {} ended as {}: {why}", child.id, child.state.as_str());
                Seen::Failed { error: permanent(code::CHILD_FAILED, text), taken: Vec::new() }
            }
        },
    }
}

/// One no decides; else so many different people with one of the roles. The latest vote of each counts.
fn votes(step: &Step, approval: &ApprovalSpec, given: &[&Given]) -> Seen {
    let counts = |vote: &&Given| {
        vote.approved.is_some()
            && vote.name == step.id
            // Those of before a retry were about another start.
            && step.started_at.is_none_or(|started| vote.at >= started)
            && (approval.roles.is_empty() || approval.names(vote.role.as_deref(), &vote.by))
    };
    let mut latest: HashMap<&str, &Given> = HashMap::new();
    for vote in given.iter().copied().filter(counts) {
        latest.insert(&vote.by, vote);
    }
    let mut votes: Vec<&Given> = latest.into_values().collect();
    votes.sort_by_key(|vote| vote.seq);
    let taken: Vec<u64> = votes.iter().map(|vote| vote.seq).collect();
    if let Some(no) = votes.iter().find(|vote| vote.approved == Some(false)) {
        let why = no.reason.as_deref().unwrap_or("no reason given");
        let text = format!("{} rejected it: {why}", no.by);
        return Seen::Failed { error: permanent(code::APPROVAL_REJECTED, text), taken };
    }
    if votes.len() < approval.required as usize {
        return Seen::NotYet;
    }
    let people: Vec<_> = votes
        .iter()
        .map(|vote| json!({"by": vote.by, "at": vote.at, "reason": vote.reason}))
        .collect();
    let output = Bytes::from(json!({ "approvals": people }).to_string());
    Seen::Done { output: Some(output), taken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::runs::Items;
    use crate::model::time::Span;
    use crate::model::workflow::ChildSpec;
    use crate::model::workflow::{StepFailure, StepState, TimerSpec};

    const RUN: WorkflowId = WorkflowId::from_uuid(uuid::Uuid::nil());

    fn step() -> Step {
        Step {
            ord: 0,
            id: "ok".into(),
            state: StepState::Waiting,
            due: 1,
            wake_at: None,
            needs: vec![],
            dependents: vec![-1],
            needs_left: 0,
            plain: false,
            many: false,
            items: Items::default(),
            job_id: None,
            spec: String::new(),
            list: None,
            output: None,
            error: None,
            started_at: None,
            finished_at: None,
        }
    }

    fn spec(work: Work) -> StepSpec {
        StepSpec {
            id: "ok".into(),
            needs: vec![],
            condition: None,
            for_each: None,
            max_parallel: None,
            on_failure: StepFailure::Fail,
            compensate: None,
            work,
        }
    }

    fn vote(seq: u64, by: &str, role: &str, approved: bool) -> Given {
        Given {
            seq,
            at: Timestamp::from_millis(1_000),
            name: "ok".into(),
            by: by.into(),
            role: Some(role.into()),
            approved: Some(approved),
            reason: None,
            body: None,
        }
    }

    fn refs(given: &[Given]) -> Vec<&Given> {
        given.iter().collect()
    }

    fn approval(required: u32, roles: &[&str]) -> StepSpec {
        let roles = roles.iter().map(|r| (*r).to_owned()).collect();
        spec(Work::Approval(ApprovalSpec { required, roles, expires: None, message: None }))
    }

    #[test]
    fn an_approval_needs_different_people_with_the_role() {
        let two = approval(2, &["admin", "bob"]);
        let now = Timestamp::from_millis(5_000);
        let ada = vote(1, "ada", "admin", true);
        let twice = [ada.clone(), vote(2, "ada", "admin", true), vote(3, "eve", "viewer", true)];
        assert_eq!(look(RUN, &step(), &two, now, &refs(&twice), &[]), Seen::NotYet);
        let enough = [ada.clone(), vote(4, "bob", "viewer", true)];
        let Seen::Done { output, taken } = look(RUN, &step(), &two, now, &refs(&enough), &[])
        else {
            panic!()
        };
        assert_eq!(taken, [1, 4]);
        assert!(std::str::from_utf8(&output.unwrap()).unwrap().contains("\"ada\""));
        let no = [ada, vote(5, "bob", "viewer", false)];
        let Seen::Failed { error, .. } = look(RUN, &step(), &two, now, &refs(&no), &[]) else {
            panic!()
        };
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("approval_rejected", "bob rejected it: no reason given")
        );
    }

    #[test]
    fn waits_end_by_their_time() {
        let now = Timestamp::from_millis(5_000);
        let mut late = step();
        late.wake_at = Some(Timestamp::from_millis(4_999));
        let signal = spec(Work::Signal {
            name: "go".into(),
            timeout: Some(Span(std::time::Duration::from_secs(1))),
        });
        let Seen::Failed { error, .. } = look(RUN, &late, &signal, now, &[], &[]) else { panic!() };
        assert_eq!(error.message, "the signal \"go\" did not come in time");
        let came = Given {
            name: "go".into(),
            approved: None,
            body: Some(Bytes::from("7")),
            ..vote(9, "ada", "x", true)
        };
        let done = Seen::Done { output: Some(Bytes::from("7")), taken: vec![9] };
        assert_eq!(look(RUN, &late, &signal, now, &[&came], &[]), done);
        let timer = spec(Work::Timer(TimerSpec::For(Span(std::time::Duration::from_secs(1)))));
        assert_eq!(
            look(RUN, &late, &timer, now, &[], &[]),
            Seen::Done { output: None, taken: vec![] }
        );
        assert_eq!(look(RUN, &step(), &timer, now, &[], &[]), Seen::NotYet);
    }

    #[test]
    fn a_child_is_started_once_and_its_end_is_the_steps() {
        let now = Timestamp::from_millis(5_000);
        let child = ChildSpec {
            of: crate::model::workflow::ChildOf::Definition { name: "d".into(), version: None },
            input: serde_json::Value::Null,
        };
        let spec = spec(Work::Child(child));
        assert_eq!(look(RUN, &step(), &spec, now, &[], &[]), Seen::Start);
        let mut run = ChildSeen {
            id: child_id(RUN, &step(), None),
            state: WorkflowState::Running,
            output: None,
            error: None,
        };
        assert_eq!(look(RUN, &step(), &spec, now, &[], &[run.clone()]), Seen::NotYet);
        run.state = WorkflowState::Compensated;
        run.error = Some(permanent("step_failed", "a broke"));
        // A step that starts again, after a retry, has another child.
        let again = Step { started_at: Some(now), ..step() };
        assert_eq!(look(RUN, &again, &spec, now, &[], &[run.clone()]), Seen::Start);
        let Seen::Failed { error, .. } = look(RUN, &step(), &spec, now, &[], &[run]) else {
            panic!()
        };
        assert!(error.message.ends_with("ended as compensated: a broke"), "{}", error.message);
    }
}
