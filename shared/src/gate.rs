//! Result gates: an output must satisfy a JSON Schema and a CEL expression, and reach a score, before it counts as
//! success.
//!
//! Both come from the submitter, so each check runs on a thread of its own, with a bound on its time and
//! on how many there are, and an expression only after a look at how much it may take ([`cost`]). A check
//! that does not end holds one of few places until it does; it cannot be stopped from outside
//! ([`crate::expr::bounded`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::expr::bounded::{Unfinished, WAIT_MAX, on_thread, place};
use crate::limits::ERROR_MESSAGE_BYTES_MAX;
use crate::model::evaluate::{Evaluate, Evaluation};
use crate::model::job::{Expect, JobError};
use crate::model::name::Namespace;
use condition::{Subject, Verdict};

mod condition;
pub(crate) mod cost;
mod evaluate;
mod schema;

/// Checks at one time.
const CHECKS_MAX: usize = 4;
/// Checks at one time of one namespace, where several share the process: half.
const SHARE_MAX: usize = CHECKS_MAX / 2;
/// Namespaces remembered before those without a check are dropped.
const SHARES_KEPT: usize = 1_000;
/// Most complaints of a schema that are put on record.
const COMPLAINTS_MAX: usize = 5;

const REJECTED: &str = "result_rejected";
const INVALID: &str = "invalid_expect";

/// Why an output does not pass.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GateError {
    /// The gate says no. Retryable `result_rejected` with the reasons; permanent `invalid_expect` when the
    /// gate itself is wrong, or takes too much.
    #[error("{}", .0.error.message)]
    Refused(Box<Refusal>),
    /// Nothing was checked: no place or no thread was free. Says nothing about the output; try again.
    #[error("too many checks of results at once")]
    Busy,
}

/// What a gate says of an output that it refuses.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// What the attempt fails with.
    pub error: JobError,
    /// Its score, and what to do better, where it was scored.
    pub evaluation: Option<Evaluation>,
}

impl From<JobError> for Refusal {
    fn from(error: JobError) -> Self {
        Self { error, evaluation: None }
    }
}

impl From<JobError> for Box<Refusal> {
    fn from(error: JobError) -> Self {
        Self::new(error.into())
    }
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
        let place = self.place().await?;
        let (expect, output) = (expect.clone(), output.clone());
        run(vec![place], move || check_now(&expect, &output)).await
    }

    /// Scores a value. Takes at most 12 s, as [`Self::check`].
    ///
    /// # Errors
    /// [`GateError::Refused`] where it cannot be scored (permanent `invalid_expect`), or not in time (retryable).
    pub async fn evaluate(
        &self,
        spec: Evaluate,
        value: serde_json::Value,
    ) -> Result<Evaluation, GateError> {
        let place = self.place().await?;
        let work = move || evaluate::evaluate(&spec, &value).map_err(|why| invalid(why).into());
        run(vec![place], work).await
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, GateError> {
        let place = tokio::time::timeout(self.wait_max, place(&self.places)).await;
        place.map_err(|_| GateError::Busy)
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
        let (expect, output) = (expect.clone(), output.clone());
        run(places.map_err(|_| GateError::Busy)?, move || check_now(&expect, &output)).await
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

async fn run<T: Send + 'static>(
    places: Vec<OwnedSemaphorePermit>,
    work: impl FnOnce() -> Result<T, Box<Refusal>> + Send + 'static,
) -> Result<T, GateError> {
    match on_thread(places, work).await {
        Ok(verdict) => verdict.map_err(GateError::Refused),
        Err(Unfinished::Crowded) => Err(GateError::Busy),
        Err(Unfinished::Broke) => {
            Err(GateError::Refused(rejected("the check of the result broke").into()))
        }
        Err(Unfinished::TooSlow) => {
            Err(GateError::Refused(rejected("the check of the result took too long").into()))
        }
    }
}

fn check_now(expect: &Expect, output: &[u8]) -> Result<(), Box<Refusal>> {
    let output: serde_json::Value = serde_json::from_slice(output)
        .map_err(|e| rejected(format!("the output is not JSON: {e}")))?;
    if let Some(schema) = &expect.schema {
        check_schema(schema, &output)?;
    }
    if let Some(expr) = &expect.expr
        && let Verdict::Not(why) = Subject::new(&output).check(expr).map_err(invalid)?
    {
        return Err(rejected(why).into());
    }
    if let Some(spec) = &expect.evaluate {
        let evaluation = evaluate::evaluate(spec, &output).map_err(invalid)?;
        if !evaluation.passed {
            let error = rejected(evaluation.in_words());
            return Err(Box::new(Refusal { error, evaluation: Some(evaluation) }));
        }
    }
    Ok(())
}

fn check_schema(schema: &serde_json::Value, output: &serde_json::Value) -> Result<(), JobError> {
    let complaints = schema::complaints(schema, output, COMPLAINTS_MAX).map_err(invalid)?;
    if complaints.is_empty() {
        return Ok(());
    }
    let complaints: Vec<String> = complaints.iter().map(schema::Complaint::in_words).collect();
    Err(rejected(complaints.join("; ")))
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
    error(INVALID, message, false)
}

fn error(code: &str, mut message: String, retryable: bool) -> JobError {
    message.truncate(message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX));
    JobError { code: code.into(), message, retryable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::EXPR_BYTES_MAX;

    async fn code(expect: Expect, output: &str) -> String {
        match Gate::new().check(&expect, &Bytes::copy_from_slice(output.as_bytes())).await {
            Ok(()) => "ok".into(),
            Err(GateError::Refused(refusal)) => {
                let error = refusal.error;
                format!("{}{}", error.code, if error.retryable { "" } else { "!" })
            }
            Err(GateError::Busy) => "busy".into(),
        }
    }

    fn expr(text: &str) -> Expect {
        Expect { expr: Some(text.into()), ..Expect::default() }
    }
    fn schema(text: &str) -> Expect {
        Expect { schema: Some(serde_json::from_str(text).unwrap()), ..Expect::default() }
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

    #[tokio::test]
    async fn a_score_below_the_threshold_is_refused_with_what_to_do_better() {
        let spec =
            serde_json::json!({"completeness": {"required": ["/a", "/b"]}, "threshold": 0.6});
        let expect =
            Expect { evaluate: serde_json::from_value(spec).unwrap(), ..Expect::default() };
        let gate = Gate::new();
        let whole = Bytes::from_static(br#"{"a": 1, "b": 2}"#);
        assert_eq!(gate.check(&expect, &whole).await, Ok(()));
        let half = Bytes::from_static(br#"{"a": 1}"#);
        let Err(GateError::Refused(refusal)) = gate.check(&expect, &half).await else {
            panic!("it passed");
        };
        assert_eq!((refusal.error.code.as_str(), refusal.error.retryable), (REJECTED, true));
        assert!(refusal.error.message.contains("0.5 is below 0.6"), "{}", refusal.error.message);
        let evaluation = refusal.evaluation.unwrap();
        assert_eq!((evaluation.score, evaluation.recommendations.len()), (0.5, 1));
        // What no spec of the API could say is the gate's own fault here.
        let none =
            Expect { evaluate: Some(Box::new(serde_json::from_str("{}").unwrap())), ..expect };
        assert_eq!(code(none, "1").await, "invalid_expect!");
    }

    #[tokio::test]
    async fn hostile_evaluations_end_in_bounded_time() {
        let evaluate = |spec: serde_json::Value| Expect {
            evaluate: Some(serde_json::from_value(spec).unwrap()),
            ..Expect::default()
        };
        let slow = serde_json::json!({"rules": [{"name": "r",
            "expr": "value.all(a, value.all(b, value.all(c, a == b && b == c)))"}]});
        let list = serde_json::to_string(&vec![1; 3_000]).unwrap();
        assert_eq!(code(evaluate(slow), &list).await, "invalid_expect!");
        let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
        let expected: serde_json::Value = serde_json::from_str(&deep).unwrap();
        let spec = serde_json::json!({"accuracy": {"expected": expected}});
        assert_eq!(code(evaluate(spec), &deep).await, "ok");
        let too_deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let any = serde_json::json!({"completeness": {"required": [""]}});
        assert_eq!(code(evaluate(any), &too_deep).await, "result_rejected");
        let patterns = serde_json::json!({"schema": {"items": {"pattern": "^(a+)+$"}}});
        let text = format!("[\"{}b\"]", "a".repeat(40));
        assert_eq!(code(evaluate(patterns), &text).await, "result_rejected");
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
