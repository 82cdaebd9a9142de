//! Circuits: what is seen of them, operators' word, and which one a job has.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, SOON, request};

async fn patch(api: &Fixture, circuit: &str, headers: &[(&str, &str)], body: Value) -> Answer {
    let path = format!("/v1/circuits/{circuit}");
    api.send(request(Method::PATCH, &path, headers, &body.to_string())).await
}

/// Takes what there is of a queue, at once.
async fn take(api: &Fixture, queue: &str) -> Vec<Value> {
    let body = json!({"worker": "w", "queues": [queue], "max": 9, "wait": 0});
    let leases = api.post("/v1/leases", body).await.expect(200);
    leases["jobs"].as_array().unwrap().clone()
}

async fn fail(api: &Fixture, job: &Value, more: Value) {
    let mut end = json!({"outcome": "fail", "error": {"code": "e", "message": "m"}, "delay": "1h"});
    end.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    assert_eq!(api.settle(job, end).await["ok"], true);
}

/// Submits jobs of circuit `smtp`, and fails as many.
async fn fail_some(api: &Fixture, queue: &str, times: usize, more: Value) {
    for _ in 0..times {
        api.submit(json!({"kind": "a", "queue": queue, "circuit": "smtp"})).await;
        let job = api.take(queue).await;
        fail(api, &job, more.clone()).await;
    }
}

async fn why(api: &Fixture, id: &str) -> Value {
    let told = api.get(&format!("/v1/jobs/{id}/explain")).await.expect(200);
    let reasons = told["reasons"].as_array().unwrap();
    let found = reasons.iter().find(|reason| reason["code"] == "circuit_open").cloned();
    found.unwrap_or_else(|| panic!("{told}"))
}

/// Goal: while an operator keeps a circuit open none of its jobs starts, in any queue, old or new; everybody sees who
/// and why; close and reset let them run.
#[tokio::test]
async fn an_operators_word_holds_in_every_queue() {
    let api = Fixture::new().await;
    api.get("/v1/circuits/smtp").await.refused(404, "not_found");
    api.submit(json!({"kind": "b", "queue": "old"})).await;
    api.take("old").await;
    let path = |verb: &str| format!("/v1/circuits/smtp/{verb}");
    let open = api.post(&path("open"), json!({"reason": "moves tonight"})).await.expect(200);
    assert_eq!((&open["state"], &open["mode"]), (&json!("open"), &json!("open")), "{open}");
    assert_eq!((&open["applied"], &open["version"]), (&json!(true), &json!(1)));
    let forced = &open["forced"];
    assert_eq!((&forced["by"], &forced["reason"]), (&json!("local"), &json!("moves tonight")));
    for queue in ["old", "new"] {
        let held = api.submit(json!({"kind": "a", "queue": queue, "circuit": "smtp"})).await;
        let free = api.submit(json!({"kind": "a", "queue": queue})).await;
        assert_eq!(api.take(queue).await["id"], free);
        assert_eq!(take(&api, queue).await, Vec::<Value>::new());
        let reason = why(&api, &held).await;
        assert_eq!(reason["since"], forced["since"], "{reason}");
        let evidence =
            json!({"circuit": "smtp", "mode": "open", "by": "local", "reason": "moves tonight"});
        assert_eq!(reason["evidence"], evidence);
    }
    let closed = api.post(&path("close"), json!({})).await.expect(200);
    assert_eq!((&closed["state"], &closed["mode"]), (&json!("closed"), &json!("closed")));
    assert_eq!((take(&api, "old").await.len(), take(&api, "new").await.len()), (1, 1));
    let reset = api.send(request(Method::POST, &path("reset"), &[], "")).await.expect(200);
    assert_eq!((&reset["mode"], &reset["forced"]), (&json!("auto"), &Value::Null));
    let same = api.get("/v1/circuits/smtp").await.expect(200);
    assert_eq!((&same["version"], &same["mode"]), (&json!(3), &json!("auto")));
}

/// Goal: a circuit that nobody ever named here but its jobs is found by name, with what its shard has seen; and a reset
/// lets its jobs run.
#[tokio::test]
async fn a_circuit_that_opened_by_itself_is_listed_and_reset() {
    let api = Fixture::new().await;
    fail_some(&api, "mail", 4, json!({})).await;
    let seen = api.get("/v1/circuits/smtp").await.expect(200);
    assert_eq!((&seen["state"], &seen["failures_in_row"]), (&json!("closed"), &json!(4)));
    fail_some(&api, "mail", 1, json!({})).await;
    let held = api.submit(json!({"kind": "a", "queue": "mail", "circuit": "smtp"})).await;
    let listed = async {
        loop {
            let page = api.get("/v1/circuits").await.expect(200);
            if let Some(circuit) = page["items"].get(0) {
                return circuit.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let circuit = tokio::time::timeout(SOON, listed).await.expect("its name is noted");
    assert_eq!((&circuit["name"], &circuit["state"]), (&json!("smtp"), &json!("open")));
    assert_eq!((&circuit["failed"], &circuit["calls"]), (&json!(5), &json!(5)));
    assert!(circuit["opened_at"].is_string() && circuit["next_probe_at"].is_string(), "{circuit}");
    assert_eq!(circuit["queues"][0]["queue"], "mail");
    // Its lane waits: somebody else's job does not.
    let free = api.submit(json!({"kind": "a", "queue": "mail"})).await;
    assert_eq!(api.take("mail").await["id"], free);
    assert_eq!(take(&api, "mail").await, Vec::<Value>::new());
    let reason = why(&api, &held).await;
    assert_eq!(reason["since"], circuit["opened_at"]);
    assert_eq!(reason["evidence"]["next_probe_at"], circuit["next_probe_at"]);
    assert_eq!(reason["until"], circuit["next_probe_at"]);

    let path = "/v1/circuits/smtp/reset";
    let reset = api.send(request(Method::POST, path, &[], "")).await.expect(200);
    assert_eq!((&reset["state"], &reset["failures_in_row"]), (&json!("closed"), &json!(0)));
    assert_eq!(take(&api, "mail").await[0]["id"], held);
}

/// Goal: a rule holds in the queues of its namespace from its answer on, until it is taken back.
#[tokio::test]
async fn rules_hold_at_once() {
    let api = Fixture::new().await;
    api.submit(json!({"kind": "a", "queue": "mail"})).await;
    api.take("mail").await;
    let rule = json!({"failures": 2, "window": "30s", "percent": 0, "calls_min": 9, "probe": "1h"});
    let set = patch(&api, "smtp", &[], rule.clone()).await;
    assert_eq!(set.header("etag"), "\"1\"");
    let set = set.expect(200);
    assert_eq!((&set["rule"], &set["applied"]), (&rule, &json!(true)));
    fail_some(&api, "mail", 2, json!({})).await;
    let open = api.get("/v1/circuits/smtp").await.expect(200);
    assert_eq!(open["state"], "open", "{open}");
    let (opened, probe) = (open["opened_at"].as_str().unwrap(), open["next_probe_at"].as_str());
    assert!(probe.unwrap() > opened, "{open}");

    let back = patch(&api, "smtp", &[("if-match", "\"1\"")], json!({"failures": null})).await;
    let back = back.expect(200);
    assert_eq!((&back["rule"]["failures"], &back["rule"]["probe"]), (&json!(5), &json!("1h")));
    let late = patch(&api, "smtp", &[("if-match", "\"1\"")], json!({"failures": 7})).await;
    late.refused(412, "version_conflict");
    for bad in [
        json!({"failures": 1001}),
        json!({"window": "999ms"}),
        json!({"percent": 101}),
        json!({"calls_min": 0}),
        json!({"probe": "99ms"}),
        json!({"probe": "61m"}),
        json!({"mode": "open"}),
    ] {
        patch(&api, "smtp", &[], bad).await.refused(422, "invalid");
    }
    patch(&api, "a%20b", &[], json!({"failures": 1})).await.refused(422, "invalid");
}

/// Goal: a remote worker can say how the dependency was, whatever the end of its attempt looks like.
#[tokio::test]
async fn remote_workers_tell_of_their_dependency() {
    let api = Fixture::new().await;
    let row = async || {
        let circuit = api.get("/v1/circuits/smtp").await;
        if circuit.status == 404 { 0 } else { circuit.json()["failures_in_row"].as_u64().unwrap() }
    };
    fail_some(&api, "q", 1, json!({})).await;
    assert_eq!(row().await, 1, "an error that is worth another try counts");
    fail_some(&api, "q", 1, json!({"dependency": "unknown"})).await;
    assert_eq!(row().await, 1);
    let error = json!({"code": "e", "message": "m", "retryable": false});
    fail_some(&api, "q", 1, json!({"error": error, "dependency": "failed"})).await;
    assert_eq!(row().await, 2);
    fail_some(&api, "q", 1, json!({"dependency": "answered"})).await;
    assert_eq!(row().await, 0);
}

/// Goal: a probe of a remote worker costs its job no attempt either, be it the last.
#[tokio::test]
async fn a_probe_that_fails_is_no_attempt() {
    let api = Fixture::new().await;
    patch(&api, "smtp", &[], json!({"failures": 1, "probe": "100ms"})).await.expect(200);
    fail_some(&api, "q", 1, json!({})).await;
    let job = json!({"kind": "a", "queue": "q", "circuit": "smtp", "max_attempts": 1});
    let id = api.submit(job).await;
    let probe = api.take("q").await;
    assert_eq!(probe["id"], id);
    fail(&api, &probe, json!({})).await;
    api.record("q").await;
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&job["state"], &job["attempt"]), (&json!("ready"), &json!(0)), "{job}");
}

/// Goal: jobs that make requests are held by their host's circuit unless they say otherwise.
#[tokio::test]
async fn a_request_has_its_host_as_its_circuit() {
    let api = Fixture::new().await;
    let job = |more: Value| {
        let mut job =
            json!({"kind": "http.request", "payload": {"url": "https://API.example:8443/x"}});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job
    };
    let circuit =
        async |body: Value| api.post("/v1/jobs", body).await.expect(201)["circuit"].clone();
    assert_eq!(circuit(job(json!({}))).await, "api.example:8443");
    assert_eq!(circuit(job(json!({"circuit": "payments"}))).await, "payments");
    assert_eq!(circuit(job(json!({"circuit": null}))).await, Value::Null);
    assert_eq!(circuit(job(json!({"kind": "echo"}))).await, Value::Null);
    let mut step = job(json!({"id": "s"}));
    let jobs = async |step: &Value| {
        let run = json!({"name": "r", "steps": [step]});
        let run = api.post("/v1/workflows", run).await.expect(201);
        let jobs = api.get(&format!("/v1/jobs?workflow_id={}", run["id"].as_str().unwrap())).await;
        jobs.expect(200)["items"][0]["circuit"].clone()
    };
    assert_eq!(jobs(&step).await, "api.example:8443");
    step["circuit"] = Value::Null;
    assert_eq!(jobs(&step).await, Value::Null);
}
