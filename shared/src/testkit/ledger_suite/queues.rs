//! Queues and their settings.

use std::time::Duration;

use futures::future::join_all;

use super::scene::{Scene, at};
use crate::ledger::{Paused, QueueSettings, RateLimit};
use crate::model::job::Priority;
use crate::model::retry::RetryPolicy;
use crate::model::time::Span;

super::cases![
    an_unknown_queue_is_none,
    settings_read_back_and_make_the_queue,
    pausing_keeps_the_settings,
    every_change_raises_the_version,
    changes_side_by_side_all_count,
    a_submission_changes_no_settings,
    queues_of_every_namespace_are_listed,
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
        max_depth: Some(1 << 40),
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
    let made = ledger.set_queue(namespace, queue, &settings()).await.unwrap();
    assert_eq!((&made.namespace, &made.name), (namespace, queue));
    assert_eq!((&made.settings, &made.paused), (&settings(), &None));
    assert_eq!(ledger.queue(namespace, queue).await.unwrap().as_ref(), Some(&made));
    // Replaced as a whole, not merged.
    let bare = ledger.set_queue(namespace, queue, &QueueSettings::default()).await.unwrap();
    assert_eq!(bare.settings, QueueSettings::default());
    assert_eq!(bare.created_at, made.created_at);
}

async fn pausing_keeps_the_settings(scene: &Scene) {
    let (ledger, namespace, queue) = (&scene.ledger, &scene.namespace, &scene.queue);
    ledger.set_queue(namespace, queue, &settings()).await.unwrap();
    let paused = ledger.set_paused(namespace, queue, Some(&pause(1))).await.unwrap();
    assert_eq!((paused.paused, paused.settings), (Some(pause(1)), settings()));
    let set = ledger.set_queue(namespace, queue, &QueueSettings::default()).await.unwrap();
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
            ledger.set_queue(namespace, queue, &settings()).await.unwrap().version,
            ledger.set_paused(namespace, queue, Some(&pause(n))).await.unwrap().version,
            ledger.set_paused(namespace, queue, None).await.unwrap().version,
        ] {
            assert!(version > last);
            last = version;
        }
    }
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
    let before = ledger.set_queue(namespace, queue, &settings()).await.unwrap();
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
    assert!(all.is_sorted_by_key(|q| q.name.clone()));
}
