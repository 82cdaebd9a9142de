//! Workflow commands against a server that answers as the test says, and what they do without one.

use serde_json::{Value, json};

use crate::binary::{windlass, windlass_with};
use crate::client::Server;

const ID: &str = "0197b0a4-0000-7000-8000-000000000001";
const DOCUMENT: &str = "# why\nname: n\ninput: {a: 1}\nsteps:\n  - {id: a, kind: noop}\n  - {id: b, kind: noop, needs: [a]}\n";

fn run(state: &str) -> Value {
    json!({
        "id": ID, "name": "n", "state": state, "progress": 0.5, "counts": { "succeeded": 1, "running": 1 },
        "created_at": "2026-01-01T00:00:00.000Z", "tags": [], "output": { "x": 1 },
        "error": { "code": "step_failed", "message": "b failed" },
        "steps": [
            { "id": "a", "kind": "noop", "state": "succeeded", "output": null, "error": null },
            { "id": "b", "kind": "noop", "state": state, "output": null,
              "error": { "code": "boom\u{1b}[2J", "message": "broke" } },
        ],
    })
}

fn against(server: &Server, args: &[&str], input: &str) -> crate::binary::Said {
    windlass_with(&[&["workflow"], args].concat(), &[("WINDLASS_URL", &server.url)], input)
}

#[test]
fn a_document_is_sent_with_the_input_and_tags_of_the_command() {
    let server = Server::answering(vec![(201, "", run("running")); 2]);
    let said = against(&server, &["submit", "-", "--input", "{\"a\": 2}", "--tag", "t"], DOCUMENT);
    assert_eq!((said.code, said.out.trim()), (0, ID), "{said:?}");
    let given = [
        "submit",
        "--definition",
        "etl",
        "--version",
        "3",
        "--idempotency-key",
        "k",
        "--output",
        "json",
    ];
    let said = against(&server, &given, "");
    assert_eq!(serde_json::from_str::<Value>(&said.out).expect("JSON"), run("running"));
    let seen = server.seen();
    assert_eq!(seen[0].line, "POST /v1/workflows HTTP/1.1");
    assert!(seen[0].header("idempotency-key").is_some_and(|key| key.len() == 36));
    let body: Value = serde_json::from_str(&seen[0].body).expect("JSON");
    assert_eq!((&body["input"], &body["tags"]), (&json!({ "a": 2 }), &json!(["t"])));
    assert_eq!(body["steps"][1]["needs"], json!(["a"]));
    assert_eq!(seen[1].header("idempotency-key"), Some("k"));
    let body: Value = serde_json::from_str(&seen[1].body).expect("JSON");
    assert_eq!(body, json!({ "definition": "etl", "version": 3 }));
}

#[test]
fn a_run_that_fails_exits_3_and_says_what_happened_on_the_way() {
    let answers =
        vec![(201, "", run("running")), (200, "", run("running")), (200, "", run("failed"))];
    let server = Server::answering(answers);
    let said = against(&server, &["submit", "-", "--watch"], DOCUMENT);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.out.contains("step_failed: b failed") && said.out.contains("50%"), "{said:?}");
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(lines.len(), 4, "{said:?}");
    assert!(lines[0].starts_with("succeeded a") && lines[1].starts_with("running   b: boom"));
    assert!(
        lines[2].starts_with("failed    b") && lines[3].contains("ended as failed"),
        "{said:?}"
    );
    assert!(!said.out.contains('\u{1b}') && !said.err.contains('\u{1b}'), "{said:?}");
    let server = Server::answering(vec![(200, "", run("running"))]);
    let said = against(&server, &["wait", ID, "--timeout", "0s"], "");
    assert_eq!(said.code, 3);
    assert!(said.err.contains("running 50%: running 1, succeeded 1 (b)"), "{said:?}");
    assert!(said.err.contains("has not ended yet"), "{said:?}");
}

#[test]
fn what_steers_a_run_goes_where_it_belongs() {
    let retried = json!({ "workflow": run("running"), "reused": ["a"], "again": ["b", "c"] });
    let answers =
        [json!({}), json!({}), json!({}), json!({ "items": [] }), retried, run("running")];
    let server = Server::answering(answers.into_iter().map(|a| (202, "", a)).collect());
    for (args, said) in [
        (&["cancel", ID, "--reason", "too late"][..], "stopping"),
        (&["signal", ID, "paid/1", "{\"n\": 1}"], "noted"),
        (&["signal", ID, "go"], "noted"),
        (&["approve", ID, "drop", "--reject", "--reason", "no backup"], "rejected"),
        (&["retry", ID], "1 steps keep their results, 2 run"),
        (&["rerun", ID], ID),
    ] {
        let answer = against(&server, args, "");
        assert!(answer.code == 0 && answer.out.contains(said), "{args:?}: {answer:?}");
    }
    let seen = server.seen();
    let lines: Vec<&str> = seen.iter().map(|s| s.line.trim_end_matches(" HTTP/1.1")).collect();
    let base = format!("POST /v1/workflows/{ID}");
    let expected = ["cancel", "signals/paid%2F1", "signals/go", "approvals/drop", "retry", "rerun"];
    assert_eq!(lines, expected.map(|end| format!("{base}/{end}")));
    let bodies: Vec<&str> = seen.iter().map(|s| s.body.as_str()).collect();
    assert_eq!(bodies[0], "{\"reason\":\"too late\"}");
    assert_eq!(bodies[1..3], ["{\"n\":1}", "null"]);
    let vote: Value = serde_json::from_str(bodies[3]).expect("JSON");
    assert_eq!(vote, json!({ "approve": false, "reason": "no backup" }));
    // What is not safe to repeat has no key; what is has one.
    let keys: Vec<bool> = seen.iter().map(|s| s.header("idempotency-key").is_some()).collect();
    assert_eq!(keys, [false, true, true, false, true, true]);
}

#[test]
fn definitions_keep_their_text_and_their_versions() {
    let stored = json!({ "name": "etl", "version": 2, "steps": 2, "created_at": "t", "by": "ada" });
    let mut full = stored.clone();
    full["source"] = DOCUMENT.into();
    let page = json!({ "items": [stored], "next_cursor": null });
    let server = Server::answering(vec![
        (201, "", stored.clone()),
        (200, "", stored),
        (200, "", full),
        (200, "", page),
    ]);
    for (args, said) in [
        (&["put", "etl", "-"][..], "stored as version 2"),
        (&["put", "etl", "-"], "nothing has changed: it is version 2"),
        (&["get", "etl", "--version", "2"], "# why\nname: n"),
        (&["list"], "ada"),
    ] {
        let answer = against(&server, &[&["definition"], args].concat(), DOCUMENT);
        assert!(answer.code == 0 && answer.out.contains(said), "{args:?}: {answer:?}");
    }
    let seen = server.seen();
    assert_eq!(seen[0].header("content-type"), Some("application/yaml"));
    assert_eq!(seen[0].body, DOCUMENT, "comments and all");
    assert_eq!(seen[2].line, "GET /v1/definitions/etl/versions/2 HTTP/1.1");
}

#[test]
fn a_wrong_document_is_a_check_that_did_not_hold() {
    let problem = json!({
        "detail": "the workflow is not valid", "code": "invalid",
        "errors": [{ "pointer": "/steps", "message": "the steps need each other in a circle: a -> b -> a" }],
    });
    let plan = json!({
        "valid": true, "steps": 2, "edges": 1, "levels": 2, "parallel_groups": [["a"], ["b"]],
        "critical_path": { "steps": ["a", "b"], "length": 2, "estimate": "2s" },
        "warnings": [{ "code": "w", "pointer": "/steps/0", "message": "odd" }],
    });
    let outlook = json!({ "edges": 1, "critical_path": plan["critical_path"], "total_work": "2s" });
    let advice = json!({
        "before": outlook, "after": outlook, "changes": [],
        "suggestions": [{ "code": "heavy_step", "step": "b", "message": "takes long", "estimate": "1s" }],
    });
    let server = Server::answering(vec![(422, "", problem), (200, "", plan), (200, "", advice)]);
    let said = against(&server, &["validate", "-"], DOCUMENT);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("/steps: the steps need each other in a circle: a -> b -> a"));
    let said = against(&server, &["validate", "-"], DOCUMENT);
    assert_eq!(said.code, 0, "{said:?}");
    for text in ["2 steps, about 2s: a -> b", "one step", "warning: /steps/0: odd"] {
        assert!(said.out.contains(text), "{text}: {said:?}");
    }
    let said = against(&server, &["optimize", "-"], DOCUMENT);
    assert!(said.out.contains("b: takes long (the run: 1s)"), "{said:?}");
}

#[test]
fn files_are_drawn_without_a_server_and_traces_converted() {
    let nobody = [("WINDLASS_URL", "http://127.0.0.1:1")];
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("a.svg").display().to_string();
    let said = windlass_with(&["workflow", "graph", "-", "--out", &picture], &nobody, DOCUMENT);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{said:?}");
    let svg = std::fs::read_to_string(&picture).expect("the picture");
    assert!(svg.starts_with("<svg") && svg.contains(">2 steps<"), "{svg}");
    let said = windlass_with(&["workflow", "graph", "-", "--format", "dot"], &nobody, DOCUMENT);
    assert!(said.out.contains("n0 -> n1;"), "{said:?}");
    let said = windlass(&["workflow", "graph", "no-such-file"], &nobody);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("neither a run's id nor a file"), "{said:?}");
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/workflows/halves.trace.json");
    let import = ["workflow", "import", "--format", "wfformat", trace, "--time-factor", "0.1"];
    let said = windlass(&import, &nobody);
    let document: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(document["steps"][1]["payload"], json!({ "for": 1.25 }));
    let wrong = windlass_with(&["workflow", "import", "--format", "wfformat", "-"], &nobody, "{}");
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("missing field `workflow`"), "{wrong:?}");
    let far = windlass(&[&import[..5], &["--time-factor", "-1"]].concat(), &nobody);
    assert_eq!(far.code, 2, "{far:?}");
}

#[test]
fn lists_of_runs_filter_by_each_state() {
    let page = json!({ "items": [run("failed")], "next_cursor": "c2" });
    let server = Server::answering(vec![(200, "", page)]);
    let said = against(&server, &["list", "--state", "failed,cancelled", "--tag", "a&b"], "");
    assert!(said.out.contains("step_failed") && said.out.contains("--cursor c2"), "{said:?}");
    let line = &server.seen()[0].line;
    assert!(line.contains("state=failed&state=cancelled") && line.contains("tag=a%26b"), "{line}");
}
