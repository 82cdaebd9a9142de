//! Bulk actions.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixture::{Fixture, SOON};

/// Asks for an operation until it has ended: nothing else tells.
async fn ended(api: &Fixture, location: &str) -> serde_json::Value {
    let started = Instant::now();
    loop {
        let operation = api.get(location).await.expect(200);
        if operation["state"] != "running" {
            return operation;
        }
        assert!(started.elapsed() < SOON, "does not end: {operation}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_action_changes_what_its_filter_means_and_a_dry_run_nothing() {
    let api = Fixture::new().await;
    for queue in ["a", "a", "b"] {
        api.submit(json!({"kind": "x", "queue": queue})).await;
    }
    let body =
        |dry_run: bool| json!({"action": "cancel", "filter": {"queue": "a"}, "dry_run": dry_run});
    let counted = api.post("/v1/jobs/actions", body(true)).await.expect(200);
    assert_eq!(counted, json!({"dry_run": true, "matched": 2}));
    let started = api.post("/v1/jobs/actions", body(false)).await;
    let location = started.header("location").to_owned();
    started.expect(202);
    let operation = ended(&api, &location).await;
    assert_eq!((&operation["state"], &operation["changed"]), (&json!("succeeded"), &json!(2)));
    let left = api.get("/v1/jobs?state=ready").await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_action_says_what_it_needs() {
    let api = Fixture::new().await;
    for bad in [
        json!({}),
        json!({"action": "cancel"}),
        json!({"action": "explode", "filter": {}}),
        json!({"action": "cancel", "filter": {"statez": []}}),
        json!({"action": "cancel", "filter": {"states": ["done"]}}),
        json!({"action": "cancel", "filter": {"q": ""}}),
    ] {
        api.post("/v1/jobs/actions", bad).await.refused(422, "invalid");
    }
    api.get("/v1/operations/01900000-0000-7000-8000-000000000000").await.refused(404, "not_found");
}

/// Goal: a bulk retry is metered though its caller says nothing, and as fast as it can be only when that is asked for.
#[tokio::test]
async fn a_retry_is_metered_unless_told_otherwise() {
    const JOBS: usize = 60;
    let api = Fixture::new().await;
    for _ in 0..JOBS {
        api.submit(json!({"kind": "x"})).await;
    }
    let start = async |body: serde_json::Value| {
        let started = api.post("/v1/jobs/actions", body).await;
        let location = started.header("location").to_owned();
        started.expect(202);
        let began = Instant::now();
        let operation = ended(&api, &location).await;
        assert_eq!(operation["changed"], JOBS, "{operation}");
        began.elapsed()
    };
    let cancel = json!({"action": "cancel", "filter": {}});
    // 100 per second; what it lost to a slow commit it makes up for 100 ms.
    let metered = Duration::from_millis((JOBS as u64 - 1) * 10 - 100);
    for rate in [json!({}), json!({"rate": null}), json!({"rate": 100})] {
        start(cancel.clone()).await;
        let mut retry = json!({"action": "retry", "filter": {}});
        retry.as_object_mut().unwrap().extend(rate.as_object().unwrap().clone());
        let took = start(retry).await;
        assert!(took >= metered, "{rate}: {took:?}");
    }
    start(cancel).await;
    let took = start(json!({"action": "retry", "filter": {}, "rate": 0})).await;
    println!("{JOBS} jobs without a rate: {took:?}");
}

#[tokio::test]
async fn a_rate_is_for_retries_and_bounded() {
    let api = Fixture::new().await;
    for (action, rate) in
        [("cancel", 5), ("delete", 5), ("cancel", 0), ("retry", 10_001), ("retry", -1)]
    {
        for dry_run in [true, false] {
            let body = json!({"action": action, "filter": {}, "rate": rate, "dry_run": dry_run});
            let body = api.post("/v1/jobs/actions", body).await.refused(422, "invalid");
            assert_eq!(body["errors"][0]["pointer"], "/rate", "{body}");
        }
    }
    let body = json!({"action": "retry", "filter": {}, "rate": 10_000, "dry_run": true});
    api.post("/v1/jobs/actions", body).await.expect(200);
    let body = json!({"action": "cancel", "filter": {}, "rate": null, "dry_run": true});
    api.post("/v1/jobs/actions", body).await.expect(200);
}

#[tokio::test]
async fn a_purge_cancels_the_ready_jobs_of_one_queue() {
    let api = Fixture::new().await;
    let ready = api.submit(json!({"kind": "x", "queue": "a"})).await;
    let later = api.submit(json!({"kind": "x", "queue": "a", "delay": "1h"})).await;
    let other = api.submit(json!({"kind": "x", "queue": "b"})).await;
    let started = api.post("/v1/queues/a/purge", json!({})).await;
    let location = started.header("location").to_owned();
    started.expect(202);
    ended(&api, &location).await;
    for (id, state) in [(ready, "cancelled"), (later, "scheduled"), (other, "ready")] {
        assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.expect(200)["state"], state);
    }
    api.post("/v1/queues/a/purge", json!({"states": ["running"]})).await.refused(422, "invalid");
    api.post("/v1/queues/none/purge", json!({})).await.refused(404, "not_found");
}
