//! Expressions of a document: each is parsed once, and how many there are is bounded.

use serde_json::Value as Json;
use windlass_shared::expr::{self, ExprFault, template};

use crate::requests::Faults;

/// Most expressions of a document, and most bytes of texts with expressions. Parsing is the dearest part of a check.
const EXPRS_MAX: usize = 50_000;
const BYTES_MAX: usize = 4 << 20;

/// What one part of a step reads of others.
#[derive(Debug)]
pub(super) struct Read {
    /// Position of the step; `None`: of the run's end, after all.
    pub step: Option<u32>,
    /// To the part, below the document.
    pub pointer: String,
    /// Ids of the steps that it reads.
    pub names: Vec<String>,
    /// It runs after its own step has ended.
    pub after: bool,
}

impl Read {
    /// By what is evaluated when every step has ended.
    pub fn at_end(pointer: &str, names: Vec<String>) -> Self {
        Self { step: None, pointer: pointer.to_owned(), names, after: true }
    }
}

/// Counts and checks expressions.
#[derive(Debug, Default)]
pub(super) struct Exprs {
    count: usize,
    bytes: usize,
}

impl Exprs {
    /// A part that is an expression as a whole; one in `${{ }}` is taken too. It as it is stored, and the steps that
    /// it reads.
    pub fn whole(
        &mut self,
        text: &str,
        pointer: &str,
        faults: &mut Faults,
    ) -> Option<(String, Vec<String>)> {
        let expr = template::sole_expr(text).unwrap_or(text);
        self.spend(1, expr.len(), faults)?;
        match expr::check(expr, false) {
            Ok(names) => Some((expr.to_owned(), names.steps)),
            Err(fault) => {
                note(&fault, pointer, faults);
                None
            }
        }
    }

    /// Every template in the strings of a value; the steps that they read.
    pub fn template(
        &mut self,
        value: &Json,
        pointer: &str,
        in_item: bool,
        faults: &mut Faults,
    ) -> Option<Vec<String>> {
        let (count, bytes) = template::count(value);
        self.spend(count, bytes, faults)?;
        match template::check_all(value, in_item) {
            Ok(names) => Some(names.steps),
            Err((below, fault)) => {
                note(&fault, &format!("{pointer}{below}"), faults);
                None
            }
        }
    }

    /// Notes once that there are too many; those beyond are not looked at.
    fn spend(&mut self, count: usize, bytes: usize, faults: &mut Faults) -> Option<()> {
        let was_fine = self.count <= EXPRS_MAX && self.bytes <= BYTES_MAX;
        self.count = self.count.saturating_add(count);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.count <= EXPRS_MAX && self.bytes <= BYTES_MAX {
            return Some(());
        }
        if was_fine {
            let text = format!(
                "has one expression too many: a workflow may have {EXPRS_MAX}, in texts of {} MiB together",
                BYTES_MAX >> 20
            );
            faults.wrong("", text);
        }
        None
    }
}

fn note(fault: &ExprFault, pointer: &str, faults: &mut Faults) {
    faults.wrong(pointer, fault.to_string());
}
