//! Drills prove what is good, and find what is not.

use std::sync::mpsc;

use windlass_shared::engine::Verdict;

use super::*;
use crate::backup::drill::{Faults, with};

#[tokio::test(flavor = "multi_thread")]
async fn a_good_backup_is_proven_and_nothing_is_left() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let scene = Scene::new(sort).await;
        let first = scene.create().await;
        let manifest = scene.create().await;
        let report = scene.drill(&manifest.id).await;
        assert!(report.good, "{report:?}");
        assert_eq!(report.jobs, 21);
        assert!(report.rto_ms >= report.restore_ms + report.rebuild_ms + report.canary_ms);
        let gap = manifest.origin.at.since(first.origin.at).as_millis();
        assert_eq!(report.gap_ms.map(u128::from), Some(gap));
        let kept = crate::backup::drill::report(&scene.settings, &manifest.id).await.unwrap();
        assert_eq!(kept, Some(report));
        assert_eq!(scene.left_databases().await, [""; 0]);
    }
}

/// Jobs that were to start before the backup was restored are ended in time, and not put into the engine. There are more
/// of them than one comparison ends, which takes a while: on one database.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_many_jobs_that_have_expired_is_proven() {
    let scene = Scene::new(Sort::Sqlite).await;
    let open = Ledger::open(&scene.live).await.unwrap();
    for _ in 0..11 {
        let made = || {
            let text = Value::Inline(Bytes::from_static(b"1"));
            let kind = "plain".parse().unwrap();
            NewJob::new(Namespace::default(), QueueName::default(), kind, text)
        };
        let jobs = (0..1_000).map(|_| made()).collect();
        open.submit(Submission { jobs, atomic: true, idempotency: None }).await.unwrap();
    }
    open.tamper("UPDATE jobs SET expires_at = run_at".into()).await.unwrap();
    open.close().await;
    let report = scene.drill(&scene.create().await.id).await;
    assert!(report.good, "{report:?}");
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
    let report = scene.drill(&manifest.id).await;
    assert!(!report.good);
    assert_eq!(report.error.unwrap().0, "part_damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_takes_too_long_has_failed() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let mut scene = Scene::new(sort).await;
        let manifest = scene.create().await;
        scene.settings.drill_max = std::time::Duration::from_millis(1);
        let report = scene.drill(&manifest.id).await;
        assert_eq!(report.error.as_ref().map(|(code, _)| code.as_str()), Some("timeout"));
        assert!(!report.good, "{report:?}");
        assert_eq!(scene.left_databases().await, [""; 0]);
        // It is the only one so far.
        let kept = crate::backup::drill::report(&scene.settings, &manifest.id).await.unwrap();
        assert_eq!(kept, Some(report));
    }
}

/// Drills with something wrong; what was found.
async fn with_faults(sort: Sort, faults: Faults) -> (String, String) {
    let scene = Scene::new(sort).await;
    let manifest = scene.create().await;
    let stop = CancellationToken::new();
    let report = with(faults, &scene.settings, &scene.live, &manifest.id, &silent, &stop).await;
    let report = report.unwrap();
    assert!(!report.good);
    report.error.unwrap()
}

/// Goal: the engine is held against the ledger. A job that is on record and was not rebuilt.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_lacks_a_job_is_found() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let faults = Faults {
            rebuilt: |life, _| {
                Box::pin(async {
                    submit(life.ledger(), 1).await;
                })
            },
            ..Faults::default()
        };
        let (code, why) = with_faults(sort, faults).await;
        assert_eq!(code, "differs");
        assert!(why.contains("20 jobs in the rebuilt engine, 21 due in the ledger"), "{why}");
    }
}

/// Goal: and the other way round. A job of the engine that the ledger has no more.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_with_a_job_too_many_is_found() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let faults = Faults {
            rebuilt: |life, _| {
                Box::pin(async {
                    let gone = "UPDATE jobs SET state = 10 WHERE id = (SELECT min(id::text)::uuid FROM jobs WHERE state < 10)";
                    let of_sqlite = "UPDATE jobs SET state = 10 WHERE id = (SELECT min(id) FROM jobs WHERE state < 10)";
                    let ledger = life.ledger();
                    let is_sqlite = matches!(ledger, Ledger::Sqlite(_));
                    let sql = if is_sqlite { of_sqlite } else { gone };
                    ledger.tamper(sql.into()).await.unwrap();
                })
            },
            ..Faults::default()
        };
        let (code, why) = with_faults(sort, faults).await;
        assert_eq!(code, "differs");
        assert!(why.contains("20 jobs in the rebuilt engine, 19 due in the ledger"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_does_not_succeed_is_found() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let faults = Faults { canary: || Verdict::Dead, ..Faults::default() };
        let (code, why) = with_faults(sort, faults).await;
        assert_eq!(code, "differs");
        assert!(why.contains("the canary ended as Failed"), "{why}");
    }
}

/// Goal: a drill that is stopped leaves no copy of the ledger, and what was proven before stays proven.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_is_stopped_leaves_nothing() {
    for sort in [Sort::Sqlite, Sort::Postgres] {
        let scene = Scene::new(sort).await;
        let manifest = scene.create().await;
        let proven = scene.drill(&manifest.id).await;
        let stop = CancellationToken::new();
        let half_way = |what: &str, _: u64| {
            if what == "restored" {
                stop.cancel();
            }
        };
        let stopped = drill(&scene.settings, &scene.live, &manifest.id, &half_way, &stop).await;
        assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
        assert_eq!(scene.left_databases().await, [""; 0]);
        let folder = std::fs::read_dir(scene.folder.path()).unwrap();
        let hidden = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(hidden.filter(|name| name.starts_with('.')).count(), 0);
        let kept = crate::backup::drill::report(&scene.settings, &manifest.id).await.unwrap();
        assert_eq!(kept, Some(proven));
    }
}

/// Goal: what a drill leaves that is killed, a backup or a drill drops once no drill can be at it any more, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn databases_of_killed_drills_are_dropped_a_day_later() {
    let scene = Scene::new(Sort::Postgres).await;
    let manifest = scene.create().await;
    for by in ["backup", "drill"] {
        let (settings, live, id) =
            (scene.settings.clone(), scene.live.clone(), manifest.id.clone());
        let ((tell, told), (kill, killed)) = (mpsc::channel(), mpsc::channel::<()>());
        let killed = std::sync::Mutex::new(killed);
        let drilling = tokio::spawn(async move {
            // Not over before it is killed.
            let half_way = move |what: &str, _: u64| {
                if what == "restored" {
                    tell.send(()).unwrap();
                    killed.lock().unwrap().recv().unwrap();
                }
            };
            drill(&settings, &live, &id, &half_way, &CancellationToken::new()).await
        });
        tokio::task::block_in_place(|| told.recv()).unwrap();
        drilling.abort();
        kill.send(()).unwrap();
        assert!(drilling.await.is_err_and(|error| error.is_cancelled()));
        let left = scene.left_databases().await;
        assert_eq!(left.len(), 1, "{left:?}");
        // It may be at work.
        scene.create().await;
        assert_eq!(scene.left_databases().await, left);

        let old = format!("ALTER DATABASE {} RENAME TO windlass_drill_1000_dead", left[0]);
        // Connections that were cut with it need a moment to go.
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = '{}'",
            left[0]
        );
        server().sql("postgres", &cut);
        server().sql("postgres", &old);
        match by {
            "backup" => drop(scene.create().await),
            _ => assert!(scene.drill(&manifest.id).await.good),
        }
        assert_eq!(scene.left_databases().await, [""; 0], "by a {by}");
    }
}
