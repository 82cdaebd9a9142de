//! Submission to a fleet.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::Fleet;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_racing_with_one_key_make_one_job() {
    let fleet = Fleet::start().await;
    let body = json!({ "kind": "echo", "payload": { "order": 7 } });
    let calls = (0..20).map(|_| fleet.post_with_key("/v1/jobs", "order-7", &body));
    let answers = futures::future::join_all(calls).await;
    let ids: BTreeSet<String> = answers
        .iter()
        .map(|(status, job)| {
            assert_eq!(*status, 201, "{job}");
            job["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    assert_eq!(ids.len(), 1, "one key is one job");
    let listed = fleet.get("/v1/jobs?limit=500").await;
    assert_eq!(listed["items"].as_array().expect("a list").len(), 1, "{listed}");

    let other = json!({ "kind": "echo", "payload": { "order": 8 } });
    let (status, problem) = fleet.post_with_key("/v1/jobs", "order-7", &other).await;
    assert_eq!((status, &problem["code"]), (422, &json!("idempotency_key_reused")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_jobs_go_round_and_are_on_record() {
    let fleet = Fleet::start().await;
    let ids = fleet.submit(1000, json!({ "kind": "echo", "payload": { "hello": "world" } })).await;
    let (one, two) = (fleet.worker(8), fleet.worker(8));
    let jobs = fleet.all_in(&ids, "succeeded").await;
    for job in &jobs {
        assert_eq!(job["output"], json!({ "hello": "world" }));
        assert_eq!(job["attempt"], 1);
    }
    for role in [one, two] {
        assert_eq!(role.terminate(), 0, "a drained worker exits 0");
    }
}
