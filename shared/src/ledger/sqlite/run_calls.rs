//! The calls of [`super::Sqlite`] for workflows, definitions and checkpoints.

use bytes::Bytes;

use super::{LedgerError, Result, Sqlite};
use crate::ledger::runs::*;
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::Job;
use crate::model::name::Namespace;
use crate::model::workflow::StepState;

fn not_built<T>() -> Result<T> {
    Err(LedgerError::Failed("not built".into()))
}

#[expect(unused_variables, missing_docs, clippy::unused_async)]
impl Sqlite {
    pub async fn create_run(&self, new: &NewRun) -> Result<CreateOutcome> {
        not_built()
    }

    pub async fn run(&self, namespace: &Namespace, id: WorkflowId) -> Result<Option<Run>> {
        not_built()
    }

    pub async fn list_runs(
        &self,
        namespace: &Namespace,
        filter: &RunFilter,
        before: Option<WorkflowId>,
        limit: u32,
    ) -> Result<Vec<Run>> {
        not_built()
    }

    pub async fn steps(&self, id: WorkflowId, after: i32, limit: u32) -> Result<Vec<Step>> {
        not_built()
    }

    pub async fn steps_named(&self, id: WorkflowId, names: &[String]) -> Result<Vec<Step>> {
        not_built()
    }

    pub async fn step_counts(&self, id: WorkflowId) -> Result<Vec<(StepState, u32)>> {
        not_built()
    }

    pub async fn step_jobs(&self, id: WorkflowId, ords: &[i32]) -> Result<Vec<StepJob>> {
        not_built()
    }

    pub async fn live_jobs(
        &self,
        id: WorkflowId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobId>> {
        not_built()
    }

    pub async fn children(&self, id: WorkflowId, ords: &[i32]) -> Result<Vec<(i32, ChildSeen)>> {
        not_built()
    }

    pub async fn given(&self, id: WorkflowId) -> Result<Vec<Given>> {
        not_built()
    }

    pub async fn give(
        &self,
        namespace: &Namespace,
        id: WorkflowId,
        given: &NewGiven,
    ) -> Result<RunChanged<()>> {
        not_built()
    }

    pub async fn run_snapshot(&self, id: WorkflowId) -> Result<Option<Snapshot>> {
        not_built()
    }

    pub async fn due_runs(
        &self,
        after: Option<WorkflowId>,
        limit: u32,
    ) -> Result<Vec<(Namespace, WorkflowId)>> {
        not_built()
    }

    pub async fn advance(&self, run: &Run, advance: &Advance) -> Result<Advanced> {
        not_built()
    }

    pub async fn retry_run(&self, run: &Run, resets: &[Reset]) -> Result<Option<Vec<Job>>> {
        not_built()
    }

    pub async fn put_definition(&self, definition: &Definition) -> Result<(u32, bool)> {
        not_built()
    }

    pub async fn definition(
        &self,
        namespace: &Namespace,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<Definition>> {
        not_built()
    }

    pub async fn definitions(
        &self,
        namespace: &Namespace,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Definition>> {
        not_built()
    }

    pub async fn definition_versions(
        &self,
        namespace: &Namespace,
        name: &str,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Definition>> {
        not_built()
    }

    pub async fn put_checkpoint(
        &self,
        namespace: &Namespace,
        id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> Result<bool> {
        not_built()
    }

    pub async fn checkpoint(&self, namespace: &Namespace, id: JobId) -> Result<Option<Checkpoint>> {
        not_built()
    }
}
