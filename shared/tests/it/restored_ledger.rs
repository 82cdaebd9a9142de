//! The last step of a restore into PostgreSQL, where the connection is lost at the worst moment.

use windlass_shared::ledger::backup::finish;
use windlass_shared::ledger::{Ledger, LedgerError};
use windlass_shared::testkit::postgres_server::PostgresServer;
use windlass_shared::testkit::postgres_server::link::{Link, Loss};

/// A database that was filled, and is no ledger yet.
async fn filled(server: &PostgresServer) -> String {
    let name = server.database().await;
    server.sql(&name, "DELETE FROM meta");
    name
}

/// Goal: what has become a ledger is not said to have failed, and what has not is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_restore_is_known_whatever_is_lost() {
    let server = PostgresServer::start();
    for (marker, loss, becomes) in [
        ("COMMIT", Loss::Answer, true),
        ("COMMIT", Loss::Request, false),
        ("ANALYZE", Loss::Request, true),
    ] {
        let name = filled(&server).await;
        let link = Link::to(&server).await;
        let settings = link.settings(&name);
        link.cut_at(marker.as_bytes(), loss);
        let finished = finish(&settings).await;
        assert_eq!(link.cuts(), 1, "{marker}");
        let ids = server.sql(&name, "SELECT count(*) FROM meta");
        assert_eq!(ids, if becomes { "1" } else { "0" }, "{marker} {loss:?}");
        if becomes {
            let id = finished.unwrap_or_else(|error| panic!("{marker} {loss:?}: {error:?}"));
            assert_eq!(Ledger::open(&settings).await.unwrap().id(), id);
        } else {
            assert!(matches!(finished, Err(LedgerError::Unavailable(_))), "{finished:?}");
            finish(&settings).await.expect("it may be tried again");
        }
    }
}
