//! Submissions that are shaped before they are jobs.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use windlass_shared::model::name::Namespace;

use crate::fixture::{Fixture, SOON, request};

fn id(answer: &Value) -> String {
    answer["id"].as_str().expect("an id").to_owned()
}

async fn explained(api: &Fixture, id: &str) -> Value {
    let answer = api.get(&format!("/v1/jobs/{id}/explain")).await.expect(200);
    answer["reasons"][0].clone()
}

/// Shuts what is due, as the scheduler's duty does, until a job has this state.
async fn shut_until(api: &Fixture, id: &str, state: &str) -> Value {
    let wait = async {
        loop {
            api.life.shut_series(100).await.unwrap();
            let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
            if job["state"] == state {
                return job;
            }
        }
    };
    tokio::time::timeout(SOON, wait).await.expect("its time comes")
}

#[tokio::test]
async fn a_debounced_job_says_what_it_replaced_and_waits() {
    let api = Fixture::new().await;
    let large = "x".repeat(20 << 10);
    let rule = json!({"key": "k", "delay": "300ms", "max_wait": "1h"});
    let job = |payload: &str| json!({"kind": "a", "payload": payload, "debounce": rule});
    let first = api.post("/v1/jobs", job("first")).await.expect(201);
    assert_eq!((&first["state"], first.get("replaced")), (&json!("blocked"), None));
    let why = explained(&api, &id(&first)).await;
    assert_eq!((&why["code"], &why["evidence"]["key"]), (&json!("debounced"), &json!("k")));
    assert_eq!(why["until"], first["run_at"]);
    assert!(why["since"].is_string() && why["evidence"]["latest_at"].is_string(), "{why}");
    let second = api.post("/v1/jobs", job(&large)).await.expect(201);
    assert_eq!((&second["replaced"], &second["payload"]), (&first["id"], &json!(large)));
    let old = api.get(&format!("/v1/jobs/{}", id(&first))).await.expect(200);
    assert_eq!((&old["state"], &old["error"]["code"]), (&json!("cancelled"), &json!("superseded")));
    let message = old["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("superseded by {}", id(&second))), "{message}");
    // Whoever waits for the old one hears of its end.
    let waited = api.get(&format!("/v1/jobs/{}/wait?timeout=5s", id(&first))).await;
    assert_eq!(waited.expect(200)["state"], "cancelled");
    let ready = shut_until(&api, &id(&second), "ready").await;
    assert_eq!(ready["payload"], json!(large));
    let third = api.post("/v1/jobs", job("third")).await.expect(201);
    assert_eq!(third.get("replaced"), None, "a new series");
}

#[tokio::test]
async fn items_are_answered_with_202_and_their_number() {
    let api = Fixture::new().await;
    let rule = json!({"key": "k", "max": 3, "wait": "1h"});
    let job = |n: u32| json!({"kind": "a", "payload": {"n": n}, "collect": rule}).to_string();
    let key = [("idempotency-key", "item 1")];
    let first = api.post_with("/v1/jobs", &key, &job(1)).await;
    let location = first.header("location").to_owned();
    let first = first.expect(202);
    assert_eq!((&first["item"], &first["state"]), (&json!(1), &json!("blocked")));
    assert_eq!(location, format!("/v1/jobs/{}", id(&first)));
    let again = api.post_with("/v1/jobs", &key, &job(1)).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    let again = again.expect(202);
    assert_eq!((&again["id"], &again["item"]), (&first["id"], &json!(null)));
    let why = explained(&api, &id(&first)).await;
    assert_eq!((&why["code"], &why["until"]), (&json!("collecting"), &first["run_at"]));
    assert_eq!((&why["evidence"]["items"], &why["evidence"]["max"]), (&json!(1), &json!(3)));
    let batch = json!({"jobs": [
        {"kind": "a", "payload": {"n": 2}, "collect": rule},
        {"kind": "a", "payload": {"n": 3}, "collect": rule},
        {"kind": "a", "payload": {"n": 4}, "collect": rule},
    ]});
    let results = api.post("/v1/jobs/batch", batch).await.expect(200);
    assert_eq!(results["accepted"], 3, "{results}");
    let results = &results["results"];
    for (n, item, state) in [(0, 2, "ready"), (1, 3, "ready"), (2, 1, "blocked")] {
        assert_eq!((&results[n]["item"], &results[n]["state"]), (&json!(item), &json!(state)));
    }
    assert_eq!(results[1]["id"], first["id"]);
    assert_ne!(results[2]["id"], first["id"]);
    let full = api.get(&location).await.expect(200);
    assert_eq!(full["payload"], json!({"items": [{"n": 1}, {"n": 2}, {"n": 3}]}));
    assert_eq!(full["state"], "ready");
}

/// Goal: what was collected is not lost by a cancellation: a retry runs it.
#[tokio::test]
async fn a_collecting_job_can_be_cancelled_and_retried() {
    let api = Fixture::new().await;
    let job = |n: u32| json!({"kind": "a", "payload": n, "collect": {"key": "k", "wait": "1h"}});
    let first = api.post("/v1/jobs", job(1)).await.expect(202);
    api.post("/v1/jobs", job(2)).await.expect(202);
    let path = format!("/v1/jobs/{}", id(&first));
    // It is nobody's to change while it collects.
    let change = request(Method::PATCH, &path, &[], r#"{"priority":9}"#);
    api.send(change).await.refused(409, "state_conflict");
    api.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    let cancelled = api.get(&path).await.expect(200);
    assert_eq!(cancelled["state"], "cancelled");
    let next = api.post("/v1/jobs", job(3)).await.expect(202);
    assert_ne!(next["id"], first["id"], "nothing is added to it any more");
    let retried = api.post(&format!("{path}/retry"), json!({})).await.expect(200);
    assert_eq!(retried["state"], "ready");
    assert_eq!(retried["payload"], json!({"items": [1, 2]}));
}

#[tokio::test]
async fn a_used_up_throttle_refuses_and_names_the_last_job() {
    let api = Fixture::new().await;
    let rule = json!({"key": "k", "limit": 2, "per": "1h"});
    let job = || json!({"kind": "a", "throttle": rule});
    api.post("/v1/jobs", job()).await.expect(201);
    let last = api.post("/v1/jobs", job()).await.expect(201);
    let refused = api.post("/v1/jobs", job()).await;
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=1800).contains(&wait), "half an hour per job: {wait}");
    assert_eq!(refused.refused(429, "throttled")["holder"], last["id"]);
    let batch = json!({"jobs": [job(), {"kind": "a"}]});
    let results = api.post("/v1/jobs/batch", batch.clone()).await.expect(200);
    assert_eq!((&results["accepted"], &results["rejected"]), (&json!(1), &json!(1)));
    assert_eq!(results["results"][0]["error"]["code"], "throttled");
    api.post("/v1/jobs/batch?atomic=true", batch).await.refused(409, "batch_refused");
    let listed = api.get("/v1/jobs").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 3, "nothing of the refused is stored");
}

#[tokio::test]
async fn wrong_rules_are_refused_by_pointer() {
    let api = Fixture::new().await;
    let good = [
        ("debounce", json!({"key": "k", "delay": "1s"})),
        ("throttle", json!({"key": "k", "limit": 1, "per": "1s"})),
        ("collect", json!({"key": "k"})),
        ("unique", json!({"key": "k"})),
    ];
    let mut wrong: Vec<(Value, &str)> = Vec::new();
    for (n, (one, rule)) in good.iter().enumerate() {
        for (other, second) in &good[..n] {
            let last = if *one == "unique" { *other } else { *one };
            let pointer = format!("/{last}");
            let job = json!({"kind": "a", *one: rule, *other: second});
            let body = api.post("/v1/jobs", job).await.refused(422, "invalid");
            assert_eq!(body["errors"][0]["pointer"], json!(pointer), "{body}");
        }
    }
    for (field, rule, pointer) in [
        ("debounce", json!({"delay": "1s"}), "/debounce/key"),
        ("debounce", json!({"key": "", "delay": "1s"}), "/debounce/key"),
        ("debounce", json!({"key": "k"}), "/debounce/delay"),
        ("debounce", json!({"key": "k", "delay": "9ms"}), "/debounce/delay"),
        ("debounce", json!({"key": "k", "delay": "25h"}), "/debounce/delay"),
        ("debounce", json!({"key": "k", "delay": "2s", "max_wait": "1s"}), "/debounce/max_wait"),
        ("debounce", json!({"key": "k", "delay": "2s", "max_wait": "8d"}), "/debounce/max_wait"),
        ("throttle", json!({"key": "k", "per": "1s"}), "/throttle/limit"),
        ("throttle", json!({"key": "k", "limit": 1}), "/throttle/per"),
        ("throttle", json!({"key": "k", "limit": 0, "per": "1s"}), "/throttle/limit"),
        ("throttle", json!({"key": "k", "limit": 1, "per": "2d"}), "/throttle/per"),
        ("throttle", json!({"key": "k", "limit": 1, "per": 1, "burst": 0}), "/throttle/burst"),
        ("collect", json!({"max": 3}), "/collect/key"),
        ("collect", json!({"key": "k", "max": 0}), "/collect/max"),
        ("collect", json!({"key": "k", "max": 10_001}), "/collect/max"),
        ("collect", json!({"key": "k", "wait": "2d"}), "/collect/wait"),
        ("collect", json!({"key": "k", "max_bytes": 100}), "/collect/max_bytes"),
    ] {
        wrong.push((json!({"kind": "a", field: rule}), pointer));
    }
    for field in ["debounce", "collect"] {
        let rule = &good.iter().find(|(name, _)| *name == field).expect("named above").1;
        wrong.push((json!({"kind": "a", "delay": "1s", field: rule}), "/delay"));
        let job = json!({"kind": "a", "run_at": "2030-01-01T00:00:00Z", field: rule});
        wrong.push((job, "/run_at"));
        wrong.push((json!({"kind": "a", "order_key": "o", field: rule}), "/order_key"));
    }
    let long = "x".repeat(2_000);
    let rule = json!({"key": "k", "max_bytes": 2_000});
    wrong.push((json!({"kind": "a", "payload": long, "collect": rule}), "/payload"));
    for (job, pointer) in wrong {
        let text = job.to_string();
        let body = api.post("/v1/jobs", job).await.refused(422, "invalid");
        assert_eq!(body["errors"][0]["pointer"], pointer, "{text}: {body}");
    }
}

#[tokio::test]
async fn schedules_and_steps_are_not_shaped() {
    let api = Fixture::new().await;
    for (field, rule) in [
        ("debounce", json!({"key": "k", "delay": "1s"})),
        ("throttle", json!({"key": "k", "limit": 1, "per": "1s"})),
        ("collect", json!({"key": "k"})),
    ] {
        let schedule = json!({"name": "s", "every": "1h", "job": {"kind": "a", field: rule}});
        let body = api.post("/v1/schedules", schedule).await.refused(422, "invalid");
        assert_eq!(body["errors"][0]["pointer"], json!(format!("/job/{field}")), "{body}");
        let run = json!({"name": "r", "steps": [{"id": "a", "kind": "a", field: rule}]});
        let body = api.post("/v1/workflows", run).await.refused(422, "invalid");
        assert_eq!(body["errors"][0]["pointer"], json!(format!("/steps/0/{field}")), "{body}");
        let undo = json!({"name": "r", "steps": [
            {"id": "a", "kind": "a", "compensate": {"kind": "b", field: rule}},
        ]});
        let body = api.post("/v1/workflows", undo).await.refused(422, "invalid");
        let pointer = json!(format!("/steps/0/compensate/{field}"));
        assert_eq!(body["errors"][0]["pointer"], pointer, "{body}");
    }
}

/// Goal: a job that was taken out by its series' end is in the engine without any sweep.
#[tokio::test]
async fn a_series_that_ends_reaches_the_engine_at_once() {
    let api = Fixture::new().await;
    let collect = json!({"key": "k", "max": 1});
    let full = api.post("/v1/jobs", json!({"kind": "a", "collect": collect})).await.expect(202);
    let rule = json!({"key": "k", "delay": "10ms"});
    let quiet = api.post("/v1/jobs", json!({"kind": "a", "debounce": rule})).await.expect(201);
    shut_until(&api, &id(&quiet), "ready").await;
    for job in [id(&full), id(&quiet)] {
        let there = async {
            loop {
                let seen = api.life.get(&Namespace::default(), job.parse().unwrap()).await.unwrap();
                if seen.expect("it is on record").live.is_some() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, there).await.expect("the engine gets it");
    }
}

#[tokio::test]
async fn a_throttled_job_has_its_place_in_an_order() {
    let api = Fixture::new().await;
    let rule = json!({"key": "k", "limit": 2, "per": "1h"});
    let job = || json!({"kind": "a", "order_key": "o", "throttle": rule});
    let first = api.post("/v1/jobs", job()).await.expect(201);
    let second = api.post("/v1/jobs", job()).await.expect(201);
    assert_eq!((&first["state"], &second["state"]), (&json!("ready"), &json!("blocked")));
    let why = explained(&api, &id(&second)).await;
    assert_eq!(
        (&why["code"], &why["evidence"]["head"]["id"]),
        (&json!("blocked_by"), &first["id"])
    );
    // The place of one that is cancelled is nobody's, as of one that is not throttled.
    let cancel = format!("/v1/jobs/{}/cancel", id(&second));
    assert_eq!(api.post(&cancel, json!({})).await.expect(200)["state"], "cancelled");
    api.post("/v1/jobs", job()).await.refused(429, "throttled");
}
