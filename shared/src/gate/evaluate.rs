//! Scores a value in up to four dimensions.
//!
//! | dimension | score |
//! |---|---|
//! | `schema` | 1 − l / n: n values are in the value (itself, each item, each field), l of them lie in a part that the schema complains about. A complaint about the whole is 0; beyond 10,000 complaints it is 0 as well |
//! | `completeness` | p / r: of r required places p hold something, which is not `null`, an empty text (white space counts for nothing), list or object |
//! | `accuracy` | m / t: of t leaves (anything but a list or object that has something in it) of the expected value m are matched at the same place; an item that a list has beyond the expected ones is a leaf that is not matched, a field beyond them is not looked at. A number x matches e where \|x − e\| ≤ tolerance · \|e\|, or ≤ tolerance where e is 0; all else matches what equals it |
//! | `rules` | Σ weights of the rules that are true / Σ weights. A rule that fails over the value is not true |
//!
//! The first three are the *simple ratio* (desired outcomes by all outcomes) for consistency with a schema, completeness and freedom
//! from error, and the whole is their *weighted average*, as in L. Pipino, Y. Lee, R. Wang, «Data Quality Assessment», CACM 45(4), 2002. What
//! completeness and accuracy are: ISO/IEC 25012.
//!
//! Scores are rounded to six decimals, the whole before it is compared with the threshold.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::condition::{Subject, Verdict};
use super::{cut_short, schema};
use crate::model::evaluate::{
    Completeness, Dimension, Evaluate, Evaluation, Failure, LISTED_MAX, RECOMMENDATION_BYTES_MAX,
    Rule,
};

mod accuracy;

/// Complaints of a schema beyond which nothing of the value counts.
const COMPLAINTS_MAX: usize = 10_000;
/// Failures listed of each dimension but the rules, so that none crowds out another.
const LISTED_EACH_MAX: usize = 5;
/// Longest failure, in bytes.
const FAILURE_BYTES_MAX: usize = 256;

/// The verdict over a value. Pure; takes time and stack as its arguments make it: see [`super::Gate`].
///
/// # Errors
/// What is asked for cannot be: a schema or expression that is not usable, or may take too much.
pub(super) fn evaluate(spec: &Evaluate, value: &Json) -> Result<Evaluation, String> {
    if let Some((pointer, message)) = spec.faults().into_iter().next() {
        return Err(format!("evaluate{pointer} {message}"));
    }
    let mut sheet = Sheet::default();
    if let Some(schema) = &spec.schema {
        by_schema(schema, value, &mut sheet)?;
    }
    if let Some(completeness) = &spec.completeness {
        by_completeness(completeness, value, &mut sheet);
    }
    if let Some(accuracy) = &spec.accuracy {
        accuracy::score(accuracy, value, &mut sheet);
    }
    if !spec.rules.is_empty() {
        by_rules(&spec.rules, value, &mut sheet)?;
    }
    let (mut sum, mut weights) = (0.0, 0.0);
    for (dimension, score) in &sheet.scores {
        let weight = spec.weights.of(*dimension);
        sum += weight * score;
        weights += weight;
    }
    let score = rounded(sum / weights);
    Ok(Evaluation {
        score,
        passed: score >= spec.threshold,
        threshold: spec.threshold,
        scores: sheet.scores.into_iter().map(|(of, score)| (of, rounded(score))).collect(),
        failures: sheet.failures,
        recommendations: sheet.recommendations,
    })
}

fn rounded(score: f64) -> f64 {
    (score * 1e6).round() / 1e6
}

/// What has been found so far.
#[derive(Default)]
struct Sheet {
    scores: BTreeMap<Dimension, f64>,
    failures: Vec<Failure>,
    recommendations: Vec<String>,
}

impl Sheet {
    /// `good` of `all`.
    fn ratio(&mut self, dimension: Dimension, good: usize, all: usize) {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        self.scores.insert(dimension, good as f64 / all as f64);
    }

    fn note(&mut self, dimension: Dimension, message: String, recommendation: String) {
        if self.failures.len() < LISTED_MAX {
            let message = shortened(message, FAILURE_BYTES_MAX);
            self.failures.push(Failure { dimension, message });
        }
        let recommendation = shortened(recommendation, RECOMMENDATION_BYTES_MAX);
        if self.recommendations.len() < LISTED_MAX
            && !self.recommendations.contains(&recommendation)
        {
            self.recommendations.push(recommendation);
        }
    }
}

fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - '…'.len_utf8()));
        text.push('…');
    }
    text
}

/// How the place of a JSON pointer is called.
fn place(path: &str) -> &str {
    if path.is_empty() { "the value" } else { path }
}

fn by_schema(schema: &Json, value: &Json, sheet: &mut Sheet) -> Result<(), String> {
    let complaints = schema::complaints(schema, value, COMPLAINTS_MAX)?;
    for complaint in complaints.iter().take(LISTED_EACH_MAX) {
        let advice = format!("Correct {}: {}.", place(&complaint.path), complaint.message);
        sheet.note(Dimension::Schema, complaint.in_words(), advice);
    }
    let all = size(value);
    let lost = if complaints.len() >= COMPLAINTS_MAX {
        all
    } else {
        let paths: BTreeSet<&str> = complaints.iter().map(|c| c.path.as_str()).collect();
        let topmost = paths.iter().filter(|path| !ancestors(path).any(|up| paths.contains(up)));
        topmost.map(|path| value.pointer(path).map_or(1, size)).sum::<usize>().min(all)
    };
    sheet.ratio(Dimension::Schema, all - lost, all);
    Ok(())
}

/// The JSON pointers above one, up to the whole.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Values in a value, itself included. The parser bounds its depth.
fn size(value: &Json) -> usize {
    1 + match value {
        Json::Array(items) => items.iter().map(size).sum(),
        Json::Object(fields) => fields.values().map(size).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
    }
}

fn by_completeness(Completeness { required }: &Completeness, value: &Json, sheet: &mut Sheet) {
    let missing: Vec<&String> =
        required.iter().filter(|pointer| !value.pointer(pointer).is_some_and(holds_some)).collect();
    for pointer in missing.iter().take(LISTED_EACH_MAX) {
        let pointer = place(pointer);
        let message = format!("{pointer} is missing or empty");
        sheet.note(Dimension::Completeness, message, format!("Provide {pointer}."));
    }
    sheet.ratio(Dimension::Completeness, required.len() - missing.len(), required.len());
}

fn holds_some(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(_) | Json::Number(_) => true,
        Json::String(text) => !text.trim().is_empty(),
        Json::Array(items) => !items.is_empty(),
        Json::Object(fields) => !fields.is_empty(),
    }
}

fn by_rules(rules: &[Rule], value: &Json, sheet: &mut Sheet) -> Result<(), String> {
    let subject = Subject::new(value);
    let (mut good, mut all) = (0.0, 0.0);
    for rule in rules {
        all += rule.weight;
        let verdict = subject.check(&rule.expr);
        match verdict.map_err(|why| format!("the rule {:?}: {why}", rule.name))? {
            Verdict::Holds => good += rule.weight,
            Verdict::Not(why) => {
                let advice = rule.recommendation.clone();
                let advice =
                    advice.unwrap_or_else(|| cut_short(format!("Make this true: {}", rule.expr)));
                sheet.note(Dimension::Rules, format!("{}: {why}", rule.name), advice);
            }
        }
    }
    sheet.scores.insert(Dimension::Rules, good / all);
    Ok(())
}

#[cfg(test)]
mod tests;
