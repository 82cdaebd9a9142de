//! A store that is not mounted.

use super::scene::{Scene, said, some, until_sql};

/// Goal: nothing is archived to the disk below, from where it would be gone once the store is there again: whatever is run
/// meanwhile makes no folder.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_where_the_store_would_be_mounted() {
    let scene = Scene::new(false).await;
    let ledger = scene.open().await.expect("it opens");
    let id = scene.base();
    scene.archive();
    let aside = scene.at("aside");
    std::fs::rename(scene.store(), &aside).expect("movable");
    for args in [&["base"][..], &["bases"], &["wal-push", "pg_wal/00000002.history"]] {
        if args[0] == "wal-push" {
            std::fs::write(scene.server.data().join(args[1]), "1\t0/5000000\tno\n").expect("fine");
        }
        said(&scene.run(args), 1, "is it mounted");
        assert!(!scene.store().exists(), "{args:?} made it");
    }
    some(&ledger).await;
    let meanwhile = scene.switch();
    until_sql(&scene, "SELECT failed_count > 0 FROM pg_stat_archiver");
    said(&scene.run(&["base"]), 1, "is it mounted");
    until_sql(&scene, "SELECT failed_count > 1 FROM pg_stat_archiver");
    assert!(!scene.store().exists());
    std::fs::rename(&aside, scene.store()).expect("movable");
    let last = scene.archive();
    assert!(scene.wal(&meanwhile).exists() && scene.wal(&last).exists());
    let listed = scene.json(&["bases"]);
    assert!(listed[0]["id"] == id.as_str() && listed[0]["gap"].is_null(), "{listed}");
    ledger.close().await;
}
