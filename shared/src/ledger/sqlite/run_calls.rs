//! The calls of [`super::Sqlite`] for workflows, definitions and checkpoints.

use bytes::Bytes;

use super::fault::Fault;
use super::{LedgerError, Result, Sqlite, jobs, read, runs};
use crate::ledger::runs::*;
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::{Job, JobState};
use crate::model::name::Namespace;
use crate::model::workflow::StepState;

/// Hands a write to the writer and waits for its commit. `$value`s are owned by it.
macro_rules! change {
    ($self:ident, |$tx:ident| $work:expr) => {
        $self.writer.change(move |$tx| Box::pin(async move { $work.await })).await
    };
    ($self:ident, $rows:expr, |$tx:ident| $work:expr) => {
        $self.writer.change_of($rows, move |$tx| Box::pin(async move { $work.await })).await
    };
}
pub(super) use change;

/// Rows of a transaction that a step makes: its own, its plan and its job.
const ROWS_OF_STEP: usize = 3;

#[expect(missing_docs, reason = "said once, at the enum that dispatches to them")]
impl Sqlite {
    pub async fn create_run(&self, new: &NewRun) -> Result<CreateOutcome> {
        let rows = new.steps.len() * ROWS_OF_STEP;
        let new = new.clone();
        change!(self, rows, |tx| runs::create::submit(tx, &new))
    }

    pub async fn run(&self, namespace: &Namespace, id: WorkflowId) -> Result<Option<Run>> {
        read!(self, runs::read::run, namespace, id)
    }

    pub async fn list_runs(
        &self,
        namespace: &Namespace,
        filter: &RunFilter,
        before: Option<WorkflowId>,
        limit: u32,
    ) -> Result<Vec<Run>> {
        read!(self, runs::list::list, namespace, filter, before, limit)
    }

    pub async fn steps(&self, id: WorkflowId, after: i32, limit: u32) -> Result<Vec<Step>> {
        read!(self, runs::read::steps, id, after, limit)
    }

    pub async fn step_heads(&self, id: WorkflowId, after: i32, limit: u32) -> Result<Vec<Step>> {
        read!(self, runs::read::step_heads, id, after, limit)
    }

    pub async fn steps_named(&self, id: WorkflowId, names: &[String]) -> Result<Vec<Step>> {
        read!(self, runs::read::steps_named, id, names)
    }

    pub async fn step_counts(&self, id: WorkflowId) -> Result<Vec<(StepState, u32)>> {
        read!(self, runs::read::step_counts, id)
    }

    pub async fn step_jobs(&self, id: WorkflowId, ords: &[i32]) -> Result<Vec<StepJob>> {
        read!(self, runs::read::step_jobs, id, ords)
    }

    pub async fn step_output_bytes(&self, id: WorkflowId, ords: &[i32]) -> Result<u64> {
        read!(self, runs::read::step_output_bytes, id, ords)
    }

    pub async fn live_jobs(
        &self,
        id: WorkflowId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobId>> {
        read!(self, runs::read::live_jobs, id, after, limit)
    }

    pub async fn children(&self, id: WorkflowId, ords: &[i32]) -> Result<Vec<(i32, ChildSeen)>> {
        read!(self, runs::read::children, id, ords)
    }

    pub async fn given(&self, id: WorkflowId) -> Result<Vec<Given>> {
        read!(self, runs::signals::given, id)
    }

    pub async fn give(
        &self,
        namespace: &Namespace,
        id: WorkflowId,
        given: &NewGiven,
    ) -> Result<RunChanged<()>> {
        let (namespace, given) = (namespace.clone(), given.clone());
        change!(self, |tx| runs::signals::give(tx, &namespace, id, &given))
    }

    pub async fn run_snapshot(&self, id: WorkflowId) -> Result<Option<Snapshot>> {
        let now = self.clock.now();
        read!(self, runs::read::snapshot, id, now)
    }

    pub async fn due_runs(
        &self,
        after: Option<WorkflowId>,
        limit: u32,
    ) -> Result<Vec<(Namespace, WorkflowId)>> {
        let now = self.clock.now();
        read!(self, runs::list::due, after, limit, now)
    }

    pub async fn advance(&self, run: &Run, advance: &Advance) -> Result<Advanced> {
        let rows = advance.moves.len()
            + advance.releases.len()
            + advance.added.len() * ROWS_OF_STEP
            + if advance.stop { run.steps as usize } else { 0 };
        let (run, advance) = (runs::advance::Target::of(run), advance.clone());
        let done = change!(self, rows, |tx| runs::advance::advance(tx, &run, &advance))?;
        Ok(match done {
            None => Advanced::Conflict,
            Some((ids, more)) => Advanced::Done { released: self.read_back(&ids).await, more },
        })
    }

    pub async fn retry_run(&self, run: &Run, resets: &[Reset]) -> Result<Option<Vec<Job>>> {
        let rows = resets.len() * ROWS_OF_STEP;
        let (run, resets) = ((run.id, run.version), resets.to_vec());
        let ids = change!(self, rows, |tx| runs::retry::retry(tx, run, &resets))?;
        Ok(match ids {
            None => None,
            Some(ids) => Some(self.read_back(&ids).await),
        })
    }

    pub async fn put_definition(&self, definition: &Definition) -> Result<(u32, bool)> {
        let definition = definition.clone();
        change!(self, |tx| runs::definitions::put(tx, &definition))
    }

    pub async fn definition(
        &self,
        namespace: &Namespace,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<Definition>> {
        read!(self, runs::definitions::definition, namespace, name, version)
    }

    pub async fn definitions(
        &self,
        namespace: &Namespace,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Definition>> {
        read!(self, runs::definitions::latest, namespace, after, limit)
    }

    pub async fn definition_versions(
        &self,
        namespace: &Namespace,
        name: &str,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Definition>> {
        read!(self, runs::definitions::versions, namespace, name, before, limit)
    }

    pub async fn put_checkpoint(
        &self,
        namespace: &Namespace,
        id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> Result<bool> {
        let namespace = namespace.clone();
        change!(self, |tx| runs::checkpoints::put(tx, &namespace, id, fence, &data))
    }

    pub async fn checkpoint(&self, namespace: &Namespace, id: JobId) -> Result<Option<Checkpoint>> {
        read!(self, runs::checkpoints::latest, namespace, id)
    }

    /// These jobs as they are by now. What cannot be read back is found by the sweep.
    pub(super) async fn read_back(&self, ids: &[JobId]) -> Vec<Job> {
        if ids.is_empty() {
            return Vec::new();
        }
        let jobs = self.read_jobs(ids).await.unwrap_or_default();
        // Its order may keep a job waiting that its step has released.
        jobs.into_iter().filter(|job| job.state != JobState::Blocked).collect()
    }

    async fn read_jobs(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        read!(self, jobs::jobs, ids)
    }
}
