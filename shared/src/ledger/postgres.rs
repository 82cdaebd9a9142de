//! The ledger on PostgreSQL.

use super::*;

/// The ledger on PostgreSQL.
pub struct Postgres {}

#[allow(unused_variables, missing_docs, clippy::todo, reason = "stubs")]
impl Postgres {
    pub async fn open(settings: &crate::config::LedgerSettings) -> Result<Self> {
        todo!()
    }
    pub async fn migrate(settings: &crate::config::LedgerSettings) -> Result<Vec<MigrationStatus>> {
        todo!()
    }
    pub async fn migration_status(
        settings: &crate::config::LedgerSettings,
    ) -> Result<Vec<MigrationStatus>> {
        todo!()
    }
    pub async fn close(&self) {}
    pub async fn submit(&self, submission: Submission) -> Result<SubmitOutcome> {
        todo!()
    }
    pub async fn job(&self, namespace: &Namespace, id: JobId) -> Result<Option<Job>> {
        todo!()
    }
    pub async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        todo!()
    }
    pub async fn terminal_among(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        todo!()
    }
    pub async fn list(
        &self,
        namespace: &Namespace,
        filter: &JobFilter,
        before: Option<JobId>,
        limit: u32,
    ) -> Result<JobPage> {
        todo!()
    }
    pub async fn attempts(&self, namespace: &Namespace, id: JobId) -> Result<Option<Vec<Attempt>>> {
        todo!()
    }
    pub async fn record(&self, records: Vec<Record>) -> Result<Vec<Recorded>> {
        todo!()
    }
    pub async fn record_running(&self, running: Vec<RecordRunning>) -> Result<()> {
        todo!()
    }
    pub async fn unfinished(
        &self,
        namespace: &Namespace,
        queue: &QueueName,
        due_before: Timestamp,
        changed_before: Timestamp,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<Job>> {
        todo!()
    }
    pub async fn cancel(
        &self,
        namespace: &Namespace,
        id: JobId,
        running: bool,
        reason: &str,
    ) -> Result<Changed<Job>> {
        todo!()
    }
    pub async fn redrive(&self, namespace: &Namespace, id: JobId) -> Result<Changed<Job>> {
        todo!()
    }
    pub async fn patch(
        &self,
        namespace: &Namespace,
        id: JobId,
        patch: &JobPatch,
    ) -> Result<Changed<Job>> {
        todo!()
    }
    pub async fn delete(&self, namespace: &Namespace, id: JobId) -> Result<Changed<()>> {
        todo!()
    }
    pub async fn queue(&self, namespace: &Namespace, name: &QueueName) -> Result<Option<Queue>> {
        todo!()
    }
    pub async fn queues(&self, namespace: Option<&Namespace>) -> Result<Vec<Queue>> {
        todo!()
    }
    pub async fn set_queue(
        &self,
        namespace: &Namespace,
        name: &QueueName,
        settings: &QueueSettings,
    ) -> Result<Queue> {
        todo!()
    }
    pub async fn set_paused(
        &self,
        namespace: &Namespace,
        name: &QueueName,
        paused: Option<&Paused>,
    ) -> Result<Queue> {
        todo!()
    }
    pub async fn rollups(&self, namespace: &Namespace, since: Timestamp) -> Result<Vec<Rollup>> {
        todo!()
    }
    pub async fn append_logs(
        &self,
        namespace: &Namespace,
        id: JobId,
        lines: &[LogLine],
    ) -> Result<bool> {
        todo!()
    }
    pub async fn logs(
        &self,
        namespace: &Namespace,
        id: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Option<Vec<LogLine>>> {
        todo!()
    }
    pub async fn set_progress(
        &self,
        namespace: &Namespace,
        id: JobId,
        fence: Fence,
        progress: &Progress,
    ) -> Result<()> {
        todo!()
    }
    pub async fn beat(&self, beat: &WorkerBeat) -> Result<bool> {
        todo!()
    }
    pub async fn workers(
        &self,
        namespace: &Namespace,
        within: Duration,
    ) -> Result<Vec<WorkerBeat>> {
        todo!()
    }
    pub async fn drain_worker(&self, namespace: &Namespace, id: WorkerId) -> Result<bool> {
        todo!()
    }
    pub async fn put_blob(&self, namespace: &Namespace, id: BlobId, bytes: Bytes) -> Result<()> {
        todo!()
    }
    pub async fn blob(&self, namespace: &Namespace, id: BlobId) -> Result<Option<Bytes>> {
        todo!()
    }
    pub async fn create_key(&self, key: &ApiKey) -> Result<()> {
        todo!()
    }
    pub async fn key(&self, public: &str) -> Result<Option<ApiKey>> {
        todo!()
    }
    pub async fn keys(&self) -> Result<Vec<ApiKey>> {
        todo!()
    }
    pub async fn revoke_key(&self, id: KeyId) -> Result<bool> {
        todo!()
    }
    pub async fn put_operation(&self, operation: &Operation) -> Result<()> {
        todo!()
    }
    pub async fn operation(
        &self,
        namespace: &Namespace,
        id: OperationId,
    ) -> Result<Option<Operation>> {
        todo!()
    }
    pub async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64> {
        todo!()
    }
    pub async fn now(&self) -> Result<Timestamp> {
        todo!()
    }
}
