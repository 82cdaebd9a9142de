//! Workflows that are looked at and not run: every fault names its place, JSON and YAML alike.

use http::{Method, Request};
use serde_json::{Value, json};
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;

use crate::fixture::{Answer, Fixture, request};

async fn validate(api: &Fixture, document: Value) -> Answer {
    api.post("/v1/workflows/validate", document).await
}

async fn yaml(api: &Fixture, path: &str, text: &str) -> Answer {
    api.post_with(path, &[("content-type", "application/yaml")], text).await
}

fn diamond() -> Value {
    json!({"name": "diamond", "steps": [
        {"id": "a", "kind": "echo"},
        {"id": "b", "kind": "echo", "needs": ["a"], "payload": "${{ steps.a.output }}"},
        {"id": "c", "kind": "slow", "needs": ["a"]},
        {"id": "d", "kind": "echo", "needs": ["a", "b", "c"]},
    ]})
}

#[tokio::test]
async fn a_sound_workflow_is_measured() {
    let api = Fixture::new().await;
    let seen = validate(&api, diamond()).await.expect(200);
    assert_eq!(seen["valid"], true);
    assert_eq!((&seen["steps"], &seen["edges"]), (&json!(4), &json!(5)));
    assert_eq!((&seen["levels"], &seen["depth"]), (&json!(3), &json!(1)));
    assert_eq!(seen["parallel_groups"], json!([["a"], ["b", "c"], ["d"]]));
    let path = &seen["critical_path"];
    assert_eq!((&path["length"], &path["estimate"]), (&json!(3), &json!("3s")));
    let codes: Vec<&str> =
        seen["warnings"].as_array().unwrap().iter().map(|w| w["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["no_worker", "no_worker", "redundant_need"]);
    assert_eq!(seen["warnings"][2]["pointer"], "/steps/3/needs");
    let child = json!({"name": "n", "steps": [{"id": "s", "kind": "workflow.run", "payload": {"definition": "gone"}}]});
    let seen = validate(&api, child).await.expect(200);
    assert_eq!(seen["warnings"][0]["code"], "unknown_definition");
    // Nothing is kept of it.
    assert_eq!(api.get("/v1/jobs").await.expect(200)["items"], json!([]));
}

/// Submission and validation refuse alike, before anything is stored.
#[tokio::test]
async fn every_fault_is_a_422_that_names_its_place() {
    let api = Fixture::new().await;
    let step = |extra: Value| {
        let mut step = json!({"id": "a", "kind": "echo"});
        step.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"name": "n", "steps": [step]})
    };
    let cases = [
        (
            json!({"name": "n", "steps": [{"id": "a", "kind": "k", "needs": ["b"]}, {"id": "b", "kind": "k", "needs": ["a"]}]}),
            "/steps",
            "the steps need each other in a circle: a -> b -> a",
        ),
        (
            step(json!({"needs": ["x"]})),
            "/steps/0/needs/0",
            "the step \"a\" needs \"x\", which is no step of this workflow",
        ),
        (
            json!({"name": "n", "steps": [{"id": "a", "kind": "k"}, {"id": "a", "kind": "k"}]}),
            "/steps/1/id",
            "the id \"a\" is used by the steps 0 and 1",
        ),
        (step(json!({"if": "1 +"})), "/steps/0/if", "does not parse"),
        (
            step(json!({"if": "steps.b.output"})),
            "/steps/0/if",
            "reads the step \"b\", which is no step of this workflow",
        ),
        (
            step(json!({"payload": {"x": "${{ inputs.y }}"}})),
            "/steps/0/payload/x",
            "names \"inputs\", which is not there",
        ),
        (step(json!({"unique": {"key": "k"}})), "/steps/0/unique", "a step has no unique key"),
        (
            step(json!({"kind": "wait.signal", "for_each": "[1]"})),
            "/steps/0/for_each",
            "only for jobs and workflow.run",
        ),
        (
            step(json!({"kind": "wait.approval", "compensate": {"kind": "u"}})),
            "/steps/0/compensate",
            "only jobs can be undone",
        ),
        (step(json!({"needz": []})), "/steps/0/needz", "unknown field"),
        (step(json!({"priority": 10})), "/steps/0/priority", "from 0 to 9"),
    ];
    for (document, pointer, message) in cases {
        for path in ["/v1/workflows", "/v1/workflows/validate", "/v1/workflows/optimize"] {
            let refused = api.post(path, document.clone()).await.refused(422, "invalid");
            let errors = refused["errors"].as_array().unwrap();
            let found = errors.iter().any(|error| {
                error["pointer"] == pointer && error["message"].as_str().unwrap().contains(message)
            });
            assert!(found, "{pointer} {message}: {refused}");
        }
    }
    assert_eq!(api.get("/v1/jobs").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn yaml_is_the_same_document() {
    let api = Fixture::new().await;
    let text = "name: diamond\nsteps:\n  - {id: a, kind: echo}\n  - id: b\n    kind: echo\n    needs: [a]\n    payload: ${{ steps.a.output }}\n";
    let seen = yaml(&api, "/v1/workflows/validate", text).await.expect(200);
    assert_eq!((&seen["steps"], &seen["levels"]), (&json!(2), &json!(2)));
    // Pointers lead into the document as JSON.
    let wrong = text.replace("[a]", "[x]");
    let refused = yaml(&api, "/v1/workflows", &wrong).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/steps/1/needs/0");
    for (text, code) in [
        ("name: &a n\nsteps: [*a]", "invalid_yaml"),
        ("name: !!str n", "invalid_yaml"),
        ("a: [", "invalid_yaml"),
        ("name: n\nname: m", "duplicate_key"),
        ("", "invalid_yaml"),
        (&*"[".repeat(5_000), "too_deep"),
    ] {
        yaml(&api, "/v1/workflows/validate", text).await.refused(400, code);
    }
    for kind in ["application/x-yaml", "text/yaml; charset=utf-8"] {
        api.post_with("/v1/workflows/validate", &[("content-type", kind)], text).await.expect(200);
    }
    // Only where a call takes it.
    yaml(&api, "/v1/jobs", "kind: a").await.refused(415, "unsupported_media_type");
    let lines = [("content-type", "application/x-ndjson")];
    let answer = api.post_with("/v1/workflows/validate", &lines, "{}").await;
    answer.refused(415, "unsupported_media_type");
    let bytes = Request::post("/v1/workflows/validate")
        .header("content-type", "application/yaml")
        .body(axum::body::Body::from(&b"name: \xff"[..]))
        .unwrap();
    api.send(bytes).await.refused(400, "invalid_json");
}

#[tokio::test]
async fn bodies_that_are_no_documents() {
    let api = Fixture::new().await;
    for body in
        ["", "{", "[]", "null", "7", r#"{"name":"n","steps":{}}"#, r#"{"name":"n","steps":[[]]}"#]
    {
        let answer =
            api.post_with("/v1/workflows", &[("content-type", "application/json")], body).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{body}: {}", answer.text);
    }
    let twice = r#"{"name":"n","name":"m","steps":[]}"#;
    api.post_with("/v1/workflows", &[], twice).await.refused(400, "duplicate_key");
    let input = format!(
        r#"{{"name":"n","input":"{}","steps":[{{"id":"a","kind":"k"}}]}}"#,
        "x".repeat(2 << 20)
    );
    api.post_with("/v1/workflows", &[], &input).await.refused(413, "too_large");
    let both = json!({"definition": "d", "steps": [{"id": "a", "kind": "k"}], "name": "n"});
    let refused = api.post("/v1/workflows", both).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["pointer"], "/definition");
    for (body, pointer) in [
        (json!({"definition": "a b"}), "/definition"),
        (json!({"definition": "d", "version": 0}), "/version"),
        (json!({"definition": "d", "name": "n"}), "/name"),
        (json!({"definition": "d", "deadline": "0s"}), "/deadline"),
    ] {
        let refused = api.post("/v1/workflows", body).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
}

#[tokio::test]
async fn an_optimized_workflow_means_the_same_and_says_what_it_gains() {
    let api = Fixture::new().await;
    let mut document = diamond();
    document["steps"].as_array_mut().unwrap().push(
        json!({"id": "e", "kind": "echo", "needs": ["d"], "for_each": "[1, 2]", "max_parallel": 1}),
    );
    let seen = api.post("/v1/workflows/optimize", document).await.expect(200);
    assert_eq!((&seen["before"]["edges"], &seen["after"]["edges"]), (&json!(6), &json!(5)));
    assert_eq!(seen["before"]["critical_path"]["estimate"], "4s");
    assert_eq!(
        (&seen["before"]["total_work"], &seen["before"]["parallelism"]),
        (&json!("5s"), &json!(1.25))
    );
    assert_eq!(seen["changes"].as_array().unwrap().len(), 1);
    let change = &seen["changes"][0];
    assert_eq!(
        (&change["code"], &change["step"], &change["need"]),
        (&json!("redundant_need"), &json!("d"), &json!("a"))
    );
    assert_eq!(seen["document"]["steps"][3]["needs"], json!(["b", "c"]));
    assert_eq!(seen["unknown_kinds"], json!(["echo", "slow"]));
    let suggestions = seen["suggestions"].as_array().unwrap();
    let of = |code: &str| suggestions.iter().find(|s| s["code"] == code);
    let unread = of("unread_need").unwrap_or_else(|| panic!("{seen}"));
    assert_eq!(
        (&unread["step"], &unread["need"], &unread["estimate"]),
        (&json!("e"), &json!("d"), &json!("3s"))
    );
    assert_eq!(of("serial_items").unwrap()["step"], "e");
    // The improved document is one, and cannot be improved further.
    let again = api.post("/v1/workflows/optimize", seen["document"].clone()).await.expect(200);
    assert_eq!(again["changes"], json!([]));
    assert_eq!(again["document"], seen["document"]);
}

#[tokio::test]
async fn roles_get_what_they_are_for() {
    let api = Fixture::with(ApiSettings::default()).await;
    let id = "01900000-0000-7000-8000-000000000000";
    for (role, method, path, allowed) in [
        (Role::Viewer, Method::POST, "/v1/workflows".to_owned(), false),
        (Role::Submitter, Method::POST, "/v1/workflows/validate".to_owned(), true),
        (Role::Submitter, Method::PUT, "/v1/definitions/d".to_owned(), false),
        (Role::Operator, Method::PUT, "/v1/definitions/d".to_owned(), true),
        (Role::Submitter, Method::POST, format!("/v1/workflows/{id}/retry"), false),
        (Role::Viewer, Method::POST, format!("/v1/workflows/{id}/approvals/a"), false),
        (Role::Worker, Method::POST, "/v1/workflows".to_owned(), false),
        (Role::Worker, Method::POST, format!("/v1/workflows/{id}/steps"), true),
    ] {
        let key = format!("Bearer {}", api.key(role, None).await);
        // Not a document: what gets past the table is refused for that, and makes nothing.
        let headers = [("authorization", key.as_str())];
        let answer = api.send(request(method, &path, &headers, "[]")).await;
        assert_eq!(answer.status.as_u16() != 403, allowed, "{role:?} {path}: {}", answer.text);
    }
}
