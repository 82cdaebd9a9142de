//! Many jobs at once.

use serde_json::{Value, json};

use crate::fixture::Fixture;

async fn count(api: &Fixture) -> usize {
    api.get("/v1/jobs?limit=500").await.expect(200)["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_bad_job_is_refused_alone() {
    let api = Fixture::new().await;
    let jobs = json!([{"kind": "a"}, {"kind": "b/c"}, {"kind": "d", "oops": 1}, {"kind": "e", "queue": "q"}, 7]);
    let result = api.post("/v1/jobs/batch", json!({"jobs": jobs})).await.expect(200);
    assert_eq!((&result["accepted"], &result["rejected"]), (&json!(2), &json!(3)));
    let results = result["results"].as_array().unwrap();
    let pointer = |i: usize| results[i]["error"]["errors"][0]["pointer"].as_str().unwrap();
    assert_eq!((pointer(1), pointer(2), pointer(4)), ("/jobs/1/kind", "/jobs/2/oops", "/jobs/4"));
    for i in [0, 3] {
        let id = results[i]["id"].as_str().unwrap();
        assert_eq!(results[i]["state"], "ready");
        assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.expect(200)["state"], "ready");
    }
    assert_eq!(
        results.iter().map(|r| r["index"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
}

#[tokio::test]
async fn an_atomic_batch_is_all_or_nothing() {
    let api = Fixture::new().await;
    let bad = json!({"jobs": [{"kind": "a"}, {"kind": ""}]});
    let refused = api.post("/v1/jobs/batch?atomic=true", bad).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/jobs/1/kind");
    let unique = json!({"kind": "a", "unique": {"key": "k"}});
    api.submit(unique.clone()).await;
    let held = json!({"jobs": [{"kind": "a"}, unique]});
    let refused = api.post("/v1/jobs/batch?atomic=true", held).await.refused(409, "batch_refused");
    assert_eq!(refused["errors"][0]["pointer"], "/jobs/1");
    assert_eq!(count(&api).await, 1);
    let good = json!({"jobs": [{"kind": "a"}, {"kind": "b"}]});
    let result = api.post("/v1/jobs/batch?atomic=true", good).await.expect(200);
    assert_eq!(result["accepted"], 2);
}

#[tokio::test]
async fn lines_are_taken_as_jobs() {
    let api = Fixture::new().await;
    let lines = "{\"kind\":\"a\"}\n\n{\"kind\":\n{\"kind\":\"c\"}\r\n";
    let headers = [("content-type", "application/x-ndjson")];
    let result = api.post_with("/v1/jobs/batch", &headers, lines).await.expect(200);
    assert_eq!((&result["accepted"], &result["rejected"]), (&json!(2), &json!(1)));
    assert_eq!(result["results"][1]["error"]["code"], "invalid_json");
    // Lines are for batches only.
    api.post_with("/v1/jobs", &headers, "{\"kind\":\"a\"}")
        .await
        .refused(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_repeated_batch_gives_the_first_answer() {
    let api = Fixture::new().await;
    let body = json!({"jobs": [{"kind": "a"}, {"kind": "?"}, {"kind": "b"}]}).to_string();
    let key = [("idempotency-key", "b-1")];
    let first = api.post_with("/v1/jobs/batch", &key, &body).await;
    let again = api.post_with("/v1/jobs/batch", &key, &body).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    let ids = |answer: Value| -> Vec<Value> {
        answer["results"].as_array().unwrap().iter().map(|r| r["id"].clone()).collect()
    };
    assert_eq!(ids(first.expect(200)), ids(again.expect(200)));
    let other = json!({"jobs": [{"kind": "z"}]}).to_string();
    api.post_with("/v1/jobs/batch", &key, &other).await.refused(422, "idempotency_key_reused");
    assert_eq!(count(&api).await, 2);
}

#[tokio::test]
async fn the_number_of_jobs_and_of_queues_is_bounded() {
    let api = Fixture::new().await;
    let jobs: Vec<Value> = (0..10_001).map(|_| json!({"kind": "a"})).collect();
    let refused = api.post("/v1/jobs/batch", json!({"jobs": jobs})).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/jobs");
    let lines = "{\"kind\":\"a\"}\n".repeat(10_001);
    let headers = [("content-type", "application/x-ndjson")];
    api.post_with("/v1/jobs/batch", &headers, &lines).await.refused(422, "invalid");
    api.post("/v1/jobs/batch", json!({"jobs": []})).await.refused(422, "invalid");
    api.post("/v1/jobs/batch", json!({})).await.refused(422, "invalid");
    assert_eq!(count(&api).await, 0);
    let spread: Vec<Value> =
        (0..101).map(|i| json!({"kind": "a", "queue": format!("q{i}")})).collect();
    let result = api.post("/v1/jobs/batch", json!({"jobs": spread})).await.expect(200);
    assert_eq!((&result["accepted"], &result["rejected"]), (&json!(100), &json!(1)));
}

#[tokio::test]
async fn large_payloads_of_a_batch_are_kept() {
    let api = Fixture::new().await;
    let text = |i: usize| format!("{i}{}", "y".repeat(20_000));
    let jobs: Vec<Value> = (0..20).map(|i| json!({"kind": "a", "payload": text(i)})).collect();
    let result = api.post("/v1/jobs/batch", json!({"jobs": jobs})).await.expect(200);
    assert_eq!(result["accepted"], 20);
    for (i, item) in result["results"].as_array().unwrap().iter().enumerate() {
        let path = format!("/v1/jobs/{}", item["id"].as_str().unwrap());
        assert_eq!(api.get(&path).await.expect(200)["payload"], text(i).as_str());
    }
}

#[tokio::test]
async fn unique_keys_hold_inside_of_a_batch() {
    let api = Fixture::new().await;
    let job = |how: &str| json!({"kind": "a", "unique": {"key": "k", "on_conflict": how}});
    let jobs = json!([job("reject"), job("reject"), job("return_existing")]);
    let result = api.post("/v1/jobs/batch", json!({"jobs": jobs})).await.expect(200);
    let results = result["results"].as_array().unwrap();
    assert_eq!(results[1]["error"]["code"], "unique_key_held");
    assert_eq!(results[2]["id"], results[0]["id"]);
    assert_eq!(count(&api).await, 1);
}
