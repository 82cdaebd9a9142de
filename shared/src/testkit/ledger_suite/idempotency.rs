//! A caller's key: the same call twice is one call.

use futures::future::join_all;

use super::scene::{Scene, done, key, new};
use crate::engine::Ended;
use crate::ledger::{Accepted, Refused, SubmitOutcome};
use crate::limits::WRITE_ROWS_MAX;
use crate::model::id::JobId;
use crate::model::job::{NewJob, OnConflict};

super::cases![
    a_repeat_returns_the_first_answer,
    another_body_is_refused,
    twenty_clients_with_one_key_make_one_job,
    clients_with_one_key_and_two_bodies_make_one_job,
    a_key_belongs_to_its_namespace,
    a_repeat_names_what_was_refused,
    a_submission_that_was_refused_spends_no_key,
    a_repeat_names_what_was_forgotten,
    a_batch_over_one_statement_is_replayed,
    a_repeat_returns_the_holder_that_was_returned,
    a_key_with_unique_jobs_makes_them_once,
];

async fn replayed(scene: &Scene, jobs: Vec<NewJob>, name: &str) -> Vec<Option<JobId>> {
    match scene.submit_with(jobs, false, key(name, 1)).await {
        SubmitOutcome::Replayed(ids) => ids,
        other => panic!("expected a replay, got {other:?}"),
    }
}

async fn a_repeat_returns_the_first_answer(scene: &Scene) {
    let first = done(scene.submit_with(scene.new_jobs(3), false, key("k", 1)).await);
    let ids: Vec<_> = first.into_iter().map(|r| Some(new(r).id)).collect();
    // The repeat draws other ids: they are not used.
    let again = scene.new_jobs(3);
    let drawn: Vec<_> = again.iter().map(|j| j.id).collect();
    assert_eq!(replayed(scene, again, "k").await, ids);
    assert_eq!(scene.ledger.jobs(&drawn).await.unwrap(), []);
}

async fn another_body_is_refused(scene: &Scene) {
    done(scene.submit_with(scene.new_jobs(1), false, key("k", 1)).await);
    let job = scene.new_job();
    let id = job.id;
    let outcome = scene.submit_with(vec![job], false, key("k", 2)).await;
    assert!(matches!(outcome, SubmitOutcome::KeyReused), "{outcome:?}");
    let outcome = scene.submit_with(scene.new_jobs(2), true, key("k", 2)).await;
    assert!(matches!(outcome, SubmitOutcome::KeyReused), "{outcome:?}");
    assert_eq!(scene.find(id).await, None);
}

async fn twenty_clients_with_one_key_make_one_job(scene: &Scene) {
    let jobs = scene.new_jobs(20);
    let drawn: Vec<_> = jobs.iter().map(|j| j.id).collect();
    let calls = jobs.into_iter().map(|job| scene.submit_with(vec![job], false, key("k", 1)));
    let mut firsts = Vec::new();
    let mut replays = Vec::new();
    for outcome in join_all(calls).await {
        match outcome {
            SubmitOutcome::Done(mut results) => firsts.push(new(results.remove(0)).id),
            SubmitOutcome::Replayed(ids) => replays.extend(ids),
            SubmitOutcome::KeyReused => panic!("the bodies are the same"),
            SubmitOutcome::OverQuota(exceeded) => panic!("{exceeded:?}"),
        }
    }
    assert_eq!(firsts.len(), 1);
    assert_eq!(replays, [Some(firsts[0]); 19]);
    let kept: Vec<_> = scene.ledger.jobs(&drawn).await.unwrap();
    assert_eq!(kept.iter().map(|j| j.id).collect::<Vec<_>>(), firsts);
}

async fn clients_with_one_key_and_two_bodies_make_one_job(scene: &Scene) {
    let calls = (0..20u8).map(|n| scene.submit_with(scene.new_jobs(1), false, key("k", n)));
    let outcomes = join_all(calls).await;
    let made = outcomes.iter().filter(|o| matches!(o, SubmitOutcome::Done(_))).count();
    let reused = outcomes.iter().filter(|o| matches!(o, SubmitOutcome::KeyReused)).count();
    assert_eq!((made, reused), (1, 19));
}

async fn a_key_belongs_to_its_namespace(scene: &Scene) {
    let other = scene.elsewhere();
    done(scene.submit_with(scene.new_jobs(1), false, key("k", 1)).await);
    done(other.submit_with(other.new_jobs(1), false, key("k", 2)).await);
}

async fn a_repeat_names_what_was_refused(scene: &Scene) {
    let mut jobs = scene.new_jobs(3);
    jobs[1].tags = vec!["\0".into()];
    let results = done(scene.submit_with(jobs.clone(), false, key("k", 1)).await);
    assert!(matches!(results[1], Err(Refused::BadData(_))), "{results:?}");
    let expected = [Some(jobs[0].id), None, Some(jobs[2].id)];
    assert_eq!(replayed(scene, scene.new_jobs(3), "k").await, expected);
}

async fn a_submission_that_was_refused_spends_no_key(scene: &Scene) {
    let holder = scene.accept(scene.unique_job("u", OnConflict::Reject)).await;
    let one = vec![scene.unique_job("u", OnConflict::Reject)];
    let results = done(scene.submit_with(one.clone(), false, key("k", 1)).await);
    assert_eq!(results, [Err(Refused::UniqueKeyHeld { holder: holder.id })]);
    let both = vec![scene.new_job(), one[0].clone()];
    let results = done(scene.submit_with(both, true, key("k", 1)).await);
    assert_eq!(results[0], Err(Refused::Batch));
    // Once the reason is gone, the same key works.
    scene.end(holder.id, 1, Ended::Succeeded).await;
    let results = done(scene.submit_with(one.clone(), false, key("k", 1)).await);
    assert_eq!(new(results.into_iter().next().unwrap()).id, one[0].id);
}

async fn a_repeat_names_what_was_forgotten(scene: &Scene) {
    let jobs = scene.new_jobs(2);
    done(scene.submit_with(jobs.clone(), false, key("k", 1)).await);
    scene.end(jobs[0].id, 1, Ended::Succeeded).await;
    scene.ledger.delete(&scene.namespace, jobs[0].id).await.unwrap();
    assert_eq!(replayed(scene, scene.new_jobs(2), "k").await, [None, Some(jobs[1].id)]);
}

async fn a_batch_over_one_statement_is_replayed(scene: &Scene) {
    let jobs = scene.new_jobs(WRITE_ROWS_MAX + 5);
    let ids: Vec<_> = jobs.iter().map(|j| Some(j.id)).collect();
    let results = done(scene.submit_with(jobs, false, key("k", 1)).await);
    assert_eq!(results.len(), ids.len());
    assert_eq!(replayed(scene, scene.new_jobs(WRITE_ROWS_MAX + 5), "k").await, ids);
}

async fn a_repeat_returns_the_holder_that_was_returned(scene: &Scene) {
    let holder = scene.accept(scene.unique_job("u", OnConflict::Reject)).await;
    let job = scene.unique_job("u", OnConflict::ReturnExisting);
    let results = done(scene.submit_with(vec![job], false, key("k", 1)).await);
    assert_eq!(results, [Ok(Accepted::Existing(holder.id))]);
    assert_eq!(replayed(scene, scene.new_jobs(1), "k").await, [Some(holder.id)]);
}

async fn a_key_with_unique_jobs_makes_them_once(scene: &Scene) {
    let calls = (0..8).map(|_| {
        let jobs = vec![
            scene.unique_job("a", OnConflict::Reject),
            scene.new_job(),
            scene.unique_job("b", OnConflict::Reject),
        ];
        scene.submit_with(jobs, false, key("k", 1))
    });
    let mut answers: Vec<Vec<Option<JobId>>> = Vec::new();
    for outcome in join_all(calls).await {
        answers.push(match outcome {
            SubmitOutcome::Done(results) => results.into_iter().map(|r| Some(new(r).id)).collect(),
            SubmitOutcome::Replayed(ids) => ids,
            SubmitOutcome::KeyReused => panic!("the bodies are the same"),
            SubmitOutcome::OverQuota(exceeded) => panic!("{exceeded:?}"),
        });
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}
