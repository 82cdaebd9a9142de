//! The OpenAPI document agrees with the routes.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_api::auth::roles;

fn document() -> Value {
    serde_json::to_value(windlass_api::document()).unwrap()
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    found
}

#[test]
fn every_call_has_its_line_in_the_table_of_roles() {
    let documented: BTreeSet<(String, String)> = operations(&document())
        .into_iter()
        .filter(|(_, path, _)| path.starts_with("/v1/"))
        .map(|(method, path, _)| (method, path))
        .collect();
    let table: BTreeSet<(String, String)> = roles::TABLE
        .iter()
        .filter(|(_, path, _)| path.starts_with("/v1/"))
        .map(|(m, p, _)| (m.to_string(), p.to_string()))
        .collect();
    assert_eq!(documented, table);
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, root: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').expect("references are local");
                    assert!(root.pointer(pointer).is_some(), "{reference}");
                }
                map.values().for_each(|value| walk(value, root));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, root)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
}

#[test]
fn every_operation_is_described_and_says_how_it_can_fail() {
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document()) {
        let name = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].to_string()), "{name}");
        assert!(operation["summary"].is_string(), "{name}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{name}");
        if !path.starts_with("/v1/") {
            continue;
        }
        for status in ["400", "401", "403", "422", "429", "500", "503"] {
            assert!(responses.contains_key(status), "{name} lacks {status}");
        }
        for (status, response) in responses.iter().filter(|(s, _)| s.as_str() >= "400") {
            let content = &response["content"]["application/problem+json"]["schema"];
            assert!(content.is_object(), "{name} {status}");
        }
        for parameter in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
            assert!(parameter["schema"].is_object(), "{name} {parameter}");
        }
    }
}

#[test]
fn every_object_that_callers_send_is_closed() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in [
        "JobRequest",
        "Unique",
        "Expect",
        "Evaluate",
        "Completeness",
        "Accuracy",
        "Rule",
        "Weights",
        "CheckpointRequest",
        "ResumeRequest",
        "RetryPolicy",
        "QueuePatch",
        "LeaseRequest",
        "SettleRequest",
        "HeartbeatRequest",
        "ReportRequest",
        "ActionRequest",
        "JobFilter",
    ] {
        assert_eq!(schemas[name]["additionalProperties"], false, "{name}");
    }
}
