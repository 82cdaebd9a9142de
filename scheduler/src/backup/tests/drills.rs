//! Drills prove what is good, and find what is not.

use windlass_shared::ledger::backup as ledger;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_backup_is_proven_and_nothing_is_left() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let scene = Scene::new(sort).await;
        let first = scene.create().await;
        let manifest = scene.create().await;
        let report =
            drill(&scene.settings, &scene.live, &manifest.id, &silent, &CancellationToken::new())
                .await
                .unwrap();
        assert!(report.good, "{report:?}");
        assert_eq!(report.jobs, 21);
        assert!(report.rto_ms >= report.restore_ms + report.rebuild_ms + report.canary_ms);
        let gap = manifest.origin.at.since(first.origin.at).as_millis();
        assert_eq!(report.gap_ms.map(u128::from), Some(gap));
        let kept = crate::backup::drill::report(&scene.settings, &manifest.id).await.unwrap();
        assert_eq!(kept, Some(report));
        if sort == Sort::Postgres {
            // The server is this test's own.
            let left = ledger::databases(&scene.live, "windlass_drill_").await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

/// Goal: the comparison is not vacuous. One row of one table, of each sort of wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_changed_row_is_found() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let scene = Scene::new(sort).await;
        let manifest = scene.create().await;
        let target = scene.target();
        scene.restore(&manifest.id, &target).await.unwrap();
        let whole = ledger::contents(&target).await.unwrap();
        assert!(whole.differences(&whole).is_empty());
        let open = Ledger::open(&target).await.unwrap();
        let newest = jobs(&open).await[0].0;
        open.tamper_job(newest, "priority = priority + 1").await.unwrap();
        let text = "UPDATE queues SET settings = '{ }'";
        open.tamper(text.into()).await.unwrap();
        open.close().await;
        let changed = ledger::contents(&target).await.unwrap();
        let found = whole.differences(&changed);
        let expected = [
            "rows of table jobs differ".to_owned(),
            "rows of table queues differ".into(),
            format!("job {newest} differs"),
        ];
        assert_eq!(found, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_backup_is_reported_and_is_not_proven() {
    let scene = Scene::new(Sort::Postgres).await;
    let manifest = scene.create().await;
    let path = scene.file(&manifest.id, "part-00001");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let report =
        drill(&scene.settings, &scene.live, &manifest.id, &silent, &CancellationToken::new())
            .await
            .unwrap();
    assert!(!report.good);
    assert_eq!(report.error.unwrap().0, "part_damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_takes_too_long_has_failed() {
    let mut scene = Scene::new(Sort::Sqlite).await;
    let manifest = scene.create().await;
    scene.settings.drill_max = std::time::Duration::from_millis(1);
    let report =
        drill(&scene.settings, &scene.live, &manifest.id, &silent, &CancellationToken::new())
            .await
            .unwrap();
    assert!(!report.good, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_killed_drills_are_dropped_after_a_day() {
    let scene = Scene::new(Sort::Postgres).await;
    let manifest = scene.create().await;
    ledger::create_database(&scene.live, "windlass_drill_1000_dead").await.unwrap();
    drill(&scene.settings, &scene.live, &manifest.id, &silent, &CancellationToken::new())
        .await
        .unwrap();
    let left = ledger::databases(&scene.live, "windlass_drill_1000").await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
