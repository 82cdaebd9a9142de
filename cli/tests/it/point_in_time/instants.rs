//! Instants near the end of what was archived.

use std::time::Duration;

use windlass_shared::model::time::Timestamp;

use super::scene::{Scene, between, jobs, some};

/// Goal: PostgreSQL ends no recovery to a time that it does not see pass. What follows the instant here are segments without
/// a commit, or nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn an_instant_after_which_nothing_was_committed_is_reached() {
    let mut scene = Scene::new(true).await;
    let ledger = scene.open().await.expect("it opens");
    let first = some(&ledger).await;
    let id = scene.base();
    let middle = between(&ledger).await.to_string();
    some(&ledger).await;
    let all = jobs(&ledger).await;
    let idle = between(&ledger).await.to_string();
    for _ in 0..3 {
        scene.archive();
    }
    scene.archive_past(&idle);
    ledger.close().await;
    let until = scene.json(&["bases"])[0]["until"].as_str().expect("a time").to_owned();
    let until: Timestamp = until.parse().expect("a time");
    let until = until.minus(Duration::from_secs(1)).to_string();
    let instants = [
        ("middle", &middle, first.len()),
        ("idle", &idle, all.len()),
        ("until", &until, all.len()),
    ];
    for (name, time, _) in instants {
        let restored = scene.restore(&id, name, &["--to-time", time]);
        assert_eq!(restored.code, 0, "{name}: {restored:?}");
    }
    for (name, _, count) in instants {
        scene.replace(name);
        let found = scene.server.sql(&scene.database, "SELECT count(*) FROM jobs");
        assert_eq!(found, count.to_string(), "{name}");
    }
}
