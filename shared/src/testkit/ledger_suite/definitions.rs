//! Stored definitions of workflows, and partial results of jobs.

use bytes::Bytes;
use futures::future::join_all;

use super::scene::Scene;
use crate::engine::Ended;
use crate::ledger::runs::Definition;
use crate::model::id::{Fence, JobId};
use crate::model::job::JobState;
use crate::model::time::Timestamp;

super::cases![
    versions_count_from_one,
    the_same_document_is_the_same_version,
    definitions_put_at_once_get_different_versions,
    the_same_put_at_once_is_one_version,
    definitions_are_listed_by_name,
    versions_are_listed_newest_first,
    a_checkpoint_replaces_the_one_before,
    a_checkpoint_of_an_older_lease_is_refused,
    only_what_may_run_on_has_checkpoints,
    a_checkpoint_goes_with_its_job,
];

fn definition(scene: &Scene, name: &str, document: &str) -> Definition {
    Definition {
        namespace: scene.namespace.clone(),
        name: name.into(),
        version: 0,
        created_at: Timestamp::from_micros(0),
        by: "ada".into(),
        document: document.into(),
        source: format!("# {document}"),
    }
}

async fn put(scene: &Scene, name: &str, document: &str) -> (u32, bool) {
    scene.ledger.put_definition(&definition(scene, name, document)).await.unwrap()
}

async fn versions_count_from_one(scene: &Scene) {
    let before = scene.ledger.now().await.unwrap();
    assert_eq!(put(scene, "d", "{\"a\": 1}").await, (1, true));
    assert_eq!(put(scene, "d", "{\"a\": 2}").await, (2, true));
    assert_eq!(put(scene, "e", "{\"a\": 1}").await, (1, true));
    assert_eq!(put(&scene.elsewhere(), "d", "{\"a\": 1}").await, (1, true));
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    let latest = ledger.definition(namespace, "d", None).await.unwrap().unwrap();
    let first = ledger.definition(namespace, "d", Some(1)).await.unwrap().unwrap();
    assert!(first.created_at >= before && latest.created_at >= first.created_at);
    let expected = |document, version, created_at| Definition {
        version,
        created_at,
        ..definition(scene, "d", document)
    };
    assert_eq!(first, expected("{\"a\": 1}", 1, first.created_at));
    assert_eq!(latest, expected("{\"a\": 2}", 2, latest.created_at));
    assert_eq!(ledger.definition(namespace, "d", Some(2)).await.unwrap(), Some(latest));
    for (name, version) in [("d", Some(3)), ("d", Some(0)), ("f", None)] {
        assert_eq!(ledger.definition(namespace, name, version).await.unwrap(), None);
    }
}

async fn the_same_document_is_the_same_version(scene: &Scene) {
    assert_eq!(put(scene, "d", "1").await, (1, true));
    let other_source =
        Definition { source: "other".into(), by: "eve".into(), ..definition(scene, "d", "1") };
    assert_eq!(scene.ledger.put_definition(&other_source).await.unwrap(), (1, false));
    let kept = scene.ledger.definition(&scene.namespace, "d", None).await.unwrap().unwrap();
    assert_eq!((kept.by.as_str(), kept.source.as_str()), ("ada", "# 1"));
    // Back to what it was is a version too: the latest counts.
    assert_eq!(put(scene, "d", "2").await, (2, true));
    assert_eq!(put(scene, "d", "1").await, (3, true));
    assert_eq!(put(scene, "d", "1").await, (3, false));
}

async fn definitions_put_at_once_get_different_versions(scene: &Scene) {
    let all: Vec<Definition> =
        (0..8).map(|n| definition(scene, "d", &format!("{{\"n\": {n}}}"))).collect();
    let mut versions: Vec<u32> = join_all(all.iter().map(|d| scene.ledger.put_definition(d)))
        .await
        .into_iter()
        .map(|put| {
            let (version, new) = put.unwrap();
            assert!(new);
            version
        })
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<u32>>());
}

async fn the_same_put_at_once_is_one_version(scene: &Scene) {
    let one = definition(scene, "d", "1");
    let puts = join_all((0..8).map(|_| scene.ledger.put_definition(&one))).await;
    let puts: Vec<(u32, bool)> = puts.into_iter().map(Result::unwrap).collect();
    assert!(puts.iter().all(|(version, _)| *version == 1), "{puts:?}");
    assert_eq!(puts.iter().filter(|(_, new)| *new).count(), 1);
}

async fn definitions_are_listed_by_name(scene: &Scene) {
    for (name, document) in [("b", "1"), ("a", "1"), ("b", "2"), ("c", "1"), ("B", "1")] {
        put(scene, name, document).await;
    }
    put(&scene.elsewhere(), "x", "1").await;
    let (mut found, mut after): (Vec<(String, u32)>, Option<String>) = (Vec::new(), None);
    loop {
        let page = scene.ledger.definitions(&scene.namespace, after.as_deref(), 2).await.unwrap();
        found.extend(page.iter().map(|d| (d.name.clone(), d.version)));
        after = found.last().map(|(name, _)| name.clone());
        if page.len() < 2 {
            break;
        }
    }
    // In the order of bytes, whatever the database's own is.
    let expected = [("B", 1), ("a", 1), ("b", 2), ("c", 1)].map(|(n, v)| (n.to_owned(), v));
    assert_eq!(found, expected);
}

async fn versions_are_listed_newest_first(scene: &Scene) {
    for n in 0..5 {
        put(scene, "d", &n.to_string()).await;
    }
    put(scene, "e", "1").await;
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    let versions = |page: Vec<Definition>| page.iter().map(|d| d.version).collect::<Vec<_>>();
    let page = ledger.definition_versions(namespace, "d", None, 3).await.unwrap();
    assert_eq!(versions(page), [5, 4, 3]);
    let page = ledger.definition_versions(namespace, "d", Some(3), 3).await.unwrap();
    assert_eq!(versions(page), [2, 1]);
    assert_eq!(ledger.definition_versions(namespace, "f", None, 3).await.unwrap(), []);
}

async fn keep(scene: &Scene, id: JobId, fence: u64, data: &'static str) -> bool {
    let data = Bytes::from_static(data.as_bytes());
    scene.ledger.put_checkpoint(&scene.namespace, id, Fence(fence), data).await.unwrap()
}

async fn kept(scene: &Scene, id: JobId) -> Option<(u64, String)> {
    let found = scene.ledger.checkpoint(&scene.namespace, id).await.unwrap()?;
    Some((found.fence.0, String::from_utf8(found.data.to_vec()).unwrap()))
}

async fn a_checkpoint_replaces_the_one_before(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    assert_eq!(kept(scene, id).await, None);
    let before = scene.ledger.now().await.unwrap();
    for (fence, data) in [(1, "{\"at\": 1}"), (1, "{\"at\": 2}"), (3, "{\"at\": 3}")] {
        assert!(keep(scene, id, fence, data).await);
        assert_eq!(kept(scene, id).await, Some((fence, data.to_owned())));
    }
    let at = scene.ledger.checkpoint(&scene.namespace, id).await.unwrap().unwrap().at;
    assert!(at >= before && at <= scene.ledger.now().await.unwrap());
}

async fn a_checkpoint_of_an_older_lease_is_refused(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    assert!(keep(scene, id, 5, "5").await);
    assert!(!keep(scene, id, 4, "4").await);
    assert_eq!(kept(scene, id).await, Some((5, "5".into())));
    // What one attempt left is there for the next.
    scene.end(id, 5, Ended::Lost).await;
    assert_eq!(kept(scene, id).await, Some((5, "5".into())));
}

async fn only_what_may_run_on_has_checkpoints(scene: &Scene) {
    assert!(!keep(scene, JobId::generate(), 1, "1").await);
    for state in [JobState::Succeeded, JobState::Dead, JobState::Cancelled] {
        let id = scene.job_in(state).await.id;
        assert!(!keep(scene, id, 99, "1").await);
        assert_eq!(kept(scene, id).await, None);
    }
    let elsewhere = scene.elsewhere();
    let id = scene.job_in(JobState::Running).await.id;
    assert!(!keep(&elsewhere, id, 10, "1").await);
    assert!(keep(scene, id, 10, "1").await);
    assert_eq!(kept(&elsewhere, id).await, None);
}

async fn a_checkpoint_goes_with_its_job(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    assert!(keep(scene, id, 1, "1").await);
    scene.end(id, 1, Ended::Dead).await;
    assert_eq!(kept(scene, id).await, Some((1, "1".into())));
    scene.ledger.delete(&scene.namespace, id).await.unwrap();
    assert_eq!(kept(scene, id).await, None);
}
