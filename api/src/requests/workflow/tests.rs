use std::time::Instant;

use serde_json::{Value as Json, json};

use super::*;
use crate::extract;

fn context() -> Context {
    Context { queues: HashMap::new(), now: Timestamp::from_millis(1_800_000_000_000) }
}

/// As a call does, on a thread with a stack for expressions.
fn check_text(text: &str) -> Result<Checked, ApiError> {
    let text = text.to_owned();
    let check = move || {
        let request: WorkflowRequest<'_> = extract::parse(&text, "")?;
        check_request(request, Unnamed::Refuse, &context())
    };
    std::thread::Builder::new().stack_size(16 << 20).spawn(check).unwrap().join().unwrap()
}

fn check(document: &Json) -> Result<Checked, ApiError> {
    check_text(&document.to_string())
}

/// A document of these steps; those without a kind echo.
fn of(steps: Json) -> Json {
    let Json::Array(mut steps) = steps else { panic!("steps") };
    for step in &mut steps {
        let step = step.as_object_mut().unwrap();
        if !step.contains_key("kind") {
            step.insert("kind".into(), json!("echo"));
        }
    }
    json!({ "name": "n", "steps": steps })
}

#[track_caller]
fn faults(document: &Json) -> Vec<(String, String)> {
    let error = check(document).expect_err("a fault");
    let errors = error.errors().iter();
    errors.map(|e| (e.pointer.clone().unwrap_or_default(), e.message.clone())).collect()
}

/// The document has this fault and no other.
#[track_caller]
fn one_fault(document: &Json, pointer: &str, message: &str) {
    let found = faults(document);
    let [(at, text)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((at.as_str(), text.contains(message)), (pointer, true), "{text}");
}

#[test]
fn a_document_becomes_what_is_stored() {
    let checked = check(&json!({
        "name": "nightly", "deadline": "2h", "on_failure": "let_finish", "tags": ["etl"],
        "input": {"day": 1}, "output": {"rows": "${{ steps.load.output.rows }}"},
        "steps": [
            {"id": "load", "kind": "sql.run", "needs": ["all"], "queue": "db", "timeout": "5m",
             "payload": {"from": "${{ steps.extract.output }}", "n": 1}, "max_attempts": 2},
            {"id": "extract", "kind": "http.request", "payload": {"url": "x"}, "delay": "1s", "ttl": 60,
             "compensate": {"kind": "undo", "payload": "${{ steps.extract.output.id }}"}},
            {"id": "all", "kind": "echo", "needs": ["extract"], "if": "${{ input.day > 0 }}",
             "for_each": "steps.extract.output.items", "max_parallel": 3, "on_failure": "continue",
             "payload": {"item": "${{ item }}", "at": "${{ index }}"}},
            {"id": "go", "kind": "wait.signal", "payload": {"timeout": "1d"}},
            {"id": "nap", "kind": "wait.timer", "payload": {"for": "${{ input.nap }}"}},
            {"id": "ok", "kind": "wait.approval", "payload": {"required": 2, "roles": ["admin", "ada"]}},
            {"id": "sub", "kind": "workflow.run", "payload": {"definition": "d", "version": 3,
             "input": {"x": "${{ input.day }}"}}},
        ],
    }))
    .unwrap();
    let spec = &checked.spec;
    assert_eq!((spec.name.as_str(), spec.tags.len(), spec.steps.len()), ("nightly", 1, 7));
    assert_eq!(spec.steps[0].needs, [2]);
    assert_eq!(checked.reads, [(0, 1), (1, 1), (2, 1)]);
    let Work::Job(load) = &spec.steps[0].work else { panic!() };
    assert_eq!((load.queue.as_str(), load.is_template, load.spec.max_attempts), ("db", true, 2));
    let Work::Job(extract) = &spec.steps[1].work else { panic!() };
    assert!(extract.delay.is_some() && extract.ttl.is_some() && !extract.is_template);
    assert!(spec.steps[1].compensate.as_ref().is_some_and(|undo| undo.is_template));
    assert_eq!(spec.steps[2].condition.as_deref(), Some("input.day > 0"));
    assert_eq!(spec.steps[2].max_parallel, Some(3));
    assert!(matches!(&spec.steps[3].work, Work::Signal { name, timeout: Some(_) } if name == "go"));
    assert!(matches!(&spec.steps[4].work, Work::Timer(_)));
    assert!(matches!(&spec.steps[5].work, Work::Approval(a) if a.required == 2));
    assert!(matches!(&spec.steps[6].work, Work::Child(_)));
    // What is stored can be read again.
    let text = serde_json::to_string(spec).unwrap();
    assert_eq!(&serde_json::from_str::<WorkflowSpec>(&text).unwrap(), spec);
}

#[test]
fn faults_of_the_graph_are_named() {
    let cycle = of(json!([{"id": "a", "needs": ["c"]}, {"id": "b", "needs": ["a"]},
        {"id": "c", "needs": ["b"]}]));
    let found = faults(&cycle);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "/steps");
    assert!(found[0].1.contains("need each other in a circle: "), "{}", found[0].1);
    assert_eq!(found[0].1.matches(" -> ").count(), 3, "{}", found[0].1);
    one_fault(
        &of(json!([{"id": "a", "needs": ["b"]}])),
        "/steps/0/needs/0",
        "is no step of this workflow",
    );
    one_fault(
        &of(json!([{"id": "a"}, {"id": "a"}])),
        "/steps/1/id",
        "is used by the steps 0 and 1",
    );
    let twice = of(json!([{"id": "a"}, {"id": "b", "needs": ["a", "a"]}]));
    one_fault(&twice, "/steps/1/needs/1", "needs \"a\" twice");
    let ring: Vec<Json> = (0..100)
        .map(|n| json!({"id": format!("s{n}"), "needs": [format!("s{}", (n + 1) % 100)]}))
        .collect();
    one_fault(&of(json!(ring)), "/steps", "in a circle of 100: ");
}

#[test]
fn faults_of_steps_are_named() {
    one_fault(&of(json!([{"kind": "echo"}])), "/steps/0/id", "is required");
    one_fault(&of(json!([{"id": "a:b"}])), "/steps/0/id", "A-Z a-z 0-9 . _ -");
    one_fault(&json!({"name": "n", "steps": [{"id": "a"}]}), "/steps/0/kind", "is required");
    one_fault(
        &of(json!([{"id": "a", "unique": {"key": "k"}}])),
        "/steps/0/unique",
        "no unique key",
    );
    let at = "2030-01-01T00:00:00Z";
    one_fault(&of(json!([{"id": "a", "run_at": at}])), "/steps/0/run_at", "give a delay");
    one_fault(&of(json!([{"id": "a", "expires_at": at}])), "/steps/0/expires_at", "give a ttl");
    one_fault(
        &of(json!([{"id": "a", "max_parallel": 2}])),
        "/steps/0/max_parallel",
        "with for_each",
    );
    let none = of(json!([{"id": "a", "for_each": "[1]", "max_parallel": 0}]));
    one_fault(&none, "/steps/0/max_parallel", "from 1 to 10000");
    one_fault(
        &of(json!([{"id": "a", "kind": "wait.long"}])),
        "/steps/0/kind",
        "wait.signal, wait.timer",
    );
    one_fault(&of(json!([{"id": "a", "needz": []}])), "/steps/0/needz", "unknown field");
    one_fault(&of(json!([{"id": "a", "queue": "a b"}])), "/steps/0/queue", "");
    one_fault(
        &of(json!([{"id": "a", "on_failure": "stop"}])),
        "/steps/0/on_failure",
        "unknown variant",
    );
    let undo = of(json!([{"id": "a", "compensate": {"payload": 1}}]));
    one_fault(&undo, "/steps/0/compensate/kind", "is required");
    let undo = of(json!([{"id": "a", "compensate": {"kind": "wait.timer"}}]));
    one_fault(&undo, "/steps/0/compensate/kind", "must be the kind of a job");
    let undo = of(json!([{"id": "a", "compensate": {"kind": "x", "unique": {"key": "k"}}}]));
    one_fault(&undo, "/steps/0/compensate/unique", "no unique key");
}

#[test]
fn waits_have_what_waits_have() {
    let wait =
        |kind: &str, payload: Json| of(json!([{"id": "w", "kind": kind, "payload": payload}]));
    for field in ["for_each", "compensate", "queue", "retry", "tags"] {
        let value = match field {
            "for_each" | "queue" => json!("x"),
            "compensate" => json!({"kind": "x"}),
            "retry" => json!({}),
            _ => json!([]),
        };
        let mut step = json!({"id": "w", "kind": "wait.signal"});
        step[field] = value;
        let found = faults(&of(json!([step])));
        let at = format!("/steps/0/{field}");
        assert!(
            found.iter().any(|(pointer, text)| *pointer == at && text.contains("jobs")),
            "{found:?}"
        );
    }
    one_fault(&wait("wait.signal", json!({"name": "a b"})), "/steps/0/payload/name", "A-Z");
    one_fault(
        &wait("wait.signal", json!({"timeout": "0s"})),
        "/steps/0/payload/timeout",
        "longer than 0",
    );
    one_fault(&wait("wait.signal", json!({"nam": "a"})), "/steps/0/payload/nam", "unknown field");
    one_fault(&wait("wait.timer", json!({})), "/steps/0/payload", "one of for and until");
    one_fault(
        &wait("wait.timer", json!({"for": "soon"})),
        "/steps/0/payload/for",
        "a duration or a template",
    );
    one_fault(
        &wait("wait.timer", json!({"for": "400d"})),
        "/steps/0/payload/for",
        "at most 366 days",
    );
    one_fault(&wait("wait.timer", json!({"until": "soon"})), "/steps/0/payload/until", "RFC 3339");
    one_fault(
        &wait("wait.timer", json!({"until": "2099-01-01T00:00:00Z"})),
        "/steps/0/payload/until",
        "366 days",
    );
    one_fault(
        &wait("wait.timer", json!({"for": "${{ nope }}"})),
        "/steps/0/payload/for",
        "names \"nope\"",
    );
    one_fault(
        &wait("wait.approval", json!({"required": 0})),
        "/steps/0/payload/required",
        "from 1 to 100",
    );
    one_fault(
        &wait("wait.approval", json!({"roles": [""]})),
        "/steps/0/payload/roles/0",
        "1 to 128",
    );
    one_fault(
        &wait("workflow.run", json!({})),
        "/steps/0/payload",
        "one of definition and workflow",
    );
    one_fault(
        &wait("workflow.run", json!({"definition": "a/b"})),
        "/steps/0/payload/definition",
        "A-Z",
    );
    one_fault(
        &wait("workflow.run", json!({"definition": "a", "version": 0})),
        "/steps/0/payload/version",
        "at least 1",
    );
    let inner = json!({"workflow": {"steps": [{"id": "x", "kind": "echo", "needs": ["y"]}]}});
    one_fault(
        &wait("workflow.run", inner),
        "/steps/0/payload/workflow/steps/0/needs/0",
        "is no step",
    );
    let mut deep = json!({"steps": [{"id": "x", "kind": "echo"}]});
    for _ in 0..limits::DEPTH_MAX - 1 {
        deep =
            json!({"steps": [{"id": "x", "kind": "workflow.run", "payload": {"workflow": deep}}]});
    }
    deep["name"] = json!("n");
    assert_eq!(check(&deep).unwrap().depth, limits::DEPTH_MAX);
    let deeper = json!({"name": "n", "steps": [{"id": "x", "kind": "workflow.run", "payload": {"workflow": deep}}]});
    let found = faults(&deeper);
    assert!(found[0].1.contains("at most 8 deep"), "{found:?}");
}

#[test]
fn expressions_read_what_is_there_and_has_ended() {
    let reads = |steps: Json| of(steps);
    let far = json!([{"id": "a"}, {"id": "b", "needs": ["a"]},
        {"id": "c", "needs": ["b"], "payload": ["${{ steps.a.output }}"], "if": "steps.b.output > 1"}]);
    assert!(check(&reads(far)).is_ok());
    let beside = json!([{"id": "a"}, {"id": "b", "payload": "${{ steps.a.output }}"}]);
    let text =
        "reads the step \"a\", which is not among the steps it needs, directly or indirectly";
    one_fault(&reads(beside), "/steps/1/payload", text);
    one_fault(
        &reads(json!([{"id": "a", "if": "steps.a.state == 'x'"}])),
        "/steps/0/if",
        "not among the steps it needs",
    );
    one_fault(
        &reads(json!([{"id": "a", "if": "steps.zz.output"}])),
        "/steps/0/if",
        "\"zz\", which is no step of this workflow",
    );
    one_fault(&reads(json!([{"id": "a", "if": "1 +"}])), "/steps/0/if", "does not parse");
    one_fault(&reads(json!([{"id": "a", "if": "inputs.x"}])), "/steps/0/if", "names \"inputs\"");
    one_fault(
        &reads(json!([{"id": "a", "payload": {"x": ["${{ item }}"]}}])),
        "/steps/0/payload/x/0",
        "only a step with for_each",
    );
    one_fault(
        &reads(json!([{"id": "a", "payload": "${{ input"}])),
        "/steps/0/payload",
        "is not closed",
    );
    one_fault(
        &reads(json!([{"id": "a", "for_each": "item"}])),
        "/steps/0/for_each",
        "names \"item\"",
    );
    let late = json!([{"id": "a", "compensate": {"kind": "u", "payload": "${{ steps.b.output }}"}}, {"id": "b"}]);
    one_fault(&reads(late), "/steps/0/compensate/payload", "not among the steps it needs");
    let child = json!([{"id": "a"}, {"id": "b", "kind": "workflow.run",
        "payload": {"definition": "d", "input": {"x": "${{ steps.a.output }}"}}}]);
    one_fault(&reads(child), "/steps/1/payload/input", "not among the steps it needs");
    let mut output = of(json!([{"id": "a"}]));
    output["output"] = json!("${{ steps.b.output }}");
    one_fault(&output, "/output", "\"b\", which is no step");
}

#[test]
fn faults_of_the_run_are_named_and_all_at_once() {
    let with = |field: &str, value: Json| {
        let mut document = of(json!([{"id": "a"}]));
        document[field] = value;
        document
    };
    one_fault(&json!({"name": "n"}), "/steps", "at least one step");
    one_fault(&json!({"steps": [{"id": "a", "kind": "b"}]}), "/name", "is required");
    one_fault(&with("name", json!("")), "/name", "1 to 128");
    one_fault(&with("deadline", json!("0s")), "/deadline", "longer than 0");
    one_fault(&with("deadline", json!("400d")), "/deadline", "at most 366 days");
    one_fault(&with("on_failure", json!("fail")), "/on_failure", "unknown variant");
    one_fault(&with("tags", json!([""])), "/tags/0", "1 to 128");
    one_fault(&with("definition", json!("d")), "/definition", "together with steps");
    one_fault(&with("zzz", json!(1)), "/zzz", "unknown field");
    let many =
        json!({"deadline": 0, "steps": [{"id": "a"}, {"id": "a", "kind": "x", "needs": ["q"]}]});
    let found: Vec<String> = faults(&many).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(found, ["/name", "/deadline", "/steps/0/kind", "/steps/1/id", "/steps/1/needs/0"]);
}

#[test]
fn sizes_are_bounded() {
    let steps = |n: usize| (0..n).map(|n| json!({"id": format!("s{n}")})).collect::<Vec<_>>();
    one_fault(&of(json!(steps(10_001))), "/steps/10000", "at most 10000 items");
    let mut dense = steps(500);
    for (at, step) in dense.iter_mut().enumerate() {
        step["needs"] = (0..at).map(|n| format!("s{n}")).collect();
    }
    one_fault(&of(json!(dense)), "/steps", "have 124750 needs together; at most 100000");
    let templates = vec!["${{ input }}"; 60_000];
    one_fault(
        &of(json!([{"id": "a", "payload": templates}])),
        "/steps/0",
        "one expression too many",
    );
    let long = vec![json!(format!("${{{{ input }}}}{}", "x".repeat(600 << 10))); 1];
    let texts: Vec<Json> =
        (0..10).map(|n| json!({"id": format!("s{n}"), "payload": long})).collect();
    one_fault(&of(json!(texts)), "/steps/6", "in texts of 4 MiB together");
    one_fault(
        &of(json!([{"id": "a", "tags": vec!["t"; 21]}])),
        "/steps/0/tags/20",
        "at most 20 items",
    );
    let big = of(json!([{"id": "a", "payload": "x".repeat(2 << 20)}]));
    assert_eq!(check(&big).unwrap_err().code(), crate::error::Code::TooLarge);
    let grows = format!(
        r#"{{"name":"n","steps":[{{"id":"a","kind":"k","payload":[{}1]}}]}}"#,
        "1e15,".repeat(150_000)
    );
    assert_eq!(check_text(&grows).unwrap_err().code(), crate::error::Code::TooLarge);
    let deep = format!(
        r#"{{"name":"n","steps":[{{"id":"a","kind":"k","payload":{}1{}}}]}}"#,
        "[".repeat(65),
        "]".repeat(65)
    );
    assert_eq!(check_text(&deep).unwrap_err().code(), crate::error::Code::TooDeep);
    // A page of faults is enough.
    let wrong: Vec<Json> =
        (0..10_000).map(|n| json!({"id": format!("{n}:"), "if": "(((("})).collect();
    assert_eq!(faults(&of(json!(wrong))).len(), 50);
}

/// The bound is wide for a build without optimisation on a busy machine; what matters is that the dense graph and
/// the chain take about as long as their size, not its square.
#[test]
fn ten_thousand_steps_are_checked_in_a_moment() {
    let chain: Vec<Json> = (0..10_000)
        .map(|n: usize| match n.checked_sub(1) {
            Some(above) => {
                json!({"id": format!("s{n}"), "needs": [format!("s{above}")], "payload": {"n": n}})
            }
            None => json!({"id": "s0"}),
        })
        .collect();
    let mut layers: Vec<Json> = Vec::new();
    for layer in 0..100 {
        for at in 0..100 {
            let needs: Vec<String> = if layer == 0 {
                vec![]
            } else {
                (0..10).map(|n| format!("l{}-{}", layer - 1, (at + n * 7) % 100)).collect()
            };
            layers.push(json!({"id": format!("l{layer}-{at}"), "needs": needs}));
        }
    }
    for steps in [chain, layers] {
        let text = of(json!(steps)).to_string();
        let started = Instant::now();
        let checked = check_text(&text).unwrap();
        assert_eq!(checked.graph.len(), 10_000);
        let took = started.elapsed();
        assert!(took.as_secs() < 10, "{took:?}");
    }
    // Each of many steps reads one far above it.
    let far: Vec<Json> = (0..2_000)
        .map(|n: usize| match n.checked_sub(1) {
            Some(above) => json!({"id": format!("s{n}"), "needs": [format!("s{above}")],
                "if": format!("steps.s{}.output == 1", n / 2)}),
            None => json!({"id": "s0"}),
        })
        .collect();
    let started = Instant::now();
    assert!(check(&of(json!(far))).is_ok());
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}
