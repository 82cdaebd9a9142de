//! Each dimension by itself, and their mean.

use serde_json::{Value as Json, json};

use super::*;

fn verdict(spec: Json, value: &Json) -> Evaluation {
    evaluate(&serde_json::from_value(spec).unwrap(), value).unwrap()
}

#[track_caller]
fn score(spec: Json, value: Json, want: f64) {
    let found = verdict(spec.clone(), &value);
    assert!((found.score - want).abs() < 1e-6, "{spec} over {value}: {found:?}");
}

#[test]
fn the_schema_score_is_the_part_without_complaints() {
    let id =
        json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}});
    let list = json!({"schema": {"type": "array", "items": id}});
    score(list.clone(), json!([{"id": 1}, {"id": 2}]), 1.0);
    // Five values: the list, two records, two ids. One id is wrong.
    score(list.clone(), json!([{"id": 1}, {"id": "x"}]), 0.8);
    // A record without its id is lost with all that is in it: 2 of 5.
    score(list.clone(), json!([{"id": 1}, {"no": 1}]), 0.6);
    // A complaint about the whole leaves nothing, however much is in it.
    score(list.clone(), json!({"items": vec![1; 1_000]}), 0.0);
    score(list, json!([]), 1.0);
    // What lies inside of a part that is lost already is not lost twice.
    let nested = json!({"schema": {"type": "object", "required": ["b"],
        "properties": {"a": {"type": "string"}}}});
    score(nested, json!({"a": 1}), 0.0);
    let all_wrong = json!({"schema": {"items": {"type": "string"}}});
    score(all_wrong, json!(vec![0; COMPLAINTS_MAX + 1]), 0.0);
}

#[test]
fn the_completeness_score_is_the_part_of_the_places_that_hold_something() {
    let spec = |required: &[&str]| json!({"completeness": {"required": required}});
    let value = json!({"a": 0, "b": {"c/d": "x"}, "e": [false], "null": null, "blank": " \n",
        "none": [], "no": {}});
    score(spec(&["/a", "/b/c~1d", "/e/0", ""]), value.clone(), 1.0);
    for empty in ["/null", "/blank", "/none", "/no", "/missing", "/a/b", "/e/1"] {
        score(spec(&["/a", empty]), value.clone(), 0.5);
    }
    let told = verdict(spec(&["/missing", "/a"]), &value);
    assert_eq!(told.recommendations, ["Provide /missing."]);
    assert_eq!(told.failures[0].message, "/missing is missing or empty");
}

#[test]
fn the_accuracy_score_is_the_part_of_the_leaves_that_match() {
    let spec = |expected: Json, tolerance: f64| json!({"accuracy": {"expected": expected, "tolerance": tolerance}});
    for (expected, tolerance, value, want) in [
        (json!(10), 0.0, json!(10.0), 1.0),
        (json!(10), 0.1, json!(11), 1.0),
        (json!(10), 0.1, json!(11.01), 0.0),
        (json!(-10), 0.1, json!(-9), 1.0),
        (json!(0), 0.1, json!(0.1), 1.0),
        (json!(0), 0.1, json!(0.11), 0.0),
        (json!(9_007_199_254_740_993_i64), 0.0, json!(9_007_199_254_740_992_i64), 0.0),
        (json!("a"), 0.5, json!("b"), 0.0),
        (json!(null), 0.0, json!(null), 1.0),
        (json!({"a": 1, "b": [1, 2]}), 0.0, json!({"a": 1, "b": [1, 2], "c": 3}), 1.0),
        (json!({"a": 1, "b": [1, 2]}), 0.0, json!({"a": 1, "b": [1]}), 2.0 / 3.0),
        (json!({"a": 1, "b": [1, 2]}), 0.0, json!({"a": 1, "b": 7}), 1.0 / 3.0),
        (json!([1, 2, 3]), 0.0, json!([1, 2, 3, 4]), 0.75),
        (json!([]), 0.0, json!([]), 1.0),
        (json!([]), 0.0, json!([1]), 0.0),
        (json!({}), 0.0, json!({"a": 1}), 1.0),
        (json!({}), 0.0, json!([]), 0.0),
        (json!({"a": [[1], [2]]}), 0.0, json!(null), 0.0),
    ] {
        score(spec(expected, tolerance), value, want);
    }
    let told = verdict(spec(json!({"a/b": [7]}), 0.0), &json!({"a/b": [8]}));
    assert_eq!(told.failures[0].message, "at /a~1b/0: expected 7, found 8");
    assert_eq!(told.recommendations, ["Correct /a~1b/0: 7 is expected."]);
}

#[test]
fn the_rules_score_is_the_weight_of_those_that_are_true() {
    let rules = json!({"rules": [
        {"name": "cites", "expr": "size(value.sources) >= 2", "weight": 3, "recommendation": "Cite more."},
        {"name": "short", "expr": "size(output.text) < 5"},
    ]});
    score(rules.clone(), json!({"sources": [1, 2], "text": "four"}), 1.0);
    score(rules.clone(), json!({"sources": [1, 2], "text": "eleven"}), 0.75);
    let told = verdict(rules.clone(), &json!({"sources": [], "text": "four"}));
    assert_eq!((told.score, told.passed), (0.25, false));
    assert_eq!(told.recommendations, ["Cite more."]);
    // A rule that fails over the value is not true.
    score(rules, json!({"text": "four"}), 0.25);
    for wrong in ["value.n", "value.", "[1].all(a, value.x.all(b, ["] {
        let spec = json!({"rules": [{"name": "r", "expr": wrong}]});
        let spec: Evaluate = serde_json::from_value(spec).unwrap();
        let error = evaluate(&spec, &json!({"n": 1})).unwrap_err();
        assert!(error.starts_with("the rule \"r\": "), "{error}");
    }
}

#[test]
fn the_whole_is_the_weighted_mean_and_passes_at_the_threshold() {
    // completeness 0.5, accuracy 1, rules 0.
    let spec = |weights: Json, threshold: f64| {
        json!({"completeness": {"required": ["/a", "/b"]}, "accuracy": {"expected": {"a": 1}},
            "rules": [{"name": "r", "expr": "false"}], "weights": weights, "threshold": threshold})
    };
    let value = json!({"a": 1});
    score(spec(json!({}), 0.5), value.clone(), 0.5);
    score(spec(json!({"rules": 0}), 0.5), value.clone(), 0.75);
    score(spec(json!({"completeness": 2, "accuracy": 5, "rules": 1}), 0.5), value.clone(), 0.75);
    for (threshold, passed) in [(0.5, true), (0.500_001, false), (0.0, true), (1.0, false)] {
        assert_eq!(verdict(spec(json!({}), threshold), &value).passed, passed, "{threshold}");
    }
    // 19 of 20 is 0.95, whatever a binary fraction makes of it.
    let required: Vec<String> = (0..20).map(|i| format!("/{i}")).collect();
    let spec = json!({"completeness": {"required": required}});
    let filled: Vec<u32> = (1..20).collect();
    let told = verdict(spec.clone(), &json!(filled));
    assert_eq!((told.score, told.passed, told.threshold), (0.95, true, 0.95));
    assert!(!verdict(spec, &json!(filled[1..])).passed);
}

#[test]
fn what_is_told_is_bounded() {
    let rules: Vec<Json> = (0..50)
        .map(|i| json!({"name": "n".repeat(128), "expr": format!("value == '{}{i}'", "x".repeat(4_000))}))
        .collect();
    let spec = json!({"rules": rules, "accuracy": {"expected": vec!["y".repeat(1_000); 100]},
        "completeness": {"required": vec!["/".to_owned() + &"z".repeat(500); 100]},
        "schema": {"type": "string"}});
    let told = verdict(spec, &json!([]));
    assert_eq!((told.score, told.failures.len()), (0.0, LISTED_MAX));
    assert!(told.failures.iter().any(|f| f.dimension == Dimension::Rules));
    assert!(told.recommendations.len() <= LISTED_MAX);
    let bytes = serde_json::to_vec(&told).unwrap().len();
    assert!(bytes < 24 << 10, "{bytes}");
}
