//! The ledger on PostgreSQL: the suite of every ledger, on a private server.

use windlass_shared::testkit::ledger_suite;
use windlass_shared::testkit::postgres_server::PostgresServer;

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
    reading,
    record,
    change,
    queues,
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
];
