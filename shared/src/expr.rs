//! CEL expressions of workflows: what they may name, what they yield, and `${{ }}` templates over them.
//!
//! Expressions come from submitters. [`check`] bounds their length and nesting before a parser sees them, and what
//! they may name; [`Scope::eval`] is bounded in what it is given, and its caller bounds its time ([`bounded`]).
//! The language: <https://github.com/google/cel-spec>.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::Value as Json;

use crate::gate::cost::{self, TooMuch};

pub mod bounded;
pub(crate) mod depth;
mod names;
pub mod template;

pub use names::{Names, check};

/// Longest expression, in bytes.
pub const EXPR_BYTES_MAX: usize = 4 << 10;
/// Comprehensions (`map`, `filter`, `all`, `exists` …) inside each other. Each level multiplies the work.
pub const NESTED_LOOPS_MAX: usize = 3;
/// Largest result of an expression or template, in bytes of JSON.
pub const RESULT_BYTES_MAX: usize = crate::limits::VALUE_BYTES_MAX;

/// What is wrong with an expression, or with what it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExprFault {
    /// Over [`EXPR_BYTES_MAX`].
    #[error("the expression is longer than {EXPR_BYTES_MAX} bytes")]
    TooLong,
    /// Brackets or loops nest too deep, or there are too many operators in one.
    #[error("the expression nests too deep, or has over 200 operators")]
    TooDeep,
    /// Not CEL.
    #[error("the expression {expr:?} does not parse: {message}")]
    Syntax {
        /// The expression.
        expr: String,
        /// What the parser says.
        message: String,
    },
    /// A name that is not there.
    #[error("the expression {expr:?} names {name:?}, which is not there; {hint}")]
    UnknownName {
        /// The expression.
        expr: String,
        /// The name.
        name: String,
        /// What is.
        hint: &'static str,
    },
    /// It failed over these values.
    #[error("the expression {expr:?} failed: {message}")]
    Failed {
        /// The expression.
        expr: String,
        /// Why.
        message: String,
    },
    /// It yields something else than is wanted here.
    #[error("the expression {expr:?} yields a {found}, not {wanted}")]
    Type {
        /// The expression.
        expr: String,
        /// What it yields.
        found: String,
        /// What is wanted.
        wanted: &'static str,
    },
    /// Over [`RESULT_BYTES_MAX`].
    #[error("the result of {expr:?} is larger than 1 MiB")]
    TooLarge {
        /// The expression or template.
        expr: String,
    },
    /// `${{` without `}}`.
    #[error("a \"${{{{\" is not closed by \"}}}}\"")]
    Unclosed,
    /// It would look at too many values, or put together too much.
    #[error("the expression {expr:?} would take too much work over these values")]
    TooMuch {
        /// The expression.
        expr: String,
    },
    /// It took too long.
    #[error("the expressions took longer than {} s", bounded::TIME_MAX.as_secs())]
    TooSlow,
}

/// Values that the expressions of one step may look at together, its items included.
const STEP_WORK_MAX: u64 = 2 * cost::STEPS_MAX;
const ROOTS: [&str; 4] = ["input", "run", "steps", "item"];

/// The values that expressions of one step see. Cheap to extend by an item.
pub struct Scope {
    variables: HashMap<&'static str, cel::Value>,
    /// Their sizes, without the item.
    seen: cost::Seen,
    /// With the item.
    seen_with_item: Option<cost::Seen>,
    /// Values looked at since [`Self::start_step`], at most.
    step_work: Cell<u64>,
    /// As above, since the beginning.
    work: Cell<u64>,
    /// Expressions that were parsed: those of a `for_each` come again with every item, and parsing is most of the work.
    parsed: RefCell<HashMap<String, Rc<cel::Program>>>,
}

impl Scope {
    /// Of a run: `input`, `run`, and `steps` by id.
    pub fn new(input: &Json, run: &Json, steps: HashMap<String, Json>) -> Self {
        let mut seen = cost::Seen::default();
        seen.add(input);
        seen.add_map(steps.values());
        let steps: HashMap<String, cel::Value> =
            steps.into_iter().map(|(id, seen)| (id, to_cel(&seen))).collect();
        Self {
            variables: HashMap::from([
                ("input", to_cel(input)),
                ("run", to_cel(run)),
                ("steps", cel::Value::from(steps)),
            ]),
            seen,
            seen_with_item: None,
            step_work: Cell::new(0),
            work: Cell::new(0),
            parsed: RefCell::default(),
        }
    }

    /// From here on, another step has its expressions evaluated.
    pub fn start_step(&self) {
        self.step_work.set(0);
        self.parsed.borrow_mut().clear();
    }

    /// Values that all expressions so far may have looked at.
    pub fn work(&self) -> u64 {
        self.work.get()
    }

    /// The same with `item` and `index` of a `for_each`.
    pub fn set_item(&mut self, item: &Json, index: usize) {
        let mut seen = self.seen.clone();
        seen.add(item);
        self.seen_with_item = Some(seen);
        self.variables.insert("item", to_cel(item));
        self.variables.insert("index", cel::Value::Int(i64::try_from(index).unwrap_or(i64::MAX)));
    }

    /// Without them again.
    pub fn clear_item(&mut self) {
        self.seen_with_item = None;
        self.variables.remove("item");
        self.variables.remove("index");
    }

    /// Evaluates an expression that [`check`] has passed. Pure; may take long: see [`bounded`].
    ///
    /// # Errors
    /// It does not parse, or fails over these values.
    pub fn eval(&self, expr: &str) -> Result<Json, ExprFault> {
        let program = self.parsed(expr)?;
        self.spend(expr, &program)?;
        let mut context = cel::Context::default();
        for (name, value) in &self.variables {
            context.add_variable_from_value(*name, value.clone());
        }
        let value = program.execute(&context).map_err(|e| failed(expr, e))?;
        value.json().map_err(|e| failed(expr, e))
    }

    fn parsed(&self, expr: &str) -> Result<Rc<cel::Program>, ExprFault> {
        if let Some(program) = self.parsed.borrow().get(expr) {
            return Ok(Rc::clone(program));
        }
        let program = Rc::new(names::parse(expr)?);
        self.parsed.borrow_mut().insert(expr.to_owned(), Rc::clone(&program));
        Ok(program)
    }

    /// The evaluator has no bound of its own.
    fn spend(&self, expr: &str, program: &cel::Program) -> Result<(), ExprFault> {
        let seen = self.seen_with_item.as_ref().unwrap_or(&self.seen);
        let too_much = || ExprFault::TooMuch { expr: cut_short(expr) };
        let steps = cost::steps_of(program.expression(), &ROOTS, seen)
            .map_err(|_: TooMuch| too_much())?
            .saturating_add(1);
        self.work.set(self.work.get().saturating_add(steps));
        self.step_work.set(self.step_work.get().saturating_add(steps));
        if self.step_work.get() > STEP_WORK_MAX { Err(too_much()) } else { Ok(()) }
    }

    /// As [`Self::eval`], for a condition.
    ///
    /// # Errors
    /// Also where it is neither true nor false.
    pub fn condition(&self, expr: &str) -> Result<bool, ExprFault> {
        match self.eval(expr)? {
            Json::Bool(yes) => Ok(yes),
            other => Err(wrong_type(expr, &other, "true or false")),
        }
    }

    /// As [`Self::eval`], for the list of a `for_each`.
    ///
    /// # Errors
    /// Also where it is no list.
    pub fn list(&self, expr: &str) -> Result<Vec<Json>, ExprFault> {
        match self.eval(expr)? {
            Json::Array(items) => Ok(items),
            other => Err(wrong_type(expr, &other, "a list")),
        }
    }
}

fn wrong_type(expr: &str, found: &Json, wanted: &'static str) -> ExprFault {
    let found = match found {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "list",
        Json::Object(_) => "map",
    };
    ExprFault::Type { expr: cut_short(expr), found: found.into(), wanted }
}

fn failed(expr: &str, error: impl std::fmt::Display) -> ExprFault {
    ExprFault::Failed { expr: cut_short(expr), message: cut_short(&error.to_string()) }
}

/// An error may quote a whole value; its beginning is enough.
fn cut_short(text: &str) -> String {
    const MAX: usize = 256;
    if text.len() <= MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX)])
}

/// Whole numbers become `int` where they fit, so that they compare with literals.
pub fn to_cel(value: &Json) -> cel::Value {
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
            let fields: HashMap<String, cel::Value> =
                fields.iter().map(|(key, value)| (key.clone(), to_cel(value))).collect();
            cel::Value::from(fields)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scope() -> Scope {
        let steps = HashMap::from([
            ("a".to_owned(), json!({"state": "succeeded", "output": {"n": 3, "list": [1, 2]}})),
            ("b-c.d".to_owned(), json!({"state": "skipped", "output": null})),
        ]);
        Scope::new(&json!({"who": "ada", "n": 2}), &json!({"id": "r", "name": "etl"}), steps)
    }

    #[test]
    fn expressions_see_input_steps_run_and_item() {
        let mut scope = scope();
        scope.set_item(&json!({"x": 1.5}), 7);
        for (expr, want) in [
            ("input.who + '!'", json!("ada!")),
            ("steps.a.output.n * input.n", json!(6)),
            ("steps['b-c.d'].state", json!("skipped")),
            ("steps['b-c.d'].output == null", json!(true)),
            ("steps.a.output.list.map(x, x + 1)", json!([2, 3])),
            (
                "{'item': item.x, 'at': index, 'of': run.name}",
                json!({"item": 1.5, "at": 7, "of": "etl"}),
            ),
            ("has(input.nope) ? 1 : 0", json!(0)),
        ] {
            assert_eq!(scope.eval(expr).unwrap(), want, "{expr}");
        }
    }

    #[test]
    fn an_expression_that_would_not_end_is_not_begun() {
        let list = Json::from(vec![1; 3_000]);
        let scope = Scope::new(&json!({ "list": list }), &json!({}), HashMap::new());
        let all = "input.list.all(a, input.list.all(b, a == b))";
        assert_eq!(scope.eval(all), Err(ExprFault::TooMuch { expr: all.into() }));
        let fine = "input.list.map(a, a + 1).all(b, b > 0)";
        let program = names::parse(fine).unwrap();
        let mut runs = 0;
        // Each is fine; all together are bounded until the next step.
        while scope.spend(fine, &program).is_ok() {
            runs += 1;
        }
        assert!((100..4_000).contains(&runs), "{runs}");
        assert!(matches!(scope.eval(fine), Err(ExprFault::TooMuch { .. })));
        scope.start_step();
        assert_eq!(scope.eval(fine), Ok(json!(true)));
    }

    #[test]
    fn what_an_expression_must_yield_is_checked() {
        let scope = scope();
        assert_eq!(scope.condition("input.n == 2"), Ok(true));
        assert_eq!(scope.list("steps.a.output.list"), Ok(vec![json!(1), json!(2)]));
        let text = scope.condition("input.n").unwrap_err().to_string();
        assert_eq!(text, "the expression \"input.n\" yields a number, not true or false");
        assert!(scope.list("input").unwrap_err().to_string().ends_with("yields a map, not a list"));
        let text = scope.eval("input.nope").unwrap_err().to_string();
        assert!(text.contains("input.nope") && text.contains("failed"), "{text}");
    }
}
