//! Schedules: made, read, changed, fired on request.

use http::Method;
use serde_json::{Value, json};
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;
use windlass_shared::model::name::{Namespace, ScheduleName};
use windlass_shared::model::time::Timestamp;

use crate::fixture::{Answer, Fixture, request};

async fn patch(api: &Fixture, name: &str, body: Value) -> Answer {
    let path = format!("/v1/schedules/{name}");
    api.send(request(Method::PATCH, &path, &[], &body.to_string())).await
}

async fn post(api: &Fixture, path: &str) -> Answer {
    api.send(request(Method::POST, path, &[], "")).await
}

/// Does what the scheduler's duty does.
async fn look(api: &Fixture, name: &str) -> u64 {
    let name: ScheduleName = name.parse().unwrap();
    api.life.look_at_schedule(&Namespace::default(), &name).await.unwrap()
}

/// As if the schedule had been made so many seconds ago, and nobody had looked since.
async fn age(api: &Fixture, name: &str, seconds: i64) {
    let since = api.life.clock().now().micros() - seconds * 1_000_000;
    let sql = format!(
        "UPDATE schedules SET cursor_at = {since}, look_at = {since} WHERE name = '{name}'"
    );
    api.life.ledger().tamper(sql).await.unwrap();
}

fn nightly() -> Value {
    json!({"name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin",
        "job": {"kind": "report", "payload": {"day": "${{ run.scheduled_at }}"}, "queue": "q", "priority": 7}})
}

#[tokio::test]
async fn a_schedule_is_made_with_defaults_and_shown() {
    let api = Fixture::new().await;
    let answer = api.post("/v1/schedules", nightly()).await;
    assert_eq!(answer.header("location"), "/v1/schedules/nightly");
    let made = answer.expect(201);
    let expected = json!({"name": "nightly", "namespace": "default", "cron": "30 2 * * *", "every": null,
        "timezone": "Europe/Berlin", "dst": {"gap": "shift", "repeat": "first"}, "overlap": "skip",
        "catch_up": {"policy": "one", "max": 100, "grace": "1m"}, "jitter": null, "start_at": null,
        "end_at": null, "exclude": [], "pause_on_failure": null, "description": "", "workflow": null,
        "paused": false, "pause": null, "failures": 0, "warnings": []});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&made[field], value, "{field}");
    }
    assert_eq!((&made["job"]["kind"], &made["job"]["queue"]), (&json!("report"), &json!("q")));
    assert_eq!(made["job"]["payload"], json!({"day": "${{ run.scheduled_at }}"}));
    assert!(made["next_at"].is_string());
    assert_eq!(api.get("/v1/schedules/nightly").await.expect(200), made);
    let list = api.get("/v1/schedules").await.expect(200);
    assert_eq!((&list["items"][0], &list["next_cursor"]), (&made, &json!(null)));
    api.post("/v1/schedules", nightly()).await.refused(409, "schedule_exists");
    api.get("/v1/schedules/other").await.refused(404, "not_found");
}

#[tokio::test]
async fn everything_wrong_is_named() {
    let api = Fixture::new().await;
    let job = json!({"kind": "a"});
    for (body, pointer, word) in [
        (json!({"cron": "@daily", "job": job}), "/name", "required"),
        (json!({"name": "A B", "cron": "@daily", "job": job}), "/name", "a-z"),
        (json!({"name": "x", "job": job}), "/cron", "required"),
        (json!({"name": "x", "cron": "@daily"}), "/job", "required"),
        (json!({"name": "x", "cron": "@daily", "every": "5s", "job": job}), "/every", "together"),
        (json!({"name": "x", "cron": "61 * * * *", "job": job}), "/cron", "minute"),
        (json!({"name": "x", "cron": "@reboot", "job": job}), "/cron", "reboot"),
        (json!({"name": "x", "every": "10ms", "job": job}), "/every", "1 s"),
        (
            json!({"name": "x", "every": "1m", "dst": {"gap": "skip"}, "job": job}),
            "/dst",
            "interval",
        ),
        (
            json!({"name": "x", "cron": "@daily", "timezone": "Mars/Base", "job": job}),
            "/timezone",
            "zone",
        ),
        (
            json!({"name": "x", "cron": "@daily", "exclude": ["2026-02-30"], "job": job}),
            "/exclude/0",
            "date",
        ),
        (
            json!({"name": "x", "cron": "@daily", "catch_up": {"max": 0}, "job": job}),
            "/catch_up/max",
            "1000",
        ),
        (json!({"name": "x", "cron": "@daily", "jitter": "2d", "job": job}), "/jitter", "1 day"),
        (
            json!({"name": "x", "cron": "@daily", "start_at": "2027-01-02T00:00:00Z", "end_at": "2027-01-01T00:00:00Z", "job": job}),
            "/end_at",
            "before",
        ),
        (json!({"name": "x", "cron": "@daily", "job": {"kind": "a b"}}), "/job/kind", "characters"),
        (
            json!({"name": "x", "cron": "@daily", "job": {"kind": "a", "run_at": "2027-01-01T00:00:00Z"}}),
            "/job/run_at",
            "due times",
        ),
        (
            json!({"name": "x", "cron": "@daily", "job": {"kind": "a", "unique": {"key": "k"}}}),
            "/job/unique",
            "overlap",
        ),
        (
            json!({"name": "x", "cron": "@daily", "job": {"kind": "a", "payload": "${{ run.nope }}"}}),
            "/job/payload",
            "run.scheduled_at",
        ),
        (
            json!({"name": "x", "cron": "@daily", "job": {"kind": "a", "payload": "${{ steps.a.output }}"}}),
            "/job/payload",
            "steps",
        ),
        (
            json!({"name": "x", "cron": "@daily", "job": job, "workflow": {"definition": "d"}}),
            "/workflow",
            "together",
        ),
        (
            json!({"name": "x", "cron": "@daily", "workflow": {"definition": "a b"}}),
            "/workflow/definition",
            "characters",
        ),
        (
            json!({"name": "x", "cron": "@daily", "workflow": {"steps": [{"id": "a", "kind": "k", "needs": ["z"]}]}}),
            "/workflow/steps/0/needs/0",
            "z",
        ),
        (json!({"name": "x", "cron": "@daily", "job": job, "cronn": "1"}), "/cronn", "unknown"),
    ] {
        let refused = api.post("/v1/schedules", body.clone()).await.refused(422, "invalid");
        let error =
            refused["errors"].as_array().into_iter().flatten().find(|e| e["pointer"] == pointer);
        let said = error.map_or("", |error| error["message"].as_str().unwrap());
        assert!(said.contains(word), "{body}: {refused:#}");
    }
    assert_eq!(api.get("/v1/schedules").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_pattern_that_never_matches_is_taken_with_a_warning() {
    let api = Fixture::new().await;
    let body = json!({"name": "never", "cron": "0 0 30 2 *", "job": {"kind": "a"}});
    let made = api.post("/v1/schedules", body).await.expect(201);
    assert_eq!(made["next_at"], json!(null));
    assert!(made["warnings"][0].as_str().unwrap().contains("never due"));
    assert_eq!(api.get("/v1/schedules/never/next").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn next_shows_due_times_by_the_rules() {
    let api = Fixture::new().await;
    let body = json!({"name": "s", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "job": {"kind": "a"},
        "start_at": "2027-03-27T00:00:00Z", "end_at": "2027-03-31T00:00:00Z", "exclude": ["2027-03-29"]});
    api.post("/v1/schedules", body).await.expect(201);
    let due = |items: &Value| {
        items["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["scheduled_at"].clone())
            .collect::<Vec<_>>()
    };
    let next = api.get("/v1/schedules/s/next?n=100").await.expect(200);
    assert_eq!(
        due(&next),
        ["2027-03-27T01:30:00.000Z", "2027-03-28T01:00:00.000Z", "2027-03-30T00:30:00.000Z"]
    );
    patch(&api, "s", json!({"dst": {"gap": "skip"}, "exclude": null})).await.expect(200);
    let next = api.get("/v1/schedules/s/next?n=2").await.expect(200);
    assert_eq!(due(&next), ["2027-03-27T01:30:00.000Z", "2027-03-29T00:30:00.000Z"]);
    api.get("/v1/schedules/s/next?n=0").await.refused(422, "invalid");
}

#[tokio::test]
async fn a_change_keeps_what_it_does_not_name() {
    let api = Fixture::new().await;
    api.post("/v1/schedules", nightly()).await.expect(201);
    let body = json!({"overlap": "queue", "jitter": "10s", "description": "x", "catch_up": {"policy": "all"}});
    let now = patch(&api, "nightly", body).await.expect(200);
    assert_eq!(
        (&now["overlap"], &now["jitter"], &now["cron"]),
        (&json!("queue"), &json!("10s"), &json!("30 2 * * *"))
    );
    let more = json!({"catch_up": {"grace": "5m"}});
    let now_too = patch(&api, "nightly", more).await.expect(200);
    assert_eq!(now_too["catch_up"], json!({"policy": "all", "max": 100, "grace": "5m"}));
    let now = patch(&api, "nightly", json!({"jitter": null, "timezone": null, "every": "1h"}))
        .await
        .expect(200);
    assert_eq!(
        (&now["jitter"], &now["timezone"], &now["every"], &now["cron"]),
        (&json!(null), &json!("UTC"), &json!("1h"), &json!(null))
    );
    assert_eq!((&now["overlap"], &now["catch_up"]["policy"]), (&json!("queue"), &json!("all")));
    let now = patch(&api, "nightly", json!({"workflow": {"definition": "d", "input": {"n": 1}}}))
        .await
        .expect(200);
    assert_eq!((&now["job"], &now["workflow"]["definition"]), (&json!(null), &json!("d")));
    patch(&api, "nightly", json!({"name": "other"})).await.refused(422, "invalid");
    patch(&api, "nightly", json!({"paused": true})).await.refused(422, "invalid");
    patch(&api, "nightly", json!({"dst": {"gap": "skip"}})).await.refused(422, "invalid");
    patch(&api, "unknown", json!({"overlap": "skip"})).await.refused(404, "not_found");
    assert_eq!(
        api.get("/v1/schedules/nightly").await.expect(200),
        now,
        "a refusal changes nothing"
    );
}

#[tokio::test]
async fn due_times_are_fired_and_leave_rows() {
    let api = Fixture::new().await;
    let body = json!({"name": "s", "cron": "*/10 * * * * *", "overlap": "allow", "catch_up": {"policy": "all"},
        "job": {"kind": "a", "payload": {"at": "${{ run.scheduled_at }}", "of": "${{ run.schedule }}"}, "meta": {"own": 1}}});
    api.post("/v1/schedules", body).await.expect(201);
    age(&api, "s", 35).await;
    assert!(look(&api, "s").await >= 3);
    let runs = api.get("/v1/schedules/s/runs").await.expect(200);
    let runs = runs["items"].as_array().unwrap();
    assert!(runs.len() >= 3, "{runs:#?}");
    for run in runs {
        assert_eq!((&run["outcome"], &run["source"]), (&json!("fired"), &json!("schedule")));
        let job =
            api.get(&format!("/v1/jobs/{}", run["job_id"].as_str().unwrap())).await.expect(200);
        assert_eq!(job["payload"], json!({"at": run["scheduled_at"], "of": "s"}));
        assert_eq!(
            (&job["meta"]["own"], &job["meta"]["schedule"]["name"]),
            (&json!(1), &json!("s"))
        );
        assert_eq!(job["meta"]["schedule"]["scheduled_at"], run["scheduled_at"]);
        assert!(job["request_id"].as_str().unwrap().starts_with("schedule:s:"));
    }
    let page = api.get("/v1/schedules/s/runs?limit=1").await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = api.get(&format!("/v1/schedules/s/runs?limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!((&page["items"][0], &next["items"][0]), (&runs[0], &runs[1]));
    // They can be run, and their ends are noted.
    api.finish_one("default").await;
    age(&api, "s", 0).await;
    look(&api, "s").await;
    let runs = api.get("/v1/schedules/s/runs").await.expect(200);
    let ended = runs["items"].as_array().unwrap().iter().filter(|run| run["result"] == "succeeded");
    assert_eq!(ended.count(), 1);
}

#[tokio::test]
async fn a_paused_schedule_skips_and_says_so() {
    let api = Fixture::new().await;
    let body = json!({"name": "s", "cron": "*/10 * * * * *", "job": {"kind": "a"}, "paused": true});
    let made = api.post("/v1/schedules", body).await.expect(201);
    assert_eq!((&made["paused"], &made["pause"]["by"]), (&json!(true), &json!("local")));
    age(&api, "s", 25).await;
    let resumed = post(&api, "/v1/schedules/s/resume").await.expect(200);
    assert_eq!(resumed["paused"], false);
    let runs = api.get("/v1/schedules/s/runs").await.expect(200);
    let runs = runs["items"].as_array().unwrap();
    assert!(runs.len() >= 2, "what came due before the resume was paused");
    assert!(
        runs.iter()
            .all(|run| (&run["outcome"], &run["reason"]) == (&json!("skipped"), &json!("paused")))
    );
    let paused = api.post("/v1/schedules/s/pause", json!({"reason": "moving"})).await.expect(200);
    assert_eq!(paused["pause"]["reason"], "moving");
    post(&api, "/v1/schedules/nope/pause").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_trigger_fires_once_for_each_key() {
    let api = Fixture::new().await;
    api.post("/v1/schedules", nightly()).await.expect(201);
    api.post("/v1/schedules/nightly/pause", json!({})).await.expect(200);
    let key = [("idempotency-key", "k")];
    let first = api.post_with("/v1/schedules/nightly/trigger", &key, "").await;
    assert_eq!(first.header("idempotency-replayed"), "");
    let first = first.expect(201);
    assert_eq!((&first["outcome"], &first["source"]), (&json!("fired"), &json!("trigger")));
    let again = api.post_with("/v1/schedules/nightly/trigger", &key, "").await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(201), first);
    let other = post(&api, "/v1/schedules/nightly/trigger").await.expect(201);
    assert_ne!(other["job_id"], first["job_id"]);
    assert_eq!(api.get("/v1/jobs?queue=q").await.expect(200)["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_schedule_runs_workflows() {
    let api = Fixture::new().await;
    let steps = json!([{"id": "a", "kind": "k", "payload": "${{ input.day }}"}, {"id": "b", "kind": "k", "needs": ["a"]}]);
    let body = json!({"name": "flow", "cron": "@daily", "workflow": {"name": "etl", "steps": steps, "input": {"day": "${{ run.scheduled_at }}"}}});
    let made = api.post("/v1/schedules", body).await.expect(201);
    assert_eq!(made["workflow"]["steps"], json!(["a", "b"]));
    let fire = post(&api, "/v1/schedules/flow/trigger").await.expect(201);
    let run = api
        .get(&format!("/v1/workflows/{}", fire["workflow_id"].as_str().unwrap()))
        .await
        .expect(200);
    assert_eq!((&run["name"], &run["input"]["day"]), (&json!("etl"), &fire["scheduled_at"]));
    // Of a definition the latest version is taken; one that is not there is said.
    let body = json!({"name": "stored", "cron": "@daily", "workflow": {"definition": "d"}});
    api.post("/v1/schedules", body).await.expect(201);
    let fire = post(&api, "/v1/schedules/stored/trigger").await.expect(201);
    assert_eq!((&fire["outcome"], &fire["reason"]), (&json!("skipped"), &json!("refused")));
    assert!(fire["detail"].as_str().unwrap().contains("no definition d"), "{fire}");
    let put = request(
        Method::PUT,
        "/v1/definitions/d",
        &[],
        &json!({"steps": [{"id": "a", "kind": "k"}]}).to_string(),
    );
    api.send(put).await.expect(201);
    let fire = post(&api, "/v1/schedules/stored/trigger").await.expect(201);
    assert_eq!(fire["outcome"], "fired");
}

#[tokio::test]
async fn a_backfill_fires_the_past_once() {
    let api = Fixture::new().await;
    let body = json!({"name": "s", "cron": "0 0 * * *", "overlap": "allow", "job": {"kind": "a"}});
    api.post("/v1/schedules", body).await.expect(201);
    let range = json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-05T12:00:00Z"});
    let filled = api.post("/v1/schedules/s/backfill", range.clone()).await.expect(202);
    assert_eq!(filled, json!({"due": 5, "fires": 5}));
    look(&api, "s").await;
    let runs = api.get("/v1/schedules/s/runs").await.expect(200);
    let runs = runs["items"].as_array().unwrap();
    assert_eq!(runs.len(), 5);
    assert!(
        runs.iter()
            .all(|run| (&run["outcome"], &run["source"]) == (&json!("fired"), &json!("backfill")))
    );
    let again = api.post("/v1/schedules/s/backfill", range).await.expect(202);
    assert_eq!(again, json!({"due": 5, "fires": 0}));
    let long = json!({"from": "1990-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"});
    api.post("/v1/schedules/s/backfill", long).await.refused(422, "invalid");
    api.post("/v1/schedules/s/backfill", json!({"from": "2026-01-01T00:00:00Z"}))
        .await
        .refused(422, "invalid");
    // What is not due yet is not fired.
    let ahead = json!({"from": api.now(0), "to": api.now(10 * 86_400)});
    assert_eq!(api.post("/v1/schedules/s/backfill", ahead).await.expect(202)["fires"], 0);
}

#[tokio::test]
async fn a_deleted_schedule_is_gone_and_its_name_free() {
    let api = Fixture::new().await;
    api.post("/v1/schedules", nightly()).await.expect(201);
    post(&api, "/v1/schedules/nightly/trigger").await.expect(201);
    let delete = || request(Method::DELETE, "/v1/schedules/nightly", &[], "");
    api.send(delete()).await.expect(204);
    api.send(delete()).await.refused(404, "not_found");
    api.get("/v1/schedules/nightly/runs").await.refused(404, "not_found");
    api.post("/v1/schedules", nightly()).await.expect(201);
    assert_eq!(api.get("/v1/schedules/nightly/runs").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn making_one_may_be_repeated_with_a_key() {
    let api = Fixture::new().await;
    let key = [("idempotency-key", "k")];
    let made = api.post_with("/v1/schedules", &key, &nightly().to_string()).await.expect(201);
    let again = api.post_with("/v1/schedules", &key, &nightly().to_string()).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(201), made);
    let other = json!({"name": "other", "cron": "@daily", "job": {"kind": "a"}}).to_string();
    api.post_with("/v1/schedules", &key, &other).await.refused(422, "idempotency_key_reused");
    api.send(request(Method::DELETE, "/v1/schedules/nightly", &[], "")).await.expect(204);
    api.post_with("/v1/schedules", &key, &nightly().to_string()).await.refused(409, "replay_gone");
}

#[tokio::test]
async fn schedules_are_for_operators_of_their_namespace() {
    let api = Fixture::with(ApiSettings::default()).await;
    let call = async |method: Method, path: &str, role, body: &str| {
        let key = format!("Bearer {}", api.key(role, Some("default")).await);
        api.send(request(method, path, &[("authorization", &key)], body)).await
    };
    let body = nightly().to_string();
    call(Method::POST, "/v1/schedules", Role::Submitter, &body).await.refused(403, "forbidden");
    call(Method::POST, "/v1/schedules", Role::Operator, &body).await.expect(201);
    call(Method::GET, "/v1/schedules/nightly", Role::Viewer, "").await.expect(200);
    call(Method::POST, "/v1/schedules/nightly/trigger", Role::Viewer, "")
        .await
        .refused(403, "forbidden");
    let elsewhere = format!("Bearer {}", api.key(Role::Operator, Some("elsewhere")).await);
    let get = request(Method::GET, "/v1/schedules/nightly", &[("authorization", &elsewhere)], "");
    api.send(get).await.refused(404, "not_found");
}

/// Goal: far behind, nothing is lost and nothing blocks: due times are decided in bounded steps.
#[tokio::test]
async fn a_schedule_far_behind_is_caught_up_with() {
    let api = Fixture::new().await;
    let body = json!({"name": "s", "cron": "* * * * * *", "job": {"kind": "a"}, "catch_up": {"policy": "none"}});
    api.post("/v1/schedules", body).await.expect(201);
    age(&api, "s", 2_000).await;
    let schedule = || async { api.get("/v1/schedules/s").await.expect(200) };
    for _ in 0..100 {
        look(&api, "s").await;
        let now: Timestamp = serde_json::from_value(api.now(0)).unwrap();
        let next: Timestamp = serde_json::from_value(schedule().await["next_at"].clone()).unwrap();
        if next > now {
            break;
        }
    }
    let (mut cursor, mut outcomes) = (String::new(), std::collections::BTreeMap::new());
    loop {
        let page = api.get(&format!("/v1/schedules/s/runs?limit=500{cursor}")).await.expect(200);
        for run in page["items"].as_array().unwrap() {
            *outcomes.entry(run["outcome"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let all: u32 = outcomes.values().sum();
    assert!(all >= 2_000, "{outcomes:?}");
    assert!(outcomes["missed"] >= 1_930, "{outcomes:?}");
}

/// Goal: what waits does not wait for a fire that did not come to be.
#[tokio::test]
async fn a_fire_that_is_refused_holds_nothing_back() {
    let api = Fixture::new().await;
    let body = json!({"name": "s", "cron": "0 0 1 1 *", "overlap": "queue", "workflow": {"definition": "gone"}});
    api.post("/v1/schedules", body).await.expect(201);
    let range = json!({"from": "2020-01-01T00:00:00Z", "to": "2026-06-01T00:00:00Z"});
    let filled = api.post("/v1/schedules/s/backfill", range).await.expect(202);
    assert_eq!(filled["fires"], 7);
    look(&api, "s").await;
    let runs = api.get("/v1/schedules/s/runs").await.expect(200);
    let runs = runs["items"].as_array().unwrap();
    assert!(runs.iter().all(|run| run["reason"] == "refused"), "{runs:#?}");
}

/// Goal: what was fired is not fired again when its row is gone.
#[tokio::test]
async fn a_backfill_reaches_as_far_back_as_the_rows() {
    let api = Fixture::new().await;
    let body = json!({"name": "s", "cron": "@daily", "overlap": "allow", "job": {"kind": "a"}});
    api.post("/v1/schedules", body).await.expect(201);
    let range = |from: &str| json!({"from": from, "to": "2026-01-05T12:00:00Z"});
    let path = "/v1/schedules/s/backfill";
    api.post(path, range("2026-01-04T00:00:00Z")).await.expect(202);
    look(&api, "s").await;
    for _ in 0..2 {
        api.finish_one("default").await;
    }
    age(&api, "s", 0).await;
    look(&api, "s").await;
    let later = api.life.ledger().now().await.unwrap().plus(std::time::Duration::from_secs(1));
    assert_eq!(api.life.ledger().prune_fires(None, later, 100).await.unwrap(), 2);
    let refused = api.post(path, range("2026-01-04T00:00:00Z")).await.refused(422, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains("not on record"), "{refused}");
}

/// Goal: expressions of one schedule take neither the stack nor the time of the process.
#[tokio::test]
async fn deep_expressions_are_evaluated_aside() {
    let api = Fixture::new().await;
    let deep = format!("${{{{ {} }}}}", vec!["1"; 1_000].join("+"));
    let body = json!({"name": "s", "cron": "@daily", "job": {"kind": "a", "payload": deep}});
    let answer = api.post("/v1/schedules", body).await;
    if answer.status == 201 {
        let fire = post(&api, "/v1/schedules/s/trigger").await.expect(201);
        assert_eq!(fire["outcome"], "fired", "{fire}");
    } else {
        answer.refused(422, "invalid");
    }
}
