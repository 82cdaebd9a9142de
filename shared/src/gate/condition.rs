//! Whether a CEL expression holds over a value.

use serde_json::Value as Json;

use super::{cost, cut_short};
use crate::expr::depth::is_shallow;
use crate::expr::{EXPR_BYTES_MAX, to_cel};

/// What an expression makes of a value.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is true.
    Holds,
    /// It is false, or failed over this value; in words.
    Not(String),
}

/// A value that expressions name as `output` or as `value`.
pub(super) struct Subject<'v> {
    json: &'v Json,
    cel: cel::Value,
}

impl<'v> Subject<'v> {
    /// Of this value.
    pub(super) fn new(json: &'v Json) -> Self {
        Self { json, cel: to_cel(json) }
    }

    /// Evaluates a condition, after a look at how much it may take.
    ///
    /// # Errors
    /// It is no condition, does not parse, or may take too much.
    pub(super) fn check(&self, expr: &str) -> Result<Verdict, String> {
        if expr.len() > EXPR_BYTES_MAX {
            return Err(format!("the expression is longer than {EXPR_BYTES_MAX} bytes"));
        }
        if !is_shallow(expr) {
            return Err("the expression is nested too deeply, or has over 200 operators".into());
        }
        let program = cel::Program::compile(expr)
            .map_err(|e| format!("the expression does not parse: {}", cut_short(e.to_string())))?;
        cost::check(program.expression(), self.json).map_err(|too_much| match too_much {
            cost::TooMuch::Steps => {
                format!("the expression would look at more than {} values", cost::STEPS_MAX)
            }
            cost::TooMuch::Bytes => {
                format!("the expression would put together more than {} bytes", cost::BYTES_MAX)
            }
        })?;
        let mut context = cel::Context::default();
        context.add_variable_from_value("output", self.cel.clone());
        context.add_variable_from_value("value", self.cel.clone());
        match program.execute(&context) {
            Ok(cel::Value::Bool(true)) => Ok(Verdict::Holds),
            Ok(cel::Value::Bool(false)) => Ok(Verdict::Not(format!("`{expr}` is false"))),
            Ok(other) => Err(format!("`{expr}` is not a condition but a {}", other.type_of())),
            Err(e) => Ok(Verdict::Not(format!("`{expr}` failed: {}", cut_short(e.to_string())))),
        }
    }
}
