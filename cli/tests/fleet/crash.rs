//! What is left when something is killed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Fleet, LEASE, until};

fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("before the year 292 million")
}

fn ms(time: &Value) -> i64 {
    let time: windlass_shared::model::time::Timestamp =
        time.as_str().expect("a time").parse().expect("RFC 3339");
    time.millis()
}

/// Goal: jobs of a killed worker run elsewhere within lease + 1 s, charged as crashes, not as attempts.
/// Method: one worker takes all, a second one waits idle, the first is killed.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_killed_worker_run_elsewhere_within_the_lease_and_a_second() {
    let fleet = Fleet::start().await;
    let mut first = fleet.worker(4);
    let ids = fleet.submit(4, json!({ "kind": "sleep", "payload": { "for": "4s" } })).await;
    fleet.all_in(&ids, "running").await;
    let _second = fleet.worker(8);
    until("the second worker is heard of", || async {
        let workers = fleet.get("/v1/workers").await;
        (workers["items"].as_array()?.len() == 2).then_some(())
    })
    .await;

    first.kill_9();
    let killed_at = unix_ms();
    fleet.all_in(&ids, "succeeded").await;
    for id in &ids {
        let attempts = fleet.attempts(id).await;
        let outcomes: Vec<&str> = attempts.iter().filter_map(|a| a["outcome"].as_str()).collect();
        assert_eq!(outcomes, ["lease_lost", "succeeded"], "{attempts:?}");
        let again_at = ms(&attempts[1]["started_at"]);
        let bound = i64::try_from((LEASE + Duration::from_secs(1)).as_millis()).expect("small");
        let after = again_at - killed_at;
        println!("ran again {after} ms after the kill");
        assert!(after <= bound, "ran again {after} ms after the kill; allowed {bound}");
        assert_eq!(fleet.job(id).await["attempt"], 1, "a crash is not an attempt");
    }
}

/// Goal: a healthy job of any length never runs twice. Method: several leases long, with idle workers
/// around that would take it.
#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_job_longer_than_its_lease_runs_once() {
    let fleet = Fleet::start().await;
    let _workers = [fleet.worker(4), fleet.worker(4)];
    let ids = fleet.submit(4, json!({ "kind": "sleep", "payload": { "for": "10s" } })).await;
    fleet.all_in(&ids, "succeeded").await;
    for id in &ids {
        let attempts = fleet.attempts(id).await;
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        assert_eq!(attempts[0]["outcome"], "succeeded");
    }
}

/// Goal: a wiped Redis loses no waiting job, and none of them runs twice.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_jobs_survive_a_wiped_redis() {
    let fleet = Fleet::start().await;
    let ids = fleet.submit(300, json!({ "kind": "noop" })).await;
    until("the jobs are in the engine", || async {
        let queue = fleet.get("/v1/queues/default").await;
        (queue["ready"] == 300 || queue["depth"]["ready"] == 300).then_some(())
    })
    .await;
    fleet.redis.command(&["FLUSHALL"]).expect_ok();
    let _worker = fleet.worker(8);
    let jobs = fleet.all_in(&ids, "succeeded").await;
    assert!(jobs.iter().all(|job| job["attempt"] == 1));
}
