//! A ledger that is restored from a backup under a fleet that goes on.

use serde_json::json;

use crate::harness::{Fleet, until};

/// Goal: the processes of the old ledger are told, and the new one takes nothing from them. Method: a backup is restored
/// and put into the place of the live database, while Redis keeps what it had and a worker keeps on working.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_ledger_takes_over_from_the_one_before() {
    let mut fleet = Fleet::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = fleet.run(&["backup", "keygen"]);
    fleet.set("WINDLASS_BACKUP__KEY", key.trim());
    fleet.set("WINDLASS_BACKUP__STORE", &folder.path().join("store").display().to_string());
    let log = folder.path().join("worker.log");
    let worker = fleet.role_with_log("worker", "info", &log);

    let done = fleet.submit(5, json!({ "kind": "noop" })).await;
    fleet.all_in(&done, "succeeded").await;
    let under_way = fleet.submit(1, json!({ "kind": "sleep", "payload": { "for": "8s" } })).await;
    fleet.all_in(&under_way, "running").await;
    let said = fleet.run(&["backup", "create", "--output", "json"]);
    let backup: serde_json::Value = serde_json::from_str(&said).unwrap();
    // What the backup does not know: one that has ended, one that runs, and one that waits in Redis.
    let later = fleet.submit(1, json!({ "kind": "noop" })).await;
    fleet.all_in(&later, "succeeded").await;
    let long = json!({ "kind": "sleep", "payload": { "for": "10m" } });
    let running = fleet.submit(1, long).await;
    fleet.all_in(&running, "running").await;
    let waiting = fleet.submit(1, json!({ "kind": "noop", "delay": "30s" })).await;

    let restored = fleet.postgres.empty_database();
    let (id, into) = (backup["id"].as_str().unwrap(), fleet.postgres.url(&restored));
    fleet.run(&["backup", "restore", id, "--into", &into]);
    let live = fleet.database();
    fleet.postgres.replace(&live, &restored);

    assert_eq!(fleet.ended().await, [1, 1], "both end by themselves");
    fleet.start_again().await;

    // The worker is told by its next report at the latest.
    until("the worker knows", || async {
        let log = std::fs::read_to_string(&log).unwrap();
        log.contains("wrong_ledger: the API has another ledger than before").then_some(())
    })
    .await;
    fleet.all_in(&done, "succeeded").await;
    // Which one ran to its end before the worker was told, or after it was leased anew, does not matter.
    fleet.all_in(&under_way, "succeeded").await;
    let fresh = fleet.submit(3, json!({ "kind": "noop" })).await;
    fleet.all_in(&fresh, "succeeded").await;
    for id in [&later, &running, &waiting].into_iter().flatten() {
        assert_eq!(fleet.status(&format!("/v1/jobs/{id}")).await, 404, "{id}");
    }
    until("nothing of the old ledger runs or waits", || async {
        let workers = fleet.get("/v1/workers").await;
        let running = workers["items"].as_array()?.first()?["running"].as_u64()?;
        let queue = fleet.get("/v1/queues/default").await;
        let depth = &queue["depth"];
        (running == 0 && depth["delayed"] == 0 && depth["running"] == 0).then_some(())
    })
    .await;
    assert_eq!(worker.terminate(), 0);
}
