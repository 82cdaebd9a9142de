//! The ledger on PostgreSQL: the suite of every ledger, on a private server.

use std::time::{Duration, Instant};

use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::quotas::Quotas;
use windlass_shared::ledger::{Ledger, LedgerError, RateLimit, Submission, SubmitOutcome};
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Span;
use windlass_shared::testkit::ledger_suite;
use windlass_shared::testkit::postgres_server::PostgresServer;

use crate::sqlite_scene as scene;

macro_rules! suite {
    ($($group:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $group() {
            let server = PostgresServer::start();
            let ledger = server.ledger().await;
            let ran = ledger_suite::group(stringify!($group)).run(&ledger).await;
            assert!(ran > 0);
            ledger.close().await;
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

#[tokio::test]
async fn the_id_stays_and_is_nobody_elses() {
    let server = PostgresServer::start();
    let settings = LedgerSettings::new(server.url(&server.database().await));
    let (first, again) =
        (Ledger::open(&settings).await.unwrap(), Ledger::open(&settings).await.unwrap());
    let other = server.ledger().await;
    assert_eq!(first.id(), again.id());
    assert_ne!(first.id(), other.id());
    for ledger in [first, again, other] {
        ledger.close().await;
    }
}

#[tokio::test]
async fn a_ledger_without_its_schema_is_refused() {
    let server = PostgresServer::start();
    let settings = LedgerSettings::new(server.url(&server.empty_database()));
    let Err(LedgerError::Schema(why)) = Ledger::open(&settings).await else {
        panic!("a database without a schema was opened");
    };
    assert!(why.contains("windlass migrate up"), "{why}");
}

/// Goal: queues of which leases may have been given before there were gates don't pass for new ones. Method: the
/// migration is undone and done again.
/// Goal: processes share one quota, and one that has not set it learns of it within a second. Method: two ledgers on one
/// database; the burst never comes back meanwhile.
#[tokio::test]
async fn processes_share_a_quota() {
    let server = PostgresServer::start();
    let settings = LedgerSettings::new(server.url(&server.database().await));
    let (one, other) =
        (Ledger::open(&settings).await.unwrap(), Ledger::open(&settings).await.unwrap());
    let namespace: Namespace = "shared".parse().unwrap();
    // Both know that nobody has a quota.
    for ledger in [&one, &other] {
        scene::accept(ledger, scene::new_jobs("elsewhere", 1)).await;
    }
    let hour = Span(Duration::from_secs(3_600));
    let rate = Some(RateLimit { limit: 1, per: hour, burst: Some(30) });
    let quotas = Quotas { rate, ..Quotas::default() };
    one.set_quotas(&namespace, Some(&quotas), "a test").await.unwrap();
    // More than there is at once: let in only by who does not know, and free of charge.
    let set_at = Instant::now();
    loop {
        let jobs = scene::new_jobs(namespace.as_str(), 31);
        let outcome = other.submit(Submission { jobs, atomic: false, idempotency: None }).await;
        if matches!(outcome, Ok(SubmitOutcome::OverQuota(_))) {
            break;
        }
        assert!(set_at.elapsed() < Duration::from_secs(2), "{outcome:?}");
    }
    let submitting = (0..100).map(|n| {
        let ledger = if n % 2 == 0 { &one } else { &other };
        let jobs = scene::new_jobs(namespace.as_str(), 1);
        ledger.submit(Submission { jobs, atomic: false, idempotency: None })
    });
    let outcomes = futures::future::join_all(submitting).await;
    let came_in = outcomes.iter().filter(|o| matches!(o, Ok(SubmitOutcome::Done(_)))).count();
    let refused = outcomes.iter().filter(|o| matches!(o, Ok(SubmitOutcome::OverQuota(_)))).count();
    assert_eq!((came_in, refused), (30, 70));
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn queues_from_before_the_gates_were_opened_once() {
    let server = PostgresServer::start();
    let database = server.database().await;
    let settings = LedgerSettings::new(server.url(&database));
    let ledger = Ledger::open(&settings).await.unwrap();
    scene::accept(&ledger, scene::new_jobs("old", 1)).await;
    ledger.close().await;
    server.sql(
        &database,
        "DROP TABLE leader; DROP TABLE shards; DELETE FROM _sqlx_migrations WHERE version = 4",
    );
    let refused = Ledger::open(&settings).await;
    assert!(matches!(refused, Err(LedgerError::Schema(_))));
    assert_eq!(Ledger::migrate(&settings).await.unwrap().len(), 1);
    let again = Ledger::open(&settings).await.unwrap();
    scene::gates_after_migration(&again).await;
    again.close().await;
}
