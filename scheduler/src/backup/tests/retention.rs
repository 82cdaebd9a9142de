//! What is kept, and what is not.

use std::time::{Duration, SystemTime};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A drill has read it: so long ago that it does not count.
fn forget_reader(scene: &Scene, id: &str) {
    std::fs::remove_file(scene.file(id, "read")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_stay_and_so_does_the_last_proven_one() {
    let mut scene = Scene::new(Sort::Sqlite).await;
    scene.settings.keep = 2;
    let first = scene.create().await;
    assert!(scene.drill(&first.id).await.good);
    forget_reader(&scene, &first.id);
    let second = scene.create().await;
    let third = scene.create().await;
    let fourth = scene.create().await;
    assert_eq!(scene.listed().await, [&*fourth.id, &third.id, &first.id]);
    assert!(!scene.file(&second.id, "part-00000").exists());
}

/// Goal: a drill that says little of a backup does not cost it its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_proven_one_stays_when_a_later_drill_is_not_over_in_time() {
    let mut scene = Scene::new(Sort::Sqlite).await;
    scene.settings.keep = 1;
    let first = scene.create().await;
    assert!(scene.drill(&first.id).await.good);
    let drill_max = std::mem::replace(&mut scene.settings.drill_max, Duration::from_millis(1));
    assert!(!scene.drill(&first.id).await.good);
    scene.settings.drill_max = drill_max;
    forget_reader(&scene, &first.id);
    let second = scene.create().await;
    let third = scene.create().await;
    assert_eq!(scene.listed().await, [&*third.id, &first.id]);

    // What is damaged is not kept for its past.
    let part = scene.file(&first.id, "part-00001");
    std::fs::write(&part, "damaged").unwrap();
    assert!(!scene.drill(&first.id).await.good);
    forget_reader(&scene, &first.id);
    let fourth = scene.create().await;
    assert_eq!(scene.listed().await, [&*fourth.id]);
    assert!(!scene.file(&second.id, "manifest").exists());
}

/// Goal: a report counts for its backup only, and for who has signed it as a report.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_copied_proves_nothing() {
    let mut scene = Scene::new(Sort::Sqlite).await;
    scene.settings.keep = 1;
    let first = scene.create().await;
    assert!(scene.drill(&first.id).await.good);
    forget_reader(&scene, &first.id);
    let second = scene.create().await;
    std::fs::copy(scene.file(&first.id, "drill"), scene.file(&second.id, "drill")).unwrap();
    let report = crate::backup::drill::report(&scene.settings, &second.id).await.unwrap();
    assert_eq!(report, None);
    let third = scene.create().await;
    assert_eq!(scene.listed().await, [&*third.id, &first.id], "the one that was proven stays");

    // Signed with the same key, but as a manifest.
    let kept = std::fs::read_to_string(scene.file(&first.id, "drill")).unwrap();
    let text = kept.lines().next().unwrap();
    let signature = Signer::of(&scene.settings).unwrap().sign(text.as_bytes());
    std::fs::write(scene.file(&first.id, "drill"), format!("{text}\n{signature}\n")).unwrap();
    let report = crate::backup::drill::report(&scene.settings, &first.id).await.unwrap();
    assert_eq!(report, None);
}

/// Goal: which one is newest is the ledger's matter, whatever the clocks of hosts made of their ids.
#[tokio::test(flavor = "multi_thread")]
async fn backups_are_in_the_order_of_ledger_time() {
    let mut scene = Scene::new(Sort::Sqlite).await;
    scene.settings.keep = 1;
    let ahead = scene.create().await;
    // Of a ledger that was a day ahead.
    scene.resign(&ahead, |manifest| manifest.origin.at = manifest.origin.at.plus(DAY));
    let made = scene.create().await;
    assert_eq!(scene.listed().await, [&*ahead.id, &made.id], "what was just made stays");
    let newest = fetch::newest(&scene.settings).await.unwrap();
    assert_eq!(newest.map(|manifest| manifest.id), Some(ahead.id.clone()));
    assert_eq!(scene.drill(&made.id).await.gap_ms, None, "none is older");

    // What another key has signed is neither newest nor removed.
    scene.settings.key = new_key();
    assert_eq!(fetch::newest(&scene.settings).await.unwrap(), None);
    let ours = scene.create().await;
    assert_eq!(scene.listed().await.len(), 3);
    let newest = fetch::newest(&scene.settings).await.unwrap();
    assert_eq!(newest.map(|manifest| manifest.id), Some(ours.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_completed_is_removed_after_a_day() {
    let scene = Scene::new(Sort::Sqlite).await;
    let [old, young] = [DAY + DAY / 24, DAY - DAY / 24].map(|age| {
        let id = uuid::Uuid::now_v7().to_string();
        let part = scene.file(&id, "part-00000");
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        std::fs::write(&part, "half").unwrap();
        let file = std::fs::File::options().write(true).open(&part).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        id
    });
    scene.create().await;
    assert!(!scene.file(&old, "").exists());
    assert!(scene.file(&young, "part-00000").exists());
}
