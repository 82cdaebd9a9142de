//! Where a recovery stops, whatever else there is.

use super::scene::{Scene, between, jobs, pass, said, some};

fn count(scene: &Scene) -> usize {
    let found = scene.server.sql(&scene.database, "SELECT count(*) FROM jobs");
    found.parse().expect("a number")
}

/// Goal: the server from which a mistake is to be undone lives on, and archives the mistake.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_after_the_restore_is_not_replayed() {
    let mut scene = Scene::new(false).await;
    let ledger = scene.open().await.expect("it opens");
    let id = scene.base();
    let before = some(&ledger).await;
    let idle = between(&ledger).await;
    pass(&ledger, idle).await;
    scene.archive();
    let to_idle = ["--to-time", &idle.to_string()];
    assert_eq!(scene.restore(&id, "new", &to_idle).code, 0);
    // The end of the archive itself is too near.
    let until = scene.json(&["bases"])[0]["until"].as_str().expect("a time").to_owned();
    said(&scene.restore(&id, "late", &["--to-time", &until]), 1, "than a second before");

    some(&ledger).await;
    scene.archive();
    some(&ledger).await;
    scene.archive();
    ledger.close().await;
    scene.replace("new");
    assert_eq!(count(&scene), before.len());
}

/// Goal: what is missing or damaged after the instant is in nobody's way: PostgreSQL reads WAL ahead where it is let.
#[tokio::test(flavor = "multi_thread")]
async fn instants_right_before_a_gap_are_reached() {
    let mut scene = Scene::new(false).await;
    let ledger = scene.open().await.expect("it opens");
    let id = scene.base();
    let first = some(&ledger).await;
    let middle = between(&ledger).await;
    pass(&ledger, middle).await;
    some(&ledger).await;
    let all = jobs(&ledger).await;
    let idle = between(&ledger).await;
    pass(&ledger, idle).await;
    scene.archive();
    some(&ledger).await;
    let missing = scene.archive();
    some(&ledger).await;
    scene.archive();
    ledger.close().await;
    std::fs::remove_file(scene.wal(&missing)).expect("removable");
    assert_eq!(scene.json(&["bases"])[0]["gap"], missing.as_str());
    let instants = [("middle", middle, first.len()), ("idle", idle, all.len())];
    for (name, time, _) in instants {
        let restored = scene.restore(&id, name, &["--to-time", &time.to_string()]);
        assert_eq!(restored.code, 0, "{name}: {restored:?}");
    }
    for more in [&["--to-latest"][..], &["--to-time", "2999-01-01T00:00:00Z"]] {
        said(&scene.restore(&id, "no", more), 1, "is missing in the archive");
    }
    for (name, _, wanted) in instants {
        scene.replace(name);
        assert_eq!(count(&scene), wanted, "{name}");
    }
}

/// Goal: what an earlier recovery left in `postgresql.conf` is not obeyed by this one; and nothing of this one is left.
#[tokio::test(flavor = "multi_thread")]
async fn targets_of_an_earlier_recovery_are_not_obeyed() {
    let mut scene = Scene::new(false).await;
    let conf = scene.server.data().join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).expect("text");
    let left = "recovery_target = 'immediate'\nrecovery_target_inclusive = off\nrecovery_min_apply_delay = '1h'\n";
    std::fs::write(&conf, text + left).expect("writable");
    let ledger = scene.open().await.expect("it opens");
    let id = scene.base();
    let first = some(&ledger).await;
    let middle = between(&ledger).await;
    pass(&ledger, middle).await;
    some(&ledger).await;
    let all = jobs(&ledger).await;
    scene.archive();
    ledger.close().await;
    // The folder above may be written to, and not be read.
    scene.make_folder("closed");
    let chmod = |mode: &str| {
        let mut chmod = scene.server.as_its_user(std::path::Path::new("chmod"));
        assert!(chmod.arg(mode).arg(scene.at("closed")).status().expect("chmod").success());
    };
    chmod("0300");
    let restored = scene.restore(&id, "closed/latest", &["--to-latest"]);
    chmod("0700");
    assert_eq!(restored.code, 0, "{restored:?}");
    let next = restored.out + &restored.err;
    assert!(next.contains("another backup.store"), "{next}");
    let to_middle = ["--to-time", &middle.to_string()];
    assert_eq!(scene.restore(&id, "middle", &to_middle).code, 0);

    scene.replace("middle");
    assert_eq!(count(&scene), first.len());
    scene.replace("closed/latest");
    assert_eq!(count(&scene), all.len());
    scene.json(&["adopt", "--ledger", &scene.url()]);
    let ours = "SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE '%/postgresql.auto.conf' \
        AND (name LIKE 'recovery%' OR name LIKE '%_command' AND name <> 'archive_command' OR name LIKE 'default%')";
    assert_eq!(scene.server.sql("postgres", ours), "0");
}
