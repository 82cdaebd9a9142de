//! Result gates: an output must satisfy a JSON Schema and a CEL expression before it counts as success.
//!
//! Both come from the submitter, so each check runs on a thread of its own, with a bound on its time and
//! on how many there are. A check that does not end holds one of few places until it does; it cannot be
//! stopped from outside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limits::ERROR_MESSAGE_BYTES_MAX;
use crate::model::job::{Expect, JobError};

/// Checks at one time.
const CHECKS_MAX: usize = 4;
/// Longest check.
const CHECK_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a place.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest expression, in bytes.
const EXPR_BYTES_MAX: usize = 4 << 10;
/// Expressions and schemas may nest; the default stack of a thread is too small for the deepest.
const STACK_BYTES: usize = 16 << 20;
/// Most complaints of a schema that are put on record.
const COMPLAINTS_MAX: usize = 5;

const REJECTED: &str = "result_rejected";

/// The gate of one process: a worker, or an API that settles for remote workers. Cheap to clone; clones
/// share the places.
#[derive(Debug, Clone)]
pub struct Gate {
    places: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// With every place free.
    pub fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(CHECKS_MAX)) }
    }

    /// Lets an output pass. Takes at most 12 s: 10 s for a place, 2 s for the check.
    ///
    /// # Errors
    /// Retryable `result_rejected` with the reasons; permanent `invalid_expect` when the gate itself is
    /// wrong. May be dropped, and repeated; a dropped check runs on to its end.
    pub async fn check(&self, expect: &Expect, output: &Bytes) -> Result<(), JobError> {
        let place = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.places).acquire_owned())
            .await
            .map_err(|_| rejected("too many checks of results at once"))?
            .expect("the semaphore is never closed");
        let (answer_tx, answer) = oneshot::channel();
        let (expect, output) = (expect.clone(), output.clone());
        let spawned = std::thread::Builder::new()
            .name("windlass-gate".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let _place: OwnedSemaphorePermit = place;
                // Nobody waits any more when the check took too long.
                let _ = answer_tx.send(check_now(&expect, &output));
            });
        if let Err(e) = spawned {
            return Err(rejected(format!("cannot check the result: {e}")));
        }
        match tokio::time::timeout(CHECK_TIME_MAX, answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(rejected("the check of the result broke")),
            Err(_) => Err(rejected("the check of the result took too long")),
        }
    }
}

fn check_now(expect: &Expect, output: &[u8]) -> Result<(), JobError> {
    let output: serde_json::Value = serde_json::from_slice(output)
        .map_err(|e| rejected(format!("the output is not JSON: {e}")))?;
    if let Some(schema) = &expect.schema {
        check_schema(schema, &output)?;
    }
    match &expect.expr {
        Some(expr) => check_expr(expr, &output),
        None => Ok(()),
    }
}

fn check_schema(schema: &serde_json::Value, output: &serde_json::Value) -> Result<(), JobError> {
    let validator = jsonschema::options()
        // Patterns run in linear time, and references outside the schema are not fetched.
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .offline()
        .build(schema)
        .map_err(|e| invalid(format!("the schema is not usable: {e}")))?;
    let complaints: Vec<String> = validator
        .iter_errors(output)
        .take(COMPLAINTS_MAX)
        .map(|e| match e.instance_path().as_str() {
            "" => cut_short(e.to_string()),
            path => cut_short(format!("at {path}: {e}")),
        })
        .collect();
    if complaints.is_empty() {
        return Ok(());
    }
    Err(rejected(complaints.join("; ")))
}

fn check_expr(expr: &str, output: &serde_json::Value) -> Result<(), JobError> {
    if expr.len() > EXPR_BYTES_MAX {
        return Err(invalid(format!("the expression is longer than {EXPR_BYTES_MAX} bytes")));
    }
    let program = cel::Program::compile(expr)
        .map_err(|e| invalid(format!("the expression does not parse: {e}")))?;
    let mut context = cel::Context::default();
    context.add_variable_from_value("output", to_cel(output));
    match program.execute(&context) {
        Ok(cel::Value::Bool(true)) => Ok(()),
        Ok(cel::Value::Bool(false)) => Err(rejected(format!("`{expr}` is false"))),
        Ok(other) => Err(invalid(format!("`{expr}` is not a condition but a {}", other.type_of()))),
        Err(e) => Err(rejected(format!("`{expr}` failed: {}", cut_short(e.to_string())))),
    }
}

/// Whole numbers become `int` where they fit, so that they compare with literals.
fn to_cel(value: &serde_json::Value) -> cel::Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => cel::Value::Null,
        Json::Bool(b) => cel::Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => cel::Value::Int(i),
            (None, Some(u)) => cel::Value::UInt(u),
            (None, None) => cel::Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => cel::Value::from(s.as_str()),
        Json::Array(items) => cel::Value::from(items.iter().map(to_cel).collect::<Vec<_>>()),
        Json::Object(fields) => {
            let fields: std::collections::HashMap<String, cel::Value> =
                fields.iter().map(|(key, value)| (key.clone(), to_cel(value))).collect();
            cel::Value::from(fields)
        }
    }
}

/// A complaint may quote the whole output; its beginning is enough.
fn cut_short(mut text: String) -> String {
    const MAX: usize = 512;
    if text.len() > MAX {
        text.truncate(text.floor_char_boundary(MAX));
        text.push('…');
    }
    text
}

fn rejected(message: impl Into<String>) -> JobError {
    error(REJECTED, message.into(), true)
}

fn invalid(message: String) -> JobError {
    error("invalid_expect", message, false)
}

fn error(code: &str, mut message: String, retryable: bool) -> JobError {
    message.truncate(message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX));
    JobError { code: code.into(), message, retryable }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn code(expect: Expect, output: &str) -> String {
        match Gate::new().check(&expect, &Bytes::copy_from_slice(output.as_bytes())).await {
            Ok(()) => "ok".into(),
            Err(error) => format!("{}{}", error.code, if error.retryable { "" } else { "!" }),
        }
    }

    fn expr(text: &str) -> Expect {
        Expect { schema: None, expr: Some(text.into()) }
    }
    fn schema(text: &str) -> Expect {
        Expect { schema: Some(serde_json::from_str(text).unwrap()), expr: None }
    }

    #[tokio::test]
    async fn expressions_decide_over_the_output() {
        let output =
            r#"{"n": 3, "big": 18446744073709551615, "f": 1.0, "list": ["a"], "none": null}"#;
        for (text, want) in [
            ("output.n == 3", "ok"),
            ("output.n > 2.5 && output.f == 1.0", "ok"),
            ("output.big > 5", "ok"),
            ("output.list.all(x, x == 'a') && output.none == null", "ok"),
            ("size(output.list) == 2", "result_rejected"),
            ("output.missing == 1", "result_rejected"),
            ("has(output.missing)", "result_rejected"),
            ("output.n", "invalid_expect!"),
            ("output.n ==", "invalid_expect!"),
        ] {
            assert_eq!(code(expr(text), output).await, want, "{text}");
        }
    }

    #[tokio::test]
    async fn schemas_decide_over_the_output() {
        let object =
            r#"{"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}"#;
        assert_eq!(code(schema(object), r#"{"id": 1}"#).await, "ok");
        assert_eq!(code(schema(object), r#"{"id": "x"}"#).await, "result_rejected");
        assert_eq!(code(schema(object), "[]").await, "result_rejected");
        assert_eq!(code(schema(r#"{"type": 7}"#), "1").await, "invalid_expect!");
        let fetch = r#"{"$ref": "http://127.0.0.1:1/schema.json"}"#;
        assert_eq!(code(schema(fetch), "1").await, "invalid_expect!");
    }

    #[tokio::test]
    async fn hostile_gates_neither_hang_nor_crash_the_process() {
        let list = serde_json::to_string(&vec![1; 3_000]).unwrap();
        let slow = expr("output.all(a, output.all(b, output.all(c, a == b && b == c)))");
        assert_eq!(code(slow, &list).await, "result_rejected");
        let deep = format!("{}true{}", "(".repeat(2_000), ")".repeat(2_000));
        assert_eq!(code(expr(&deep), "1").await, "invalid_expect!");
        assert_eq!(code(expr(&"!".repeat(EXPR_BYTES_MAX)), "1").await, "invalid_expect!");
        assert_eq!(code(expr(&"1".repeat(EXPR_BYTES_MAX + 1)), "1").await, "invalid_expect!");
        let long = format!("output{}", ".a".repeat(1_500));
        assert_ne!(code(expr(&long), "{}").await, "ok");
        let backtracking = schema(r#"{"pattern": "^(a+)+$"}"#);
        let text = format!("\"{}b\"", "a".repeat(40));
        assert_eq!(code(backtracking, &text).await, "result_rejected");
    }
}
