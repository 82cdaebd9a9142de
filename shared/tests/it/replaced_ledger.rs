//! Goal: a process whose database was replaced under it writes nothing to the other one, and notices.

use bytes::Bytes;
use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::{Ledger, Submission};
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::testkit::postgres_server::PostgresServer;

fn submission() -> Submission {
    let payload = Value::Inline(Bytes::from_static(b"null"));
    let kind = "plain".parse().unwrap();
    let job = NewJob::new(Namespace::default(), QueueName::default(), kind, payload);
    Submission { jobs: vec![job], atomic: false, idempotency: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_never_writes_to_a_database_that_took_the_place_of_its_own() {
    let server = PostgresServer::start();
    let (live, other) = (server.database().await, server.database().await);
    let ledger = Ledger::open(&LedgerSettings::new(server.url(&live))).await.unwrap();
    ledger.submit(submission()).await.unwrap();
    assert!(!ledger.was_replaced().await);

    server.replace(&live, &other);

    {
        let refused = ledger.submit(submission()).await;
        assert!(refused.is_err(), "{refused:?}");
        let refused = ledger
            .lead(
                windlass_shared::model::id::WorkerId::generate(),
                "x",
                std::time::Duration::from_secs(1),
            )
            .await;
        assert!(refused.is_err(), "{refused:?}");
    }
    let refused = ledger.now().await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(ledger.was_replaced().await);
    assert_eq!(
        server.sql(&live, "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM leader)"),
        "0"
    );
}
