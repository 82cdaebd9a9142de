//! What attempts leave for the next one, as remote workers and readers see it.

use serde_json::{Value, json};

use crate::fixture::Fixture;

const AT_ONCE: &str = r#"{"backoff": "fixed", "initial": "1ms", "jitter": "none"}"#;

fn at_once() -> Value {
    serde_json::from_str(AT_ONCE).unwrap()
}

fn fail(code: &str) -> Value {
    json!({"outcome": "fail", "error": {"code": code, "message": "on purpose"}})
}

/// Stores a partial result under the lease of a taken job; the word of the answer.
async fn store(api: &Fixture, taken: &Value, data: Value) -> Value {
    let item = json!({"job_id": taken["id"], "fence": taken["lease"]["fence"], "data": data});
    let answer = api.post("/v1/worker/reports", json!({"checkpoints": [item]})).await.expect(200);
    answer["checkpoints"][0].clone()
}

/// Goal: work goes on where it was stored last, and a time-out at the end of the attempts keeps it.
#[tokio::test]
async fn a_later_lease_carries_what_was_stored_and_the_job_shows_it() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a", "max_attempts": 2, "retry": at_once()})).await;
    let path = format!("/v1/jobs/{id}");
    let shown = async || api.get(&path).await.expect(200)["partial_output"].clone();
    let job = api.take("default").await;
    assert_eq!((job.get("checkpoint"), job.get("previous")), (None, None));
    assert_eq!(shown().await, Value::Null);
    assert_eq!(store(&api, &job, json!({"done": 1})).await, "stored");
    assert_eq!(store(&api, &job, json!({"done": 2})).await, "stored");
    assert_eq!(shown().await, json!({"done": 2}));
    assert_eq!(api.settle(&job, fail("boom")).await["ok"], true);
    api.record("default").await;
    assert_eq!(shown().await, json!({"done": 2}));
    let job = api.take("default").await;
    assert_eq!(job["checkpoint"], json!({"done": 2}));
    let error = json!({"code": "boom", "message": "on purpose", "retryable": true});
    let previous = json!({"attempt": 1, "error": error, "recommendations": [], "score": null});
    assert_eq!(job["previous"], previous);
    assert_eq!(store(&api, &job, json!({"done": 3})).await, "stored");
    // Whoever asks by the way of reports learns the same.
    let asked = json!({"job_id": id, "fence": job["lease"]["fence"], "attempt": 2});
    let answer = api.post("/v1/worker/reports", json!({"resume": [asked]})).await.expect(200);
    let left = json!({"job_id": id, "checkpoint": {"done": 3}, "previous": previous});
    assert_eq!(answer["resume"], json!([left]));
    assert_eq!(api.settle(&job, fail("timeout")).await["ok"], true);
    api.record("default").await;
    let dead = api.get(&path).await.expect(200);
    assert_eq!((&dead["state"], &dead["error"]["code"]), (&json!("dead"), &json!("timeout")));
    assert_eq!(dead["partial_output"], json!({"done": 3}));
    let waited = api.get(&format!("{path}/wait?timeout=1s")).await.expect(200);
    assert_eq!(waited["partial_output"], json!({"done": 3}));
    let listed = api.get("/v1/jobs").await.expect(200);
    assert_eq!(listed["items"][0]["partial_output"], Value::Null);
    // A redrive goes on from it, with a fresh budget.
    api.post(&format!("{path}/retry"), json!({})).await.expect(200);
    let job = api.take("default").await;
    assert_eq!((&job["attempt"], &job["checkpoint"]), (&json!(1), &json!({"done": 3})));
    assert_eq!(job.get("previous"), None);
    assert_eq!(api.settle(&job, json!({"outcome": "succeed", "output": 4})).await["ok"], true);
    api.record("default").await;
    assert_eq!(shown().await, Value::Null);
}

#[tokio::test]
async fn a_released_job_takes_its_partial_result_along() {
    let api = Fixture::new().await;
    api.submit(json!({"kind": "a"})).await;
    let job = api.take("default").await;
    assert_eq!(store(&api, &job, json!([1])).await, "stored");
    assert_eq!(api.settle(&job, json!({"outcome": "release"})).await["ok"], true);
    api.record("default").await;
    let job = api.take("default").await;
    assert_eq!((&job["attempt"], &job["checkpoint"]), (&json!(1), &json!([1])));
}

/// Goal: who does not hold the lease stores nothing.
#[tokio::test]
async fn a_lease_that_is_over_stores_nothing() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a", "retry": at_once()})).await;
    let first = api.take("default").await;
    assert_eq!(store(&api, &first, json!(1)).await, "stored");
    assert_eq!(api.settle(&first, fail("x")).await["ok"], true);
    // Ended, though that is not on record yet.
    assert_eq!(store(&api, &first, json!("late")).await, "stale");
    let second = api.take("default").await;
    // Passed on, though neither is on record.
    assert_eq!(store(&api, &first, json!("late")).await, "stale");
    assert_eq!(store(&api, &second, json!(2)).await, "stored");
    api.record("default").await;
    assert_eq!(store(&api, &first, json!("late")).await, "stale");
    let mut forged = second.clone();
    forged["lease"]["fence"] = json!(second["lease"]["fence"].as_u64().unwrap() + 1);
    assert_eq!(store(&api, &forged, json!("forged")).await, "stale");
    let foreign = json!({"checkpoints": [
        {"job_id": id, "fence": second["lease"]["fence"], "data": "foreign"}]});
    let headers = [("windlass-namespace", "other")];
    let answer =
        api.post_with("/v1/worker/reports", &headers, &foreign.to_string()).await.expect(200);
    assert_eq!(answer["checkpoints"], json!(["stale"]));
    let unknown = json!({"id": "01900000-0000-7000-8000-000000000000", "lease": {"fence": 1}});
    assert_eq!(store(&api, &unknown, json!(1)).await, "stale");
    assert_eq!(api.settle(&second, json!({"outcome": "succeed"})).await["ok"], true);
    api.record("default").await;
    assert_eq!(store(&api, &second, json!("over")).await, "stale");
    let namespace = "default".parse().unwrap();
    let kept = api.life.ledger().checkpoint(&namespace, id.parse().unwrap()).await.unwrap();
    assert_eq!(kept.unwrap().data, "2");
}

#[tokio::test]
async fn wrong_partial_results_are_named() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let job = api.take("default").await;
    let fence = &job["lease"]["fence"];
    let whole = json!({"job_id": id, "fence": fence, "data": "x".repeat((1 << 20) - 2)});
    let report = |item: &Value| json!({"checkpoints": [item]});
    api.post("/v1/worker/reports", report(&whole)).await.expect(200);
    let large = json!({"job_id": id, "fence": fence, "data": "x".repeat((1 << 20) - 1)});
    let refused = api.post("/v1/worker/reports", report(&large)).await.refused(413, "too_large");
    assert_eq!(refused["errors"][0]["pointer"], "/checkpoints/0/data");
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let deep =
        format!(r#"{{"checkpoints": [{{"job_id": "{id}", "fence": {fence}, "data": {deep}}}]}}"#);
    api.post_with("/v1/worker/reports", &[], &deep).await.refused(400, "too_deep");
    for (body, pointer) in [
        (report(&json!({"job_id": id, "fence": fence})), "/checkpoints/0"),
        (report(&json!({"job_id": id, "fence": u64::MAX, "data": 1})), "/checkpoints/0/fence"),
        (
            json!({"resume": [{"job_id": id, "fence": 1, "attempt": 1_000_001}]}),
            "/resume/0/attempt",
        ),
    ] {
        let refused = api.post("/v1/worker/reports", body).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
    for (name, most) in [("checkpoints", 30), ("resume", 8)] {
        let item = match name {
            "resume" => json!({"job_id": id, "fence": 1, "attempt": 1}),
            _ => json!({"job_id": id, "fence": 1, "data": 1}),
        };
        let many = json!({name: vec![item; most + 1]});
        api.post("/v1/worker/reports", many).await.refused(422, "invalid");
    }
}

/// Goal: a remote worker is told what its next attempt should do better.
#[tokio::test]
async fn a_refused_output_tells_the_next_lease_what_to_do_better() {
    let api = Fixture::new().await;
    let rules = json!([{"name": "cites", "expr": "size(output.sources) >= 2", "weight": 3,
        "recommendation": "Cite two sources."}]);
    let evaluate = json!({"completeness": {"required": ["/sources", "/title"]}, "rules": rules,
        "weights": {"completeness": 1, "rules": 3}, "threshold": 0.9});
    let body = json!({"kind": "a", "retry": at_once(), "expect": {"evaluate": evaluate}});
    let id = api.submit(body).await;
    let job = api.take("default").await;
    assert_eq!(job["expect"]["evaluate"]["threshold"], 0.9);
    let poor = json!({"outcome": "succeed", "output": {"title": "t", "sources": ["a"]}});
    let settled = api.settle(&job, poor).await;
    assert_eq!(
        (&settled["ok"], &settled["rejected"]["code"]),
        (&json!(true), &json!("result_rejected"))
    );
    api.record("default").await;
    let job = api.take("default").await;
    let previous = &job["previous"];
    assert_eq!((&previous["attempt"], &previous["score"]), (&json!(1), &json!(0.25)));
    assert_eq!(previous["recommendations"], json!(["Cite two sources."]));
    assert_eq!(previous["error"]["code"], "result_rejected");
    let good = json!({"outcome": "succeed", "output": {"title": "t", "sources": ["a", "b"]}});
    assert_eq!(api.settle(&job, good).await.get("rejected"), None);
    api.record("default").await;
    let attempts = api.get(&format!("/v1/jobs/{id}/attempts")).await.expect(200);
    let evaluation = &attempts["items"][0]["evaluation"];
    assert_eq!((&evaluation["score"], &evaluation["passed"]), (&json!(0.25), &json!(false)));
    assert_eq!(evaluation["scores"], json!({"completeness": 1.0, "rules": 0.0}));
    assert_eq!(attempts["items"][0]["usage"], Value::Null);
    assert_eq!(attempts["items"][1]["evaluation"], Value::Null);
}

#[tokio::test]
async fn evaluations_that_cannot_be_are_refused_at_once() {
    let api = Fixture::new().await;
    let rule = json!({"name": "r", "expr": "true"});
    for (evaluate, pointer) in [
        (json!({}), "/expect/evaluate"),
        (json!(7), "/expect/evaluate"),
        (json!({"rule": []}), "/expect/evaluate"),
        (json!({"rules": [rule], "threshold": 2}), "/expect/evaluate/threshold"),
        (json!({"rules": [{"name": "r", "expr": ""}]}), "/expect/evaluate/rules/0/expr"),
        (json!({"completeness": {"required": ["a"]}}), "/expect/evaluate/completeness/required/0"),
        (json!({"accuracy": {"expected": "x".repeat(64 << 10)}}), "/expect/evaluate"),
    ] {
        let body = json!({"kind": "a", "expect": {"evaluate": evaluate}});
        let refused = api.post("/v1/jobs", body).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
}
