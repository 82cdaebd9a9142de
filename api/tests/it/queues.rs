//! Queues: settings, defaults, depth, pause.

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, request};

async fn patch(api: &Fixture, queue: &str, body: Value) -> crate::fixture::Answer {
    let path = format!("/v1/queues/{queue}");
    api.send(request(Method::PATCH, &path, &[], &body.to_string())).await
}

#[tokio::test]
async fn settings_are_set_kept_and_removed() {
    let api = Fixture::new().await;
    api.get("/v1/queues/mail").await.refused(404, "not_found");
    let body =
        json!({"max_concurrency": 3, "rate_limit": {"limit": 10, "per": "1s"}, "lease": "1m"});
    let queue = patch(&api, "mail", body).await.expect(200);
    assert_eq!(queue["settings"]["rate_limit"], json!({"limit": 10, "per": "1s"}));
    assert_eq!(queue["applied"], true);
    let queue =
        patch(&api, "mail", json!({"max_concurrency": null, "max_depth": 9})).await.expect(200);
    assert_eq!(queue["settings"]["max_concurrency"], json!(null));
    assert_eq!(
        (&queue["settings"]["max_depth"], &queue["settings"]["lease"]),
        (&json!(9), &json!("1m"))
    );
    for bad in [
        json!({"max_concurrency": 0}),
        json!({"lease": "1s"}),
        json!({"latency_objective": "999ms"}),
        json!({"latency_objective": "1d1s"}),
        json!({"rate_limit": {"limit": 1}}),
        json!({"per_key_rate_limit": {"limit": 0, "per": "1s"}}),
        json!({"kinds": {"a": {"max_concurrency": 0}}}),
        json!({"kinds": {"a": {"nope": 1}}}),
        json!({"kinds": {"a b": {"max_concurrency": 1}}}),
        json!({"fairness_weights": {"a": 0}}),
        json!({"fairness_weights": {"a": 1001}}),
        json!({"fairness_weights": {"": 1}}),
        json!({"default_retry": {"multiplier": 0.5}}),
        json!({"default_timeout": 0}),
        json!({"nope": 1}),
    ] {
        patch(&api, "mail", bad).await.refused(422, "invalid");
    }
}

/// Goal: limits of kinds and weights are replaced as a whole, and hold for what waits already.
#[tokio::test]
async fn limits_hold_and_are_explained() {
    let api = Fixture::new().await;
    let limits = json!({
        "per_key_concurrency": 1,
        "per_key_rate_limit": {"limit": 1, "per": "1h", "burst": 1},
        "kinds": {"bulk": {"max_concurrency": 2, "rate_limit": {"limit": 5, "per": "1s"}}},
        "fairness_weights": {"big": 3},
    });
    let queue = patch(&api, "mail", limits.clone()).await.expect(200);
    for (name, value) in limits.as_object().unwrap() {
        assert_eq!(&queue["settings"][name], value);
    }
    let kinds = json!({"other": {"max_concurrency": 1}});
    let queue = patch(&api, "mail", json!({"kinds": kinds})).await.expect(200);
    assert_eq!(queue["settings"]["kinds"], kinds);

    let job = json!({"kind": "a", "queue": "mail", "rate_limit_key": "customer", "fairness_key": "big", "rate_limit_units": 2});
    let take =
        json!({"worker": "w", "queues": ["mail"], "kinds": ["a", "b"], "max": 9, "wait": "10s"});
    // It uses up the rate.
    api.post("/v1/jobs", job.clone()).await.expect(201);
    let taken = api.post("/v1/leases", take.clone()).await.expect(200);
    assert_eq!(taken["jobs"].as_array().unwrap().len(), 1);
    let made = api.post("/v1/jobs", job).await.expect(201);
    assert_eq!((&made["rate_limit_units"], &made["fairness_key"]), (&json!(2), &json!("big")));
    let id = made["id"].as_str().unwrap();
    // Others are not held back by it.
    api.submit(json!({"kind": "b", "queue": "mail"})).await;
    let taken = api.post("/v1/leases", take).await.expect(200);
    assert_eq!(taken["jobs"].as_array().unwrap().len(), 1);
    let told = api.get(&format!("/v1/jobs/{id}/explain")).await.expect(200);
    let reasons = told["reasons"].as_array().unwrap();
    let limited = reasons.iter().find(|reason| reason["code"] == "rate_limited");
    let limited = limited.unwrap_or_else(|| panic!("{told}"));
    assert!(limited["until"].is_string(), "{limited}");
    let evidence = json!({"scope": "rate_limit_key", "name": "customer", "setting": "per_key_rate_limit", "units": 2});
    assert_eq!(limited["evidence"], evidence);
    assert_eq!(told["runnable"], false);
}

/// Goal: what a queue's jobs may wait is what its workers are reckoned by, unless a call says otherwise.
#[tokio::test]
async fn a_queues_objective_is_the_default_of_its_scale() {
    let api = Fixture::new().await;
    let objective = async |query: &str| {
        let answer = api.get(&format!("/v1/scale/mail{query}")).await.expect(200);
        answer["objective"].clone()
    };
    let queue = patch(&api, "mail", json!({"latency_objective": "2s"})).await.expect(200);
    assert_eq!(queue["settings"]["latency_objective"], "2s");
    assert_eq!(objective("").await, "2s");
    assert_eq!(objective("?objective=20s").await, "20s");
    patch(&api, "mail", json!({"latency_objective": null})).await.expect(200);
    assert_eq!(objective("").await, "10s");
}

#[tokio::test]
async fn jobs_take_over_their_queues_defaults() {
    let api = Fixture::new().await;
    let body = json!({"default_max_attempts": 2, "default_timeout": "5s", "default_priority": 8,
        "default_retry": {"backoff": "fixed"}});
    patch(&api, "q", body).await.expect(200);
    let job = api.post("/v1/jobs", json!({"kind": "a", "queue": "q"})).await.expect(201);
    assert_eq!((&job["max_attempts"], &job["timeout"]), (&json!(2), &json!("5s")));
    assert_eq!((&job["priority"], &job["retry"]["backoff"]), (&json!(8), &json!("fixed")));
    let own = json!({"kind": "a", "queue": "q", "max_attempts": 9, "priority": 0});
    let job = api.post("/v1/jobs", own).await.expect(201);
    assert_eq!((&job["max_attempts"], &job["priority"]), (&json!(9), &json!(0)));
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let api = Fixture::new().await;
    patch(&api, "q", json!({"max_depth": 2})).await.expect(200);
    for _ in 0..2 {
        api.submit(json!({"kind": "a", "queue": "q"})).await;
    }
    let answer = api.post("/v1/jobs", json!({"kind": "a", "queue": "q"})).await;
    answer.refused(429, "queue_full");
    assert_eq!(answer.header("retry-after"), "1");
    let jobs = json!({"jobs": [{"kind": "a", "queue": "q"}, {"kind": "a", "queue": "free"}]});
    let result = api.post("/v1/jobs/batch", jobs).await.expect(200);
    assert_eq!(result["results"][0]["error"]["code"], "queue_full");
    assert_eq!(result["accepted"], 1);
    // With an idempotency key a batch is not taken in part: its repeat must mean the same jobs.
    let jobs = json!({"jobs": [{"kind": "a", "queue": "free"}, {"kind": "a", "queue": "q"}]});
    let key = [("idempotency-key", "k")];
    api.post_with("/v1/jobs/batch", &key, &jobs.to_string()).await.refused(429, "queue_full");
    let free = api.get("/v1/jobs?queue=free").await.expect(200);
    assert_eq!(free["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_paused_queue_takes_jobs_and_starts_none() {
    let api = Fixture::new().await;
    let queue = api.post("/v1/queues/q/pause", json!({"reason": "maintenance"})).await.expect(200);
    assert_eq!((&queue["paused"], &queue["pause"]["by"]), (&json!(true), &json!("local")));
    api.submit(json!({"kind": "a", "queue": "q"})).await;
    let take = json!({"worker": "w", "queues": ["q"], "wait": "100ms"});
    assert_eq!(api.post("/v1/leases", take).await.expect(200)["jobs"], json!([]));
    let resume = request(Method::POST, "/v1/queues/q/resume", &[], "");
    assert_eq!(api.send(resume).await.expect(200)["paused"], false);
    assert_eq!(api.take("q").await["queue"], "q");
}

#[tokio::test]
async fn queues_are_listed_by_name_with_their_depths() {
    let api = Fixture::new().await;
    for queue in ["c", "a", "b"] {
        api.submit(json!({"kind": "x", "queue": queue})).await;
    }
    let page = api.get("/v1/queues?limit=2").await.expect(200);
    let names = |page: &Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|q| q["name"].as_str().unwrap().into())
            .collect()
    };
    assert_eq!(names(&page), ["a", "b"]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("/v1/queues?cursor={cursor}")).await.expect(200);
    assert_eq!((names(&rest), &rest["next_cursor"]), (vec!["c".into()], &json!(null)));
    api.take("a").await;
    let queue = api.get("/v1/queues/a").await.expect(200);
    assert_eq!((&queue["depth"]["running"], &queue["depth"]["ready"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn a_queue_too_many_is_refused_and_named() {
    let api = Fixture::new().await;
    let most = windlass_shared::limits::QUEUES_PER_NAMESPACE_MAX;
    let plant = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most}) \
         INSERT INTO queues (namespace, name, created_at) SELECT 'default', 'q' || i, 0 FROM n"
    );
    api.life.ledger().tamper(plant).await.unwrap();
    let job = |queue: &str| json!({"kind": "a", "queue": queue});
    api.post("/v1/jobs", job("more")).await.refused(422, "too_many_queues");
    api.submit(job("q1")).await;
    let batch = api.post("/v1/jobs/batch", json!({"jobs": [job("q1"), job("more")]})).await;
    let batch = batch.expect(200);
    assert_eq!((&batch["accepted"], &batch["rejected"]), (&json!(1), &json!(1)));
    assert_eq!(batch["results"][1]["error"]["code"], "too_many_queues");
    let patch = request(Method::PATCH, "/v1/queues/more", &[], r#"{"max_depth": 5}"#);
    api.send(patch).await.refused(422, "too_many_queues");
    api.post("/v1/queues/more/pause", json!({})).await.refused(422, "too_many_queues");
    // The list comes in pages all the same.
    let page = api.get("/v1/queues?limit=2").await.expect(200);
    assert_eq!(
        (&page["items"][0]["name"], &page["items"][1]["name"]),
        (&json!("q1"), &json!("q10"))
    );
    let next = page["next_cursor"].as_str().unwrap();
    let page = api.get(&format!("/v1/queues?limit=2&cursor={next}")).await.expect(200);
    assert_eq!(page["items"][0]["name"], "q100");
}
