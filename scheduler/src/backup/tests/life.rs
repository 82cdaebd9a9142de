//! What a backup is for.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

async fn round_trip(sort: Sort, encrypted: bool) {
    let mut scene = Scene::new(sort).await;
    if encrypted {
        let pair = age::x25519::Identity::generate();
        let file = scene.folder.path().join("identity");
        std::fs::write(&file, format!("# key\n{}\n", pair.to_string().expose_secret())).unwrap();
        scene.settings.recipients = vec![pair.to_public().to_string()];
        scene.settings.identity_file = Some(file);
    }
    let before = Ledger::open(&scene.live).await.unwrap();
    let (old, expected) = (before.id(), jobs(&before).await);
    // In use while it is backed up.
    let manifest = scene.create().await;
    assert_eq!((manifest.encrypted, manifest.origin.ledger), (encrypted, old));
    assert!(manifest.parts.len() > 1, "several parts: {:?}", manifest.parts);
    assert_eq!(manifest.contents.jobs.values().sum::<u64>(), 21);
    // Not in the backup.
    submit(&before, 1_000).await;
    before.close().await;

    let target = scene.target();
    let restored = scene.restore(&manifest.id, &target).await.unwrap();
    let after = Ledger::open(&target).await.unwrap();
    assert_eq!(after.id(), restored.ledger);
    assert_ne!(after.id(), old, "a restored ledger is another one");
    assert_eq!(jobs(&after).await, expected);

    // What leases of before have to say is older than what is on record.
    let (open, ..) = *expected.iter().find(|(_, state, _)| !state.is_terminal()).unwrap();
    let lease = Fence(u64::try_from(manifest.finished_at.micros()).unwrap());
    let reply = after.record(vec![succeeded(open, lease)]).await.unwrap();
    assert_eq!(reply.replies, [windlass_shared::ledger::Recorded::Stale]);
    // Leaders of before are, too, and nobody waits for their terms.
    let epoch = after.lead(WorkerId::generate(), "new", std::time::Duration::from_secs(9)).await;
    assert!(epoch.unwrap().unwrap().0 > 1_000_000);
    // It takes work.
    submit(&after, 7).await;
    after.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_ledger_comes_back_as_another_ledger_with_the_same_jobs() {
    round_trip(Sort::Sqlite, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_ledger_comes_back_as_another_ledger_with_the_same_jobs() {
    round_trip(Sort::Postgres, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_backups_come_back() {
    round_trip(Sort::Sqlite, true).await;
    round_trip(Sort::Postgres, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_for_their_owner_only() {
    let scene = Scene::new(Sort::Sqlite).await;
    let manifest = scene.create().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(Path::new(&scene.settings.store)), 0o700);
    assert_eq!(mode(&scene.file(&manifest.id, "")), 0o700);
    for name in ["manifest", "part-00000"] {
        assert_eq!(mode(&scene.file(&manifest.id, name)), 0o600, "{name}");
    }
    // A folder that was there is somebody's own; what is made in it is not for others.
    let mut scene = scene;
    let open = scene.folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    scene.settings.store = open.display().to_string();
    let manifest = scene.create().await;
    assert_eq!((mode(&open), mode(&scene.file(&manifest.id, ""))), (0o755, 0o700));
    let left: Vec<_> = std::fs::read_dir(scene.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "the copy was left behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_backup_is_none() {
    let scene = Scene::new(Sort::Postgres).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let stopped = create(&scene.settings, &scene.live, &silent, &stop).await;
    assert!(matches!(stopped, Err(BackupError::Stopped)));
    assert!(fetch::list(&scene.settings).await.unwrap().is_empty());
    // Nor does it hold up the next.
    scene.create().await;
}
