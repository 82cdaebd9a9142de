use super::*;

const PLAIN: Options = Options { time_factor: 1.0, work: Work::Sleep };

/// A trace of our own: fetch, then two halves, then join. The times are made up.
fn trace() -> Value {
    json!({
        "name": "halves",
        "schemaVersion": "1.5",
        "workflow": {
            "specification": { "tasks": [
                { "id": "fetch", "name": "fetch", "parents": [], "children": ["half_1", "half_2"] },
                { "id": "half_1", "parents": ["fetch"], "children": ["join"] },
                { "id": "half_2", "parents": ["fetch"], "children": ["join"], "inputFiles": [] },
                { "id": "join", "parents": ["half_1", "half_2"], "children": [] },
            ] },
            "execution": { "makespanInSeconds": 9, "tasks": [
                { "id": "join", "runtimeInSeconds": 0.5 },
                { "id": "fetch", "runtimeInSeconds": 1.25, "avgCPU": 90.1 },
                { "id": "half_1", "runtimeInSeconds": 100 },
            ] },
        },
    })
}

fn converted(trace: &Value, options: Options) -> Result<Value, Fault> {
    convert(&trace.to_string(), options)
}

#[test]
fn every_task_becomes_a_step_that_needs_its_parents() {
    let document = converted(&trace(), PLAIN).unwrap();
    assert_eq!(
        document,
        json!({
            "name": "halves",
            "tags": ["wfformat"],
            "steps": [
                { "id": "fetch", "kind": "sleep", "payload": { "for": 1.25 }, "meta": { "task": "fetch" } },
                { "id": "half_1", "kind": "sleep", "payload": { "for": 100.0 }, "meta": { "task": "half_1" },
                  "needs": ["fetch"], "timeout": 160.0 },
                { "id": "half_2", "kind": "sleep", "payload": { "for": 0.0 }, "meta": { "task": "half_2" },
                  "needs": ["fetch"] },
                { "id": "join", "kind": "sleep", "payload": { "for": 0.5 }, "meta": { "task": "join" },
                  "needs": ["half_1", "half_2"] },
            ],
        })
    );
}

#[test]
fn times_are_scaled_and_steps_may_burn() {
    let options = Options { time_factor: 0.01, work: Work::Burn };
    let document = converted(&trace(), options).unwrap();
    assert_eq!(document["steps"][0]["kind"], "cpu.burn");
    assert_eq!(document["steps"][0]["payload"], json!({ "seconds": 0.013 }));
    assert_eq!(document["steps"][1]["payload"], json!({ "seconds": 1.0 }));
    let nothing = Options { time_factor: 0.0, ..PLAIN };
    assert_eq!(converted(&trace(), nothing).unwrap()["steps"][1]["payload"], json!({ "for": 0.0 }));
    let ages = Options { time_factor: 1e300, ..PLAIN };
    assert_eq!(converted(&trace(), ages).unwrap_err().at, "workflow.execution.tasks");
}

#[test]
fn what_is_wrong_is_named_by_its_field() {
    let spec = "/workflow/specification/tasks";
    let runs = "/workflow/execution/tasks";
    for (pointer, value, at) in [
        (spec.into(), json!([]), "workflow.specification.tasks"),
        (format!("{spec}/1/id"), json!("fetch"), "workflow.specification.tasks[1].id"),
        (format!("{spec}/1/id"), json!(7), "workflow.specification.tasks[1].id"),
        (
            format!("{spec}/1/parents/0"),
            json!("gone"),
            "workflow.specification.tasks[1].parents[0]",
        ),
        (
            format!("{spec}/3/parents/1"),
            json!("half_1"),
            "workflow.specification.tasks[3].parents[1]",
        ),
        (
            format!("{spec}/1/children"),
            json!(["fetch"]),
            "workflow.specification.tasks[1].children[0]",
        ),
        (
            format!("{spec}/0/children"),
            json!(["half_1"]),
            "workflow.specification.tasks[0].children",
        ),
        (format!("{runs}/0/id"), json!("other"), "workflow.execution.tasks[0].id"),
        (format!("{runs}/0/id"), json!("fetch"), "workflow.execution.tasks[1].id"),
        (
            format!("{runs}/0/runtimeInSeconds"),
            json!(-1),
            "workflow.execution.tasks[0].runtimeInSeconds",
        ),
        (
            format!("{runs}/0/runtimeInSeconds"),
            json!("1"),
            "workflow.execution.tasks[0].runtimeInSeconds",
        ),
        ("/workflow".into(), json!({ "tasks": [] }), "workflow"),
    ] {
        let mut wrong = trace();
        *wrong.pointer_mut(&pointer).expect("it is there") = value;
        let found = converted(&wrong, PLAIN).expect_err(&pointer);
        assert_eq!(found.at, at, "{pointer}: {found}");
    }
    assert_eq!(convert("{", PLAIN).unwrap_err().at, "the trace");
    assert_eq!(convert(&format!("{} x", trace()), PLAIN).unwrap_err().at, "the trace");
}

#[test]
fn circles_and_masses_are_refused() {
    let mut ring = trace();
    let tasks = &mut ring["workflow"]["specification"]["tasks"];
    for n in 0..4 {
        tasks[n].as_object_mut().unwrap().remove("children");
    }
    tasks[0]["parents"] = json!(["join"]);
    let found = converted(&ring, PLAIN).unwrap_err();
    assert!(found.what.contains("circle"), "{found}");
    let many: Vec<Value> = (0..10_001).map(|n| json!({ "id": n.to_string() })).collect();
    let many = json!({ "workflow": { "specification": { "tasks": many } } });
    assert!(converted(&many, PLAIN).unwrap_err().what.contains("at most 10000"));
}

#[test]
fn ids_are_made_legal_and_stay_different() {
    let long = format!("{}end", "x".repeat(200));
    let ids = ["a/b", "a b", "a_b", "a_b-2", &long, &format!("y{long}"), "ä"];
    let tasks: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
    let document =
        converted(&json!({ "workflow": { "specification": { "tasks": tasks } } }), PLAIN);
    let document = document.unwrap();
    let steps = document["steps"].as_array().unwrap();
    let made: Vec<&str> = steps.iter().map(|step| step["id"].as_str().unwrap()).collect();
    // Those that are legal as they are keep their ids.
    assert_eq!(made[..4], ["a_b-3", "a_b-4", "a_b", "a_b-2"]);
    assert!(made.iter().all(|id| (1..=128).contains(&id.len())), "{made:?}");
    assert_eq!(made.iter().collect::<HashSet<_>>().len(), 7, "{made:?}");
    assert!(made[4].ends_with("end") && made[6] == "_");
    for (step, id) in steps.iter().zip(ids) {
        assert_eq!(step["meta"]["task"], *id);
    }
    assert_eq!(document["name"], "trace");
}

#[test]
fn names_are_fit_for_runs() {
    assert_eq!(name(Some("a\u{202e}\n b")), "a b");
    assert_eq!(name(Some(&"ä".repeat(100))).len(), 128);
    assert_eq!(name(Some("\n")), "trace");
}
