//! PostgreSQL with the least rights: the grants that `migrations/README.md` gives are enough for every call.

use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::Ledger;
use windlass_shared::testkit::ledger_suite;
use windlass_shared::testkit::postgres_server::PostgresServer;

const PAGE: &str = include_str!("../../../migrations/README.md");

/// A migrated database whose owner is somebody else, opened with the page's grants only.
async fn ledger(server: &PostgresServer) -> (Ledger, String) {
    let database = server.database().await;
    let grants = PAGE.split("```sql").nth(1).and_then(|rest| rest.split("```").next());
    let grants =
        grants.expect("migrations/README.md gives grants").replace("TO windlass", "TO app");
    server.sql(&database, "CREATE ROLE app LOGIN");
    server.sql(&database, &grants);
    let url = server.url(&database);
    let (_, place) = url.split_once('@').expect("the owner's address names its user");
    let url = format!("postgres://app@{place}");
    (Ledger::open(&LedgerSettings::new(url)).await.expect("the grants are enough"), database)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grants_are_enough_for_the_whole_suite() {
    let server = PostgresServer::start();
    let (ledger, database) = ledger(&server).await;
    for group in ledger_suite::GROUPS {
        assert!(group.run(&ledger).await > 0, "{}", group.name);
    }
    let tables = server.sql(&database, "SELECT count(*) FROM pg_tables WHERE tableowner = 'app'");
    assert_eq!(tables.trim(), "0", "partitions are the owner's");
    ledger.close().await;
}
