//! Quotas: asked and paid with what comes in, and counted anew.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::run_scene::{plain, signal};
use super::scene::{Scene, done, key};
use super::schedules::{change, fire, made};
use crate::engine::Ended;
use crate::ledger::quotas::{Exceeded, Quota, QuotaRecord, Quotas, Used};
use crate::ledger::runs::CreateOutcome;
use crate::ledger::schedules::{NewFire, NewWork, ScheduleChanged};
use crate::ledger::{Accepted, RateLimit, Refused, Submission, SubmitOutcome};
use crate::model::id::BlobId;
use crate::model::job::{NewJob, OnConflict, Value};
use crate::model::name::Namespace;
use crate::model::schedule::FireOutcome;
use crate::model::time::Span;

super::cases![
    quotas_are_kept_listed_and_taken_away,
    a_rate_holds_over_all_who_submit_at_once,
    what_is_refused_leaves_nothing_and_its_key_works_later,
    a_repeat_is_answered_although_the_quota_is_used_up,
    what_ends_makes_room_once_it_is_counted,
    jobs_from_before_the_quota_count,
    payloads_are_weighed_large_ones_too,
    what_brings_nothing_in_pays_nothing,
    what_is_larger_than_the_quota_is_never_let_in,
    a_run_is_let_in_as_a_whole_and_goes_on_past_the_door,
    what_a_schedule_fires_comes_in_past_the_door,
    a_neighbour_without_quotas_is_not_held_up,
    two_counts_at_once_count_once,
];

const HOUR: Duration = Duration::from_secs(3_600);

fn rate(limit: u32, per: Duration, burst: u32) -> Quotas {
    let rate = Some(RateLimit { limit, per: Span(per), burst: Some(burst) });
    Quotas { rate, ..Quotas::default() }
}

fn max_jobs(max: u64) -> Quotas {
    Quotas { max_jobs: Some(max), ..Quotas::default() }
}

async fn set(scene: &Scene, quotas: &Quotas) {
    let changed = scene.ledger.set_quotas(&scene.namespace, Some(quotas), "a test").await.unwrap();
    assert!(changed);
}

async fn record(scene: &Scene) -> QuotaRecord {
    scene.ledger.quotas(&scene.namespace).await.unwrap().expect("it has quotas")
}

async fn used(scene: &Scene) -> Used {
    record(scene).await.used
}

fn refused(outcome: SubmitOutcome) -> Exceeded {
    match outcome {
        SubmitOutcome::OverQuota(exceeded) => exceeded,
        other => panic!("it was let in: {other:?}"),
    }
}

async fn quotas_are_kept_listed_and_taken_away(scene: &Scene) {
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    assert_eq!(ledger.quotas(namespace).await.unwrap(), None);
    let before = ledger.now().await.unwrap();
    let all = Quotas { max_bytes: Some(1 << 40), max_jobs: Some(7), ..rate(3, HOUR, 5) };
    set(scene, &all).await;
    let found = record(scene).await;
    assert_eq!((&found.namespace, &found.quotas, found.used), (namespace, &all, Used::default()));
    assert_eq!(found.changed_by, "a test");
    assert!(found.changed_at >= before && found.counted_at.is_some_and(|at| at >= before));
    ledger.set_quotas(namespace, Some(&max_jobs(9)), "odd\0name").await.unwrap();
    assert_eq!(record(scene).await.quotas, max_jobs(9));
    let other = scene.elsewhere();
    set(&other, &max_jobs(1)).await;
    let mut listed: Vec<Namespace> = Vec::new();
    loop {
        let page = ledger.all_quotas(listed.last(), 1).await.unwrap();
        assert!(page.len() <= 1);
        let Some(next) = page.into_iter().next() else { break };
        listed.push(next.namespace);
    }
    assert!(listed.is_sorted(), "{listed:?}");
    assert!(listed.contains(namespace) && listed.contains(&other.namespace));
    assert!(ledger.set_quotas(namespace, None, "a test").await.unwrap());
    assert!(!ledger.set_quotas(namespace, None, "a test").await.unwrap());
    assert_eq!(ledger.quotas(namespace).await.unwrap(), None);
    scene.submit(scene.new_jobs(10)).await;
}

/// Goal: the bound holds exactly, whoever submits, one by one or together. Method: more is sent at once than the burst, and
/// the hour makes sure that nothing comes back meanwhile.
async fn a_rate_holds_over_all_who_submit_at_once(scene: &Scene) {
    set(scene, &rate(1, HOUR, 20)).await;
    let submitting =
        (0..40).map(|n| scene.submit_with(scene.new_jobs(1 + n % 3), n % 2 == 0, None));
    let (mut came_in, mut refusals) = (0, 0);
    for outcome in join_all(submitting).await {
        match outcome {
            SubmitOutcome::Done(results) => {
                assert!(results.iter().all(Result::is_ok));
                came_in += results.len();
            }
            other => {
                let Exceeded { quota, limit, used, asked, wait, .. } = refused(other);
                assert_eq!((quota, limit), (Quota::Rate, 20));
                assert!(used + asked > 20, "{used} + {asked}");
                assert!(
                    wait.is_some_and(|wait| wait > Duration::from_secs(1_000) && wait <= 3 * HOUR)
                );
                refusals += 1;
            }
        }
    }
    assert!(refusals > 0);
    // A job alone always finds the last place.
    while let SubmitOutcome::Done(results) = scene.submit_with(scene.new_jobs(1), false, None).await
    {
        came_in += results.len();
    }
    assert_eq!((came_in, used(scene).await.rate), (20, 20));
}

async fn what_is_refused_leaves_nothing_and_its_key_works_later(scene: &Scene) {
    set(scene, &rate(10, Duration::from_secs(3), 3)).await;
    scene.submit(scene.new_jobs(2)).await;
    let jobs = scene.new_jobs(3);
    let again = || scene.submit_with(jobs.clone(), false, key("k", 1));
    let before = record(scene).await;
    let exceeded = refused(again().await);
    assert_eq!((exceeded.quota, exceeded.asked), (Quota::Rate, 3));
    for job in &jobs {
        assert_eq!(scene.find(job.id).await, None);
    }
    assert!(record(scene).await.used.rate <= before.used.rate, "a refusal costs nothing");
    let mut tries = 0;
    let results = loop {
        match again().await {
            SubmitOutcome::OverQuota(exceeded) => tokio::time::sleep(exceeded.wait.unwrap()).await,
            other => break done(other),
        }
        tries += 1;
        assert!(tries < 50, "what it is told to wait is not enough");
    };
    assert!(results.iter().all(|result| matches!(result, Ok(Accepted::New(_)))));
}

async fn a_repeat_is_answered_although_the_quota_is_used_up(scene: &Scene) {
    set(scene, &rate(1, HOUR, 2)).await;
    let jobs = scene.new_jobs(2);
    let ids: Vec<_> = jobs.iter().map(|job| Some(job.id)).collect();
    done(scene.submit_with(jobs, false, key("k", 1)).await);
    for atomic in [false, true] {
        let repeated = scene.submit_with(scene.new_jobs(2), atomic, key("k", 1)).await;
        let SubmitOutcome::Replayed(found) = repeated else { panic!("{repeated:?}") };
        assert_eq!(found, ids);
        let reused = scene.submit_with(scene.new_jobs(2), atomic, key("k", 2)).await;
        assert!(matches!(reused, SubmitOutcome::KeyReused), "{reused:?}");
        refused(scene.submit_with(scene.new_jobs(2), atomic, key("other", 1)).await);
    }
}

async fn what_ends_makes_room_once_it_is_counted(scene: &Scene) {
    set(scene, &max_jobs(3)).await;
    let first = scene.accept(scene.new_job()).await.id;
    scene.submit(scene.new_jobs(2)).await;
    let exceeded = refused(scene.submit_with(scene.new_jobs(1), false, None).await);
    assert_eq!((exceeded.quota, exceeded.limit, exceeded.used), (Quota::Jobs, 3, 3));
    scene.end(first, 1, Ended::Succeeded).await;
    // Where so much is used, submissions wish for a count before long.
    let wished = async {
        while !scene.ledger.uncounted().contains(&scene.namespace) {
            refused(scene.submit_with(scene.new_jobs(1), false, None).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wished).await.expect("somebody wishes");
    scene.ledger.count_quotas(&scene.namespace).await.unwrap();
    assert_eq!(used(scene).await.jobs, 2);
    scene.accept(scene.new_job()).await;
    assert_eq!(used(scene).await.jobs, 3);
    refused(scene.submit_with(scene.new_jobs(1), false, None).await);
}

async fn jobs_from_before_the_quota_count(scene: &Scene) {
    scene.submit(scene.new_jobs(5)).await;
    set(scene, &max_jobs(6)).await;
    assert_eq!(used(scene).await.jobs, 5);
    scene.accept(scene.new_job()).await;
    refused(scene.submit_with(scene.new_jobs(1), true, None).await);
    set(scene, &max_jobs(7)).await;
    scene.accept(scene.new_job()).await;
}

async fn payloads_are_weighed_large_ones_too(scene: &Scene) {
    let of = |bytes: usize| Value::Inline(format!("\"{}\"", "x".repeat(bytes - 2)).into());
    let job = |payload| NewJob { payload, ..scene.new_job() };
    let blob = BlobId::generate();
    let large = Bytes::from(format!("\"{}\"", "y".repeat(4_998)));
    scene.ledger.put_blob(&scene.namespace, blob, large).await.unwrap();
    set(scene, &Quotas { max_bytes: Some(6_000), ..Quotas::default() }).await;
    scene.submit(vec![job(of(100)), job(Value::Blob(blob))]).await;
    assert_eq!(used(scene).await.bytes, 5_100);
    let exceeded = refused(scene.submit_with(vec![job(of(901))], false, None).await);
    let Exceeded { quota, limit, used: taken, asked, .. } = exceeded;
    assert_eq!((quota, limit, taken, asked), (Quota::Bytes, 6_000, 5_100, 901));
    scene.ledger.count_quotas(&scene.namespace).await.unwrap();
    assert_eq!(used(scene).await.bytes, 5_100, "the count weighs as the door does");
    scene.accept(job(of(900))).await;
    let exceeded = refused(scene.submit_with(vec![job(Value::Blob(blob))], true, None).await);
    assert_eq!((exceeded.asked, exceeded.used), (5_000, 6_000));
}

async fn what_brings_nothing_in_pays_nothing(scene: &Scene) {
    set(scene, &rate(1, HOUR, 2)).await;
    let held = scene.accept(scene.unique_job("u", OnConflict::Reject)).await.id;
    for _ in 0..3 {
        let existing = scene.offer(scene.unique_job("u", OnConflict::ReturnExisting)).await;
        assert_eq!(existing, Ok(Accepted::Existing(held)));
        let rejected = scene.offer(scene.unique_job("u", OnConflict::Reject)).await;
        assert_eq!(rejected, Err(Refused::UniqueKeyHeld { holder: held }));
    }
    assert_eq!(used(scene).await.rate, 1);
    scene.accept(scene.new_job()).await;
    // Used up: what is there already is still answered, and nothing else.
    let existing = scene.offer(scene.unique_job("u", OnConflict::ReturnExisting)).await;
    assert_eq!(existing, Ok(Accepted::Existing(held)));
    let replacing = vec![scene.unique_job("u", OnConflict::Replace)];
    assert_eq!(refused(scene.submit_with(replacing, false, None).await).quota, Quota::Rate);
    assert!(!scene.get(held).await.state.is_terminal(), "nobody took its place");
}

async fn what_is_larger_than_the_quota_is_never_let_in(scene: &Scene) {
    for quotas in [rate(1_000, HOUR, 3), max_jobs(3), Quotas { max_bytes: Some(10), ..max_jobs(9) }]
    {
        set(scene, &quotas).await;
        let exceeded = refused(scene.submit_with(scene.new_jobs(4), false, None).await);
        assert_eq!(exceeded.wait, None, "{exceeded:?}");
    }
}

async fn a_run_is_let_in_as_a_whole_and_goes_on_past_the_door(scene: &Scene) {
    set(scene, &rate(1, HOUR, 3)).await;
    let steps = || vec![plain("a", &[]), plain("b", &[0]), signal("s", &[])];
    let (run, _) = scene.run_of(steps()).await;
    assert_eq!(used(scene).await.rate, 2, "a unit for each job that it comes with");
    let late = crate::ledger::runs::NewRun { idempotency: key("r", 1), ..scene.new_run(steps()) };
    let outcome = scene.ledger.create_run(&late).await.unwrap();
    let CreateOutcome::OverQuota(exceeded) = outcome else { panic!("{outcome:?}") };
    assert_eq!((exceeded.quota, exceeded.used, exceeded.asked), (Quota::Rate, 2, 2));
    assert_eq!(scene.ledger.run(&scene.namespace, late.id).await.unwrap(), None);
    scene.accept(scene.new_job()).await;
    // What was accepted goes on.
    let released = scene.step_ends(run, "a", Ended::Succeeded).await.released;
    assert_eq!(released.len(), 1);
    set(scene, &rate(1, HOUR, 9)).await;
    assert!(matches!(scene.ledger.create_run(&late).await.unwrap(), CreateOutcome::Created(_)));
    set(scene, &rate(1, HOUR, 3)).await;
    let again = scene.ledger.create_run(&late).await.unwrap();
    assert_eq!(again, CreateOutcome::Replayed(late.id), "a repeat pays nothing");
}

async fn what_a_schedule_fires_comes_in_past_the_door(scene: &Scene) {
    set(scene, &Quotas { max_jobs: Some(1), ..rate(1, HOUR, 1) }).await;
    scene.accept(scene.new_job()).await;
    refused(scene.submit_with(scene.new_jobs(1), false, None).await);
    let schedule = made(scene, "nightly").await;
    let (job, run) = (scene.new_job(), scene.new_run(vec![plain("a", &[])]));
    let works = [NewWork::Job(Box::new(job)), NewWork::Run(Box::new(run))];
    for (n, work) in works.into_iter().enumerate() {
        let fire = fire(60 + n as i64, FireOutcome::Fired);
        let new = NewFire { fire, detail: None, work: Some(work) };
        let done = change(scene, &schedule, |change| change.fires.push(new)).await;
        let ScheduleChanged::Done { jobs, refused, .. } = done else { panic!("{done:?}") };
        assert_eq!((jobs.len(), refused), (1, vec![]));
    }
    scene.ledger.count_quotas(&scene.namespace).await.unwrap();
    assert_eq!(used(scene).await, Used { rate: 1, jobs: 3, bytes: 0 }, "it is there all the same");
}

/// Goal: submissions that are merged into one group are decided by themselves.
async fn a_neighbour_without_quotas_is_not_held_up(scene: &Scene) {
    let free = scene.elsewhere();
    set(scene, &rate(1, HOUR, 5)).await;
    let submission =
        |scene: &Scene| Submission { jobs: scene.new_jobs(1), atomic: false, idempotency: None };
    let all = (0..60).map(|n| {
        let whose = if n % 2 == 0 { scene } else { &free };
        let submitting = scene.ledger.submit(submission(whose));
        async move { (n % 2, submitting.await.expect("submit")) }
    });
    let mut came_in = [0, 0];
    for (whose, outcome) in join_all(all).await {
        if let SubmitOutcome::Done(results) = outcome {
            assert!(results.iter().all(Result::is_ok));
            came_in[whose] += 1;
        }
    }
    assert_eq!(came_in, [5, 30]);
}

/// Goal: what is let in while jobs are counted is not counted twice, nor lost. Method: counts and submissions all at once.
async fn two_counts_at_once_count_once(scene: &Scene) {
    set(scene, &max_jobs(1_000)).await;
    let submitting = join_all((0..40).map(|_| scene.offer(scene.new_job())));
    let counting = join_all((0..20).map(|_| scene.ledger.count_quotas(&scene.namespace)));
    let (submitted, counted) = futures::join!(submitting, counting);
    assert!(submitted.iter().all(Result::is_ok) && counted.iter().all(Result::is_ok));
    assert_eq!(used(scene).await.jobs, 40);
    scene.ledger.count_quotas(&scene.namespace).await.unwrap();
    assert_eq!(used(scene).await.jobs, 40);
}
