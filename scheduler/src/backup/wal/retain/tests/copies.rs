//! Servers that have one identifier: one, and what was recovered of it.

use super::*;

const OURS: u128 = 11;
const THEIRS: u128 = 22;

/// One of a ledger, on a timeline.
async fn base(
    scene: &Scene,
    ledger: u128,
    timeline: u32,
    (first, day): (u64, u32),
    id: u128,
) -> Base {
    let mut base = scene.base(7, first, day, id).await;
    base.ledger = serde_json::from_value(serde_json::json!(uuid::Uuid::from_u128(ledger))).unwrap();
    base.timeline = timeline;
    scene.store.put_manifest(&base.id, seal(&base, &scene.signer).into()).await.unwrap();
    base
}

/// With WAL of timeline 2, which left the first one in segment 2.
async fn scene() -> Scene {
    let scene = Scene::new(1).await;
    for number in 2..8 {
        let name = Name::of(2, number, SEGMENT);
        let raw = Bytes::from(vec![number as u8; 100]);
        scene.archive.put(&name, raw, Timestamp::default()).await.unwrap();
    }
    scene
}

/// The first segment that is left of a timeline.
async fn first_of(scene: &Scene, timeline: u32) -> Option<u64> {
    let names = scene.archive.names().await.unwrap();
    let of = names.iter().filter(|name| name.timeline == timeline);
    of.filter_map(|name| name.number(SEGMENT)).min()
}

/// Goal: a copy that was adopted beside a server that lives on takes nothing from it.
#[tokio::test]
async fn what_the_other_one_needs_stays() {
    let scene = scene().await;
    base(&scene, THEIRS, 1, (0, 1), 1).await;
    base(&scene, THEIRS, 1, (1, 2), 2).await;
    base(&scene, OURS, 2, (3, 3), 3).await;
    let made = base(&scene, OURS, 2, (4, 4), 4).await;
    scene.retain(&made).await;
    assert_eq!(scene.left().await.0, [2, 4], "the newest of theirs stays");
    assert_eq!((first_of(&scene, 1).await, first_of(&scene, 2).await), (Some(1), Some(4)));

    // It goes on, beyond where we left it.
    base(&scene, THEIRS, 1, (5, 5), 5).await;
    base(&scene, THEIRS, 1, (6, 6), 6).await;
    let made = base(&scene, OURS, 2, (7, 7), 7).await;
    scene.retain(&made).await;
    assert_eq!(scene.left().await.0, [5, 6, 7], "none of those that do not lead here goes");
    assert_eq!((first_of(&scene, 1).await, first_of(&scene, 2).await), (Some(5), Some(7)));

    // It does the same for us, and removes its own by its own settings.
    let theirs = base(&scene, THEIRS, 1, (7, 8), 8).await;
    scene.retain(&theirs).await;
    assert_eq!(scene.left().await.0, [7, 8]);
    assert_eq!((first_of(&scene, 1).await, first_of(&scene, 2).await), (Some(7), Some(7)));
}

/// Goal: after an ordinary failover, or where a server holds several ledgers, nothing is kept for ever.
#[tokio::test]
async fn one_server_is_one_whatever_it_went_through() {
    let scene = scene().await;
    base(&scene, OURS, 1, (1, 1), 1).await;
    base(&scene, THEIRS, 2, (2, 2), 2).await;
    let made = base(&scene, OURS, 2, (4, 4), 4).await;
    scene.retain(&made).await;
    assert_eq!(scene.left().await, (vec![4], Some(4)));
}
