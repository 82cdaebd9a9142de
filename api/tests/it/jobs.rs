//! One job: submit, read, change, wait.

use std::time::Duration;

use http::Method;
use serde_json::json;
use windlass_shared::clock::Clock;
use windlass_shared::config::ApiSettings;
use windlass_shared::model::time::Timestamp;

use crate::fixture::{Fixture, SOON, request};

#[tokio::test]
async fn a_submitted_job_is_durable_and_shown_with_every_field() {
    let api = Fixture::new().await;
    let answer = api.post("/v1/jobs", json!({"kind": "noop"})).await;
    let location = answer.header("location").to_owned();
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let job = answer.expect(201);
    assert_eq!(location, format!("/v1/jobs/{}", job["id"].as_str().unwrap()));
    for (field, value) in [
        ("namespace", json!("default")),
        ("queue", json!("default")),
        ("state", json!("ready")),
        ("priority", json!(5)),
        ("payload", json!(null)),
        ("output", json!(null)),
        ("attempt", json!(0)),
        ("max_attempts", json!(5)),
        ("timeout", json!("1m")),
        ("tags", json!([])),
        ("meta", json!({})),
        ("cancel_requested", json!(false)),
    ] {
        assert_eq!(job[field], value, "{field}");
    }
    let seen = api.get(&location).await.expect(200);
    assert_eq!((&seen["id"], &seen["kind"]), (&job["id"], &json!("noop")));
}

#[tokio::test]
async fn every_field_of_a_job_is_kept() {
    let api = Fixture::new().await;
    let body = r#"{"kind":"email.send","payload":{"b": 1,"a":[1.50,"\u00e9"]},"queue":"mail","priority":9,
        "delay":"1h","max_attempts":7,"max_crashes":1,"timeout":"1m30s","ttl":7200,
        "retry":{"backoff":"linear","initial":"2s","max":60,"multiplier":3,"jitter":"none","rules":[{"code":"smtp_*","retry":false}]},
        "unique":{"key":"k","scope":"window","window":"1h","on_conflict":"return_existing"},
        "concurrency_key":"c","rate_limit_key":"r","rate_limit_units":3,"fairness_key":"f","order_key":"o","order_on_failure":"block","weight":2,"exclusive":true,"circuit":"smtp",
        "expect":{"schema":{"type":"object"},"expr":"output.ok"},"tags":["a","b c"],"meta":{"x":1}}"#;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("x-request-id", "req-1"), ("traceparent", trace)];
    let created = api.post_with("/v1/jobs", &headers, body).await;
    assert_eq!(created.header("x-request-id"), "req-1");
    let id = created.expect(201)["id"].as_str().unwrap().to_owned();
    let answer = api.get(&format!("/v1/jobs/{id}")).await;
    // The payload is not encoded anew.
    assert!(answer.text.contains(r#""payload":{"b": 1,"a":[1.50,"\u00e9"]}"#), "{}", answer.text);
    let job = answer.expect(200);
    assert_eq!(job["state"], "scheduled");
    assert_eq!(job["retry"]["backoff"], "linear");
    assert_eq!(job["retry"]["rules"][0]["code"], "smtp_*");
    assert_eq!(job["timeout"], "1m30s");
    assert_eq!(job["unique_key"], "k");
    assert_eq!((&job["rate_limit_units"], &job["fairness_key"]), (&json!(3), &json!("f")));
    assert_eq!((&job["order_key"], &job["order_on_failure"]), (&json!("o"), &json!("block")));
    assert_eq!(job["expect"]["expr"], "output.ok");
    assert_eq!(job["tags"], json!(["a", "b c"]));
    assert_eq!(job["meta"], json!({"x": 1}));
    assert_eq!((&job["weight"], &job["exclusive"]), (&json!(2), &json!(true)));
    assert_eq!((&job["request_id"], &job["traceparent"]), (&json!("req-1"), &json!(trace)));
    assert!(job["expires_at"].is_string());
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_first_answer_again() {
    let api = Fixture::new().await;
    let key = [("idempotency-key", "order 17")];
    let first = api.post_with("/v1/jobs", &key, r#"{"kind":"a"}"#).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    let again = api.post_with("/v1/jobs", &key, r#"{"kind":"a"}"#).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(first.expect(201)["id"], again.expect(201)["id"]);
    api.post_with("/v1/jobs", &key, r#"{"kind":"b"}"#).await.refused(422, "idempotency_key_reused");
    // Keys are a namespace's own.
    let other = [("idempotency-key", "order 17"), ("windlass-namespace", "other")];
    api.post_with("/v1/jobs", &other, r#"{"kind":"b"}"#).await.expect(201);
}

#[tokio::test]
async fn a_held_unique_key_is_answered_as_asked() {
    let api = Fixture::new().await;
    let with = |how: &str| json!({"kind": "a", "unique": {"key": "k", "on_conflict": how}});
    let first = api.submit(with("reject")).await;
    let refused = api.post("/v1/jobs", with("reject")).await.refused(409, "unique_key_held");
    assert_eq!(refused["holder"], first.as_str());
    assert_eq!(api.submit(with("return_existing")).await, first);
    let second = api.submit(with("replace")).await;
    assert_ne!(second, first);
    assert_eq!(api.get(&format!("/v1/jobs/{first}")).await.expect(200)["state"], "cancelled");
}

#[tokio::test]
async fn large_values_are_whole_in_single_answers_and_referred_to_in_lists() {
    let api = Fixture::new().await;
    let text = "x".repeat(100_000);
    let created = api.post("/v1/jobs", json!({"kind": "a", "payload": text})).await.expect(201);
    assert_eq!(created["payload"], text.as_str());
    let id = created["id"].as_str().unwrap();
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!(job["payload"], text.as_str());
    let list = api.get("/v1/jobs").await.expect(200);
    assert_eq!(list["items"][0]["payload"], json!(null));
    let reference = list["items"][0]["payload_ref"].as_str().unwrap().to_owned();
    let blob = api.get(&format!("/v1/blobs/{reference}")).await;
    assert_eq!(blob.header("content-type"), "application/json");
    assert_eq!(blob.expect(200), text.as_str());
    // The worker gets all of it, and its output comes back whole as well.
    let taken = api.take("default").await;
    assert_eq!(taken["payload"], text.as_str());
    let end = json!({"outcome": "succeed", "output": {"text": text}});
    assert_eq!(api.settle(&taken, end).await["ok"], true);
    api.record("default").await;
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&job["state"], &job["output"]["text"]), (&json!("succeeded"), &json!(text)));
}

#[tokio::test]
async fn a_job_is_shown_running_by_the_engine_and_ended_only_by_the_ledger() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let path = format!("/v1/jobs/{id}");
    let taken = api.take("default").await;
    assert_eq!((&taken["id"], &taken["state"]), (&json!(id), &json!("running")));
    let job = api.get(&path).await.expect(200);
    assert_eq!((&job["state"], &job["attempt"]), (&json!("running"), &json!(1)));
    assert!(job["started_at"].is_string() && job["worker"].is_string());
    assert_eq!(api.settle(&taken, json!({"outcome": "succeed", "output": 1})).await["ok"], true);
    assert_eq!(api.get(&path).await.expect(200)["state"], "running");
    assert_eq!(api.record("default").await, 1);
    let job = api.get(&path).await.expect(200);
    assert_eq!((&job["state"], &job["output"]), (&json!("succeeded"), &json!(1)));
    assert!(job["finished_at"].is_string());
    let attempts = api.get(&format!("{path}/attempts")).await.expect(200);
    assert_eq!(attempts["items"][0]["outcome"], "succeeded");
    assert_eq!(attempts["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn waiting_ends_with_the_job_or_with_the_time() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let path = format!("/v1/jobs/{id}/wait");
    assert_eq!(api.get(&format!("{path}?timeout=50ms")).await.status, 204);
    assert_eq!(api.get(&format!("{path}?timeout=0.05")).await.status, 204);
    let (waited, _) =
        tokio::join!(tokio::time::timeout(SOON, api.get(&path)), api.finish_one("default"),);
    assert_eq!(waited.unwrap().expect(200)["state"], "succeeded");
    // At once, now that it has ended.
    assert_eq!(api.get(&path).await.expect(200)["id"], id.as_str());
    api.get(&format!("{path}?timeout=61s")).await.refused(422, "invalid");
    let unknown = "/v1/jobs/01900000-0000-7000-8000-000000000000/wait?timeout=0";
    api.get(unknown).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_shutdown_ends_long_polls() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a", "delay": "1h"})).await;
    let path = format!("/v1/jobs/{id}/wait?timeout=60s");
    let waiting = api.get(&path);
    let lease = api.post("/v1/leases", json!({"worker": "w", "wait": "50s"}));
    let (waited, leased, ()) = tokio::time::timeout(SOON, async {
        tokio::join!(waiting, lease, async { api.shutdown.cancel() })
    })
    .await
    .expect("nothing waits on after a shutdown");
    assert_eq!(waited.status, 204);
    assert_eq!(leased.expect(200)["jobs"], json!([]));
}

/// Else a host whose clock is behind would start delayed jobs early, and one ahead would keep them waiting.
#[tokio::test]
async fn a_delay_is_counted_by_the_ledger_whatever_the_hosts_clock_says() {
    let five = 5 * 60 * 1_000_000;
    for off in [-five, five] {
        let settings = ApiSettings { auth_required: false, ..ApiSettings::default() };
        let now = Clock::System.now().micros();
        let clock = Clock::manual(Timestamp::from_micros(now + off));
        let api = Fixture::with_clock(settings, clock).await;
        let body = json!({"kind": "a", "delay": "1m", "ttl": "2m"});
        let job = api.post("/v1/jobs", body).await.expect(201);
        assert_eq!(job["state"], "scheduled");
        let at = |field: &str| job[field].as_str().unwrap().parse::<Timestamp>().unwrap();
        let (created, run, expires) = (at("created_at"), at("run_at"), at("expires_at"));
        assert!((created.micros() - now).abs() < five / 2, "{created:?} is the ledger's time");
        assert_eq!(run, created.plus(Duration::from_secs(60)));
        assert_eq!(expires, created.plus(Duration::from_secs(120)));
    }
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_can_be_run_again() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let path = format!("/v1/jobs/{id}");
    let cancel = format!("{path}/cancel");
    let job = api.post(&cancel, json!({"reason": "not needed"})).await.expect(200);
    assert_eq!(job["state"], "cancelled");
    api.send(request(Method::POST, &cancel, &[], "")).await.expect(200);
    let job = api.send(request(Method::POST, &format!("{path}/retry"), &[], "")).await.expect(200);
    assert_eq!((&job["state"], &job["attempt"]), (&json!("ready"), &json!(0)));
    let refused = api.send(request(Method::POST, &format!("{path}/retry"), &[], "")).await;
    assert_eq!(refused.refused(409, "state_conflict")["state"], "ready");
    api.finish_one("default").await;
    api.post(&cancel, json!({})).await.refused(409, "state_conflict");
}

#[tokio::test]
async fn cancelling_a_running_job_asks_its_worker() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let taken = api.take("default").await;
    let job = api.post(&format!("/v1/jobs/{id}/cancel"), json!({})).await.expect(202);
    assert_eq!(job["cancel_requested"], true);
    let items = json!([{"id": id, "token": taken["lease"]["token"]}]);
    let beat =
        api.post("/v1/leases/heartbeat", json!({"worker": "w", "items": items})).await.expect(200);
    assert_eq!(beat["results"][0]["cancel"], true);
    assert_eq!(api.settle(&taken, json!({"outcome": "release"})).await["ok"], true);
    api.record("default").await;
    assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.expect(200)["state"], "cancelled");
}

#[tokio::test]
async fn a_waiting_job_can_be_changed_and_a_running_one_cannot() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a", "delay": "1h"})).await;
    let path = format!("/v1/jobs/{id}");
    let patch =
        |body: serde_json::Value| api.send(request(Method::PATCH, &path, &[], &body.to_string()));
    let job = patch(json!({"priority": 9, "max_attempts": 2, "tags": ["x"], "queue": "other"}))
        .await
        .expect(200);
    assert_eq!((&job["priority"], &job["max_attempts"]), (&json!(9), &json!(2)));
    assert_eq!((&job["tags"], &job["queue"]), (&json!(["x"]), &json!("other")));
    let past = patch(json!({"run_at": "2020-01-01T00:00:00Z"})).await.expect(200);
    assert_eq!(past["run_at"], "2020-01-01T00:00:00.000Z");
    api.take("other").await;
    patch(json!({"priority": 1})).await.refused(409, "state_conflict");
    for bad in [json!({"priority": 10}), json!({"kind": "x"}), json!({"max_attempts": 0})] {
        patch(bad).await.refused(422, "invalid");
    }
}

#[tokio::test]
async fn only_a_job_that_has_ended_can_be_forgotten() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let path = format!("/v1/jobs/{id}");
    let delete = || api.send(request(Method::DELETE, &path, &[], ""));
    delete().await.refused(409, "state_conflict");
    api.finish_one("default").await;
    assert_eq!(delete().await.status, 204);
    delete().await.refused(404, "not_found");
    api.get(&path).await.refused(404, "not_found");
}

#[tokio::test]
async fn another_namespaces_job_is_answered_as_an_unknown_one() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let unknown = "01900000-0000-7000-8000-000000000000";
    let body = |method: &Method, path: &str| match (method.as_str(), path) {
        ("PATCH", _) => r#"{"priority":1}"#,
        _ => "",
    };
    for (method, path) in [
        (Method::GET, "/v1/jobs/ID"),
        (Method::GET, "/v1/jobs/ID/wait?timeout=0"),
        (Method::GET, "/v1/jobs/ID/attempts"),
        (Method::GET, "/v1/jobs/ID/logs"),
        (Method::GET, "/v1/jobs/ID/logs?follow=true"),
        (Method::GET, "/v1/jobs/ID/explain"),
        (Method::POST, "/v1/jobs/ID/cancel"),
        (Method::POST, "/v1/jobs/ID/retry"),
        (Method::PATCH, "/v1/jobs/ID"),
        (Method::DELETE, "/v1/jobs/ID"),
    ] {
        let mut answers = Vec::new();
        for job in [id.as_str(), unknown] {
            let headers = [("windlass-namespace", "other"), ("x-request-id", "same")];
            let path = path.replace("ID", job);
            let body = body(&method, &path);
            let answer = api.send(request(method.clone(), &path, &headers, body)).await;
            answer.refused(404, "not_found");
            answers.push(answer.text);
        }
        assert_eq!(answers[0], answers[1], "{method} {path}");
    }
    assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.expect(200)["state"], "ready");
}

#[tokio::test]
async fn a_job_waits_for_its_order() {
    let api = Fixture::new().await;
    let first = api.submit(json!({"kind": "a", "order_key": "k"})).await;
    let second = api.submit(json!({"kind": "a", "order_key": "k"})).await;
    let told = api.get(&format!("/v1/jobs/{second}/explain")).await.expect(200);
    assert_eq!(
        (&told["state"], &told["reasons"][0]["code"]),
        (&json!("blocked"), &json!("blocked_by"))
    );
    let evidence = &told["reasons"][0]["evidence"];
    assert_eq!((&evidence["before"], &evidence["head"]["id"]), (&json!(1), &json!(first)));
    let path = format!("/v1/jobs/{first}");
    let body = json!({"queue": "elsewhere"}).to_string();
    let moved = api.send(request(Method::PATCH, &path, &[], &body)).await;
    let refused = moved.refused(409, "state_conflict");
    assert!(refused["detail"].as_str().unwrap().contains("keeps its queue"), "{refused}");
    api.post(&format!("/v1/jobs/{first}/cancel"), json!({})).await.expect(200);
    assert_eq!(api.get(&format!("/v1/jobs/{second}")).await.expect(200)["state"], "ready");
    let alone = json!({"kind": "a", "order_on_failure": "block"});
    let refused = api.post("/v1/jobs", alone).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/order_on_failure");
}

#[tokio::test]
async fn explain_names_what_holds_a_job_back() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a", "delay": "1h"})).await;
    let answer = api.get(&format!("/v1/jobs/{id}/explain")).await.expect(200);
    assert_eq!((&answer["id"], &answer["runnable"]), (&json!(id), &json!(false)));
    let codes: Vec<&str> =
        answer["reasons"].as_array().unwrap().iter().map(|r| r["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"not_due"), "{codes:?}");
}
