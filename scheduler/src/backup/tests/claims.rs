//! One backup at a time, and none that a dead process holds up for ever.

use std::time::Duration;

use super::*;
use crate::backup::store::Store;

/// Shorter than it takes until a claim is stale.
const SOON: Duration = Duration::from_secs(60);

fn other() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_backups_at_once_one_says_that_the_other_is_being_made() {
    let scene = Scene::new(Sort::Sqlite).await;
    let (store, other) = (Store::open(&scene.settings).unwrap(), other());
    store.claim(&other).await.unwrap();
    let at_work = async {
        loop {
            store.extend_claim(&other).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let stop = CancellationToken::new();
    let refused = tokio::select! {
        refused = create(&scene.settings, &scene.live, &silent, &stop) => refused,
        () = at_work => unreachable!("it works on"),
    };
    assert!(matches!(&refused, Err(BackupError::Busy(id)) if *id == other), "{refused:?}");
    // Nor was the other's claim taken away.
    store.extend_claim(&other).await.unwrap();
    store.give_up_claim(&other).await;
    scene.create().await;
}

/// Goal: whether a claim is stale is found by watching it: how old it seems does not matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_nobody_extends_is_taken_over() {
    let scene = Scene::new(Sort::Sqlite).await;
    let (store, dead, next) = (Store::open(&scene.settings).unwrap(), other(), other());
    store.claim(&dead).await.unwrap();
    let running = Path::new(&scene.settings.store).join("running");
    let file = std::fs::File::options().write(true).open(running).unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(9_999);
    file.set_modified(long_ago).unwrap();
    let began = std::time::Instant::now();
    let stale = Duration::from_millis(300);
    store.claim_after(&next, stale).await.unwrap();
    assert!(began.elapsed() >= stale, "it was watched for {:?}", began.elapsed());
    // Who comes back learns of it.
    let lost = store.extend_claim(&dead).await;
    assert!(matches!(&lost, Err(BackupError::Busy(id)) if *id == next), "{lost:?}");
    store.give_up_claim(&dead).await;
    store.extend_claim(&next).await.unwrap();
}

/// Goal: of many that see the same stale claim, one gets it.
#[tokio::test(flavor = "multi_thread")]
async fn one_takes_a_stale_claim_over() {
    let scene = Scene::new(Sort::Sqlite).await;
    let store = Store::open(&scene.settings).unwrap();
    for _ in 0..20 {
        let dead = other();
        store.claim(&dead).await.unwrap();
        let ids: Vec<String> = (0..4).map(|_| other()).collect();
        let claims = ids.iter().map(|id| {
            let (store, id) = (store.clone(), id.clone());
            tokio::spawn(async move { store.claim_after(&id, Duration::from_millis(20)).await })
        });
        let taken = futures::future::join_all(claims).await;
        let taken: Vec<_> = taken.into_iter().map(Result::unwrap).collect();
        let mine: Vec<&String> =
            ids.iter().zip(&taken).filter(|(_, taken)| taken.is_ok()).map(|(id, _)| id).collect();
        assert_eq!(mine.len(), 1, "{taken:?}");
        store.give_up_claim(mine[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_waits_for_a_claim_can_be_stopped() {
    let scene = Scene::new(Sort::Sqlite).await;
    let store = Store::open(&scene.settings).unwrap();
    store.claim(&other()).await.unwrap();
    let (stop, began) = (CancellationToken::new(), std::time::Instant::now());
    let (stopped, ()) = tokio::join!(create(&scene.settings, &scene.live, &silent, &stop), async {
        tokio::task::yield_now().await;
        stop.cancel();
    });
    assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
    assert!(began.elapsed() < SOON, "it has waited for the claim: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn so_can_a_base_backup() {
    let scene = Scene::new(Sort::Sqlite).await;
    let server = PostgresServer::start_archiving();
    server.sql("postgres", "ALTER SYSTEM SET archive_command = 'true'");
    server.sql("postgres", "SELECT pg_reload_conf()");
    let live = LedgerSettings::new(server.url(&server.database().await));
    std::fs::create_dir_all(Path::new(&scene.settings.store).join("wal")).unwrap();
    let store = Store::open(&scene.settings).unwrap().under("base");
    store.claim(&other()).await.unwrap();
    let (stop, began) = (CancellationToken::new(), std::time::Instant::now());
    let making = crate::backup::wal::base::create(&scene.settings, &live, &silent, &stop);
    let (stopped, ()) = tokio::join!(making, async {
        tokio::task::yield_now().await;
        stop.cancel();
    });
    assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
    assert!(began.elapsed() < SOON, "it has waited for the claim: {:?}", began.elapsed());
}
