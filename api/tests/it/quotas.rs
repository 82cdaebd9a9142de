//! Quotas over HTTP: who may set them, and how they refuse.

use http::Method;
use serde_json::{Value, json};
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;

use crate::fixture::{Answer, Fixture, request};

const TEAM: &str = "/v1/quotas/team-a";

async fn put(api: &Fixture, path: &str, body: Value) -> Answer {
    api.send(request(Method::PUT, path, &[], &body.to_string())).await
}

/// A call of the namespace.
async fn post(api: &Fixture, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
    let headers = [headers, &[("windlass-namespace", "team-a")]].concat();
    api.post_with(path, &headers, &body.to_string()).await
}

fn batch(n: usize) -> Value {
    json!({"jobs": vec![json!({"kind": "noop"}); n]})
}

#[tokio::test]
async fn a_used_up_quota_refuses_the_whole_batch_and_says_why() {
    let api = Fixture::new().await;
    let quotas = json!({"rate": {"limit": 10, "per": "1h", "burst": 5}});
    let set = put(&api, TEAM, quotas).await.expect(200);
    assert_eq!((&set["rate"]["burst"], &set["max_jobs"]), (&json!(5), &Value::Null));
    assert_eq!(set["changed_by"], "local");
    post(&api, "/v1/jobs/batch", &[], batch(3)).await.expect(200);

    let key = [("idempotency-key", "k")];
    let refused = post(&api, "/v1/jobs/batch", &key, batch(3)).await;
    let problem = refused.refused(429, "quota_exceeded");
    let quota = json!({"name": "rate", "limit": 5, "used": 3, "asked": 3});
    assert_eq!(problem["quota"], quota);
    assert_eq!(refused.header("ratelimit-policy"), "\"rate\";q=5;w=1800");
    let state = refused.header("ratelimit");
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!(
        (1..=360).contains(&seconds) && state == format!("\"rate\";r=2;t={seconds}"),
        "{state}"
    );
    let jobs = api.send(list()).await.expect(200);
    assert_eq!(
        jobs["items"].as_array().unwrap().len(),
        3,
        "nothing of the refused batch is stored"
    );

    // What there is room for comes in; and with more room the refused batch does, with its key.
    post(&api, "/v1/jobs", &[], json!({"kind": "noop"})).await.expect(201);
    put(&api, TEAM, json!({"rate": {"limit": 10, "per": "1ms"}})).await.expect(200);
    let accepted = post(&api, "/v1/jobs/batch", &key, batch(3)).await;
    assert_eq!(accepted.header("idempotency-replayed"), "");
    let first = accepted.expect(200);
    put(&api, TEAM, json!({"max_jobs": 1})).await.expect(200);
    let again = post(&api, "/v1/jobs/batch", &key, batch(3)).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(200)["results"][0]["id"], first["results"][0]["id"]);

    // Others are not concerned.
    api.post("/v1/jobs", json!({"kind": "noop"})).await.expect(201);
}

fn list() -> http::Request<axum::body::Body> {
    request(Method::GET, "/v1/jobs", &[("windlass-namespace", "team-a")], "")
}

#[tokio::test]
async fn unfinished_jobs_and_their_payloads_are_bounded() {
    let api = Fixture::new().await;
    let set = json!({"max_jobs": 2, "max_bytes": 40_000});
    put(&api, TEAM, set).await.expect(200);
    // Too large to travel with the job: kept by reference, and weighed all the same.
    let large = json!({"kind": "noop", "payload": "x".repeat(30_000)});
    post(&api, "/v1/jobs", &[], large.clone()).await.expect(201);
    let problem = post(&api, "/v1/jobs", &[], large).await.refused(429, "quota_exceeded");
    let quota = json!({"name": "bytes", "limit": 40_000, "used": 30_002, "asked": 30_002});
    assert_eq!(problem["quota"], quota);
    let id = post(&api, "/v1/jobs", &[], json!({"kind": "noop"})).await.expect(201)["id"].clone();
    let refused = post(&api, "/v1/jobs", &[], json!({"kind": "noop"})).await;
    assert_eq!(refused.refused(429, "quota_exceeded")["quota"]["name"], "jobs");
    assert_eq!(refused.header("ratelimit-policy"), "\"jobs\";q=2");
    let run = json!({"name": "w", "steps": [{"id": "a", "kind": "noop"}]});
    let refused = post(&api, "/v1/workflows", &[], run).await;
    assert_eq!(refused.refused(429, "quota_exceeded")["quota"]["asked"], 1);
    let refused = post(&api, "/v1/jobs/batch", &[], batch(3)).await;
    assert_eq!(refused.refused(413, "too_large")["quota"]["limit"], 2);

    // What ends makes room by itself, before long: refusals have it counted.
    let cancel = format!("/v1/jobs/{}/cancel", id.as_str().unwrap());
    post(&api, &cancel, &[], Value::Null).await.expect(200);
    let comes_in = async {
        while post(&api, "/v1/jobs", &[], json!({"kind": "noop"})).await.status != 201 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::fixture::SOON, comes_in).await.expect("there is room");
    let shown = api.get(TEAM).await.expect(200);
    assert_eq!(shown["used"]["jobs"], 2);
    assert!(shown["counted_at"].is_string());
}

#[tokio::test]
async fn admins_of_the_installation_set_them_and_whom_they_concern_read_them() {
    let api = Fixture::with(ApiSettings::default()).await;
    let admin = api.key(Role::Admin, None).await;
    let bound = api.key(Role::Admin, Some("team-a")).await;
    let (viewer, other) =
        (api.key(Role::Viewer, Some("team-a")).await, api.key(Role::Viewer, Some("b")).await);
    let operator = api.key(Role::Operator, None).await;
    let call = |method: Method, path: &'static str, key: &str, body: &'static str| {
        let authorization = format!("Bearer {key}");
        api.send(request(method, path, &[("authorization", authorization.as_str())], body))
    };
    let some = r#"{"max_jobs": 5}"#;
    call(Method::PUT, TEAM, &bound, some).await.refused(403, "namespace_denied");
    call(Method::PUT, TEAM, &operator, some).await.refused(403, "forbidden");
    let set = call(Method::PUT, TEAM, &admin, some).await.expect(200);
    assert_eq!(set["changed_by"], "a test's key");
    assert_eq!(call(Method::GET, TEAM, &viewer, "").await.expect(200)["max_jobs"], 5);
    call(Method::GET, TEAM, &other, "").await.refused(404, "not_found");
    call(Method::GET, "/v1/quotas", &viewer, "").await.refused(403, "namespace_denied");
    let listed = call(Method::GET, "/v1/quotas", &operator, "").await.expect(200);
    assert_eq!(listed["items"][0]["namespace"], "team-a");
    call(Method::DELETE, TEAM, &bound, "").await.refused(403, "namespace_denied");
    call(Method::DELETE, TEAM, &admin, "").await.expect(204);
    call(Method::DELETE, TEAM, &admin, "").await.refused(404, "not_found");
    call(Method::GET, TEAM, &viewer, "").await.refused(404, "not_found");
}

#[tokio::test]
async fn quotas_are_checked_and_listed_in_pages() {
    let api = Fixture::new().await;
    for bad in [
        json!({}),
        json!({"max_jobs": 0}),
        json!({"max_bytes": -1}),
        json!({"rate": {"limit": 0, "per": "1s"}}),
        json!({"rate": {"limit": 1, "per": "2d"}}),
        json!({"max_jbos": 1}),
    ] {
        put(&api, TEAM, bad).await.refused(422, "invalid");
    }
    // The installation's own jobs must not be kept out.
    put(&api, "/v1/quotas/system", json!({"max_jobs": 1})).await.refused(422, "invalid");
    for name in ["c", "a", "b"] {
        put(&api, &format!("/v1/quotas/{name}"), json!({"max_jobs": 1})).await.expect(200);
    }
    let (mut names, mut path) = (Vec::new(), "/v1/quotas?limit=2".to_owned());
    loop {
        let page = api.get(&path).await.expect(200);
        names.extend(page["items"].as_array().unwrap().iter().map(|q| q["namespace"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/quotas?limit=2&cursor={next}");
    }
    assert_eq!(names, ["a", "b", "c"]);
    api.get("/v1/quotas?cursor=x").await.refused(422, "invalid_cursor");
}

#[tokio::test]
async fn shaped_submissions_pay_too() {
    let api = Fixture::new().await;
    put(&api, TEAM, json!({"rate": {"limit": 1, "per": "1h", "burst": 2}})).await.expect(200);
    let item = || json!({"kind": "noop", "collect": {"key": "k", "wait": "1h"}});
    let debounced = || json!({"kind": "noop", "debounce": {"key": "k", "delay": "1h"}});
    post(&api, "/v1/jobs", &[], item()).await.expect(202);
    let waiting = post(&api, "/v1/jobs", &[], debounced()).await.expect(201);
    for job in [item(), debounced()] {
        let problem = post(&api, "/v1/jobs", &[], job).await.refused(429, "quota_exceeded");
        assert_eq!(problem["quota"]["name"], "rate");
    }
    let jobs = api.send(list()).await.expect(200);
    assert_eq!(jobs["items"].as_array().unwrap().len(), 2);
    let states: Vec<&Value> =
        jobs["items"].as_array().unwrap().iter().map(|job| &job["state"]).collect();
    assert_eq!(states, ["blocked", "blocked"], "nobody took the place of {}", waiting["id"]);
    put(&api, TEAM, json!({"rate": {"limit": 1, "per": "1h", "burst": 3}})).await.expect(200);
    let next = post(&api, "/v1/jobs", &[], item()).await.expect(202);
    assert_eq!(next["item"], 2, "the refused one is not among them");
}
