//! What an expression names, found in its syntax tree before it ever runs.

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::depth::is_shallow;
use super::{EXPR_BYTES_MAX, ExprFault, NESTED_LOOPS_MAX, cut_short};

const ROOTS: [&str; 3] = ["input", "run", "steps"];
const ITEM_ROOTS: [&str; 2] = ["item", "index"];

/// What an expression needs to be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Ids of the steps whose state, output or error it reads; each once.
    pub steps: Vec<String>,
}

/// Checks that an expression parses, is bounded, and names only what a step sees; which steps it reads.
/// `in_item`: it is part of a step with `for_each`, so that `item` and `index` are there.
///
/// # Errors
/// The first fault.
pub fn check(expr: &str, in_item: bool) -> Result<Names, ExprFault> {
    let program = parse(expr)?;
    let mut walk = Walk { expr, in_item, bound: Vec::new(), names: Names::default() };
    walk.visit(program.expression(), 0)?;
    Ok(walk.names)
}

/// Parses, within bounds.
pub(super) fn parse(expr: &str) -> Result<cel::Program, ExprFault> {
    if expr.len() > EXPR_BYTES_MAX {
        return Err(ExprFault::TooLong);
    }
    if !is_shallow(expr) {
        return Err(ExprFault::TooDeep);
    }
    cel::Program::compile(expr).map_err(|e| ExprFault::Syntax {
        expr: cut_short(expr),
        message: cut_short(e.to_string().trim()),
    })
}

struct Walk<'a> {
    expr: &'a str,
    in_item: bool,
    /// Variables of the loops around, innermost last.
    bound: Vec<&'a str>,
    names: Names,
}

impl<'a> Walk<'a> {
    fn visit<'e: 'a>(&mut self, node: &'e IdedExpr, loops: usize) -> Result<(), ExprFault> {
        match &node.expr {
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) if self.is_steps(&select.operand) => {
                self.step(&select.field);
                Ok(())
            }
            Expr::Select(select) => self.visit(&select.operand, loops),
            Expr::Call(call) => {
                if let Some(id) = self.indexed_step(&call.func_name, &call.args) {
                    self.step(id);
                    return Ok(());
                }
                call.target.iter().try_for_each(|target| self.visit(target, loops))?;
                call.args.iter().try_for_each(|arg| self.visit(arg, loops))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|e| self.visit(e, loops)),
            Expr::Map(map) => map.entries.iter().try_for_each(|e| self.entry(&e.expr, loops)),
            Expr::Struct(fields) => {
                fields.entries.iter().try_for_each(|e| self.entry(&e.expr, loops))
            }
            Expr::Comprehension(each) => {
                if loops == NESTED_LOOPS_MAX {
                    return Err(ExprFault::TooDeep);
                }
                self.visit(&each.iter_range, loops)?;
                self.visit(&each.accu_init, loops)?;
                let outer = self.bound.len();
                self.bound.push(&each.iter_var);
                self.bound.extend(each.iter_var2.as_deref());
                self.bound.push(&each.accu_var);
                self.visit(&each.loop_cond, loops + 1)?;
                self.visit(&each.loop_step, loops + 1)?;
                self.visit(&each.result, loops + 1)?;
                self.bound.truncate(outer);
                Ok(())
            }
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    fn entry<'e: 'a>(&mut self, entry: &'e EntryExpr, loops: usize) -> Result<(), ExprFault> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key, loops)?;
                self.visit(&entry.value, loops)
            }
            EntryExpr::StructField(field) => self.visit(&field.value, loops),
        }
    }

    fn is_steps(&self, node: &IdedExpr) -> bool {
        matches!(&node.expr, Expr::Ident(name) if name == "steps") && !self.bound.contains(&"steps")
    }

    fn indexed_step<'e>(&self, function: &str, args: &'e [IdedExpr]) -> Option<&'e str> {
        match args {
            [target, key] if function == operators::INDEX && self.is_steps(target) => {
                match &key.expr {
                    Expr::Literal(LiteralValue::String(id)) => Some(id.inner()),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn step(&mut self, id: &str) {
        if !self.names.steps.iter().any(|known| known == id) {
            self.names.steps.push(id.to_owned());
        }
    }

    fn ident(&self, name: &str) -> Result<(), ExprFault> {
        let unknown = |hint| ExprFault::UnknownName {
            expr: cut_short(self.expr),
            name: name.to_owned(),
            hint,
        };
        if self.bound.contains(&name) {
            return Ok(());
        }
        if name == "steps" {
            return Err(unknown("write steps.ID or steps[\"ID\"] with the id of a step"));
        }
        if ROOTS.contains(&name) || (self.in_item && ITEM_ROOTS.contains(&name)) {
            return Ok(());
        }
        if ITEM_ROOTS.contains(&name) {
            return Err(unknown("only a step with for_each has an item and an index"));
        }
        // Names of types are values in CEL, as in `type(x) == string`.
        if ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"]
            .contains(&name)
        {
            return Ok(());
        }
        Err(unknown("expressions see input, run, steps, and in for_each item and index"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(expr: &str) -> Vec<String> {
        check(expr, true).unwrap_or_else(|e| panic!("{expr}: {e}")).steps
    }
    fn fault(expr: &str) -> String {
        check(expr, false).expect_err(expr).to_string()
    }

    #[test]
    fn the_steps_that_an_expression_reads_are_found_wherever_they_stand() {
        assert_eq!(steps("steps.a.output.n + steps['b-c'].output"), ["a", "b-c"]);
        assert_eq!(
            steps("has(steps.a.output) ? [steps.b.state] : {'k': steps.c.output}"),
            ["a", "b", "c"]
        );
        assert_eq!(steps("steps.a.output.filter(x, x > steps.b.output && x != index)"), ["a", "b"]);
        assert_eq!(steps("size(steps.a.output.list) == 2 && !(steps.a.state == 'x')"), ["a"]);
        assert_eq!(steps("input.steps.a + item.x"), [""; 0]);
        assert_eq!(steps("input.map(steps, steps.x)"), [""; 0]);
    }

    #[test]
    fn names_that_are_not_there_are_refused_by_name() {
        for (expr, name) in [
            ("inputs.n", "inputs"),
            ("item.n", "item"),
            ("size(steps)", "steps"),
            ("steps[input.which].output", "steps"),
            ("input.list.map(x, y)", "y"),
        ] {
            let text = fault(expr);
            assert!(text.contains(&format!("names {name:?}")), "{expr}: {text}");
        }
        assert!(fault("input.n ==").contains("does not parse"));
    }

    #[test]
    fn expressions_are_bounded_before_they_are_parsed() {
        assert_eq!(check(&"1".repeat(EXPR_BYTES_MAX + 1), false), Err(ExprFault::TooLong));
        for deep in ["(", "[", "!", "-", "1 ? 1 : "] {
            assert!(check(&deep.repeat(1_000 / deep.len()), false).is_err(), "{deep}");
        }
        let nested = "input.a.map(a, input.a.map(b, input.a.map(c, input.a.map(d, d))))";
        assert_eq!(check(nested, false), Err(ExprFault::TooDeep));
        assert!(check("input.a.map(a, input.a.map(b, input.a.map(c, c)))", false).is_ok());
        // Long, but not deep: the parser must take it.
        let long = vec!["input.n"; 400].join(" + ");
        assert!(check(&long, false).is_ok() || check(&long, false) == Err(ExprFault::TooDeep));
    }
}
