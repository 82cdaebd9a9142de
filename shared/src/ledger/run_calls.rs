//! The ledger's calls for workflows, definitions and checkpoints. The words are those of [`super::runs`].

use bytes::Bytes;
use futures::future::BoxFuture;

use super::runs::{
    Advance, Advanced, Checkpoint, ChildSeen, CreateOutcome, Definition, Given, NewGiven, NewRun,
    Reset, Run, RunChanged, RunFilter, Snapshot, Step, StepJob,
};
use super::{Ledger, Result, dispatch};
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::Job;
use crate::model::name::Namespace;
use crate::model::workflow::StepState;

impl Ledger {
    /// Commits a run with its steps and their jobs, all or nothing. Its jobs that may run are in the answer, to be
    /// pushed. Not cancelled by dropping; repeat with the same id, or with an idempotency key.
    pub fn create_run<'a>(&'a self, new: &'a NewRun) -> BoxFuture<'a, Result<CreateOutcome>> {
        Box::pin(async move { dispatch!(self, create_run(new)) })
    }

    /// One run of a namespace.
    pub fn run<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: WorkflowId,
    ) -> BoxFuture<'a, Result<Option<Run>>> {
        Box::pin(async move { dispatch!(self, run(namespace, id)) })
    }

    /// Runs newest first, before `before` (exclusive); at most 500. Where fewer than `limit` come, there are no more.
    pub fn list_runs<'a>(
        &'a self,
        namespace: &'a Namespace,
        filter: &'a RunFilter,
        before: Option<WorkflowId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Run>>> {
        Box::pin(async move { dispatch!(self, list_runs(namespace, filter, before, limit)) })
    }

    /// Steps of a run after a position, in order; [`runs::END`](super::runs::END) comes first, after any lower number. At most 2,000.
    pub fn steps<'a>(
        &'a self,
        id: WorkflowId,
        after: i32,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Step>>> {
        Box::pin(async move { dispatch!(self, steps(id, after, limit)) })
    }

    /// As [`Self::steps`], without what may be large and says nothing of how far the run is: no `output`, and an empty
    /// `list` where there is one.
    pub fn step_heads<'a>(
        &'a self,
        id: WorkflowId,
        after: i32,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Step>>> {
        Box::pin(async move { dispatch!(self, step_heads(id, after, limit)) })
    }

    /// Those of these steps that the run has. At most 10,000 ids.
    pub fn steps_named<'a>(
        &'a self,
        id: WorkflowId,
        names: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Step>>> {
        Box::pin(async move { dispatch!(self, steps_named(id, names)) })
    }

    /// How many steps of a run are in each state, without the end.
    pub fn step_counts<'a>(
        &'a self,
        id: WorkflowId,
    ) -> BoxFuture<'a, Result<Vec<(StepState, u32)>>> {
        Box::pin(async move { dispatch!(self, step_counts(id)) })
    }

    /// The jobs of steps, by position and item.
    pub fn step_jobs<'a>(
        &'a self,
        id: WorkflowId,
        ords: &'a [i32],
    ) -> BoxFuture<'a, Result<Vec<StepJob>>> {
        Box::pin(async move { dispatch!(self, step_jobs(id, ords)) })
    }

    /// Bytes of the outputs of the jobs of steps, without those that are stored apart: what [`Self::step_jobs`] would
    /// hold in memory.
    pub fn step_output_bytes<'a>(
        &'a self,
        id: WorkflowId,
        ords: &'a [i32],
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move { dispatch!(self, step_output_bytes(id, ords)) })
    }

    /// Jobs of a run whose steps are released: not terminal, not blocked but in their order; in id order after `after`.
    pub fn live_jobs<'a>(
        &'a self,
        id: WorkflowId,
        after: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<JobId>>> {
        Box::pin(async move { dispatch!(self, live_jobs(id, after, limit)) })
    }

    /// Runs that these steps have started, oldest first, with the position of their step.
    pub fn children<'a>(
        &'a self,
        id: WorkflowId,
        ords: &'a [i32],
    ) -> BoxFuture<'a, Result<Vec<(i32, ChildSeen)>>> {
        Box::pin(async move { dispatch!(self, children(id, ords)) })
    }

    /// Signals of a run that no step has taken, and all votes; oldest first.
    pub fn given<'a>(&'a self, id: WorkflowId) -> BoxFuture<'a, Result<Vec<Given>>> {
        Box::pin(async move { dispatch!(self, given(id)) })
    }

    /// Notes a signal or a vote, and makes every waiting step of the run due. A repeat is another signal.
    pub fn give<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: WorkflowId,
        given: &'a NewGiven,
    ) -> BoxFuture<'a, Result<RunChanged<()>>> {
        Box::pin(async move { dispatch!(self, give(namespace, id, given)) })
    }

    /// What an advance decides over; `None`: no such run.
    pub fn run_snapshot<'a>(&'a self, id: WorkflowId) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        Box::pin(async move { dispatch!(self, run_snapshot(id)) })
    }

    /// Runs that are not terminal and have something due: a step, a wait that is over, or a deadline that has passed
    /// and was not acted upon. In id order after `after`.
    pub fn due_runs<'a>(
        &'a self,
        after: Option<WorkflowId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<(Namespace, WorkflowId)>>> {
        Box::pin(async move { dispatch!(self, due_runs(after, limit)) })
    }

    /// Carries out a decision, whole or not at all. Safe to repeat: a repeat meets another version.
    ///
    /// # Errors
    /// [`LedgerError::TooManyQueues`](super::LedgerError::TooManyQueues), of [`Advance::added`].
    pub fn advance<'a>(
        &'a self,
        run: &'a Run,
        advance: &'a Advance,
    ) -> BoxFuture<'a, Result<Advanced>> {
        Box::pin(async move { dispatch!(self, advance(run, advance)) })
    }

    /// Makes a run that has ended go on from these steps, if it is still of the version that they were chosen over:
    /// it runs again, without error, output or end, and a deadline it had is as far away as it was at first. `None`: it
    /// was not. The jobs that may run are in the answer.
    pub fn retry_run<'a>(
        &'a self,
        run: &'a Run,
        resets: &'a [Reset],
    ) -> BoxFuture<'a, Result<Option<Vec<Job>>>> {
        Box::pin(async move { dispatch!(self, retry_run(run, resets)) })
    }

    /// Stores a new version of a definition; its number. The document of the latest version again is that version, and
    /// `false`. Safe to repeat.
    pub fn put_definition<'a>(
        &'a self,
        definition: &'a Definition,
    ) -> BoxFuture<'a, Result<(u32, bool)>> {
        Box::pin(async move { dispatch!(self, put_definition(definition)) })
    }

    /// One version of a definition, or its latest.
    pub fn definition<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a str,
        version: Option<u32>,
    ) -> BoxFuture<'a, Result<Option<Definition>>> {
        Box::pin(async move { dispatch!(self, definition(namespace, name, version)) })
    }

    /// The latest version of each definition, by name after `after`.
    pub fn definitions<'a>(
        &'a self,
        namespace: &'a Namespace,
        after: Option<&'a str>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Definition>>> {
        Box::pin(async move { dispatch!(self, definitions(namespace, after, limit)) })
    }

    /// The versions of one definition, newest first, before `before`.
    pub fn definition_versions<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a str,
        before: Option<u32>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Definition>>> {
        Box::pin(
            async move { dispatch!(self, definition_versions(namespace, name, before, limit)) },
        )
    }

    /// Stores the partial result of a job, in place of the one before. `false`: the job is unknown or terminal, or a
    /// higher fence has stored one. Safe to repeat.
    pub fn put_checkpoint<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, put_checkpoint(namespace, id, fence, data)) })
    }

    /// The latest partial result of a job.
    pub fn checkpoint<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Option<Checkpoint>>> {
        Box::pin(async move { dispatch!(self, checkpoint(namespace, id)) })
    }
}
