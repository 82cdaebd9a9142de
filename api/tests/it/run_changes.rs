//! Runs that are waited for, stopped, taken up again, grown, and started from stored definitions.

use http::Method;
use serde_json::{Value, json};
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;

use crate::fixture::{Fixture, request};
use crate::runs::{carry, echo, ended, get, post, states, step, submit};

#[tokio::test]
async fn signals_are_waited_for_and_kept_when_they_come_early() {
    let api = Fixture::new().await;
    let id = submit(&api, json!({"name": "n", "output": ["${{ steps.a.output }}", "${{ steps.b.output }}"], "steps": [
        {"id": "a", "kind": "wait.signal", "payload": {"name": "go"}},
        {"id": "b", "kind": "wait.signal", "needs": ["a"], "payload": {"name": "go", "timeout": "1h"}},
    ]})).await;
    let (run, _) = carry(&api, &id, echo, |run| run["state"] == "waiting").await;
    assert_eq!(step(&run, "a")["waits_for"], json!({"signal": "go", "until": null}));
    // With a key a repeat is the same signal.
    let path = format!("/v1/workflows/{id}/signals/unheard");
    for replayed in ["", "true"] {
        let answer = api.post_with(&path, &[("idempotency-key", "k")], "7").await;
        assert_eq!(answer.header("idempotency-replayed"), replayed);
        answer.expect(202);
    }
    let other = api.post_with(&path, &[("idempotency-key", "k")], "8").await;
    other.refused(422, "idempotency_key_reused");
    let given = api.life.ledger().given(id.parse().unwrap()).await.unwrap();
    assert_eq!(given.iter().filter(|signal| signal.name == "unheard").count(), 1);
    // Two at once: the second one is kept for the second step.
    let taken = post(&api, &id, "signals/go", json!({"n": 1})).await.expect(202);
    assert_eq!(taken, json!({"id": id, "signal": "go"}));
    post(&api, &id, "signals/go", json!(2)).await.expect(202);
    post(&api, &id, "signals/other", json!(3)).await.expect(202);
    let (run, _) = carry(&api, &id, echo, ended).await;
    assert_eq!(run["output"], json!([{"n": 1}, 2]));
    assert_eq!(step(&run, "a")["output"], json!({"n": 1}));
    post(&api, &id, "signals/go", json!(1)).await.refused(409, "state_conflict");
    post(&api, &id, "signals/a%20b", json!(1)).await.refused(422, "invalid");
    let big = format!("\"{}\"", "x".repeat(1 << 20));
    api.post_with(&format!("/v1/workflows/{id}/signals/go"), &[], &big)
        .await
        .refused(413, "too_large");
    let none = "01900000-0000-7000-8000-000000000000";
    post(&api, none, "signals/go", json!(1)).await.refused(404, "not_found");
}

#[tokio::test]
async fn timers_ring_and_waits_time_out() {
    let api = Fixture::new().await;
    let id = submit(&api, json!({"name": "n", "input": {"nap": "20ms"}, "steps": [
        {"id": "short", "kind": "wait.timer", "payload": {"for": "10ms"}},
        {"id": "nap", "kind": "wait.timer", "needs": ["short"], "payload": {"for": "${{ input.nap }}"}},
        {"id": "past", "kind": "wait.timer", "payload": {"until": "2020-01-01T00:00:00Z"}},
        {"id": "late", "kind": "wait.signal", "needs": ["nap"], "payload": {"timeout": "10ms"}, "on_failure": "continue"},
    ]})).await;
    let (run, _) = carry(&api, &id, echo, ended).await;
    assert_eq!(states(&run)[3], ("late", "failed"));
    assert_eq!(step(&run, "late")["error"]["code"], "wait_timed_out");
    assert_eq!(run["state"], "succeeded");
}

fn approval(payload: Value) -> Value {
    json!({"name": "n", "steps": [
        {"id": "work", "kind": "k"},
        {"id": "ok", "kind": "wait.approval", "needs": ["work"], "payload": payload},
    ]})
}

#[tokio::test]
async fn people_approve_or_reject() {
    let api = Fixture::new().await;
    let id = submit(
        &api,
        approval(json!({"required": 2, "roles": ["ada", "bob"], "message": "Ship it?"})),
    )
    .await;
    let vote = |by: &str, yes: bool| {
        post(&api, &id, "approvals/ok", json!({"approve": yes, "by": by, "reason": "because"}))
    };
    let refused = vote("ada", true).await.refused(409, "state_conflict");
    assert_eq!(
        (&refused["state"], refused["detail"].as_str().unwrap().contains("only a step that waits")),
        (&json!("blocked"), true)
    );
    let (run, _) = carry(&api, &id, echo, |run| run["state"] == "waiting").await;
    assert_eq!(step(&run, "ok")["waits_for"]["approval"]["message"], "Ship it?");
    let refused = vote("eve", true).await.refused(403, "forbidden");
    assert!(refused["detail"].as_str().unwrap().contains("those of ada, bob do"), "{refused}");
    vote("ada", true).await.expect(202);
    let votes = vote("ada", true).await.expect(202);
    assert_eq!(votes["items"].as_array().unwrap().len(), 2);
    assert_eq!(get(&api, &id).await["state"], "waiting");
    vote("bob", true).await.expect(202);
    let (run, _) = carry(&api, &id, echo, ended).await;
    assert_eq!(run["state"], "succeeded");
    let output = &step(&run, "ok")["output"]["approvals"];
    assert_eq!((&output[0]["by"], &output[1]["by"]), (&json!("ada"), &json!("bob")));
    let votes = api.get(&format!("/v1/workflows/{id}/approvals/ok")).await.expect(200);
    let last = &votes["items"][2];
    assert_eq!(
        (&last["by"], &last["approve"], &last["reason"]),
        (&json!("bob"), &json!(true), &json!("because"))
    );
    assert!(last["at"].is_string() && last["role"] == "admin");
    vote("ada", true).await.refused(409, "state_conflict");
    post(&api, &id, "approvals/work", json!({"approve": true}))
        .await
        .refused(409, "state_conflict");
    post(&api, &id, "approvals/nope", json!({"approve": true})).await.refused(404, "not_found");
    post(&api, &id, "approvals/ok", json!({})).await.refused(422, "invalid");
    let id = submit(&api, approval(json!({}))).await;
    carry(&api, &id, echo, |run| run["state"] == "waiting").await;
    post(&api, &id, "approvals/ok", json!({"approve": false, "reason": "too soon"}))
        .await
        .expect(202);
    let (run, _) = carry(&api, &id, echo, ended).await;
    assert_eq!(step(&run, "ok")["error"]["code"], "approval_rejected");
    assert_eq!(run["state"], "failed");
}

/// A fixture where keys are needed cannot be worked with like the others; whose vote counts is decided before.
#[tokio::test]
async fn votes_are_cast_in_the_name_of_the_key() {
    let api = Fixture::with(ApiSettings::default()).await;
    let admin = format!("Bearer {}", api.key(Role::Admin, None).await);
    let submitter = format!("Bearer {}", api.key(Role::Submitter, None).await);
    let send = |method: Method, path: String, key: &str, body: Value| {
        let headers = [("authorization", key.to_owned())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(a, b)| (*a, b.as_str())).collect();
        api.send(request(method, &path, &headers, &body.to_string()))
    };
    let document = json!({"name": "n", "steps": [{"id": "ok", "kind": "wait.approval"}]});
    let run = send(Method::POST, "/v1/workflows".into(), &submitter, document).await.expect(201);
    let id = run["id"].as_str().unwrap().to_owned();
    let run_id = id.parse().unwrap();
    while !matches!(
        api.life.ledger().steps(run_id, -1, 1).await.unwrap()[0].state,
        windlass_shared::model::workflow::StepState::Waiting
    ) {
        api.life.advance_run(run_id).await.unwrap();
    }
    let path = format!("/v1/workflows/{id}/approvals/ok");
    let yes = json!({"approve": true});
    let refused =
        send(Method::POST, path.clone(), &submitter, yes.clone()).await.refused(403, "forbidden");
    assert!(refused["detail"].as_str().unwrap().contains("operators and admins"), "{refused}");
    let named = json!({"approve": true, "by": "somebody"});
    send(Method::POST, path.clone(), &admin, named).await.refused(422, "invalid");
    let votes = send(Method::POST, path, &admin, yes).await.expect(202);
    assert_eq!(
        (&votes["items"][0]["by"], &votes["items"][0]["role"]),
        (&json!("a test's key"), &json!("admin"))
    );
}

#[tokio::test]
async fn definitions_are_versions_for_good() {
    let api = Fixture::new().await;
    let put = |name: &'static str, body: String| {
        let path = format!("/v1/definitions/{name}");
        let kind = if body.starts_with('{') { "application/json" } else { "application/yaml" };
        api.send(request(Method::PUT, &path, &[("content-type", kind)], &body))
    };
    let document = |n: u32| json!({"steps": [{"id": "a", "kind": "k", "payload": n}]}).to_string();
    let first = put("d", document(1)).await.expect(201);
    assert_eq!(
        (&first["name"], &first["version"], &first["by"], &first["steps"]),
        (&json!("d"), &json!(1), &json!("local"), &json!(1))
    );
    assert_eq!(put("d", document(1)).await.expect(200)["version"], 1);
    let id = submit(&api, json!({"definition": "d", "input": 5, "tags": ["t"]})).await;
    assert_eq!(put("d", document(2)).await.expect(201)["version"], 2);
    let yaml = "steps:\n- {id: a, kind: k, payload: 3}\n";
    let third = put("d", yaml.into()).await.expect(201);
    assert_eq!(
        (&third["source"], &third["document"]["steps"][0]["payload"]),
        (&json!(yaml), &json!(3))
    );
    // The run keeps the version that it started with.
    let (run, done) = carry(&api, &id, echo, ended).await;
    assert_eq!(done, [("a".to_owned(), json!(1))]);
    assert_eq!(
        (&run["definition"], &run["version"], &run["name"], &run["tags"]),
        (&json!("d"), &json!(1), &json!("d"), &json!(["t"]))
    );
    let again = post(&api, &id, "rerun", json!({})).await.expect(201);
    assert_eq!((&again["version"], &again["input"]), (&json!(1), &json!(5)));
    assert_eq!(api.get("/v1/definitions/d").await.expect(200)["version"], 3);
    assert_eq!(
        api.get("/v1/definitions/d/versions/1").await.expect(200)["document"]["steps"][0]["payload"],
        1
    );
    let versions = api.get("/v1/definitions/d/versions?limit=2").await.expect(200);
    assert_eq!(
        (&versions["items"][0]["version"], &versions["items"][1]["version"]),
        (&json!(3), &json!(2))
    );
    let cursor = versions["next_cursor"].as_str().unwrap();
    let rest =
        api.get(&format!("/v1/definitions/d/versions?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!((&rest["items"][0]["version"], &rest["next_cursor"]), (&json!(1), &Value::Null));
    put("e", document(1)).await.expect(201);
    let list = api.get("/v1/definitions?limit=1").await.expect(200);
    assert_eq!((&list["items"][0]["name"], &list["items"][0]["version"]), (&json!("d"), &json!(3)));
    let cursor = list["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("/v1/definitions?cursor={cursor}")).await.expect(200);
    assert_eq!(rest["items"][0]["name"], "e");
    let by_definition = api.get("/v1/workflows?definition=d").await.expect(200);
    assert_eq!(by_definition["items"].as_array().unwrap().len(), 2);
    for missing in
        ["/v1/definitions/x", "/v1/definitions/x/versions", "/v1/definitions/d/versions/9"]
    {
        api.get(missing).await.refused(404, "not_found");
    }
    let refused =
        api.post("/v1/workflows", json!({"definition": "x"})).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/definition");
    let refused = api
        .post("/v1/workflows", json!({"definition": "d", "version": 9}))
        .await
        .refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/version");
    let with_input = json!({"input": 1, "steps": [{"id": "a", "kind": "k"}]}).to_string();
    let refused = put("d", with_input).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/input");
    put("a%20b", document(1)).await.refused(422, "invalid");
}

#[tokio::test]
async fn runs_start_runs() {
    let api = Fixture::new().await;
    let put = request(
        Method::PUT,
        "/v1/definitions/inner",
        &[],
        &json!({"output": "${{ input + 1 }}", "steps": [{"id": "x", "kind": "k"}]}).to_string(),
    );
    api.send(put).await.expect(201);
    let id = submit(&api, json!({"name": "outer", "input": 1, "steps": [
        {"id": "stored", "kind": "workflow.run", "payload": {"definition": "inner", "input": "${{ input }}"}},
        {"id": "inline", "kind": "workflow.run", "needs": ["stored"], "payload": {
            "workflow": {"output": "${{ input * 10 }}", "steps": [{"id": "y", "kind": "k"}]},
            "input": "${{ steps.stored.output }}"}},
    ]})).await;
    let (run, _) = carry(&api, &id, echo, ended).await;
    assert_eq!((&run["state"], &run["output"]), (&json!("succeeded"), &json!({"inline": 20})));
    let child = step(&run, "inline")["workflow_id"].as_str().unwrap();
    let child = get(&api, child).await;
    assert_eq!((&child["name"], &child["input"]), (&json!("inline"), &json!(2)));
    assert_eq!(child["parent"], json!({"id": id, "step": "inline"}));
    let child = get(&api, step(&run, "stored")["workflow_id"].as_str().unwrap()).await;
    assert_eq!((&child["definition"], &child["version"]), (&json!("inner"), &json!(1)));
}

#[tokio::test]
async fn a_cancelled_run_starts_nothing_more() {
    let api = Fixture::new().await;
    let id = submit(
        &api,
        json!({"name": "n", "steps": [
        {"id": "a", "kind": "wait.signal"}, {"id": "b", "kind": "k", "needs": ["a"]}]}),
    )
    .await;
    carry(&api, &id, echo, |run| run["state"] == "waiting").await;
    let answer = post(&api, &id, "cancel", json!({"reason": "not today"})).await;
    assert!([200, 202].contains(&answer.status.as_u16()), "{}", answer.text);
    let (run, done) = carry(&api, &id, echo, ended).await;
    assert_eq!((&run["state"], done.len()), (&json!("cancelled"), 0));
    assert_eq!(run["error"]["message"], "not today");
    assert_eq!(states(&run), [("a", "cancelled"), ("b", "cancelled")]);
    assert_eq!(post(&api, &id, "cancel", json!({})).await.expect(200)["state"], "cancelled");
    let done = submit(&api, json!({"name": "n", "steps": [{"id": "a", "kind": "k"}]})).await;
    carry(&api, &done, echo, ended).await;
    post(&api, &done, "cancel", json!({})).await.refused(409, "state_conflict");
    post(&api, "01900000-0000-7000-8000-000000000000", "cancel", json!({}))
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn a_failed_run_goes_on_from_what_failed() {
    let api = Fixture::new().await;
    let id = submit(
        &api,
        json!({"name": "n", "steps": [
            {"id": "good", "kind": "k", "payload": 1},
            {"id": "bad", "kind": "fail", "needs": ["good"]},
            {"id": "after", "kind": "k", "needs": ["bad"], "payload": "${{ steps.good.output }}"},
        ]}),
    )
    .await;
    let refused = post(&api, &id, "retry", json!(null)).await.refused(409, "state_conflict");
    assert!(refused["detail"].as_str().unwrap().contains("the workflow is "), "{refused}");
    let (run, _) = carry(&api, &id, echo, ended).await;
    assert_eq!(run["state"], "failed");
    let retried = post(&api, &id, "retry", json!({})).await.expect(200);
    assert_eq!(
        (&retried["reused"], &retried["again"]),
        (&json!(["good"]), &json!(["bad", "after"]))
    );
    assert_eq!(retried["workflow"]["state"], "running");
    let mended = |_: &Value| json!({"outcome": "succeed", "output": 7});
    let (run, done) = carry(&api, &id, mended, ended).await;
    assert_eq!(run["state"], "succeeded");
    let names: Vec<&str> = done.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(names, ["bad", "after"]);
    post(&api, &id, "retry", json!({})).await.refused(409, "state_conflict");
}

#[tokio::test]
async fn a_rerun_is_another_run_of_the_same_document() {
    let api = Fixture::new().await;
    let id = submit(
        &api,
        json!({"name": "n", "input": 1, "tags": ["t"], "steps": [
        {"id": "a", "kind": "k", "payload": "${{ input }}"}]}),
    )
    .await;
    carry(&api, &id, echo, ended).await;
    let path = format!("/v1/workflows/{id}/rerun");
    let headers = [("idempotency-key", "k")];
    let again = api.post_with(&path, &headers, r#"{"input": {"x": 2}}"#).await.expect(201);
    assert_eq!(
        (&again["rerun_of"], &again["input"], &again["tags"]),
        (&json!(id), &json!({"x": 2}), &json!(["t"]))
    );
    let replayed = api.post_with(&path, &headers, r#"{"input": {"x": 2}}"#).await;
    assert_eq!(replayed.header("idempotency-replayed"), "true");
    assert_eq!(replayed.expect(201)["id"], again["id"]);
    let (run, done) = carry(&api, again["id"].as_str().unwrap(), echo, ended).await;
    assert_eq!((&run["state"], done.len()), (&json!("succeeded"), 1));
    assert_eq!(done[0].1, json!({"x": 2}));
    let same = api.post_with(&path, &[], "").await.expect(201);
    assert_eq!(same["input"], 1);
    assert_ne!(same["id"], again["id"]);
}

#[tokio::test]
async fn a_running_step_adds_what_comes_next() {
    let api = Fixture::new().await;
    let id = submit(
        &api,
        json!({"name": "n", "steps": [
            {"id": "first", "kind": "k", "payload": 1},
            {"id": "plan", "kind": "k", "needs": ["first"]},
            {"id": "end", "kind": "k", "needs": ["plan"]},
            {"id": "beside", "kind": "wait.signal"},
        ]}),
    )
    .await;
    let add = |body: Value| post(&api, &id, "steps", body);
    let steps = json!([
        {"id": "x", "kind": "k", "payload": "${{ steps.first.output }}"},
        {"id": "y", "kind": "k", "needs": ["x", "plan"], "payload": "${{ steps.x.output + 1 }}"},
    ]);
    let added = add(json!({"after": "plan", "steps": steps})).await.expect(201);
    assert_eq!(added, json!({"added": ["x", "y"]}));
    add(json!({"after": "plan", "steps": steps})).await.refused(409, "state_conflict");
    for (body, pointer, text) in [
        (json!({"after": "plan", "steps": []}), "/steps", "at least one step"),
        (json!({"steps": [{"id": "z", "kind": "k"}]}), "/after", "A-Z"),
        (
            json!({"after": "plan", "steps": [{"id": "z", "kind": "k", "needs": ["end"]}]}),
            "/steps/0/needs/0",
            "is no step",
        ),
        (
            json!({"after": "plan", "steps": [{"id": "z", "kind": "k", "if": "steps.beside.output"}]}),
            "/steps/0/if",
            "not among the steps it needs",
        ),
        (
            json!({"after": "plan", "steps": [{"id": "z", "kind": "k", "if": "steps.none.output"}]}),
            "/steps/0/if",
            "no step of this workflow",
        ),
        (
            json!({"after": "plan", "steps": [{"id": "plan", "kind": "k"}]}),
            "/steps/0/id",
            "after which",
        ),
    ] {
        let refused = add(body).await.refused(422, "invalid");
        let error = &refused["errors"][0];
        assert_eq!(
            (&error["pointer"], error["message"].as_str().unwrap().contains(text)),
            (&json!(pointer), true),
            "{refused}"
        );
    }
    let none = json!({"after": "nope", "steps": [{"id": "z", "kind": "k"}]});
    add(none).await.refused(409, "state_conflict");
    post(&api, &id, "signals/beside", json!(0)).await.expect(202);
    let (run, done) = carry(&api, &id, echo, ended).await;
    let names: Vec<&str> = done.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(names, ["first", "plan", "x", "y", "end"]);
    assert_eq!(step(&run, "y")["output"], 2);
    assert_eq!(step(&run, "x")["needs"], json!(["plan"]));
    let late = json!({"after": "end", "steps": [{"id": "z", "kind": "k"}]});
    add(late).await.refused(409, "state_conflict");
}

/// Workers' keys name no run: they add after steps whose job is under way, and nothing else.
#[tokio::test]
async fn workers_add_steps_after_what_runs() {
    let api = Fixture::with(ApiSettings::default()).await;
    let submitter = format!("Bearer {}", api.key(Role::Submitter, None).await);
    let worker = format!("Bearer {}", api.key(Role::Worker, None).await);
    let document = json!({"name": "n", "steps": [
        {"id": "runs", "kind": "k"}, {"id": "later", "kind": "k", "needs": ["runs"]}]});
    let headers = [("authorization", submitter.as_str())];
    let run = api.post_with("/v1/workflows", &headers, &document.to_string()).await.expect(201);
    let path = format!("/v1/workflows/{}/steps", run["id"].as_str().unwrap());
    let add = |after: &str| {
        let body = json!({"after": after, "steps": [{"id": format!("x-{after}"), "kind": "k"}]});
        api.send(request(Method::POST, &path, &[("authorization", &worker)], &body.to_string()))
    };
    add("later").await.refused(403, "forbidden");
    add("none").await.refused(403, "forbidden");
    add("runs").await.expect(201);
}
