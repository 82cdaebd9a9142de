//! An archive with several timelines.

use serde_json::json;
use windlass_shared::model::id::JobId;

use super::scene::{Scene, between, jobs, pass, said, some};

/// Goal: neither WAL that is missing before a timeline left, nor a history that is missing, is the end of anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_before_a_branch_is_a_gap() {
    let mut scene = Scene::new(false).await;
    let ledger = scene.open().await.expect("it opens");
    let id = scene.base();
    some(&ledger).await;
    let last = scene.archive();
    ledger.close().await;
    assert_eq!(scene.restore(&id, "new", &["--to-latest"]).code, 0);
    scene.replace("new");
    scene.json(&["adopt", "--ledger", &scene.url()]);
    std::fs::remove_file(scene.at("new/windlass.not-adopted")).expect("it is there");
    let ledger = scene.open().await.expect("it opens");
    some(&ledger).await;
    let all = jobs(&ledger).await;
    ledger.close().await;
    let newest = scene.archive();
    assert!(newest.starts_with("00000002"), "{newest}");

    let (aside, to) = (scene.at("aside"), scene.at("fetched").display().to_string());
    let along = |timeline| ["--to-latest", "--timeline", timeline];
    // No later segment of the first timeline is there; but the second one left it later.
    std::fs::rename(scene.wal(&last), &aside).expect("movable");
    said(&scene.run(&["wal-fetch", &last, &to]), 200, "is missing in the archive");
    for timeline in ["1", "2"] {
        said(&scene.restore(&id, "no", &along(timeline)), 1, "is missing in the archive");
    }
    std::fs::rename(&aside, scene.wal(&last)).expect("movable");

    let history = "00000002.history";
    std::fs::rename(scene.wal(history), &aside).expect("movable");
    said(&scene.run(&["wal-fetch", history, &to]), 200, "is missing in the archive");
    for more in [&["--to-latest"][..], &along("1"), &along("2")] {
        said(&scene.restore(&id, "no", more), 1, "00000002.history is missing");
    }
    said(&scene.run(&["base"]), 1, "wal-push pg_wal/00000002.history");
    let again = format!("pg_wal/{history}");
    assert_eq!(scene.run(&["wal-push", &again]).code, 0);
    assert!(scene.wal(history).exists() && !scene.at("no").exists());
    // What nobody has begun yet is not there, and that is all.
    said(&scene.run(&["wal-fetch", "00000003.history", &to]), 1, "not in the archive");

    assert_eq!(scene.restore(&id, "branch", &along("2")).code, 0);
    scene.replace("branch");
    let found = scene.server.sql(&scene.database, "SELECT count(*) FROM jobs");
    assert_eq!(found, all.len().to_string());
}

/// Goal: of three timelines each is followed to its own end, or to an instant of its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_timeline_that_is_asked_for_is_followed() {
    let mut scene = Scene::new(false).await;
    let ledger = scene.open().await.expect("it opens");
    let mut first = some(&ledger).await;
    let id = scene.base();
    let left = between(&ledger).await.to_string();
    let common = first.clone();
    first.extend(some(&ledger).await);
    ledger.close().await;
    scene.archive_past(&left);
    assert_eq!(scene.restore(&id, "at-2", &["--to-time", &left]).code, 0);
    assert_eq!(scene.restore(&id, "at-3", &["--to-latest"]).code, 0);
    let mut second = [common, go_on(&mut scene, "at-2", "00000002").await].concat();
    let middle = scene.open().await.expect("it opens");
    let instant = between(&middle).await;
    pass(&middle, instant).await;
    let instant = instant.to_string();
    let before = second.len();
    second.extend(some(&middle).await);
    middle.close().await;
    scene.archive();
    let third = [&first[..], &go_on(&mut scene, "at-3", "00000003").await].concat();
    assert_eq!(scene.json(&["bases"])[0]["later_timelines"], json!([2, 3]));
    said(&scene.restore(&id, "no", &["--to-latest"]), 1, "--timeline");

    let asked = [
        ("own", "1", &["--to-latest"][..], &first[..]),
        ("second", "2", &["--to-latest"], &second),
        ("instant", "2", &["--to-time", &instant], &second[..before]),
        ("third", "3", &["--to-latest"], &third),
    ];
    for (into, timeline, target, _) in asked {
        let restored = scene.restore(&id, into, &[target, &["--timeline", timeline]].concat());
        assert_eq!(restored.code, 0, "{into}: {restored:?}");
    }
    for (into, _, _, ids) in asked {
        scene.replace(into);
        let found = scene.server.sql(&scene.database, "SELECT id FROM jobs ORDER BY id");
        let ids: Vec<String> = ids.iter().map(JobId::to_string).collect();
        assert_eq!(found.lines().collect::<Vec<_>>(), ids, "{into}");
    }
}

/// Starts on what was restored, adopts it, and writes to its new timeline; what was submitted.
async fn go_on(scene: &mut Scene, data: &str, timeline: &str) -> Vec<JobId> {
    scene.replace(data);
    scene.json(&["adopt", "--ledger", &scene.url()]);
    std::fs::remove_file(scene.at(data).join("windlass.not-adopted")).expect("it is there");
    let ledger = scene.open().await.expect("it opens");
    let ids = some(&ledger).await;
    ledger.close().await;
    let name = scene.archive();
    assert!(name.starts_with(timeline), "{name}");
    ids
}
