//! Runs of workflows from end to end: submitted, worked on, read.

use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture};

/// Looks at a run while it is carried on; far more than any test here needs.
const ROUNDS_MAX: usize = 2_000;

/// Submits a document; the id of its run.
pub async fn submit(api: &Fixture, document: Value) -> String {
    let run = api.post("/v1/workflows", document).await.expect(201);
    run["id"].as_str().unwrap().to_owned()
}

pub async fn get(api: &Fixture, id: &str) -> Value {
    api.get(&format!("/v1/workflows/{id}")).await.expect(200)
}

pub async fn post(api: &Fixture, id: &str, what: &str, body: Value) -> Answer {
    api.post(&format!("/v1/workflows/{id}/{what}"), body).await
}

/// A step of a run as it was read.
#[track_caller]
pub fn step<'a>(run: &'a Value, id: &str) -> &'a Value {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|step| step["id"] == id).unwrap_or_else(|| panic!("{id} in {run}"))
}

/// States of the steps, in order.
pub fn states(run: &Value) -> Vec<(&str, &str)> {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().map(|s| (s["id"].as_str().unwrap(), s["state"].as_str().unwrap())).collect()
}

/// Does the work of workers and scheduler until the run is as wanted; `work` ends each job. The run, and the jobs
/// that were done, as `step: payload`.
pub async fn carry(
    api: &Fixture,
    id: &str,
    mut work: impl FnMut(&Value) -> Value,
    until: impl Fn(&Value) -> bool,
) -> (Value, Vec<(String, Value)>) {
    let mut done = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let run = get(api, id).await;
        if until(&run) {
            return (run, done);
        }
        let lease = json!({"worker": "w", "queues": ["default"], "max": 20, "wait": "50ms"});
        let leases = api.post("/v1/leases", lease).await.expect(200);
        for job in leases["jobs"].as_array().unwrap() {
            let name = job["workflow"]["step"].as_str().unwrap().to_owned();
            done.push((name, job["payload"].clone()));
            assert_eq!(api.settle(job, work(job)).await["ok"], true);
        }
        api.record("default").await;
        for (_, due) in api.life.ledger().due_runs(None, 100).await.unwrap() {
            api.life.advance_run(due).await.unwrap();
        }
    }
    panic!("{id} is still {}", get(api, id).await);
}

pub fn ended(run: &Value) -> bool {
    ["succeeded", "failed", "cancelled", "compensated"].contains(&run["state"].as_str().unwrap())
}

/// Each job's output is its payload; one of kind `fail` fails for good.
pub fn echo(job: &Value) -> Value {
    if job["kind"] == "fail" {
        let error = json!({"code": "boom", "message": "it broke", "retryable": false});
        return json!({"outcome": "fail", "error": error});
    }
    json!({"outcome": "succeed", "output": job["payload"]})
}

#[tokio::test]
async fn values_flow_through_a_chain() {
    let api = Fixture::new().await;
    let document = json!({
        "name": "chain", "input": {"who": "ada"}, "tags": ["t"], "deadline": "1h",
        "steps": [
            {"id": "last", "kind": "k", "needs": ["mid"], "payload": {"sum": "${{ steps.mid.output.n + 1 }}"}},
            {"id": "first", "kind": "k", "payload": {"n": 20, "who": "${{ input.who }}"}},
            {"id": "mid", "kind": "k", "needs": ["first"], "payload": {"n": "${{ steps.first.output.n * 2 }}"}},
        ],
    });
    let answer = api.post("/v1/workflows", document).await;
    let location = answer.header("location").to_owned();
    let made = answer.expect(201);
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/v1/workflows/{id}"));
    assert_eq!(
        (&made["name"], &made["input"], &made["tags"]),
        (&json!("chain"), &json!({"who": "ada"}), &json!(["t"]))
    );
    assert!(made["deadline"].is_string() && made["request_id"].is_string());
    // What waits says for what.
    let run = get(&api, &id).await;
    assert_eq!(
        run["counts"]["blocked"].as_u64().unwrap() + run["counts"]["running"].as_u64().unwrap(),
        3
    );
    let job = step(&run, "last")["job_id"].as_str().unwrap().to_owned();
    let explained = api.get(&format!("/v1/jobs/{job}/explain")).await.expect(200);
    let reason = &explained["reasons"][0];
    assert_eq!(
        (&reason["code"], &reason["evidence"]["steps"][0]["id"]),
        (&json!("blocked_by"), &json!("mid"))
    );
    let (run, done) = carry(&api, &id, echo, ended).await;
    let done: Vec<(&str, &Value)> =
        done.iter().map(|(id, payload)| (id.as_str(), payload)).collect();
    assert_eq!(
        done,
        [
            ("first", &json!({"n": 20, "who": "ada"})),
            ("mid", &json!({"n": 40})),
            ("last", &json!({"sum": 41})),
        ]
    );
    assert_eq!((&run["state"], &run["progress"]), (&json!("succeeded"), &json!(1.0)));
    assert_eq!(run["output"], json!({"last": {"sum": 41}}));
    assert_eq!(run["counts"]["succeeded"], 3);
    assert!(run["finished_at"].is_string() && run["error"].is_null());
    let mid = step(&run, "mid");
    assert_eq!(
        (&mid["needs"], &mid["kind"], &mid["output"]),
        (&json!(["first"]), &json!("k"), &json!({"n": 40}))
    );
    assert_eq!(mid["job_state"], "succeeded");
    assert!(mid["started_at"].is_string() && mid["finished_at"].is_string(), "{mid}");
    let jobs = api.get(&format!("/v1/jobs?workflow_id={id}")).await.expect(200);
    assert_eq!(jobs["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_repeated_submission_is_one_run() {
    let api = Fixture::new().await;
    let body = json!({"name": "n", "steps": [{"id": "a", "kind": "k"}]}).to_string();
    let headers = [("idempotency-key", "once")];
    let first = api.post_with("/v1/workflows", &headers, &body).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    let first = first.expect(201);
    let again = api.post_with("/v1/workflows", &headers, &body).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(201)["id"], first["id"]);
    let other = body.replace("\"n\"", "\"m\"");
    let reused = api.post_with("/v1/workflows", &headers, &other).await;
    reused.refused(422, "idempotency_key_reused");
    let list = api.get("/v1/workflows").await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_list_becomes_jobs_and_a_list_again() {
    let api = Fixture::new().await;
    let id = submit(&api, json!({"name": "n", "input": [3, 1, 2], "output": "${{ steps.each.output }}", "steps": [
        {"id": "each", "kind": "k", "for_each": "input", "max_parallel": 2, "payload": {"x": "${{ item * 10 }}", "at": "${{ index }}"}},
        {"id": "none", "kind": "k", "for_each": "[]"},
    ]})).await;
    let mut most = 0;
    let (run, done) = carry(&api, &id, echo, |run| {
        let items = &step(run, "each")["items"];
        let open = items["started"].as_u64().unwrap() + items["open"].as_u64().unwrap();
        assert!(open.saturating_sub(items["total"].as_u64().unwrap()) <= 2, "{items}");
        ended(run)
    })
    .await;
    most += done.len();
    assert_eq!((most, &run["state"]), (3, &json!("succeeded")));
    let want = json!([{"x": 30, "at": 0}, {"x": 10, "at": 1}, {"x": 20, "at": 2}]);
    assert_eq!(run["output"], want);
    let each = step(&run, "each");
    assert_eq!((&each["output"], each["job_ids"].as_array().unwrap().len()), (&want, 3));
    assert_eq!(each["items"], json!({"total": 3, "started": 3, "open": 0, "failed": 0}));
    assert_eq!((&each["job_id"], &each["job_state"]), (&Value::Null, &Value::Null));
    assert_eq!(step(&run, "none")["output"], json!([]));
}

#[tokio::test]
async fn conditions_and_failures_decide_what_runs() {
    let api = Fixture::new().await;
    let id = submit(&api, json!({"name": "n", "input": {"go": false}, "on_failure": "let_finish", "steps": [
        {"id": "skipped", "kind": "k", "if": "input.go"},
        {"id": "after", "kind": "k", "needs": ["skipped"], "payload": "${{ steps.skipped.state }}"},
        {"id": "bad", "kind": "fail", "on_failure": "skip_dependents"},
        {"id": "below", "kind": "k", "needs": ["bad"]},
        {"id": "passed", "kind": "fail", "on_failure": "continue"},
        {"id": "on", "kind": "k", "needs": ["passed"], "payload": "${{ steps.passed.output }}"},
    ]})).await;
    let (run, _) = carry(&api, &id, echo, ended).await;
    let want = [
        ("skipped", "skipped"),
        ("after", "succeeded"),
        ("bad", "failed"),
        ("below", "skipped"),
        ("passed", "failed"),
        ("on", "succeeded"),
    ];
    assert_eq!(states(&run), want);
    assert_eq!((&run["state"], &run["progress"]), (&json!("succeeded"), &json!(1.0)));
    assert_eq!(step(&run, "after")["output"], "skipped");
    assert_eq!(step(&run, "skipped")["error"]["code"], "condition_false");
    assert_eq!(step(&run, "below")["error"]["code"], "upstream_failed");
    assert_eq!(step(&run, "bad")["error"]["code"], "boom");
}

#[tokio::test]
async fn a_failure_undoes_what_had_succeeded() {
    let api = Fixture::new().await;
    let id = submit(&api, json!({"name": "n", "steps": [
        {"id": "a", "kind": "k", "payload": 1, "compensate": {"kind": "undo", "payload": "${{ steps.a.output }}"}},
        {"id": "b", "kind": "k", "needs": ["a"], "compensate": {"kind": "undo", "payload": "b"}},
        {"id": "c", "kind": "fail", "needs": ["b"], "compensate": {"kind": "undo"}},
    ]})).await;
    let (run, done) = carry(&api, &id, echo, ended).await;
    assert_eq!(run["state"], "compensated");
    assert_eq!(run["error"]["code"], "step_failed");
    let order: Vec<(&str, &Value)> =
        done.iter().map(|(id, payload)| (id.as_str(), payload)).collect();
    assert_eq!(order[3..], [("compensate:b", &json!("b")), ("compensate:a", &json!(1))]);
    post(&api, &id, "retry", json!({})).await.refused(409, "state_conflict");
}

#[tokio::test]
async fn large_values_are_shown_by_reference() {
    let api = Fixture::new().await;
    let big = "x".repeat(20 << 10);
    let id = submit(
        &api,
        json!({"name": "n", "input": big, "output": "${{ steps.a.output }}", "steps": [
            {"id": "a", "kind": "k", "payload": "${{ input }}"},
            {"id": "b", "kind": "k", "needs": ["a"], "payload": "${{ size(steps.a.output) }}"},
        ]}),
    )
    .await;
    let put = |job: &Value| {
        let output =
            if job["workflow"]["step"] == "a" { json!(big) } else { job["payload"].clone() };
        json!({"outcome": "succeed", "output": output})
    };
    let (run, _) = carry(&api, &id, put, ended).await;
    let blob = step(&run, "a")["output"]["$blob"].as_str().unwrap_or_else(|| panic!("{run}"));
    assert_eq!(api.get(&format!("/v1/blobs/{blob}")).await.expect(200), json!(big));
    assert_eq!(step(&run, "b")["output"], 20 << 10);
    // Of the run itself they are shown in their places, but not in lists.
    assert_eq!((&run["input"], &run["output"]), (&json!(big), &json!(big)));
    let list = api.get("/v1/workflows").await.expect(200);
    assert!(list["items"][0]["input"]["$blob"].is_string(), "{list}");
    let again = post(&api, &id, "rerun", json!({})).await.expect(201);
    assert_eq!(again["input"], json!(big));
}

#[tokio::test]
async fn lists_show_what_is_asked_for() {
    let api = Fixture::new().await;
    let signal = |name: &str, tag: &str| json!({"name": name, "tags": [tag], "steps": [{"id": "s", "kind": "wait.signal"}]});
    let a = submit(&api, signal("a", "x")).await;
    submit(&api, signal("b", "x")).await;
    let c = submit(&api, json!({"name": "c", "tags": ["y"], "steps": [{"id": "s", "kind": "k"}]}))
        .await;
    carry(&api, &a, echo, |run| run["state"] == "waiting").await;
    carry(&api, &c, echo, ended).await;
    let names = |query: &'static str| {
        let api = &api;
        async move {
            let list = api.get(&format!("/v1/workflows{query}")).await.expect(200);
            let items = list["items"].as_array().unwrap().iter();
            items.map(|run| run["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        }
    };
    assert_eq!(names("").await, ["c", "b", "a"]);
    assert_eq!(names("?tag=x&name=a").await, ["a"]);
    assert_eq!(names("?state=waiting&name=a").await, ["a"]);
    assert_eq!(names("?state=running&name=a").await, [""; 0]);
    assert_eq!(names("?state=succeeded&state=failed").await, ["c"]);
    assert_eq!(names("?definition=none").await, [""; 0]);
    let page = api.get("/v1/workflows?limit=2").await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("/v1/workflows?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!((&rest["items"][0]["name"], &rest["next_cursor"]), (&json!("a"), &Value::Null));
    api.get(&format!("/v1/workflows?tag=x&cursor={cursor}")).await.refused(422, "invalid_cursor");
    for wrong in ["?state=blocked", "?name=", "?definition=a/b", "?created_after=x", "?x=1"] {
        api.get(&format!("/v1/workflows{wrong}")).await.refused(422, "invalid");
    }
    let elsewhere = crate::fixture::request(
        http::Method::GET,
        &format!("/v1/workflows/{a}"),
        &[("windlass-namespace", "other")],
        "",
    );
    api.send(elsewhere).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_run_is_drawn_with_its_states() {
    let api = Fixture::new().await;
    let id = submit(
        &api,
        json!({"name": "drawn", "steps": [
        {"id": "a", "kind": "k"}, {"id": "b", "kind": "wait.signal", "needs": ["a"]}]}),
    )
    .await;
    carry(&api, &id, echo, |run| run["state"] == "waiting").await;
    let path = format!("/v1/workflows/{id}/graph");
    let graph = api.get(&path).await.expect(200);
    assert_eq!(graph["title"], "drawn");
    assert_eq!(
        (&graph["nodes"][0]["state"], &graph["nodes"][1]["kind"]),
        (&json!("succeeded"), &json!("wait.signal"))
    );
    assert_eq!(graph["edges"], json!([{"from": "a", "to": "b"}]));
    for (format, kind, part) in [
        ("dot", "text/vnd.graphviz; charset=utf-8", "digraph"),
        ("mermaid", "text/plain; charset=utf-8", "flowchart"),
        ("svg", "image/svg+xml", "<svg"),
    ] {
        let answer = api.get(&format!("{path}?format={format}")).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, kind));
        assert!(answer.text.contains(part), "{}", answer.text);
    }
    api.get(&format!("{path}?format=png")).await.refused(422, "invalid");
    api.get("/v1/workflows/01900000-0000-7000-8000-000000000000/graph")
        .await
        .refused(404, "not_found");
}

/// What would leave a step that is not what its job is.
#[tokio::test]
async fn jobs_of_runs_are_changed_through_their_run() {
    let api = Fixture::new().await;
    let id = submit(
        &api,
        json!({"name": "n", "steps": [
        {"id": "a", "kind": "fail"}, {"id": "b", "kind": "k", "needs": ["a"]}]}),
    )
    .await;
    let run = get(&api, &id).await;
    let job =
        |run: &Value, id: &str| format!("/v1/jobs/{}", step(run, id)["job_id"].as_str().unwrap());
    let b = job(&run, "b");
    let patch = crate::fixture::request(http::Method::PATCH, &b, &[], r#"{"priority": 9}"#);
    let refused = api.send(patch).await.refused(409, "state_conflict");
    assert!(
        refused["detail"].as_str().unwrap().contains("is the step \"b\" of the workflow"),
        "{refused}"
    );
    let (run, _) = carry(&api, &id, echo, ended).await;
    let a = job(&run, "a");
    let refused = api.post(&format!("{a}/retry"), json!({})).await.refused(409, "state_conflict");
    assert!(
        refused["detail"].as_str().unwrap().contains("retry the workflow instead"),
        "{refused}"
    );
    let delete = crate::fixture::request(http::Method::DELETE, &a, &[], "");
    api.send(delete).await.refused(409, "state_conflict");
}
