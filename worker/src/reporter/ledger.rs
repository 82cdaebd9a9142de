//! Reports straight to the ledger, for a worker in one process with it (`windlass dev`).

use std::collections::HashMap;

use bytes::Bytes;
use futures::future::BoxFuture;
use windlass_shared::ledger::{Ledger, LedgerError, LogLine, WorkerBeat};
use windlass_shared::model::id::{BlobId, JobId};
use windlass_shared::model::job::Progress;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

use crate::reporter::{Beat, LogEntry, Report, ReportError, ReportReply, Reporter};

/// Writes reports and large values to a ledger.
pub struct LedgerReporter {
    ledger: Ledger,
    namespace: Namespace,
}

impl LedgerReporter {
    /// For a worker of this namespace.
    pub const fn new(ledger: Ledger, namespace: Namespace) -> Self {
        Self { ledger, namespace }
    }
}

impl Reporter for LedgerReporter {
    fn report(&self, report: Report) -> BoxFuture<'_, Result<ReportReply, ReportError>> {
        Box::pin(async move {
            let drain = self
                .ledger
                .beat(&beat(&self.namespace, report.worker))
                .await
                .map_err(unavailable)?;
            for (id, lines) in by_job(report.logs) {
                self.ledger.append_logs(&self.namespace, id, &lines).await.map_err(unavailable)?;
            }
            for entry in report.progress {
                let progress = Progress { percent: entry.percent, message: entry.message };
                self.ledger
                    .set_progress(&self.namespace, entry.job_id, entry.fence, &progress)
                    .await
                    .map_err(unavailable)?;
            }
            Ok(ReportReply { drain })
        })
    }

    fn put_blob(&self, id: BlobId, bytes: Bytes) -> BoxFuture<'_, Result<(), ReportError>> {
        Box::pin(async move {
            self.ledger.put_blob(&self.namespace, id, bytes).await.map_err(unavailable)
        })
    }

    fn blob(&self, id: BlobId) -> BoxFuture<'_, Result<Option<Bytes>, ReportError>> {
        Box::pin(async move { self.ledger.blob(&self.namespace, id).await.map_err(unavailable) })
    }
}

fn unavailable(error: LedgerError) -> ReportError {
    ReportError::Unavailable(Box::new(error))
}

fn beat(namespace: &Namespace, beat: Beat) -> WorkerBeat {
    WorkerBeat {
        id: beat.id,
        name: beat.name,
        namespace: namespace.clone(),
        host: beat.host,
        version: beat.version,
        queues: beat.queues.iter().map(ToString::to_string).collect(),
        kinds: beat.kinds.iter().map(ToString::to_string).collect(),
        concurrency: beat.concurrency,
        running: beat.running,
        draining: false,
        started_at: beat.started_at,
        // The ledger sets its own time.
        seen_at: Timestamp::default(),
    }
}

fn by_job(logs: Vec<LogEntry>) -> HashMap<JobId, Vec<LogLine>> {
    let mut jobs: HashMap<JobId, Vec<LogLine>> = HashMap::new();
    for LogEntry { job_id, attempt, at, level, message } in logs {
        // The ledger numbers the lines.
        let line = LogLine { seq: 0, at, attempt, level, message };
        jobs.entry(job_id).or_default().push(line);
    }
    jobs
}
