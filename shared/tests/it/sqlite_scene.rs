//! Jobs for the tests of the SQLite ledger.

use bytes::Bytes;
use windlass_shared::ledger::{Accepted, Ledger, LedgerError, Refused, Submission, SubmitOutcome};
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{NewJob, Value};

/// Plain jobs of a namespace.
pub fn new_jobs(namespace: &str, n: usize) -> Vec<NewJob> {
    let job = || {
        NewJob::new(
            namespace.parse().unwrap(),
            "q".parse().unwrap(),
            "test.kind".parse().unwrap(),
            Value::Inline(Bytes::from_static(b"{\"n\":1}")),
        )
    };
    (0..n).map(|_| job()).collect()
}

/// A plain submission.
pub async fn submit(ledger: &Ledger, jobs: Vec<NewJob>) -> Result<SubmitOutcome, LedgerError> {
    ledger.submit(Submission { jobs, atomic: false, idempotency: None }).await
}

/// The answers of a submission that was carried out.
pub fn done(outcome: Result<SubmitOutcome, LedgerError>) -> Vec<Result<Accepted, Refused>> {
    match outcome {
        Ok(SubmitOutcome::Done(results)) => results,
        other => panic!("expected a first answer, got {other:?}"),
    }
}

/// Submits jobs that must all be accepted; their ids.
pub async fn accept(ledger: &Ledger, jobs: Vec<NewJob>) -> Vec<JobId> {
    let results = done(submit(ledger, jobs).await);
    let accepted = results.into_iter().map(|result| match result {
        Ok(Accepted::New(job)) => job.id,
        other => panic!("expected a new job, got {other:?}"),
    });
    accepted.collect()
}
