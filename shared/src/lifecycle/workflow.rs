//! The life of a run: what is read, decided, carried out, and done outside of the ledger after.

use futures::future::BoxFuture;
use serde_json::Value as Json;

use super::Lifecycle;
use crate::ledger::runs::{CreateOutcome, NewGiven, Run, RunChanged};
use crate::ledger::{Idempotency, LedgerError};
use crate::model::id::WorkflowId;
use crate::model::name::Namespace;
use crate::model::time::Span;
use crate::model::workflow::{StepSpec, WorkflowSpec};

pub mod build;
pub mod decide;
pub(crate) mod drive;
mod ending;
mod family;
mod grow;
mod pin;
mod read;
pub(super) mod release;
mod retry;
mod stop;
pub(super) mod submit;
pub mod waits;
mod wants;

/// A run as it is asked for.
#[derive(Debug, Clone)]
pub struct Order {
    /// Drawn by the submitter.
    pub id: WorkflowId,
    /// Whose.
    pub namespace: Namespace,
    /// What to run. Checked.
    pub spec: WorkflowSpec,
    /// The stored definition that `spec` is; `None`: it came with the request.
    pub definition: Option<(String, u32)>,
    /// What `input` is in expressions.
    pub input: Json,
    /// In place of the spec's.
    pub deadline: Option<Span>,
    /// Beside the spec's.
    pub tags: Vec<String>,
    /// The run that it repeats.
    pub rerun_of: Option<WorkflowId>,
    /// The request that made it.
    pub request_id: Option<String>,
    /// W3C trace context of that request.
    pub traceparent: Option<String>,
    /// The caller's `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
}

/// What a retry does with the steps of a run, by id, in order of submission.
#[derive(Debug, Clone, PartialEq)]
pub struct Retried {
    /// The run, running again.
    pub run: Run,
    /// Steps whose results stay.
    pub reused: Vec<String>,
    /// Steps that run (again).
    pub again: Vec<String>,
}

/// What became of steps that were to be added.
#[derive(Debug, Clone, PartialEq)]
pub enum AddedSteps {
    /// They are in.
    Done,
    /// No such run.
    Unknown,
    /// The run has ended or is ending.
    Ended,
    /// The step after which they were to come is not there, or has ended so that nothing waits for it any more.
    NoSuchStep,
    /// An id is taken already.
    Taken(String),
    /// The run would have more than [`crate::model::workflow::limits::STEPS_MAX`] steps.
    TooMany,
}

impl Lifecycle {
    /// Commits a run, and sets it going without making the caller wait. Values over the inline limit are stored first.
    ///
    /// # Errors
    /// As [`crate::ledger::Ledger::create_run`].
    pub fn submit_run(&self, order: Order) -> BoxFuture<'_, Result<CreateOutcome, LedgerError>> {
        Box::pin(async move { submit::submit(self, order, None).await })
    }

    /// Stops a run: what has not started never does, what runs is told to stop, its child runs are stopped, and
    /// then it ends as cancelled. A run that compensates is let finish: refused. Safe to repeat.
    ///
    /// # Errors
    /// The ledger did not answer.
    pub fn cancel_run<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: WorkflowId,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<RunChanged<Run>, LedgerError>> {
        Box::pin(async move { stop::cancel(self, namespace, id, reason).await })
    }

    /// Runs a failed or cancelled run on from what did not succeed. Refused for others, and for one that has undone
    /// steps already. Steps that failed and were passed over (`on_failure: continue`) stay as they are.
    ///
    /// # Errors
    /// The ledger did not answer.
    pub fn retry_run<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: WorkflowId,
    ) -> BoxFuture<'a, Result<RunChanged<Retried>, LedgerError>> {
        Box::pin(async move { retry::retry(self, namespace, id).await })
    }

    /// Gives a run a signal or a vote, and lets it go on.
    ///
    /// # Errors
    /// The ledger did not answer; repeat only what may come twice.
    pub fn give<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: WorkflowId,
        given: &'a NewGiven,
    ) -> BoxFuture<'a, Result<RunChanged<()>, LedgerError>> {
        Box::pin(async move {
            let given = self.inner.ledger.give(namespace, id, given).await?;
            if matches!(given, RunChanged::Done(())) {
                drive::soon(self, id);
            }
            Ok(given)
        })
    }

    /// Adds steps to a run, to run after the step `after` (a running one may add steps after itself). Positions in
    /// their `needs` count from the first added step; those without needs need `after`. What needs `after` waits for
    /// the last of them too.
    ///
    /// # Errors
    /// The ledger did not answer. Safe to repeat: a repeat is answered [`AddedSteps::Taken`].
    pub fn add_steps<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: WorkflowId,
        after: &'a str,
        mut steps: Vec<StepSpec>,
    ) -> BoxFuture<'a, Result<AddedSteps, LedgerError>> {
        Box::pin(async move { grow::add(self, namespace, id, after, &mut steps).await })
    }

    /// Carries a run on until nothing of it is due; how many decisions were carried out. Safe to repeat, to drop, and to
    /// do in many processes at once.
    ///
    /// # Errors
    /// The ledger did not answer. What is due stays so.
    pub fn advance_run(&self, id: WorkflowId) -> BoxFuture<'_, Result<u64, LedgerError>> {
        Box::pin(async move { drive::drive(self, id).await })
    }
}
