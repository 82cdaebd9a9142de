//! The ledger on SQLite: the suite of every ledger, and what only a file in this process can get wrong.

use std::os::unix::fs::PermissionsExt;

use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::{JobFilter, Ledger, LedgerError, Refused, Submission, SubmitOutcome};
use windlass_shared::limits::{BATCH_JOBS_MAX, WRITE_QUEUE_MAX};
use windlass_shared::model::id::JobId;
use windlass_shared::testkit::ledger_suite;

use crate::sqlite_scene as scene;

/// A ledger in a folder of its own, which goes with it.
struct TestLedger {
    ledger: Ledger,
    settings: LedgerSettings,
    folder: tempfile::TempDir,
}

impl TestLedger {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data").join("ledger.db");
        let settings = LedgerSettings::new(format!("sqlite://{}", file.display()));
        let applied = Ledger::migrate(&settings).await.unwrap();
        assert!(!applied.is_empty());
        let ledger = Ledger::open(&settings).await.unwrap();
        Self { ledger, settings, folder }
    }
}

macro_rules! suite {
    ($($group:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $group() {
            let test = TestLedger::new().await;
            let ran = ledger_suite::group(stringify!($group)).run(&test.ledger).await;
            assert!(ran > 0);
            test.ledger.close().await;
        }
    )+

        /// Goal: a group that is added to the suite is run here too.
        #[test]
        fn every_group_is_run() {
            let here = [$(stringify!($group)),+];
            assert_eq!(ledger_suite::GROUPS.map(|group| group.name), here);
        }
    };
}

suite![
    submission,
    idempotency,
    uniqueness,
    shaping,
    shaping_flow,
    reading,
    record,
    change,
    queues,
    circuits,
    reports,
    stores,
    housekeeping,
    runs,
    run_record,
    run_advance,
    run_shape,
    run_waits,
    run_retry,
    run_storm,
    definitions,
    gates,
    schedules,
    duties,
    load_checks,
    load_results,
    alerts,
    looks,
    retention,
    quotas,
    orders,
    order_storm,
];

/// Goal: the lock names who has the database, and goes with the ledger.
#[tokio::test]
async fn a_second_ledger_on_the_same_file_is_refused() {
    let test = TestLedger::new().await;
    let Err(LedgerError::Unfit(why)) = Ledger::open(&test.settings).await else {
        panic!("a second ledger on the file was opened");
    };
    assert!(why.contains(&format!("process {}", std::process::id())), "{why}");
    let refused = Ledger::migrate(&test.settings).await;
    assert!(matches!(refused, Err(LedgerError::Unfit(_))), "{refused:?}");
    // To look is allowed.
    let status = Ledger::migration_status(&test.settings).await.unwrap();
    assert!(status.iter().all(|migration| migration.applied));
    test.ledger.close().await;
    Ledger::open(&test.settings).await.unwrap().close().await;
}

#[tokio::test]
async fn a_ledger_without_its_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.db");
    let settings = LedgerSettings::new(format!("sqlite://{}", file.display()));
    let status = Ledger::migration_status(&settings).await.unwrap();
    assert!(!file.exists() && status.iter().all(|migration| !migration.applied));
    assert!(matches!(Ledger::open(&settings).await, Err(LedgerError::Schema(_))));
    assert_eq!(Ledger::migrate(&settings).await.unwrap().len(), status.len());
    assert_eq!(Ledger::migrate(&settings).await.unwrap(), []);
    Ledger::open(&settings).await.unwrap().close().await;
}

#[tokio::test]
async fn the_id_stays_and_is_nobody_elses() {
    let (test, other) = (TestLedger::new().await, TestLedger::new().await);
    let id = test.ledger.id();
    assert_ne!(other.ledger.id(), id);
    test.ledger.close().await;
    let again = Ledger::open(&test.settings).await.unwrap();
    assert_eq!(again.id(), id);
    again.close().await;
}

/// Goal: queues of which leases may have been given before there were gates don't pass for new ones. Method: the
/// migration is undone and done again.
#[tokio::test]
async fn queues_from_before_the_gates_were_opened_once() {
    let test = TestLedger::new().await;
    scene::accept(&test.ledger, scene::new_jobs("old", 1)).await;
    for undo in
        ["DROP TABLE leader", "DROP TABLE shards", "DELETE FROM _sqlx_migrations WHERE version = 4"]
    {
        test.ledger.tamper(undo.into()).await.unwrap();
    }
    test.ledger.close().await;
    let Err(LedgerError::Schema(why)) = Ledger::open(&test.settings).await else {
        panic!("a ledger without gates was opened");
    };
    assert!(why.contains("windlass migrate up"), "{why}");
    assert_eq!(Ledger::migrate(&test.settings).await.unwrap().len(), 1);
    let again = Ledger::open(&test.settings).await.unwrap();
    scene::gates_after_migration(&again).await;
    again.close().await;
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    let test = TestLedger::new().await;
    scene::accept(&test.ledger, scene::new_jobs("a", 1)).await;
    let data = test.folder.path().join("data");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let files: Vec<_> = data.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    test.ledger.close().await;
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart() {
    let test = TestLedger::new().await;
    let ids = scene::accept(&test.ledger, scene::new_jobs("a", 100)).await;
    test.ledger.close().await;
    let again = Ledger::open(&test.settings).await.unwrap();
    assert_eq!(again.jobs(&ids).await.unwrap().len(), ids.len());
    again.close().await;
}

/// Goal: closing writes what was handed in before, and refuses what comes after.
#[tokio::test]
async fn closing_finishes_what_was_handed_in() {
    let test = TestLedger::new().await;
    let jobs = scene::new_jobs("a", 500);
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let submission = Submission { jobs, atomic: false, idempotency: None };
    let (outcome, ()) = tokio::join!(test.ledger.submit(submission), test.ledger.close());
    assert!(matches!(outcome, Ok(SubmitOutcome::Done(_))), "{outcome:?}");
    let late = Submission { jobs: scene::new_jobs("a", 1), atomic: false, idempotency: None };
    let late = test.ledger.submit(late).await;
    assert!(matches!(late, Err(LedgerError::Unavailable(_))), "{late:?}");
    assert!(matches!(test.ledger.now().await, Err(LedgerError::Unavailable(_))));
    let again = Ledger::open(&test.settings).await.unwrap();
    assert_eq!(again.jobs(&ids).await.unwrap().len(), ids.len());
    again.close().await;
}

/// Goal: what waits for the writer is bounded, by rows. Method: one task hands in everything before the
/// writer's task has a turn.
#[tokio::test]
async fn too_much_at_once_is_refused_at_the_door() {
    let test = TestLedger::new().await;
    let fitting = WRITE_QUEUE_MAX / BATCH_JOBS_MAX;
    let calls = (0..fitting + 2).map(|_| {
        let jobs = scene::new_jobs("a", BATCH_JOBS_MAX);
        test.ledger.submit(Submission { jobs, atomic: false, idempotency: None })
    });
    let outcomes = futures::future::join_all(calls).await;
    let refused = outcomes.iter().filter(|o| matches!(o, Err(LedgerError::Overloaded))).count();
    let accepted = outcomes.iter().filter(|o| matches!(o, Ok(SubmitOutcome::Done(_)))).count();
    assert_eq!((accepted, refused), (fitting, 2));
    // There is room again.
    scene::accept(&test.ledger, scene::new_jobs("a", 10)).await;
    test.ledger.close().await;
}

/// Goal: a row that the database refuses (here: an id that exists) fails alone, whether it is in a
/// submission of its own, in a batch, or twice in one batch, while others wait for the same commit.
#[tokio::test]
async fn a_bad_row_does_not_fail_its_neighbours() {
    let test = TestLedger::new().await;
    let old = scene::new_jobs("a", 1).remove(0);
    scene::accept(&test.ledger, vec![old.clone()]).await;
    let mut batch = scene::new_jobs("a", 3);
    batch[1].id = old.id;
    let twin = batch[0].id;
    batch.push(scene::new_jobs("a", 1).remove(0));
    batch[3].id = twin;
    let atomic = vec![scene::new_jobs("a", 1).remove(0), old.clone()];
    let good = scene::new_jobs("a", 20);
    let good_ids: Vec<JobId> = good.iter().map(|job| job.id).collect();
    let submit = |jobs, atomic| test.ledger.submit(Submission { jobs, atomic, idempotency: None });
    let (alone, batch, atomic, neighbours) = tokio::join!(
        submit(vec![old.clone()], false),
        submit(batch, false),
        submit(atomic, true),
        scene::accept(&test.ledger, good),
    );
    assert_eq!(neighbours, good_ids);
    let bad = |result: &Result<_, Refused>| matches!(result, Err(Refused::BadData(_)));
    let alone = scene::done(alone);
    assert!(alone.len() == 1 && bad(&alone[0]), "{alone:?}");
    let batch = scene::done(batch);
    let refused: Vec<bool> = batch.iter().map(bad).collect();
    assert_eq!(refused, [false, true, false, true], "{batch:?}");
    let atomic = scene::done(atomic);
    assert!(atomic[0] == Err(Refused::Batch) && bad(&atomic[1]), "{atomic:?}");
    test.ledger.close().await;
}

/// Goal: a page looks at a bounded range of ids, and the pages still find everything.
#[tokio::test]
async fn a_sparse_list_costs_bounded_pages() {
    let test = TestLedger::new().await;
    let needle = scene::accept(&test.ledger, scene::new_jobs("needle", 1)).await;
    for _ in 0..3 {
        scene::accept(&test.ledger, scene::new_jobs("hay", 5_000)).await;
    }
    let (namespace, filter) = ("needle".parse().unwrap(), JobFilter::default());
    let first = test.ledger.list(&namespace, &filter, None, 50).await.unwrap();
    assert!(first.jobs.is_empty() && first.next.is_some());
    let second = test.ledger.list(&namespace, &filter, first.next, 50).await.unwrap();
    assert_eq!(second.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), needle);
    assert_eq!(second.next, None);
    test.ledger.close().await;
}
