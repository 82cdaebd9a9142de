//! At most one job holds a unique key of a queue.

use std::time::Duration;

use futures::future::join_all;

use super::scene::{Scene, changed, done, new, unique};
use crate::engine::Ended;
use crate::ledger::{Accepted, Changed, JobFilter, Recorded, Refused};
use crate::model::job::{JobState, NewJob, OnConflict, Unique};

super::cases![
    a_held_key_refuses_and_names_the_holder,
    a_held_key_returns_its_holder_on_request,
    replacing_cancels_a_holder_that_has_not_started,
    replacing_leaves_a_started_holder_alone,
    a_key_is_free_once_its_holder_is_terminal,
    a_key_is_kept_between_attempts,
    a_window_outlives_its_job,
    a_window_ends,
    twenty_clients_race_for_a_key,
    clients_race_to_replace,
    two_jobs_of_a_batch_share_a_key,
    a_key_belongs_to_its_queue,
    an_atomic_batch_with_a_held_key_keeps_nothing,
    an_atomic_batch_replaces_all_or_nothing,
    a_redriven_job_takes_its_key_back,
    a_redrive_waits_for_the_key,
    deleting_a_job_frees_its_window,
];

async fn a_held_key_refuses_and_names_the_holder(scene: &Scene) {
    let holder = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    let second = scene.unique_job("k", OnConflict::Reject);
    let id = second.id;
    assert_eq!(scene.offer(second).await, Err(Refused::UniqueKeyHeld { holder: holder.id }));
    assert_eq!(scene.find(id).await, None);
    assert_eq!(scene.get(holder.id).await, holder);
}

async fn a_held_key_returns_its_holder_on_request(scene: &Scene) {
    let holder = scene.accept(scene.unique_job("k", OnConflict::ReturnExisting)).await;
    let second = scene.unique_job("k", OnConflict::ReturnExisting);
    let id = second.id;
    assert_eq!(scene.offer(second).await, Ok(Accepted::Existing(holder.id)));
    assert_eq!(scene.find(id).await, None);
}

async fn replacing_cancels_a_holder_that_has_not_started(scene: &Scene) {
    let ahead = scene.ledger.now().await.unwrap().plus(Duration::from_secs(60));
    let mut holder = scene.accept(scene.unique_job("k", OnConflict::Replace)).await;
    for run_at in [None, Some(ahead), None] {
        let next = NewJob { run_at, ..scene.unique_job("k", OnConflict::Replace) };
        let id = next.id;
        let Ok(Accepted::Replaced(job, replaced)) = scene.offer(next).await else {
            panic!("a waiting holder is replaced");
        };
        assert_eq!((job.id, replaced), (id, holder.id));
        assert_eq!(scene.get(id).await, job);
        let old = scene.get(holder.id).await;
        assert_eq!(old.state, JobState::Cancelled);
        assert!(old.finished_at.is_some() && old.error.is_some());
        // A late outcome of the replaced one changes nothing.
        assert_eq!(scene.end(old.id, 99, Ended::Succeeded).await, Recorded::Stale);
        holder = job;
    }
    let refused = scene.offer(scene.unique_job("k", OnConflict::Reject)).await;
    assert_eq!(refused, Err(Refused::UniqueKeyHeld { holder: holder.id }));
}

async fn replacing_leaves_a_started_holder_alone(scene: &Scene) {
    let holder = scene.accept(scene.unique_job("k", OnConflict::Replace)).await;
    let held = Err(Refused::UniqueKeyHeld { holder: holder.id });
    scene.start(holder.id, 1).await;
    assert_eq!(scene.offer(scene.unique_job("k", OnConflict::Replace)).await, held);
    scene.end(holder.id, 1, Ended::Retry(super::scene::at(0))).await;
    assert_eq!(scene.offer(scene.unique_job("k", OnConflict::Replace)).await, held);
    scene.end(holder.id, 2, Ended::Released).await;
    assert_eq!(scene.offer(scene.unique_job("k", OnConflict::Replace)).await, held);
    assert_eq!(scene.get(holder.id).await.state, JobState::Ready);
}

async fn a_key_is_free_once_its_holder_is_terminal(scene: &Scene) {
    let ways =
        [Ended::Succeeded, Ended::Dead, Ended::Cancelled, Ended::Expired, Ended::Quarantined];
    for ended in ways {
        let job = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
        scene.start(job.id, 1).await;
        assert_eq!(scene.end(job.id, 1, ended).await, Recorded::Applied);
    }
    let job = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    changed(scene.ledger.cancel(&scene.namespace, job.id, None, false, "test").await.unwrap());
    scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
}

async fn a_key_is_kept_between_attempts(scene: &Scene) {
    let job = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    let later = super::scene::at(100);
    let ways = [Ended::Retry(later), Ended::Snoozed(later), Ended::Released, Ended::Lost];
    for (fence, ended) in (1..).zip(ways) {
        assert_eq!(scene.end(job.id, fence, ended).await, Recorded::Applied);
        let second = scene.offer(scene.unique_job("k", OnConflict::Reject)).await;
        assert_eq!(second, Err(Refused::UniqueKeyHeld { holder: job.id }));
    }
}

fn windowed(scene: &Scene, window: Duration) -> NewJob {
    let unique = Unique { key: "k".into(), window: Some(window), on_conflict: OnConflict::Reject };
    NewJob { unique: Some(unique), ..scene.new_job() }
}

async fn a_window_outlives_its_job(scene: &Scene) {
    let job = scene.accept(windowed(scene, Duration::from_secs(3600))).await;
    scene.end(job.id, 1, Ended::Succeeded).await;
    let second = scene.offer(windowed(scene, Duration::from_secs(3600))).await;
    assert_eq!(second, Err(Refused::UniqueKeyHeld { holder: job.id }));
}

async fn a_window_ends(scene: &Scene) {
    let window = Duration::from_millis(20);
    let first = scene.accept(windowed(scene, window)).await;
    while scene.ledger.now().await.unwrap() <= first.created_at.plus(window) {}
    // The first one is still waiting: its window is over all the same.
    let second = scene.accept(windowed(scene, Duration::from_secs(3600))).await;
    // And its end does not take the key from the second.
    scene.end(first.id, 1, Ended::Succeeded).await;
    let third = scene.offer(windowed(scene, window)).await;
    assert_eq!(third, Err(Refused::UniqueKeyHeld { holder: second.id }));
}

async fn twenty_clients_race_for_a_key(scene: &Scene) {
    for on_conflict in [OnConflict::Reject, OnConflict::ReturnExisting] {
        let key = format!("{on_conflict:?}");
        let calls = (0..20).map(|_| scene.offer(scene.unique_job(&key, on_conflict)));
        let (mut winners, mut holders) = (Vec::new(), Vec::new());
        for result in join_all(calls).await {
            match result {
                Ok(Accepted::New(job)) => winners.push(job.id),
                Ok(Accepted::Existing(id)) | Err(Refused::UniqueKeyHeld { holder: id }) => {
                    holders.push(id);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(holders, [winners[0]; 19]);
    }
}

async fn clients_race_to_replace(scene: &Scene) {
    let calls = (0..10).map(|_| scene.offer(scene.unique_job("k", OnConflict::Replace)));
    let (mut made, mut replaced) = (Vec::new(), Vec::new());
    for result in join_all(calls).await {
        match result {
            Ok(Accepted::New(job)) => made.push(job.id),
            Ok(Accepted::Replaced(job, old)) => {
                made.push(job.id);
                replaced.push(old);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((made.len(), replaced.len()), (10, 9));
    let alive = JobFilter { states: vec![JobState::Ready], ..JobFilter::default() };
    let page = scene.ledger.list(&scene.namespace, &alive, None, 100).await.unwrap();
    assert_eq!(page.jobs.len(), 1);
    assert!(!replaced.contains(&page.jobs[0].id));
}

async fn two_jobs_of_a_batch_share_a_key(scene: &Scene) {
    let jobs = vec![
        scene.unique_job("k", OnConflict::Reject),
        scene.unique_job("k", OnConflict::Reject),
        scene.unique_job("k", OnConflict::ReturnExisting),
        scene.new_job(),
    ];
    let first = jobs[0].id;
    let mut results = scene.submit(jobs).await;
    new(results.pop().unwrap());
    assert_eq!(results[2], Ok(Accepted::Existing(first)));
    assert_eq!(results[1], Err(Refused::UniqueKeyHeld { holder: first }));
    assert_eq!(new(results.swap_remove(0)).id, first);
}

async fn a_key_belongs_to_its_queue(scene: &Scene) {
    scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    let elsewhere = "other".parse().unwrap();
    scene.accept(NewJob { queue: elsewhere, ..scene.unique_job("k", OnConflict::Reject) }).await;
}

async fn an_atomic_batch_with_a_held_key_keeps_nothing(scene: &Scene) {
    let holder = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    let jobs = vec![
        scene.unique_job("free", OnConflict::Reject),
        scene.unique_job("k", OnConflict::Reject),
        scene.new_job(),
    ];
    let ids: Vec<_> = jobs.iter().map(|j| j.id).collect();
    let results = done(scene.submit_with(jobs, true, None).await);
    let expected = [
        Err(Refused::Batch),
        Err(Refused::UniqueKeyHeld { holder: holder.id }),
        Err(Refused::Batch),
    ];
    assert_eq!(results, expected);
    assert_eq!(scene.ledger.jobs(&ids).await.unwrap(), []);
    scene.accept(scene.unique_job("free", OnConflict::Reject)).await;
}

async fn an_atomic_batch_replaces_all_or_nothing(scene: &Scene) {
    let waiting = scene.accept(scene.unique_job("a", OnConflict::Reject)).await;
    let started = scene.accept(scene.unique_job("b", OnConflict::Reject)).await;
    scene.start(started.id, 1).await;
    let jobs = vec![
        scene.unique_job("a", OnConflict::Replace),
        scene.unique_job("b", OnConflict::Replace),
    ];
    let results = done(scene.submit_with(jobs.clone(), true, None).await);
    assert_eq!(results[0], Err(Refused::Batch));
    assert_eq!(scene.get(waiting.id).await.state, JobState::Ready);
    scene.end(started.id, 1, Ended::Succeeded).await;
    let results = done(scene.submit_with(jobs, true, None).await);
    assert!(matches!(results[0], Ok(Accepted::Replaced(_, id)) if id == waiting.id), "{results:?}");
    assert!(matches!(results[1], Ok(Accepted::New(_))), "{results:?}");
}

async fn a_redriven_job_takes_its_key_back(scene: &Scene) {
    let job = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    scene.end(job.id, 1, Ended::Dead).await;
    changed(scene.ledger.redrive(&scene.namespace, job.id).await.unwrap());
    let second = scene.offer(scene.unique_job("k", OnConflict::Reject)).await;
    assert_eq!(second, Err(Refused::UniqueKeyHeld { holder: job.id }));
}

async fn a_redrive_waits_for_the_key(scene: &Scene) {
    let job = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    scene.end(job.id, 1, Ended::Dead).await;
    let second = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    let refused = scene.ledger.redrive(&scene.namespace, job.id).await.unwrap();
    assert_eq!(refused, Changed::Refused(JobState::Dead));
    assert_eq!(scene.get(job.id).await.state, JobState::Dead);
    scene.end(second.id, 1, Ended::Succeeded).await;
    changed(scene.ledger.redrive(&scene.namespace, job.id).await.unwrap());
}

async fn deleting_a_job_frees_its_window(scene: &Scene) {
    let job = scene.accept(windowed(scene, Duration::from_secs(3600))).await;
    scene.end(job.id, 1, Ended::Succeeded).await;
    changed(scene.ledger.delete(&scene.namespace, job.id).await.unwrap());
    let job = NewJob { unique: unique("k", OnConflict::Reject), ..scene.new_job() };
    scene.accept(job).await;
}
