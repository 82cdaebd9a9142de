//! `${{ expr }}` inside the strings of a JSON value.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::{ExprFault, Names, RESULT_BYTES_MAX, Scope, check, cut_short};

const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// Whether a JSON text holds a template anywhere. Cheap; may say yes to an escaped one.
pub fn is_template(json: &str) -> bool {
    // Only `$` and `{` escaped as \u0024 or \u007b would hide one, and such a string means itself.
    json.contains(OPEN)
}

/// How many expressions the strings of a value hold at most, and how many bytes the strings with any have together.
/// Cheap beside their check.
pub fn count(value: &Json) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Json::String(text) => {
                let found = text.matches(OPEN).count();
                count += found;
                bytes += if found > 0 { text.len() } else { 0 };
            }
            Json::Array(items) => open.extend(items),
            Json::Object(fields) => open.extend(fields.values()),
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }
    (count, bytes)
}

/// Checks every expression in the strings of a value; the steps that they read, each once. Keys are not templates.
///
/// # Errors
/// The first fault, with the JSON pointer to its string.
pub fn check_all(value: &Json, in_item: bool) -> Result<Names, (String, ExprFault)> {
    let mut names = Names::default();
    // A megabyte of templates may read every step of a run.
    let mut known = HashSet::new();
    let mut open: Vec<(String, &Json)> = vec![(String::new(), value)];
    while let Some((pointer, value)) = open.pop() {
        match value {
            Json::String(text) => {
                for part in parts(text).map_err(|fault| (pointer.clone(), fault))? {
                    let Part::Expr(expr) = part else { continue };
                    let found = check(expr, in_item).map_err(|fault| (pointer.clone(), fault))?;
                    for step in found.steps {
                        if known.insert(step.clone()) {
                            names.steps.push(step);
                        }
                    }
                }
            }
            Json::Array(items) => {
                open.extend(items.iter().enumerate().map(|(n, v)| (format!("{pointer}/{n}"), v)));
            }
            Json::Object(fields) => open.extend(fields.iter().map(|(key, value)| {
                (format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")), value)
            })),
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }
    Ok(names)
}

/// Fills in every string of a value. A string that is one expression keeps the value's type; in any other, a
/// string stands for itself and all else for its JSON.
///
/// # Errors
/// An expression fails, or the whole grows over [`RESULT_BYTES_MAX`].
pub fn fill(value: &Json, scope: &Scope) -> Result<Json, ExprFault> {
    let mut budget = RESULT_BYTES_MAX;
    fill_within(value, scope, &mut budget)
}

/// Payloads are at most [`crate::limits::JSON_DEPTH_MAX`] deep, which bounds the recursion.
fn fill_within(value: &Json, scope: &Scope, budget: &mut usize) -> Result<Json, ExprFault> {
    Ok(match value {
        Json::String(text) => fill_text(text, scope, budget)?,
        Json::Array(items) => {
            let filled: Result<_, _> =
                items.iter().map(|v| fill_within(v, scope, budget)).collect();
            Json::Array(filled?)
        }
        Json::Object(fields) => {
            let filled: Result<_, ExprFault> = fields
                .iter()
                .map(|(key, value)| Ok((key.clone(), fill_within(value, scope, budget)?)))
                .collect();
            Json::Object(filled?)
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => value.clone(),
    })
}

fn fill_text(text: &str, scope: &Scope, budget: &mut usize) -> Result<Json, ExprFault> {
    let parts = parts(text)?;
    if let [Part::Expr(expr)] = &parts[..] {
        let value = scope.eval(expr)?;
        spend(budget, size(&value), text)?;
        return Ok(value);
    }
    let mut filled = String::with_capacity(text.len());
    for part in parts {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Expr(expr) => match scope.eval(expr)? {
                Json::String(text) => filled.push_str(&text),
                other => filled.push_str(&other.to_string()),
            },
        }
    }
    spend(budget, filled.len(), text)?;
    Ok(Json::String(filled))
}

fn spend(budget: &mut usize, bytes: usize, template: &str) -> Result<(), ExprFault> {
    match budget.checked_sub(bytes) {
        Some(left) => *budget = left,
        None => return Err(ExprFault::TooLarge { expr: cut_short(template) }),
    }
    Ok(())
}

fn size(value: &Json) -> usize {
    serde_json::to_vec(value).map_or(0, |bytes| bytes.len())
}

/// The expression of a string that is one and nothing else.
pub fn sole_expr(text: &str) -> Option<&str> {
    match &parts(text).ok()?[..] {
        [Part::Expr(expr)] => Some(expr),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Expr(&'a str),
}

/// Splits a string. The end of an expression is the first `}}` outside of its strings and brackets, so that
/// `${{ {'a': {'b': 1}} }}` is one.
fn parts(text: &str) -> Result<Vec<Part<'_>>, ExprFault> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        if at > 0 {
            parts.push(Part::Text(&rest[..at]));
        }
        let inside = &rest[at + OPEN.len()..];
        let end = expr_end(inside).ok_or(ExprFault::Unclosed)?;
        parts.push(Part::Expr(inside[..end].trim()));
        rest = &inside[end + CLOSE.len()..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

fn expr_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut open, mut quote, mut at) = (0_usize, None, 0);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(q), b) if b == q => quote = None,
            (Some(_), _) => {}
            (None, b @ (b'"' | b'\'')) => quote = Some(b),
            (None, b'{') => open += 1,
            (None, b'}') if open > 0 => open -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    fn scope() -> Scope {
        let steps = HashMap::from([("a".to_owned(), json!({"output": {"n": 3, "s": "x"}}))]);
        Scope::new(&json!({"who": "ada"}), &json!({}), steps)
    }

    #[test]
    fn strings_are_split_at_expressions_and_only_there() {
        assert_eq!(
            parts("a ${{ b }} c").unwrap(),
            [Part::Text("a "), Part::Expr("b"), Part::Text(" c")]
        );
        assert_eq!(parts("${{ {'a': {'b': 1}} }}").unwrap(), [Part::Expr("{'a': {'b': 1}}")]);
        assert_eq!(parts(r"${{ '}}' + 'it\'s}}' }}").unwrap(), [Part::Expr(r"'}}' + 'it\'s}}'")]);
        assert_eq!(parts("${ {x} }} plain").unwrap(), [Part::Text("${ {x} }} plain")]);
        assert_eq!(parts("").unwrap(), []);
        assert_eq!(parts("${{ a }"), Err(ExprFault::Unclosed));
        assert_eq!(sole_expr(" ${{ a }}"), None);
        assert_eq!(sole_expr("${{ a }}"), Some("a"));
    }

    #[test]
    fn a_sole_expression_keeps_its_type_and_others_become_text() {
        let template = json!({
            "whole": "${{ steps.a.output }}",
            "number": ["${{ steps.a.output.n }}"],
            "text": "dear ${{ input.who }}: ${{ steps.a.output.n }} of ${{ steps.a.output }}",
            "plain": "no $ {{ here }}", "n": 1, "${{ key }}": null,
        });
        let filled = fill(&template, &scope()).unwrap();
        assert_eq!(
            filled,
            json!({
                "whole": {"n": 3, "s": "x"}, "number": [3],
                "text": "dear ada: 3 of {\"n\":3,\"s\":\"x\"}",
                "plain": "no $ {{ here }}", "n": 1, "${{ key }}": null,
            })
        );
    }

    #[test]
    fn faults_are_named_with_their_place() {
        let template = json!({"a": [1, {"b/c": "x ${{ nope }}"}]});
        let (pointer, fault) = check_all(&template, false).unwrap_err();
        assert_eq!(pointer, "/a/1/b~1c");
        assert!(matches!(fault, ExprFault::UnknownName { name, .. } if name == "nope"));
        let good = json!(["${{ steps.a.output }}", {"x": "${{ steps.b.state + steps.a.state }}"}]);
        let mut steps = check_all(&good, false).unwrap().steps;
        steps.sort();
        assert_eq!(steps, ["a", "b"]);
        assert_eq!(count(&good), (2, 21 + 36));
        assert_eq!(count(&json!({"${{ key }}": "$ {{ x }}"})), (0, 0));
    }

    #[test]
    fn a_template_cannot_grow_without_bound() {
        let big = "x".repeat(600 << 10);
        let steps = HashMap::from([("a".to_owned(), json!({"output": big}))]);
        let scope = Scope::new(&Json::Null, &Json::Null, steps);
        let once = json!("${{ steps.a.output }}");
        assert!(fill(&once, &scope).is_ok());
        let twice = json!(["${{ steps.a.output }}", "${{ steps.a.output }}"]);
        assert!(matches!(fill(&twice, &scope), Err(ExprFault::TooLarge { .. })));
    }
}
