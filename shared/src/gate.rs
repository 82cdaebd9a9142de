//! Result gates: an output must satisfy a JSON Schema and a CEL expression before it counts as success.
//!
//! Both come from the submitter, so each check runs on a thread of its own, with a bound on its time and
//! on how many there are, and an expression only after a look at how much it may take ([`cost`]). A check
//! that does not end holds one of few places until it does; it cannot be stopped from outside.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limits::ERROR_MESSAGE_BYTES_MAX;
use crate::model::job::{Expect, JobError};
use crate::model::name::Namespace;

pub(crate) mod cost;

/// Checks at one time.
const CHECKS_MAX: usize = 4;
/// Checks at one time of one namespace, where several share the process: half.
const SHARE_MAX: usize = CHECKS_MAX / 2;
/// Namespaces remembered before those without a check are dropped.
const SHARES_KEPT: usize = 1_000;
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

/// Why an output does not pass.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GateError {
    /// The gate says no. Retryable `result_rejected` with the reasons; permanent `invalid_expect` when the
    /// gate itself is wrong, or takes too much.
    #[error("{}", .0.message)]
    Refused(JobError),
    /// Nothing was checked: no place or no thread was free. Says nothing about the output; try again.
    #[error("too many checks of results at once")]
    Busy,
}

/// The gate of one process: a worker, or an API that settles for remote workers. Cheap to clone; clones
/// share the places.
#[derive(Debug, Clone)]
pub struct Gate {
    places: Arc<Semaphore>,
    /// By namespace, as far as there are checks.
    shares: Arc<Mutex<HashMap<Namespace, Arc<Semaphore>>>>,
    wait_max: Duration,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// With every place free.
    pub fn new() -> Self {
        let places = Arc::new(Semaphore::new(CHECKS_MAX));
        Self { places, shares: Arc::default(), wait_max: WAIT_MAX }
    }

    /// Lets an output pass. Takes at most 12 s: 10 s for a place, 2 s for the check.
    ///
    /// # Errors
    /// See [`GateError`]. May be dropped, and repeated; a dropped check runs on to its end.
    pub async fn check(&self, expect: &Expect, output: &Bytes) -> Result<(), GateError> {
        let place = tokio::time::timeout(self.wait_max, place(&self.places)).await;
        let place = place.map_err(|_| GateError::Busy)?;
        run(vec![place], expect, output).await
    }

    /// As [`Self::check`], where a process works for several namespaces: one alone has at most half of the
    /// places, so that its slow gates don't keep others waiting.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub async fn check_for(
        &self,
        namespace: &Namespace,
        expect: &Expect,
        output: &Bytes,
    ) -> Result<(), GateError> {
        let share = self.share(namespace);
        let places = async { vec![place(&share).await, place(&self.places).await] };
        let places = tokio::time::timeout(self.wait_max, places).await;
        run(places.map_err(|_| GateError::Busy)?, expect, output).await
    }

    fn share(&self, namespace: &Namespace) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().expect("nothing panics while holding it");
        if shares.len() >= SHARES_KEPT {
            // Whoever holds or waits for a place of a share holds the share.
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let share = shares.entry(namespace.clone());
        Arc::clone(share.or_insert_with(|| Arc::new(Semaphore::new(SHARE_MAX))))
    }
}

async fn place(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
}

async fn run(
    places: Vec<OwnedSemaphorePermit>,
    expect: &Expect,
    output: &Bytes,
) -> Result<(), GateError> {
    let (answer_tx, answer) = oneshot::channel();
    let (expect, output) = (expect.clone(), output.clone());
    let spawned = std::thread::Builder::new()
        .name("windlass-gate".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _places = places;
            // Nobody waits any more when the check took too long.
            let _ = answer_tx.send(check_now(&expect, &output));
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread to check a result on");
        return Err(GateError::Busy);
    }
    let verdict = match tokio::time::timeout(CHECK_TIME_MAX, answer).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => Err(rejected("the check of the result broke")),
        Err(_) => Err(rejected("the check of the result took too long")),
    };
    verdict.map_err(GateError::Refused)
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
    cost::check(program.expression(), output).map_err(|too_much| match too_much {
        cost::TooMuch::Steps => {
            invalid(format!("the expression would look at more than {} values", cost::STEPS_MAX))
        }
        cost::TooMuch::Bytes => invalid(format!(
            "the expression would put together more than {} bytes",
            cost::BYTES_MAX
        )),
    })?;
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
            Err(GateError::Refused(error)) => {
                format!("{}{}", error.code, if error.retryable { "" } else { "!" })
            }
            Err(GateError::Busy) => "busy".into(),
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
        assert_eq!(code(slow, &list).await, "invalid_expect!");
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

    fn impatient() -> Gate {
        Gate { wait_max: Duration::from_millis(20), ..Gate::new() }
    }

    #[tokio::test]
    async fn no_free_place_is_no_verdict() {
        let gate = impatient();
        let (expect, output) = (expr("output == 1"), Bytes::from_static(b"1"));
        let all = u32::try_from(CHECKS_MAX).unwrap();
        let held = Arc::clone(&gate.places).acquire_many_owned(all).await.unwrap();
        assert_eq!(gate.check(&expect, &output).await, Err(GateError::Busy));
        let namespace = Namespace::default();
        assert_eq!(gate.check_for(&namespace, &expect, &output).await, Err(GateError::Busy));
        drop(held);
        assert_eq!(gate.check(&expect, &output).await, Ok(()));
        assert_eq!(gate.check_for(&namespace, &expect, &output).await, Ok(()));
    }

    #[tokio::test]
    async fn one_namespace_does_not_hold_every_place() {
        let gate = impatient();
        let (expect, output) = (expr("output == 1"), Bytes::from_static(b"1"));
        let (busy, other): (Namespace, Namespace) = ("a".parse().unwrap(), "b".parse().unwrap());
        let share = gate.share(&busy);
        let mut held = Vec::new();
        while let Ok(place) = Arc::clone(&share).try_acquire_owned() {
            held.push((place, place_now(&gate)));
        }
        assert!(!held.is_empty() && held.len() <= CHECKS_MAX / 2);
        assert_eq!(gate.check_for(&busy, &expect, &output).await, Err(GateError::Busy));
        assert_eq!(gate.check_for(&other, &expect, &output).await, Ok(()));
        drop(held);
        assert_eq!(gate.check_for(&busy, &expect, &output).await, Ok(()));
    }

    fn place_now(gate: &Gate) -> OwnedSemaphorePermit {
        Arc::clone(&gate.places).try_acquire_owned().unwrap()
    }

    #[tokio::test]
    async fn a_namespace_is_forgotten_only_while_it_has_no_check() {
        let gate = impatient();
        let kept = gate.share(&"kept".parse().unwrap());
        for i in 0..2 * SHARES_KEPT {
            gate.share(&format!("n{i}").parse().unwrap());
        }
        assert!(gate.shares.lock().unwrap().len() <= SHARES_KEPT);
        assert!(Arc::ptr_eq(&kept, &gate.share(&"kept".parse().unwrap())));
    }
}
