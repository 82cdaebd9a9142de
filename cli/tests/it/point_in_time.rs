//! Recovery to an instant: a PostgreSQL server that archives through the binary, is lost, and is recovered by it.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use serde_json::Value as Json;
use windlass_shared::ledger::{JobFilter, LedgerError, Recorded};
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

use crate::binary::windlass;

mod absent;
mod branches;
mod instants;
mod ledgers;
mod scene;
mod stops;
mod unasked;

use scene::{
    Scene, between, flip, holds, jobs, recovered, said, some, submit, succeeded, until_sql,
};

/// The whole way: nobody takes the recovered server for the old one, before it is adopted or after.
async fn there_and_back(encrypted: bool) {
    let mut scene = Scene::new(encrypted).await;
    let old = scene.open().await.expect("it opens");
    let mut first = some(&old).await;
    let id = scene.base();
    first.extend(some(&old).await);
    let time = between(&old).await.to_string();
    let mut all = first.clone();
    all.extend(some(&old).await);
    scene.archive_past(&time);
    let listed = scene.json(&["bases"]);
    let until: Timestamp = listed[0]["until"].as_str().expect("a time").parse().expect("a time");
    assert!(until >= time.parse().expect("a time") && listed[0]["gap"].is_null(), "{listed}");
    let part = scene.store().join("base").join(&id).join("part-00000");
    for file in [scene.wal(&scene.archive()), part] {
        assert_eq!(holds(&file, b"age-encryption.org"), encrypted, "{}", file.display());
    }

    for (target, more) in [("to-time", &["--to-time", &time][..]), ("latest", &["--to-latest"])] {
        let restored = scene.restore(&id, target, more);
        assert_eq!(restored.code, 0, "{restored:?}");
        said(&scene.restore(&id, target, more), 1, "not empty");
    }
    assert!(!scene.at("to-time/windlass.restoring").exists(), "no base of it could be restored");
    scene.replace("to-time");
    // The old ledger's id is in it: it can be read, and nobody can write.
    assert!(matches!(submit(&old).await, Err(LedgerError::Unavailable(_))));
    let refused = scene.open().await.err().expect("it is refused").to_string();
    assert!(refused.contains("windlass backup adopt"), "{refused}");
    // Nor does it archive what it writes by itself.
    let history = "00000002.history";
    let failing =
        "SELECT failed_count > 0 FROM pg_stat_archiver WHERE last_failed_wal = '00000002.history'";
    until_sql(&scene, failing);
    assert!(!scene.wal(history).parent().expect("a folder").exists(), "of the new timeline");

    let url = scene.url();
    let adopt = ["adopt", "--ledger", &url];
    said(&scene.run(&adopt), 1, "connections of Windlass processes");
    old.close().await;
    let plain = url.replace("windlass@", "plain@");
    said(&scene.run(&["adopt", "--ledger", &plain]), 1, "superuser");
    let adopted = scene.json(&adopt);
    assert_eq!(adopted["was"], listed[0]["ledger"]);
    assert_ne!(adopted["ledger"], adopted["was"], "processes of before would go on with it");
    said(&scene.run(&adopt), 1, "adopted already");

    let new = scene.open().await.expect("it opens");
    assert_eq!(new.id().to_string(), adopted["ledger"].as_str().expect("an id"));
    assert_eq!(jobs(&new).await, first, "what was committed before the instant, and nothing after");
    let reply = new.record(vec![succeeded(first[0])]).await.expect("it answers");
    assert_eq!(
        reply.replies,
        [Recorded::Stale],
        "a lease of before is older than what is on record"
    );
    some(&new).await;
    std::fs::remove_file(scene.at("to-time").join("windlass.not-adopted")).expect("it is there");
    scene.archive();
    assert!(scene.wal(history).exists());
    new.close().await;

    // Now there are two branches after the base: which one is meant must be said.
    said(&scene.restore(&id, "which", &["--to-latest"]), 1, "--timeline");
    assert!(!scene.at("which").exists());
    scene.replace("latest");
    scene.json(&adopt);
    let latest = scene.open().await.expect("it opens");
    assert_eq!(jobs(&latest).await, all);
    latest.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_server_is_recovered_to_an_instant_and_to_the_end() {
    there_and_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_whose_archive_is_encrypted() {
    there_and_back(true).await;
}

/// A process that was left running on the old server, and what its workers report later.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_outlives_the_recovery_is_told() {
    let mut scene = Scene::new(false).await;
    let old = scene.open().await.expect("it opens");
    let ids = some(&old).await;
    // Its term seems to last; but nobody leads who is not connected to a server that is read-only.
    let leads =
        format!("INSERT INTO leader VALUES (true, 7, {}, gen_random_uuid(), 's')", i64::MAX);
    scene.server.sql(&scene.database, &leads);
    let id = scene.base();
    assert_eq!(scene.restore(&id, "new", &["--to-latest"]).code, 0);
    scene.replace("new");
    // Its connections are gone with the server; it makes new ones when it needs them.
    scene.json(&["adopt", "--ledger", &scene.url()]);
    assert!(old.was_replaced().await);
    old.record(vec![succeeded(ids[0])]).await.expect_err("it is another ledger");
    let new = scene.open().await.expect("it opens");
    let page = new.list(&Namespace::default(), &JobFilter::default(), None, 100).await;
    assert!(page.expect("a page").jobs.iter().all(|job| !job.state.is_terminal()));
    submit(&old).await.expect_err("it is another ledger");
    assert_eq!(jobs(&new).await, ids);
}

/// Whatever is wrong is found before anything is written, and never taken for the end of the archive.
#[tokio::test(flavor = "multi_thread")]
async fn damage_and_gaps_are_no_end_of_the_archive() {
    let mut scene = Scene::new(true).await;
    let ledger = scene.open().await.expect("it opens");
    let id = scene.base();
    some(&ledger).await;
    let middle = scene.archive();
    let ids = some(&ledger).await;
    let last = scene.archive();
    ledger.close().await;
    let restore = |scene: &Scene, code: i32, words: &str| {
        said(&scene.restore(&id, "new", &["--to-latest"]), code, words);
        assert!(!scene.at("new").exists(), "something was written: {words}");
    };

    let part = scene.store().join("base").join(&id).join("part-00000");
    flip(&part);
    restore(&scene, 1, "part 0 is damaged");
    flip(&part);
    let needed = scene.json(&["bases"])[0]["start"].as_str().expect("a position").to_owned();
    let needed = scene.server.sql("postgres", &format!("SELECT pg_walfile_name('{needed}')"));
    flip(&scene.wal(&needed));
    restore(&scene, 1, "is damaged: its checksum differs");
    flip(&scene.wal(&needed));
    let aside = scene.at("aside");
    std::fs::rename(scene.wal(&middle), &aside).expect("movable");
    assert_eq!(scene.json(&["bases"])[0]["gap"], middle.as_str());
    restore(&scene, 1, "is missing in the archive, although later");
    std::fs::rename(&aside, scene.wal(&middle)).expect("movable");
    let late = ["--to-time", "2999-01-01T00:00:00Z"];
    said(&scene.restore(&id, "new", &late), 1, "is later");
    let early = ["--to-time", "1999-01-01T00:00:00Z"];
    said(&scene.restore(&id, "new", &early), 1, "take an earlier one");
    said(&scene.restore(&id, "new", &["--to-latest", "--timeline", "7"]), 1, "timeline 7");

    let other = windlass(&["backup", "keygen"], &[]).out.trim().to_owned();
    scene.config("key.toml", &other, scene.identity.as_ref(), scene.store());
    let stranger = age::x25519::Identity::generate();
    scene.config("identity.toml", &scene.key, Some(&stranger), scene.store());
    // A folder that is not mounted.
    scene.config("empty.toml", &scene.key, scene.identity.as_ref(), scene.at("empty"));
    scene.make_folder("other/wal");
    scene.config("other.toml", &scene.key, scene.identity.as_ref(), scene.at("other"));
    scene.config("relative.toml", &scene.key, scene.identity.as_ref(), "store".into());
    std::fs::write(scene.at("file"), "x").expect("writable");
    scene.config("away.toml", &scene.key, scene.identity.as_ref(), scene.at("file/store"));
    let to = scene.at("fetched").display().to_string();
    let fetch =
        |scene: &Scene, config: &str, name: &str| scene.run_with(config, &["wal-fetch", name, &to]);
    for (config, words) in [
        ("key.toml", "another key"),
        ("identity.toml", "somebody else"),
        ("away.toml", "cannot look into"),
        ("none.toml", "none.toml"),
        ("empty.toml", "is it mounted"),
        ("other.toml", "holds nothing of this server"),
        ("relative.toml", "must begin with a slash"),
    ] {
        said(&fetch(&scene, config, &last), 200, words);
    }
    assert!(!scene.at("empty").exists(), "nothing is made where it would be mounted");
    said(
        &scene.run_with("key.toml", &["restore-base", &id, "--into-dir", &to, "--to-latest"]),
        1,
        "another key",
    );
    said(
        &scene.run_with("identity.toml", &["restore-base", &id, "--into-dir", &to, "--to-latest"]),
        1,
        "somebody else",
    );
    said(&scene.run(&["wal-fetch", &last]), 200, "required");
    said(&fetch(&scene, "config.toml", "000000010000000000000000F"), 200, "no file of WAL");
    said(&fetch(&scene, "config.toml", "0000000100000000000000FF"), 1, "not in the archive");
    said(&fetch(&scene, "config.toml", "00000009.history"), 1, "not in the archive");
    assert!(!Path::new(&to).exists());
    let starved = scene.starved(&["wal-fetch", &last, &to]);
    assert!(starved.signal().is_some() || starved.code() == Some(200), "{starved:?}");
    assert_eq!(fetch(&scene, "config.toml", &last).code, 0);
    assert_eq!(std::fs::metadata(&to).expect("it is there").len(), 1 << 20);

    // What happens to the archive after the restore, the server finds: it stops instead of coming up with less.
    assert_eq!(scene.restore(&id, "new", &["--to-latest"]).code, 0);
    scene.server.stop_immediately();
    scene.server.use_data(scene.at("new"));
    flip(&scene.wal(&middle));
    assert!(!recovered(&mut scene), "it came up in spite of damage");
    assert!(scene.server.log().contains("is damaged"), "{}", scene.server.log());
    flip(&scene.wal(&middle));
    std::fs::rename(scene.wal(&middle), &aside).expect("movable");
    assert!(!recovered(&mut scene), "it came up in spite of a gap");
    std::fs::rename(&aside, scene.wal(&middle)).expect("movable");
    assert!(recovered(&mut scene), "{}", scene.server.log());
    scene.json(&["adopt", "--ledger", &scene.url()]);
    let ledger = scene.open().await.expect("it opens");
    assert!(ids.iter().all(|id| futures::executor::block_on(jobs(&ledger)).contains(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_may_be_archived_again_and_nothing_else_under_its_name() {
    let scene = Scene::new(false).await;
    let id = scene.base();
    let name = scene.archive();
    // As after a crash between the store's answer and PostgreSQL's note of it.
    let there = std::fs::read(scene.wal(&name)).expect("a file");
    let to = scene.at("copy").join("pg_wal");
    std::fs::create_dir_all(&to).expect("a folder");
    std::fs::create_dir_all(scene.at("copy/global")).expect("a folder");
    let control = scene.at("copy/global/pg_control");
    std::fs::copy(scene.server.data().join("global/pg_control"), &control).expect("copied");
    std::process::Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(scene.at("copy"))
        .status()
        .expect("chmod");
    let file = to.join(&name).display().to_string();
    assert_eq!(scene.run(&["wal-fetch", &name, &file]).code, 0);
    let push = ["wal-push", &file];
    assert_eq!(scene.run(&push).code, 0, "{:?}", scene.run(&push));
    assert_eq!(std::fs::read(scene.wal(&name)).expect("a file"), there);
    scene.config("unmounted.toml", &scene.key, None, scene.at("unmounted"));
    said(&scene.run_with("unmounted.toml", &push), 1, "is it mounted");
    assert!(!scene.at("unmounted").exists(), "it would have gone to the disk below");
    // One that the store has damaged is put anew, whatever is left of it.
    flip(&scene.wal(&name));
    assert_eq!(scene.run(&push).code, 0);
    assert_eq!(scene.run(&["wal-fetch", &name, &file]).code, 0);
    for left in ["", "{\"format\":1", "no head at all\nand nothing else\n"] {
        std::fs::write(scene.wal(&name), left).expect("writable");
        said(&scene.run(&["wal-fetch", &name, &file]), 200, "is damaged");
        assert_eq!(scene.run(&push).code, 0, "{left:?}");
        assert_eq!(scene.run(&["wal-fetch", &name, &file]).code, 0);
    }

    let other = "0000000100000000000000FD";
    std::fs::rename(scene.wal(&name), scene.wal(other)).expect("movable");
    said(&scene.run(&["wal-fetch", other, &file]), 200, "put in its place");
    std::fs::rename(scene.wal(other), scene.wal(&name)).expect("movable");

    flip(Path::new(&file));
    said(&scene.run(&push), 1, "with other content");
    let stored = scene.wal(&name);
    assert_eq!(scene.run(&["wal-fetch", &name, &file]).code, 0, "{}", stored.display());
    // Histories and labels come the same way; anything else does not.
    let history = to.join("00000002.history");
    std::fs::write(&history, "1\t0/5000000\tno reason\n").expect("writable");
    let history = history.display().to_string();
    assert_eq!(scene.run(&["wal-push", &history]).code, 0);
    std::fs::write(&history, "1\t0/6000000\tno reason\n").expect("writable");
    said(&scene.run(&["wal-push", &history]), 1, "with other content");
    let partial = to.join(format!("{name}.partial")).display().to_string();
    std::fs::copy(&file, &partial).expect("copied");
    assert_eq!(scene.run(&["wal-push", &partial]).code, 0);
    said(&scene.run(&["wal-push", &control.display().to_string()]), 2, "not named like");
    let renamed = to.join("0000000100000000000000FE").display().to_string();
    std::fs::copy(&file, &renamed).expect("copied");
    said(&scene.run(&["wal-push", &renamed]), 1, "another one");

    // One base is kept (`keep`), with what it needs; WAL from before goes with the other.
    let newer = scene.base();
    let left: Vec<Json> = scene.json(&["bases"]).as_array().expect("a list").clone();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0]["id"] == newer.as_str() && newer != id);
    assert!(!scene.wal(&name).exists() && left[0]["until"].is_string(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_allow_it_is_told_what_to_set() {
    let mut scene = Scene::new(false).await;
    // Its archive leads elsewhere.
    scene.set("archive_command", "true");
    said(&scene.run(&["base"]), 1, "is not in this store");
    // Nor in a new one.
    scene.make_folder("new/wal");
    scene.config("new.toml", &scene.key, None, scene.at("new"));
    said(&scene.run_with("new.toml", &["base"]), 1, "is not in this store");
    scene.set("archive_command", "false");
    scene.switch();
    until_sql(&scene, "SELECT failed_count > 0 FROM pg_stat_archiver");
    said(&scene.run(&["base"]), 1, "archive_command failed");
    scene.set("archive_command", "");
    scene.server.sql(&scene.database, "GRANT SELECT ON meta TO plain");
    let plain = scene.url().replace("windlass@", "plain@");
    let refused = scene.run(&["base", "--from", &plain]);
    said(&refused, 1, "ALTER ROLE \"plain\" REPLICATION");
    said(&refused, 1, "set archive_command");
    scene.make_folder("space");
    let space = format!("CREATE TABLESPACE space LOCATION '{}'", scene.at("space").display());
    scene.server.sql("postgres", &space);
    said(&scene.run(&["base"]), 1, "drop its tablespaces");
    scene.server.sql("postgres", "CREATE ROLE rds_superuser");
    said(&scene.run(&["base"]), 1, "Amazon RDS");
    scene.server.sql("postgres", "DROP ROLE rds_superuser");
    assert_eq!(scene.json(&["bases"]), serde_json::json!([]));
    let sqlite = format!("sqlite://{}", scene.at("x.db").display());
    said(&scene.run(&["base", "--from", &sqlite]), 1, "not on PostgreSQL");
    said(&scene.run(&["adopt", "--ledger", &sqlite]), 1, "not on PostgreSQL");
    // A standby is the primary's ledger.
    scene.server.stop_immediately();
    std::fs::write(scene.server.data().join("standby.signal"), "").expect("writable");
    scene.server.restart();
    said(&scene.run(&["base"]), 1, "this server is a standby");
    said(&scene.run(&["adopt", "--ledger", &scene.url()]), 1, "still recovers");
}
