//! How much work an expression may take over the values that it sees, before it runs: the evaluator itself has no
//! limit.
//!
//! Walks the expression with a bound for every value instead of the value: how long it can be, how many
//! bytes a text in it can have, how many values it can consist of. Comprehensions multiply.

use std::rc::Rc;

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use serde_json::Value as Json;

/// Values that an expression may look at.
pub(crate) const STEPS_MAX: u64 = 5_000_000;
/// Bytes that it may put together.
pub(crate) const BYTES_MAX: u64 = 256 << 20;
/// Memory of one value in a list.
const ITEM_BYTES: u64 = 64;
/// Bytes of text that are looked at in one step.
const STEP_BYTES: u64 = 64;

/// Which bound an expression goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMuch {
    /// [`STEPS_MAX`].
    Steps,
    /// [`BYTES_MAX`].
    Bytes,
}

/// Whether a run of the expression over the output stays within the bounds.
pub(super) fn check(expr: &IdedExpr, output: &Json) -> Result<(), TooMuch> {
    let mut seen = Seen::default();
    seen.add(output);
    steps_of(expr, &["output", "value"], &seen).map(|_| ())
}

/// The values looked at by a run of the expression, which names what was seen by any of `roots`.
pub(crate) fn steps_of(expr: &IdedExpr, roots: &[&str], seen: &Seen) -> Result<u64, TooMuch> {
    let mut levels = seen.levels.clone();
    // What is at a level may come from any level below it as well, where values are joined.
    for level in (1..levels.len()).rev() {
        let below = levels[level];
        levels[level - 1] = levels[level - 1].max(below);
    }
    let mut walk = Walk { levels, roots, scope: Vec::new(), steps: 0, bytes: 0 };
    walk.expr(expr, 1);
    match (walk.steps > STEPS_MAX, walk.bytes > BYTES_MAX) {
        (true, _) => Err(TooMuch::Steps),
        (_, true) => Err(TooMuch::Bytes),
        _ => Ok(walk.steps),
    }
}

/// Sizes of the values that an expression may name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    levels: Vec<Level>,
}

impl Seen {
    /// One more value.
    pub(crate) fn add(&mut self, value: &Json) {
        survey(value, 0, &mut self.levels);
    }

    /// One more value, a map of so many.
    pub(crate) fn add_map<'v>(&mut self, values: impl ExactSizeIterator<Item = &'v Json>) {
        let items = values.len() as u64;
        let mut here = Level { items, nodes: 1 + items, ..Level::default() };
        for value in values {
            here.nodes += survey(value, 1, &mut self.levels);
        }
        if self.levels.is_empty() {
            self.levels.push(Level::default());
        }
        self.levels[0] = self.levels[0].max(here);
    }
}

/// The largest of its level in the output.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    items: u64,
    text: u64,
    nodes: u64,
}

impl Level {
    fn max(self, other: Self) -> Self {
        Self {
            items: self.items.max(other.items),
            text: self.text.max(other.text),
            nodes: self.nodes.max(other.nodes),
        }
    }
}

/// Notes every value of the output at its level; how many values there are. The parser bounds the depth.
fn survey(value: &Json, level: usize, levels: &mut Vec<Level>) -> u64 {
    if levels.len() <= level {
        levels.resize(level + 1, Level::default());
    }
    let mut here = Level { nodes: 1, ..Level::default() };
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
        Json::String(text) => here.text = text.len() as u64,
        Json::Array(items) => {
            here.items = items.len() as u64;
            here.nodes += items.iter().map(|item| survey(item, level + 1, levels)).sum::<u64>();
        }
        Json::Object(fields) => {
            here.items = fields.len() as u64;
            // A comprehension over an object goes over its keys.
            for (key, field) in fields {
                here.nodes += survey(field, level + 1, levels) + 1;
                levels[level + 1].text = levels[level + 1].text.max(key.len() as u64);
            }
        }
    }
    here.nodes += here.text / STEP_BYTES;
    levels[level] = levels[level].max(here);
    here.nodes
}

/// Upper bounds of a value.
#[derive(Debug, Clone)]
struct Bound {
    items: u64,
    text: u64,
    nodes: u64,
    part: Part,
}

/// What the values inside of a value are.
#[derive(Debug, Clone)]
enum Part {
    /// None, or simple ones.
    Plain,
    /// Values of the output at this level or below it.
    Output(usize),
    /// Made by the expression.
    Made(Rc<Bound>),
}

impl Bound {
    const PLAIN: Self = Self { items: 0, text: 32, nodes: 1, part: Part::Plain };

    fn bytes(&self) -> u64 {
        self.items.saturating_mul(ITEM_BYTES).saturating_add(self.text)
    }

    /// Either of two.
    fn or(self, other: Self, levels: &[Level]) -> Self {
        Self {
            items: self.items.max(other.items),
            text: self.text.max(other.text),
            nodes: self.nodes.max(other.nodes),
            part: self.part.or(other.part, levels),
        }
    }

    /// Both, one after the other.
    fn and(self, other: Self, levels: &[Level]) -> Self {
        Self {
            items: self.items.saturating_add(other.items),
            text: self.text.saturating_add(other.text),
            nodes: self.nodes.saturating_add(other.nodes),
            part: self.part.or(other.part, levels),
        }
    }
}

impl Part {
    fn bound(&self, levels: &[Level]) -> Bound {
        match self {
            Self::Plain => Bound::PLAIN,
            Self::Output(level) => {
                let Level { items, text, nodes } = levels.get(*level).copied().unwrap_or_default();
                let part =
                    if *level < levels.len() { Self::Output(level + 1) } else { Self::Plain };
                Bound { items, text: text.max(Bound::PLAIN.text), nodes: nodes.max(1), part }
            }
            Self::Made(bound) => (**bound).clone(),
        }
    }

    fn or(self, other: Self, levels: &[Level]) -> Self {
        match (self, other) {
            (Self::Plain, part) | (part, Self::Plain) => part,
            (Self::Output(a), Self::Output(b)) => Self::Output(a.min(b)),
            (a, b) => Self::Made(Rc::new(a.bound(levels).or(b.bound(levels), levels))),
        }
    }
}

struct Walk<'a> {
    levels: Vec<Level>,
    roots: &'a [&'a str],
    /// Variables of comprehensions, innermost last.
    scope: Vec<(&'a str, Bound)>,
    steps: u64,
    bytes: u64,
}

impl<'a> Walk<'a> {
    /// Counts what an expression that runs so many times takes; what its value can be.
    fn expr(&mut self, expr: &'a IdedExpr, times: u64) -> Bound {
        match &expr.expr {
            Expr::Unspecified => Bound::PLAIN,
            Expr::Literal(literal) => {
                let text = match literal {
                    LiteralValue::String(text) => text.inner().len() as u64,
                    LiteralValue::Bytes(bytes) => bytes.inner().len() as u64,
                    _ => 0,
                };
                Bound { text: text.max(Bound::PLAIN.text), ..Bound::PLAIN }
            }
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let operand = self.expr(&select.operand, times);
                operand.part.bound(&self.levels)
            }
            Expr::List(list) => {
                let items = list.elements.iter().map(|item| self.expr(item, times)).collect();
                self.made(items, times)
            }
            Expr::Map(map) => {
                let entries = map.entries.iter().flat_map(|entry| parts_of(&entry.expr));
                let entries = entries.map(|item| self.expr(item, times)).collect();
                self.made(entries, times)
            }
            Expr::Struct(made) => {
                let entries = made.entries.iter().flat_map(|entry| parts_of(&entry.expr));
                let entries = entries.map(|item| self.expr(item, times)).collect();
                self.made(entries, times)
            }
            Expr::Call(call) => {
                let args = call.target.as_deref().into_iter().chain(&call.args);
                let args = args.map(|arg| self.expr(arg, times)).collect();
                self.call(&call.func_name, args, times)
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, times),
        }
    }

    fn variable(&self, name: &str) -> Bound {
        match self.scope.iter().rev().find(|(known, _)| *known == name) {
            Some((_, bound)) => bound.clone(),
            None if self.roots.contains(&name) => Part::Output(0).bound(&self.levels),
            None => Bound::PLAIN,
        }
    }

    /// A list, map or message of these.
    fn made(&mut self, items: Vec<Bound>, times: u64) -> Bound {
        let made = Bound { items: items.len() as u64, ..Bound::PLAIN };
        self.bytes = self.bytes.saturating_add(times.saturating_mul(made.bytes()));
        self.steps = self.steps.saturating_add(times.saturating_mul(made.items / 16));
        let nodes = items.iter().fold(1_u64, |sum, item| sum.saturating_add(item.nodes));
        let parts = items.into_iter().reduce(|all, item| all.or(item, &self.levels));
        let part = parts.map_or(Part::Plain, |bound| Part::Made(Rc::new(bound)));
        Bound { nodes, part, ..made }
    }

    fn call(&mut self, name: &str, args: Vec<Bound>, times: u64) -> Bound {
        let nodes = || args.iter().map(|arg| arg.nodes);
        let texts = args.iter().fold(0_u64, |sum, arg| sum.saturating_add(arg.text));
        let steps = match name {
            operators::EQUALS | operators::NOT_EQUALS => nodes().min().unwrap_or(1) - 1,
            operators::IN => args.last().map_or(0, |list| list.items),
            operators::ADD => 0,
            // The functions have names, and may go over every byte of a text.
            _ if name.starts_with(|c: char| c.is_ascii_alphabetic()) => 1 + texts / STEP_BYTES,
            _ => 0,
        };
        self.steps = self.steps.saturating_add(times.saturating_mul(steps));
        let levels = &self.levels;
        match name {
            operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => {
                args.first().map_or(Bound::PLAIN, |whole| whole.part.bound(levels))
            }
            operators::CONDITIONAL => {
                let values = args.into_iter().skip(1);
                values.reduce(|a, b| a.or(b, levels)).unwrap_or(Bound::PLAIN)
            }
            operators::ADD => {
                let sum = args.into_iter().reduce(|a, b| a.and(b, levels));
                let sum = sum.unwrap_or(Bound::PLAIN);
                self.bytes = self.bytes.saturating_add(times.saturating_mul(sum.bytes()));
                sum
            }
            operators::EQUALS
            | operators::NOT_EQUALS
            | operators::IN
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::LOGICAL_NOT
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::NEGATE => Bound::PLAIN,
            // Its value is one of its arguments, or made of them.
            _ => args.into_iter().reduce(|a, b| a.and(b, levels)).unwrap_or(Bound::PLAIN),
        }
    }

    fn comprehension(&mut self, it: &'a ComprehensionExpr, times: u64) -> Bound {
        let range = self.expr(&it.iter_range, times);
        let turns = times.saturating_mul(range.items);
        self.steps = self.steps.saturating_add(turns);
        let accu = self.expr(&it.accu_init, times);
        let before = self.scope.len();
        let item = range.part.bound(&self.levels);
        self.scope.push((&it.iter_var, item.clone()));
        self.scope.extend(it.iter_var2.as_deref().map(|name| (name, item)));
        // What one turn adds: the evaluator appends to the list that is being made.
        self.scope.push((&it.accu_var, accu.clone()));
        self.expr(&it.loop_cond, turns);
        let step = self.expr(&it.loop_step, turns);
        let sum = Bound {
            items: step.items.saturating_mul(range.items),
            text: step.text.max(accu.text),
            nodes: step.nodes.saturating_mul(range.items).saturating_add(1),
            part: step.part,
        };
        self.scope.truncate(before);
        self.scope.push((&it.accu_var, sum.or(accu, &self.levels)));
        let result = self.expr(&it.result, times);
        self.scope.truncate(before);
        result
    }
}

fn parts_of(entry: &EntryExpr) -> impl Iterator<Item = &IdedExpr> {
    let (key, value) = match entry {
        EntryExpr::StructField(field) => (None, &field.value),
        EntryExpr::MapEntry(entry) => (Some(&entry.key), &entry.value),
    };
    key.into_iter().chain([value])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(expr: &str, output: &Json) -> Result<(), TooMuch> {
        check(cel::Program::compile(expr).unwrap().expression(), output)
    }

    #[test]
    fn what_people_write_is_let_through() {
        let item = |i: u32| serde_json::json!({"id": i, "name": "a name", "price": 1, "tax": 2, "ok": true, "tags": ["x", "y"]});
        let items: Vec<Json> = (0..5_000).map(item).collect();
        let output = serde_json::json!({"items": items, "text": "x".repeat(500_000)});
        for expr in [
            "output.items.all(x, x.price + x.tax > 0 && x.name != '')",
            "output.items.all(x, x.tags.all(t, t in ['x', 'y']))",
            "output.items.filter(x, x.ok).map(x, x.price + x.tax).exists(p, p > 2)",
            "output.items.filter(x, x.ok).map(x, x.name + '!').all(n, n.startsWith('a'))",
            "size(output.items) == 5000 && output.text + output.text != ''",
            "output.text.matches('^x+$') && has(output.items)",
        ] {
            assert_eq!(verdict(expr, &output), Ok(()), "{expr}");
        }
    }

    #[test]
    fn what_would_not_end_is_refused() {
        let output = serde_json::json!({
            "list": vec![1; 3_000],
            "deep": [vec![vec![0; 100]; 1_000]],
            "text": "x".repeat(200_000),
        });
        let doubling = format!("['x']{}.all(x, x != '')", ".map(a, a + a)".repeat(40));
        let lists = format!("[output.list]{}.all(x, x != [])", ".map(a, a + a)".repeat(40));
        let literal = format!("[{}]", vec!["0"; 200].join(","));
        let literals = format!("{literal}.all(a, {literal}.all(b, {literal}.all(c, true)))");
        for (expr, want) in [
            ("output.list.all(a, output.list.all(b, a == b))", TooMuch::Steps),
            ("output.deep.all(a, a.all(b, b.all(c, output.list.all(d, true))))", TooMuch::Steps),
            ("output.list.map(a, output.list).all(x, x.all(y, y == 1))", TooMuch::Steps),
            ("output.list.all(a, output.list + [a] == output.list)", TooMuch::Steps),
            ("output.list.map(a, output.text + output.text) != []", TooMuch::Bytes),
            ("output.list.all(a, output.text.matches('(x+x+)+y'))", TooMuch::Steps),
            (&doubling, TooMuch::Bytes),
            (&lists, TooMuch::Bytes),
            (&literals, TooMuch::Steps),
        ] {
            assert_eq!(verdict(expr, &output), Err(want), "{expr}");
        }
    }
}
