//! Everything that can be wrong with a backup or a target is found before the target is touched.

use super::*;

/// What the target is made of.
fn look(target: &LedgerSettings) -> String {
    let url = target.url.expose_secret();
    match url.strip_prefix("sqlite://") {
        Some(path) => format!("{:?}", std::fs::read(path).ok()),
        None => {
            // Whoever writes takes a number, also where all is undone again. Nobody else is on this server.
            let sql =
                "SELECT pg_snapshot_xmax(pg_current_snapshot()), (SELECT count(*) FROM pg_class)";
            server().sql(database(url), sql)
        }
    }
}

fn database(url: &str) -> &str {
    url.rsplit_once("localhost/").unwrap().1.split('?').next().unwrap()
}

/// Does something to a backup, and tries to restore it.
async fn planted(
    sort: Sort,
    plant: impl AsyncFn(&mut Scene, &Manifest),
    is_it: impl Fn(&BackupError) -> bool,
) {
    let mut scene = Scene::new(sort).await;
    let manifest = scene.create().await;
    plant(&mut scene, &manifest).await;
    let target = scene.target();
    let before = look(&target);
    let error = scene.restore(&manifest.id, &target).await.expect_err("it must be refused");
    assert!(is_it(&error), "{error:?}");
    assert_eq!(look(&target), before, "the target was touched: {error}");
}

async fn on_both(plant: impl AsyncFn(&mut Scene, &Manifest), is_it: impl Fn(&BackupError) -> bool) {
    planted(Sort::Sqlite, &plant, &is_it).await;
    planted(Sort::Postgres, &plant, &is_it).await;
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit() {
    let flip = async |scene: &mut Scene, manifest: &Manifest| {
        let last = format!("part-{:05}", manifest.parts.len() - 1);
        edit(&scene.file(&manifest.id, &last), |bytes| bytes[0] ^= 1);
    };
    on_both(flip, |error| matches!(error, BackupError::PartDamaged(1..))).await;
}

/// Goal: everything is checked first: `pg_restore` would have made tables by the time that it comes to the last part.
#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_far_behind() {
    let mut scene = Scene::new(Sort::Postgres).await;
    let random = "(SELECT string_agg(md5(id::text || n), '') FROM generate_series(1, 5000) AS n)";
    scene.enlarge(random).await;
    scene.settings.part_bytes = 100_000;
    let manifest = scene.create().await;
    let last = manifest.parts.len() - 1;
    assert!(manifest.dump_bytes > 5 << 20 && last > 8, "{manifest:?}");
    edit(&scene.file(&manifest.id, &format!("part-{last:05}")), |bytes| bytes[0] ^= 1);
    let target = scene.target();
    let before = look(&target);
    let refused = scene.restore(&manifest.id, &target).await;
    assert!(matches!(refused, Err(BackupError::PartDamaged(part)) if part == last), "{refused:?}");
    assert_eq!(look(&target), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_part() {
    let cut = async |scene: &mut Scene, manifest: &Manifest| {
        edit(&scene.file(&manifest.id, "part-00001"), |bytes| bytes.truncate(100));
    };
    on_both(cut, |error| matches!(error, BackupError::PartSize { part: 1, found: 100, .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_part() {
    let remove = async |scene: &mut Scene, manifest: &Manifest| {
        std::fs::remove_file(scene.file(&manifest.id, "part-00001")).unwrap();
    };
    on_both(remove, |error| matches!(error, BackupError::MissingPart(1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_manifest() {
    let change = async |scene: &mut Scene, manifest: &Manifest| {
        edit(&scene.file(&manifest.id, "manifest"), |bytes| {
            let at = bytes.windows(8).position(|w| w == b"\"rows\":2").unwrap() + 7;
            bytes[at] = b'3';
        });
    };
    on_both(change, |error| matches!(error, BackupError::BadManifest(_))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_manifest() {
    let remove = async |scene: &mut Scene, manifest: &Manifest| {
        std::fs::remove_file(scene.file(&manifest.id, "manifest")).unwrap();
    };
    on_both(remove, |error| matches!(error, BackupError::NotFound(_))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_schema() {
    let older = async |scene: &mut Scene, manifest: &Manifest| {
        scene.resign(manifest, |manifest| manifest.origin.schema -= 1);
    };
    on_both(
        older,
        |error| matches!(error, BackupError::OtherSchema { found, ours } if found < ours),
    )
    .await;
    let newer = async |scene: &mut Scene, manifest: &Manifest| {
        scene.resign(manifest, |manifest| manifest.origin.schema += 1);
    };
    on_both(
        newer,
        |error| matches!(error, BackupError::OtherSchema { found, ours } if found > ours),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format() {
    let newer = async |scene: &mut Scene, manifest: &Manifest| {
        scene.resign(manifest, |manifest| manifest.format = FORMAT + 1);
    };
    on_both(newer, |error| matches!(error, BackupError::NewerFormat(n) if *n == FORMAT + 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key() {
    let other = async |scene: &mut Scene, _: &Manifest| scene.settings.key = new_key();
    on_both(other, |error| matches!(error, BackupError::ForeignKey { .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_for_somebody_else() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let mut scene = Scene::new(sort).await;
        scene.settings.recipients = vec![age::x25519::Identity::generate().to_public().to_string()];
        let manifest = scene.create().await;
        for identity in [false, true] {
            if identity {
                let file = scene.folder.path().join("identity");
                let ours = age::x25519::Identity::generate();
                std::fs::write(&file, ours.to_string().expose_secret()).unwrap();
                scene.settings.identity_file = Some(file);
            }
            let target = scene.target();
            let before = look(&target);
            let refused = scene.restore(&manifest.id, &target).await;
            assert!(matches!(refused, Err(BackupError::ForeignRecipient)), "{refused:?}");
            assert_eq!(look(&target), before);
        }
    }
}

/// The manifest is right about the parts and wrong about what is in them: found by comparing, and what was restored by
/// then is no ledger.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_differ_make_no_ledger() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let scene = Scene::new(sort).await;
        let manifest = scene.create().await;
        scene.resign(&manifest, |manifest| {
            manifest.contents.tables.get_mut("jobs").unwrap().sum = "1".into();
        });
        let target = scene.target();
        let refused = scene.restore(&manifest.id, &target).await;
        assert!(
            matches!(&refused, Err(BackupError::Differs(what)) if what == &["rows of table jobs differ"]),
            "{refused:?}"
        );
        let url = target.url.expose_secret();
        let there = url.strip_prefix("sqlite://").is_none_or(|path| Path::new(path).exists());
        let opened = Ledger::open(&target).await.err().expect("it is no ledger");
        match url.strip_prefix("sqlite://") {
            Some(_) => assert!(!there && matches!(opened, LedgerError::Schema(_)), "{opened:?}"),
            None => {
                assert!(matches!(opened, LedgerError::Failed(_)), "{opened:?}");
                let rows = "SELECT (SELECT count(*) FROM meta), (SELECT count(*) FROM jobs)";
                assert_eq!(server().sql(database(url), rows), "0|21", "filled, but no ledger");
            }
        }
    }
}

/// Goal: what an earlier file has left is not played back into the restored one.
#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_left_a_journal_or_its_process() {
    let scene = Scene::new(Sort::Sqlite).await;
    let manifest = scene.create().await;
    for suffix in ["-wal", "-shm", "-journal"] {
        let target = scene.target();
        let path = target.url.expose_secret().strip_prefix("sqlite://").unwrap();
        let left = format!("{path}{suffix}");
        std::fs::write(&left, "left").unwrap();
        let refused = scene.restore(&manifest.id, &target).await;
        assert!(
            matches!(&refused, Err(BackupError::TargetNotEmpty(what)) if what.contains(&left)),
            "{refused:?}"
        );
        assert!(!Path::new(path).exists());
        std::fs::remove_file(&left).unwrap();
        scene.restore(&manifest.id, &target).await.unwrap();
    }
    // A process works on in a file that was deleted.
    let elsewhere = Scene::new(Sort::Sqlite).await;
    let open = Ledger::open(&elsewhere.live).await.unwrap();
    let path = elsewhere.live.url.expose_secret().strip_prefix("sqlite://").unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{path}{suffix}"));
    }
    let refused = scene.restore(&manifest.id, &elsewhere.live).await;
    assert!(matches!(refused, Err(BackupError::TargetLive(_))), "{refused:?}");
    open.close().await;
}

/// Goal: where `pg_restore` ends before it has read all, that is said, and soon. More is left than all channels hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_pg_restore_that_ends_early_hangs_nobody() {
    let scene = Scene::new(Sort::Postgres).await;
    scene.enlarge("repeat('x', 300000)").await;
    let manifest = scene.create().await;
    assert!(manifest.dump_bytes > 5 << 20, "{}", manifest.dump_bytes);
    let name = server().empty_database();
    server().sql(&name, "CREATE ROLE poor LOGIN");
    let poor = server().url(&name).replace("windlass@", "poor@");
    let target = LedgerSettings::new(poor);
    let restoring = scene.restore(&manifest.id, &target);
    let refused = tokio::time::timeout(std::time::Duration::from_secs(60), restoring).await;
    let refused = refused.expect("it says so in time");
    assert!(
        matches!(&refused, Err(BackupError::Tool(why)) if why.contains("permission denied")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_are_live_or_not_empty() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let scene = Scene::new(sort).await;
        let manifest = scene.create().await;
        let refused = scene.restore(&manifest.id, &scene.live).await;
        assert!(matches!(refused, Err(BackupError::TargetLive(_))), "{refused:?}");
        let elsewhere = Scene::new(sort).await;
        let refused = scene.restore(&manifest.id, &elsewhere.live).await;
        assert!(matches!(refused, Err(BackupError::TargetNotEmpty(_))), "{refused:?}");
        let in_use = Ledger::open(&elsewhere.live).await.unwrap();
        let refused = scene.restore(&manifest.id, &elsewhere.live).await;
        assert!(matches!(refused, Err(BackupError::TargetLive(_))), "{refused:?}");
        assert_eq!(jobs(&in_use).await.len(), 21);
        in_use.close().await;
    }
    // Not even a table of somebody else's.
    let scene = Scene::new(Sort::Postgres).await;
    let manifest = scene.create().await;
    let name = server().empty_database();
    server().sql(&name, "CREATE SCHEMA other; CREATE TABLE other.mine (x int)");
    let refused = scene.restore(&manifest.id, &LedgerSettings::new(server().url(&name))).await;
    assert!(matches!(refused, Err(BackupError::TargetNotEmpty(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_lead_nowhere_else() {
    let scene = Scene::new(Sort::Sqlite).await;
    for id in ["../x", "/etc", "", "..", "0190F5E6-0000-7000-8000-000000000000"] {
        let refused = scene.restore(id, &scene.target()).await;
        assert!(matches!(refused, Err(BackupError::NotFound(_))), "{id}: {refused:?}");
    }
}
