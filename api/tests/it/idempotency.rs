//! `Idempotency-Key` on the calls that do not submit jobs, and `If-Match`.

use http::Method;
use serde_json::{Value, json};
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;

use crate::fixture::{Answer, Fixture, request};

async fn with_key(api: &Fixture, path: &str, key: &str, body: &str) -> Answer {
    api.post_with(path, &[("idempotency-key", key)], body).await
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

#[tokio::test]
async fn a_bulk_action_is_started_once_for_each_key() {
    let api = Fixture::new().await;
    let body = json!({"action": "cancel", "filter": {"kind": "a"}}).to_string();
    let first = with_key(&api, "/v1/jobs/actions", "k", &body).await;
    assert!(!replayed(&first));
    let first = first.expect(202);
    let again = with_key(&api, "/v1/jobs/actions", "k", &body).await;
    assert!(replayed(&again), "{}", again.text);
    assert_eq!(again.expect(202)["id"], first["id"]);
    let other = with_key(&api, "/v1/jobs/actions", "other", &body).await;
    assert!(!replayed(&other));
    assert_ne!(other.expect(202)["id"], first["id"]);
    // Another body, and another call.
    let changed = json!({"action": "cancel", "filter": {"kind": "b"}}).to_string();
    let answer = with_key(&api, "/v1/jobs/actions", "k", &changed).await;
    answer.refused(422, "idempotency_key_reused");
    api.submit(json!({"kind": "a"})).await;
    let answer = with_key(&api, "/v1/queues/default/purge", "k", "").await;
    answer.refused(422, "idempotency_key_reused");
    with_key(&api, "/v1/jobs/actions", "", &body).await.refused(400, "invalid_header");
    // Keys belong to a namespace.
    let headers = [("idempotency-key", "k"), ("windlass-namespace", "other")];
    let elsewhere = api.post_with("/v1/jobs/actions", &headers, &body).await;
    assert!(!replayed(&elsewhere));
    assert_ne!(elsewhere.expect(202)["id"], first["id"]);
}

#[tokio::test]
async fn of_many_callers_with_one_key_one_starts_the_operation() {
    let api = Fixture::new().await;
    api.submit(json!({"kind": "a"})).await;
    let calls = (0..20).map(|_| with_key(&api, "/v1/queues/default/purge", "k", "{}"));
    let answers = futures::future::join_all(calls).await;
    let fresh: Vec<&Answer> =
        answers.iter().filter(|answer| answer.status == 202 && !replayed(answer)).collect();
    assert_eq!(fresh.len(), 1);
    let id = &fresh[0].json()["id"];
    for answer in &answers {
        match answer.status.as_u16() {
            202 => assert_eq!(&answer.json()["id"], id),
            _ => drop(answer.refused(409, "idempotency_in_progress")),
        }
    }
    assert!(replayed(&with_key(&api, "/v1/queues/default/purge", "k", "{}").await));
}

async fn die(api: &Fixture) {
    let job = api.take("default").await;
    let error = json!({"code": "boom", "message": "", "retryable": false});
    assert_eq!(api.settle(&job, json!({"outcome": "fail", "error": error})).await["ok"], true);
    api.record("default").await;
}

#[tokio::test]
async fn a_retry_with_a_key_takes_effect_once() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let path = format!("/v1/jobs/{id}/retry");
    // Refused as without a key; the key stays free.
    with_key(&api, &path, "k", "").await.refused(409, "state_conflict");
    die(&api).await;
    let first = with_key(&api, &path, "k", "").await;
    assert!(!replayed(&first));
    assert_eq!(first.expect(200)["state"], "ready");
    let again = with_key(&api, &path, "k", "").await;
    assert!(replayed(&again));
    again.expect(200);
    // It has died anew: the same request does not run it a third time, another does.
    die(&api).await;
    let again = with_key(&api, &path, "k", "").await;
    assert!(replayed(&again));
    assert_eq!(again.expect(200)["state"], "dead");
    assert_eq!(with_key(&api, &path, "l", "").await.expect(200)["state"], "ready");
    let unknown = "/v1/jobs/01900000-0000-7000-8000-000000000000/retry";
    with_key(&api, unknown, "m", "").await.refused(404, "not_found");
}

#[tokio::test]
async fn many_retries_with_one_key_at_once_all_answer_and_one_takes_effect() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    die(&api).await;
    let path = format!("/v1/jobs/{id}/retry");
    let calls = (0..20).map(|_| with_key(&api, &path, "k", ""));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| !replayed(answer)).count(), 1);
}

#[tokio::test]
async fn an_api_key_is_made_once_and_its_text_is_not_kept() {
    let api = Fixture::with(ApiSettings::default()).await;
    let admin = format!("Bearer {}", api.key(Role::Admin, None).await);
    let headers = [("authorization", admin.as_str()), ("idempotency-key", "k")];
    let body = r#"{"name":"ci","role":"viewer"}"#;
    let made = api.post_with("/v1/api-keys", &headers, body).await.expect(201);
    let again = api.post_with("/v1/api-keys", &headers, body).await;
    let refused = again.refused(409, "replay_gone");
    assert!(refused["detail"].as_str().unwrap().contains(made["id"].as_str().unwrap()));
    let list = request(Method::GET, "/v1/api-keys", &headers, "");
    let list = api.send(list).await.expect(200);
    let named = |item: &&Value| item["name"] == "ci";
    assert_eq!(list["items"].as_array().unwrap().iter().filter(named).count(), 1);
}

#[tokio::test]
async fn a_queue_is_changed_only_in_the_version_that_was_seen() {
    let api = Fixture::new().await;
    let patch = |tag: &'static str, depth: u32| {
        let headers: &[(&str, &str)] = if tag.is_empty() { &[] } else { &[("if-match", tag)] };
        let body = json!({"max_depth": depth}).to_string();
        api.send(request(Method::PATCH, "/v1/queues/q", headers, &body))
    };
    patch("*", 1).await.refused(412, "version_conflict");
    let made = patch("", 1).await;
    let tag = made.header("etag").to_owned();
    assert_eq!(tag, format!("\"{}\"", made.json()["version"]));
    assert_eq!(api.get("/v1/queues/q").await.header("etag"), tag);
    let tag: &'static str = tag.leak();
    let changed = patch(tag, 2).await;
    assert_ne!(changed.header("etag"), tag);
    changed.expect(200);
    patch(tag, 3).await.refused(412, "version_conflict");
    patch("*", 4).await.expect(200);
    patch("W/\"1\"", 5).await.refused(400, "invalid_header");
    let queue = api.get("/v1/queues/q").await;
    assert_eq!(queue.json()["settings"]["max_depth"], 4);
    // A pause is a change, too.
    let paused = api.post("/v1/queues/q/pause", json!({})).await;
    assert_ne!(paused.header("etag"), queue.header("etag"));
}

/// What calls keep under their idempotency keys cannot be made up by clients.
#[tokio::test]
async fn no_client_stores_values_under_reserved_ids() {
    let api = Fixture::new().await;
    let put = |id: &str| api.send(request(Method::PUT, &format!("/v1/blobs/{id}"), &[], "{}"));
    put("01900000-0000-8000-8000-000000000001").await.refused(422, "invalid");
    for free in ["01900000-0000-7000-8000-000000000001", "01900000-0000-4000-8000-000000000001"] {
        put(free).await.expect(204);
    }
}
