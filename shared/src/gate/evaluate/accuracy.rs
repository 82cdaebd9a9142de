//! How much of a value is what it should be.

use serde_json::{Number, Value as Json};

use super::{LISTED_EACH_MAX, Sheet, place};
use crate::model::evaluate::{Accuracy, Dimension};

/// Longest part of a value that is quoted, in bytes.
const QUOTE_BYTES_MAX: usize = 80;

/// Scores `value` against what is expected.
pub(super) fn score(accuracy: &Accuracy, value: &Json, sheet: &mut Sheet) {
    let mut tally = Tally {
        tolerance: accuracy.tolerance,
        all: 0,
        wrong: 0,
        path: Vec::new(),
        listed: Vec::new(),
    };
    tally.compare(&accuracy.expected, Some(value));
    for Miss { path, expected, found } in tally.listed {
        let at = place(&path);
        let (message, advice) = match expected {
            Some(expected) => (
                format!("at {at}: expected {expected}, found {found}"),
                format!("Correct {at}: {expected} is expected."),
            ),
            None => {
                (format!("at {at}: {found} is not expected"), format!("Leave out what is at {at}."))
            }
        };
        sheet.note(Dimension::Accuracy, message, advice);
    }
    sheet.ratio(Dimension::Accuracy, tally.all - tally.wrong, tally.all);
}

/// A place where the value is not what it should be.
struct Miss {
    path: String,
    /// `None`: nothing.
    expected: Option<String>,
    found: String,
}

enum Step<'e> {
    Field(&'e str),
    Item(usize),
}

struct Tally<'e> {
    tolerance: f64,
    /// Leaves.
    all: usize,
    /// Those that don't match.
    wrong: usize,
    path: Vec<Step<'e>>,
    listed: Vec<Miss>,
}

impl<'e> Tally<'e> {
    fn compare(&mut self, expected: &'e Json, found: Option<&'e Json>) {
        match (expected, found) {
            (Json::Array(want), Some(Json::Array(have))) if !want.is_empty() => {
                for (at, want) in want.iter().enumerate() {
                    self.below(Step::Item(at), |tally| tally.compare(want, have.get(at)));
                }
                for (at, extra) in have.iter().enumerate().skip(want.len()) {
                    self.below(Step::Item(at), |tally| tally.miss(1, None, Some(extra)));
                }
            }
            (Json::Object(want), Some(Json::Object(have))) if !want.is_empty() => {
                for (name, want) in want {
                    let have = have.get(name);
                    self.below(Step::Field(name), |tally| tally.compare(want, have));
                }
            }
            (expected, Some(found)) if matches(expected, found, self.tolerance) => self.all += 1,
            // What an empty list has in it is beyond what is expected, item by item.
            (Json::Array(want), Some(Json::Array(have))) if want.is_empty() => {
                self.miss(have.len(), Some(expected), found);
            }
            (expected, found) => self.miss(leaves(expected), Some(expected), found),
        }
    }

    fn below(&mut self, step: Step<'e>, look: impl FnOnce(&mut Self)) {
        self.path.push(step);
        look(self);
        self.path.pop();
    }

    fn miss(&mut self, leaves: usize, expected: Option<&Json>, found: Option<&Json>) {
        self.all += leaves;
        self.wrong += leaves;
        if self.listed.len() < LISTED_EACH_MAX {
            let found = found.map_or_else(|| "nothing".to_owned(), quote);
            self.listed.push(Miss { path: self.pointer(), expected: expected.map(quote), found });
        }
    }

    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.path {
            pointer.push('/');
            match step {
                Step::Item(at) => pointer.push_str(&at.to_string()),
                Step::Field(name) => {
                    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                }
            }
        }
        pointer
    }
}

/// Leaves of an expected value: what is neither a list nor an object with something in it.
fn leaves(value: &Json) -> usize {
    match value {
        Json::Array(items) if !items.is_empty() => items.iter().map(leaves).sum(),
        Json::Object(fields) if !fields.is_empty() => fields.values().map(leaves).sum(),
        _ => 1,
    }
}

fn matches(expected: &Json, found: &Json, tolerance: f64) -> bool {
    match (expected, found) {
        (Json::Number(expected), Json::Number(found)) => is_close(expected, found, tolerance),
        // Fields that are not named are not looked at.
        (Json::Object(expected), Json::Object(_)) => expected.is_empty(),
        (expected, found) => expected == found,
    }
}

fn is_close(expected: &Number, found: &Number, tolerance: f64) -> bool {
    if expected == found {
        return true;
    }
    let is_whole = |n: &Number| n.is_i64() || n.is_u64();
    if tolerance <= 0.0 && is_whole(expected) && is_whole(found) {
        // As fractions, large ones that differ could look the same.
        return false;
    }
    let (Some(expected), Some(found)) = (expected.as_f64(), found.as_f64()) else { return false };
    let scale = if expected == 0.0 { 1.0 } else { expected.abs() };
    (found - expected).abs() <= tolerance * scale
}

fn quote(value: &Json) -> String {
    // Written out whole before it is cut: a value has at most 1 MiB, and few are quoted.
    super::shortened(value.to_string(), QUOTE_BYTES_MAX)
}
