//! Submissions that are shaped before they are jobs: debounced, collected, throttled.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::scene::{Scene, done, key, new};
use crate::engine::Ended;
use crate::engine::flow::Rate;
use crate::ledger::shaping::{Collected, Debounced};
use crate::ledger::{
    Accepted, JobFilter, LedgerError, Recorded, Refused, SubmitOutcome, Unfinished,
};
use crate::limits::INLINE_BYTES_MAX;
use crate::model::id::{BlobId, JobId};
use crate::model::job::{Job, JobState, NewJob, OnConflict, Value};
use crate::model::shaping::{Collect, Debounce, SeriesSort, Shaping, Throttle};
use crate::model::time::Timestamp;

super::cases![
    a_debounced_job_waits_where_nobody_can_start_it,
    the_last_debounced_submission_wins,
    a_debounced_storm_runs_every_max_wait,
    a_series_that_is_over_is_shut_by_the_next_submission,
    a_series_belongs_to_its_queue_and_kind,
    clients_race_to_debounce,
    a_debounced_batch_keeps_its_last,
    items_are_collected_in_order,
    a_collection_runs_when_its_time_has_come,
    clients_race_to_collect,
    a_batch_of_items_fills_several_collections,
    a_large_collection_is_a_value_of_its_own,
    an_item_by_reference_is_refused,
    an_item_that_does_not_fit_begins_the_next,
    a_repeated_item_is_not_added_again,
    a_refused_batch_adds_no_item,
    shutting_by_hand_keeps_what_was_collected,
    racing_shutters_shut_once,
    a_throttle_lets_its_burst_through,
    clients_race_through_a_throttle,
    a_refused_submission_costs_no_unit,
    a_throttle_that_says_nothing_is_forgotten,
    a_batch_may_mix_them,
    series_of_other_namespaces_are_others,
];

pub(super) const HOUR: Duration = Duration::from_secs(3600);

fn numbered(scene: &Scene, n: usize) -> NewJob {
    NewJob { payload: Value::Inline(n.to_string().into()), ..scene.new_job() }
}

pub(super) fn shaped(job: NewJob, shaping: Shaping) -> NewJob {
    NewJob { shaping: Some(Box::new(shaping)), ..job }
}

pub(super) fn debounced(scene: &Scene, n: usize, delay: Duration, max_wait: Duration) -> NewJob {
    shaped(numbered(scene, n), Shaping::Debounce(Debounce { key: "k".into(), delay, max_wait }))
}

pub(super) fn collected(scene: &Scene, n: usize, items_max: u32) -> NewJob {
    item(numbered(scene, n), items_max, HOUR, 1 << 20)
}

fn item(job: NewJob, items_max: u32, wait: Duration, bytes_max: u32) -> NewJob {
    shaped(job, Shaping::Collect(Collect { key: "k".into(), items_max, wait, bytes_max }))
}

pub(super) fn throttled(scene: &Scene, interval: Duration, burst: u32) -> NewJob {
    let rate = Rate::new(u64::try_from(interval.as_micros()).unwrap(), burst);
    shaped(scene.new_job(), Shaping::Throttle(Throttle { key: "k".into(), rate }))
}

pub(super) async fn debounce(scene: &Scene, job: NewJob) -> Debounced {
    match scene.offer(job).await {
        Ok(Accepted::Debounced(debounced)) => debounced,
        other => panic!("not debounced: {other:?}"),
    }
}

pub(super) async fn collect(scene: &Scene, job: NewJob) -> Collected {
    as_collected(scene.offer(job).await)
}

pub(super) fn as_collected(result: Result<Accepted, Refused>) -> Collected {
    match result {
        Ok(Accepted::Collected(collected)) => collected,
        other => panic!("not collected: {other:?}"),
    }
}

/// Lets the time of every open series of the scene come, and shuts those that nobody else has. Other cases' series that
/// are due meanwhile are shut as well.
pub(super) async fn let_time_come(scene: &Scene) -> Vec<Job> {
    let sql = format!("UPDATE series SET shuts_at = 1 WHERE namespace = '{}'", scene.namespace);
    scene.ledger.tamper(sql).await.unwrap();
    let shut = scene.ledger.shut_due(100).await.unwrap();
    shut.into_iter().filter(|job| job.namespace == scene.namespace).collect()
}

/// Fails where items are left of the scene.
pub(super) async fn assert_no_items(scene: &Scene) {
    // A row that cannot be: where there is an item, it is refused.
    let sql = format!(
        "INSERT INTO throttles (namespace, queue, key, free_at, job_id) \
         SELECT namespace, 'left', 'left', NULL, job_id FROM series_items WHERE namespace = '{}'",
        scene.namespace
    );
    let left: Result<(), LedgerError> = scene.ledger.tamper(sql).await;
    assert!(left.is_ok(), "items are left over: {left:?}");
}

async fn bytes(scene: &Scene, job: &Job) -> Bytes {
    match &job.payload {
        Value::Inline(bytes) => bytes.clone(),
        Value::Blob(id) => {
            scene.ledger.blob(&scene.namespace, *id).await.unwrap().expect("a kept payload")
        }
    }
}

pub(super) async fn items(scene: &Scene, job: &Job) -> Vec<usize> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Payload {
        items: Vec<usize>,
    }
    let payload: Payload = serde_json::from_slice(&bytes(scene, job).await).unwrap();
    payload.items
}

pub(super) async fn in_state(scene: &Scene, state: JobState) -> Vec<Job> {
    let filter = JobFilter { states: vec![state], ..JobFilter::default() };
    scene.ledger.list(&scene.namespace, &filter, None, 500).await.unwrap().jobs
}

/// Jobs that the sweep would bring to the engine.
async fn startable(scene: &Scene) -> Vec<JobId> {
    let ever = Timestamp::from_micros(i64::MAX);
    let page = Unfinished::new(&scene.namespace, &scene.queue, (ever, ever), 1_000);
    let page = scene.ledger.unfinished(page).await.unwrap();
    page.jobs.iter().map(|job| job.id).collect()
}

async fn a_debounced_job_waits_where_nobody_can_start_it(scene: &Scene) {
    let delay = Duration::from_secs(60);
    let first = debounce(scene, debounced(scene, 1, delay, HOUR)).await;
    assert_eq!((first.superseded, first.shut.len()), (None, 0));
    assert_eq!(scene.get(first.job.id).await, first.job);
    assert_eq!(first.job.state, JobState::Blocked);
    let series = scene.ledger.series(first.job.id).await.unwrap().expect("it is open");
    assert_eq!((series.sort, series.key.as_str()), (SeriesSort::Debounce, "k"));
    assert_eq!(first.job.run_at, series.shuts_at);
    assert_eq!(series.shuts_at, series.opened_at.plus(delay));
    assert_eq!(series.latest_at, series.opened_at.plus(HOUR));
    assert_eq!(startable(scene).await, []);
    assert!(!scene.ledger.shut_due(100).await.unwrap().contains(&first.job), "not due yet");
    let shut = let_time_come(scene).await;
    assert_eq!(shut.iter().map(|job| job.id).collect::<Vec<_>>(), [first.job.id]);
    assert_eq!(shut, [scene.get(first.job.id).await]);
    assert_eq!(shut[0].state, JobState::Ready);
    assert!(shut[0].run_at < series.shuts_at, "it was shut before its time");
    assert_eq!(startable(scene).await, [first.job.id]);
    assert_eq!(scene.ledger.series(first.job.id).await.unwrap(), None);
}

async fn the_last_debounced_submission_wins(scene: &Scene) {
    let mut before: Option<Debounced> = None;
    for n in 1..=5 {
        let next = debounce(scene, debounced(scene, n, HOUR, 2 * HOUR)).await;
        assert_eq!(next.superseded, before.as_ref().map(|before| before.job.id));
        if let Some(before) = before {
            let old = scene.get(before.job.id).await;
            let error = old.error.expect("a reason");
            assert_eq!((old.state, error.code.as_str()), (JobState::Cancelled, "superseded"));
            assert!(error.message.contains(&next.job.id.to_string()), "{}", error.message);
            assert!(old.finished_at.is_some());
            assert!(next.job.run_at > before.job.run_at, "the time is put off");
        }
        before = Some(next);
    }
    let shut = let_time_come(scene).await;
    assert_eq!(shut.len(), 1);
    assert_eq!(bytes(scene, &shut[0]).await, "5");
    // It runs: the next one begins anew and touches it not.
    scene.start(shut[0].id, 1).await;
    let next = debounce(scene, debounced(scene, 6, HOUR, HOUR)).await;
    assert_eq!(next.superseded, None);
    assert_eq!(scene.end(shut[0].id, 1, Ended::Succeeded).await, Recorded::Applied);
}

/// Goal: however many submissions come, one runs every `max_wait`, and no time is put off beyond it.
async fn a_debounced_storm_runs_every_max_wait(scene: &Scene) {
    let (delay, max_wait) = (Duration::from_secs(20), Duration::from_millis(60));
    let mut opened: Option<Job> = None;
    let mut shut = Vec::new();
    for n in 0..5_000 {
        let next = debounce(scene, debounced(scene, n, delay, max_wait)).await;
        if next.superseded.is_none() {
            opened = Some(next.job.clone());
        }
        let first = opened.as_ref().expect("the first one opens a series");
        assert_eq!(next.job.run_at, first.run_at, "the bound of the first one");
        assert!(first.run_at <= first.created_at.plus(max_wait));
        shut.extend(next.shut);
        if shut.len() == 3 {
            break;
        }
    }
    assert_eq!(shut.len(), 3, "the storm has not let anything run");
    assert!(shut.iter().all(|job| job.state == JobState::Ready));
    assert_eq!(startable(scene).await.len(), 3);
}

async fn a_series_that_is_over_is_shut_by_the_next_submission(scene: &Scene) {
    let first = debounce(scene, debounced(scene, 1, Duration::from_micros(1), HOUR)).await;
    while scene.ledger.now().await.unwrap() <= first.job.run_at {}
    let second = debounce(scene, debounced(scene, 2, HOUR, HOUR)).await;
    assert_eq!(second.superseded, None);
    assert_eq!(second.shut, [scene.get(first.job.id).await]);
    assert_eq!(second.shut[0].state, JobState::Ready);
    assert_eq!(bytes(scene, &second.shut[0]).await, "1");
    assert_eq!(in_state(scene, JobState::Blocked).await, [second.job]);
}

async fn a_series_belongs_to_its_queue_and_kind(scene: &Scene) {
    let one = || collected(scene, 1, 10);
    let first = collect(scene, one()).await;
    let other_queue = collect(scene, NewJob { queue: "z".parse().unwrap(), ..one() }).await;
    let other_kind = collect(scene, NewJob { kind: "z".parse().unwrap(), ..one() }).await;
    let waiting = debounce(scene, debounced(scene, 1, HOUR, HOUR)).await;
    let jobs = [first.job, other_queue.job, other_kind.job, waiting.job.id];
    assert_eq!(jobs.into_iter().collect::<HashSet<_>>().len(), 4, "each is its own");
    assert_eq!(collect(scene, one()).await.item, 2);
}

async fn clients_race_to_debounce(scene: &Scene) {
    let calls = (0..24).map(|n| debounce(scene, debounced(scene, n, HOUR, HOUR)));
    let all = join_all(calls).await;
    let superseded: HashSet<JobId> = all.iter().filter_map(|one| one.superseded).collect();
    assert_eq!(superseded.len(), 23, "each but one has replaced another one");
    let left = in_state(scene, JobState::Blocked).await;
    assert_eq!(left.len(), 1);
    assert!(!superseded.contains(&left[0].id));
    assert_eq!(in_state(scene, JobState::Cancelled).await.len(), 23);
    assert_eq!(let_time_come(scene).await.len(), 1);
}

async fn a_debounced_batch_keeps_its_last(scene: &Scene) {
    let jobs: Vec<NewJob> = (0..4).map(|n| debounced(scene, n, HOUR, HOUR)).collect();
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let results = done(scene.submit_with(jobs, true, None).await);
    let superseded: Vec<_> =
        results.iter().map(|result| result.as_ref().unwrap().replaced()).collect();
    assert_eq!(superseded, [None, Some(ids[0]), Some(ids[1]), Some(ids[2])]);
    let left: Vec<JobId> = in_state(scene, JobState::Blocked).await.iter().map(|j| j.id).collect();
    assert_eq!(left, [ids[3]]);
}

async fn items_are_collected_in_order(scene: &Scene) {
    let mut job = None;
    for n in 1..=3_u32 {
        let one = collect(scene, collected(scene, n as usize, 3)).await;
        assert_eq!((one.item, one.opened), (n, n == 1));
        assert_eq!(*job.get_or_insert(one.job), one.job);
        if n < 3 {
            assert_eq!(one.shut, []);
            let waiting = scene.get(one.job).await;
            assert_eq!((waiting.state, waiting.run_at), (JobState::Blocked, one.until));
            let series = scene.ledger.series(one.job).await.unwrap().expect("it is open");
            assert_eq!((series.items, series.items_max), (n, 3));
            assert_eq!(startable(scene).await, []);
        } else {
            assert_eq!(one.shut, [scene.get(one.job).await]);
            assert_eq!(bytes(scene, &one.shut[0]).await, r#"{"items":[1,2,3]}"#);
            assert_eq!(startable(scene).await, [one.job]);
        }
    }
    assert_no_items(scene).await;
    let next = collect(scene, collected(scene, 4, 3)).await;
    assert_eq!((next.item, Some(next.job) == job), (1, false));
}

async fn a_collection_runs_when_its_time_has_come(scene: &Scene) {
    let mut wait = Duration::from_millis(30);
    let first = loop {
        let first = collect(scene, item(numbered(scene, 1), 100, wait, 1 << 20)).await;
        let second = collect(scene, item(numbered(scene, 2), 1, HOUR, 1 << 20)).await;
        if second.job == first.job {
            assert_eq!(second.until, first.until, "the first one's rules");
            break first;
        }
        // The machine was so slow that the first one's time had come.
        assert!(scene.ledger.now().await.unwrap() > first.until, "too early for another");
        wait *= 4;
    };
    while scene.ledger.now().await.unwrap() <= first.until {}
    // Somebody else's turn may have shut it, or an item that is late.
    let late = collect(scene, collected(scene, 3, 100)).await;
    assert_eq!((late.item, late.shut.len()), (1, 1));
    assert_eq!(items(scene, &late.shut[0]).await, [1, 2]);
    let rest = let_time_come(scene).await;
    assert_eq!(rest.iter().map(|job| job.id).collect::<Vec<_>>(), [late.job]);
    assert_eq!(items(scene, &rest[0]).await, [3]);
    assert_no_items(scene).await;
}

/// Goal: of racing submitters, and somebody who shuts what they collect, each item is in one payload, at its number.
async fn clients_race_to_collect(scene: &Scene) {
    let clients = (0..8).map(|client| async move {
        let mut mine = Vec::new();
        for n in 0..25 {
            let n = client * 25 + n;
            let job = item(numbered(scene, n), 10, Duration::from_millis(5), 1 << 20);
            mine.push((n, collect(scene, job).await));
        }
        mine
    });
    let shutters = (0..2).map(|_| async {
        let mut shut = 0;
        for _ in 0..40 {
            shut += scene.ledger.shut_due(10).await.unwrap().len();
        }
        shut
    });
    let (answers, _) = futures::join!(join_all(clients), join_all(shutters));
    let_time_come(scene).await;
    let mut expected: BTreeMap<JobId, BTreeMap<u32, usize>> = BTreeMap::new();
    for (n, answer) in answers.into_iter().flatten() {
        let before = expected.entry(answer.job).or_default().insert(answer.item, n);
        assert_eq!(before, None, "a number was given twice");
    }
    let mut seen = 0;
    for (job, numbers) in expected {
        let job = scene.get(job).await;
        assert_eq!(job.state, JobState::Ready);
        assert!(numbers.len() <= 10, "{}", numbers.len());
        assert_eq!(items(scene, &job).await, numbers.into_values().collect::<Vec<_>>());
        seen += 1;
    }
    assert_eq!(in_state(scene, JobState::Ready).await.len(), seen, "no job without an item");
    assert_eq!(in_state(scene, JobState::Blocked).await, []);
    assert_no_items(scene).await;
}

async fn a_batch_of_items_fills_several_collections(scene: &Scene) {
    let open = collect(scene, collected(scene, 0, 10)).await;
    let jobs = (1..=25).map(|n| collected(scene, n, 10)).collect();
    let all: Vec<Collected> =
        done(scene.submit_with(jobs, false, None).await).into_iter().map(as_collected).collect();
    let numbers: Vec<u32> = all.iter().map(|one| one.item).collect();
    let expected: Vec<u32> = (2..=10).chain(1..=10).chain(1..=6).collect();
    assert_eq!(numbers, expected);
    assert_eq!(all[0].job, open.job);
    let shut: Vec<&Job> = all.iter().flat_map(|one| &one.shut).collect();
    assert_eq!(shut.len(), 2);
    assert_eq!(items(scene, shut[0]).await, (0..10).collect::<Vec<_>>());
    assert_eq!(items(scene, shut[1]).await, (10..20).collect::<Vec<_>>());
    let rest = let_time_come(scene).await;
    assert_eq!(items(scene, &rest[0]).await, (20..=25).collect::<Vec<_>>());
}

async fn a_large_collection_is_a_value_of_its_own(scene: &Scene) {
    let large = |n: usize| {
        let text = format!("\"{}\"", n.to_string().repeat(INLINE_BYTES_MAX - 2));
        NewJob { payload: Value::Inline(text.into()), ..scene.new_job() }
    };
    let one = |n| item(large(n), 2, HOUR, 1 << 20);
    let first = collect(scene, one(1)).await;
    let second = collect(scene, one(2)).await;
    assert_eq!(second.job, first.job);
    let [job] = second.shut.as_slice() else { panic!("two are all") };
    assert!(matches!(job.payload, Value::Blob(_)));
    let (Value::Inline(one), Value::Inline(two)) = (large(1).payload, large(2).payload) else {
        panic!("both are inline")
    };
    let expected = [b"{\"items\":[".as_slice(), &one, b",", &two, b"]}"].concat();
    assert_eq!(bytes(scene, job).await, expected);
    // The value is the job's: it goes with it.
    assert_eq!(scene.end(job.id, 1, Ended::Succeeded).await, Recorded::Applied);
    let Value::Blob(blob) = job.payload else { panic!("it was a blob") };
    scene.ledger.delete(&scene.namespace, job.id).await.unwrap();
    assert_eq!(scene.ledger.blob(&scene.namespace, blob).await.unwrap(), None);
}

async fn an_item_by_reference_is_refused(scene: &Scene) {
    let payload = Value::Blob(BlobId::generate());
    let offered = scene.offer(NewJob { payload, ..collected(scene, 1, 10) }).await;
    assert!(matches!(offered, Err(Refused::BadData(_))), "{offered:?}");
    assert_eq!(collect(scene, collected(scene, 1, 10)).await.item, 1);
}

async fn an_item_that_does_not_fit_begins_the_next(scene: &Scene) {
    let one = |n: usize| item(numbered(scene, n), 100, HOUR, 20);
    // {"items":[111,222]} has 19 bytes; a third item would make it longer than 20.
    let first = collect(scene, one(111)).await;
    let second = collect(scene, one(222)).await;
    assert_eq!((second.job, second.item, second.shut.len()), (first.job, 2, 1));
    let long = collect(scene, one(3)).await;
    assert_eq!((long.item, long.opened), (1, true));
    let next = collect(scene, one(1_234_567)).await;
    // It begins the next one, which has no room for another item then.
    assert_eq!((next.item, next.opened, next.shut.len()), (1, true, 2));
    assert_eq!(items(scene, &next.shut[0]).await, [3]);
    assert_eq!(items(scene, &next.shut[1]).await, [1_234_567]);
}

async fn a_repeated_item_is_not_added_again(scene: &Scene) {
    let submit = || scene.submit_with(vec![collected(scene, 7, 10)], false, key("once", 1));
    let first = as_collected(done(submit().await).remove(0));
    for _ in 0..2 {
        match submit().await {
            SubmitOutcome::Replayed(ids) => assert_eq!(ids, [Some(first.job)]),
            other => panic!("not a repeat: {other:?}"),
        }
    }
    assert_eq!(collect(scene, collected(scene, 8, 10)).await.item, 2);
    let others = || scene.submit_with(vec![collected(scene, 9, 10)], false, key("race", 1));
    let outcomes = join_all((0..6).map(|_| others())).await;
    let fresh = outcomes.iter().filter(|o| matches!(o, SubmitOutcome::Done(_))).count();
    assert_eq!(fresh, 1);
    let shut = let_time_come(scene).await;
    assert_eq!(items(scene, &shut[0]).await, [7, 8, 9]);
}

async fn a_refused_batch_adds_no_item(scene: &Scene) {
    let held = scene.accept(scene.unique_job("u", OnConflict::Reject)).await;
    let jobs = vec![
        collected(scene, 1, 10),
        debounced(scene, 2, HOUR, HOUR),
        scene.unique_job("u", OnConflict::Reject),
        throttled(scene, HOUR, 1),
    ];
    let results = done(scene.submit_with(jobs, true, None).await);
    assert_eq!(results[2], Err(Refused::UniqueKeyHeld { holder: held.id }));
    for n in [0, 1, 3] {
        assert_eq!(results[n], Err(Refused::Batch), "{n}");
    }
    assert_eq!(in_state(scene, JobState::Blocked).await, []);
    assert_no_items(scene).await;
    assert_eq!(collect(scene, collected(scene, 1, 10)).await.item, 1);
    new(scene.offer(throttled(scene, HOUR, 1)).await);
}

async fn shutting_by_hand_keeps_what_was_collected(scene: &Scene) {
    let first = collect(scene, collected(scene, 1, 10)).await;
    collect(scene, collected(scene, 2, 10)).await;
    // What a cancellation by hand asks for: a blocked job is none of its.
    let cancel = scene.ledger.cancel(&scene.namespace, first.job, None, false, "test");
    assert_eq!(cancel.await.unwrap(), crate::ledger::Changed::Refused(JobState::Blocked));
    let job = scene.ledger.shut(first.job).await.unwrap().expect("it was open");
    assert_eq!((job.state, items(scene, &job).await), (JobState::Ready, vec![1, 2]));
    assert_eq!(scene.ledger.shut(first.job).await.unwrap(), None);
    assert_eq!(scene.ledger.shut(scene.accept(scene.new_job()).await.id).await.unwrap(), None);
    assert_eq!(collect(scene, collected(scene, 3, 10)).await.item, 1);
}

async fn racing_shutters_shut_once(scene: &Scene) {
    for n in 0..20 {
        let job = NewJob { kind: format!("kind{n}").parse().unwrap(), ..collected(scene, n, 10) };
        collect(scene, job).await;
    }
    let sql = format!("UPDATE series SET shuts_at = 1 WHERE namespace = '{}'", scene.namespace);
    scene.ledger.tamper(sql).await.unwrap();
    let shut = join_all((0..6).map(|_| scene.ledger.shut_due(7))).await;
    let mut shut: Vec<Job> = shut.into_iter().flat_map(Result::unwrap).collect();
    for _ in 0..20 {
        shut.extend(scene.ledger.shut_due(7).await.unwrap());
    }
    shut.retain(|job| job.namespace == scene.namespace);
    let distinct: HashSet<JobId> = shut.iter().map(|job| job.id).collect();
    assert_eq!((shut.len(), distinct.len()), (20, 20));
    for job in &shut {
        assert_eq!(items(scene, job).await.len(), 1);
    }
    assert_no_items(scene).await;
}

fn refused(result: Result<Accepted, Refused>) -> (JobId, Duration) {
    match result {
        Err(Refused::Throttled { last, wait }) => (last, wait),
        other => panic!("not throttled: {other:?}"),
    }
}

async fn a_throttle_lets_its_burst_through(scene: &Scene) {
    let mut last = None;
    for _ in 0..3 {
        last = Some(new(scene.offer(throttled(scene, HOUR, 3)).await));
    }
    let last = last.expect("three were accepted");
    assert_eq!((last.state, scene.get(last.id).await.id), (JobState::Ready, last.id));
    let late = throttled(scene, HOUR, 3);
    let id = late.id;
    let (by, wait) = refused(scene.offer(late).await);
    assert_eq!((by, scene.find(id).await), (last.id, None));
    assert!(wait <= HOUR && wait > HOUR - Duration::from_secs(600), "{wait:?}");
    // Another key of the queue, the same one of another queue.
    let elsewhere = NewJob { queue: "z".parse().unwrap(), ..throttled(scene, HOUR, 3) };
    new(scene.offer(elsewhere).await);
    let other_kind = NewJob { kind: "z".parse().unwrap(), ..throttled(scene, HOUR, 3) };
    refused(scene.offer(other_kind).await);
    // It comes back with time: one at a time.
    let quick = Duration::from_millis(40);
    let sql = format!("UPDATE throttles SET free_at = 1 WHERE namespace = '{}'", scene.namespace);
    scene.ledger.tamper(sql).await.unwrap();
    let (began, mut through) = (scene.ledger.now().await.unwrap(), 0_u32);
    while through < 6 {
        through += u32::from(scene.offer(throttled(scene, quick, 2)).await.is_ok());
    }
    let passed = scene.ledger.now().await.unwrap().since(began);
    let most = 2 + passed.as_millis() / quick.as_millis();
    assert!(u128::from(through) <= most, "{through} within {passed:?}");
}

async fn clients_race_through_a_throttle(scene: &Scene) {
    let offers = (0..30).map(|_| scene.offer(throttled(scene, HOUR, 7)));
    let results = join_all(offers).await;
    let accepted: HashSet<JobId> = results.iter().flatten().map(Accepted::id).collect();
    assert_eq!(accepted.len(), 7);
    for result in results.into_iter().filter(Result::is_err) {
        let (last, _) = refused(result);
        assert!(accepted.contains(&last));
    }
    assert_eq!(in_state(scene, JobState::Ready).await.len(), 7);
}

async fn a_refused_submission_costs_no_unit(scene: &Scene) {
    let bad = NewJob { tags: vec!["\0".into()], ..throttled(scene, HOUR, 1) };
    assert!(matches!(scene.offer(bad).await, Err(Refused::BadData(_))));
    let first = new(scene.offer(throttled(scene, HOUR, 1)).await);
    // One whose key is spent already is no submission.
    let again = vec![throttled(scene, HOUR, 1)];
    let results = done(scene.submit_with(again, false, key("once", 1)).await);
    assert_eq!(refused(results.into_iter().next().unwrap()).0, first.id);
    let sql = format!("UPDATE throttles SET free_at = 1 WHERE namespace = '{}'", scene.namespace);
    scene.ledger.tamper(sql).await.unwrap();
    let submit = || scene.submit_with(vec![throttled(scene, HOUR, 2)], false, key("once", 1));
    new(done(submit().await).remove(0));
    assert!(matches!(submit().await, SubmitOutcome::Replayed(_)), "a repeat is not throttled");
    new(scene.offer(throttled(scene, HOUR, 2)).await);
    refused(scene.offer(throttled(scene, HOUR, 2)).await);
}

async fn a_throttle_that_says_nothing_is_forgotten(scene: &Scene) {
    new(scene.offer(throttled(scene, Duration::from_micros(1), 1)).await);
    let busy = |key: &str| {
        let rate = Rate::new(3_600_000_000, 1);
        shaped(scene.new_job(), Shaping::Throttle(Throttle { key: key.into(), rate }))
    };
    let last = new(scene.offer(busy("busy")).await);
    let before = Timestamp::from_millis(0);
    while scene.prune_all(before, 100).await > 0 {}
    // Rows of this scene are counted by a statement that fails where there is one too many.
    let sql = format!(
        "INSERT INTO throttles (namespace, queue, key, free_at, job_id) \
         SELECT namespace, queue, 'seen', NULL, job_id FROM throttles \
         WHERE namespace = '{}' AND key = 'k'",
        scene.namespace
    );
    scene.ledger.tamper(sql).await.expect("the idle key is forgotten");
    assert_eq!(refused(scene.offer(busy("busy")).await).0, last.id, "the busy one is not");
}

async fn a_batch_may_mix_them(scene: &Scene) {
    let jobs = vec![
        scene.new_job(),
        collected(scene, 1, 2),
        throttled(scene, HOUR, 1),
        debounced(scene, 2, HOUR, HOUR),
        collected(scene, 3, 2),
        throttled(scene, HOUR, 1),
        NewJob { tags: vec!["\0".into()], ..collected(scene, 4, 2) },
        scene.unique_job("u", OnConflict::Reject),
    ];
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let results = done(scene.submit_with(jobs, false, key("mixed", 1)).await);
    assert!(matches!(&results[0], Ok(Accepted::New(job)) if job.id == ids[0]));
    assert!(matches!(&results[1], Ok(Accepted::Collected(one)) if one.job == ids[1]));
    assert!(matches!(&results[2], Ok(Accepted::New(job)) if job.id == ids[2]));
    assert!(matches!(&results[3], Ok(Accepted::Debounced(one)) if one.job.id == ids[3]));
    assert!(matches!(&results[4], Ok(Accepted::Collected(one)) if one.job == ids[1]));
    assert!(matches!(&results[5], Err(Refused::Throttled { last, .. }) if *last == ids[2]));
    assert!(matches!(&results[6], Err(Refused::BadData(_))));
    assert!(matches!(&results[7], Ok(Accepted::New(job)) if job.id == ids[7]));
    let again = scene.submit_with(vec![scene.new_job()], false, key("mixed", 1)).await;
    match again {
        SubmitOutcome::Replayed(found) => {
            let expected = [
                Some(ids[0]),
                Some(ids[1]),
                Some(ids[2]),
                Some(ids[3]),
                Some(ids[1]),
                None,
                None,
                Some(ids[7]),
            ];
            assert_eq!(found, expected);
        }
        other => panic!("not a repeat: {other:?}"),
    }
}

async fn series_of_other_namespaces_are_others(scene: &Scene) {
    let there = scene.elsewhere();
    let here = collect(scene, collected(scene, 1, 10)).await;
    let other = collect(&there, collected(&there, 1, 10)).await;
    assert_eq!((here.item, other.item), (1, 1));
    new(scene.offer(throttled(scene, HOUR, 1)).await);
    new(there.offer(throttled(&there, HOUR, 1)).await);
    debounce(scene, debounced(scene, 1, HOUR, HOUR)).await;
    assert_eq!(debounce(&there, debounced(&there, 1, HOUR, HOUR)).await.superseded, None);
}
