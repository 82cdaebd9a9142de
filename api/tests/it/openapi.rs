//! The OpenAPI document agrees with the routes.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;
use windlass_api::auth::roles;

use crate::fixture::{Fixture, SOON, request};

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

/// Values that a parameter's schema does not allow.
fn forbidden(schema: &Value) -> Vec<String> {
    let mut values = Vec::new();
    if let Some(max) = schema["maxLength"].as_u64() {
        values.push("0".repeat(max as usize + 1));
    }
    if let Some(max) = schema["maximum"].as_i64() {
        values.push((max + 1).to_string());
    }
    if let Some(min) = schema["minimum"].as_i64() {
        values.push((min - 1).to_string());
    }
    if schema["minLength"].as_u64() == Some(1) {
        values.push(String::new());
    }
    let is_text = schema["type"] == "string" || schema["type"][0] == "string";
    if !is_text || ["pattern", "enum", "format", "$ref"].iter().any(|key| schema.get(key).is_some())
    {
        values.push("%00".into());
    }
    values
}

#[tokio::test]
async fn every_bound_of_a_query_parameter_is_kept() {
    let api = Fixture::new().await;
    let mut tried = 0;
    for (method, path, operation) in operations(&document()) {
        let method: Method = method.parse().unwrap();
        let uri = path.replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057");
        let uri = uri.split('/').map(|part| if part.starts_with('{') { "some" } else { part });
        let uri = uri.collect::<Vec<_>>().join("/");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] != "query" {
                continue;
            }
            let name = parameter["name"].as_str().unwrap();
            for value in forbidden(&parameter["schema"]) {
                let asked = format!("{uri}?{name}={value}");
                let request = request(method.clone(), &asked, &[], "");
                let answer = tokio::time::timeout(SOON, api.send(request)).await;
                let status = answer.expect("streams nothing").status.as_u16();
                // Some look first whether that is there which the path names.
                let refused = matches!(status, 400 | 422) || (path.contains('{') && status == 404);
                assert!(refused, "{method} {asked} answered {status}");
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
}
