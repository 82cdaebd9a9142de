//! Queues and their settings.

use std::time::Duration;

use futures::future::join_all;

use super::scene::{Scene, at, done, key, new};
use crate::ledger::{
    Accepted, KindLimits, LedgerError, Paused, QueueSettings, RateLimit, Refused,
    RetryBudgetSettings, SubmitOutcome,
};
use crate::model::job::{NewJob, Priority};
use crate::model::retry::RetryPolicy;
use crate::model::time::Span;

super::cases![
    an_unknown_queue_is_none,
    settings_read_back_and_make_the_queue,
    pausing_keeps_the_settings,
    every_change_raises_the_version,
    settings_replace_only_the_version_that_was_seen,
    changes_side_by_side_all_count,
    a_submission_changes_no_settings,
    queues_of_every_namespace_are_listed,
    queues_come_in_pages,
    settings_of_a_newer_build_are_read_as_far_as_known,
    a_queue_that_cannot_be_read_hides_no_others,
    a_namespace_has_a_bound_of_queues,
    new_queues_are_told,
];

fn settings() -> QueueSettings {
    QueueSettings {
        max_concurrency: Some(4),
        rate_limit: Some(RateLimit {
            limit: 5,
            per: Span(Duration::from_secs(60)),
            burst: Some(2),
        }),
        per_key_concurrency: Some(1),
        per_key_rate_limit: None,
        retry_budget: Some(RetryBudgetSettings { percent: Some(7), min: None }),
        kinds: Some([("a.b".parse().expect("a kind"), KindLimits::default())].into()),
        fairness_weights: Some([("a".to_owned(), 3)].into()),
        max_depth: Some(1 << 40),
        latency_objective: Some(Span(Duration::from_millis(2_500))),
        lease: Some(Span(Duration::from_secs(20))),
        priority_unit: Some(Span(Duration::from_secs(30))),
        default_max_attempts: Some(9),
        default_timeout: Some(Span(Duration::from_millis(1500))),
        default_retry: Some(RetryPolicy::default()),
        default_priority: Priority::new(7),
    }
}

fn pause(n: i64) -> Paused {
    Paused { since: at(n), by: "key-1".into(), reason: Some("maintenance\0 \"x\"".into()) }
}

async fn an_unknown_queue_is_none(scene: &Scene) {
    assert_eq!(scene.ledger.queue(&scene.namespace, &scene.queue).await.unwrap(), None);
    assert_eq!(scene.ledger.queues(Some(&scene.namespace)).await.unwrap(), []);
}

async fn settings_read_back_and_make_the_queue(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    let made = ledger.set_queue(namespace, queue, None, &settings()).await.unwrap().unwrap();
    assert_eq!((&made.namespace, &made.name), (namespace, queue));
    assert_eq!((&made.settings, &made.paused), (&settings(), &None));
    assert_eq!(ledger.queue(namespace, queue).await.unwrap().as_ref(), Some(&made));
    // Replaced as a whole, not merged.
    let bare =
        ledger.set_queue(namespace, queue, None, &QueueSettings::default()).await.unwrap().unwrap();
    assert_eq!(bare.settings, QueueSettings::default());
    assert_eq!(bare.created_at, made.created_at);
}

async fn pausing_keeps_the_settings(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    ledger.set_queue(namespace, queue, None, &settings()).await.unwrap().unwrap();
    let paused = ledger.set_paused(namespace, queue, Some(&pause(1))).await.unwrap();
    assert_eq!((paused.paused, paused.settings), (Some(pause(1)), settings()));
    let set =
        ledger.set_queue(namespace, queue, None, &QueueSettings::default()).await.unwrap().unwrap();
    assert_eq!(set.paused, Some(pause(1)));
    assert!(set.shard_settings().paused);
    let resumed = ledger.set_paused(namespace, queue, None).await.unwrap();
    assert_eq!(resumed.paused, None);
    let other = "fresh".parse().unwrap();
    let fresh = ledger.set_paused(namespace, &other, Some(&pause(2))).await.unwrap();
    assert_eq!(fresh.paused, Some(pause(2)));
}

async fn every_change_raises_the_version(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    scene.accept(scene.new_job()).await;
    let mut last = ledger.queue(namespace, queue).await.unwrap().unwrap().version;
    assert!(last > 0);
    for n in 0..3 {
        for version in [
            ledger.set_queue(namespace, queue, None, &settings()).await.unwrap().unwrap().version,
            ledger.set_paused(namespace, queue, Some(&pause(n))).await.unwrap().version,
            ledger.set_paused(namespace, queue, None).await.unwrap().version,
        ] {
            assert!(version > last);
            last = version;
        }
    }
}

async fn settings_replace_only_the_version_that_was_seen(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    let set = |seen| async move {
        ledger.set_queue(namespace, queue, Some(seen), &settings()).await.unwrap()
    };
    let first = set(0).await.expect("there was no queue");
    assert_eq!(set(0).await, None, "there is one by now");
    let second = set(first.version).await.expect("nobody changed it");
    assert_eq!(set(first.version).await, None);
    let paused = ledger.set_paused(namespace, queue, Some(&pause(1))).await.unwrap();
    assert_eq!(set(second.version).await, None, "a pause is a change");
    // Side by side one wins; a queue that a submission has just made has no settings to lose.
    let calls = join_all((0..5).map(|_| set(paused.version))).await;
    assert_eq!(calls.iter().flatten().count(), 1);
    let other = scene.elsewhere();
    other.accept(other.new_job()).await;
    let made = ledger.set_queue(&other.namespace, &other.queue, Some(0), &settings()).await;
    assert!(made.unwrap().is_some());
}

async fn changes_side_by_side_all_count(scene: &Scene) {
    let calls = (0..10).map(|n| async move {
        let paused = (n % 2 == 0).then(|| pause(n));
        let queue = scene.ledger.set_paused(&scene.namespace, &scene.queue, paused.as_ref()).await;
        queue.unwrap().version
    });
    let mut versions = join_all(calls).await;
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 10);
}

async fn a_submission_changes_no_settings(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    let before = ledger.set_queue(namespace, queue, None, &settings()).await.unwrap().unwrap();
    scene.accept(scene.new_job()).await;
    assert_eq!(ledger.queue(namespace, queue).await.unwrap(), Some(before));
}

async fn queues_of_every_namespace_are_listed(scene: &Scene) {
    let other = scene.elsewhere();
    scene.accept(scene.new_job()).await;
    other.accept(other.new_job()).await;
    let all = scene.ledger.queues(None).await.unwrap();
    for namespace in [&scene.namespace, &other.namespace] {
        assert!(all.iter().any(|q| q.namespace == *namespace));
        assert_eq!(scene.ledger.queues(Some(namespace)).await.unwrap().len(), 1);
    }
    assert!(all.is_sorted_by_key(|q| (q.namespace.clone(), q.name.clone())));
}

async fn make_queues(scene: &Scene, names: &[&str]) {
    for name in names {
        let name = name.parse().unwrap();
        scene.ledger.set_queue(&scene.namespace, &name, None, &settings()).await.unwrap().unwrap();
    }
}

/// Names, page after page, as the pages say.
async fn names(scene: &Scene, limit: u32) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..1_000 {
        let page = scene.ledger.queue_page(Some(&scene.namespace), after.as_ref(), limit).await;
        let page = page.unwrap();
        assert!(page.queues.len() <= limit as usize);
        found.extend(page.queues.into_iter().map(|q| q.name.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
    panic!("the pages don't end");
}

async fn queues_come_in_pages(scene: &Scene) {
    // In the order of bytes, whatever the database's language is.
    let sorted = ["A", "B", "a", "a-b", "a.b", "aB", "ab"];
    make_queues(scene, &["ab", "B", "a.b", "a", "aB", "A", "a-b"]).await;
    for limit in [1, 2, 7, 8, 100] {
        assert_eq!(names(scene, limit).await, sorted, "{limit}");
    }
    // Across namespaces nothing is left out or told twice.
    let other = scene.elsewhere();
    make_queues(&other, &["z", "a"]).await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = scene.ledger.queue_page(None, after.as_ref(), 2).await.unwrap();
        seen.extend(page.queues.into_iter().map(|q| (q.namespace, q.name)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mine = |(n, _): &&(_, _)| [&scene.namespace, &other.namespace].contains(&n);
    assert_eq!(seen.iter().filter(mine).count(), 9);
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]));
}

async fn settings_of_a_newer_build_are_read_as_far_as_known(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    ledger.set_queue(namespace, queue, None, &settings()).await.unwrap().unwrap();
    let sql = format!(
        "UPDATE queues SET settings = '{{\"max_depth\":7,\"new\":[1]}}' WHERE namespace = '{namespace}'"
    );
    ledger.tamper(sql).await.unwrap();
    let expected = QueueSettings { max_depth: Some(7), ..QueueSettings::default() };
    let read = ledger.queue(namespace, queue).await.unwrap().unwrap();
    assert_eq!(read.settings, expected);
    assert_eq!(ledger.queues(Some(namespace)).await.unwrap()[0].settings, expected);
}

async fn a_queue_that_cannot_be_read_hides_no_others(scene: &Scene) {
    make_queues(scene, &["a", "b", "c", "d", "e"]).await;
    let strange = r#"{"max_depth":"deep"}"#;
    let sql = format!(
        "UPDATE queues SET settings = '{strange}' WHERE namespace = '{}' AND name IN ('a', 'b', 'd')",
        scene.namespace
    );
    scene.ledger.tamper(sql).await.unwrap();
    for limit in [1, 2, 3, 5, 100] {
        assert_eq!(names(scene, limit).await, ["c", "e"], "{limit}");
    }
    let alone = scene.ledger.queue(&scene.namespace, &"a".parse().unwrap()).await;
    assert!(matches!(alone, Err(LedgerError::Failed(_))), "{alone:?}");
}

/// Goal: at the bound, whatever would make a queue is refused and says why; everything else goes on.
async fn a_namespace_has_a_bound_of_queues(scene: &Scene) {
    scene.fill_with_queues().await;
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    let into = |queue: &str| NewJob { queue: queue.parse().unwrap(), ..scene.new_job() };
    assert_eq!(scene.offer(into("one-more")).await, Err(Refused::TooManyQueues));
    new(scene.offer(into("full-7")).await);
    let one_more = "one-more".parse().unwrap();
    for refused in [
        ledger.set_queue(namespace, &one_more, None, &settings()).await,
        ledger.set_paused(namespace, &one_more, None).await.map(Some),
    ] {
        assert!(matches!(refused, Err(LedgerError::TooManyQueues)), "{refused:?}");
    }
    ledger.set_paused(namespace, &"full-7".parse().unwrap(), Some(&pause(1))).await.unwrap();

    // In a batch the others are taken, and the repeat of it means the same.
    let batch = || vec![into("full-1"), into("one-more"), into("full-2")];
    let first = done(scene.submit_with(batch(), false, key("batch", 1)).await);
    assert!(matches!(first[0], Ok(Accepted::New(_))) && first[2].is_ok());
    assert_eq!(first[1], Err(Refused::TooManyQueues));
    match scene.submit_with(batch(), false, key("batch", 1)).await {
        SubmitOutcome::Replayed(ids) => assert!(ids[0].is_some() && ids[1].is_none()),
        other => panic!("{other:?}"),
    }
    let atomic = done(scene.submit_with(batch(), true, None).await);
    let expected = [Err(Refused::Batch), Err(Refused::TooManyQueues), Err(Refused::Batch)];
    assert_eq!(atomic, expected);
    assert_eq!(ledger.queue(namespace, &one_more).await.unwrap(), None);
    // Another namespace has room of its own.
    let other = scene.elsewhere();
    other.accept(other.new_job()).await;
}

/// Goal: whoever listens hears of a queue as soon as it is there, by whatever it was made, and once.
async fn new_queues_are_told(scene: &Scene) {
    let mut news = scene.ledger.new_queues();
    // Listening may begin a little later than asked; what comes after the first word is told in full.
    let mut heard = None;
    for n in 0.. {
        let name = format!("first-{n}").parse().unwrap();
        scene.ledger.set_queue(&scene.namespace, &name, None, &settings()).await.unwrap().unwrap();
        if let Ok(told) = tokio::time::timeout(Duration::from_millis(100), news.next()).await {
            heard = told;
            break;
        }
        assert!(n < 100, "nothing is told");
    }
    assert_eq!(heard.unwrap().0, scene.namespace);
    for name in ["by-setting", "by-job"] {
        let name = name.parse().unwrap();
        if name == "by-job".parse().unwrap() {
            scene.accept(NewJob { queue: name, ..scene.new_job() }).await;
        } else {
            scene.ledger.set_paused(&scene.namespace, &name, None).await.unwrap();
        }
        // Again: it is there by now, and nothing is told.
        scene
            .ledger
            .set_paused(&scene.namespace, &"by-setting".parse().unwrap(), None)
            .await
            .unwrap();
    }
    for expected in ["by-setting", "by-job"] {
        let told = async {
            loop {
                let (namespace, name) = news.next().await.expect("nothing is missed");
                if namespace == scene.namespace && !name.as_str().starts_with("first-") {
                    return name;
                }
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(10), told).await.expect("told soon");
        assert_eq!(told.as_str(), expected);
    }
}
