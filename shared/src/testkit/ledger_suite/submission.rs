//! Jobs come in, and are there as they were given.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::scene::{Scene, done, new};
use crate::ledger::{Accepted, Refused, Submission, SubmitOutcome};
use crate::limits::WRITE_ROWS_MAX;
use crate::model::id::{BlobId, Fence};
use crate::model::job::{
    Expect, Job, JobSpec, JobState, NewJob, OnConflict, OrderOnFailure, Priority, Unique, Value,
};
use crate::model::retry::{Backoff, RetryPolicy};
use crate::model::time::{Span, Timestamp};

super::cases![
    a_job_reads_back_as_it_was_submitted,
    a_job_without_a_time_is_ready,
    a_job_with_a_time_ahead_is_scheduled,
    a_delay_begins_when_the_ledger_accepts,
    a_job_whose_time_has_passed_is_ready,
    a_batch_answers_in_order,
    a_batch_over_one_statement_is_kept_whole,
    submissions_side_by_side_are_all_kept,
    a_dropped_caller_does_not_undo_its_submission,
    a_submission_makes_its_queues,
    a_payload_by_reference_reads_back,
    odd_text_reads_back,
    a_row_with_a_nul_is_refused_alone,
    an_atomic_batch_is_accepted_whole,
    an_atomic_batch_over_one_statement_is_accepted_whole,
    an_atomic_batch_with_a_bad_row_keeps_nothing,
    an_empty_submission_is_done,
    other_namespaces_see_nothing,
];

fn full_job(scene: &Scene, now: Timestamp) -> NewJob {
    NewJob {
        kind: "report:Build.v2".parse().unwrap(),
        priority: Priority::new(8).unwrap(),
        payload: Value::Inline(Bytes::from_static(b"{\"b\": 1, \"a\" :[1e400, \"\\u0000\"]}")),
        run_at: Some(now.plus(Duration::from_secs(90))),
        expires_at: Some(now.plus(Duration::from_secs(900))),
        spec: JobSpec {
            max_attempts: 7,
            max_crashes: 1,
            timeout: Span(Duration::from_millis(1500)),
            retry: RetryPolicy { backoff: Backoff::Poly4, ..RetryPolicy::default() },
            expect: Some(Expect { expr: Some("output.ok".into()), ..Expect::default() }),
            weight: 3,
            exclusive: true,
            order_key: Some("o".into()),
            order_on_failure: OrderOnFailure::Block,
            concurrency_key: Some("c".into()),
            rate_limit_key: Some("r".into()),
            fairness_key: Some("f".into()),
            rate_limit_units: 3,
            circuit: Some("mail".into()),
        },
        unique: Some(Unique {
            key: "once".into(),
            window: Some(Duration::from_secs(60)),
            on_conflict: OnConflict::Reject,
        }),
        tags: vec!["b".into(), "a".into()],
        meta: Some(Bytes::from_static(b"{\"z\": 1,\"a\":2}")),
        request_id: Some("req-1".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..scene.new_job()
    }
}

async fn a_job_reads_back_as_it_was_submitted(scene: &Scene) {
    let before = scene.ledger.now().await.unwrap();
    let given = full_job(scene, before);
    let job = scene.accept(given.clone()).await;
    assert!(job.created_at >= before && job.created_at <= scene.ledger.now().await.unwrap());
    let expected = Job {
        id: given.id,
        namespace: given.namespace,
        queue: given.queue,
        kind: given.kind,
        state: JobState::Scheduled,
        priority: given.priority,
        payload: given.payload,
        spec: given.spec,
        fence: Fence(0),
        attempt: 0,
        crashes: 0,
        run_at: given.run_at.unwrap(),
        created_at: job.created_at,
        started_at: None,
        finished_at: None,
        expires_at: given.expires_at,
        output: None,
        error: None,
        worker: None,
        workflow: None,
        tags: given.tags,
        meta: given.meta,
        unique_key: Some("once".into()),
        cancel_requested: false,
        progress: None,
        request_id: given.request_id,
        traceparent: given.traceparent,
    };
    assert_eq!(job, expected);
    assert_eq!(scene.get(job.id).await, expected);
    assert_eq!(scene.ledger.jobs(&[job.id]).await.unwrap(), [expected]);
}

async fn a_job_without_a_time_is_ready(scene: &Scene) {
    let job = scene.accept(scene.new_job()).await;
    assert_eq!(job.state, JobState::Ready);
    assert_eq!(job.run_at, job.created_at);
    assert_eq!((job.fence, job.attempt, job.crashes), (Fence(0), 0, 0));
    assert_eq!((job.tags.len(), job.meta.clone(), job.unique_key.clone()), (0, None, None));
    assert_eq!(scene.get(job.id).await, job);
}

async fn a_job_with_a_time_ahead_is_scheduled(scene: &Scene) {
    let ahead = scene.ledger.now().await.unwrap().plus(Duration::from_secs(60));
    let job = scene.accept(NewJob { run_at: Some(ahead), ..scene.new_job() }).await;
    assert_eq!((job.state, job.run_at), (JobState::Scheduled, ahead));
    assert_eq!(scene.get(job.id).await.state, JobState::Scheduled);
}

/// The clock of the host that submits is not asked.
async fn a_delay_begins_when_the_ledger_accepts(scene: &Scene) {
    let (delay, ttl) = (Duration::from_secs(60), Duration::from_secs(90));
    let job = NewJob { delay: Some(delay), ttl: Some(ttl), ..scene.new_job() };
    let job = scene.accept(job).await;
    assert_eq!((job.state, job.run_at), (JobState::Scheduled, job.created_at.plus(delay)));
    assert_eq!(job.expires_at, Some(job.created_at.plus(ttl)));
    assert_eq!(scene.get(job.id).await, job);
    // In a transaction of its own, too.
    let batch = vec![NewJob { delay: Some(delay), ..scene.new_job() }, scene.new_job()];
    let outcome = scene.ledger.submit(Submission { jobs: batch, atomic: true, idempotency: None });
    let SubmitOutcome::Done(results) = outcome.await.unwrap() else { panic!("not done") };
    let jobs: Vec<_> = results.into_iter().map(new).collect();
    assert_eq!((jobs[0].run_at, jobs[0].expires_at), (jobs[0].created_at.plus(delay), None));
    assert_eq!(jobs[1].run_at, jobs[1].created_at);
    assert_eq!(scene.get(jobs[0].id).await, jobs[0]);
}

async fn a_job_whose_time_has_passed_is_ready(scene: &Scene) {
    let past = scene.ledger.now().await.unwrap().minus(Duration::from_secs(60));
    let job = scene.accept(NewJob { run_at: Some(past), ..scene.new_job() }).await;
    assert_eq!((job.state, job.run_at), (JobState::Ready, past));
    assert_eq!(scene.get(job.id).await.state, JobState::Ready);
}

async fn a_batch_answers_in_order(scene: &Scene) {
    // Ids in no order, so that an answer sorted by id would show.
    let mut jobs = scene.new_jobs(9);
    jobs.swap(0, 5);
    jobs.swap(2, 7);
    let ids: Vec<_> = jobs.iter().map(|j| j.id).collect();
    let answered: Vec<_> = scene.submit(jobs).await.into_iter().map(|r| new(r).id).collect();
    assert_eq!(answered, ids);
}

async fn a_batch_over_one_statement_is_kept_whole(scene: &Scene) {
    let jobs = scene.new_jobs(2 * WRITE_ROWS_MAX + 1);
    let ids: Vec<_> = jobs.iter().map(|j| j.id).collect();
    let answered: Vec<_> = scene.submit(jobs).await.into_iter().map(|r| new(r).id).collect();
    assert_eq!(answered, ids);
    let mut found = 0;
    for ids in ids.chunks(1_000) {
        found += scene.ledger.jobs(ids).await.unwrap().len();
    }
    assert_eq!(found, ids.len());
}

async fn submissions_side_by_side_are_all_kept(scene: &Scene) {
    let submissions: Vec<_> = (0..40).map(|_| scene.new_jobs(7)).collect();
    let answers =
        join_all(submissions.iter().map(|jobs| async { scene.submit(jobs.clone()).await })).await;
    for (jobs, answer) in submissions.iter().zip(answers) {
        for (job, result) in jobs.iter().zip(answer) {
            assert_eq!(new(result).id, job.id);
            assert!(scene.find(job.id).await.is_some());
        }
    }
}

async fn a_dropped_caller_does_not_undo_its_submission(scene: &Scene) {
    let job = scene.new_job();
    let id = job.id;
    {
        let call = scene.submit(vec![job]);
        futures::pin_mut!(call);
        // Handed over by the first poll, then dropped.
        let _ = futures::poll!(call);
    }
    let found = tokio::time::timeout(Duration::from_secs(10), async {
        while scene.find(id).await.is_none() {
            tokio::task::yield_now().await;
        }
    });
    found.await.expect("the job is committed although nobody waits");
}

async fn a_submission_makes_its_queues(scene: &Scene) {
    let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
    let jobs = vec![
        NewJob { queue: two, ..scene.new_job() },
        NewJob { queue: one, ..scene.new_job() },
        scene.new_job(),
        scene.new_job(),
    ];
    scene.submit(jobs).await.into_iter().for_each(|r| drop(new(r)));
    let queues = scene.ledger.queues(Some(&scene.namespace)).await.unwrap();
    let names: Vec<_> = queues.iter().map(|q| q.name.as_str()).collect();
    assert_eq!(names, ["one", "q", "two"]);
    assert!(queues.iter().all(|q| q.version > 0 && q.paused.is_none()));
}

async fn a_payload_by_reference_reads_back(scene: &Scene) {
    let blob = BlobId::generate();
    let bytes = Bytes::from(vec![b'7'; 20_000]);
    scene.ledger.put_blob(&scene.namespace, blob, bytes.clone()).await.unwrap();
    let job = scene.accept(NewJob { payload: Value::Blob(blob), ..scene.new_job() }).await;
    assert_eq!(scene.get(job.id).await.payload, Value::Blob(blob));
    assert_eq!(scene.ledger.blob(&scene.namespace, blob).await.unwrap(), Some(bytes));
}

async fn odd_text_reads_back(scene: &Scene) {
    let tags: Vec<String> = [
        "",
        "NULL",
        "a,b",
        "{x}",
        "\"q\"",
        "back\\slash",
        " pad ",
        "it's",
        "ünï⚙\u{1f600}",
        "%_",
        "\u{1}\n",
    ]
    .map(String::from)
    .to_vec();
    let given = NewJob {
        tags: tags.clone(),
        request_id: Some(String::new()),
        traceparent: Some("'; DROP TABLE jobs; --".into()),
        meta: Some(Bytes::new()),
        payload: Value::Inline(Bytes::from_static(b"\xff\x00 not even text")),
        ..scene.unique_job("k'\"\\{},%", OnConflict::Reject)
    };
    let job = scene.accept(given.clone()).await;
    let read = scene.get(job.id).await;
    assert_eq!(read, job);
    assert_eq!(read.tags, tags);
    assert_eq!(read.request_id, given.request_id);
    assert_eq!(read.traceparent, given.traceparent);
    assert_eq!(read.meta, given.meta);
    assert_eq!(read.payload, given.payload);
    assert_eq!(read.unique_key, given.unique.map(|u| u.key));
}

/// A job of each sort that no ledger takes.
fn bad_jobs(scene: &Scene) -> Vec<NewJob> {
    vec![
        NewJob { tags: vec!["fine".into(), "a\0b".into()], ..scene.new_job() },
        scene.unique_job("a\0b", OnConflict::Reject),
        NewJob { request_id: Some("\0".into()), ..scene.new_job() },
        NewJob { traceparent: Some("\0".into()), ..scene.new_job() },
    ]
}

async fn a_row_with_a_nul_is_refused_alone(scene: &Scene) {
    for bad in bad_jobs(scene) {
        let id = bad.id;
        let neighbours = join_all((0..10).map(|_| scene.accept(scene.new_job())));
        let (alone, _) = tokio::join!(scene.offer(bad.clone()), neighbours);
        assert!(matches!(alone, Err(Refused::BadData(_))), "{alone:?}");
        let mut batch = scene.submit(vec![scene.new_job(), bad, scene.new_job()]).await;
        assert!(matches!(batch.remove(1), Err(Refused::BadData(_))));
        for result in batch {
            let job = new(result);
            assert_eq!(scene.get(job.id).await, job);
        }
        assert_eq!(scene.find(id).await, None);
    }
}

async fn an_atomic_batch_is_accepted_whole(scene: &Scene) {
    let mut jobs = scene.new_jobs(3);
    jobs[1].unique = super::scene::unique("k", OnConflict::Reject);
    let ids: Vec<_> = jobs.iter().map(|j| j.id).collect();
    let results = done(scene.submit_with(jobs, true, None).await);
    let answered: Vec<_> = results.into_iter().map(|r| new(r).id).collect();
    assert_eq!(answered, ids);
    assert_eq!(scene.ledger.jobs(&ids).await.unwrap().len(), 3);
}

async fn an_atomic_batch_over_one_statement_is_accepted_whole(scene: &Scene) {
    let jobs = scene.new_jobs(WRITE_ROWS_MAX + 100);
    let ids: Vec<_> = jobs.iter().map(|j| j.id).collect();
    let results = done(scene.submit_with(jobs, true, None).await);
    assert_eq!(results.into_iter().map(|r| new(r).id).collect::<Vec<_>>(), ids);
    assert_eq!(scene.ledger.jobs(&ids).await.unwrap().len(), ids.len());
}

async fn an_atomic_batch_with_a_bad_row_keeps_nothing(scene: &Scene) {
    for bad in bad_jobs(scene) {
        let jobs = vec![scene.new_job(), scene.unique_job("free", OnConflict::Reject), bad];
        let ids: Vec<_> = jobs.iter().map(|j| j.id).collect();
        let results = done(scene.submit_with(jobs, true, None).await);
        assert!(matches!(results[0], Err(Refused::Batch)), "{results:?}");
        assert!(matches!(results[1], Err(Refused::Batch)), "{results:?}");
        assert!(matches!(results[2], Err(Refused::BadData(_))), "{results:?}");
        assert_eq!(scene.ledger.jobs(&ids).await.unwrap(), []);
    }
    // The key of the refused jobs is free.
    scene.accept(scene.unique_job("free", OnConflict::Reject)).await;
}

async fn an_empty_submission_is_done(scene: &Scene) {
    assert!(scene.submit(Vec::new()).await.is_empty());
    assert!(done(scene.submit_with(Vec::new(), true, None).await).is_empty());
}

async fn other_namespaces_see_nothing(scene: &Scene) {
    let other = scene.elsewhere();
    let job = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    assert_eq!(other.find(job.id).await, None);
    assert_eq!(other.ledger.attempts(&other.namespace, job.id).await.unwrap(), None);
    assert_eq!(other.ledger.logs(&other.namespace, job.id, 0, 10).await.unwrap(), None);
    let page = other.ledger.list(&other.namespace, &Default::default(), None, 10).await.unwrap();
    assert_eq!(page.jobs, []);
    assert_eq!(other.ledger.queues(Some(&other.namespace)).await.unwrap(), []);
    // The same key is another key there.
    let twin = other.offer(other.unique_job("k", OnConflict::Reject)).await;
    assert!(matches!(twin, Ok(Accepted::New(_))), "{twin:?}");
}
