//! Submissions that are shaped, beside what else decides over what comes in: quotas of the namespace, and orders.

use super::orders::ordered;
use super::scene::{Scene, done, key, new};
use super::shaping::{
    HOUR, as_collected, assert_no_items, collect, collected, debounce, debounced, in_state, items,
    let_time_come, shaped, throttled,
};
use crate::engine::flow::Rate;
use crate::ledger::quotas::{Exceeded, Quota, Quotas, Used};
use crate::ledger::{Accepted, RateLimit, Refused, SubmitOutcome};
use crate::model::job::{Job, JobState, NewJob, Value};
use crate::model::shaping::{Shaping, Throttle};
use crate::model::time::Span;

super::cases![
    a_rate_refuses_whatever_is_shaped,
    a_refused_opener_begins_no_collection,
    items_pay_their_places_and_bytes,
    a_mixed_batch_pays_as_a_whole,
    what_a_throttle_refuses_pays_nothing,
    a_repeated_item_is_answered_although_the_quota_is_used_up,
    a_throttled_job_takes_its_place_in_an_order,
    what_is_put_into_a_series_has_no_order,
];

fn burst(burst: u32) -> Quotas {
    let rate = Some(RateLimit { limit: 1, per: Span(HOUR), burst: Some(burst) });
    Quotas { rate, ..Quotas::default() }
}

async fn set(scene: &Scene, quotas: &Quotas) {
    assert!(
        scene.ledger.set_quotas(&scene.namespace, Some(quotas), "a test").await.expect("quotas")
    );
}

async fn used(scene: &Scene) -> Used {
    scene.ledger.quotas(&scene.namespace).await.expect("quotas").expect("it has quotas").used
}

async fn count(scene: &Scene) -> Used {
    scene.ledger.count_quotas(&scene.namespace).await.expect("a count");
    used(scene).await
}

async fn refused(scene: &Scene, jobs: Vec<NewJob>) -> Exceeded {
    match scene.submit_with(jobs, false, key("refused", 1)).await {
        SubmitOutcome::OverQuota(exceeded) => exceeded,
        other => panic!("it was let in: {other:?}"),
    }
}

async fn a_rate_refuses_whatever_is_shaped(scene: &Scene) {
    set(scene, &burst(2)).await;
    let first = collect(scene, collected(scene, 1, 3)).await;
    let waiting = debounce(scene, debounced(scene, 1, HOUR, HOUR)).await.job;
    assert_eq!(used(scene).await.rate, 2, "each is a unit");
    for job in [collected(scene, 2, 3), debounced(scene, 2, HOUR, HOUR), throttled(scene, HOUR, 1)]
    {
        let id = job.id;
        let exceeded = refused(scene, vec![job]).await;
        assert_eq!((exceeded.quota, exceeded.used, exceeded.asked), (Quota::Rate, 2, 1));
        assert_eq!(scene.find(id).await, None);
    }
    // Nothing of them is there: no item, no successor, no unit of the throttle, no key.
    assert_eq!(scene.get(waiting.id).await, waiting);
    assert_eq!(scene.ledger.series(first.job).await.unwrap().expect("it is open").items, 1);
    set(scene, &burst(9)).await;
    new(scene.offer(throttled(scene, HOUR, 1)).await);
    let again = scene.submit_with(vec![collected(scene, 3, 3)], false, key("refused", 1)).await;
    assert_eq!(as_collected(done(again).remove(0)).item, 2);
    assert_eq!(used(scene).await.rate, 4);
    let shut = let_time_come(scene).await;
    let job = shut.iter().find(|job| job.id == first.job).expect("it was open");
    assert_eq!(items(scene, job).await, [1, 3]);
    assert_no_items(scene).await;
}

async fn a_refused_opener_begins_no_collection(scene: &Scene) {
    set(scene, &burst(1)).await;
    scene.accept(scene.new_job()).await;
    refused(scene, vec![collected(scene, 1, 3)]).await;
    refused(scene, vec![debounced(scene, 1, HOUR, HOUR)]).await;
    assert_eq!(in_state(scene, JobState::Blocked).await, []);
    assert_no_items(scene).await;
    set(scene, &burst(3)).await;
    assert!(collect(scene, collected(scene, 2, 3)).await.opened);
    assert_eq!(debounce(scene, debounced(scene, 2, HOUR, HOUR)).await.superseded, None);
}

/// Goal: a count finds one job where many items were let in, and as many bytes as its payload has or is to have.
async fn items_pay_their_places_and_bytes(scene: &Scene) {
    let quotas = Quotas { max_jobs: Some(3), max_bytes: Some(40), ..Quotas::default() };
    set(scene, &quotas).await;
    let mut job = None;
    for n in 1..=3 {
        job = Some(collect(scene, collected(scene, n * 1_000, 100)).await.job);
        assert_eq!((used(scene).await.jobs, used(scene).await.bytes), (n as u64, n as u64 * 4));
    }
    let exceeded = refused(scene, vec![collected(scene, 4, 100)]).await;
    assert_eq!((exceeded.quota, exceeded.used), (Quota::Jobs, 3));
    // {"items":[1000,2000,3000]} has 26 bytes, and while it is open its job has those of `null`.
    let counted = count(scene).await;
    assert_eq!((counted.jobs, counted.bytes), (1, 30));
    let long = NewJob { payload: Value::Inline("12345678901".into()), ..collected(scene, 4, 100) };
    assert_eq!(refused(scene, vec![long]).await.quota, Quota::Bytes);
    let shut = scene.ledger.shut(job.expect("three were let in")).await.unwrap();
    assert!(shut.is_some());
    let counted = count(scene).await;
    assert_eq!((counted.jobs, counted.bytes), (1, 26));
    assert!(collect(scene, collected(scene, 5, 100)).await.opened);
    // A debounced job needs a place although it takes another one's, which is free with the next count.
    set(scene, &Quotas { max_jobs: Some(4), ..Quotas::default() }).await;
    for n in [1, 2] {
        debounce(scene, debounced(scene, n, HOUR, HOUR)).await;
        assert_eq!(used(scene).await.jobs, 2 + n as u64);
        assert_eq!(count(scene).await.jobs, 3);
    }
    debounce(scene, debounced(scene, 3, HOUR, HOUR)).await;
    assert_eq!(refused(scene, vec![debounced(scene, 4, HOUR, HOUR)]).await.used, 4);
}

async fn a_mixed_batch_pays_as_a_whole(scene: &Scene) {
    set(scene, &burst(7)).await;
    let batch = || {
        vec![
            scene.new_job(),
            collected(scene, 1, 10),
            throttled(scene, HOUR, 5),
            debounced(scene, 2, HOUR, HOUR),
        ]
    };
    assert!(done(scene.submit_with(batch(), true, None).await).iter().all(Result::is_ok));
    assert_eq!(used(scene).await.rate, 4);
    let jobs = batch();
    let plain = jobs[0].id;
    let exceeded = refused(scene, jobs).await;
    assert_eq!((exceeded.quota, exceeded.used, exceeded.asked), (Quota::Rate, 4, 4));
    assert_eq!(scene.find(plain).await, None, "nor is what is not shaped");
    assert_eq!(in_state(scene, JobState::Blocked).await.len(), 2);
    assert_eq!(collect(scene, collected(scene, 2, 10)).await.item, 2);
}

async fn what_a_throttle_refuses_pays_nothing(scene: &Scene) {
    set(scene, &burst(2)).await;
    new(scene.offer(throttled(scene, HOUR, 1)).await);
    for _ in 0..3 {
        let again = scene.offer(throttled(scene, HOUR, 1)).await;
        assert!(matches!(again, Err(Refused::Throttled { .. })), "{again:?}");
    }
    assert_eq!(used(scene).await.rate, 1);
    scene.accept(scene.new_job()).await;
}

async fn a_repeated_item_is_answered_although_the_quota_is_used_up(scene: &Scene) {
    set(scene, &burst(1)).await;
    let submit = || scene.submit_with(vec![collected(scene, 1, 10)], false, key("once", 1));
    let first = as_collected(done(submit().await).remove(0));
    let repeated = submit().await;
    assert!(
        matches!(&repeated, SubmitOutcome::Replayed(ids) if ids[..] == [Some(first.job)]),
        "{repeated:?}"
    );
    assert_eq!(used(scene).await.rate, 1);
}

async fn a_throttled_job_takes_its_place_in_an_order(scene: &Scene) {
    let job = || {
        let rate = Rate::new(3_600_000_000, 2);
        shaped(ordered(scene, "o"), Shaping::Throttle(Throttle { key: "k".into(), rate }))
    };
    let first = new(scene.offer(job()).await);
    let second = new(scene.offer(job()).await);
    assert_eq!((first.state, second.state), (JobState::Ready, JobState::Blocked));
    let recorded: [Job; 2] = [scene.get(first.id).await, scene.get(second.id).await];
    assert_eq!(recorded, [first, second]);
    let third = job();
    let id = third.id;
    assert!(matches!(scene.offer(third).await, Err(Refused::Throttled { .. })));
    assert_eq!(scene.ledger.order_place(&scene.namespace, id).await.unwrap(), None);
    let behind = scene.accept(ordered(scene, "o")).await;
    let place = scene.ledger.order_place(&scene.namespace, behind.id).await.unwrap();
    assert_eq!(place.map(|place| place.before), Some(2));
}

async fn what_is_put_into_a_series_has_no_order(scene: &Scene) {
    for job in [collected(scene, 1, 10), debounced(scene, 1, HOUR, HOUR)] {
        let job = NewJob { spec: ordered(scene, "o").spec, ..job };
        let plain = scene.new_job();
        let results = done(scene.submit_with(vec![job, plain], false, None).await);
        assert!(matches!(results[0], Err(Refused::BadData(_))), "{results:?}");
        assert!(matches!(results[1], Ok(Accepted::New(_))), "{results:?}");
    }
    assert_eq!(in_state(scene, JobState::Blocked).await, []);
    let first = scene.accept(ordered(scene, "o")).await;
    assert_eq!(first.state, JobState::Ready, "nobody is before it");
}
