//! What workers report, and the worker calls.

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, request};

const WORKER: &str = "01900000-0000-7000-8000-00000000aaaa";

fn beat() -> Value {
    json!({"id": WORKER, "name": "w1", "host": "h", "version": "1.0", "queues": ["default"], "kinds": [],
        "concurrency": 4, "running": 1, "started_at": "2026-01-01T00:00:00Z"})
}

#[tokio::test]
async fn a_beating_worker_is_listed_and_can_be_drained() {
    let api = Fixture::new().await;
    let answer = api.post("/v1/worker/reports", json!({"worker": beat()})).await.expect(200);
    assert_eq!(answer["drain"], false);
    let workers = api.get("/v1/workers").await.expect(200);
    assert_eq!(
        (&workers["items"][0]["id"], &workers["items"][0]["running"]),
        (&json!(WORKER), &json!(1))
    );
    let drain = request(Method::POST, &format!("/v1/workers/{WORKER}/drain"), &[], "");
    api.send(drain).await.expect(200);
    let answer = api.post("/v1/worker/reports", json!({"worker": beat()})).await.expect(200);
    assert_eq!(answer["drain"], true);
    let unknown = "/v1/workers/01900000-0000-7000-8000-000000000000/drain";
    api.send(request(Method::POST, unknown, &[], "")).await.refused(404, "not_found");
}

#[tokio::test]
async fn progress_and_logs_reach_the_job() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let taken = api.take("default").await;
    let line = |text: &str| {
        json!({"job_id": id, "attempt": 1, "level": "info", "message": text,
        "at": "2026-01-01T00:00:00Z"})
    };
    let report = json!({
        "logs": [line("one"), line("two\u{0}")],
        "progress": [{"job_id": id, "fence": taken["lease"]["fence"], "percent": 50, "message": "half"}],
    });
    api.post("/v1/worker/reports", report).await.expect(200);
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!(job["progress"], json!({"percent": 50.0, "message": "half"}));
    let log = api.get(&format!("/v1/jobs/{id}/logs")).await.expect(200);
    assert_eq!(log["items"][0]["message"], "one");
    assert_eq!(log["items"][1]["seq"], 2);
    let foreign = json!({"logs": [line("x")]}).to_string();
    let headers = [("windlass-namespace", "other")];
    api.post_with("/v1/worker/reports", &headers, &foreign).await.expect(200);
    assert_eq!(
        api.get(&format!("/v1/jobs/{id}/logs")).await.expect(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn an_outcome_by_the_direct_path_is_recorded_once() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let taken = api.take("default").await;
    let outcome = |job: &str| {
        json!({"job_id": job, "fence": taken["lease"]["fence"], "outcome": "succeeded",
        "at": api.now(0), "claimed_at": api.now(-5), "attempt": 1, "output": {"n": 1}})
    };
    let unknown = "01900000-0000-7000-8000-000000000000";
    let report = json!({"worker": beat(), "outcomes": [outcome(&id), outcome(unknown)]});
    let answer = api.post("/v1/worker/reports", report.clone()).await.expect(200);
    assert_eq!(answer["outcomes"], json!(["applied", "unknown"]));
    let answer = api.post("/v1/worker/reports", report).await.expect(200);
    assert_eq!(answer["outcomes"], json!(["stale", "unknown"]));
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&job["state"], &job["output"]["n"]), (&json!("succeeded"), &json!(1)));
    assert!(job["worker"].as_str().unwrap().starts_with("w1"));
}

#[tokio::test]
async fn the_direct_path_carries_all_that_the_engine_does() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let taken = api.take("default").await;
    let first = json!({"job_id": id, "fence": taken["lease"]["fence"], "outcome": "retry", "delay": "1h",
        "at": api.now(0), "claimed_at": api.now(-5), "attempt": 1, "crashes": 2, "worker": "w7 (x)",
        "error": {"code": "slow", "message": "m"}, "timed_out": true, "usage": {"cpu_ms": 5}});
    let answer = api.post("/v1/worker/reports", json!({"outcomes": [first]})).await.expect(200);
    assert_eq!(answer["outcomes"], json!(["applied"]));
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&job["state"], &job["crashes"]), (&json!("retrying"), &json!(2)));
    let attempts = api.get(&format!("/v1/jobs/{id}/attempts")).await.expect(200);
    let attempt = &attempts["items"][0];
    assert_eq!(
        (&attempt["outcome"], &attempt["worker"], &attempt["usage"]["cpu_ms"]),
        (&json!("timed_out"), &json!("w7 (x)"), &json!(5))
    );
    let blob = "01900000-0000-7000-8000-0000000000b1";
    let put = request(
        Method::PUT,
        &format!("/v1/blobs/{blob}"),
        &[("content-type", "application/json")],
        "[7]",
    );
    api.send(put).await.expect(204);
    let fence = taken["lease"]["fence"].as_u64().unwrap() + 1;
    let second = json!({"job_id": id, "fence": fence, "outcome": "succeeded", "at": api.now(0),
        "attempt": 2, "output_blob": blob});
    let mut both = second.clone();
    both["output"] = json!(1);
    let refused =
        api.post("/v1/worker/reports", json!({"outcomes": [both]})).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/outcomes/0/output_blob");
    let answer = api.post("/v1/worker/reports", json!({"outcomes": [second]})).await.expect(200);
    assert_eq!(answer["outcomes"], json!(["applied"]));
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&job["state"], &job["output"]), (&json!("succeeded"), &json!([7])));
}

#[tokio::test]
async fn outcomes_of_another_ledger_are_refused() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let taken = api.take("default").await;
    let outcome = json!({"job_id": id, "fence": taken["lease"]["fence"], "outcome": "succeeded",
        "at": api.now(0), "attempt": 1});
    let report = |ledger: &str| json!({"ledger": ledger, "outcomes": [outcome.clone()]});
    let foreign = report("01900000-0000-7000-8000-000000000000");
    api.post("/v1/worker/reports", foreign).await.refused(409, "wrong_ledger");
    let own = api.life.ledger().id().to_string();
    let answer = api.post("/v1/worker/reports", report(&own)).await.expect(200);
    assert_eq!(answer["outcomes"], json!(["applied"]));
}

/// Goal: a worker with a broken clock, or a made-up lease, neither shuts later leases out nor rewrites time.
#[tokio::test]
async fn outcomes_from_outside_the_jobs_life_are_refused() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    let taken = api.take("default").await;
    let sound = json!({"job_id": id, "fence": taken["lease"]["fence"], "outcome": "succeeded",
        "at": api.now(0), "claimed_at": api.now(0), "attempt": 1});
    let now_us = u64::try_from(api.life.clock().now().micros()).unwrap();
    for (field, value) in [
        ("at", api.now(-3_700)),
        ("at", api.now(3_700)),
        ("at", json!("2001-01-01T00:00:00Z")),
        ("claimed_at", api.now(-3_700)),
        ("claimed_at", api.now(3_700)),
        ("fence", json!(now_us + 3_700_000_000)),
        ("fence", json!(u64::MAX)),
    ] {
        let mut wrong = sound.clone();
        wrong[field] = value;
        let report = json!({"outcomes": [sound, wrong]});
        let refused = api.post("/v1/worker/reports", report).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], format!("/outcomes/1/{field}"));
    }
    let ahead =
        json!({"progress": [{"job_id": id, "fence": now_us + 3_700_000_000, "percent": 1}]});
    let refused = api.post("/v1/worker/reports", ahead).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/progress/0/fence");
    // Nothing of the refused reports was taken, and clocks may differ a little.
    let mut late = sound.clone();
    late["at"] = api.now(3_000);
    late["claimed_at"] = api.now(-3_000);
    let answer = api.post("/v1/worker/reports", json!({"outcomes": [late]})).await.expect(200);
    assert_eq!(answer["outcomes"], json!(["applied"]));
}

#[tokio::test]
async fn one_report_carries_lines_and_progress_of_many_jobs() {
    let api = Fixture::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(api.submit(json!({"kind": "a"})).await);
    }
    let line = |id: &String, n: usize| json!({"job_id": id, "attempt": 1, "level": "info", "message": format!("{n}"), "at": api.now(0)});
    let logs: Vec<Value> =
        (0..3).flat_map(|n| ids.iter().map(move |id| (id, n))).map(|(id, n)| line(id, n)).collect();
    let progress: Vec<Value> = (1..=5)
        .zip(&ids)
        .map(|(n, id)| json!({"job_id": id, "fence": 1, "percent": n * 10}))
        .collect();
    let outputs: Vec<Value> = ids
        .iter()
        .map(|id| {
            json!({"job_id": id, "fence": 1, "outcome": "succeeded", "at": api.now(0),
            "attempt": 1, "output": format!("{id}{}", "x".repeat(20_000))})
        })
        .collect();
    let report = json!({"logs": logs, "progress": progress, "outcomes": outputs});
    let answer = api.post("/v1/worker/reports", report).await.expect(200);
    assert_eq!(answer["outcomes"], json!(vec!["applied"; 5]));
    for (n, id) in (1..=5).zip(&ids) {
        let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
        assert_eq!(job["progress"]["percent"], f64::from(n * 10));
        assert!(job["output"].as_str().unwrap().starts_with(id.as_str()));
        let log = api.get(&format!("/v1/jobs/{id}/logs")).await.expect(200);
        let said: Vec<&Value> =
            log["items"].as_array().unwrap().iter().map(|line| &line["message"]).collect();
        assert_eq!(said, ["0", "1", "2"]);
    }
}

#[tokio::test]
async fn wrong_reports_are_named() {
    let api = Fixture::new().await;
    let mut no_name = beat();
    no_name["name"] = json!("");
    for (body, pointer) in [
        (json!({"worker": no_name}), "/worker/name"),
        (
            json!({"progress": [{"job_id": WORKER, "fence": 1, "percent": 101}]}),
            "/progress/0/percent",
        ),
        (json!({"logs": [{"job_id": "x"}]}), "/logs/0/job_id"),
        (
            json!({"logs": [{"job_id": WORKER, "attempt": 1_000_001, "at": "2026-01-01T00:00:00Z", "level": "info", "message": ""}]}),
            "/logs/0/attempt",
        ),
        (json!({"outcomes": [{"fence": -1}]}), "/outcomes/0/fence"),
        (json!({"other": 1}), "/other"),
    ] {
        let refused = api.post("/v1/worker/reports", body).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
}

#[tokio::test]
async fn blobs_are_a_namespaces_own() {
    let api = Fixture::new().await;
    let path = "/v1/blobs/01900000-0000-7000-8000-00000000bbbb";
    let put =
        |headers: &[(&str, &str)], body: &str| api.send(request(Method::PUT, path, headers, body));
    assert_eq!(put(&[], "{\"a\": [1,2]}").await.status, 204);
    assert_eq!(put(&[], "\"other\"").await.status, 204);
    assert_eq!(api.get(path).await.text, "{\"a\": [1,2]}");
    let other = request(Method::GET, path, &[("windlass-namespace", "other")], "");
    api.send(other).await.refused(404, "not_found");
    put(&[], "{").await.refused(400, "invalid_json");
    put(&[], &format!("\"{}\"", "x".repeat(1 << 20))).await.refused(413, "too_large");
    put(&[("content-type", "text/plain")], "1").await.refused(415, "unsupported_media_type");
}
