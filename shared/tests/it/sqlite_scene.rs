//! Jobs and checks for the tests of one sort of ledger.

use bytes::Bytes;
use windlass_shared::engine::ShardId;
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

/// Of a ledger that had the queue `q` of the namespace `old` when its shards were first counted.
pub async fn gates_after_migration(ledger: &Ledger) {
    let shard = |namespace: &str| ShardId::first(namespace.parse().unwrap(), "q".parse().unwrap());
    accept(ledger, new_jobs("new", 1)).await;
    let (old, new) = (shard("old"), shard("new"));
    let record = ledger.shard(&old).await.unwrap();
    assert_eq!((record.generation, record.process), (1, None));
    assert!(record.changed_at <= ledger.now().await.unwrap());
    assert!(!ledger.first_generation(&old).await.unwrap());
    assert_eq!(ledger.shard(&new).await.unwrap().generation, 0);
    assert!(ledger.first_generation(&new).await.unwrap());
}
