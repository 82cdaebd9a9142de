//! Reports straight to the ledger, for a worker in one process with it (`windlass dev`).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use windlass_shared::engine::{Ended, Verdict};
use windlass_shared::ledger::{Ledger, LedgerError, LogLine, Record, Recorded, WorkerBeat};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::record::Direct;
use windlass_shared::lifecycle::resume::previous;
use windlass_shared::model::id::{BlobId, Fence, JobId, LedgerId};
use windlass_shared::model::job::Progress;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

use crate::reporter::{
    Beat, DirectOutcome, DirectReply, Left, LogEntry, Report, ReportError, ReportReply, Reporter,
    direct,
};

/// Longest wait for the outcome of the attempt before to be recorded.
const PREVIOUS_WAIT: Duration = Duration::from_secs(2);

/// Writes reports and large values to a ledger.
pub struct LedgerReporter {
    life: Lifecycle,
    ledger: Ledger,
    namespace: Namespace,
}

impl LedgerReporter {
    /// For a worker of this namespace.
    pub fn new(life: Lifecycle, namespace: Namespace) -> Self {
        let ledger = life.ledger().clone();
        Self { life, ledger, namespace }
    }

    fn to_record(&self, outcome: &DirectOutcome) -> Record {
        let detail = direct::detail(&outcome.detail);
        let ended = match outcome.verdict {
            Verdict::Succeeded => Ended::Succeeded,
            Verdict::Retry { delay } => Ended::Retry(outcome.at.plus(delay)),
            Verdict::Dead => Ended::Dead,
            Verdict::Snooze { delay } => Ended::Snoozed(outcome.at.plus(delay)),
            Verdict::Release => Ended::Released,
            Verdict::Cancelled => Ended::Cancelled,
        };
        Record {
            namespace: self.namespace.clone(),
            id: outcome.job_id,
            fence: outcome.fence,
            ended,
            at: outcome.at,
            claimed_at: Some(outcome.claimed_at),
            attempt: outcome.attempt,
            crashes: outcome.crashes,
            worker: Some(direct::worker(outcome, &detail)),
            output: detail.output,
            error: detail.head.error,
            timed_out: detail.head.timed_out,
            usage: detail.head.usage.map(|usage| Bytes::from(usage.to_string())),
        }
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
            Ok(ReportReply { drain, ledger: Some(self.ledger.id()) })
        })
    }

    fn put_checkpoint(
        &self,
        job_id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> BoxFuture<'_, Result<bool, ReportError>> {
        Box::pin(async move {
            let stored = self.ledger.put_checkpoint(&self.namespace, job_id, fence, data).await;
            stored.map_err(unavailable)
        })
    }

    fn left(
        &self,
        job_id: JobId,
        fence: Fence,
        attempt: u32,
    ) -> BoxFuture<'_, Result<Left, ReportError>> {
        Box::pin(async move {
            let checkpoint = self.ledger.checkpoint(&self.namespace, job_id);
            let checkpoint = checkpoint.await.map_err(unavailable)?.map(|found| found.data);
            let lease = (job_id, attempt, fence);
            let previous = previous(&self.ledger, &self.namespace, lease, PREVIOUS_WAIT).await;
            Ok(Left { checkpoint, previous: previous.map_err(unavailable)? })
        })
    }

    fn record(
        &self,
        ledger: Option<LedgerId>,
        outcomes: Vec<DirectOutcome>,
    ) -> BoxFuture<'_, Result<Vec<DirectReply>, ReportError>> {
        Box::pin(async move {
            if ledger.is_some_and(|ledger| ledger != self.ledger.id()) {
                return Err(ReportError::WrongLedger);
            }
            let direct = |outcome: &DirectOutcome| Direct {
                record: self.to_record(outcome),
                lease_id: Some(outcome.lease_id),
            };
            let outcomes = outcomes.iter().map(direct).collect();
            let recorded = self.life.record_direct(outcomes).await.map_err(unavailable)?;
            let reply = |recorded| match recorded {
                Recorded::Applied => DirectReply::Applied,
                Recorded::Stale => DirectReply::Stale,
                Recorded::Unknown => DirectReply::Unknown,
            };
            Ok(recorded.into_iter().map(reply).collect())
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
