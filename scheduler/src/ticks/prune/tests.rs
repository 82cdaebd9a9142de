use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::{Idempotency, Submission, SubmitOutcome, TERM_MAX};
use windlass_shared::model::id::WorkerId;
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::Namespace;
use windlass_shared::testkit::postgres_server::PostgresServer;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const WAIT: Duration = Duration::from_secs(600);

/// Submits with a key; whether it stood for a submission already.
async fn is_known(ledger: &Ledger, key: &str) -> bool {
    let (queue, kind) = ("q".parse().unwrap(), "k".parse().unwrap());
    let job = NewJob::new(Namespace::default(), queue, kind, Value::null());
    let idempotency = Some(Idempotency { key: key.into(), body_hash: [1; 32] });
    let submission = Submission { jobs: vec![job], atomic: false, idempotency };
    match ledger.submit(submission).await.unwrap() {
        SubmitOutcome::Done(_) => false,
        SubmitOutcome::Replayed(_) => true,
        other => panic!("{other:?}"),
    }
}

/// Goal: a ledger's clock that jumps two days ahead forgets no key before it has run evenly there; and a tick of no time
/// does one batch, and the next goes on.
async fn a_clock_that_jumps_forgets_no_key(settings: LedgerSettings) {
    Ledger::migrate(&settings).await.unwrap();
    let ledger = Ledger::open(&settings).await.unwrap();
    let holder = WorkerId::generate();
    assert!(!is_known(&ledger, "a").await);
    let start = Reading::of(&ledger).await.unwrap();
    let mut prune = Prune { keep: DAY * 7, steady: Steady::after(WAIT), through: Instant::now() };
    let mut tick = async |own: u64, ahead: Duration| {
        let epoch = ledger.lead(holder, "test", TERM_MAX).await.unwrap().expect("nobody else does");
        let own = Duration::from_secs(own);
        let reading = Reading { ledger: start.ledger.plus(own).plus(ahead), own: start.own + own };
        prune.tick(&ledger, epoch, reading, Duration::ZERO).await.unwrap()
    };
    for (own, ahead) in [(0, 0), (600, 0), (601, 2), (900, 2), (901, 0)] {
        assert_eq!(tick(own, DAY * ahead).await, 0, "{own} {ahead}");
        assert!(is_known(&ledger, "a").await);
    }
    assert_eq!(tick(1_000, DAY * 2).await, 0);
    assert_eq!(tick(1_600, DAY * 2).await, 1, "it has stayed so");
    assert_eq!(tick(1_601, DAY * 2).await, 0);
    assert!(!is_known(&ledger, "a").await);
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/ledger.db", folder.path().display());
    a_clock_that_jumps_forgets_no_key(LedgerSettings::new(url)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    let server = PostgresServer::start();
    let settings = LedgerSettings::new(server.url(&server.database().await));
    a_clock_that_jumps_forgets_no_key(settings).await;
}
