//! The calls of [`super::Postgres`] for workflows, definitions and checkpoints.

use bytes::Bytes;

use super::{Postgres, Result, bounds, checkpoints, definitions, runs};
use crate::ledger::runs::*;
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::Job;
use crate::model::name::Namespace;
use crate::model::workflow::StepState;

#[allow(missing_docs, reason = "the contract is on `Ledger`")]
impl Postgres {
    pub async fn create_run(&self, new: &NewRun) -> Result<CreateOutcome> {
        let new = new.clone();
        self.detached_for(self.inner.silence * bounds::LONG, |inner| async move {
            inner.limited.refresh(&inner.pool, inner.silence).await;
            runs::create(&inner, &new).await
        })
        .await
    }

    pub async fn run(&self, namespace: &Namespace, id: WorkflowId) -> Result<Option<Run>> {
        self.read(runs::run(&self.inner.pool, namespace, id)).await
    }

    pub async fn list_runs(
        &self,
        namespace: &Namespace,
        filter: &RunFilter,
        before: Option<WorkflowId>,
        limit: u32,
    ) -> Result<Vec<Run>> {
        self.read(runs::list(&self.inner.pool, namespace, filter, before, limit)).await
    }

    pub async fn steps(&self, id: WorkflowId, after: i32, limit: u32) -> Result<Vec<Step>> {
        self.read(runs::steps(&self.inner.pool, id, after, limit)).await
    }

    pub async fn step_heads(&self, id: WorkflowId, after: i32, limit: u32) -> Result<Vec<Step>> {
        self.read(runs::step_heads(&self.inner.pool, id, after, limit)).await
    }

    pub async fn steps_named(&self, id: WorkflowId, names: &[String]) -> Result<Vec<Step>> {
        self.read(runs::steps_named(&self.inner.pool, id, names)).await
    }

    pub async fn step_counts(&self, id: WorkflowId) -> Result<Vec<(StepState, u32)>> {
        self.read(runs::step_counts(&self.inner.pool, id)).await
    }

    pub async fn step_jobs(&self, id: WorkflowId, ords: &[i32]) -> Result<Vec<StepJob>> {
        self.read(runs::step_jobs(&self.inner.pool, id, ords)).await
    }

    pub async fn step_output_bytes(&self, id: WorkflowId, ords: &[i32]) -> Result<u64> {
        self.read(runs::step_output_bytes(&self.inner.pool, id, ords)).await
    }

    pub async fn live_jobs(
        &self,
        id: WorkflowId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobId>> {
        self.read(runs::live_jobs(&self.inner.pool, id, after, limit)).await
    }

    pub async fn children(&self, id: WorkflowId, ords: &[i32]) -> Result<Vec<(i32, ChildSeen)>> {
        self.read(runs::children(&self.inner.pool, id, ords)).await
    }

    pub async fn given(&self, id: WorkflowId) -> Result<Vec<Given>> {
        self.read(runs::given(&self.inner.pool, id)).await
    }

    pub async fn give(
        &self,
        namespace: &Namespace,
        id: WorkflowId,
        given: &NewGiven,
    ) -> Result<RunChanged<()>> {
        let (namespace, given) = (namespace.clone(), given.clone());
        self.detached(move |inner| async move { runs::give(&inner, &namespace, id, &given).await })
            .await
    }

    pub async fn run_snapshot(&self, id: WorkflowId) -> Result<Option<Snapshot>> {
        self.read(runs::snapshot(&self.inner.pool, id)).await
    }

    pub async fn due_runs(
        &self,
        after: Option<WorkflowId>,
        limit: u32,
    ) -> Result<Vec<(Namespace, WorkflowId)>> {
        self.read(runs::due(&self.inner.pool, after, limit)).await
    }

    pub async fn advance(&self, run: &Run, advance: &Advance) -> Result<Advanced> {
        let (run, advance) = (run.clone(), advance.clone());
        self.detached_for(self.inner.silence * bounds::LONG, |inner| async move {
            runs::advance(&inner, &run, &advance).await
        })
        .await
    }

    pub async fn retry_run(&self, run: &Run, resets: &[Reset]) -> Result<Option<Vec<Job>>> {
        let (run, resets) = (run.clone(), resets.to_vec());
        self.detached_for(self.inner.silence * bounds::LONG, |inner| async move {
            runs::retry(&inner, &run, &resets).await
        })
        .await
    }

    pub async fn put_definition(&self, definition: &Definition) -> Result<(u32, bool)> {
        let definition = definition.clone();
        self.detached(|inner| async move { definitions::put(&inner, &definition).await }).await
    }

    pub async fn definition(
        &self,
        namespace: &Namespace,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<Definition>> {
        self.read(definitions::definition(&self.inner.pool, namespace, name, version)).await
    }

    pub async fn definitions(
        &self,
        namespace: &Namespace,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Definition>> {
        self.read(definitions::latest(&self.inner.pool, namespace, after, limit)).await
    }

    pub async fn definition_versions(
        &self,
        namespace: &Namespace,
        name: &str,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Definition>> {
        self.read(definitions::versions(&self.inner.pool, namespace, name, before, limit)).await
    }

    pub async fn put_checkpoint(
        &self,
        namespace: &Namespace,
        id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> Result<bool> {
        let namespace = namespace.clone();
        self.detached(move |inner| async move {
            checkpoints::put(&inner.pool, &namespace, id, fence, &data).await
        })
        .await
    }

    pub async fn checkpoint(&self, namespace: &Namespace, id: JobId) -> Result<Option<Checkpoint>> {
        self.read(checkpoints::checkpoint(&self.inner.pool, namespace, id)).await
    }
}
